"""Asks every memory's judging questions again, through the router, as `ask --from weights` does.

A question that was answered right when its memory was kept may be answered by another memory now, or by none. Of a
release that was learned as code, the pairs that judged it are measured again, with the adapter that answers for its
library now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from selfedit.answers.answerer import WEIGHTS, Answerer, Ask
from selfedit.answers.code import Release
from selfedit.edits.code import Pair
from selfedit.judge.evaluate import ANSWER_TOKENS, grade
from selfedit.libraries import Library, Scope
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import OnStep, no_steps
from selfedit.model.load import Model
from selfedit.release import prefers_new, side_logprobs
from selfedit.types import MemoryEntry


@dataclass(frozen=True)
class Retested:
    memory: MemoryEntry
    questions: int
    right_then: int
    """Right answers when the memory was kept, with its own adapter."""
    right_now: int
    failed: int
    """Questions that could not be asked: they are too long, or an adapter is damaged."""
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
            "failed": self.failed,
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
        failed = sum(bool(answer.error) for _, answer in pairs)
        right_now = sum(not answer.error and grade(question, answer.answer) for question, answer in pairs)
        routed = sum(answer.writer is not None and answer.writer.id == entry.id for _, answer in pairs)
        results.append(Retested(entry, len(pairs), entry.right_when_kept, right_now, failed, routed))
    return results


@dataclass(frozen=True)
class RetestedRelease:
    shared_adapter: str
    library: str
    pairs: int
    """Held-back pairs of old and new code."""
    prefers_new_then: float
    """Share of them whose new side was likelier when the adapter was kept."""
    prefers_new_now: float

    def record(self) -> dict:
        return asdict(self)


def retest_releases(model: Model, store: MemoryStore, memories: Sequence[MemoryEntry]) -> list[RetestedRelease]:
    """One result for each adapter of a release that any of these memories shares."""
    in_force, results = store.in_force(), []
    for shared in dict.fromkeys(filter(None, (in_force.get(entry.id) for entry in memories))):
        scores = store.shared_scores(shared)
        pairs = [Pair(**pair) for pair in scores.get("held_back", ())]
        if not pairs:
            continue
        library = Library.parse(scores["library"])
        if writer := Release(store, model.fingerprint, library.first).writer:
            adapter = model.backend.load([store.answering_path(writer)])
            logprobs = side_logprobs(model, adapter, 0, pairs, library)
            then, now = scores["prefers_new_after"], prefers_new(logprobs)
            results.append(RetestedRelease(shared, str(library), len(logprobs), then, now))
    return results
