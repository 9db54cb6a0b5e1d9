"""A new memory → reasons why the user should look at it before it answers.

It may speak to the model, or take questions away from the untouched model and from the memories of other sources. What
is answered wrongly then is found by asking these questions again.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfedit.config import GateConfig
from selfedit.judge.evaluate import evaluate, read
from selfedit.judge.general import general_questions
from selfedit.libraries import Scope
from selfedit.memory.contradict import near
from selfedit.memory.entries import learned_text
from selfedit.memory.gate import exceeds
from selfedit.memory.screen import captured, find_suspicious_patterns
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import Adapters
from selfedit.model.load import Model
from selfedit.types import Passage, Question, SelfEdit, Trial


class _Taken:
    """The questions that a new memory would answer in place of the base model and of other sources' memories."""

    def __init__(self, model: Model, passage: Passage, edits: Sequence[SelfEdit], store: MemoryStore):
        router, new = store.router(model.fingerprint, Scope.of(passage.library), passage.id), "new"
        neighbours = [e for e in store.remaining(near(passage, router)) if e.passage.source != passage.source]
        after = router.with_text(new, learned_text(passage, edits))
        self.general = captured(after, new, general_questions())
        self.right = [
            (entry, q)
            for entry in neighbours
            for q, correct in zip(entry.questions, entry.scores.get("after", {}).get("correct", ()))
            if correct
        ]
        """Questions that other memories answered right when they were kept."""
        self.of_others = [
            (entry, q)
            for entry, q in self.right
            if router.route(q.question)[0] == entry.id and after.route(q.question)[0] == new
        ]

    def too_general(self, config: GateConfig) -> list[str]:
        """The reason not to put it into force, if these are too many general questions."""
        most = config.max_captured * len(general_questions())
        about = f"(“{self.general[0].question}”)" if self.general else ""
        count = f"{len(self.general)} of {len(general_questions())} general questions"
        return [f"would answer {count} {about}"] if exceeds(len(self.general), most) else []


def suspicions(
    model: Model, passage: Passage, trial: Trial, adapter: Adapters, store: MemoryStore, config: GateConfig
) -> list[str]:
    """Reasons why the memory must not become active before the user has looked at it. `adapter`: its adapter alone.
    Questions are asked only if so many of them could be lost."""
    taken = _Taken(model, passage, trial.edits, store)
    too_general, general = taken.too_general(config), general_questions()
    reasons = [*find_suspicious_patterns(passage), *too_general]
    most = config.max_lost * len(general)
    may_spoil = not too_general and exceeds(len(taken.general), most)
    spoiled = _spoiled(model, taken.general, adapter, trial.recited) if may_spoil else []
    if exceeds(len(spoiled), most):
        reasons.append(
            f"would answer {len(spoiled)} of {len(general)} general questions wrong that the base model answers right "
            f"(“{spoiled[0].question}”)"
        )
    most, lost = config.max_lost * len(taken.right), []
    if exceeds(len(taken.of_others), most):
        verdicts = _verdicts(model, [q for _, q in taken.of_others], adapter, trial.recited)
        lost = [entry for (entry, _), correct in zip(taken.of_others, verdicts) if not correct]
    if exceeds(len(lost), most):
        ids = ", ".join(sorted({entry.id for entry in lost}))
        reasons.append(
            f"would answer {len(lost)} of {len(taken.right)} questions of similar memories, and wrong ({ids})"
        )
    return reasons


def suspicious_text(model: Model, passage: Passage, store: MemoryStore, config: GateConfig) -> list[str]:
    """As `suspicions`, for a memory without an adapter."""
    taken = _Taken(model, passage, [], store)
    reasons = [*find_suspicious_patterns(passage), *taken.too_general(config)]
    if exceeds(len(taken.of_others), config.max_lost * len(taken.right)):
        ids = ", ".join(sorted({entry.id for entry, _ in taken.of_others}))
        reasons.append(
            f"would answer {len(taken.of_others)} of {len(taken.right)} questions of similar memories ({ids})"
        )
    return reasons


def _spoiled(model: Model, questions: Sequence[Question], adapter: Adapters, recited: Passage | None) -> list[Question]:
    """Questions that the base model answers right and the memory wrong."""
    (before,), after = evaluate(model, questions, [None]), _verdicts(model, questions, adapter, recited)
    return [q for q, was, now in zip(questions, before.correct, after) if was and not now]


def _verdicts(
    model: Model, questions: Sequence[Question], adapter: Adapters, recited: Passage | None
) -> Sequence[bool | None]:
    """Whether a memory answers each question right: its adapter, or the model from what the adapter recited."""
    if recited:
        return read(model, [(question, recited) for question in questions])
    return evaluate(model, questions, [0], adapter)[0].correct
