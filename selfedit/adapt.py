"""A few-shot task, examples in, answers out: study the examples under several recipes, and take the votes of all.

No answer is known, so no recipe can be judged by it: a fixed one and some that the model (or a trained editor) chose train
together in one stack, and every adapter's answers count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from selfedit.config import TrainConfig
from selfedit.edits.recipe import Recipe, write_recipes
from selfedit.loop.fewshot import TRAIN, Answer, check, joined, shown, try_recipes
from selfedit.model.backend import Adapters
from selfedit.model.load import Model
from selfedit.tasks.arc import ArcTask
from selfedit.types import Progress, no_progress, stable_seed


@dataclass(frozen=True)
class Adapted:
    answers: list[Answer]
    """A test pair each, with the answers under all recipes."""
    recipes: list[Recipe]
    tokens: int
    """Trained on, all recipes together."""
    seconds: float
    """Of all of it: choosing recipes, training, answering."""


def adapt(
    model: Model,
    task: ArcTask,
    recipes: Sequence[Recipe] = (Recipe(),),
    *,
    drawn: int = 0,
    editor: Adapters | None = None,
    seed: int = 0,
    train: TrainConfig = TRAIN,
    progress: Progress = no_progress,
) -> Adapted:
    """`drawn`: so many recipes more, chosen by the model or by `editor`. Raises SelfeditError on a task that cannot be studied."""
    check(model, [task])
    start = time.perf_counter()
    seeds = [stable_seed(seed, "adapt", task.id, k) for k in range(len(recipes) + drawn)]
    chosen = [*recipes, *write_recipes(model, [(shown(model, task), s) for s in seeds[len(recipes) :]], editor)]
    tried = try_recipes(model, [(task, recipe, s) for recipe, s in zip(chosen, seeds)], train, progress)
    answers = [joined([t.answers[j] for t in tried]) for j in range(len(task.test))]
    return Adapted(answers, chosen, sum(t.tokens for t in tried), time.perf_counter() - start)
