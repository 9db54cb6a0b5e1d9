"""Questions made from a passage's own sentences by rule, no model: clumsy, but never wrong, whatever the model's size.

To study: a sentence is asked for by some of its words, in another order, with the title or without. What a person asks
has some of a sentence's words too; a question that holds all of them but the answer would teach copying, not recall.
To judge: a sentence with a question word where a short span that carries a fact stood ("The walk ends at what?").
"""

from __future__ import annotations

import random
import re

from selfedit.edits.parse import sentences
from selfedit.types import Passage, Question

_CAPITAL = r"[^\W\d_a-zß-öø-ÿ]"
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_SMALL = "(?:a|an|and|as|at|but|by|for|from|he|if|in|into|is|it|of|on|or|per|she|so|than|that|the|they|to|was|were|when|which|while|with)"
_COUNT = (
    "(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-[a-z]+)?|(?:a |one )?(?:hundred|thousand|million)|half a)"
)
_PATTERNS = {
    "code": r"`[^`\n]{2,60}`|(?<!\w)--?[a-z][\w-]+(?:=\S+)?|\b[^\W\d]\w*(?:[_.]\w+)+(?:\(\))?",
    "quotation": r"(?<!\w)[\"“'‘]([^\"”'’]{3,60})[\"”'’](?!\w)",
    "date": rf"\b\d{{1,2}}\s{_MONTH}(?:\s\d{{4}})?\b|\b{_MONTH}\s\d{{1,2}}(?:,\s\d{{4}})?\b|\b{_MONTH}\s\d{{4}}\b",
    "name": rf"\b(?:{_CAPITAL}[\w'’-]*)(?:\s+(?:(?:of|the|and|de|von)\s+){{0,2}}{_CAPITAL}[\w'’-]*)*(?:\s\d+(?:\.\d+)*\b)?",
    "year": r"\b(?:1[5-9]\d\d|20\d\d)(?![\w%]|[.,]\d|\s%)",
    "number": rf"(?:[$€£]\s?)?\b(?:\d+(?:[.,]\d+)*[a-z]+\b|(?:\d+(?:[.,]\d+)*(?!\w)|{_COUNT}\b)(?:\s?%|\s(?!{_SMALL}\b)[a-z]+)?)",
    "clause": r"(?<=\s)(?:a|an|the|of|by|in|to|for|with|as|from)\s+((?:[\w'’-]+\s+){0,4}[\w'’-]+)(?=[.;,!?]|$)",
}
"""Kinds of spans, the surest first; a group, where there is one, is the span."""
_SPANS = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}


def pick_spans(text: str, limit: int, seed: int = 0) -> list[tuple[str, str]]:
    """(sentence, span) pairs: what carries facts, spread evenly over the sentences; no span twice in a sentence."""
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
    """For each sentence a question made of some of its words, drawn so many times, one draw of all sentences after the
    other; the sentence is the answer."""
    chance = random.Random(seed)
    own = [s for s in sentences(passage.text) if len(re.findall(r"\w+", s)) >= MIN_WORDS]
    return [Question(_keyword_question(s, passage.title, chance), (s,), sentence=s) for _ in range(draws) for s in own]


MIN_WORDS = 3
"""A sentence of fewer words cannot be asked for by some of them."""
_OPENERS = ("What", "Which", "Who", "How", "When", "Where", "What about", "Tell me about")
_WITH_TITLE = (
    "{opener} {title} {cue}?",
    "{opener} {cue} of {title}?",
    "{opener} {cue} in {title}?",
    "In {title}, {opener} {cue}?",
)


def _keyword_question(sentence: str, title: str, chance: random.Random) -> str:
    words = sentence.rstrip(" .!?…").split()
    enough = min(2, sum(len(word) > 3 for word in words))
    for _ in range(20):  # until enough is left to tell what is asked for
        kept = [word for word in words if chance.random() < (0.6 if len(word) > 3 else 0.4)]
        if kept and sum(len(word) > 3 for word in kept) >= enough:
            break
    else:
        kept = words
    turn = chance.randrange(len(kept)) if chance.random() < 0.5 else 0
    cue = " ".join(kept[turn:] + kept[:turn]).strip(" ,;:.")
    form = chance.choice(_WITH_TITLE) if title and chance.random() < 0.6 else "{opener} {cue}?"
    return form.format(opener=chance.choice(_OPENERS), title=title, cue=cue)


def span_questions(passage: Passage, text: str, limit: int, seed: int = 0) -> list[Question]:
    """Questions that the spans of a text about the passage answer, each asked by the text's own sentence."""
    questions = []
    for sentence, span in pick_spans(text, limit, seed):
        before, _, after = sentence.partition(span)
        asked = f"{before}{_question_word(span)}{after}".rstrip(" .;:,!?") + "?"
        asked = asked[0].upper() + asked[1:]
        if passage.title and not _names(passage.title) & _names(asked):
            asked = f"{passage.title}: {asked}"
        if span not in asked:
            questions.append(Question(asked, (span,), sentence=sentence))
    return questions


def _question_word(span: str) -> str:
    counted = _counted(span)
    return {"year": "which year", "date": "which date", "count": f"how many {counted}", "name": "who or what"}.get(
        kind_of(span), "what"
    )


def kind_of(span: str) -> str:
    """What a span is, for choosing how to ask for it: `date`, `year`, `count` (a number of something), `name` or `other`."""
    for kind in ("date", "year"):
        if _SPANS[kind].fullmatch(span):
            return kind
    return "count" if _counted(span) else "name" if span[0].isupper() else "other"


def _counted(span: str) -> str:
    match = re.fullmatch(rf"(?:\d[\d.,]*|{_COUNT})\s([a-z]+)", span)
    return match[1] if match else ""


def _names(text: str) -> set[str]:
    """The words of a text that may name what it is about: the longer ones."""
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 3}
