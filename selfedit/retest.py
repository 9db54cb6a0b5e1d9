"""What is kept → does it still hold? Every memory's judging questions again, through the router, as a person would ask.

A question that was answered right when its memory was kept may be lost since: another memory answers it now, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfedit.ask import ask
from selfedit.judge.evaluate import ANSWER_TOKENS, grade
from selfedit.memory.store import MemoryStore
from selfedit.model.load import Model
from selfedit.types import MemoryEntry


@dataclass(frozen=True)
class Retested:
    memory: MemoryEntry
    questions: int
    right_then: int
    """When it was kept, under its adapter."""
    right_now: int
    routed: int
    """To this memory, now."""

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
    model: Model,
    store: MemoryStore,
    memories: Sequence[MemoryEntry] | None = None,
    *,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Retested]:
    """Of these memories, or of all in force."""
    memories = store.active(model.fingerprint) if memories is None else memories
    asked = [(entry, question) for entry in memories for question in entry.questions]
    answers = ask(model, store, [question for _, question in asked], max_new_tokens=ANSWER_TOKENS, on_token=on_token)
    found = []
    for entry in memories:
        own = [(question, answer) for (owner, question), answer in zip(asked, answers) if owner is entry]
        found.append(
            Retested(
                entry,
                len(own),
                sum(map(bool, entry.scores.get("after", {}).get("correct", ()))),
                sum(grade(question, answer.answer) for question, answer in own),
                sum(answer.memory is not None and answer.memory.id == entry.id for _, answer in own),
            )
        )
    return found
