"""Statements → passages: statements of one matter in one passage, which is learned again only if it changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from functools import lru_cache

from selfedit.sessions.statements import Statement
from selfedit.text import count_words, stem, weight, words
from selfedit.types import Passage, Unit, text_hash

PASSAGE_WORDS = 100
TITLE = "What the user said"


def line(statement: Statement) -> str:
    """The statement as a sentence with its date, for a model that studies it."""
    day = date.fromisoformat(statement.date)
    return f"On {day.day} {day:%B %Y} the user said: {statement.text}"


def group_for(new: Statement, statements: Iterable[Statement]) -> int:
    """The group whose words the statement shares most and that has room for it; a new one if there is none."""
    groups = _grouped(statements)
    terms = _terms(new.text)
    scores = {
        group: sum(weight(term) for term in terms & set().union(*(_terms(member.text) for member in members)))
        for group, members in groups.items()
        if sum(map(_length, [*members, new])) <= PASSAGE_WORDS
    }
    best = max(scores, key=lambda group: (scores[group], -group), default=None)
    return best if best is not None and scores[best] >= 1 else max(groups, default=-1) + 1


@lru_cache(maxsize=10_000)
def _terms(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in words(text))


@lru_cache(maxsize=10_000)
def _length(statement: Statement) -> int:
    return count_words(line(statement))


def _grouped(statements: Iterable[Statement]) -> dict[int, list[Statement]]:
    groups: dict[int, list[Statement]] = {}
    for statement in statements:
        groups.setdefault(statement.group, []).append(statement)
    return groups


def passages(statements: Sequence[Statement], name: str) -> list[Passage]:
    """One passage per group, in order of the groups' numbers; the source is "conversation:NAME"."""
    source_hash = text_hash(*(line(statement) for statement in statements))
    found = []
    for index, (_, members) in enumerate(sorted(_grouped(statements).items())):
        lines = [line(member) for member in members]
        units = tuple(Unit("sentence", text) for text in lines)
        found.append(Passage(TITLE, "\n".join(lines), f"conversation:{name}", source_hash, index, units))
    return found
