"""Passages that are learned once, as a user would learn them, and questions that are asked under several conditions.

Finished passages and answers are on disk and are not repeated: a stopped run resumes, and a finished one can be
extended by conditions or questions. A question that the model could not be asked is `failed`: it is in no accuracy, and
a continued run asks it again. `bench documents` and `bench answers` choose the questions and the conditions.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from selfedit.answers.answerer import ADAPTERS, ANSWER_TOKENS, BASE, WEIGHTS, Answer, Answerer, Ask
from selfedit.answers.choose import rule_name
from selfedit.bench.conditions import Retriever
from selfedit.bench.measure import of_batch, peak_gb
from selfedit.bench.tables import markdown, number
from selfedit.bench.tallies import add, interval, matrix, share
from selfedit.config import LearnConfig
from selfedit.edits.quiz import with_passage
from selfedit.errors import ModelError, RunError, SelfeditError
from selfedit.judge.evaluate import grade, offline_name
from selfedit.learn import LearnReport, learn
from selfedit.loop.journal import Journal, lock_run_folder, read_back, software, write_json
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import Adapters, OnStep, Request
from selfedit.model.load import Model
from selfedit.types import Passage, Progress, Question, Task, text_hash

TOGETHER = 32
"""Questions that are asked in one batch; a run that is stopped asks them again."""


@dataclass(frozen=True)
class Item:
    """A question, and the passage that answers it."""

    id: str
    question: Question
    kind: str
    document: str
    passage: Passage


Answering = Callable[[Sequence[Item], OnStep], list[dict]]
"""A record for each question, with its `answer`, and with an `error` if there is none."""


class Learned:
    """The memories of a run, and the answers to its questions."""

    def __init__(
        self,
        model: Model,
        passages: Sequence[Passage],
        items: Sequence[Item],
        out: Path,
        config: LearnConfig,
        progress: Progress,
        settings: dict | None = None,
    ):
        """`settings`: what the run is bound to, beside the model and the config. Raises SelfeditError if two questions
        have one id, or if the store in the folder holds a memory of another passage, which would be a distractor."""
        self.model, self.passages, self.items, self.config, self.progress = model, passages, items, config, progress
        if double := next((id for id, count in Counter(item.id for item in items).items() if count > 1), None):
            raise SelfeditError(f"two questions have the id {double[:80]!r}; give each its own, and each file once")
        self._out = out
        self._lock = lock_run_folder(out, model.identity() | {"config": asdict(config)} | (settings or {}))
        self.store = MemoryStore(out / "home")
        ids = {passage.id for passage in passages}
        if other := next((entry.passage for entry in self.store.active() if entry.passage.id not in ids), None):
            raise RunError(f"{out} holds a memory of another passage, {other.title[:80]!r}; give another --out")
        self.answerer = Answerer(model, self.store)
        self.answers: dict[str, list[dict]] = {}
        """By condition, in the order of the questions."""
        self._journal = Journal(out / "answers.jsonl")
        answered = (record for record in self._journal.records if "error" not in record)
        self._known = {(r["condition"], r["question"], r["depends"]): r for r in answered}

    @cached_property
    def report(self) -> LearnReport:
        """Learns what is not learned yet."""
        report = learn(self.model, self.passages, self.store, self.config, progress=self.progress)
        write_json(self._learning_file, {"peak_gb": max(peak_gb(), self._peak_of_learning())})
        return report

    @property
    def _learning_file(self) -> Path:
        return self._out / "learning.json"

    def _peak_of_learning(self) -> float:
        return read_back(self._learning_file)["peak_gb"] if self._learning_file.exists() else 0.0

    @cached_property
    def memories(self) -> dict[str, str]:
        """Passage id → the id of the memory with what was learned of it."""
        _ = self.report
        return {entry.passage.id: entry.id for entry in self.store.active() if entry.has_adapter}

    def depends(self, *passages: Passage) -> list[str]:
        """What an answer depends on, beside its question: the memories, passages in view, and the rule of answers."""
        _ = self.report
        return [*sorted(self.store.active_ids()), *(passage.id for passage in passages), rule_name()]

    # Asking

    def ask(self, condition: str, answer: Answering, depends: Callable[[Item], list[str]]) -> None:
        """Asks all questions that have no answer under this condition yet. `depends`: the ids of the memories and
        passages that the answer to a question depends on."""
        keys = [self._key(condition, item, depends(item)) for item in self.items]
        todo = [(item, key) for item, key in zip(self.items, keys) if key not in self._known]
        for low in range(0, len(todo), TOGETHER):
            batch, start = todo[low : low + TOGETHER], time.perf_counter()
            on_token = of_batch(self.progress, condition, low, len(batch), len(todo))
            given = answer([item for item, _ in batch], on_token)
            seconds = round((time.perf_counter() - start) / len(batch), 4)
            for (_, key), one in zip(batch, given, strict=True):
                measured = {"seconds": seconds, "peak_gb": peak_gb()}
                record = dict(zip(("condition", "question", "depends"), key)) | one | measured
                self._journal.add(record)
                self._known[key] = record
        self.answers[condition] = [self._known[key] for key in keys]

    @staticmethod
    def _key(condition: str, item: Item, depends: Sequence[str]) -> tuple[str, str, str]:
        return condition, item.id, text_hash(item.question.question, *depends)[:12]

    def untouched(self, in_view: Callable[[Item], Passage | None]) -> Answering:
        """Answers of the untouched model, with a passage in view."""
        return lambda items, on_token: self._texts([self._request(item, in_view(item)) for item in items], on_token)

    def right_memory(self) -> Answering:
        """Answers of the memory of the passage that has the answer, as `selfedit ask --from weights` gives them; of the
        untouched model, where nothing was learned of it."""

        def answer(items: Sequence[Item], on_token: OnStep) -> list[dict]:
            asks = [
                Ask(item.question, WEIGHTS if (memory := self.memories.get(item.passage.id)) else BASE, memory)
                for item in items
            ]
            return self._records(asks, on_token)

        return answer

    def with_memory(self, in_view: Callable[[Item], Passage | None]) -> Answering:
        """Answers of the adapter of the passage that has the answer; of the untouched model, where nothing was learned
        of it."""

        def answer(items: Sequence[Item], on_token: OnStep) -> list[dict]:
            records: dict[str, dict] = {}
            left = [item for item in items if item.passage.id not in self.memories]
            records |= zip((i.id for i in left), self.untouched(in_view)(left, on_token))
            known = list(dict.fromkeys(m for i in items if (m := self.memories.get(i.passage.id))))
            for low in range(0, len(known), ADAPTERS):
                rows = {memory: row for row, memory in enumerate(known[low : low + ADAPTERS])}
                adapters = self.model.backend.load([self.store.answering_path(memory) for memory in rows])
                group = [i for i in items if self.memories.get(i.passage.id) in rows]
                requests = [
                    replace(self._request(i, in_view(i)), adapter=rows[self.memories[i.passage.id]]) for i in group
                ]
                records |= zip((i.id for i in group), self._texts(requests, on_token, adapters))
            return [records[item.id] for item in items]

        return answer

    def arm(self, arm: str) -> Answering:
        """Answers as `selfedit ask --from` does."""
        return lambda items, on_token: self._records([Ask(item.question, arm) for item in items], on_token)

    def retriever(self, most: int) -> Callable[[Item], Passage]:
        """The best passages by BM25, as one."""
        retriever = Retriever([Task(passage, ()) for passage in self.passages], most)
        return lambda item: retriever.best(item.question)

    def _records(self, asks: Sequence[Ask], on_token: OnStep) -> list[dict]:
        try:
            return [_record(given) for given in self.answerer.answer(asks, on_token=on_token)]
        except ModelError as error:  # the model can read none of them
            return [_failed(error) for _ in asks]

    def _request(self, item: Item, passage: Passage | None) -> Request:
        asked = with_passage(passage, item.question) if passage else item.question
        return Request(tuple(self.model.chat.prompt(asked)), max_new_tokens=ANSWER_TOKENS)

    def _texts(self, requests: Sequence[Request], on_token: OnStep, adapters: Adapters | None = None) -> list[dict]:
        most = self.model.backend.max_positions
        fitting = [request for request in requests if request.most_tokens <= most]
        written = iter(self.model.backend.generate(fitting, adapters, on_token=on_token))
        records = []
        for request in requests:
            if request.most_tokens > most:
                records.append(_failed(f"{request.most_tokens} tokens do not fit the model's {most} positions"))
                continue
            tokens = next(written)
            text = self.model.chat.decode(tokens).strip()
            records.append({"answer": text, "tokens": len(request.tokens) + len(tokens)})
        return records

    # Results

    def right(self, condition: str) -> list[bool | None]:
        """The verdict on each question's answer; None if it failed."""
        return [
            None if "error" in record else grade(item.question, record["answer"])
            for item, record in zip(self.items, self.answers[condition])
        ]

    def side(self, condition: str) -> dict:
        """Passage → what bench/tallies.py describes, by kind of question and by document (`@document`)."""
        side: dict[str, dict] = {}
        for item, correct in zip(self.items, self.right(condition)):
            add(side, item.passage.id, [item.kind, f"@{item.document}"], correct)
        return side

    def about(self) -> dict:
        """The model, the judge, the amount of text, the peak memory and the software of the run."""
        peaks = [record.get("peak_gb", 0.0) for records in self.answers.values() for record in records]
        return {
            "model": self.model.name,
            "precision": self.model.backend.precision,
            "judge": offline_name(),
            "documents": len({item.document for item in self.items}),
            "passages": len(self.passages),
            "words": sum(len(passage.text.split()) for passage in self.passages),
            "peak_gb": max(peak_gb(), self._peak_of_learning(), *peaks),  # of all processes of the run
            "software": software(self._out),
        }

    def learning(self) -> dict:
        """The shares of the passages that were kept and quarantined, and the cost of learning them."""
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


