"""Conversations of invented users over months, and questions for a fresh session → Users; and which reply is right.

In: JSON lines, one user per line: `{id, sessions: [{date, turns: [{role, content}]}], questions: [{after_session,
question, answers, kind, …}]}`. All indices count from 0.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import date as Day
from pathlib import Path

from selfedit.errors import DocumentError
from selfedit.tasks.records import elements, expect, field, optional_id, read_jsonl
from selfedit.types import Message

UNKNOWN = "i don't know"
_REFUSES = re.compile(
    r"\b(?:don['’]t|do not|didn['’]t|did not|doesn['’]t|cannot|can['’]t|no longer|never|not) (?:\w+ )?"
    r"(?:know|have|recall|remember|aware|told|mention\w*|provide\w*|specif\w+|say|said|share\w*|sure)\b"
    r"|\b(?:unknown|no information|not (?:known|mentioned|specified|provided|available))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Session:
    date: str
    """ISO day."""
    turns: tuple[Message, ...]


@dataclass(frozen=True)
class SessionQuestion:
    after_session: int
    """It is asked in a fresh session after this one."""
    question: str
    answers: tuple[str, ...]
    kind: str
    """`single`, `updated`, `forgotten`, `not-said`, `two-facts`, `date`, `preference-use` or `general`."""
    wrong: tuple[str, ...] = ()
    """What must not be asserted."""
    must_match: str = ""
    must_not_match: str = ""
    """Patterns for the whole reply; empty if there is none."""

    @property
    def may_be_refused(self) -> bool:
        """Whether "I don't know" is a right reply."""
        return any(answer.lower() in (UNKNOWN, "no") for answer in self.answers)

    def asserts_wrong(self, reply: str) -> bool:
        """Whether the short answer, its first line, states what must not be asserted."""
        return any(_stands_in(value, _short(reply)) for value in self.wrong)

    def is_right(self, reply: str) -> bool:
        if self.must_match or self.must_not_match:
            matched = not self.must_match or re.search(self.must_match, reply)
            if not matched or (self.must_not_match and re.search(self.must_not_match, reply)):
                return False
        if self.kind == "preference-use":
            return True
        if self.asserts_wrong(reply):
            return False
        if self.kind == "forgotten" or (self.kind == "not-said" and self.may_be_refused):
            return True
        return any(_stands_in(answer, _short(reply)) for answer in self.answers)


@dataclass(frozen=True)
class User:
    id: str
    sessions: tuple[Session, ...]
    questions: tuple[SessionQuestion, ...]


def refuses(reply: str) -> bool:
    """Whether the short answer says that it is not known."""
    return bool(_REFUSES.search(_short(reply)))


def _short(reply: str) -> str:
    return reply.strip().partition("\n")[0].lower().replace("’", "'")


def _stands_in(value: str, text: str) -> bool:
    """As whole words: `December 1` is not in `December 15`."""
    return re.search(rf"(?<![\w.,-]){re.escape(value.lower())}(?![\w-]|[.,]\d)", text) is not None


def load_users(file: Path) -> list[User]:
    """Raises DocumentError that names the line."""
    users = [_user(item, at) for at, item in read_jsonl(file)]
    if double := next((id for id, count in Counter(user.id for user in users).items() if count > 1), None):
        raise DocumentError(f"{file}: two users have the id {double[:80]!r}; give each its own")
    return users


def _user(item: object, at: str) -> User:
    fields = expect(item, dict, at)
    sessions = tuple(_session(one, where) for where, one in elements(fields, "sessions", at))
    questions = tuple(_question(one, where, len(sessions)) for where, one in elements(fields, "questions", at))
    return User(optional_id(fields, at) or at, sessions, questions)


def _session(item: object, at: str) -> Session:
    day = field(item, "date", str, at)
    try:
        Day.fromisoformat(day)
    except ValueError:
        raise DocumentError(f"{at}: 'date' is {day!r}; write a day as 2026-01-31") from None
    turns = []
    for where, turn in elements(item, "turns", at):
        role = field(turn, "role", str, where)
        if role not in ("user", "assistant"):
            raise DocumentError(f"{where}: 'role' is {role!r}; it is user or assistant")
        turns.append(Message(role, field(turn, "content", str, where)))
    return Session(day, tuple(turns))


def _question(item: object, at: str, sessions: int) -> SessionQuestion:
    fields = expect(item, dict, at)
    after = field(fields, "after_session", int, at, may_be_empty=True)
    if not 0 <= after < sessions:
        raise DocumentError(f"{at}: 'after_session' is {after}; the user has {sessions} sessions, counted from 0")
    patterns = {name: _pattern(fields, name, at) for name in ("must_match", "must_not_match") if name in fields}
    return SessionQuestion(
        after, field(fields, "question", str, at), _texts(fields, "answers", at), field(fields, "kind", str, at),
        _texts(fields, "wrong", at) if fields.get("wrong") else (), **patterns,
    )  # fmt: skip


def _texts(fields: dict, name: str, at: str) -> tuple[str, ...]:
    return tuple(expect(text, str, where) for where, text in elements(fields, name, at))


def _pattern(fields: dict, name: str, at: str) -> str:
    pattern = field(fields, name, str, at)
    try:
        re.compile(pattern)
    except re.error as error:
        raise DocumentError(f"{at}: {name!r} is no pattern ({error})") from None
    return pattern
