"""Questions about the user: what they told before, in view, and an answer that must not go beyond it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfedit.memory.route import Router
from selfedit.sessions.statements import Statement
from selfedit.text import words

MOST_WORDS = 600
"""Of statements in view."""
UNKNOWN = "I don't know."
_PERSONAL = re.compile(r"\b(?:I|me|my|mine|myself|we|us|our|ours|ourselves)\b|\bI['’]", re.IGNORECASE)
_VALUE = re.compile(r"\b[\w.:/@#-]*\d[\w.:/@#-]*|(?<=[a-z,;:] )[A-Z][\w-]+|^[A-Z][\w-]+(?=[.,;!]?$)", re.MULTILINE)
_DENIES = re.compile(r"\b(?:no|not|never|nothing|none|nobody|unknown)\b|n['’]t\b", re.IGNORECASE)


def is_personal(question: str) -> bool:
    """Whether it asks about the user: "my", "our", "I"."""
    return bool(_PERSONAL.search(question))


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


def with_notes(statements: Sequence[Statement], question: str) -> str:
    """The question, with the statements before it."""
    told = "\n".join(f"- {statement.text}" for statement in statements)
    return f"What I told you before:\n\n{told}\n\nAnswer my question from that, briefly. {question}"


def checked(statements: Sequence[Statement], question: str, answer: str) -> str:
    """The answer; if it names or counts something that the user never stated, what the user said that is nearest to the
    question."""
    told = {word.lower() for statement in statements for word in words(statement.text)}
    first = answer.strip().partition("\n")[0]
    new = [value for value in _VALUE.findall(first) if not {word.lower() for word in words(value)} <= told]
    if not new or _DENIES.search(first):
        return answer
    nearest = _ranked(statements, question)
    return f"You said: {statements[nearest[0]].text}" if nearest else UNKNOWN


def _ranked(statements: Sequence[Statement], question: str) -> list[int]:
    """The statements that share words with the question, the best first."""
    router = Router.of_texts({str(index): statement.text for index, statement in enumerate(statements)}, 0)
    return [int(id) for id, _ in router.ranked(question)]
