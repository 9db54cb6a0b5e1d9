"""Questions made by rules from the sentences of a passage, without a model: clumsy, but always correct.

In: a passage. Out: Questions. For training, a keyword question has some words of a statement, with or without the title
of the document; its answer is the statement. A user's question has some words of the statement, too; a question with
all words but the answer would teach copying instead of recall. For judging, a span question is a sentence in which a
question word replaces a short span that carries a fact ("The walk ends at what?").
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from math import log

from selfedit.edits.parse import sentences, statements
from selfedit.text import MONTHS, root, words
from selfedit.types import TITLE_SEPARATOR, Passage, Question

_CAPITAL = r"[^\W\d_a-zß-öø-ÿ]"
_MONTH = f"(?:{MONTHS})"
_SMALL = (
    "(?:a|an|and|as|at|but|by|for|from|he|if|in|into|is|it|of|on|or|per|she|so|than|that|the|they|to|was|were|when|"
    "which|while|with)"
)
_COUNT = (
    "(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-[a-z]+)?|"
    "(?:a |one )?(?:hundred|thousand|million)|half a)"
)
_NAME = rf"{_CAPITAL}[\w'’-]*"
_DIGITS = r"\d+(?:[.,]\d+)*"
_PATTERNS = {
    "code": r"`[^`\n]{2,60}`|(?<!\w)--?[a-z][\w-]+(?:=\S+)?|\b[^\W\d]\w*(?:[_.]\w+)+(?:\(\))?",
    "quotation": r"(?<!\w)[\"“'‘]([^\"”'’]{3,60})[\"”'’](?!\w)",
    "date": rf"\b\d{{1,2}}\s{_MONTH}(?:\s\d{{4}})?\b|\b{_MONTH}\s\d{{1,2}}(?:,\s\d{{4}})?\b|\b{_MONTH}\s\d{{4}}\b",
    "name": rf"\b(?:{_NAME})(?:\s+(?:(?:of|the|and|de|von)\s+){{0,2}}{_NAME})*(?:\s\d+(?:\.\d+)*\b)?",
    "year": r"\b(?:1[5-9]\d\d|20\d\d)(?![\w%]|[.,]\d|\s%)",
    "number": (rf"(?:[$€£]\s?)?\b(?:{_DIGITS}[a-z]+\b|(?:{_DIGITS}(?!\w)|{_COUNT}\b)(?:\s?%|\s(?!{_SMALL}\b)[a-z]+)?)"),
    "clause": r"(?<=\s)(?:a|an|the|of|by|in|to|for|with|as|from)\s+((?:[\w'’-]+\s+){0,4}[\w'’-]+)(?=[.;,!?]|$)",
}
"""Kinds of spans, the most reliable first; if a pattern has a group, the group is the span."""
_SPANS = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}


def pick_spans(text: str, limit: int, seed: int = 0) -> list[tuple[str, str]]:
    """Returns up to `limit` (sentence, span) pairs, spread evenly over the sentences; the spans carry facts."""
    queues = []
    for sentence in sentences(text):
        lead = re.match(r"\W*(?:\d{1,3}[.):]\s+)?\W*", sentence).end()
        spans: list[str] = []
        taken: list[tuple[int, int]] = []
        for pattern in _SPANS.values():
            for match in pattern.finditer(sentence):
                span, (start, end) = match[pattern.groups].strip(" .,;:'’"), match.span(pattern.groups)
                first_word = start <= lead and span[:1].isupper() and " " not in re.sub(r"\s\d[\d.]*$", "", span)
                nested = any(span in other or other in span for other in spans)
                overlaps = any(start < high and low < end for low, high in taken)
                if (
                    (len(span) > 1 or span.isdigit())
                    and not (first_word or nested or overlaps)
                    and len(span) < len(sentence) / 2
                ):
                    spans.append(span)
                    taken.append((start, end))
        random.Random(seed).shuffle(spans)
        queues.append((sentence, spans))
    picked: list[tuple[str, str]] = []
    while len(picked) < limit and any(spans for _, spans in queues):
        picked += [(sentence, spans.pop()) for sentence, spans in queues if spans]
    return picked[:limit]


def keyword_questions(passage: Passage, draws: int, seed: int = 0) -> list[Question]:
    """Makes `draws` random questions per statement from some of its words; the statement is the answer.

    The order is: one question for every statement, then the next question for every statement, and so on.
    """
    rng = random.Random(seed)
    # A sentence without spaces (Chinese, Japanese, Thai) cannot be shortened by words: it would be its own question.
    usable = [s for s in statements(passage) if len(words(s)) >= MIN_WORDS and len(s.split()) > 1]
    cues, title = _Cues(usable, rng), passage.title.partition(TITLE_SEPARATOR)[0]
    return [
        Question(_keyword_question(cues.draw(i), title, rng), (s,), sentence=s)
        for _ in range(draws)
        for i, s in enumerate(usable)
    ]


MIN_WORDS = 3
"""A shorter statement has too few words for a keyword question."""
CUE_WORDS = 60
"""Words from the beginning of a long statement, e.g. of a block of code, that a question may use."""
_OPENERS = ("What", "Which", "Who", "How", "When", "Where", "What about", "Tell me about")
_WITH_TITLE = (
    "{opener} {title} {cue}?",
    "{opener} {cue} of {title}?",
    "{opener} {cue} in {title}?",
    "In {title}, {opener} {cue}?",
)


class _Cues:
    """Draws some words of a statement that tell it apart from the other statements of its passage.

    Words that several statements have ("exit code … means that …") point to all of them, and would teach to take one
    for the other. A word weighs its inverse document frequency, with statements as the documents.
    """

    _TRIES = 20

    def __init__(self, statements: Sequence[str], rng: random.Random):
        self._rng = rng
        self._spelled = [statement.rstrip(" .!?…").split()[:CUE_WORDS] for statement in statements]
        self._roots = [set(map(root, words(statement.casefold()))) for statement in statements]
        count = len(statements)
        counts = Counter(root for roots in self._roots for root in roots)
        self._weights = {root: log(1 + (count - n + 0.5) / (n + 0.5)) for root, n in counts.items()}
        self._enough = 0.5 * max(self._weights.values(), default=0.0)

    def draw(self, index: int) -> str:
        """Words of one statement: the most distinctive of several draws, or the first that is distinctive enough."""
        best, best_margin = self._spelled[index], float("-inf")
        for _ in range(self._TRIES):
            kept = self._some(self._spelled[index])
            margin = self._margin(index, kept)
            if margin > best_margin:
                best, best_margin = kept, margin
            if margin >= self._enough:
                break
        return " ".join(best).strip(" ,;:.")

    def _some(self, spelled: list[str]) -> list[str]:
        """Scattered words, half the time rotated; a stretch of the statement would teach to go on instead of recall."""
        rng = self._rng
        kept = [word for word in spelled if rng.random() < (0.6 if len(word) > 3 else 0.4)]
        start = rng.randrange(len(kept)) if kept and rng.random() < 0.5 else 0
        return kept[start:] + kept[:start]

    def _margin(self, index: int, kept: Sequence[str]) -> float:
        """How much more weight of these words the statement has than any other; a copy of it says nothing."""
        if not kept or len(kept) == len(self._spelled[index]):
            return float("-inf")
        roots = set(map(root, words(" ".join(kept).casefold())))
        shared = (sum(self._weights[r] for r in roots & other) for i, other in enumerate(self._roots) if i != index)
        return sum(self._weights.get(r, 0.0) for r in roots) - max(shared, default=0.0)


def _keyword_question(cue: str, title: str, rng: random.Random) -> str:
    form = rng.choice(_WITH_TITLE) if title and rng.random() < 0.6 else "{opener} {cue}?"
    return form.format(opener=rng.choice(_OPENERS), title=title, cue=cue)


def span_questions(passage: Passage, text: str, limit: int, seed: int = 0) -> list[Question]:
    """Makes questions from a text about the passage: in each sentence, a question word replaces a span."""
    questions = []
    for sentence, span in pick_spans(text, limit, seed):
        before, _, after = sentence.partition(span)
        question = f"{before}{_question_word(span)}{after}".rstrip(" .;:,!?") + "?"
        question = question[0].upper() + question[1:]
        if passage.title and not _names(passage.title) & _names(question):
            question = f"{passage.title}: {question}"
        if span not in question:
            questions.append(Question(question, (span,), sentence=sentence))
    return questions


def _question_word(span: str) -> str:
    question_words = {
        "year": "which year",
        "date": "which date",
        "count": f"how many {_counted(span)}",
        "name": "who or what",
    }
    return question_words.get(kind_of(span), "what")


def kind_of(span: str) -> str:
    """Returns the kind of a span: `date`, `year`, `count` (a number of something), `name` or `other`."""
    for kind in ("date", "year"):
        if _SPANS[kind].fullmatch(span):
            return kind
    return "count" if _counted(span) else "name" if span[0].isupper() else "other"


def _counted(span: str) -> str:
    """Returns the noun of a span such as "seven rooms", or an empty text."""
    match = re.fullmatch(rf"(?:\d[\d.,]*|{_COUNT})\s([a-z]+)", span)
    return match[1] if match else ""


def _names(text: str) -> set[str]:
    """Returns the longer words of a text, which may name its topic."""
    return {word for word in words(text.casefold()) if len(word) > 3}