def _failed(error: object) -> dict:
    return {"answer": "", "error": str(error)}


def _record(answer: Answer) -> dict:
    taken = answer.taken
    judged = {"probability": taken.probability} if taken else {}
    judged |= {"sentence": taken.support.sentence} if taken and taken.support else {}
    return answer.record() | judged | {"tokens": answer.tokens}


def row(side: dict) -> dict:
    """The accuracy of one condition, over all and by kind and document, and how many of its questions failed."""
    kinds = sorted({kind for passage in side.values() for kind in passage["kinds"]} - {""})
    tallies = matrix(side)

    def part(kind: str) -> dict:
        of_kind = matrix(side, kind)
        return {"questions": int(of_kind[:, 3].sum()), "accuracy": share(of_kind)}

    return {
        "questions": int(tallies[:, 3].sum()),
        "failed": int((tallies[:, 3] - tallies[:, 1]).sum()),
        "accuracy": share(tallies),
        "ci95": interval(tallies),
        "by_kind": {kind: part(kind) for kind in kinds if not kind.startswith("@")},
        "by_document": {kind[1:]: part(kind) for kind in kinds if kind.startswith("@")},
    }


def learning_line(result: dict) -> str:
    """What was asked and learned, for people."""
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
    return about


def parts_tables(rows: Sequence[dict]) -> list[str]:
    """The accuracies by kind of question and by document, as Markdown."""
    lines: list[str] = []
    for part in ("by_kind", "by_document"):
        names = list(dict.fromkeys(name for r in rows for name in r[part]))
        counts = rows[0][part] if rows else {}
        head = ["accuracy", *(f"{name.rpartition('/')[2]} ({counts[name]['questions']})" for name in names)]
        cells = ([r["condition"], *(number(r[part][name]["accuracy"], ".2f") for name in names)] for r in rows)
        lines += ["", *markdown(head, cells)]
    return lines
