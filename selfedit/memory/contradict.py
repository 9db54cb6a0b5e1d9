"""Finds contradictions between two passages: sentence against sentence, by rule, so that a person can see both.

Two sentences disagree if they say the same except for one value each (a number or a name), or except for a "not". That
finds "opened in 1898" and "opened in 1899", also in another order and with other endings; it does not find what takes
knowledge (noon and midnight). In the rows of a table ("in March 20, in April 30") two values differ, so they do not
disagree. The words of a title count in every sentence, since "the fee is 20 dollars" means another account there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from selfedit.edits.parse import sentences
from selfedit.memory.route import Router
from selfedit.sessions.values import values
from selfedit.text import CONTRACTED_NOT, stem, weight, words
from selfedit.types import MemoryEntry, Passage

ALIKE = 0.7
"""Share of the words of both sentences, by weight and but for the value, that both must have."""
LEAST = 2.0
"""Weight of the words, but for the value, that both must have; common words weigh less than 1."""
_NEGATIONS = frozenset("not no never neither nor cannot without".split())


@dataclass(frozen=True)
class Disagreement:
    here: str
    there: str
    """The sentences, as they stand."""


def disagreements(passage: Passage, other: Passage) -> list[Disagreement]:
    own, theirs = ([(sentence, _Said(sentence, p.title)) for sentence in sentences(p.text)] for p in (passage, other))
    return [Disagreement(here, there) for here, a in own for there, b in theirs if _disagree(a, b)]


def disagreeing(passage: Passage, other: MemoryEntry) -> list[dict]:
    """For people: `memory` and `source` of the other, what is said `here` and `there`; nothing within one source."""
    if other.passage.source == passage.source:
        return []
    return [
        {"memory": other.id, "source": other.passage.source} | asdict(found)
        for found in disagreements(passage, other.passage)
    ]


def _disagree(a: _Said, b: _Said) -> bool:
    mine, yours, same = a.values - b.values, b.values - a.values, a.values & b.values
    if not _alike(a.others | same, b.others | same):
        return False
    if len(mine) == len(yours) == 1:
        (x,), (y,) = mine, yours
        return a.denies == b.denies and x.isdecimal() == y.isdecimal() and not {*x.split()} & {*y.split()}
    return not mine and not yours and a.denies != b.denies


def _alike(a: set[str], b: set[str]) -> bool:
    shared, mine, yours = (sum(map(weight, stems)) for stems in (a & b, a, b))
    return shared >= LEAST and shared >= ALIKE * max(mine, yours)


def near(passage: Passage, router: Router) -> list[str]:
    """The memories that may say something about what the passage says."""
    found = {id: None for sentence in sentences(passage.text) for id, _ in router.best(sentence, 3, router.threshold)}
    return list(found)


class _Said:
    """A sentence as what it says: values, other words, and whether it denies."""

    def __init__(self, sentence: str, title: str):
        spelled = words(CONTRACTED_NOT.sub(" not", sentence))
        self.values = {" ".join(map(stem, words(value.text))) for value in values(sentence)}
        inside = {part for value in self.values for part in value.split()}
        stems = {stem(word) for word in spelled}
        self.denies = bool(stems & _NEGATIONS)
        self.others = (stems | {stem(word) for word in words(title)}) - inside - _NEGATIONS
