"""Few-shot tasks: examples of a rule → study items → adapters → answers. SEAL's inner step for ARC.

The examples of a task make many small tasks: one or two examples are left out, one of them becomes the question, and
everything is turned, mirrored, enlarged or recoloured as a Recipe says. Each recipe of a task is one job with its own
learning rate and epochs; all are trained together. The question is asked with all examples and with each one left out,
in several readings (turned and mirrored), and all answers are decoded together under a grammar: a grid in the colours
of the question and of the known outputs, of the size that they imply. Each answer is turned back; of the most frequent
ones, the two that are likeliest in all readings are the attempts.
Sources: test-time training for ARC (arXiv:2411.07279), SEAL section 4.2; rating in all readings: arXiv:2505.07859.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from selfedit.config import FewshotConfig
from selfedit.edits.recipe import INSTRUCTION, Recipe, grammar, recipe_prompt, recipe_tokens
from selfedit.errors import SelfeditError
from selfedit.model.backend import Adapters, Job, OnStep, Request, no_steps
from selfedit.model.chat import TokenizedExample
from selfedit.model.grammar import GridForm
from selfedit.model.load import Model
from selfedit.tasks.arc import COLOURS, SIDE, ArcTask, Grid, Pair, output_size
from selfedit.tasks.augment import FAMILIES, IDENTITY, READINGS, Transform, fits
from selfedit.types import Progress, no_progress, stable_seed, text_hash

ATTEMPTS = 2
"""Answers to each question that count, by the rules of ARC."""
INPUT, OUTPUT = "Input:\n", "Output:\n"


def wording() -> str:
    """Identifies the texts and the transforms that results depend on."""
    transforms = [t.name for family in (READINGS, *FAMILIES.values()) for t in family]
    return text_hash(INPUT, OUTPUT, INSTRUCTION, repr(grammar()), *transforms)


@dataclass(frozen=True)
class Answer:
    """The answers to one question, over all readings and contexts."""

    grids: tuple[Grid, ...]
    """Every answer that was a grid, turned back; the first ones are to the question as it is, with all examples."""
    num_asked: int
    """How often the question was asked."""
    odds: tuple[tuple[Grid, float], ...] = ()
    """For the most frequent grids, how likely each is in all readings, as shares of 1."""

    @cached_property
    def best(self) -> list[tuple[Grid, int]]:
        """The likeliest grids with their votes; ties are broken by votes, then by order."""
        odds = dict(self.odds)
        return sorted(Counter(self.grids).items(), key=lambda one: (-odds.get(one[0], 0.0), -one[1]))[:ATTEMPTS]

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
            "asked": self.num_asked,
        }


def joined(answers: Sequence[Answer]) -> Answer:
    """The answers of several adapters as one: every vote counts, and the odds of each adapter weigh the same."""
    odds: Counter = Counter()
    for answer in answers:
        odds.update({grid: share / len(answers) for grid, share in answer.odds})
    return Answer(
        tuple(grid for a in answers for grid in a.grids), sum(a.num_asked for a in answers), tuple(odds.items())
    )


@dataclass(frozen=True)
class Tried:
    """What a recipe achieved."""

    answers: list[Answer]
    """One per test pair."""
    gold_logprob: float | None
    """Mean log-probability of the outputs, in nats per token; None if an output is not known, or training diverged."""
    tokens: int
    """Tokens trained on."""


def try_recipes(
    model: Model,
    rows: Sequence[tuple[ArcTask, Recipe, int]],
    config: FewshotConfig = FewshotConfig(),
    progress: Progress = no_progress,
) -> list[Tried]:
    """Trains and scores one adapter for each (task, recipe, seed), all together."""
    adapters, tokens = study_recipes(model, rows, config, progress)
    return score_recipes(model, [task for task, _, _ in rows], adapters, tokens, config, progress)


def study_recipes(
    model: Model, rows: Sequence[tuple[ArcTask, Recipe, int]], config: FewshotConfig, progress: Progress = no_progress
) -> tuple[Adapters, list[int]]:
    """One adapter for each (task, recipe, seed), and the tokens that each was trained on."""
    adapters, logs = model.backend.low_precision.train(
        [job(model, task, recipe, seed, config) for task, recipe, seed in rows],
        config.train,
        vocabulary=alphabet(form_of(model)),
        on_step=partial(progress, "train"),
    )
    return adapters, [log.tokens for log in logs]


def score_recipes(
    model: Model,
    tasks: Sequence[ArcTask],
    adapters: Adapters,
    tokens: Sequence[int],
    config: FewshotConfig,
    progress: Progress = no_progress,
) -> list[Tried]:
    """`tasks`: what each adapter is asked about."""
    pairs = [(task, row) for row, task in enumerate(tasks)]
    answers = solve(model, pairs, adapters, config, on_token=partial(progress, "answer"))
    known = [(task, row) for task, row in pairs if all(pair.output for pair in task.test)]
    logprobs = dict(zip((row for _, row in known), gold_logprob(model, known, adapters)))
    return [Tried(a, logprobs.get(row), n) for row, (a, n) in enumerate(zip(answers, tokens))]


# Questions and study items


def lay_out(form: GridForm, pairs: Sequence[Pair]) -> tuple[list[int], list[range]]:
    """The tokens of the pairs, each followed by a blank line, and the positions of their outputs. A last pair without
    an output is a question. Grids are encoded one by one, so a cell or a row's end is the same token everywhere."""
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
    """The task as the writer of a recipe sees it: the examples, and the first question."""
    form = form_of(model)
    pairs = [f"{INPUT}{form.text(p.input)}{OUTPUT}{form.text(p.output)}\n" for p in task.train]
    return "".join(pairs) + f"{INPUT}{form.text(task.test[0].input)}{OUTPUT}".rstrip()


