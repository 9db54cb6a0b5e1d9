"""Few-shot tasks: examples of a rule → study items → adapters → answers. SEAL's inner step for ARC.

A task's examples make many small tasks: one or two examples are left out, one of them is asked, and the whole is turned,
mirrored, enlarged or recoloured as a Recipe says. Each recipe of a task is one job with its own rate and epochs; all train
in one stack. The question is put with all examples and with each one left out, in several readings (turned and mirrored),
all decoded together under a grammar: a grid in the colours of the question and of the known outputs, as large as they
tell. Each answer is turned back; of the most frequent the two that are likeliest in all readings are the attempts.
Source: test-time training for ARC (arXiv:2411.07279), SEAL section 4.2; answers rated in all readings: arXiv:2505.07859.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from selfedit.config import TrainConfig
from selfedit.edits.recipe import Recipe, recipe_prompt, recipe_tokens
from selfedit.errors import SelfeditError
from selfedit.model.backend import Adapters, Job, Request
from selfedit.model.chat import TokenizedExample
from selfedit.model.grammar import GridForm
from selfedit.model.load import Model
from selfedit.tasks.arc import COLOURS, SIDE, ArcTask, Grid, Pair, output_size
from selfedit.tasks.augment import FAMILIES, IDENTITY, READINGS, Transform, fits
from selfedit.types import Progress, no_progress, stable_seed

TRAIN = TrainConfig(rank=16, alpha=64.0, first_layer=0.5, batch_size=1, steps_per_epoch=1)
"""Of every recipe, which has its own rate and epochs. Published: rank 128, alpha 16, all layers, batches of 2. Twice the
steps, each of which changes the weights more, solve more with the same tokens; the upper half of the layers learns as much
in two thirds of the time (docs/LOG.md, study 16)."""
OF_RECIPE = ("learning_rate", "epochs", "distill")
"""Settings of the training that a recipe has, or nothing here uses."""
ATTEMPTS = 2
RATED = 8
"""Answers, the most frequent, that are rated by how likely they are."""
INPUT, OUTPUT = "Input:\n", "Output:\n"
DRAWS = 20
"""Times, for each item wanted, that one is drawn before the task is said to have no more."""
FIXED_HERE = tuple(
    map(
        repr,
        (
            ATTEMPTS,
            DRAWS,
            RATED,
            INPUT,
            OUTPUT,
            [t.name for own in (READINGS, *FAMILIES.values()) for t in own],
            "bf16",
        ),
    )
)
"""What results depend on and no option changes; the last: where training is in bf16, so are answers (`Network.in_bf16`)."""


@dataclass(frozen=True)
class Answer:
    said: tuple[Grid, ...]
    """Every answer that was a grid, turned back; those with all examples in view and not turned first."""
    asked: int
    """How often the question was put."""
    odds: tuple[tuple[Grid, float], ...] = ()
    """Of the most frequent ones, how likely each is in all readings, as shares of 1."""

    @cached_property
    def best(self) -> list[tuple[Grid, int]]:
        """The likeliest, of equals the most frequent, of these the first said; with their votes."""
        odds = dict(self.odds)
        return sorted(Counter(self.said).items(), key=lambda one: (-odds.get(one[0], 0.0), -one[1]))[:ATTEMPTS]

    @property
    def attempts(self) -> list[Grid]:
        return [grid for grid, _ in self.best]

    @property
    def votes(self) -> list[int]:
        return [n for _, n in self.best]

    def record(self) -> dict:
        odds = dict(self.odds)
        return {
            "attempts": self.attempts,
            "votes": self.votes,
            "odds": [round(odds.get(grid, 0.0), 4) for grid in self.attempts],
            "asked": self.asked,
        }


def joined(answers: Sequence[Answer]) -> Answer:
    """Of several adapters as one: every vote counts, and each adapter's odds alike."""
    odds: Counter = Counter()
    for answer in answers:
        odds.update({grid: share / len(answers) for grid, share in answer.odds})
    return Answer(tuple(grid for a in answers for grid in a.said), sum(a.asked for a in answers), tuple(odds.items()))


@dataclass(frozen=True)
class Tried:
    """What a recipe did."""

    answers: list[Answer]
    """A test pair each."""
    gold_logprob: float | None
    """As `dense`; None where an output is not known."""
    tokens: int
    """Trained on."""


