"""What was said, on disk, and how it becomes memory: sessions → the user's statements → passages in the store.

    HOME/conversations/SESSION.json   the turns of a session, and how many of them have been read for statements
    HOME/conversations/.statements    what is known of the user now
    HOME/conversations/.before        what was known before the last change, without what was forgotten
    HOME/conversations/.forgetting    what is being deleted from transcripts and store; after a kill, `accept` goes on

`proposed` reads what is new, and `accept` makes it known. What the user stated is in force at once, as a text that
answers questions; `learn` then makes memories in the weights of it. What was corrected is superseded, and can be rolled
back; what the user asked to forget is deleted: from the statements, from the transcripts, and from the store.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date as Day
from pathlib import Path

from selfedit import disk
from selfedit.answers import notes
from selfedit.answers.answerer import AUTO, BASE, TEXT, UNKNOWN, Ask
from selfedit.errors import MemoryStoreError
from selfedit.learn import keep_text
from selfedit.memory.difference import SESSION
from selfedit.memory.store import MemoryStore
from selfedit.model.load import Model
from selfedit.sessions import Changes, Reader, Statement, line, passages, transcript_without, updated
from selfedit.sessions.wording import asks_something, is_question
from selfedit.types import Message, Passage, Question

FOLDER = "conversations"
NAME = "user"
SOURCE = f"conversation:{NAME}"
"""The source of every memory that comes from a conversation."""
ROLES = ("system", "user", "assistant")
PREFERENCES_WORDS = 120
"""In the prompt at most, the newest."""
_STATEMENTS, _BEFORE, _FORGETTING = ".statements", ".before", ".forgetting"


class Conversations:
    """The conversations of a home. A missing home has none, and reading does not create it."""

    def __init__(self, home: Path, reader: Reader | None = None):
        """`reader`: reads what turns say; None: rules alone do."""
        self.folder, self.reader = home / FOLDER, reader

    # Sessions

    def names(self) -> list[str]:
        """The sessions, the latest last."""
        return [path.stem for path in sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)]

    def turns(self, name: str) -> list[Message]:
        return _messages(self._session(name))

    def add(self, name: str, turns: Iterable[Message], day: str | None = None) -> None:
        """Adds turns to a session, on the disk when this returns. `day`: ISO; today by default."""
        day = day or Day.today().isoformat()
        with self._locked():
            session = self._session(name)
            session["turns"] += [turn._asdict() | {"date": day} for turn in turns]
            self._write(self._path(name), session)

    # What is known of the user

    @property
    def statements(self) -> list[Statement]:
        """In order of time."""
        return self._statements(_STATEMENTS)

    def _statements(self, name: str) -> list[Statement]:
        fields = self._read(self.folder / name, [])
        try:
            statements = [_statement(one) for one in fields] if isinstance(fields, list) else None
            if statements is None or any(
                not isinstance(s.text, str) or not Day.fromisoformat(s.date) for s in statements
            ):
                raise ValueError("it holds no statements")
        except (AttributeError, TypeError, ValueError) as error:
            raise self._damaged(self.folder / name, error) from None
        return statements

    def _write_statements(self, name: str, statements: Sequence[Statement]) -> None:
        self._write(self.folder / name, [asdict(statement) for statement in statements])

    def passages(self) -> list[Passage]:
        return passages(self.statements, NAME)

    def ask(self, question: str, history: Sequence[Message] = (), arm: str = AUTO, **options) -> Ask:
        """What a turn of a conversation asks. `history`: the messages before it; `options`: of the Ask.

        A question about the user is answered from what the user stated, which is in view as far as it fits, and an
        answer that goes beyond it is replaced (`answers.notes`)."""
        known = self.statements
        options |= {"history": _with_preferences(known, history), "grounds": is_question(question)}
        ask = Ask(Question(question, ()), arm, whole=False, **options)
        personal, reads = notes.is_personal(question), self.reader and asks_something(question)
        if not known or ask.memory or arm == BASE or not (personal or reads):
            return ask
        likely = notes.likeliest(known, ask.looked_up, self.reader)
        if likely.probability < notes.LIKELY and not personal:
            return ask

        def checked(answer: str) -> str:
            if likely.probability < notes.UNLIKELY:
                return UNKNOWN
            return notes.checked(likely.statements, ask.looked_up, answer, likely.best)

        return replace(
            ask,
            arm=TEXT if arm == AUTO else arm,
            passages=tuple(passages(known, NAME)),
            view=lambda _, asked: replace(asked, question=notes.with_notes(likely.statements, asked.question)),
            check=checked,
        )

    def proposed(self, name: str) -> Changes:
        """What the turns of a session that have not been read yet would change. Changes nothing."""
        session = self._session(name)
        day = session["turns"][-1]["date"] if session["turns"] else Day.today().isoformat()
        turns, start = _messages(session), session["read"]
        return updated(self.statements, turns, self.checked_name(name), day, start, self.reader)

    def accept(self, name: str, model: Model, store: MemoryStore) -> Changes:
        """Makes what is proposed known, and the store follow: new statements answer as texts from now on."""
        with self._locked():
            was_killed = self._finish_forgetting(store)
            changes = self.proposed(name)
            if changes.forgotten:
                self._write_statements(_FORGETTING, changes.forgotten)
            if changes.any:
                before = [statement for statement in self.statements if statement not in changes.forgotten]
                if changes.forgotten:
                    before = [replace(statement, instead=()) for statement in before]
                self._write_statements(_BEFORE, before)
                self._write_statements(_STATEMENTS, changes.statements)
            self._mark_read(name)
            self._finish_forgetting(store)
            if changes.any or was_killed:
                self._follow(model, store)
        return changes

    def undo(self, model: Model, store: MemoryStore) -> bool:
        """Takes the last change of what is known back, but for what was forgotten; once. False if there is none."""
        with self._locked():
            if not (self.folder / _BEFORE).exists():
                return False
            self._write_statements(_STATEMENTS, self._statements(_BEFORE))
            (self.folder / _BEFORE).unlink()
            self._follow(model, store)
        return True

    def decline(self, name: str) -> None:
        """What is proposed is not proposed again."""
        with self._locked():
            self._mark_read(name)

    def _mark_read(self, name: str) -> None:
        if (session := self._session(name))["turns"]:
            self._write(self._path(name), session | {"read": len(session["turns"])})

    def _finish_forgetting(self, store: MemoryStore) -> bool:
        """Deletes what was noted for it. False if nothing was."""
        if forgotten := self._statements(_FORGETTING):
            self._forget(forgotten, store)
            (self.folder / _FORGETTING).unlink()
        return bool(forgotten)

    def _forget(self, statements: Sequence[Statement], store: MemoryStore) -> None:
        """Deletes statements, and what they replaced, wherever they stand."""
        statements = [replace(told, text=text) for told in statements for text in told.texts]
        for name in self.names():
            session = self._session(name)
            cleaned = transcript_without(_messages(session), statements)
            session["turns"] = [turn | clean._asdict() for turn, clean in zip(session["turns"], cleaned)]
            self._write(self._path(name), session)
        for entry in store.all():
            if entry.passage.source == SOURCE and any(s.text in entry.passage.text for s in statements):
                store.forget(entry.id)

    def _follow(self, model: Model, store: MemoryStore) -> None:
        """Puts the passages of now into force as texts, and takes those of before out of force."""
        statements = self.statements
        now, session_of = passages(statements, NAME), {line(told): SESSION + told.session for told in statements}
        known = {entry.passage.id: entry for entry in store.active(model.fingerprint)}
        entries = [known.get(passage.id) or keep_text(model, passage, store)[0] for passage in now]
        store.add_sources(
            {entry.id: {session_of[unit.text] for unit in passage.units} for entry, passage in zip(entries, now)}
        )
        if now:
            store.supersede(now, model.fingerprint)
        else:
            for entry in store.active(model.fingerprint):
                if entry.passage.source == SOURCE:
                    store.disable(entry.id)

    # Files

    @staticmethod
    def checked_name(name: str) -> str:
        """The name as sessions have it. Raises MemoryStoreError on one that cannot be the name of a session."""
        name = unicodedata.normalize("NFC", name)
        if not re.fullmatch(r"[\w-][\w .-]{0,79}", name) or len(name.encode()) > 200 or name.endswith((".", " ")):
            raise MemoryStoreError(
                f"{name[:100]!r} is no name for a session; use up to 80 letters, digits, spaces, ., - or _, "
                "with no space or dot at either end"
            )
        return name

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.checked_name(name)}.json"

    def _session(self, name: str) -> dict:
        session = self._read(path := self._path(name), {"turns": [], "read": 0})
        try:
            for turn in session["turns"]:
                if not (isinstance(turn["content"], str) and Day.fromisoformat(turn["date"]) and turn["role"] in ROLES):
                    raise ValueError("a turn is damaged")
            if not isinstance(session["read"], int):
                raise ValueError("it does not say how much was read")
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged(path, error) from None
        return session

    def _read(self, path: Path, default):
        try:
            return json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return default
        except (OSError, ValueError) as error:
            raise self._damaged(path, error) from None

    @staticmethod
    def _damaged(path: Path, error: object) -> MemoryStoreError:
        return MemoryStoreError(f"{path}: cannot be read ({error}); restore a backup, or delete it")

    def _write(self, path: Path, value: object) -> None:
        with disk.plain_errors(f"write {path}", MemoryStoreError):
            disk.replace(path, json.dumps(value, ensure_ascii=False, indent=1).encode())

    @contextmanager
    def _locked(self):
        """One writer at a time, of all processes."""
        with disk.plain_errors(f"write to {self.folder}", MemoryStoreError):
            self.folder.mkdir(parents=True, exist_ok=True)
        with disk.file_lock(self.folder / ".lock"):
            yield


def _statement(fields: dict) -> Statement:
    return Statement(**fields | {"instead": tuple(map(str, fields.get("instead", ())))})


def _messages(session: dict) -> list[Message]:
    return [Message(turn["role"], turn["content"]) for turn in session["turns"]]


def _with_preferences(statements: Sequence[Statement], history: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, and before them what the user wants in general, for the model to respect."""
    chosen: list[str] = []
    for statement in reversed(statements):
        if statement.kind == "preference" and sum(len(text.split()) for text in chosen) < PREFERENCES_WORDS:
            chosen.insert(0, f"- {statement.text}")
    if not chosen:
        return tuple(history)
    wishes = "Respect what the user has said:\n" + "\n".join(chosen)
    if history and history[0].role == "system":
        return (Message("system", f"{history[0].content}\n\n{wishes}"), *history[1:])
    return (Message("system", f"You are a helpful assistant. {wishes}"), *history)
