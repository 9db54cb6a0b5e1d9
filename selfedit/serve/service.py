"""What every way in shares (the HTTP routes, MCP, the page): the model, the homes of the users, and the jobs."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from selfedit.answers.answerer import Ask
from selfedit.answers.code import Release
from selfedit.answers.why import why
from selfedit.conversations import Conversations
from selfedit.libraries import Wanted
from selfedit.memory.difference import between_memories
from selfedit.memory.store import MemoryStore
from selfedit.model.load import Model
from selfedit.serve.engine import Engine, Written
from selfedit.serve.jobs import WAITING, Job, Jobs, safe_name, without_paths
from selfedit.sessions import Reader
from selfedit.types import MemoryEntry, Message, text_hash

USERS = "users"
"""The folder of the homes of those who have one of their own."""
CONVERSATION = "what the user said"
"""The title of jobs that learn conversations."""
UPLOAD_BYTES = 20_000_000
USER_HEADER = "x-selfedit-user"
"""The header that names the user, of HTTP and of MCP over HTTP."""
UNTITLED = "a note"
"""The title of a text without one."""


class BusyError(Exception):
    """More questions wait than may wait."""


@dataclass
class Service:
    model: Model
    home: Path
    """Of whoever names no user."""
    most_waiting: int = 256
    """Questions that may wait or be answered at once; a further one is refused."""
    reader: Reader | None = None
    """Reads conversations; None: rules alone do."""

    def __post_init__(self):
        self.home = Path(os.path.realpath(self.home))  # as messages name files in it
        self.engine = Engine(self.model)
        self.jobs = Jobs(self.model.name, self.model.backend.name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Learns in the background, and first what an earlier server has left undone."""
        for home in (self.home, *sorted((self.home / USERS).glob("*/"))):
            self.jobs.find_unfinished(home)
        work = asyncio.create_task(self.jobs.run())
        try:
            yield
        finally:
            await self.jobs.close()
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            self.engine.close()

    def home_of(self, user: str | None) -> Path:
        """The home of a user's own; nothing in it answers anybody else."""
        if not user:
            return self.home
        readable = re.sub(r"[^a-z0-9]+", "-", user.lower())[:24].strip("-")
        return self.home / USERS / f"{readable}-{text_hash(user)[:16]}"

    def without_paths(self, message: str) -> str:
        """A message for clients, which need not know where the memory home is on this machine."""
        return without_paths(message, self.home)

    # Answers

    async def answer(self, home: Path, ask: Ask, stops: Sequence[str] = ()) -> AsyncGenerator[str | Written]:
        """As `Engine.answer`. Raises BusyError too."""
        if self.engine.busy >= self.most_waiting:
            raise BusyError(f"{self.engine.busy} questions are waiting; try again in a moment")
        async with aclosing(self.engine.answer(home, ask, stops)) as items:
            async for item in items:
                yield item

    async def answered(self, home: Path, ask: Ask, stops: Sequence[str] = ()) -> Written:
        async with aclosing(self.answer(home, ask, stops)) as items:
            async for item in items:
                if isinstance(item, Written):
                    return item
        raise AssertionError("the engine ends with the whole answer")

    def explained(self, home: Path, ask: Ask, written: Written) -> dict:
        """The answer, as `selfedit ask --why --json` prints it."""
        return written.answer.record() | why(MemoryStore(home), ask.question.question, written.answer)

    # Memories

    def memories(self, home: Path, everything: bool) -> dict:
        store = MemoryStore(home)
        in_force, entries = store.in_force(), store.all() if everything else store.active()
        return {
            "memories": [
                entry.record() | {"active": entry.id in in_force, "shared_adapter": in_force.get(entry.id)}
                for entry in entries
            ],
            "version": store.version,
        }

    def memory(self, home: Path, id: str) -> dict:
        store = MemoryStore(home)
        entry = store.get(id)
        same = [
            other.id
            for other in store.all()
            if other.passage.source == entry.passage.source != "" and other.id != entry.id
        ]
        in_force = store.in_force()
        place = {"active": entry.id in in_force, "shared_adapter": in_force.get(entry.id)}
        return entry.details(store.edits(entry.id)) | place | {"same_source": same}

    def difference(self, home: Path, a: str, b: str) -> dict:
        return between_memories(MemoryStore(home), a, b)

    def change(self, home: Path, action: str, id: str | None) -> dict:
        """`approve`, `disable`, `forget` or `rollback`. Raises MemoryStoreError."""
        store = MemoryStore(home)
        if action != "rollback":
            store.get(id or "")  # a source or a day may name several; an id names one
        return getattr(store, action)(id)

    def versions(self, home: Path) -> list[dict]:
        """Oldest first."""
        return MemoryStore(home).history()

    def find(self, home: Path, id: str) -> MemoryEntry:
        return MemoryStore(home).get(id)

    def about(self, home: Path, ask: Ask) -> Ask:
        """A message of a chat; where it is about a version of a library, the adapter of that release answers."""
        return Release(MemoryStore(home), self.model.fingerprint, ask.library).in_chat(ask) if ask.library else ask

    def versions_of_libraries(self, home: Path) -> list[Wanted]:
        """One per tag of the model's memories, as what a question may be about."""
        tags = sorted(MemoryStore(home).libraries(self.model.fingerprint), key=str)
        return list(dict.fromkeys(tag.first for tag in tags))

    # Learning

    def learn_text(self, home: Path, text: str, title: str, suspicion: str = "", library: str = "") -> Job:
        """A text is a newer version of what was learned under its title; without a title it replaces nothing."""
        title = title.strip()
        source = f"text://{text_hash(title or text)[:12]}"
        spec = {"kind": "text", "file": "text.md", "source": source, "suspicion": suspicion, "library": library}
        return self.jobs.add(home, spec, title or UNTITLED, text.encode())

    def learn_file(self, home: Path, name: str, data: bytes) -> Job:
        """A file is a newer version of what was learned under its name; without a name it replaces nothing."""
        name = safe_name(name) or f"document-{sha256(data).hexdigest()[:12]}"
        return self.jobs.add(home, {"kind": "upload", "file": name}, name, data)

    def learn_url(self, home: Path, url: str, library: str = "") -> Job:
        return self.jobs.add(home, {"kind": "url", "url": url, "library": library}, url)

    async def remember(self, home: Path, session: str, said: Sequence[Message]) -> None:
        """Adds turns to a conversation. What the user states in them is in force as a text, and learned when there is
        time. Raises MemoryStoreError on a name that is none.

        An answer that is finished waits for this, so a job that cannot be added is no error: the text is in force, and
        the next statement adds the job again. At most one such job of a home waits, so the limit does not apply."""

        def accept() -> bool:
            conversations = self.conversations(home)
            conversations.add(session, said)
            return conversations.accept(session, self.model, MemoryStore(home)).any

        if await asyncio.to_thread(accept):
            waits = any(job.title == CONVERSATION and job.status == WAITING for job in self.jobs.of(home))
            if not waits:
                with suppress(OSError):
                    self.jobs.add(home, {"kind": "conversation"}, CONVERSATION, is_limited=False)

    def conversations(self, home: Path) -> Conversations:
        return Conversations(home, self.reader)
