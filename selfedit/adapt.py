"""A few-shot task, examples in, answers out: study the examples under several recipes, and count the votes of all.

The answer is not known, so it cannot tell which recipe is best: a fixed recipe and some that the model (or a trained
editor) wrote are studied together, and the answers of every adapter count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from selfedit.config import FewshotConfig
from selfedit.edits.recipe import Recipe, write_recipes
from selfedit.loop.fewshot import Answer, check, joined, shown, try_recipes
from selfedit.model.backend import Adapters
from selfedit.model.load import Model
from selfedit.tasks.arc import ArcTask
from selfedit.types import Progress, no_progress, stable_seed


@dataclass(frozen=True)
class Adapted:
    answers: list[Answer]
    """One per test pair, with the answers under all recipes."""
    recipes: list[Recipe]
    tokens: int
    """Tokens trained on, under all recipes together."""
    seconds: float
    """Time for everything: writing recipes, training and answering."""


def adapt(
    model: Model,
    task: ArcTask,
    recipes: Sequence[Recipe] = (Recipe(),),
    *,
    num_written: int = 0,
    editor: Adapters | None = None,
    seed: int = 0,
    config: FewshotConfig = FewshotConfig(),
    progress: Progress = no_progress,
) -> Adapted:
    """Studies and answers a task. `num_written`: the number of further recipes, which the model or the `editor` writes.

    Raises SelfeditError on a task that cannot be studied."""
    check(model, [task])
    start = time.perf_counter()
    seeds = [stable_seed(seed, "adapt", task.id, k) for k in range(len(recipes) + num_written)]
    prompts = [(shown(model, task), one) for one in seeds[len(recipes) :]]
    studied = [*recipes, *write_recipes(model, prompts, editor)]
    tried = try_recipes(model, [(task, *row) for row in zip(studied, seeds)], config, progress)
    answers = [joined([one.answers[j] for one in tried]) for j in range(len(task.test))]
    return Adapted(answers, studied, sum(one.tokens for one in tried), time.perf_counter() - start)
