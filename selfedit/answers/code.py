"""Code tasks → what the Answerer is asked: passages on the library in view, and the adapter of its release.

A release has one adapter (`selfedit.release`), so the version of the library decides which adapter writes, and the
words of the task only which passages are in view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfedit.answers.answerer import AUTO, BASE, BOTH, TEXT, Ask
from selfedit.code import CodeTask
from selfedit.edits.quiz import joined
from selfedit.libraries import Library, Wanted
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.types import MemoryEntry, Passage, Question

CODE_TOKENS = 256
"""Longest piece of code."""
IN_VIEW = 3
"""Passages in view; one of a release is about a single change."""


class PassageIndex:
    """Finds passages by the words of a task, however few it shares with them."""

    def __init__(self, passages: Sequence[Passage]):
        self._passages = {passage.id: passage for passage in passages}
        self._router = Router.of_texts({id: f"{p.title}\n{p.text}" for id, p in self._passages.items()}, least=0)

    def best(self, task: str) -> tuple[Passage, ...]:
        """At most IN_VIEW passages, the best first."""
        return tuple(self._passages[id] for id in self._router.nearest(task, IN_VIEW))


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
        self._index = PassageIndex([entry.passage for entry in self.entries])

    def ask(self, task: CodeTask, arm: str = AUTO, tokens: int = CODE_TOKENS) -> Ask:
        """AUTO: both, where the release has an adapter; else the text."""
        if arm == AUTO:
            arm = (BOTH if self.writer else TEXT) if self.entries else BASE
        return Ask(
            Question(task.prompt, ()),
            arm,
            library=self.wanted,
            passages=self._index.best(task.instruction),
            writer=self.writer,
            opening=task.opening,
            stop=task.is_whole,
            query=task.instruction,
            view=in_view,
            whole=False,
            max_new_tokens=tokens,
        )

    def in_chat(self, ask: Ask) -> Ask:
        """A message of a chat about this version, answered by the adapter of the release where there is one."""
        if not self.writer or ask.passages or ask.arm != AUTO:
            return ask
        passages = self._index.best(ask.looked_up)
        return replace(ask, arm=BOTH, passages=passages, writer=self.writer, view=in_view, whole=False)


def _lowest(entry: MemoryEntry) -> tuple[int, ...]:
    lowest = Library.parse(entry.passage.library).lowest
    return lowest.release if lowest else ()


def in_view(passages: Sequence[Passage], question: Question) -> Question:
    """The task with the passages before it."""
    return replace(question, question=joined(passages).with_request(question.question))
