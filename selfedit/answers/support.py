"""What in a passage supports an answer, and what a memory studied that is nearest to a question. By words, no model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfedit.edits.parse import sentences
from selfedit.memory.route import Router
from selfedit.text import language, terms, weight, words
from selfedit.types import Passage, SelfEdit

ASKED = 0.5
"""Weight of the question's words in the choice of the supporting sentence; the answer's words count fully."""
LITTLE = 0.5
"""An answer with less weight of words of its own than this only repeats the question."""
_ASKS_YES_OR_NO = re.compile(
    r"(?:^|[,;:]\s*)(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might|must)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Support:
    """Words are weighed. What an answer says is what is not in the question; or all of it, if the question asks for yes
    or no."""

    share: float
    """Share of what the answer says that a passage has, in [0, 1]."""
    passage: Passage
    """That passage."""
    sentence: str
    """The sentence of it that says most of the answer."""
    in_sentence: float
    """Share of what the answer says that the sentence has, in [0, 1]."""
    asked: float
    """Share of the question that the sentence has, in [0, 1], but for words of the title, which all sentences are
    about; 0 if the answer says nothing."""


def support(question: str, answer: str, passages: Sequence[Passage]) -> Support:
    """The best support of an answer by one of the passages."""
    return max((_by(question, answer, passage) for passage in passages), key=lambda s: s.in_sentence + ASKED * s.asked)


def _by(question: str, answer: str, passage: Passage) -> Support:
    code = language(passage.text)
    asked, said = _weights(question, code), _weights(answer, code)
    if not _ASKS_YES_OR_NO.search(question):
        own = {term: value for term, value in said.items() if term not in asked}
        said = own if sum(own.values()) >= LITTLE else {}
    title = _weights(passage.title, code)
    asked = {term: value for term, value in asked.items() if term not in title} or asked
    parts = [(sentence, {*_weights(sentence, code)}) for sentence in sentences(passage.text)] or [("", set())]
    sentence, best = max(parts, key=lambda part: _share(said, part[1]) + ASKED * _share(asked, part[1]))
    everything = set(title).union(*(has for _, has in parts))
    return Support(
        _share(said, everything), passage, sentence, _share(said, best), _share(asked, best) if said else 0.0
    )


def _weights(text: str, code: str) -> dict[str, float]:
    return {term: weight(term, code) for _, term in terms(text, code)}


def _share(weights: Mapping[str, float], has: set[str]) -> float:
    covered = sum(value for term, value in weights.items() if term in has)
    return covered / total if (total := sum(weights.values())) else 0.0


def nearest_example(question: str, edits: Sequence[SelfEdit], title: str) -> tuple[str, str] | None:
    """(style, text) of the studied line that resembles the question most; None if no line does. Shown by `--why`."""
    lines = {
        f"{i}.{j}": (edit.style, f"{e.prompt} {e.text}".strip())
        for i, edit in enumerate(edits)
        for j, e in enumerate(edit.examples)
    }
    found = _nearest_beyond(title, question, {key: text for key, (_, text) in lines.items()})
    return None if found is None else lines[found]


def _nearest_beyond(title: str, question: str, texts: dict[str, str]) -> str | None:
    """As `nearest`, by the words that are not in the title, which many of the texts have; else by all words."""
    known = "|".join(map(re.escape, words(title)))
    return nearest(re.sub(rf"\b(?:{known})\b", " ", question, flags=re.IGNORECASE), texts) or nearest(question, texts)


def nearest(question: str, texts: dict[str, str]) -> str | None:
    """The key of the text that resembles the question most; None if no text does. The texts are about one subject, in
    one language."""
    return Router.of_texts(texts, 0, language("\n".join(texts.values()))).route(question)[0]
