"""`selfedit bench answers`: from the weights, from the text, or from both? Passages are learned, and questions asked.

In: passages with questions in any format of `tasks/load.py`, or people's questions about real documents
(`tasks/real_docs.py`). Out: `results.json`, `results.md`, plots, the home with the memories, and `answers.jsonl`. All
passages of all files are in one store, so each is a distractor for the others' questions. Conditions:

- `base`: the untouched model, closed book;
- `weights`, `text`, `both`, `auto`: as `selfedit ask --from` answers;
- `text@1`, `text@3`: the untouched model with the best passages by BM25 in view; `text@gold`: with the right one;
- `weights@gold`: as `weights`, with the memory of the right passage; `both@gold`: its adapter, with that passage in
  view.

A share of the passages is not learned (`unknown`): nothing known answers their questions, and under `strict` nothing
should. `tokens` are read and written for an answer. `seconds` are wall-clock time per answer, all questions of a
condition in one batch. `sentences`: the share of the right answers of `auto` whose supporting sentence says the answer.
Intervals are 95 % bootstraps over passages, each with all its questions; differences are paired.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from selfedit.answers.answerer import AUTO, BOTH, TEXT, WEIGHTS
from selfedit.answers.choose import CERTAIN
from selfedit.bench.conditions import check_conditions
from selfedit.bench.intervals import mean
from selfedit.bench.learned import Item, Learned, learning_line, parts_tables, row
from selfedit.bench.tables import heading, markdown, number, with_interval
from selfedit.bench.tallies import difference
from selfedit.config import LearnConfig
from selfedit.errors import SelfeditError
from selfedit.judge.evaluate import grade
from selfedit.loop.journal import write_json, write_text
from selfedit.model.load import Model, load_model
from selfedit.types import Passage, Progress, Task, no_progress, stable_seed

ARMS = (WEIGHTS, TEXT, BOTH, AUTO)
CONDITIONS = ("base", *ARMS, "text@1", "text@3", "text@gold", "weights@gold", "both@gold")
LEARN = LearnConfig()
UNKNOWN_SHARE = 0.2
"""Share of the passages that are not learned."""
BINS = 5
"""Number of bins of the calibration. They have about equal numbers of answers; equal probabilities share a bin."""
THRESHOLDS = tuple(i / 20 for i in range(20))
"""Probabilities at which it is measured what would be answered if less probable answers were not given."""

Read = Callable[[Model], tuple[list[Passage], list[Item]]]
"""A loaded model → passages, and questions with the passages that answer them."""


def run(
    model_name: str,
    read: Sequence[Read],
    out: Path,
    *,
    conditions: Sequence[str] = CONDITIONS,
    unknown: float = UNKNOWN_SHARE,
    config: LearnConfig = LEARN,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json. Raises SelfeditError, before any work, on an unknown
    condition."""
    from selfedit.bench.plots import answers_plots, pyplot

    check_conditions(conditions, CONDITIONS)
    pyplot()
    model = load_model(model_name, notify=notify)
    passages: dict[str, Passage] = {}
    items: list[Item] = []
    for one in read:
        more, asked = one(model)
        passages |= {passage.id: passage for passage in more}
        items += asked
    learned = [p for p in passages.values() if not _is_left_out(p, unknown)]
    settings = {"unknown": unknown}
    known = {passage.id for passage in learned}
    if not any(item.passage.id in known for item in items):
        raise SelfeditError(f"all {len(passages)} passages with questions are left out; give more, or --unknown 0")
    bench = Learned(model, learned, items, out, config, progress, settings)
    for condition in conditions:
        _ask(bench, condition)
    result = bench.about() | (bench.learning() if any(map(_needs_memories, conditions)) else {})
    result |= {"unknown_passages": len(passages) - len(learned), "rows": _rows(bench, conditions, known)}
    if AUTO in conditions:
        result |= {"auto": _judged(bench, known)}
    result |= {"model": model_name, "command": command}
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    answers_plots(result, out)
    return result


def of_tasks(tasks: Sequence[Task], name: str) -> Read:
    """Reads tasks; `name`: of their file."""
    items = [
        Item(f"{task.key}:{i}", question, question.kind, name, task.passage)
        for task in tasks
        for i, question in enumerate(task.questions)
    ]
    return lambda model: ([task.passage for task in tasks], items)


def _is_left_out(passage: Passage, unknown: float) -> bool:
    return stable_seed("left out", passage.id) % 1000 < 1000 * unknown


def _needs_memories(condition: str) -> bool:
    return condition in ARMS or condition.partition("@")[0] in (WEIGHTS, BOTH)


