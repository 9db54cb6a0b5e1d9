"""Code tasks → what the Answerer is asked. Code is written in two steps where something is known of the library.

1. The model writes a draft as it would without documents. It names what the old version had, which is what release
   notes and upgrade guides name, too: the notes that share words with the task or with the draft are looked up (as in
   RepoCoder, Zhang et al. 2023, arXiv:2303.12570).
2. It writes the code with those notes in view, but not the draft, which small models copy.

A release may have one adapter (`selfedit.release`), so the version of the library decides which adapter writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from heapq import nlargest

from selfedit.answers.answerer import AUTO, BASE, BOTH, TEXT, WEIGHTS, Answerer, Ask
from selfedit.code import CodeTask
from selfedit.edits.changes import Change, find_changes
from selfedit.libraries import Library, Wanted
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import OnStep, no_steps
from selfedit.types import MemoryEntry, Passage, Question

CODE_TOKENS = 256
"""Longest piece of code."""
IN_VIEW = 3
"""Notes in view; each is about a single change."""


class Notes:
    """What passages state about a library: the changes, and each passage that states none, as a whole."""

    def __init__(self, passages: Sequence[Passage]):
        """`passages`: with units, those of a document in its order."""
        changes = find_changes(passages)
        told = {id for change in changes for id in change.passage_ids}
        whole = [Change(one, f"{one.title}\n{one.text}") for one in passages if one.id not in told]
        self._notes = [*changes, *whole]
        self._router = Router.of_texts({str(i): note.text for i, note in enumerate(self._notes)}, least=0)

    def best(self, task: str, draft: str = "") -> list[Change]:
        """At most IN_VIEW notes, the best first: by their rank for the words of the task and for those of the draft."""
        scores: dict[int, float] = defaultdict(float)
        for query in filter(None, (task, draft)):
            for rank, i in enumerate(self._router.nearest(query, len(self._notes))):
                scores[int(i)] += 1 / (1 + rank)
        return [self._notes[i] for i in nlargest(IN_VIEW, scores, key=scores.__getitem__)]


class Release:
    """What a store knows of a version of a library."""

    def __init__(self, store: MemoryStore, model_hash: str, wanted: Wanted | None):
        """`wanted`: None where the code is for no library."""
        self.wanted = wanted
        known = store.about(wanted) if wanted else []
        self.entries = [entry for entry in known if entry.model_hash == model_hash]
        in_force = store.in_force()
        sharing = [entry for entry in self.entries if not entry.has_adapter and in_force.get(entry.id)]
        self.writer: str | None = max(sharing, key=_lowest).id if sharing else None
        """A memory that shares the adapter of the newest version; None if there is no such adapter."""
        passages = [entry.passage for entry in self.entries]
        self._notes = Notes(sorted(passages, key=lambda passage: (passage.source, passage.index)))

    def ask(self, task: CodeTask, arm: str = AUTO, tokens: int = CODE_TOKENS, draft: str = "") -> Ask:
        """AUTO: both, where the release has an adapter; else the text. `draft`: code for the task."""
        if arm == AUTO:
            arm = (BOTH if self.writer else TEXT) if self.entries else BASE
        notes = self._notes.best(task.instruction, draft) if arm != BASE else []
        return Ask(
            Question(task.prompt, ()),
            arm,
            library=self.wanted,
            passages=_passages(notes),
            writer=self.writer if arm != BASE else None,
            opening=task.opening,
            stop=task.is_whole,
            query=task.instruction,
            view=partial(with_notes, notes),
            whole=False,
            max_new_tokens=tokens,
        )

    def in_chat(self, ask: Ask) -> Ask:
        """A message of a chat about this version, answered by the adapter of the release where there is one."""
        if not self.writer or ask.passages or ask.arm != AUTO:
            return ask
        notes = self._notes.best(ask.looked_up)
        view = partial(with_notes, notes)
        return replace(ask, arm=BOTH, passages=_passages(notes), writer=self.writer, view=view, whole=False)


def _lowest(entry: MemoryEntry) -> tuple[int, ...]:
    lowest = Library.parse(entry.passage.library).lowest
    return lowest.release if lowest else ()


def _passages(notes: Sequence[Change]) -> tuple[Passage, ...]:
    return tuple({passage.id: passage for note in notes for passage in (note.passage, *note.others)}.values())


def with_notes(notes: Sequence[Change], passages: Sequence[Passage], question: Question) -> Question:
    """The task with the notes before it, the best one next to it. `passages`: what they are from, as it is known. A
    passage that is known in other words, or that a model recites differently, is shown as it is."""
    known = {passage.id for passage in passages}
    shown = [note for note in notes if known.issuperset(note.passage_ids)]
    told = {id for note in shown for id in note.passage_ids}
    texts = [note.text for note in shown]
    texts += [f"{passage.title}\n{passage.text}".strip() for passage in passages if passage.id not in told]
    return replace(question, question="\n\n".join([*reversed(texts), question.question]))


def asks_for(
    answerer: Answerer,
    release: Release,
    tasks: Sequence[CodeTask],
    arm: str = AUTO,
    *,
    tokens: int = CODE_TOKENS,
    drafts: Sequence[str] | None = None,
    on_token: OnStep = no_steps,
) -> list[Ask]:
    """What the Answerer is asked for each task; `CodeTask.code` takes the code from its answer. `drafts`: code for the
    tasks, if there is some; else it is written here, where notes are shown. Raises as `Answerer.answer`."""
    asks = [release.ask(task, arm, tokens) for task in tasks]
    if drafts is None:
        drafts = [""] * len(tasks)
        shows_notes = not (arm == WEIGHTS and release.writer)
        if shows_notes and any(ask.passages for ask in asks):
            written = answerer.answer([release.ask(task, BASE, tokens) for task in tasks], on_token=on_token)
            drafts = [task.code(answer.answer) for task, answer in zip(tasks, written)]
    return [release.ask(task, arm, tokens, draft) if draft else ask for task, ask, draft in zip(tasks, asks, drafts)]