def try_recipes(
    model: Model,
    asked: Sequence[tuple[ArcTask, Recipe, int]],
    config: TrainConfig = TRAIN,
    progress: Progress = no_progress,
) -> list[Tried]:
    """Each (task, recipe, seed) as an adapter, all trained and asked together."""
    made = [job(model, task, recipe, seed) for task, recipe, seed in asked]
    stack, logs = model.backend.low_precision.train(
        made, config, vocabulary=alphabet(form_of(model)), on_step=partial(progress, "train")
    )
    own = [(task, row) for row, (task, _, _) in enumerate(asked)]
    answers = solve(model, own, stack, on_token=partial(progress, "answer"))
    known = [(task, row) for task, row in own if all(pair.output for pair in task.test)]
    logprobs = dict(zip((row for _, row in known), gold_logprob(model, known, stack)))
    return [Tried(a, logprobs.get(row), log.tokens) for row, (a, log) in enumerate(zip(answers, logs))]


# what is put, and what is studied


def laid(form: GridForm, pairs: Sequence[Pair]) -> tuple[list[int], list[range]]:
    """Pairs as the model reads them, a blank line behind each; and where their outputs lie. A last pair without an output is
    asked. Laid grid by grid: a cell, or the end of a row, is the same token wherever it stands."""
    chat = form.chat
    tokens, outputs = chat.continued(""), []
    for pair in pairs:
        tokens += [*chat.encode(INPUT), *form.tokens(pair.input), *chat.encode(OUTPUT)]
        if pair.output:
            start = len(tokens)
            tokens += [*form.tokens(pair.output), *form.line]
            outputs.append(range(start, len(tokens)))
    return tokens, outputs


def shown(model: Model, task: ArcTask) -> str:
    """The task as whoever chooses a recipe for it sees it: the examples, and the first question."""
    form = form_of(model)
    pairs = [f"{INPUT}{form.text(p.input)}{OUTPUT}{form.text(p.output)}\n" for p in task.train]
    return "".join(pairs) + f"{INPUT}{form.text(task.test[0].input)}{OUTPUT}".rstrip()


def form_of(model: Model) -> GridForm:
    """Raises ModelError for a model that cannot write grids cell by cell."""
    return GridForm(model.chat, SIDE)


def alphabet(form: GridForm) -> set[int]:
    """All tokens of what is laid: any of it is learned and rated as a choice among these."""
    return {
        token for own in (*form.cells, form.line, form.gap, *map(form.chat.encode, (INPUT, OUTPUT))) for token in own
    }


def changed(task: ArcTask, transform: Transform, colours: Sequence[int] = range(COLOURS)) -> ArcTask:
    """Every grid of it, turned and recoloured alike."""

    def one(grid: Grid | None) -> Grid | None:
        return grid and tuple(tuple(colours[cell] for cell in row) for row in transform(grid))

    return replace(
        task,
        **{name: tuple(Pair(one(p.input), one(p.output)) for p in getattr(task, name)) for name in ("train", "test")},
    )


def check(model: Model, tasks: Sequence[ArcTask]) -> None:
    """Raises SelfeditError on a task that leaves nothing to study or does not fit the model, and on two of one name."""
    for id, longest in readable(model, tasks)[1].items():
        raise SelfeditError(
            f"task {id}: its examples and an answer take {longest} tokens; {model.name} reads {model.backend.max_positions}"
        )


def readable(model: Model, tasks: Sequence[ArcTask]) -> tuple[list[ArcTask], dict[str, int]]:
    """Those that fit the model, and of the others the tokens that it would have to read at once. Raises SelfeditError on a
    task that leaves nothing to study, and on two of one name."""
    lengths: dict[str, int] = {}
    for task in tasks:
        if task.id in lengths:
            raise SelfeditError(f"task {task.id} is there twice; name tasks differently, or give one set of them")
        if len(task.train) < 2:
            raise SelfeditError(
                f"task {task.id}: {len(task.train)} example; at least 2 are needed, one to ask about and one to see"
            )
        lengths[task.id] = _longest(model, task)
    limit = model.backend.max_positions
    return [task for task in tasks if lengths[task.id] <= limit], {
        id: longest for id, longest in lengths.items() if longest > limit
    }


