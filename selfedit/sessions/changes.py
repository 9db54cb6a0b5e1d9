"""What a session changes in the statements known so far: statements added, replaced by a correction, and forgotten.

A new statement replaces the clause of an older one that states another value of the same matter (see `conflict`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from selfedit.sessions import passages, values, wording
from selfedit.sessions.conflict import conflict, restates
from selfedit.sessions.forget import about
from selfedit.sessions.statements import Request, Statement, Told, stated
from selfedit.types import Message

_MOVES = re.compile(r"\b(?:moved|changed|switched|shifted|postponed|slipped|rescheduled)\b", re.IGNORECASE)


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


def updated(
    statements: Sequence[Statement], turns: Sequence[Message], session: str, date: str, start: int = 0
) -> Changes:
    """Returns what is known after the session.

    start: index of the first turn that was not read before; the turns before it are context.
    """
    known = list(statements)
    added: list[Statement] = []
    replaced: list[tuple[Statement, Statement]] = []
    forgotten: list[Statement] = []
    unknown: list[str] = []
    for event in stated(turns, session, date):
        if event.turn < start:
            continue
        if isinstance(event, Request):
            gone = about(event.target, known, strict=event.strict)
            known = [statement for statement in known if statement not in gone]
            added = [statement for statement in added if statement not in gone]
            forgotten += gone
            if not gone:
                unknown.append(event.target)
            continue
        new, pairs = _corrected(event, known)
        if not new:
            continue
        for old, rest, _ in pairs:
            at = known.index(old)
            known[at : at + 1] = [replace(old, text=rest)] if rest else []
            added = [statement for statement in added if statement != old]
        for old, _, value in pairs:
            renamed = {s: _with_role(s, old, value) for s in known if s.turn_key == new.turn_key}
            known = [renamed.get(statement, statement) for statement in known]
            added = [renamed.get(statement, statement) for statement in added]
        if pairs:
            left = [s for s in known if s.turn_key != new.turn_key or not _only_departs(s, pairs)]
            known, added = left, [statement for statement in added if statement in left]
        new = replace(new, group=passages.group_for(new, known))
        replaced += [(old, new) for old, _, _ in pairs]
        known.append(new)
        added.append(new)
    return Changes(tuple(known), tuple(added), tuple(replaced), tuple(forgotten), tuple(unknown))


def _corrected(told: Told, known: Iterable[Statement]) -> tuple[Statement | None, list[tuple[Statement, str, str]]]:
    """The new statement, without the older value, and (older statement, what is left of it, older value) for each that
    it replaces."""
    new = told.statement
    if match := wording.RESTATED.match(new.text):
        new = _restated(new, match)
        if not new:
            return None, []
    pairs = []
    known = list(known)
    for old in known:
        if old.turn_key == new.turn_key:
            continue
        if pair := conflict(old.text, new.text, told.context):
            before, after = pair
            text = values.without(new.text, before.text, keep=after.text) or new.text
            if match is None and _names_only_value(text, after.text) and restates(told.context, before.text):
                clause = values.clause_with(old.text, before.text).replace(before.text, after.text)
                text = f"{clause[:1].upper()}{clause[1:].rstrip('.!')}: {text}"
            new = replace(new, text=text)
            pairs.append(
                (old, values.without(old.text, before.text, pronoun=_former(old.text, before.text)), before.text)
            )
    if not pairs and (lone := _lone_value(new, known)):
        old, before = lone
        pairs.append((old, values.without(old.text, before, pronoun=_former(old.text, before)), before))
    return new, pairs


def _restated(new: Statement, match: re.Match) -> Statement | None:
    """The new value in the words that the user repeats: "I said we meet on Monday, it is Friday" → "We meet on Friday:
    it is Friday"; None where only the older value is repeated."""
    old, rest = match["old"], match["new"]
    if not rest:
        return None
    for before in values.values(old):
        for after in values.values(rest):
            if before.kind == after.kind and before.text != after.text:
                subject = old.replace(before.text, after.text)
                return replace(new, text=f"{subject[:1].upper()}{subject[1:]}: {rest}")
    return replace(new, text=rest[:1].upper() + rest[1:])


def _names_only_value(text: str, value: str) -> bool:
    """Whether a sentence says only "it is VALUE", so that its subject must come from the older statement."""
    return bool(re.search(rf"(?:^|[ ,])it(?:['’]s| is| was) (?:on |at )?{re.escape(value)}", text, re.IGNORECASE))


def _lone_value(new: Statement, known: Iterable[Statement]) -> tuple[Statement, str] | None:
    """The only time or weekday that is known, for a change that does not name its matter: "we changed to Sunday"."""
    if not _MOVES.search(new.text):
        return None
    for after in values.values(new.text):
        if after.kind in ("time", "weekday"):
            found = [(old, v.text) for old in known for v in values.values(old.text) if v.kind == after.kind]
            if len(found) == 1 and found[0][0].turn_key != new.turn_key:
                return found[0]
    return None


def _with_role(statement: Statement, old: Statement, value: str) -> Statement:
    """The statement with "my former neighbour" for the older name: "Ada left! My new neighbour is Eve."."""
    if not (role := _former(old.text, value)) or not values.mentions(statement.text, value):
        return statement
    text = statement.text.replace(value, role)
    return replace(statement, text=text[:1].upper() + text[1:])


def _only_departs(statement: Statement, pairs: list[tuple[Statement, str, str]]) -> bool:
    """Whether a sentence only says that the older name is gone: "Ada left us."."""
    names = {value.text for value in values.values(statement.text)}
    return any(names == {value} for _, _, value in pairs) and bool(wording.DEPARTS.search(statement.text))


def _former(old: str, value: str) -> str:
    """ "My neighbour is called Ada" → "my former neighbour", for what is left of the statement."""
    match = re.match(r"(my|our) (?:new |former )?((?:[\w-]+ ){0,5}?)(?:is|are)\b", old, re.IGNORECASE)
    return f"{match[1].lower()} former {match[2].strip()}" if match else ""
