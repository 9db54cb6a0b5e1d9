"""Few-shot tasks: the editor chooses how a task is studied (a Recipe), and the reward is whether it is then solved.

The editor is finetuned on the recipes that solved their task (SEAL, section 4.2). A small model solves few tasks, so
the number is made up (`min_kept`) with the recipe of each unsolved task that raised the log-probability of its outputs
most: this reward can rank recipes where none solves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from selfedit.config import RecipeConfig
from selfedit.edits.recipe import Recipe, write_recipes, writing_sequence
from selfedit.errors import AdapterError, SelfeditError
from selfedit.loop.editor import Editor, load_editor
from selfedit.loop.fewshot import check, check_known, gold_logprob, score_recipes, shown, solved, study_recipes, wording
from selfedit.loop.outer import Block, Lesson, Round
from selfedit.model.backend import Adapters
from selfedit.model.load import Model
from selfedit.tasks.arc import ArcTask
from selfedit.types import stable_seed

STYLE = "recipe"
"""The style of editors that write recipes."""


@dataclass(frozen=True)
class RecipeTrial:
    """One task: what each recipe achieves."""

    task: str
    """ArcTask.key."""
    id: str
    untouched: float
    """Log-probability of the outputs under the untouched model, in nats per token."""
    recipes: Sequence[dict]
    solved: Sequence[float]
    """Share of the task's outputs that each recipe finds."""
    gold_logprob: Sequence[float | None]
    """Like `untouched`; None where training diverged."""
    tokens: Sequence[int]
    """Tokens trained on."""
    seconds: float = 0.0
    seconds_writing: float = 0.0

    @property
    def gains(self) -> list[float | None]:
        """Of each recipe, in nats per token above the untouched model."""
        return [None if value is None else value - self.untouched for value in self.gold_logprob]


class FewShot:
    """The domain of few-shot tasks (loop/outer.py)."""

    style = STYLE

    def __init__(self, model: Model, tasks: Sequence[ArcTask], config: RecipeConfig):
        """Raises SelfeditError on tasks that cannot be studied, or whose outputs are not known."""
        if not tasks:
            raise SelfeditError("give at least 1 task")
        check(model, tasks)
        check_known(tasks)
        self.model, self.tasks, self.config = model, tasks, config
        self.settings = {"prompts": wording()}

    @staticmethod
    def candidate_from_json(record: dict) -> Recipe:
        return Recipe(**record)

    @staticmethod
    def trial_from_json(record: dict) -> RecipeTrial:
        return RecipeTrial(**record)

    def seeds(self, current: Round, task: ArcTask) -> list[int]:
        return [stable_seed(self.config.seed, "recipe", current.number, task.id, k) for k in range(self.config.edits)]

    def propose(self, current: Round, tasks: Sequence[ArcTask]) -> list[list[Recipe]]:
        prompts = [(shown(self.model, task), seed) for task in tasks for seed in self.seeds(current, task)]
        recipes = write_recipes(self.model, prompts, current.adapters, temperature=self.config.temperature)
        return [recipes[low : low + self.config.edits] for low in range(0, len(recipes), self.config.edits)]

    def study(self, current: Round, block: Block) -> tuple[Adapters, list[int]]:
        rows = [
            (task, recipe, seed)
            for task, recipes in zip(block.tasks, block.candidates)
            for recipe, seed in zip(recipes, self.seeds(current, task))
        ]
        return study_recipes(self.model, rows, self.config.trial, current.progress)

    def reward(self, current: Round, block: Block, studied: tuple[Adapters, list[int]]) -> list[RecipeTrial]:
        adapters, tokens = studied
        rows = [task for task, recipes in zip(block.tasks, block.candidates) for _ in recipes]
        outcomes = iter(score_recipes(self.model, rows, adapters, tokens, self.config.trial, current.progress))
        trials = []
        for task, recipes in zip(block.tasks, block.candidates):
            (untouched,) = gold_logprob(self.model, [(task, None)])
            tried = [next(outcomes) for _ in recipes]
            trials.append(
                RecipeTrial(
                    task=task.key,
                    id=task.id,
                    untouched=untouched,
                    recipes=[asdict(recipe) for recipe in recipes],
                    solved=[solved(task, one.answers) for one in tried],
                    gold_logprob=[one.gold_logprob for one in tried],
                    tokens=[one.tokens for one in tried],
                )
            )
        return trials

    def editor_examples(
        self, current: Round, trials: Sequence[RecipeTrial], candidates: Sequence[Sequence[Recipe]]
    ) -> Lesson:
        kept = reinforced(trials, self.config.min_kept)
        prompts = [(shown(self.model, current.tasks[i]), candidates[i][k]) for i, k in kept]
        gains = [gain for t in trials for gain in t.gains if gain is not None]
        return Lesson(
            examples=[writing_sequence(self.model, text, recipe) for text, recipe in prompts],
            edits=len(kept),
            contexts=tuple(task.key for task in current.tasks),
            report={
                "tasks": len(trials),
                "recipes": sum(len(t.recipes) for t in trials),
                "solved": sum(share == 1 for t in trials for share in t.solved),
                "tasks_solved": sum(max(t.solved) == 1 for t in trials),
                "kept": len(kept),
                "gain": sum(gains) / len(gains) if gains else None,
            },
            style=STYLE,
            why_not="no recipe solved its task or gained anything",
        )


def reinforced(trials: Sequence[RecipeTrial], least: int) -> list[tuple[int, int]]:
    """(task, recipe) positions of every recipe that solved its task, unless all recipes of the task did, which tells
    nothing. If those are fewer than `least`: also, for each task that none solved, the recipe that gained most in
    log-probability, the greatest gains first."""
    solving = [
        (i, k) for i, t in enumerate(trials) if min(t.solved) < 1 for k, share in enumerate(t.solved) if share == 1
    ]
    best = [
        max((gain, i, k) for k, gain in enumerate(t.gains) if gain is not None)
        for i, t in enumerate(trials)
        if max(t.solved) < 1 and any(t.gains)
    ]
    gained = [(i, k) for gain, i, k in sorted(best, reverse=True) if gain > 0]
    return solving + gained[: max(0, least - len(solving))]


def load_recipe_editor(folder: Path, model: Model) -> tuple[Editor, Adapters | None]:
    """Like `load_editor`. Raises AdapterError for an editor that writes about documents."""
    editor, adapters = load_editor(folder, model)
    if editor.style != STYLE:
        raise AdapterError(
            f"{folder}: an editor that writes about documents; `selfedit train-editor --domain arc` makes one for tasks"
        )
    return editor, adapters
