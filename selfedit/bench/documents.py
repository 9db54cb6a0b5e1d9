"""`selfedit bench documents`: real documents, and questions that people ask about them, from reading to answering.

In: questions with accepted answers, each about a section of a document (tasks/real_docs.py). Out: `results.json`,
`results.md`, a plot, the home with the memories, and `answers.jsonl` with one line per condition and question. All
documents are learned as a user would learn them. Then each question is asked under each condition:

- `base`: the untouched model, closed book;
- `learned`: as `selfedit ask` answers, closed book: the store chooses the memory;
- `ask-text`, `ask-both`: as `selfedit ask --from text` and `--from both` answer, with that memory's passage in view;
- `right-memory`: the memory of the passage that has the answer, closed book; the difference is lost by the choice;
- `in-context`: the untouched model with that passage in view, the ceiling;
- `retrieval`: the untouched model with the best passages of all documents by BM25 in view;
- `memory-and-text`: that passage in view of the model with its memory; learning may not unlearn reading.

Finished passages and answers are not repeated: a stopped run resumes, and a finished one can be extended by conditions
or questions. Intervals are 95 % bootstraps over passages, each with all its questions; differences are paired.
`judging`: how well the gate's two measures of a memory, on questions that the model wrote, predict the accuracy of
`right-memory` on people's questions (Spearman's correlation over the memories that people ask about).
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from selfedit.ask import ADAPTERS, ANSWER_TOKENS, ask
from selfedit.bench.conditions import Retriever
from selfedit.bench.intervals import rank_correlation
from selfedit.bench.tables import heading, markdown, number, with_interval
from selfedit.bench.tallies import difference, interval, matrix, ratio, share
from selfedit.config import LearnConfig
from selfedit.documents.read import split_documents
from selfedit.edits.quiz import with_passage
from selfedit.errors import SelfeditError
from selfedit.judge.evaluate import Query, grade, offline_name, respond
from selfedit.learn import LearnReport, learn, passage_length
from selfedit.loop.journal import Journal, lock_run_folder, software, write_json, write_text
from selfedit.memory.store import MemoryStore
from selfedit.model.load import load_model
from selfedit.tasks.real_docs import DocumentQuestion, gold_passage, load_document
from selfedit.types import Passage, Progress, Question, Task, no_progress, text_hash

_ARMS = {"learned": "weights", "ask-text": "text", "ask-both": "both"}
"""Conditions that answer as `selfedit ask --from` does."""
CONDITIONS = ("base", *_ARMS, "right-memory", "in-context", "retrieval", "memory-and-text")
_AFTER_LEARNING = {*_ARMS, "right-memory", "memory-and-text"}
LEARN = LearnConfig()
RETRIEVED = 1
"""Passages in view under `retrieval`: as many as a memory has, so that the two can be compared."""


@dataclass(frozen=True)
class Item:
    """A question and the passage that answers it."""

    asked: DocumentQuestion
    passage: Passage


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

    if unknown := [name for name in conditions if name not in CONDITIONS]:
        raise SelfeditError(f"unknown condition {unknown[0]!r}; known: {', '.join(CONDITIONS)}")
    pyplot()
    bench = _Bench(model_name, questions, folder, out, config, progress, notify)
    for condition in conditions:
        bench.ask(condition)
    result = bench.result(conditions) | {"command": command, "software": software()}
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    documents_plot(result, out)
    return result


class _Bench:
    def __init__(
        self,
        model_name: str,
        questions: Sequence[DocumentQuestion],
        folder: Path,
        out: Path,
        config: LearnConfig,
        progress: Progress,
        notify: Callable[[str], None],
    ):
        self.name, self.config, self.progress = model_name, config, progress
        names = list(dict.fromkeys(q.document for q in questions))
        documents = [load_document(name, folder) for name in names]  # before the model: a wrong path costs seconds
        self.model = load_model(model_name, notify=notify)
        length = passage_length(self.model, config.passage_words)
        by_document = {name: split_documents([d], config.passage_words, length) for name, d in zip(names, documents)}
        self.passages = [passage for passages in by_document.values() for passage in passages]
        self.items = [Item(q, gold_passage(q, by_document[q.document])) for q in questions]
        self._lock = lock_run_folder(out, self.model.identity() | {"config": asdict(config)})
        self.store = MemoryStore(out / "home")
        self.journal = Journal(out / "answers.jsonl")
        self.answered = {self._key(record): record["answer"] for record in self.journal.records}

    @cached_property
    def report(self) -> LearnReport:
        return learn(self.model, self.passages, self.store, self.config, progress=self.progress)

    @cached_property
    def memories(self) -> dict[str, str]:
        """Passage id → the id of its memory."""
        return {entry.passage.id: entry.id for entry in self.store.active()}

    @staticmethod
    def _key(record: dict) -> tuple:
        return record["condition"], record["question"], record["depends"]

    def _record(self, condition: str, item: Item) -> dict:
        """What identifies an answer: the question, and the memories and the text that it depends on."""
        parts = [item.asked.question.question]
        if condition in _AFTER_LEARNING:
            parts += sorted(self.memories.values())
        if condition in ("in-context", "memory-and-text"):
            parts.append(item.passage.id)
        if condition == "retrieval":
            parts += [passage.id for passage in self.passages]
        return {"condition": condition, "question": item.asked.id, "depends": text_hash(*parts)[:12]}

    def ask(self, condition: str) -> None:
        """Asks all questions that have no answer under this condition yet."""
        if condition in _AFTER_LEARNING:
            _ = self.report
        todo = [item for item in self.items if self._key(self._record(condition, item)) not in self.answered]
        if not todo:
            return
        answer = dict.fromkeys(_ARMS, self._as_shipped)
        answer |= dict.fromkeys(("right-memory", "memory-and-text"), self._with_memory)
        texts = answer.get(condition, self._untouched)(condition, todo)
        for item, text in zip(todo, texts):
            record = self._record(condition, item) | {"answer": text}
            self.journal.add(record)
            self.answered[self._key(record)] = text

    def _as_shipped(self, condition: str, items: Sequence[Item]) -> list[str]:
        asked = [item.asked.question for item in items]
        answers = ask(self.model, self.store, asked, arm=_ARMS[condition], on_token=self._stage(condition))
        return [answer.answer for answer in answers]

    def _untouched(self, condition: str, items: Sequence[Item]) -> list[str]:
        return self._texts(condition, [Query(i.asked.question, None, self._in_view(condition, i)) for i in items])

    def _with_memory(self, condition: str, items: Sequence[Item]) -> list[str]:
        texts: dict[str, str] = {}
        known = list(dict.fromkeys(m for i in items if (m := self.memories.get(i.passage.id))))
        if left := [i for i in items if i.passage.id not in self.memories]:
            texts |= zip((i.asked.id for i in left), self._untouched(condition, left))
        for low in range(0, len(known), ADAPTERS):
            rows = {memory: row for row, memory in enumerate(known[low : low + ADAPTERS])}
            adapters = self.model.backend.load([self.store.answering_path(memory) for memory in rows])
            group = [i for i in items if self.memories.get(i.passage.id) in rows]
            queries = [
                Query(i.asked.question, rows[self.memories[i.passage.id]], self._in_view(condition, i)) for i in group
            ]
            texts |= zip((i.asked.id for i in group), self._texts(condition, queries, adapters))
        return [texts[i.asked.id] for i in items]

    def _texts(self, condition: str, queries: Sequence[Query], adapters=None) -> list[str]:
        responses = respond(self.model, queries, adapters, tokens=ANSWER_TOKENS, on_token=self._stage(condition))
        return [response.text for response in responses]

    def _in_view(self, condition: str, item: Item) -> Question | None:
        if condition in ("in-context", "memory-and-text"):
            return with_passage(item.passage, item.asked.question)
        if condition == "retrieval":
            return with_passage(self.retriever.best(item.asked.question), item.asked.question)
        return None

    @cached_property
    def retriever(self) -> Retriever:
        return Retriever([Task(passage, ()) for passage in self.passages], RETRIEVED)

    def _stage(self, condition: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(condition, done, total)

    # Results.

    def result(self, conditions: Sequence[str]) -> dict:
        sides = {condition: self._tallies(condition) for condition in conditions}
        rows = [{"condition": name} | self._row(side, sides) for name, side in sides.items()]
        learned = self._learned() if _AFTER_LEARNING.intersection(conditions) else {}
        if "right-memory" in conditions:
            learned |= {"judging": self._judging(sides["right-memory"])}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {
            "model": self.name,
            "precision": self.model.backend.precision,
            "judge": offline_name(),
            "documents": len({item.asked.document for item in self.items}),
            "passages": len(self.passages),
            "words": sum(len(passage.text.split()) for passage in self.passages),
            **learned,
            "peak_gb": round(peak / 1e9, 2),
            "rows": rows,
        }

    def _learned(self) -> dict:
        reports = self.report.reports
        kept = [r for r in reports if r.memory]
        seconds: Counter[str] = Counter()
        for report in reports:
            seconds.update(report.stages)
        total = sum(r.seconds for r in reports)
        return {
            "passages_kept": len(kept) / len(reports),
            "passages_quarantined": sum(r.quarantined is not None for r in reports) / len(reports),
            "judging_questions_per_passage": sum(r.questions for r in reports) / len(reports),
            "mb_per_memory": sum(r.size_bytes for r in kept) / 1e6 / len(kept) if kept else None,
            "words_per_second": sum(r.words for r in reports) / total if total else None,
            "seconds": {stage: round(spent, 1) for stage, spent in seconds.items()},
        }

    def _judging(self, side: dict) -> dict:
        entries = [entry for entry in self.store.active() if entry.passage.id in side]
        accuracies = [share(matrix({"": side[entry.passage.id]})) for entry in entries]
        measures = {m: [entry.scores["after"][m] for entry in entries] for m in ("accuracy", "gold_logprob")}
        return {"memories": len(entries)} | {m: rank_correlation(v, accuracies) for m, v in measures.items()}

    def _tallies(self, condition: str) -> dict:
        """Passage → what bench/tallies.py describes, by kind of question and by document (`@document`)."""
        side: dict[str, dict] = {}
        for item in self.items:
            right = grade(item.asked.question, self.answered[self._key(self._record(condition, item))])
            kinds = side.setdefault(item.passage.id, {"kinds": {}})["kinds"]
            for kind in ("", item.asked.kind, f"@{item.asked.document}"):
                tally = kinds.setdefault(kind, [0, 0, 0.0, 0])
                tally[0] += right
                tally[1] += 1
                tally[3] += 1
        return side

    def _row(self, side: dict, sides: dict) -> dict:
        kinds = sorted({kind for passage in side.values() for kind in passage["kinds"]} - {""})
        tallies = matrix(side)

        def part(kind: str) -> dict:
            of_kind = matrix(side, kind)
            return {"questions": int(of_kind[:, 3].sum()), "accuracy": share(of_kind)}

        return {
            "questions": int(tallies[:, 3].sum()),
            "accuracy": share(tallies),
            "ci95": interval(tallies),
            "vs_base": difference(side, sides.get("base")),
            "of_in_context": ratio(side, sides.get("in-context")),
            "by_kind": {kind: part(kind) for kind in kinds if not kind.startswith("@")},
            "by_document": {kind[1:]: part(kind) for kind in kinds if kind.startswith("@")},
        }


def table(result: dict) -> str:
    """Returns the rows as Markdown."""
    lines = heading("Real documents", result)
    about = f"{result['documents']} documents, {result['passages']} passages, {result['words']:,} words"
    if "seconds" in result:
        speed = ", ".join(f"{stage} {seconds:,.0f} s" for stage, seconds in result["seconds"].items())
        about += (
            f"; {result['passages_kept']:.0%} of the passages kept, "
            f"{result['passages_quarantined']:.0%} in quarantine, "
            f"{result['judging_questions_per_passage']:.1f} judging questions per passage, "
            f"{number(result['mb_per_memory'], '.2f')} MB per memory, "
            f"{number(result['words_per_second'], '.2f')} words per second ({speed}), peak {result['peak_gb']:.2f} GB"
        )
    about += ". 95 % intervals: paired bootstrap over passages"
    if judging := result.get("judging"):
        about += (
            f". Rank correlation with the accuracy of right-memory, over {judging['memories']} memories: "
            f"accuracy on the judging questions {number(judging['accuracy'], '.2f')}, "
            f"their log-probability {number(judging['gold_logprob'], '.2f')}"
        )
    lines += [f"{about}.", ""]
    head = ["condition", "questions", "accuracy", "− base", "÷ in-context"]
    lines += markdown(
        head,
        (
            [
                r["condition"],
                r["questions"],
                with_interval([r["accuracy"], *(r["ci95"] or (None, None))]),
                with_interval(r["vs_base"], "+.3f"),
                with_interval(r["of_in_context"], ".2f"),
            ]
            for r in result["rows"]
        ),
    )
    for part in ("by_kind", "by_document"):
        names = list(dict.fromkeys(name for r in result["rows"] for name in r[part]))
        counts = result["rows"][0][part] if result["rows"] else {}
        head = ["accuracy", *(f"{name.rpartition('/')[2]} ({counts[name]['questions']})" for name in names)]
        cells = (
            [r["condition"], *(number(r[part][name]["accuracy"], ".2f") for name in names)] for r in result["rows"]
        )
        lines += ["", *markdown(head, cells)]
    return "\n".join(lines) + "\n"