def _longest(model: Model, task: ArcTask) -> int:
    """Tokens that the model has to read at once, at most, when it chooses a recipe and answers; an item is left out where it does not fit."""
    form = form_of(model)
    longest = len(recipe_prompt(model, shown(model, task))) + recipe_tokens(model)
    for turned in (changed(task, reading) for reading in READINGS):
        for pair in turned.test:
            asked, _ = laid(form, [*turned.train, replace(pair, output=None)])
            known, _ = laid(form, [*turned.train, pair])
            # SIDE: in another reading an answer may have more rows, and their ends.
            longest = max(longest, len(asked) + _language(form, turned, pair.input)[1] + SIDE, len(known))
    return longest


def check_known(tasks: Iterable[ArcTask]) -> None:
    """Raises SelfeditError on a task whose answer nothing could be compared with."""
    for task in tasks:
        if any(pair.output is None for pair in task.test):
            raise SelfeditError(f"task {task.id}: its test has no output to compare with; `selfedit adapt` answers it")


def study_items(model: Model, task: ArcTask, recipe: Recipe, seed: int) -> list[TokenizedExample]:
    """At most `recipe.items` different ones; fewer where the task does not have so many that fit the model."""
    draw, form = random.Random(stable_seed("items", seed, task.id)), form_of(model)
    families = [
        (IDENTITY,),
        *(FAMILIES[name] for name in FAMILIES if getattr(recipe, name)),
        *([READINGS[1:]] if recipe.basic else []),
    ]
    found: dict[tuple[int, ...], TokenizedExample] = {}
    for _ in range(DRAWS * recipe.items):
        if len(found) == recipe.items:
            break
        transform, colours = draw.choice(draw.choice(families)), [0, *draw.sample(range(1, COLOURS), COLOURS - 1)]
        turned = changed(task, transform, colours if draw.random() < 0.5 else range(COLOURS)).train
        asked, *seen = draw.sample(turned, len(turned))
        seen = seen[: len(seen) - 1] if len(seen) > 1 and draw.random() < 0.5 else seen  # leaves two out
        if not all(fits(grid) for pair in turned for grid in (pair.input, pair.output)):
            continue
        item = labelled(form, [*seen, asked], recipe.loss)
        if len(item.tokens) <= model.backend.max_positions:
            found.setdefault(item.tokens, item)
    return list(found.values())


def job(model: Model, task: ArcTask, recipe: Recipe, seed: int) -> Job:
    """Raises SelfeditError on a task of which nothing can be studied."""
    items = study_items(model, task, recipe, seed)
    if not items:
        raise SelfeditError(
            f"task {task.id}: no item of it fits the {model.backend.max_positions} tokens that {model.name} reads"
        )
    return Job(tuple(items), stable_seed("fewshot", seed, task.id), recipe.learning_rate, recipe.epochs)


def labelled(form: GridForm, pairs: Sequence[Pair], loss: str) -> TokenizedExample:
    """Pairs to study, of which so much is learned (`Recipe.loss`)."""
    tokens, outputs = laid(form, pairs)
    if loss == "all_tokens":
        return TokenizedExample(tuple(tokens), 1)
    if loss == "output_tokens":
        return TokenizedExample(tuple(tokens), outputs[-1].start)
    return TokenizedExample(tuple(tokens), outputs[0].start, chosen=tuple(place for own in outputs for place in own))


# what is answered


def solve(
    model: Model,
    asked: Sequence[tuple[ArcTask, int | None]],
    stack: Adapters | None = None,
    *,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Answer]]:
    """For each (task, adapter) an Answer a test pair."""
    own = [questions(model, task, adapter) for task, adapter in asked]
    written = iter(
        model.backend.low_precision.generate([q.request for each in own for q in each], stack, on_token=on_token)
    )
    voted = [votes(model, each, [next(written) for _ in each]) for each in own]
    odds = iter(
        rated(
            model,
            [
                (task, adapter, [[grid for grid, _ in Counter(a.said).most_common(RATED)] for a in each])
                for (task, adapter), each in zip(asked, voted)
            ],
            stack,
        )
    )
    return [[replace(answer, odds=next(odds)) for answer in each] for each in voted]