def _ask(bench: Learned, condition: str) -> None:
    arm, _, view = condition.partition("@")
    in_view: Callable[[Item], Passage | None] = lambda item: None  # noqa: E731
    depends = lambda item: []  # noqa: E731
    if view == "gold" and arm != WEIGHTS:
        in_view, depends = lambda item: item.passage, lambda item: [item.passage.id]
    elif view.isdecimal():
        in_view, depends = bench.retriever(int(view)), lambda item: [passage.id for passage in bench.passages]
    if condition in ARMS:
        bench.ask(condition, bench.arm(arm), lambda item: bench.depends())
    elif arm == WEIGHTS:
        bench.ask(condition, bench.right_memory(), lambda item: bench.depends())
    elif arm == BOTH:
        answer = bench.with_memory(in_view)
        bench.ask(condition, answer, lambda item: [*bench.depends(), *depends(item)])
    else:
        bench.ask(condition, bench.untouched(in_view), depends)


def _rows(bench: Learned, conditions: Sequence[str], known: set[str]) -> list[dict]:
    sides = {name: {id: tallies for id, tallies in bench.side(name).items() if id in known} for name in conditions}
    rows = []
    for name, side in sides.items():
        records = [r for item, r in zip(bench.items, bench.answers[name]) if item.passage.id in known]
        means = {key: mean([r[key] for r in records if "error" not in r]) for key in ("tokens", "seconds")}
        against = {f"vs_{other}": difference(side, sides.get(other)) for other in ("base", TEXT, AUTO)}
        rows.append({"condition": name, **row(side), **against, **means})
    return rows


def _judged(bench: Learned, known: set[str]) -> dict:
    """How far the probabilities of `auto` can be trusted, and what `strict` would answer; without failed questions."""
    answered = []
    for item, record, right in zip(bench.items, bench.answers[AUTO], bench.right(AUTO)):
        if right is not None:
            answered.append((item, record.get("probability") or 0.0, right, record.get("sentence", "")))
    about_known = [(chance, right) for item, chance, right, _ in answered if item.passage.id in known]
    chances = sorted(chance for chance, _ in about_known)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for chance, right in about_known:
        bins.setdefault(BINS * bisect_left(chances, chance) // len(chances), []).append((chance, right))
    told = [bool(sentence) and grade(item.question, sentence) for item, _, right, sentence in answered if right]
    return {
        "calibration": [
            {"answers": len(part), "probability": mean([c for c, _ in part]), "accuracy": mean([r for _, r in part])}
            for _, part in sorted(bins.items())
        ],
        "strict": _abstention(answered, known, CERTAIN),
        "thresholds": [_abstention(answered, known, least) for least in THRESHOLDS],
        "sentences": mean(told),
    }


def _abstention(answered: Sequence[tuple[Item, float, bool, str]], known: set[str], least: float) -> dict:
    """`wrong`: share of wrong ones among what is answered, of all questions; `right_kept`: share of the right answers
    that are still given; `unknown_abstained`: share of the questions about unknown passages that are not answered."""
    given = [(item, right) for item, chance, right, _ in answered if chance >= least]
    right_before = [item.id for item, _, right, _ in answered if right and item.passage.id in known]
    others = [chance for item, chance, _, _ in answered if item.passage.id not in known]
    return {
        "threshold": least,
        "answered": len(given) / len(answered) if answered else None,
        "wrong": mean([not right for _, right in given]),
        "right_kept": mean([id in {item.id for item, _ in given} for id in right_before]),
        "unknown_abstained": mean([chance < least for chance in others]),
    }


def table(result: dict) -> str:
    """Returns the rows as Markdown."""
    about = f"{learning_line(result)}; {result['unknown_passages']} more passages were not learned"
    lines = [*heading("Answers", result), f"{about}. 95 % intervals: paired bootstrap over passages.", ""]
    head = ["condition", "questions", "failed", "accuracy", "− text", "− auto", "tokens", "seconds"]
    cells = (
        [
            r["condition"],
            r["questions"],
            r["failed"],
            with_interval([r["accuracy"], *(r["ci95"] or (None, None))]),
            with_interval(r["vs_text"], "+.3f"),
            with_interval(r["vs_auto"], "+.3f"),
            number(r["tokens"], ".0f"),
            number(r["seconds"], ".2f"),
        ]
        for r in result["rows"]
    )
    lines += [*markdown(head, cells), *parts_tables(result["rows"])]
    if auto := result.get("auto"):
        strict = {key: number(value, ".2f") for key, value in auto["strict"].items()}
        head = ["answers", "probability", "accuracy"]
        cells = ([c["answers"], *(number(c[key], ".2f") for key in head[1:])] for c in auto["calibration"])
        lines += [
            "",
            f"`--strict` (probability of at least {strict['threshold']}) answers {strict['answered']} of all "
            f"questions, {strict['wrong']} of them wrong, and {strict['right_kept']} of the right answers stay. Of the "
            f"questions about passages that were not learned, {strict['unknown_abstained']} are not answered. The "
            f"supporting sentence says the answer in {number(auto['sentences'], '.2f')} of `auto`'s right answers.",
            "",
            *markdown(head, cells, words=0),
        ]
    return "\n".join(lines) + "\n"
