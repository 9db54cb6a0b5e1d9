"""`selfedit chat`: a person talks with the model, and what the person states is remembered.

In: lines of standard input. Out: answers as they are written. Every turn is on disk before the next one begins. What
the user stated is shown, and in force as a text, at `/learn`, at the end, or when nothing was said for a while; a
process in the background then learns it, and goes on if the chat ends first.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from selfedit.answers.answerer import BASE, Ask
from selfedit.answers.why import why
from selfedit.conversations import Conversations
from selfedit.errors import SelfeditError
from selfedit.libraries import Wanted
from selfedit.memory.store import MemoryStore
from selfedit.model.load import Model
from selfedit.serve.engine import Engine, Written
from selfedit.serve.learner import JOBS, JobFolder, add_job, command, heard, unfinished
from selfedit.sessions import Changes, reader_of
from selfedit.terminal import can_ask, confirmed, memory_table, note, one_line, plain, say, show_json
from selfedit.text import words
from selfedit.types import Message

HELP = """/learn      remember what you said so far, and learn it in the background
/why        why the last answer is what it is, and from which source
/memories   what is known
/for        the version of a library that you ask about: /for polars@2; /for alone ends that
/forget     forget what you name: /forget my door code
/undo       take the last change of what is known of you back, but for what was forgotten
/new        begin a new session; /quit (or Ctrl-D) ends
Say "remember that …", "no, it is …", "forget …" as to a person."""
END = ("/quit", "/exit", "/bye")


class ChatLoop:
    def __init__(
        self,
        model: Model,
        home: Path,
        session: str | None,
        *,
        max_new_tokens: int,
        idle_s: float,
        learns: bool,
        as_json: bool,
        library: Wanted | None = None,
        project: Mapping[str, str] = MappingProxyType({}),
    ):
        """`library`, `project`: as in an Ask."""
        self.versions: dict = {"library": library, "project": project}
        self.model, self.home, self.store = model, home, MemoryStore(home)
        self.max_new_tokens, self.idle_s, self.learns, self.as_json = max_new_tokens, idle_s, learns, as_json
        self.conversations = Conversations(home, reader_of(model, note))
        self.session = _new_name(self.conversations) if session is None else session
        self.turns = self.conversations.turns(self.session)
        self.engine = Engine(model)
        self.learning: list[Learning] = []
        """Processes, the oldest first, until their results are told."""
        self.last: tuple[str, Written] | None = None

    def run(self) -> int:
        if not self.as_json:
            earlier = f"; {len(self.turns)} turns are in it" if self.turns else ""
            note(f"{self.model.name}, session “{self.session}”{earlier}. /help shows the commands, /quit ends.")
        if self.learns and (left := unfinished(self.home, self.model.name)):
            note(f"{len(left)} job{'s' * (len(left) > 1)} of before go{'es' * (len(left) == 1)} on in the background")
            self.learning.append(Learning(self.home, self.model, left))
        try:
            while (line := self._line()) is not None and line.lower() not in END:
                try:
                    self._take(line)
                except SelfeditError as error:
                    note(f"selfedit: {one_line(str(error))}")
        except KeyboardInterrupt:
            note("")
        self._remember()
        for one in self.learning:
            if one.running:
                note(f"learning goes on in the background (process {one.process.pid}); {one.describe()}")
        self.engine.close()
        return 0

    def _line(self) -> str | None:
        """What the user types next; None at the end."""
        for one in [*self.learning]:
            if told := one.results():
                note(told)
                self.learning.remove(one)
        timer = threading.Timer(self.idle_s, self._idle)
        timer.daemon = True
        try:
            timer.start()
            if not can_ask():
                line = sys.stdin.readline() if sys.stdin else ""
                return line.strip() if line else None
            with suppress(ImportError):
                import readline  # noqa: F401  (input() then edits lines)
            return input("> ").strip()
        except EOFError:
            note("")
            return None
        finally:
            timer.cancel()
            timer.join()  # what it reads just now is remembered first

    def _idle(self) -> None:
        """Runs in a thread while the user is silent."""
        with suppress(SelfeditError):
            self._remember(asks=False)

    def _take(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        name, rest = name.lower(), rest.strip()
        actions: dict[str, Callable[[], None]] = {
            "/learn": self._remember,
            "/why": self._why,
            "/memories": self._memories,
            "/for": lambda: self._for(rest),
            "/forget": lambda: self._forget(rest),
            "/undo": self._undo,
            "/new": self._new,
            "/help": lambda: note(HELP),
        }
        if not line:
            return
        if name.startswith("/"):
            actions.get(name, lambda: note(f"no command {name}; /help shows them"))()
        else:
            self._answer(line)

    def _answer(self, line: str) -> None:
        ask = self.conversations.ask(line, self.turns, max_new_tokens=self.max_new_tokens, **self.versions)
        written = asyncio.run(self._written(ask))
        said = [Message("user", line), Message("assistant", written.text)]
        self.conversations.add(self.session, said)
        self.turns += said
        self.last = line, written
        answer = written.answer
        if self.as_json:
            show_json(answer.record())
            self._obey()
            return
        if answer.note:
            note(f"  {one_line(answer.note)}")
        if answer.arm != BASE and answer.memory:
            note(f"  ({answer.arm}: {one_line(answer.memory.passage.source)}; /why)")
        self._obey()

    def _obey(self) -> None:
        """Corrections and requests to forget count at once."""
        changes = self.conversations.proposed(self.session)
        if changes.replaced or changes.forgotten:
            self._remember(asks=False)

    async def _written(self, ask: Ask) -> Written:
        """Shows the answer as it is written."""
        async for item in self.engine.answer(self.home, ask):
            if isinstance(item, Written):
                if not self.as_json:
                    say("")
                return item
            if not self.as_json:
                sys.stdout.write(plain(item))
                sys.stdout.flush()
        raise AssertionError("the engine ends with the whole answer")

    # Commands

    def _remember(self, asks: bool = True) -> None:
        """Shows what would be remembered, remembers it, and learns it in the background."""
        changes = self.conversations.proposed(self.session)
        if not (changes.any or changes.unknown):
            return
        shown = described(changes)
        if changes.added and asks and can_ask():
            if not confirmed(f"{shown}\nremember this?"):
                self.conversations.decline(self.session)
                return
        else:
            note(shown)
        self.conversations.accept(self.session, self.model, self.store)
        self.turns, self.last = self.conversations.turns(self.session), None  # without what was forgotten
        if self.learns and changes.any:
            job = add_job(self.home, self.model.name, {"kind": "conversation"}, "what the user said")
            self.learning.append(Learning(self.home, self.model, [job]))

    def _why(self) -> None:
        if not self.last:
            note("nothing was asked yet")
            return
        question, written = self.last
        for name, value in why(self.store, question, written.answer).items():
            if name == "candidates":
                for one in value:
                    chance = f" ({one['probability']:.0%})" if "probability" in one else ""
                    note(f"  {one['arm']}{chance}: {one_line(one['answer'])}")
            else:
                note(f"  {name}: {one_line(value)}")

    def _memories(self) -> None:
        for statement in self.conversations.statements:
            note(f"  {statement.date}  {one_line(statement.text)}")
        memory_table(self.store.active(self.model.fingerprint), self.store.in_force(), [])

    def _for(self, text: str) -> None:
        wanted = self.versions["library"] = Wanted.parse(text) if text else None
        known = ", ".join(map(str, self.store.libraries(self.model.fingerprint))) or "nothing with a version"
        note(f"  you ask about {wanted}" if wanted else f"  you ask about no certain version; known: {known}")

    def _forget(self, text: str) -> None:
        """A request to forget that needs no understanding, whatever its words are."""
        if not words(text):
            note("  say what: /forget my door code")
            return
        said = [
            Message("user", "/forget"),  # so that nothing told just before is meant
            Message("assistant", "What?"),
            Message("user", f"Forget this: {text}"),
            Message("assistant", "I will."),
        ]
        self.conversations.add(self.session, said)
        self.turns += said
        self._remember(asks=False)

    def _undo(self) -> None:
        done = self.conversations.undo(self.model, self.store)
        note("  the last change of what I know of you is taken back" if done else "  there is no change to take back")

    def _new(self) -> None:
        self._remember()
        self.session, self.turns = _new_name(self.conversations), []
        note(f"session “{self.session}”")


class Learning:
    """A process in the background that learns; it does not end with this one. If it is killed, its jobs stay."""

    def __init__(self, home: Path, model: Model, jobs: Sequence[JobFolder]):
        log = home / JOBS / f"{secrets.token_hex(6)}.log"
        self._events: TextIO
        with log.open("w") as output:
            self._events = log.open()
            log.unlink()  # it lives as long as somebody has it open
            self.process = subprocess.Popen(
                command(home, model.name, model.backend.name, [job.path for job in jobs]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._done, self._total = 0, 0
        self._results: list[dict] = []

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def _read(self) -> None:
        for line in self._events:
            event = heard(line)
            if event.get("stage") == "passage":
                self._done, self._total = event["done"], event["total"]
            elif event.keys() & {"summary", "error", "gone"}:
                self._results.append(event)

    def describe(self) -> str:
        self._read()
        return f"{self._done} of {self._total} passages are learned" if self._total else "it has just begun"

    def results(self) -> str:
        """In words; empty until the process has ended."""
        if self.running:
            return ""
        self._read()
        return "\n".join(map(_result, self._results)) or "  learning was stopped; the next chat goes on with it"


def _result(event: dict) -> str:
    if "gone" in event:
        return "  another process has learned it"
    if "error" in event:
        return f"  learning failed: {one_line(event['error'])}"
    summary = event["summary"]
    kept = f"{len(summary['memories'])} of {summary['passages']} passages"
    return f"  learned: {kept}, {summary['seconds']:.0f} s; the others answer from their text"


def described(changes: Changes) -> str:
    """What would change, for people."""
    lines = [f"  I would remember: {one_line(statement.text)}" for statement in changes.added]
    lines += [f"  replaces: {one_line(old.text)}" for old, _ in changes.replaced]
    lines += [f"  forgets: {one_line(statement.text)}" for statement in changes.forgotten]
    lines += [f"  nothing is known of what you want forgotten: {one_line(target)}" for target in changes.unknown]
    return "\n".join(lines)


def _new_name(conversations: Conversations) -> str:
    """A name by the clock that no session has."""
    name, known = datetime.now().strftime("%Y-%m-%d %H%M"), conversations.names()
    return name if name not in known else f"{name} {secrets.token_hex(2)}"
