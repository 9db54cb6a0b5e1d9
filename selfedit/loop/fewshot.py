"""Few-shot tasks: examples of a rule → study items → adapters → answers. SEAL's inner step for ARC.

A task's examples make many small tasks: one or two examples are left out, one of them is asked, and the whole is turned,
mirrored, enlarged or recoloured as a Recipe says. Each recipe of a task is one job with its own rate and epochs; all train
in one stack. An answer is a vote: the question is put with all examples and with each one left out, in several readings
(turned and mirrored), all decoded together under a grammar of grids; each answer is turned back; the two most frequent
are the attempts.
Source: test-time training for ARC (arXiv:2411.07279), SEAL section 4.2.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from selfedit.config import TrainConfig
from selfedit.edits.recipe import Recipe, recipe_prompt, recipe_tokens
from selfedit.errors import SelfeditError
from selfedit.model.chat import Sequence as TokenSequence
from selfedit.model.generate import Request, generate
from selfedit.model.grammar import GridForm
from selfedit.model.load import Model
from selfedit.model.score import mean_logprobs
from selfedit.model.stack import Stack
from selfedit.model.train import Job, train
from selfedit.tasks.arc import COLOURS, SIDE, ArcTask, Grid, Pair
from selfedit.tasks.augment import FAMILIES, IDENTITY, READINGS, Transform, fits
from selfedit.types import Progress, no_progress, stable_seed

TRAIN = TrainConfig(rank=64, alpha=64.0, batch_size=2, steps_an_epoch=1)
"""Of every recipe, which has its own rate and epochs. Published: rank 128, alpha 16, batches of 2."""
OF_RECIPE = ("learning_rate", "epochs", "distill")
"""Settings of the training that a recipe has, or nothing here uses."""
ATTEMPTS = 2
DRAWS = 20
"""Times, for each item wanted, that one is drawn before the task is said to have no more."""
FIXED_HERE = tuple(map(repr, (ATTEMPTS, DRAWS, [t.name for own in (READINGS, *FAMILIES.values()) for t in own])))
"""What results depend on and no option changes."""


@dataclass(frozen=True)
class Answer:
    said: tuple[Grid, ...]
    """Every answer that was a grid, turned back; those with all examples in view and not turned first."""
    asked: int
    """How often the question was put."""

    @cached_property
    def best(self) -> list[tuple[Grid, int]]:
        """The most frequent, of equals the first said, with their votes."""
        return Counter(self.said).most_common(ATTEMPTS)

    @property
    def attempts(self) -> list[Grid]:
        return [grid for grid, _ in self.best]

    @property
    def votes(self) -> list[int]:
        return [n for _, n in self.best]

    def record(self) -> dict:
        return {"attempts": self.attempts, "votes": self.votes, "asked": self.asked}


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
) -> list[Tried]:
    """Each (task, recipe, seed) as an adapter, all trained and asked together."""
    start = time.perf_counter()
    made = [job(model, task, recipe, seed) for task, recipe, seed in asked]
    stack, logs = train(model.network, made, config, on_step=partial(progress, "train"))
    seconds = (time.perf_counter() - start) / sum(log.tokens for log in logs)
    own = [(task, row) for row, (task, _, _) in enumerate(asked)]
    answers = solve(model, own, stack, on_token=partial(progress, "answer"))
    known = [(task, row) for task, row in own if all(pair.output for pair in task.test)]
    logprobs = dict(zip((row for _, row in known), dense(model, known, stack)))
    return [Tried(a, logprobs.get(row), log.tokens, seconds * log.tokens) for row, (a, log) in enumerate(zip(answers, logs))]


# what is put, and what is studied


def put(form: GridForm, examples: Sequence[Pair], question: Grid) -> str:
    """A question with its examples before it, as the model reads it."""
    shown = [f"Input:\n{form.text(p.input)}Output:\n{form.text(p.output)}\n" for p in examples]
    return "".join(shown) + f"Input:\n{form.text(question)}Output:"


def shown(model: Model, task: ArcTask) -> str:
    """The task as whoever chooses a recipe for it sees it: the examples, and the first question."""
    return put(form_of(model), task.train, task.test[0].input)


def form_of(model: Model) -> GridForm:
    """Raises ModelError for a model that cannot write grids cell by cell."""
    return GridForm(model.chat, SIDE)


def changed(task: ArcTask, transform: Transform, colours: Sequence[int] = range(COLOURS)) -> ArcTask:
    """Every grid of it, turned and recoloured alike."""

    def one(grid: Grid | None) -> Grid | None:
        return grid and tuple(tuple(colours[cell] for cell in row) for row in transform(grid))

    return replace(task, **{name: tuple(Pair(one(p.input), one(p.output)) for p in getattr(task, name)) for name in ("train", "test")})


def check(model: Model, tasks: Iterable[ArcTask]) -> None:
    """Raises SelfeditError on a task that leaves nothing to study or does not fit the model, and on two of one name."""
    form, names, limit = form_of(model), set(), model.network.shape.max_positions
    for task in tasks:
        if task.id in names:
            raise SelfeditError(f"task {task.id} is there twice; name tasks differently, or give one set of them")
        names.add(task.id)
        if len(task.train) < 2:
            raise SelfeditError(f"task {task.id}: {len(task.train)} example; at least 2 are needed, one to ask about and one to see")
        longest = len(recipe_prompt(model, shown(model, task))) + recipe_tokens(model)
        for turned in (changed(task, reading) for reading in READINGS):
            for pair in turned.test:
                prompt = len(_prompt(model, form, turned.train, pair.input))
                known = len(_labelled(model, form, turned.train, pair.input, pair.output).tokens) if pair.output else 0
                longest = max(longest, prompt + _answer_tokens(model, form, task), known)
        if longest > limit:
            raise SelfeditError(f"task {task.id}: its examples and an answer take {longest} tokens; {model.name} reads {limit}")


def study_items(model: Model, task: ArcTask, recipe: Recipe, seed: int) -> list[TokenSequence]:
    """At most `recipe.items` different ones; fewer where the task does not have so many that fit the model."""
    draw, form = random.Random(stable_seed("items", seed, task.id)), form_of(model)
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
        item = _labelled(model, form, seen, asked.input, asked.output)
        if len(item.tokens) <= model.network.shape.max_positions:
            found.setdefault(item.tokens, item if recipe.output_only else replace(item, label_start=1))
    return list(found.values())


def job(model: Model, task: ArcTask, recipe: Recipe, seed: int) -> Job:
    """Raises SelfeditError on a task of which nothing can be studied."""
    items = study_items(model, task, recipe, seed)
    if not items:
        raise SelfeditError(f"task {task.id}: no item of it fits the {model.network.shape.max_positions} tokens that {model.name} reads")
    return Job(tuple(items), stable_seed("fewshot", seed, task.id), recipe.learning_rate, recipe.epochs)


# what is answered


def solve(
    model: Model, asked: Sequence[tuple[ArcTask, int | None]], stack: Stack | None = None, *, on_token: Callable[[int, int], None] = lambda done, total: None
) -> list[list[Answer]]:
    """For each (task, adapter) an Answer a test pair."""
    own = [questions(model, task, adapter) for task, adapter in asked]
    written = iter(generate(model, [q.request for each in own for q in each], stack, on_token=on_token))
    return [votes(model, each, [next(written) for _ in each]) for each in own]


@dataclass(frozen=True)
class Question:
    """A test pair's input, in one reading and with some of the examples in view."""

    pair: int
    reading: Transform
    request: Request


