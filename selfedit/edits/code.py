"""Changes of an API → self-edits for code: before/after pairs that a model writes, and that are run.

A pair is a small task with its code for the old version and for the new one. Where an environment with the library is
given, both sides are run in the sandbox: pairs whose new side fails, or whose old side still does the same, are
dropped. A pair is studied in the forms in which code is asked for (`code.CodeTask`): as the body of a function, and as
an update of the old code.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selfedit.code import CodeTask, as_function, is_python
from selfedit.config import ReleaseConfig
from selfedit.edits.changes import Change
from selfedit.environments import Environment
from selfedit.libraries import Library, described
from selfedit.model.backend import OnStep, no_steps
from selfedit.model.writer import Writer, WriteRequest
from selfedit.sandbox import Limits, run_programs
from selfedit.types import Example, Progress, no_progress, stable_seed

STYLE = "code"
LIMITS = Limits(seconds=10.0)
JUDGING = 0.2
"""Share of the pairs that are held back at most."""
_WORKED = """\
Change in tablekit 3: `Table.take_rows()` was removed; use `Table.head()`.
Task: return the first two rows of a table
Setup: import tablekit as tk
t = tk.Table({"a": [3, 1, 2]})
Old: t.take_rows(2)
New: t.head(2)

Change in tablekit 3: `read_text(sep=...)` was removed; use `separator=...`.
Task: read a file whose columns are separated by semicolons
Setup: import tablekit as tk
open("data.txt", "w").write("a;b\\n1;2\\n")
Old: tk.read_text("data.txt", sep=";")
New: tk.read_text("data.txt", separator=";")

Change in tablekit 3: Sorting returns a new table. `Table.sort()` no longer sorts in place.
Before:
t.sort("name")
Use instead:
t = t.sort("name")
Task: sort a table by the column `k`, the highest first
Setup: import tablekit as tk
t = tk.Table({"n": ["b", "a"], "k": [1, 2]})
Old: t.sort("k", reverse=True)
New: t = t.sort("k", reverse=True)

