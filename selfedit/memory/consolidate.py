"""Consolidation: one adapter that answers for many memories, if they still hold.

The study material of every memory is studied again, together and from the untouched model, so the order in which the
memories came does not matter. Each memory is then tested with its judging questions under the new adapter; those that
hold share it from now on, the others keep their own. Their own adapters stay on disk: as soon as one member is
forgotten, disabled or replaced, all answer from their own again, and can be consolidated again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from selfedit.config import CONSOLIDATE_SHARE, ConsolidateConfig, with_rate
from selfedit.edits.recitation import recite, share_recited
from selfedit.errors import MemoryStoreError
from selfedit.judge.evaluate import Group, evaluate_groups, read
from selfedit.judge.general import general_harm
from selfedit.libraries import Library, Scope
from selfedit.loop.trial import joint_job, study_examples, study_sequences
from selfedit.memory.gate import exceeds, general_fault
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import Job
from selfedit.model.load import Model
from selfedit.types import MemoryEntry, Progress, no_progress, stable_seed


@dataclass(frozen=True)
class Rehearsed:
    """A memory under the new adapter."""

    memory: str
    questions: int
    right_then: int
    """When it was kept, under its own."""
    right_now: int
    holds: bool


@dataclass(frozen=True)
class Consolidation:
    shared: str | None
    """Id of the adapter; None if nothing is shared."""
    reason: str
    """Why it is, or is not."""
    rehearsed: list[Rehearsed]
    left_out: dict[str, str]
    """Why memories, by their ids, took no part."""
    general_change: float
    """Mean KL(untouched ‖ adapted) on the general texts, nats per token."""
    tokens: int
    """Trained on."""
    seconds: float

    def record(self) -> dict:
        return asdict(self)


def _left_out(entries: Sequence[MemoryEntry]) -> dict[str, str]:
    """Why memories, by their ids, cannot share an adapter with the others."""
    tags = {Library.parse(entry.passage.library) for entry in entries if entry.passage.library}
    older = {str(tag) for tag in Scope().hidden(tags)}
    reasons: dict[str, str] = {}
    first: dict[str, str] = {}
    for entry in entries:
        if entry.passage.library in older:
            reasons[entry.id] = f"a newer version than {entry.passage.library} is among them"
        elif entry.recites and first.setdefault(entry.passage.request, entry.id) != entry.id:
            reasons[entry.id] = f"{first[entry.passage.request]} recites for the same request"
    return reasons


def consolidate(
    model: Model,
    store: MemoryStore,
    entries: Sequence[MemoryEntry],
    config: ConsolidateConfig,
    *,
    progress: Progress = no_progress,
) -> Consolidation:
    """Raises MemoryStoreError with fewer than two memories.

    Of several versions of a library only the newest takes part: one adapter must not answer for two versions. So does
    only the first of several memories that recite for the same request (`Passage.request`)."""
    left_out = _left_out(entries)
    entries = [entry for entry in entries if entry.id not in left_out]
    if len(entries) < 2:
        told = next((f"; {id} is left out: {reason}" for id, reason in left_out.items()), "")
        raise MemoryStoreError(f"give at least two memories to consolidate; see `selfedit memory list`{told}")
    start = time.perf_counter()
    train = config.recitation if any(entry.recites for entry in entries) else config.train
    if not all(entry.recites for entry in entries):
        train = replace(train, rivals=0)  # an answer to a question could begin with any token
    train = with_rate(train, CONSOLIDATE_SHARE * model.rate)
    jobs = [_rehearsal(model, store, entries, config.seed)]
    adapters, logs = model.backend.train(jobs, train, on_step=partial(progress, "train"))
    adapters = adapters.as_stored()
    (change,), (lost,) = general_harm(model, adapters)
    reciting = [entry for entry in entries if entry.recites]
    said = recite(model, [entry.passage for entry in reciting], [0] * len(reciting), adapters)
    recited = {entry.id: passage for entry, passage in zip(reciting, said)}
    on_token = partial(progress, "test")
    from_recitation = iter(read(model, [(q, recited[e.id]) for e in reciting for q in e.questions], on_token=on_token))
    groups = [Group(entry.questions, [0]) for entry in entries if not entry.recites]
    scores = iter(evaluate_groups(model, groups, adapters, on_token=on_token))
    rehearsed = []
    for entry in entries:
        correct = [next(from_recitation) for _ in entry.questions] if entry.recites else next(scores)[0].correct
        then, now = entry.right_when_kept, sum(map(bool, correct))
        holds = not exceeds(then - now, config.max_lost * then)
        if entry.recites:
            holds &= share_recited(entry.passage, recited[entry.id]) >= config.min_recited
        rehearsed.append(Rehearsed(entry.id, len(entry.questions), then, now, holds))
    held = [entry for entry, one in zip(entries, rehearsed) if one.holds]
    shared = None
    if fault := general_fault(change, lost, config):
        reason = fault
    elif len(held) < 2:
        reason = f"{len(held)} of {len(entries)} memories hold; two at least are needed"
    else:
        reason = f"{len(held)} of {len(entries)} memories hold and share it"
        record = {"general_change": change, "general_lost": lost, "rehearsed": [asdict(one) for one in rehearsed]}
        shared = store.share(
            lambda folder: model.backend.save(adapters, 0, folder, model.name, small=True),
            held,
            record | {"recites": True},
            rehearsed=entries,
        )
    return Consolidation(
        shared, reason, rehearsed, left_out, change, logs[0].tokens, round(time.perf_counter() - start, 1)
    )


def _rehearsal(model: Model, store: MemoryStore, entries: Sequence[MemoryEntry], seed: int) -> Job:
    """Everything that they studied; what was drawn afresh in each epoch is again studied once."""
    parts = []
    for entry in entries:
        examples = study_examples(entry.passage, store.edits(entry.id), entry.recites)
        parts.append((study_sequences(model, entry.passage, examples), examples))
    return joint_job(parts, stable_seed(seed, "consolidate", *(entry.id for entry in entries)))
