"""Few-shot tasks: examples of a rule → study items → adapters → answers. SEAL's inner step for ARC.

A task's examples make many small tasks: one or two examples are left out, one of them is asked, and the whole is turned,
mirrored, enlarged or recoloured as a Recipe says. Each recipe of a task is one job with its own rate and epochs; all train
in one stack. An answer is a vote: the question is put with all examples and with each one left out, in several readings
(turned and mirrored), all decoded together under a grammar of grids; each answer is turned back; the two most frequent
are the attempts.
Source: test-time training for ARC (arXiv:2411.07279), SEAL section 4.2.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from selfedit.config import TrainConfig
from selfedit.edits.recipe import Recipe
from selfedit.errors import SelfeditError
from selfedit.model.chat import Sequence as TokenSequence
from selfedit.model.generate import Request, generate
from selfedit.model.grammar import grids
from selfedit.model.load import Model
from selfedit.model.score import mean_logprobs
from selfedit.model.stack import Stack
from selfedit.model.train import Job, train
from selfedit.tasks.arc import COLOURS, SIDE, ArcTask, Grid, Pair
from selfedit.tasks.augment import FAMILIES, IDENTITY, READINGS, Transform, fits
from selfedit.types import Progress, no_progress, stable_seed

TRAIN = TrainConfig(rank=64, alpha=64.0, learning_rate=1e-3, epochs=2, batch_size=2, steps_an_epoch=1)
"""Of every candidate but its rate and epochs. Published: rank 128, alpha 16, batches of 2."""
ATTEMPTS = 2
DRAWS = 20
"""Times, for each item wanted, that one is drawn before the task is said to have no more."""


@dataclass(frozen=True)
class Answer:
    attempts: tuple[Grid, ...]
    """The most frequent answers, at most two, the first the better."""
    votes: tuple[int, ...]
    asked: int
    """How often the question was put."""


def text_of(grid: Grid) -> str:
    """A line a row, a digit a cell."""
    return "".join("".join(map(str, row)) + "\n" for row in grid)


def read_grid(text: str) -> Grid | None:
    """None for what is no grid."""
    rows = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    made = tuple(tuple(int(cell) for cell in row) if row.isascii() and row.isdigit() else () for row in rows)
    return made if made[0] and len({len(row) for row in made}) == 1 and fits(made) else None


def put(examples: Sequence[Pair], question: Grid) -> str:
    """A question with its examples before it, as the model reads it."""
    shown = [f"Input:\n{text_of(p.input)}Output:\n{text_of(p.output)}\n" for p in examples]
    return "".join(shown) + f"Input:\n{text_of(question)}Output:"


def changed(task: ArcTask, transform: Transform, colours: Sequence[int] = range(COLOURS)) -> ArcTask:
    """Every grid of it, turned and recoloured alike."""

    def one(grid: Grid | None) -> Grid | None:
        return grid and tuple(tuple(colours[cell] for cell in row) for row in transform(grid))

    return replace(task, **{name: tuple(Pair(one(p.input), one(p.output)) for p in getattr(task, name)) for name in ("train", "test")})


def check(model: Model, task: ArcTask) -> None:
    """Raises SelfeditError on a task that leaves nothing to study, or does not fit the model."""
    if len(task.train) < 2:
        raise SelfeditError(f"task {task.id}: {len(task.train)} example; at least 2 are needed, one to ask about and one to see")
    longest = max(len(_prompt(model, task.train, pair.input)) for pair in task.test) + _answer_tokens(task)
    if longest > model.network.shape.max_positions:
        raise SelfeditError(f"task {task.id}: its examples and an answer take {longest} tokens; {model.name} reads {model.network.shape.max_positions}")


def study_items(model: Model, task: ArcTask, recipe: Recipe, seed: int) -> list[TokenSequence]:
    """At most `recipe.items` different ones; fewer where the task does not have so many that fit the model."""
    draw = random.Random(stable_seed("items", seed, task.id))
    families = [(IDENTITY,), *(FAMILIES[name] for name in FAMILIES if getattr(recipe, name))]
    found: dict[tuple[int, ...], TokenSequence] = {}
    for _ in range(DRAWS * recipe.items):
        if len(found) == recipe.items:
            break
        transform, colours = draw.choice(draw.choice(families)), [0, *draw.sample(range(1, COLOURS), COLOURS - 1)]
        turned = changed(task, transform, colours if draw.random() < 0.5 else range(COLOURS)).train
        asked, *seen = draw.sample(turned, len(turned))
        seen = seen[: len(seen) - 1] if len(seen) > 1 and draw.random() < 0.5 else seen  # leaves two out
        if not all(fits(grid) for pair in turned for grid in (pair.input, pair.output)):
            continue
        item = _labelled(model, seen, asked.input, asked.output)
        if len(item.tokens) <= model.network.shape.max_positions:
            found.setdefault(item.tokens, replace(item, label_start=item.label_start if recipe.output_only else 1))
    return list(found.values())


@dataclass(frozen=True)
class Tried:
    """What a recipe did."""

    answers: list[Answer]
    """A test pair each."""
    dense: float | None
    """As `dense`; None where an output is not known."""
    tokens: int
    """Trained on."""
    seconds: float
    """Of training, its share of the stack's by tokens."""


