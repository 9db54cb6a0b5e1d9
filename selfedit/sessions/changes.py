"""What a session changes in the statements known so far: statements added, replaced by a newer one, and forgotten.

A new statement replaces the clause of an older one that states another value of the same matter (see `conflict`), or
that mentions what the turn tells to be gone (see `departures`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfedit.sessions import departures, matter, passages, reference, values, wording
from selfedit.sessions.conflict import conflict, restates, same_predicate
from selfedit.sessions.forget import meant, read_as_meant
from selfedit.sessions.reader import Reader
from selfedit.sessions.statements import ASKED, Statement, Told, TurnRead, stated
from selfedit.types import Message

_MOVES = re.compile(
    r"\b(?:moved|changed|switched|shifted|postponed|slipped|rescheduled|pushed|brought|put)\b", re.IGNORECASE
)

ENDED = 0.5
"""Probability from which a statement is no longer true after a turn."""
ENDED_FIRST = 0.3
"""The same for the statement that is most probably no longer true: most news ends one thing."""
MOST_REPLACED = 3
"""Replaced statements that a new one remembers."""
SAME_MATTER = 0.4
"""Weight of the words that a replaced statement shares with what is forgotten, from which it may tell the same."""


@dataclass(frozen=True)
class Changes:
    """The statements after a session, and what led there."""

    statements: tuple[Statement, ...]
    """All that is known now, in order of time."""
    added: tuple[Statement, ...] = ()
    replaced: tuple[tuple[Statement, Statement], ...] = ()
    """(older, newer): the older one went, or lost the clause with the older value."""
    forgotten: tuple[Statement, ...] = ()
    unknown: tuple[str, ...] = ()
    """Requests to forget something of which nothing is known."""

    @property
    def any(self) -> bool:
        """Whether another thing is known than before."""
        return bool(self.added or self.replaced or self.forgotten)


def updated(
    statements: Sequence[Statement],
    turns: Sequence[Message],
    session: str,
    date: str,
    start: int = 0,
    reader: Reader | None = None,
) -> Changes:
    """Returns what is known after the session.

    start: index of the first turn that was not read before; the turns before it are context. reader: None: by rules
    alone.
    """
    knowledge = _Knowledge(statements, reader)
    for turn in stated(turns, session, date, reader):
        if turn.index >= start:
            knowledge.read(turn)
    return Changes(
        tuple(knowledge.known),
        tuple(s for s in knowledge.known if s in knowledge.added),
        tuple(knowledge.replaced),
        tuple(knowledge.forgotten),
        tuple(knowledge.unknown),
    )


class _Knowledge:
    """The statements known so far, changed turn by turn."""

    def __init__(self, statements: Sequence[Statement], reader: Reader | None = None):
        self.known, self.reader = list(statements), reader
        self.added: set[Statement] = set()
        self.replaced: list[tuple[Statement, Statement]] = []
        self.forgotten: list[Statement] = []
        self.unknown: list[str] = []

    def read(self, turn: TurnRead) -> None:
        """Applies the request and the statements of one turn."""
        reading = self.reader.turn(turn.text, [s.text for s in self.known]) if self.reader and turn.text else None
        told, known = list(turn.told), list(self.known)
        gone = meant(turn.request, self.known) if turn.request else []
        gone = gone or (read_as_meant(turn, reading, self.known) if reading else [])
        if turn.request or gone:
            erased = self._forget(turn, gone)
            told = [new for new in told if not _concerns(new.statement.text, erased) and not self._asks(new)]
        if reading and told:
            self._end(known, reading.ended, told)
        for term in departures.departed([new.statement.text for new in told], [s.text for s in self.known]):
            rests = [(new, departures.newcomer(new.statement.text, term)) for new in told]
            left = [replace(new, statement=replace(new.statement, text=text)) for new, text in rests if text]
            told = left or told
            for old in list(self.known) if told else ():
                if (rest := departures.without(old.text, term)) != old.text:
                    told[0] = self._replace(old, rest, told[0])
        for new in told:
            self._add(new)

    def _asks(self, told: Told) -> bool:
        return self.reader is not None and self.reader.asking([told.statement.text])[0] >= ASKED

    def _forget(self, turn: TurnRead, gone: Sequence[Statement]) -> frozenset[str]:
        """Returns the words of what the user asks to forget."""
        self.known = [statement for statement in self.known if statement not in gone]
        target = turn.request.target if turn.request else ""
        erased = matter.meanings(" ".join([target, *(statement.text for statement in gone)]))
        traces = [
            replace(statement, text=text, instead=())
            for statement in self.known
            for text in statement.instead
            if _may_tell(text, erased)
        ]
        self.known = [_without_traces(statement, erased) for statement in self.known]
        self.forgotten += [*gone, *traces]
        if turn.request and not (gone or traces):
            self.unknown.append(turn.request.named)
        self.added = {_without_traces(statement, erased) for statement in self.added}
        return erased

    def _end(self, known: Sequence[Statement], ended: Sequence[float], told: list[Told]) -> None:
        """Removes the statements that are probably no longer true after a turn. Each is remembered by the statement of
        the turn that ends it most probably."""
        first = max(ended, default=0.0)
        for old, probability in zip(known, ended):
            is_ended = probability >= (ENDED_FIRST if probability == first else ENDED)
            if is_ended and old in self.known and old.turn_key != told[0].statement.turn_key:
                at = self._ender(old, told)
                told[at] = self._replace(old, "", told[at])

    def _ender(self, old: Statement, told: Sequence[Told]) -> int:
        """Which of the statements of a turn ends an older one most probably."""
        assert self.reader  # which read that something ended
        if len(told) == 1:
            return 0
        ended = [self.reader.turn(new.statement.text, [old.text]).ended[0] for new in told]
        return ended.index(max(ended))

    def _replace(self, old: Statement, rest: str, new: Told) -> Told:
        """Puts `rest` in place of an older statement, or nothing; returns the new one, which remembers the older."""
        at = self.known.index(old)
        self.known[at : at + 1] = [replace(old, text=rest)] if rest else []
        instead = tuple(dict.fromkeys([*old.texts, *new.statement.instead]))[:MOST_REPLACED]
        new = replace(new, statement=replace(new.statement, instead=instead))
        self.replaced.append((old, new.statement))
        return new

    def _add(self, told: Told) -> None:
        new = told.statement
        match = wording.RESTATED.match(new.text)
        if match and not match["new"]:
            return
        new = _restated(new, match) if match else new
        older = [old for old in self.known if old.turn_key != new.turn_key]
        pairs = []
        for old in older:
            if pair := conflict(old.text, new.text, told.context):
                before, after = pair
                text = values.without(new.text, before.text, keep=after.text) or new.text
                if not match and _names_only_value(text, after.text) and restates(told.context, before.text):
                    clause = values.clause_with(old.text, before.text).replace(before.text, after.text).rstrip(".!")
                    text = f"{clause[:1].upper()}{clause[1:]}: {text}"
                new = replace(new, text=text)
                pairs.append((old, before.text))
        pairs = pairs or [(old, rest) for old in older if (rest := same_predicate(old.text, new.text))]
        pairs = pairs or _moved(new, told.context, older)
        for old, before_text in pairs:
            new = self._replace(old, values.without(old.text, before_text), replace(told, statement=new)).statement
        new = replace(new, group=passages.group_for(new, self.known))
        self.known.append(new)
        self.added.add(new)


def _concerns(text: str, erased: frozenset[str]) -> bool:
    """Whether a sentence beside a request to forget speaks of the same matter."""
    return reference.refers_back(text) or matter.shared(matter.meanings(text), erased) >= 0.9


def _may_tell(text: str, erased: frozenset[str]) -> bool:
    return matter.shared(matter.meanings(text), erased) >= SAME_MATTER


def _without_traces(statement: Statement, erased: frozenset[str]) -> Statement:
    """The statement without those that it replaced and that may tell what is forgotten."""
    left = tuple(text for text in statement.instead if not _may_tell(text, erased))
    return statement if left == statement.instead else replace(statement, instead=left)


def _restated(new: Statement, match: re.Match[str]) -> Statement:
    """The new value in the words that the user repeats: "I said we meet on Monday, it is Friday" → "We meet on Friday:
    it is Friday"."""
    old, rest = match["old"], match["new"]
    for before in values.values(old):
        for after in values.values(rest):
            if before.kind == after.kind and before.text != after.text:
                rest = f"{old.replace(before.text, after.text)}: {rest}"
                return replace(new, text=f"{rest[:1].upper()}{rest[1:]}")
    return replace(new, text=f"{rest[:1].upper()}{rest[1:]}")


def _names_only_value(text: str, value: str) -> bool:
    """Whether a sentence says only "it is VALUE", so that its subject must come from the older statement."""
    return bool(re.search(rf"(?:^|[ ,])it(?:['’]s| is| was) (?:on |at )?{re.escape(value)}", text, re.IGNORECASE))


def _moved(new: Statement, context: str, older: Sequence[Statement]) -> list[tuple[Statement, str]]:
    """The date or time that a change without its matter means ("we changed to Sunday"): the only one that is known, or
    that of the statement which shares the most words with the turn."""
    if not _MOVES.search(new.text):
        return []
    for after in values.values(new.text):
        if after.kind not in ("time", "weekday", "date"):
            continue
        found = [(old, v.text) for old in older for v in values.values(old.text) if v.kind == after.kind]
        shares = [
            matter.shared(matter.stems(old.text, before), matter.stems(context, after.text)) for old, before in found
        ]
        best = max(shares, default=0.0)
        if len(found) == 1 or best >= 0.3 and shares.count(best) == 1:
            return [found[shares.index(best)]]
    return []