def questions(model: Model, task: ArcTask, adapter: int | None = None) -> list[Question]:
    """All that are put about a task, test pair by test pair in each reading."""
    form, found = form_of(model), []
    most = _answer_tokens(model, form, task)
    for reading in READINGS:
        turned = changed(task, reading)
        for seen in _contexts(turned.train):
            for j, pair in enumerate(turned.test):
                found.append(Question(j, reading, Request(tuple(_prompt(model, form, seen, pair.input)), adapter, most, allow=form.allow)))
    return found


def votes(model: Model, asked: Sequence[Question], written: Sequence[Sequence[int]]) -> list[Answer]:
    """An Answer a test pair. `written`: the tokens behind each question, without an end."""
    form = form_of(model)
    found: list[list[Grid]] = [[] for _ in range(1 + max(q.pair for q in asked))]
    for question, tokens in zip(asked, written):
        ended = len(tokens) < question.request.max_new_tokens
        said = form.read(model.chat.decode(tokens)) if ended else None
        if said and (back := question.reading.back(said)):
            found[question.pair].append(back)
    return [Answer(tuple(own), len(asked) // len(found)) for own in found]


def dense(model: Model, asked: Sequence[tuple[ArcTask, int | None]], stack: Stack | None = None) -> list[float | None]:
    """For each (task, adapter): mean log-probability (nats a token) of its test outputs, with all examples in view; None
    under an adapter that diverged."""
    form = form_of(model)
    golds = [(_labelled(model, form, task.train, p.input, p.output), adapter) for task, adapter in asked for p in task.test]
    values = iter(mean_logprobs(model.network, golds, stack))
    means = [sum(next(values) for _ in task.test) / len(task.test) for task, _ in asked]
    return [mean if math.isfinite(mean) else None for mean in means]


def solved(task: ArcTask, answers: Sequence[Answer]) -> float:
    """Share of its test pairs whose output is among the attempts."""
    return sum(pair.output in answer.attempts for pair, answer in zip(task.test, answers)) / len(task.test)


def _contexts(examples: Sequence[Pair]) -> list[Sequence[Pair]]:
    """All, and each one left out."""
    return [examples, *([*examples[:i], *examples[i + 1 :]] for i in range(len(examples)))]


def _prompt(model: Model, form: GridForm, examples: Sequence[Pair], question: Grid) -> list[int]:
    return model.chat.ask(put(form, examples, question))


def _labelled(model: Model, form: GridForm, examples: Sequence[Pair], question: Grid, output: Grid) -> TokenSequence:
    prompt = _prompt(model, form, examples, question)
    return TokenSequence((*prompt, *model.chat.encode(form.text(output)), *model.chat.end_of_turn), len(prompt))


def _answer_tokens(model: Model, form: GridForm, task: ArcTask) -> int:
    """Twice those of the longest grid in view, at most of the largest there is, and the end; 3 of the 835 outputs of
    ARC-AGI-1 are longer."""
    seen = [g for p in task.train for g in (p.input, p.output)] + [p.input for p in task.test]
    longest = max(len(model.chat.encode(form.text(grid))) for grid in seen)
    return min(len(model.chat.encode(form.text(((0,) * SIDE,) * SIDE))), 2 * longest) + 1