def form_of(model: Model) -> GridForm:
    """Raises ModelError for a model that cannot write grids cell by cell."""
    return GridForm(model.chat, SIDE)


def alphabet(form: GridForm) -> set[int]:
    """All tokens of a laid-out task: its labels are learned and rated as choices among these."""
    parts = (*form.cells, form.line, form.gap, *map(form.chat.encode, (INPUT, OUTPUT)))
    return {token for part in parts for token in part}


def changed(task: ArcTask, transform: Transform, colours: Sequence[int] = range(COLOURS)) -> ArcTask:
    """The task with the same transform and the same colours applied to every grid."""

    def changed_grid(grid: Grid | None) -> Grid | None:
        return grid and tuple(tuple(colours[cell] for cell in row) for row in transform(grid))

    def changed_pairs(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        return tuple(Pair(changed_grid(p.input), changed_grid(p.output)) for p in pairs)

    return replace(task, train=changed_pairs(task.train), test=changed_pairs(task.test))


def check(model: Model, tasks: Sequence[ArcTask]) -> None:
    """Raises SelfeditError on a task that leaves nothing to study or does not fit the model, and on equal names."""
    for id, longest in readable(model, tasks)[1].items():
        limit = model.backend.max_positions
        raise SelfeditError(f"task {id}: its examples and an answer take {longest} tokens; {model.name} reads {limit}")


def readable(model: Model, tasks: Sequence[ArcTask]) -> tuple[list[ArcTask], dict[str, int]]:
    """The tasks that fit the model, and for each of the others the tokens that it would have to read at once. Raises
    SelfeditError on a task that leaves nothing to study, and on equal names."""
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
    too_long = {id: longest for id, longest in lengths.items() if longest > limit}
    return [task for task in tasks if task.id not in too_long], too_long


def _longest(model: Model, task: ArcTask) -> int:
    """Maximum number of tokens that the model has to read at once to choose a recipe and to answer. Study items that do
    not fit are left out, so they do not count."""
    form = form_of(model)
    longest = len(recipe_prompt(model, shown(model, task))) + recipe_tokens(model)
    for turned in (changed(task, reading) for reading in READINGS):
        for pair in turned.test:
            question, _ = lay_out(form, [*turned.train, replace(pair, output=None)])
            known, _ = lay_out(form, [*turned.train, pair])
            # SIDE: in another reading, an answer may have more rows, and so more ends of rows.
            longest = max(longest, len(question) + _language(form, turned, pair.input)[1] + SIDE, len(known))
    return longest


def check_known(tasks: Iterable[ArcTask]) -> None:
    """Raises SelfeditError on a task without outputs to compare answers with."""
    for task in tasks:
        if any(pair.output is None for pair in task.test):
            raise SelfeditError(f"task {task.id}: its test has no output to compare with; `selfedit adapt` answers it")


def study_items(
    model: Model, task: ArcTask, recipe: Recipe, seed: int, draws: int = FewshotConfig.draws
) -> list[TokenizedExample]:
    """Up to `recipe.items` different items: fewer if `draws` per item do not find so many that fit the model."""
    chance, form = random.Random(stable_seed("items", seed, task.id)), form_of(model)
    families = [(IDENTITY,), *(FAMILIES[name] for name in FAMILIES if getattr(recipe, name))]
    families += [READINGS[1:]] if recipe.basic else []
    items: dict[tuple[int, ...], TokenizedExample] = {}
    for _ in range(draws * recipe.items):
        if len(items) == recipe.items:
            break
        transform = chance.choice(chance.choice(families))
        colours = [0, *chance.sample(range(1, COLOURS), COLOURS - 1)]
        turned = changed(task, transform, colours if chance.random() < 0.5 else range(COLOURS)).train
        question, *context = chance.sample(turned, len(turned))
        if len(context) > 1 and chance.random() < 0.5:  # leaves two out
            context = context[:-1]
        if not all(fits(grid) for pair in turned for grid in (pair.input, pair.output)):
            continue
        item = labelled(form, [*context, question], recipe.loss)
        if len(item.tokens) <= model.backend.max_positions:
            items.setdefault(item.tokens, item)
    return list(items.values())


def job(model: Model, task: ArcTask, recipe: Recipe, seed: int, config: FewshotConfig = FewshotConfig()) -> Job:
    """Raises SelfeditError on a task that has nothing to study."""
    items = study_items(model, task, recipe, seed, config.draws)
    if not items:
        raise SelfeditError(
            f"task {task.id}: no item of it fits the {model.backend.max_positions} tokens that {model.name} reads"
        )
    return Job(tuple(items), stable_seed("fewshot", seed, task.id), recipe.learning_rate, recipe.epochs)


def labelled(form: GridForm, pairs: Sequence[Pair], loss: str) -> TokenizedExample:
    """Pairs to study; `loss` says which tokens are labels (`Recipe.loss`)."""
    tokens, outputs = lay_out(form, pairs)
    if loss == "all_tokens":
        return TokenizedExample(tuple(tokens), 1)
    if loss == "output_tokens":
        return TokenizedExample(tuple(tokens), outputs[-1].start)
    chosen = tuple(position for output in outputs for position in output)
    return TokenizedExample(tuple(tokens), outputs[0].start, chosen=chosen)


# Answers


def solve(
    model: Model,
    pairs: Sequence[tuple[ArcTask, int | None]],
    adapters: Adapters | None = None,
    config: FewshotConfig = FewshotConfig(),
    *,
    on_token: OnStep = no_steps,
) -> list[list[Answer]]:
    """For each (task, adapter), one Answer per test pair."""
    groups = [questions(model, task, adapter) for task, adapter in pairs]
    requests = [question.request for group in groups for question in group]
    written = iter(model.backend.low_precision.generate(requests, adapters, on_token=on_token))
    voted = [votes(model, group, [next(written) for _ in group]) for group in groups]
    frequent = [[[grid for grid, _ in Counter(a.grids).most_common(config.rated)] for a in row] for row in voted]
    odds = iter(rated(model, [(*pair, grids) for pair, grids in zip(pairs, frequent)], adapters))
    return [[replace(answer, odds=next(odds)) for answer in row] for row in voted]


@dataclass(frozen=True)
class Question:
    """A test input in one reading, with some of the examples in view."""

    pair: int
    """Position of the test pair."""
    reading: Transform
    request: Request


def questions(model: Model, task: ArcTask, adapter: int | None = None) -> list[Question]:
    """All questions about a task, in each reading and with each selection of its examples."""
    form, result = form_of(model), []
    for reading in READINGS:
        turned = changed(task, reading)
        for context in _contexts(turned.train):
            for j, pair in enumerate(turned.test):
                allow, max_tokens = _language(form, turned, pair.input)
                prompt, _ = lay_out(form, [*context, replace(pair, output=None)])
                result.append(Question(j, reading, Request(tuple(prompt), adapter, max_tokens, allow=allow)))
    return result


def votes(model: Model, questions: Sequence[Question], written: Sequence[Sequence[int]]) -> list[Answer]:
    """One Answer per test pair. `written`: the new tokens of each question, without the end token."""
    form = form_of(model)
    grids: list[list[Grid]] = [[] for _ in range(1 + max(q.pair for q in questions))]
    for question, tokens in zip(questions, written):
        finished = len(tokens) < question.request.max_new_tokens
        grid = form.read(model.chat.decode(tokens)) if finished else None
        if grid and (turned_back := question.reading.back(grid)):
            grids[question.pair].append(turned_back)
    return [Answer(tuple(of_pair), len(questions) // len(grids)) for of_pair in grids]


def rated(
    model: Model, rows: Sequence[tuple[ArcTask, int | None, Sequence[Sequence[Grid]]]], adapters: Adapters | None = None
) -> list[tuple[tuple[Grid, float], ...]]:
    """For each (task, adapter, answers to each test pair), the answers to each test pair with their odds: from the
    log-probability of the whole answer, averaged over the readings. Without odds under an adapter that diverged."""
    backend, form = model.backend.low_precision, form_of(model)
    vocabulary = alphabet(form)
    items = [
        (task, adapter, j, grid) for task, adapter, answers in rows for j, grids in enumerate(answers) for grid in grids
    ]
    totals = [0.0] * len(items)
    for reading in READINGS:  # one at a time, because consecutive answers to the same prompt share it
        golds = []
        for task, adapter, j, grid in items:
            turned = changed(replace(task, test=(Pair(task.test[j].input, grid),)), reading)
            golds.append((labelled(form, [*turned.train, turned.test[0]], "output_tokens"), adapter))
        for i, mean in enumerate(backend.gold_logprobs(golds, adapters, vocabulary=vocabulary)):
            totals[i] += mean * golds[i][0].labels / len(READINGS)
    left, odds = iter(totals), []
    for _, _, answers in rows:
        for grids in answers:
            values = [next(left) for _ in grids]
            weights = [math.exp(value - max(values)) for value in values] if all(map(math.isfinite, values)) else []
            odds.append(tuple((grid, weight / sum(weights)) for grid, weight in zip(grids, weights)))
    return odds


def gold_logprob(
    model: Model, pairs: Sequence[tuple[ArcTask, int | None]], adapters: Adapters | None = None
) -> list[float | None]:
    """For each (task, adapter), the mean log-probability (nats per token) of the task's outputs with all examples in
    view; None under an adapter that diverged."""
    form = form_of(model)
    golds = [
        (labelled(form, [*task.train, pair], "output_tokens"), adapter) for task, adapter in pairs for pair in task.test
    ]
    values = iter(model.backend.low_precision.gold_logprobs(golds, adapters, vocabulary=alphabet(form)))
    means = [sum(next(values) for _ in task.test) / len(task.test) for task, _ in pairs]
    return [mean if math.isfinite(mean) else None for mean in means]


def solved(task: ArcTask, answers: Sequence[Answer]) -> float:
    """Share of the task's test pairs whose output is among the attempts."""
    return sum(pair.output in answer.attempts for pair, answer in zip(task.test, answers)) / len(task.test)


def _contexts(examples: Sequence[Pair]) -> list[Sequence[Pair]]:
    """All examples, and all but each one."""
    return [examples, *([*examples[:i], *examples[i + 1 :]] for i in range(len(examples)))]


def _language(form: GridForm, task: ArcTask, question: Grid) -> tuple[Callable[[Sequence[int]], list[int]], int]:
    """The grammar of an answer, and its maximum number of tokens with the end. Its colours are those of the question
    and of all known outputs (true of every test output of ARC-AGI-1), and its size is what `output_size` says. Where
    that says nothing, an answer is at most twice as long as the longest known grid (3 of the 835 are longer)."""
    colours = sorted({cell for grid in (question, *(p.output for p in task.train)) for row in grid for cell in row})
    size = output_size(task.train, question)
    if size:
        max_tokens = len(form.tokens(((0,) * size[1],) * size[0])) + 1
    else:
        known = (question, *(grid for p in task.train for grid in (p.input, p.output)))
        longest = max(len(form.tokens(grid)) for grid in known)
        max_tokens = min(len(form.tokens(((0,) * SIDE,) * SIDE)), 2 * longest) + 2
    return partial(form.allow, size=size, colours=colours), max_tokens