def try_recipes(
    model: Model, asked: Sequence[tuple[ArcTask, Recipe, int]], config: TrainConfig = TRAIN, progress: Progress = no_progress
) -> tuple[list[Tried], Stack]:
    """Each (task, recipe, seed) as an adapter, all trained and asked together; and the adapters."""
    start = time.perf_counter()
    made = [job(model, task, recipe, seed) for task, recipe, seed in asked]
    stack, logs = train(model.network, made, config, on_step=partial(progress, "train"))
    seconds = (time.perf_counter() - start) / sum(log.tokens for log in logs)
    own = [(task, row) for row, (task, _, _) in enumerate(asked)]
    answers = solve(model, own, stack, on_token=partial(progress, "answer"))
    known = [(task, row) for task, row in own if all(pair.output for pair in task.test)]
    logprobs = dict(zip((row for _, row in known), dense(model, known, stack)))
    return [Tried(a, logprobs.get(row), log.tokens, seconds * log.tokens) for row, (a, log) in enumerate(zip(answers, logs))], stack


def job(model: Model, task: ArcTask, recipe: Recipe, seed: int) -> Job:
    """Raises SelfeditError on a task of which nothing can be studied."""
    items = study_items(model, task, recipe, seed)
    if not items:
        raise SelfeditError(f"task {task.id}: no item of it fits the {model.network.shape.max_positions} tokens that {model.name} reads")
    return Job(tuple(items), stable_seed("fewshot", seed, task.id), recipe.learning_rate, recipe.epochs)


def solve(
    model: Model, asked: Sequence[tuple[ArcTask, int | None]], stack: Stack | None = None, *, on_token: Callable[[int, int], None] = lambda done, total: None
) -> list[list[Answer]]:
    """For each (task, adapter) an Answer a test pair."""
    requests, of = [], []
    allow = grids(model.chat, COLOURS, SIDE)
    for i, (task, adapter) in enumerate(asked):
        for reading in READINGS:
            turned = changed(task, reading)
            for seen in _contexts(turned.train):
                for j, pair in enumerate(turned.test):
                    requests.append(Request(tuple(_prompt(model, seen, pair.input)), adapter, _answer_tokens(task), allow=allow))
                    of.append((i, j, reading))
    found: dict[tuple[int, int], list[Grid]] = {}
    for (i, j, reading), tokens in zip(of, generate(model, requests, stack, on_token=on_token)):
        said = read_grid(model.chat.decode(tokens))
        own = found.setdefault((i, j), [])
        if said and (back := reading.back(said)):
            own.append(back)
    return [[_answer(found[i, j], len(READINGS) * len(_contexts(task.train))) for j in range(len(task.test))] for i, (task, _) in enumerate(asked)]


def dense(model: Model, asked: Sequence[tuple[ArcTask, int | None]], stack: Stack | None = None) -> list[float]:
    """For each (task, adapter): mean log-probability (nats a token) of its test outputs, with all examples in view."""
    golds = [(_labelled(model, task.train, p.input, p.output), adapter) for task, adapter in asked for p in task.test]
    values = iter(mean_logprobs(model.network, golds, stack))
    return [sum(next(values) for _ in task.test) / len(task.test) for task, _ in asked]


def solved(task: ArcTask, answers: Sequence[Answer]) -> float:
    """Share of its test pairs whose output is among the attempts."""
    return sum(pair.output in answer.attempts for pair, answer in zip(task.test, answers)) / len(task.test)


def _answer(said: Sequence[Grid], asked: int) -> Answer:
    best = Counter(said).most_common(ATTEMPTS)  # of equals the one said first: all examples in view, not turned
    return Answer(tuple(grid for grid, _ in best), tuple(n for _, n in best), asked)


def _contexts(examples: Sequence[Pair]) -> list[Sequence[Pair]]:
    """All, and each one left out."""
    return [examples, *([*examples[:i], *examples[i + 1 :]] for i in range(len(examples)))]


def _prompt(model: Model, examples: Sequence[Pair], question: Grid) -> list[int]:
    return model.chat.ask(put(examples, question))


def _labelled(model: Model, examples: Sequence[Pair], question: Grid, output: Grid) -> TokenSequence:
    prompt = _prompt(model, examples, question)
    return TokenSequence((*prompt, *model.chat.encode(text_of(output)), *model.chat.end_of_turn), len(prompt))


def _answer_tokens(task: ArcTask) -> int:
    """Twice the longest grid in view, at most the longest there is; 3 of the 835 outputs of ARC-AGI-1 are longer."""
    longest = max(len(g) * (len(g[0]) + 1) for p in (*task.train, *task.test) for g in (p.input, *([p.output] if p in task.train else [])))
    return min(SIDE * (SIDE + 1), 2 * longest) + 1


def shown(task: ArcTask) -> str:
    """The task as its recipe's writer sees it: the examples, and what will be asked."""
    return put(task.train, task.test[0].input)
