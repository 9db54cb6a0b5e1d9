"""Asks every memory's judging questions again, through the router, as a person would ask them.

A question that was answered right when its memory was kept may be answered by another memory now, or by none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfedit.answers.answerer import WEIGHTS, Answerer, Ask
from selfedit.judge.evaluate import ANSWER_TOKENS, grade
from selfedit.libraries import Scope
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import OnStep, no_steps
from selfedit.model.load import Model
from selfedit.types import MemoryEntry


@dataclass(frozen=True)
class Retested:
    memory: MemoryEntry
    questions: int
    right_then: int
    """Right answers when the memory was kept, with its own adapter."""
    right_now: int
    routed: int
    """Questions for which the router now chooses this memory."""

    def record(self) -> dict:
        return {
            "id": self.memory.id,
            "title": self.memory.passage.title,
            "source": self.memory.passage.source,
            "questions": self.questions,
            "right_then": self.right_then,
            "right_now": self.right_now,
            "routed": self.routed,
        }


def retest(
    model: Model, store: MemoryStore, memories: Sequence[MemoryEntry] | None = None, *, on_token: OnStep = no_steps
) -> list[Retested]:
    """One result per memory; of all active memories if none are given."""
    memories = store.active(model.fingerprint) if memories is None else memories
    memories = [entry for entry in memories if entry.has_adapter]
    asks = [
        Ask(question, WEIGHTS, library=Scope.of(entry.passage.library).wanted, max_new_tokens=ANSWER_TOKENS)
        for entry in memories
        for question in entry.questions
    ]
    answers = iter(Answerer(model, store).answer(asks, on_token=on_token))
    results = []
    for entry in memories:
        pairs = [(question, next(answers)) for question in entry.questions]
        right_then = sum(map(bool, entry.scores.get("after", {}).get("correct", ())))
        right_now = sum(grade(question, answer.answer) for question, answer in pairs)
        routed = sum(answer.memory is not None and answer.memory.id == entry.id for _, answer in pairs)
        results.append(Retested(entry, len(pairs), right_then, right_now, routed))
    return results
