"""Questions about the user: what they told before, in view, and an answer that must not go beyond it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from selfedit.answers.answerer import UNKNOWN
from selfedit.sessions.reader import Reader
from selfedit.sessions.statements import Statement
from selfedit.text import terms, weight, words

MOST_WORDS = 600
"""Of statements in view."""
READ = 4
"""Statements in view that answer a question most probably, where a model has read them all."""
LIKELY = 0.3
"""Probability that a statement answers a question, from which the question is about the user whatever its words."""
UNLIKELY = 0.05
"""Below, no statement answers it."""
LEAST = 0.5
"""Least weight of the words that a statement shares with a question, for it to be told in place of an answer."""
_PERSONAL = re.compile(r"\b(?:I|me|my|mine|myself|we|our|ours|ourselves)\b", re.IGNORECASE)
_ADVICE = re.compile(r"\b(?:shall|should|can|could|may|might|would) (?:I|we)\b", re.IGNORECASE)
_CHOICE = re.compile(r"\bor\b|^\W*(?:is|are|was|were|am|do|does|did|has|have|had|can|will)\b", re.IGNORECASE)
"""Questions that name an answer: yes or no, one or the other."""
_VALUE = re.compile(r"\b[\w.:/@#-]*\d[\w.:/@#-]*|(?<=[a-z,;:] )[A-Z][\w-]+|^[A-Z][\w-]+(?=[.,;!]?$)", re.MULTILINE)
_DENIES = re.compile(r"\b(?:no|not|never|nothing|none|nobody|unknown)\b|n['’]t\b", re.IGNORECASE)


@dataclass(frozen=True)
class Likely:
    """What probably answers a question."""

    statements: list[Statement]
    """In order of time."""
    best: Statement | None = None
    """The most probable one; None: no model has read them."""
    probability: float = 1.0
    """That the best one answers."""


def is_personal(question: str) -> bool:
    """Whether it asks about the user: "my", "our", "I"; not for advice ("should I"), and no request."""
    return question.rstrip().endswith("?") and bool(_PERSONAL.search(question)) and not _ADVICE.search(question)


def in_view(statements: Sequence[Statement], question: str) -> list[Statement]:
    """The statements to read for a question, in order of time: all, or those that fit it best if they are many."""
    if sum(len(words(statement.text)) for statement in statements) <= MOST_WORDS:
        return list(statements)
    chosen: set[int] = set()
    room = MOST_WORDS
    latest = range(len(statements) - 1, -1, -1)
    for index in dict.fromkeys([*_ranked(statements, question), *latest]):
        room -= len(words(statements[index].text))
        if room < 0:
            break
        chosen.add(index)
    return [statements[index] for index in sorted(chosen)]


def likeliest(statements: Sequence[Statement], question: str, reader: Reader | None) -> Likely:
    """The statements that answer a question most probably. One that replaced another answers what that one answered.
    `reader`: None: those that are in view by their words."""
    known = in_view(statements, question)
    if reader is None:
        return Likely(known)
    texts = list(dict.fromkeys(text for statement in known for text in statement.texts))
    answering = dict(zip(texts, reader.answering(question, texts)))
    probabilities = [max(answering[text] for text in statement.texts) for statement in known]
    best = sorted(range(len(known)), key=probabilities.__getitem__, reverse=True)[:READ]
    return Likely([known[i] for i in sorted(best)], known[best[0]], probabilities[best[0]])


def with_notes(statements: Sequence[Statement], question: str) -> str:
    """The question, with the statements before it."""
    told = "\n".join(f"- {statement.text}" for statement in statements)
    return f"What I told you before:\n\n{told}\n\nAnswer my question from that, briefly. {question}"


def checked(statements: Sequence[Statement], question: str, answer: str, best: Statement | None = None) -> str:
    """Returns the lines of the answer before the first that the statements do not support. If that is the first line:
    the statement `best` in place of the answer, by default the one that shares most words with the question.

    A line is not supported if it has a name or number that no statement has, or if none of the words that it adds to
    the question stand in a statement, unless it denies. Where the question names an answer itself, every word must
    stand in a statement; a line that denies may repeat the question's."""
    told = {term for statement in statements for term in _terms(statement.text)}
    asked = _terms(question)

    def is_supported(line: str) -> bool:
        values, added = _telling(_terms(" ".join(_VALUE.findall(line)))), _telling(_terms(line) - asked)
        if _DENIES.search(line):
            return values - asked <= told
        named = _telling(_terms(line)) if _CHOICE.search(question) else values
        return named <= told and (not added or bool(added & told))

    if supported := list(takewhile(is_supported, answer.strip().split("\n"))):
        return "\n".join(supported).rstrip()
    if best is None:
        nearest = _ranked(statements, question)
        best = statements[nearest[0]] if nearest else None
    return f"You said: {best.text}" if best else UNKNOWN


def _telling(some_terms: set[str]) -> set[str]:
    """Those that are not among the commonest words."""
    return {term for term in some_terms if weight(term) == 1}


def _ranked(statements: Sequence[Statement], question: str) -> list[int]:
    """The statements that share words with the question, the best first."""
    asked = _terms(question)
    scores = [sum(weight(term) ** 2 for term in asked & _terms(statement.text)) for statement in statements]
    fitting = [index for index, score in enumerate(scores) if score >= LEAST]
    return sorted(fitting, key=lambda index: (scores[index], index), reverse=True)


def _terms(text: str) -> set[str]:
    """The stems of a text, with its numbers."""
    return {term for _, term in terms(text, "en")}
