"""What to look up for a question that is asked in the middle of a conversation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfedit.text import language, split_sentences, terms, weight
from selfedit.types import Message

FEW = 2
"""A question with so few words of its own is understood from the turn before it."""
SENTENCES = 2
"""Of that turn, counted from its end: the rest may be a pasted text."""
_REFERS = re.compile(
    r"\b(?:its?|they|them|their|that|this|those|these|he|him|his|she|hers?|there|ones?|same|instead)\b", re.IGNORECASE
)


def looked_up(question: str, history: Sequence[Message]) -> str:
    """The question; with the end of the user's turn before it where it refers back, or says little by itself."""
    before = next((message.content for message in reversed(history) if message.role == "user"), "")
    if not before or not (_REFERS.search(question) or _own_words(question) <= FEW):
        return question
    return " ".join([*split_sentences(before)[-SENTENCES:], question])


def _own_words(question: str) -> int:
    """How many different words it has that are not among the commonest."""
    lang = language(question)
    return len({term for _, term in terms(question, lang) if weight(term, lang) >= 1})
