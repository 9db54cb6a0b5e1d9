"""What results depend on is in the settings that a run folder is bound to: no constant is forgotten."""

import ast
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from selfedit.config import FilterConfig, RestemConfig, StudyConfig
from selfedit.errors import RunError
from selfedit.loop.journal import lock_run_folder

PACKAGE = Path(__file__).parents[1] / "selfedit"
FOLDERS = ("loop", "edits", "judge")
OUTSIDE_OF_CONFIGS = {
    "loop/fewshot.py ATTEMPTS": "a rule of ARC",
    "edits/changes.py MAX_WORDS": "length of a change in the prompt, part of the rule that finds changes",
    "edits/changes.py MAX_BLOCKS": "part of the rule that finds changes",
    "edits/changes.py MAX_CODE": "part of the rule that finds changes",
    "edits/code.py JUDGING": "part of the rule that divides pairs; fewer are kept than would allow a choice",
    "edits/recipe.py RATES": "in the grammar of recipes, whose hash is a setting (fewshot.wording)",
    "edits/recipe.py EPOCHS": "in the grammar of recipes",
    "edits/recipe.py ITEMS": "in the grammar of recipes",
    "edits/recipe.py MAX_RATE": "bounds that are checked: no result depends on them",
    "edits/recipe.py MAX_EPOCHS": "bounds that are checked",
    "edits/recipe.py MAX_ITEMS": "bounds that are checked",
    "edits/spans.py CUE_WORDS": "part of the rule that makes questions",
    "edits/spans.py MIN_WORDS": "part of the rule that makes questions, like the numbers in its code",
    "judge/calibrate.py RESAMPLES": "precision of an interval, computed anew in each call",
    "judge/calibrate.py _LINES_AT_ONCE": "size of a block of work",
    "judge/general.py LITTLE_CHANGE": "where a measurement is left out, not a bound",
    "edits/recitation.py SPARE_TOKENS": "length of a text that is as long as another one",
    "judge/evaluate.py ANSWER_TOKENS": "length of an answer in learn and in retests; studies have it in their configs",
    "judge/remote.py REPLY_TOKENS": "length of a reply of which only yes or no is read",
    "edits/remote.py SPARE_TOKENS": "for what is removed from a reply",
    "edits/remote.py MAX_CHARACTERS": "longer than any requested text",
}
"""Why these numbers are in no config."""
HASHED_FILES = {"judge/grading.py", "judge/features.py", "judge/grounding.py"}
"""Their hash is part of the name of the offline judge or of the rule of answers, and those are settings
(evaluate.offline_name, choose.rule_name)."""


def is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return is_number(node.operand)
    if isinstance(node, ast.Tuple | ast.List):
        return bool(node.elts) and all(map(is_number, node.elts))
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def numeric_constants(source: str) -> list[str]:
    """The names that the module binds to a number or to a sequence of numbers."""
    names = []
    for node in ast.parse(source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if targets and node.value is not None and is_number(node.value):
            names += [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return names


def test_numeric_constants_are_found():
    source = "A = 3\nB: float = -0.5\nC, D = 1, 2\nE = (1, 2)\nF = 'text'\nG = [1, 'a']\nH = x(3)\ndef f(): I = 3"
    assert numeric_constants(source) == ["A", "B", "C", "D", "E"]


def test_numbers_that_results_depend_on_are_in_a_config_or_explained():
    files = {str(file.relative_to(PACKAGE)): file for folder in FOLDERS for file in (PACKAGE / folder).rglob("*.py")}
    constants = {
        f"{name} {constant}"
        for name, file in files.items()
        if name not in HASHED_FILES
        for constant in numeric_constants(file.read_text())
    }
    assert constants - OUTSIDE_OF_CONFIGS.keys() == set(), (
        "put it in a config (config.py), so that runs are bound to it"
    )
    assert OUTSIDE_OF_CONFIGS.keys() - constants == set(), "not there any more"
    assert HASHED_FILES <= files.keys()


@pytest.mark.parametrize(
    "config, other",
    [
        (RestemConfig(), RestemConfig(answer_tokens=39)),
        (RestemConfig(), RestemConfig(guarded=15)),
        (RestemConfig(), RestemConfig(filter=replace(FilterConfig(), min_words=4))),
        (StudyConfig(), StudyConfig(retrieved=2)),
    ],
)
def test_a_run_with_another_number_is_refused(config, other, tmp_path):
    lock_run_folder(tmp_path, {"config": asdict(config)}).release()
    lock_run_folder(tmp_path, {"config": asdict(config)}).release()
    with pytest.raises(RunError, match="another config"):
        lock_run_folder(tmp_path, {"config": asdict(other)})