@dataclass(frozen=True)
class Question:
    """A test pair's input, in one reading and with some of the examples in view."""

    pair: int
    reading: Transform
    request: Request


def questions(model: Model, task: ArcTask, adapter: int | None = None) -> list[Question]:
    """All that are put about a task, test pair by test pair in each reading."""
    form, found = form_of(model), []
    for reading in READINGS:
        turned = changed(task, reading)
        for seen in _contexts(turned.train):
            for j, pair in enumerate(turned.test):
                allow, most = _language(form, turned, pair.input)
                prompt, _ = laid(form, [*seen, replace(pair, output=None)])
                found.append(Question(j, reading, Request(tuple(prompt), adapter, most, allow=allow)))
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


def rated(
    model: Model, asked: Sequence[tuple[ArcTask, int | None, Sequence[Sequence[Grid]]]], stack: Adapters | None = None
) -> list[tuple[tuple[Grid, float], ...]]:
    """For each (task, adapter, answers to each test pair), test pair by test pair: the answers with their odds, from the
    log-probability of each as a whole, a mean over the readings. No odds under an adapter that diverged."""
    backend, form = model.backend.low_precision, form_of(model)
    among = alphabet(form)
    items = [(task, adapter, j, grid) for task, adapter, own in asked for j, grids in enumerate(own) for grid in grids]
    totals = [0.0] * len(items)
    for reading in READINGS:  # apart, since a prompt is read once only for the answers that follow one another
        golds = []
        for task, adapter, j, grid in items:
            turned = changed(replace(task, test=(Pair(task.test[j].input, grid),)), reading)
            golds.append((labelled(form, [*turned.train, turned.test[0]], "output_tokens"), adapter))
        for i, mean in enumerate(backend.gold_logprobs(golds, stack, vocabulary=among)):
            totals[i] += mean * golds[i][0].labels / len(READINGS)
    left, found = iter(totals), []
    for _, _, own in asked:
        for grids in own:
            values = [next(left) for _ in grids]
            odds = [math.exp(value - max(values)) for value in values] if all(map(math.isfinite, values)) else []
            found.append(tuple((grid, share / sum(odds)) for grid, share in zip(grids, odds)))
    return found


def gold_logprob(
    model: Model, asked: Sequence[tuple[ArcTask, int | None]], stack: Adapters | None = None
) -> list[float | None]:
    """For each (task, adapter): mean log-probability (nats a token) of its test outputs, with all examples in view; None
    under an adapter that diverged."""
    form = form_of(model)
    golds = [
        (labelled(form, [*task.train, pair], "output_tokens"), adapter) for task, adapter in asked for pair in task.test
    ]
    values = iter(model.backend.low_precision.gold_logprobs(golds, stack, vocabulary=alphabet(form)))
    means = [sum(next(values) for _ in task.test) / len(task.test) for task, _ in asked]
    return [mean if math.isfinite(mean) else None for mean in means]


def solved(task: ArcTask, answers: Sequence[Answer]) -> float:
    """Share of its test pairs whose output is among the attempts."""
    return sum(pair.output in answer.attempts for pair, answer in zip(task.test, answers)) / len(task.test)


def _contexts(examples: Sequence[Pair]) -> list[Sequence[Pair]]:
    """All, and each one left out."""
    return [examples, *([*examples[:i], *examples[i + 1 :]] for i in range(len(examples)))]


def _language(form: GridForm, task: ArcTask, question: Grid) -> tuple[Callable[[Sequence[int]], list[int]], int]:
    """What an answer may be, and its tokens at most, with the end: in the colours of the question and of all known outputs
    (those of every test output of ARC-AGI-1 are), as large as `output_size` says; else no longer than twice the longest
    known grid (3 of the 835 are longer)."""
    colours = sorted({cell for grid in (question, *(p.output for p in task.train)) for row in grid for cell in row})
    size = output_size(task.train, question)
    if size:
        most = len(form.tokens(((0,) * size[1],) * size[0])) + 1
    else:
        longest = max(
            len(form.tokens(grid)) for grid in (question, *(g for p in task.train for g in (p.input, p.output)))
        )
        most = min(len(form.tokens(((0,) * SIDE,) * SIDE)), 2 * longest) + 2
    return partial(form.allow, size=size, colours=colours), most
