"""The values in a sentence (numbers, days, times, versions, names), and a sentence without one of them.

Two values of the same kind can be the older and the newer value of one matter. A clause ends at a comma, a semicolon or
a conjunction; the smallest part that can go without the sentence losing its grammar goes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from selfedit.text import MONTHS, split_sentences, stem, weight, words

_COUNT = (
    "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|twenty|thirty|forty|fifty"
)
_NO_NAME = (
    "I|I['’]m|I['’]ve|I['’]ll|I['’]d|We|He|She|It|They|There|The|This|That|These|My|Our|Your|An?|In|On|At|For"
    "|From|Since|When|If"
    "|And|But|So|Also|Not|No|Yes|Only|Please|Always|Never|Every|One|All|Both|Then|Now|Today|What|Which"
)
_CALENDAR = rf"(?:{MONTHS}|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?)\b"
_WEEKDAY = r"(?i:(?:mon|tues|wednes|thurs|fri|satur|sun)days?)"
_VALUE = re.compile(
    rf"(?P<date>\b\d{{1,2}}(?:st|nd|rd|th)?(?: of)? (?i:{MONTHS})\b|\b(?i:{MONTHS}) \d{{1,2}}(?:st|nd|rd|th)?\b(?!:)"
    r"|\b\d{4}-\d\d-\d\d\b"
    r"|\b\d{1,2}(?:st|nd|rd|th)\b)"
    r"|(?P<time>\b\d{1,2}[:.]\d\d(?= ?(?:[ap]m|h|o'clock)\b)|\b\d{1,2}:\d\d\b|\b\d{1,2} ?[ap]m\b"
    r"|\b(?:half|quarter) (?:past |to )?(?:\d+|[a-z]+)\b(?<!an)|(?<=\bat )\d{1,2}(?=[,.;!?]|$| (?:now|sharp|on|in"
    r"|every|o'clock)\b)"
    r"|\b\w+ o'clock\b|\b(?:noon|midnight)\b)"
    rf"|(?P<weekday>\b{_WEEKDAY}\b)"
    rf"|(?P<month>\b(?:{MONTHS})\b)"
    r"|(?P<code>[\w.-]*[/\\@][\w./\\@-]*\w|\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]+\b|\b\d+(?:-\d+)+\b)"
    r"|(?P<colour>\b(?:red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|gr[ae]y|silver|golden"
    r"|beige|teal|plum"
    r"|turquoise|crimson|maroon|navy|cream|lilac)\b)"
    r"|(?P<room>\b(?:attic|basement|cellar|loft|bedroom|kitchen|garage|garden|balcony|shed|study|(?:ground|top"
    r"|first|second"
    r"|third|fourth|fifth|upper|lower) floor)\b)"
    r"|(?P<year>\b(?:19|20)\d\d\b)"
    rf"|(?P<number>\d+(?:[.,]\d+)*|\b(?:{_COUNT})\b)"
    r"|(?P<name>(?<=\bcalled )\w+|(?<=\bnamed )\w+|(?:(?:Mrs?|Ms|Dr|Prof)\b\.? )?\b"
    rf"(?!(?:{_NO_NAME})\b)(?!{_WEEKDAY}\b)[A-Z][\w-]*\w(?:[ ’'](?:of )?(?!{_CALENDAR})[A-Z]\w+)*)"
)
_CLAUSE_END = re.compile(
    r"\s*[,;]\s+(?:(?:and|but|so|because|as|since)\s+)?|\s+(?:and|but|so|because|although)\s+", re.IGNORECASE
)
_CLAUSE_WITH_VERB = re.compile(
    r"^(?:I|we|she|he|they|it|you)\b|\b(?:is|are|was|were|has|have|had|can|will|must|\w+(?:[^s\W]s|ed))\b"
    r"|['’](?:s|re|m|ve)\b",
    re.IGNORECASE,
)
_PRONOUN_CLAUSE = re.compile(r"^(?:she|he|they|it)\b\s*", re.IGNORECASE)


_RELATION = re.compile(
    r"\b(in|on|at|with|to|from|by|for|called|named|is|are)\s+(?:(?:the|an?)\s+)?[\"“]?$", re.IGNORECASE
)
_ATTRIBUTE = re.compile(
    r"\b(?:favou?rite [\w-]+|colou?r|job|diet|hobby|surname|nickname) (?:is|are) (?:now )?(?:an? |the )?([a-z][\w-]+)",
    re.IGNORECASE,
)
_ADVERBS = frozenset("yesterday today tomorrow instead already again".split())
LABELS = frozenset(map(stem, "plot room level size floor platform gate line track apartment flat house".split()))


MOST = 8
"""Values of one sentence that are compared; more are a list or a paste."""


class Value(NamedTuple):
    kind: str
    text: str
    units: frozenset[str]
    """The stems of the two words after a number, without common ones: 30 raised *beds*."""
    label: str = ""
    """The stem of the noun or the name just before a number: *plot* 61, *Python* 3; "" if it tells nothing."""
    is_subject: bool = False
    """Whether it begins its sentence or clause."""
    relation: str = ""
    """The preposition or the verb just before it: *in* Rust, *called* Ada; "" if there is none."""


@lru_cache(maxsize=10_000)
def values(sentence: str) -> tuple[Value, ...]:
    """The values of a sentence, in order. A name at the start of a sentence counts unless it is a common word."""
    found = []
    for match in _VALUE.finditer(sentence):
        kind, text = match.lastgroup or "", match[0]
        if kind == "name" and _begins_sentence(sentence, match.start()) and not _is_rare(text):
            continue
        units, label = frozenset[str](), ""
        if kind in ("number", "code"):
            units = _units(sentence[match.end() :])
            before = re.search(r"\b(\w+)\s+$", sentence[: match.start()])
            label = stem(before[1]) if before and (stem(before[1]) in LABELS or _is_version(before[1], text)) else ""
        starts = bool(re.search(r"(?:^|[.,;:!?]\s+|\b(?:and|but|so)\s+)$", sentence[: match.start()]))
        starts = starts and bool(re.match(r"(?:['’]s)?\s+\w", sentence[match.end() :]))
        relation = _RELATION.search(sentence[: match.start()])
        found.append(Value(kind, text, units, label, starts, relation[1].lower() if relation else ""))
    found += [Value("attribute", match[1], frozenset()) for match in _ATTRIBUTE.finditer(sentence)]
    return tuple(found[:MOST])


def _units(text: str) -> frozenset[str]:
    """The stems of the one or two words that tell what a number before the text counts: "an hour", "raised beds"."""
    first, second, *_ = [*re.findall(r"[\w-]+", text if text[:1].isspace() else "")[:2], "", ""]
    counted = (second,) if first in ("a", "an", "per") else (first, second) if weight(stem(first)) == 1 else ()
    return frozenset(
        stem(word) for word in counted if word.islower() and weight(stem(word)) == 1 and word not in _ADVERBS
    )


def _is_version(word: str, number: str) -> bool:
    """Whether a name and a number after it are a program and its version."""
    return word[:1].isupper() and word[1:].islower() and number[:1].isdigit() and weight(stem(word)) == 1


def _begins_sentence(text: str, position: int) -> bool:
    return not position or bool(re.search(r"[.!?:\"“]\s*$", text[:position]))


def _is_rare(name: str) -> bool:
    """Whether a capitalised word at the start of a sentence is likely a name: not a common word, not a plural or a form
    in -ing."""
    return " " in name or (weight(stem(name)) == 1 and not re.search(r"(?:ing|ed|ly)$", name))


def mentions(text: str, value: str) -> bool:
    """Whether the value stands in the text as whole words."""
    return bool(re.search(rf"(?<![\w.,-]){re.escape(value)}(?![\w-]|[.,]\d)", text, re.IGNORECASE))


def clause_with(sentence: str, value: str) -> str:
    """The clause of a sentence that holds the value."""
    return next((clause for clause in _CLAUSE_END.split(sentence) if mentions(clause, value)), sentence)


def without(text: str, value: str, *, keep: str = "", pronoun: str = "") -> str:
    """The text without the clauses that hold the value, but for those that hold `keep` too; "" if nothing is left.

    pronoun: the noun phrase for a pronoun whose clause of reference went ("my former neighbour").
    """
    left = []
    for sentence in split_sentences(text, "en"):
        if mentions(sentence, value):
            sentence = _sentence_without(sentence, value, keep, pronoun)
        if sentence:
            left.append(sentence)
    return " ".join(left)


def _sentence_without(sentence: str, value: str, keep: str, pronoun: str) -> str:
    escaped = re.escape(value)
    sentence = re.sub(rf"\bfrom (?:the )?{escaped} (?=to\b)", "", sentence, flags=re.IGNORECASE)
    if not re.search(
        rf"\b(?:(?:is|are|was|be)|\w+['’](?:s|re)|from) (?:\w+ )?(?:on|at|by|every) {escaped}", sentence, re.IGNORECASE
    ):
        when = rf"(?<=\w) (?:on|at|by|every) (?:{_CALENDAR} )?{escaped}(?![\w-]|[.,:]\d)"
        sentence = re.sub(when, "", sentence, flags=re.IGNORECASE)
    modifier = rf"(?<!\bis)(?<!\bare)(?<!\bit['’]s),?\s+(?:called|named|version|number)\s+{escaped}(?![\w-]|[.,]\d)"
    if not re.match(r"called|named|version|number", sentence, re.IGNORECASE):
        sentence = re.sub(modifier, "", sentence, flags=re.IGNORECASE)
    sentence = re.sub(rf", {escaped}, ", " ", sentence, flags=re.IGNORECASE)
    if not mentions(sentence, value):
        return sentence
    spans, start = [], 0
    for match in _CLAUSE_END.finditer(sentence):
        spans.append((sentence[start : match.start()], match[0]))
        start = match.end()
    spans.append((sentence[start:].rstrip(".!"), ""))
    kept = [(clause, end) for clause, end in spans if not mentions(clause, value) or keep and mentions(clause, keep)]
    if kept and kept[0] != spans[0]:
        if not keep and (re.search(r"because|so|as|since", spans[0][1]) or not _CLAUSE_WITH_VERB.search(kept[0][0])):
            return ""
        first, end = kept[0]
        if begin := _PRONOUN_CLAUSE.match(first):
            if not pronoun:
                return ""
            kept[0] = (f"{pronoun} {first[begin.end() :]}", end)
    if sum(len(words(clause)) for clause, _ in kept) < 3:
        return ""
    text = "".join(clause + end for clause, end in kept[:-1]) + kept[-1][0]
    return text[:1].upper() + text[1:].rstrip(" ,;") + "."
