"""`selfedit bench documents`: real documents, and questions that people ask about them, from reading to answering.

In: questions with accepted answers, each about a section of a document (tasks/real_docs.py). Out: `results.json`,
`results.md`, a plot, the home with the memories, and `answers.jsonl` with one line per condition and question. All
documents are learned as a user would learn them. Then each question is asked under each condition:

- `base`: the untouched model, closed book;
- `learned`: as `selfedit ask --from weights` answers: the store chooses the memory;
- `ask-text`, `ask-both`: as `selfedit ask --from text` and `--from both` answer, with that memory's passage in view;
- `right-memory`: as `learned`, with the memory of the passage that has the answer; the difference is lost by the
  choice;
- `in-context`: the untouched model with that passage in view, the ceiling;
- `retrieval`: the untouched model with the best passages of all documents by BM25 in view;
- `memory-and-text`: that passage in view of the model with its memory's adapter; learning may not unlearn reading.

Intervals are 95 % bootstraps over passages, each with all its questions; differences are paired.
`judging`: how well the gate's two measures of a memory, on questions that the model wrote, predict the accuracy of
`right-memory` on people's questions (Spearman's correlation over the memories that people ask about).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from selfedit.answers.answerer import BOTH, TEXT, WEIGHTS
from selfedit.bench.conditions import check_conditions
from selfedit.bench.intervals import rank_correlation
from selfedit.bench.learned import Item, Learned, learning_line, parts_tables, row
from selfedit.bench.tables import heading, markdown, number, with_interval
from selfedit.bench.tallies import difference, matrix, ratio, share
from selfedit.config import LearnConfig
from selfedit.documents.read import split_documents
from selfedit.documents.records import Document
from selfedit.learn import passage_length
from selfedit.loop.journal import write_json, write_text
from selfedit.model.load import Model, load_model
from selfedit.tasks.real_docs import DocumentQuestion, gold_passage, load_document
from selfedit.types import MemoryEntry, Passage, Progress, no_progress

_ARMS = {"learned": WEIGHTS, "ask-text": TEXT, "ask-both": BOTH}
"""Conditions that answer as `selfedit ask --from` does."""
CONDITIONS = ("base", *_ARMS, "right-memory", "in-context", "retrieval", "memory-and-text")
_AFTER_LEARNING = {*_ARMS, "right-memory", "memory-and-text"}
LEARN = LearnConfig()
RETRIEVED = 1
"""Passages in view under `retrieval`: as many as a memory has, so that the two can be compared."""


def run(
    model_name: str,
    questions: Sequence[DocumentQuestion],
    folder: Path,
    out: Path,
    *,
    conditions: Sequence[str] = CONDITIONS,
    config: LearnConfig = LEARN,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json. `folder`: the documents' paths are relative to it.

    Raises SelfeditError, before any work, on an unknown condition, and DocumentError on a document that cannot be read.
    """
    from selfedit.bench.plots import documents_plot, pyplot

    check_conditions(conditions, CONDITIONS)
    pyplot()
    documents = {name: load_document(name, folder) for name in dict.fromkeys(q.document for q in questions)}
    model = load_model(model_name, notify=notify)  # after the documents: a wrong path costs seconds
    passages, items = read(model, questions, documents, config)
    bench = Learned(model, passages, items, out, config, progress)
    for condition in conditions:
        _ask(bench, condition)
    sides = {condition: bench.side(condition) for condition in conditions}
    learned = bench.learning() if _AFTER_LEARNING.intersection(conditions) else {}
    if "right-memory" in conditions:
        learned |= {"judging": _judging(bench.store.active(), sides["right-memory"])}
    compared = (
        {
            "condition": name,
            **row(side),
            "vs_base": difference(side, sides.get("base")),
            "of_in_context": ratio(side, sides.get("in-context")),
        }
        for name, side in sides.items()
    )
    result = {**bench.about(), **learned, "rows": list(compared), "command": command}
    result["model"] = model_name
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    documents_plot(result, out)
    return result


def read(
    model: Model, questions: Sequence[DocumentQuestion], documents: dict[str, Document], config: LearnConfig
) -> tuple[list[Passage], list[Item]]:
    """The passages of all documents, as `learn` would split them, and the questions with the passages that answer
    them."""
    length = passage_length(model, config.passage_words)
    split = {name: split_documents([d], config.passage_words, length) for name, d in documents.items()}
    items = [Item(q.id, q.question, q.kind, q.document, gold_passage(q, split[q.document])) for q in questions]
    return [passage for passages in split.values() for passage in passages], items


def _ask(bench: Learned, condition: str) -> None:
    gold = condition in ("in-context", "memory-and-text")
    in_view: Callable[[Item], Passage | None] = (lambda item: item.passage) if gold else (lambda item: None)
    answer, depends = bench.untouched(in_view), lambda item: [item.passage.id] if gold else []
    if condition == "retrieval":
        answer, depends = (bench.untouched(bench.retriever(RETRIEVED)), lambda item: [p.id for p in bench.passages])
    elif condition in _ARMS:
        answer, depends = bench.arm(_ARMS[condition]), lambda item: bench.depends()
    elif condition == "right-memory":
        answer, depends = bench.right_memory(), lambda item: bench.depends()
    elif condition == "memory-and-text":
        answer, depends = bench.with_memory(in_view), lambda item: bench.depends(item.passage)
    bench.ask(condition, answer, depends)


def _judging(entries: Sequence[MemoryEntry], side: dict) -> dict:
    """How well what `learn` measured of a memory ranks the memories that people ask about; without those on which no
    question was found, or about which all questions failed."""
    measured = [e for e in entries if e.has_adapter and e.scores["after"]["accuracy"] is not None]
    asked = {e.id: share(matrix({"": side[e.passage.id]})) for e in measured if e.passage.id in side}
    entries = [e for e in measured if asked.get(e.id) is not None]
    accuracies = [asked[entry.id] for entry in entries]
    measures = {m: [entry.scores["after"][m] for entry in entries] for m in ("accuracy", "gold_logprob")}
    return {"memories": len(entries)} | {m: rank_correlation(v, accuracies) for m, v in measures.items()}


def table(result: dict) -> str:
    """Returns the rows as Markdown."""
    about = f"{learning_line(result)}. 95 % intervals: paired bootstrap over passages"
    if judging := result.get("judging"):
        about += (
            f". Rank correlation with the accuracy of right-memory, over {judging['memories']} memories: "
            f"accuracy on the judging questions {number(judging['accuracy'], '.2f')}, "
            f"their log-probability {number(judging['gold_logprob'], '.2f')}"
        )
    cells = (
        [
            r["condition"],
            r["questions"],
            r["failed"],
            with_interval([r["accuracy"], *(r["ci95"] or (None, None))]),
            with_interval(r["vs_base"], "+.3f"),
            with_interval(r["of_in_context"], ".2f"),
        ]
        for r in result["rows"]
    )
    head = ["condition", "questions", "failed", "accuracy", "− base", "÷ in-context"]
    lines = [*heading("Real documents", result), f"{about}.", "", *markdown(head, cells), *parts_tables(result["rows"])]
    return "\n".join(lines) + "\n"
