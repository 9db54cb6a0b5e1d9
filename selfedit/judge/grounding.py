"""How far passages support an answer, and the sentence of theirs that answers in its place. By words, no model.

A small model often repeats the question, or says what no passage says. Of 167 questions that people ask about seven
documents, the sentence that shares most words with the question answers more than Qwen2.5-Coder-0.5B does with the best
passage in view, and its answers, where the passages support them, with the sentence elsewhere, most of all
(docs/LOG.md, "Quoting").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from selfedit.edits.parse import sentences
from selfedit.judge.grading import is_correct
from selfedit.text import language, terms, weight
from selfedit.types import Passage, Question

ASKED = 0.5
"""Weight of the question's words in the choice of the supporting sentence; the answer's words count fully."""
LITTLE = 0.5
"""An answer with less weight of words of its own than this only repeats the question."""
SUPPORTED = 0.8
"""Share of what an answer says that a passage must have."""
REPEATED = 0.8
"""An answer of which so large a share stands in the question says nothing."""
BEFORE = 0.15
"""Weight of the question's words in the sentence before, in the choice of the sentence to quote."""
LONG_CODE = 0.025
"""A block of code fits a question less by this for each e-fold of its length: it has words of many questions by chance.
From a sentence nothing is taken off: that costs answers in prose (docs/LOG.md, "Questions in a developer's own
words")."""
SHORT_CODE = 8
"""Words of a block of which nothing is taken off."""
_ASKS_YES_OR_NO = re.compile(
    r"(?:^|[,;:]\s*)(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might|must)\b",
    re.IGNORECASE,
)
_ASKS_TWO = re.compile(
    r"\band (?:which|what|how|when|who|whom|whose|where|why|from|in|to|does|do|is|are|was|were|will|must|may)\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^`\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
"""A fenced block of code, to the end of a passage that was cut in it."""


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


@dataclass(frozen=True)
class Grounded:
    """An answer from passages, and what supports it."""

    text: str
    support: Support
    quoted: bool = False
    """Whether the text is the supporting sentence, in place of what the model wrote."""
    margin: float = 0.0
    """By how much a sentence that is quoted fits the question better than the next best one, in [0, 1.15]."""


def grounded(question: str, answer: str, passages: Sequence[Passage]) -> Grounded:
    """The answer, if it says more than the question and a passage has what it says; else the sentence that fits the
    question best. `answer` may be empty."""
    found, lang = support(question, answer, passages), language(passages[0].text)
    repeated = _share(_weights(answer, lang), _weights(question, lang))
    if found.share >= SUPPORTED and repeated < REPEATED:
        return Grounded(answer, found)
    return quote(question, passages) or Grounded(answer, found)


def quote(question: str, passages: Sequence[Passage]) -> Grounded | None:
    """The sentence, or block of code, that has most of the question's words, together with its title. A question that
    asks two things gets the two best ones of that passage, in their order; a sentence that ends with a colon, and only
    repeats the question, goes on with what follows it. None if they have none of the words."""
    fits = [(passage, _fits(question, passage)) for passage in passages]
    passage, parts = max(fits, key=lambda one: max(one[1].values(), default=0.0))
    best = sorted(parts, key=parts.__getitem__, reverse=True)[: 2 if asks_two(question) else 1]
    if not best or not parts[best[0]]:
        return None
    others = (fit for _, of_passage in fits for part, fit in of_passage.items() if part not in best)
    margin = parts[best[0]] - max(others, default=0.0)
    lang = language(passage.text)
    words = _weights(question, lang)
    best += [after for part, after in pairwise(parts) if part in best and _only_introduces(part, words, lang)]
    sentence = ("\n" if any(map(_is_code, best)) else " ").join(part for part in parts if part in best)
    asked = _share(_beyond_title(question, passage, lang), _weights(sentence, lang))
    return Grounded(sentence, Support(1.0, passage, sentence, 1.0, asked), True, margin)


def asks_two(question: str) -> bool:
    """Whether a question asks for two things: "Who made it, and when was that?"."""
    return bool(_ASKS_TWO.search(question))


def _only_introduces(sentence: str, asked: Mapping[str, float], lang: str) -> bool:
    return sentence.endswith(":") and _share(_weights(sentence, lang), asked) >= REPEATED


def is_quoted(question: Question, passage: Passage) -> bool:
    """Whether the sentence of the passage that is quoted for a question has the answer."""
    if question.kind != "question":
        return False
    quoted = quote(question.question, [passage])
    return quoted is not None and is_correct(quoted.text, question.answers, question.question)


def _fits(question: str, passage: Passage) -> dict[str, float]:
    """The sentences and blocks of code of a passage, in their order, and how well each fits the question."""
    lang, before, fits = language(passage.text), {}, {}
    asked, title = _weights(question, lang), _weights(passage.title, lang)
    for part in _quotable(passage.text):
        has = _weights(part, lang)
        fit = _share(asked, has | title) + BEFORE * _share(asked, before)
        length = len(part.split()) / SHORT_CODE if _is_code(part) else 1.0
        fits[part] = max(0.0, fit - LONG_CODE * log(max(1.0, length)))
        before = has
    return fits


def _is_code(part: str) -> bool:
    return part.startswith(("```", "~~~"))


def support(question: str, answer: str, passages: Sequence[Passage]) -> Support:
    """The best support of an answer by one of the passages."""
    return max((_by(question, answer, passage) for passage in passages), key=lambda s: s.in_sentence + ASKED * s.asked)


def _by(question: str, answer: str, passage: Passage) -> Support:
    lang = language(passage.text)
    asked, said = _weights(question, lang), _weights(answer, lang)
    if not _ASKS_YES_OR_NO.search(question):
        own = {term: value for term, value in said.items() if term not in asked}
        said = own if sum(own.values()) >= LITTLE else {}
    title, asked = _weights(passage.title, lang), _beyond_title(question, passage, lang)
    parts = [(sentence, _weights(sentence, lang)) for sentence in sentences(passage.text)] or [("", {})]
    sentence, best = max(parts, key=lambda part: _share(said, part[1]) + ASKED * _share(asked, part[1]))
    everything = set(title).union(*(has for _, has in parts))
    return Support(
        _share(said, everything), passage, sentence, _share(said, best), _share(asked, best) if said else 0.0
    )


def _beyond_title(question: str, passage: Passage, lang: str) -> dict[str, float]:
    """The words of the question that the title does not have; all, if it has them all."""
    asked, title = _weights(question, lang), _weights(passage.title, lang)
    return {term: value for term, value in asked.items() if term not in title} or asked


def _quotable(text: str) -> list[str]:
    """The sentences, and the blocks of code as they are."""
    parts, end = [], 0
    for block in _CODE.finditer(text):
        parts += [*sentences(text[end : block.start()]), block[0].strip()]
        end = block.end()
    return parts + sentences(text[end:])


def _weights(text: str, lang: str) -> dict[str, float]:
    return {term: weight(term, lang) for _, term in terms(text, lang)}


def _share(weights: Mapping[str, float], has: Mapping[str, float] | set[str]) -> float:
    covered = sum(value for term, value in weights.items() if term in has)
    return covered / total if (total := sum(weights.values())) else 0.0