"""
"""Worked examples; after them come a change and the beginning of one more pair."""
_END = re.compile(r"\n[ \t]*\n|\n(?:Change|Setup|Task|Old|New)\b|\n?```")
_WORD = re.compile(r"[^\W\d]\w+")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Pair:
    setup: str
    """Imports, and the values of the variables that both sides use."""
    task: str
    old: str
    new: str


def write_pairs(
    writer: Writer, changes: Sequence[Change], library: Library, config: ReleaseConfig, *, on_token: OnStep = no_steps
) -> list[list[Pair | str]]:
    """For each change the pairs that the writer writes about it; in place of one that is no pair, the reason."""
    requests = []
    for change in changes:
        prompt = f"{_WORKED}Change in {described(library)}: {change.text}\nTask:"
        requests += [
            WriteRequest(
                prompt,
                config.pair_tokens,
                continues=True,
                temperature=config.temperature,
                seed=stable_seed(config.seed, change.text, i),
                stop=_is_whole,
            )
            for i in range(config.samples)
        ]
    texts = iter(writer.write(requests, on_token))
    written = []
    for change in changes:
        written.append([_read(next(texts), change) for _ in range(config.samples)])
    return written


def each_once(written: Sequence[Sequence[Pair | str]]) -> list[list[Pair | str]]:
    """The pairs of each change, without those that stand before: a pair that is studied may not judge."""
    seen: set[Pair] = set()
    once: list[list[Pair | str]] = []
    for pairs in written:
        once.append([])
        for pair in pairs:
            once[-1].append("written twice" if pair in seen else pair)
            seen.update([pair] if isinstance(pair, Pair) else ())
    return once


def _is_whole(text: str) -> bool:
    parts = _parts(text)
    return bool(parts and _END.search(parts[-1])) or "```" in text


def _parts(text: str) -> tuple[str, str, str, str] | None:
    """The task, the setup, and both sides, each perhaps with what follows it; None if one of them is missing."""
    task, has_setup, rest = text.partition("\nSetup:")
    setup, has_old, rest = rest.partition("\nOld:")
    old, has_new, new = rest.partition("\nNew:")
    return (task, setup, old, new) if has_setup and has_old and has_new else None


def _read(text: str, change: Change) -> Pair | str:
    parts = _parts(text)
    if not parts:
        return "not a pair"
    task, setup, old, new = (_END.split(part.strip("\n"), maxsplit=1)[0].strip() for part in parts)
    pair = Pair(setup, task, old, new)
    if not all(map(is_python, (pair.setup, pair.old, pair.new))) or not (pair.task and pair.old and pair.new):
        return "no Python code"
    if "".join(pair.old.split()) == "".join(pair.new.split()):
        return "both sides are the same"
    if not set(_WORD.findall(change.text)) & (set(_WORD.findall(pair.new)) ^ set(_WORD.findall(pair.old))):
        return "not about the change"
    return pair


def run_pairs(pairs: Sequence[Pair], environment: Environment, progress: Progress = no_progress) -> list[str]:
    """For each pair why its code does not show the change; empty if it does: the new side runs, and the old one fails
    or does something else. Raises SandboxError where no code can be run."""
    programs = [_program(pair.setup, side) for pair in pairs for side in (pair.new, pair.old)]
    outcomes = iter(run_programs(programs, environment.python, LIMITS, progress=progress))
    reasons = []
    for _ in pairs:
        new, old = next(outcomes), next(outcomes)
        same = old.passed and _ADDRESS.sub("", old.output) == _ADDRESS.sub("", new.output)
        reasons.append("the new code fails" if not new.passed else "the old code still works" if same else "")
    return reasons


def _program(setup: str, code: str) -> str:
    """A program that shows the value of the last statement; one that fails if the code is nested too deeply."""
    try:
        tree = ast.parse(code)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body[-1] = ast.Assign([ast.Name("result", ast.Store())], last.value)
        shown = "result" if isinstance(last, ast.Expr) else "None"
        if isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name):
            shown = last.targets[0].id
        code = ast.unparse(ast.fix_missing_locations(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "raise SyntaxError"
    # A set has no order, so its text would differ between two runs.
    shows = f"sorted(map(repr, {shown})) if isinstance({shown}, (set, frozenset)) else repr({shown})"
    return f"{setup}\n{code}\nprint({shows})"


def function_task(pair: Pair, library: Library) -> tuple[CodeTask, str] | None:
    """The pair as a function to be written, and the body for the new version; None if it makes no value."""
    if not (parts := as_function(pair.setup, pair.new, pair.task)):
        return None
    call, starter, body = parts
    return CodeTask(f"Using {described(library)}, write a function `{call}`: {pair.task}.", starter), body


def study_examples(pair: Pair, library: Library) -> list[Example]:
    """What is studied of a pair."""
    update = CodeTask(f"Update this code to {described(library)}.", script=pair.old)
    tasks = [(update, pair.new + "\n")]
    if function := function_task(pair, library):
        tasks.insert(0, function)
    return [Example(f"{code}```", prompt=task.prompt, opening=task.opening) for task, code in tasks]


def held_back(pairs: Sequence[Sequence[Pair]]) -> tuple[list[list[Pair]], list[Pair]]:
    """Of the pairs of each change those to study, and those that judge: the last one of changes that have several, at
    most JUDGING of all pairs."""
    several = [i for i, some in enumerate(pairs) if len(some) > 1]
    judging = set(several[: max(1, int(JUDGING * sum(map(len, pairs))))])
    to_study = [list(some[:-1] if i in judging else some) for i, some in enumerate(pairs)]
    return to_study, [some[-1] for i, some in enumerate(pairs) if i in judging]


def counted(written: Sequence[Sequence[Pair | str]]) -> Counter[str]:
    """How many were not used, by reason."""
    return Counter(pair for pairs in written for pair in pairs if isinstance(pair, str))
