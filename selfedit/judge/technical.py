"""Technical answers: identifiers, versions, code, quantities, yes and no, which are right or wrong by the character.

Similar words often mean the same in prose, but never in code: `--no-cache` is not `--no-cache-dir`. `verdict` decides
where the gold answer is of this kind, and returns None where the grader of prose must decide. The gold answer is cut
into facts. A fact counts if it stands in the answer as a whole, not just after "instead of" or the like, and in the
part of the answer that is about the question. Two labelled facts ("10 per host; 100 in total") must stand in the order
of their labels. Quotation marks, spaces around punctuation, a leading module name and empty parentheses do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from selfedit.judge.features import NEGATIONS, NUMBER_WORDS, SCALES, SMALL_WORDS, in_digits, stem, words
from selfedit.text import CONTRACTED_NOT, MONTHS

_NAME = re.compile(  # what names of code, options and versions have, and prose does not
    r"\w_|_\w|[a-z][A-Z]|\w\(|[\[{<]\w|\w::|\w[=|]|[=|]\w|->|^\(.+,.*\)$"
    r"|(?<![\w.])(?:[a-z_]\w+\.[A-Za-z_]|[A-Za-z_]\w+\.[a-z_])\w+|^(?:--?[A-Za-z]|[@$/.~]\w|[<>=]=?\d)"
    r"|^[^\w\s.,;:!?+%$€£-]\W+$|[A-Za-z]\d|\d\.\d+\.\d|\d(?:\.\d+)*(?:a|b|rc|\.dev|\.post)\d"
)
_VERSION = r"v?\d+(?:\.\d+)+(?:(?:a|b|rc|\.?dev|\.?post)\d+)?"
_OF_VERSIONS = re.compile(
    r"\b(?:versions?|releases?|minimum|since|upgrade|python|require[sd]?|support(?:s|ed)?)\b", re.I
)
_OF_QUANTITIES = re.compile(
    r"\bhow\b|\b(?:percent\w*|share|factor|rate|time-?out|default|value|limit|size|number)\b", re.I
)
_ORDINARY = re.compile(r"[A-Z]?\d+(?:st|nd|rd|th|s)?|(?:Mc|Mac|O|De|La|Le)[A-Z][a-z]+|\(\w+\)")
_COMMAND = re.compile(r"(?:^|\s)--?[A-Za-z]|^(?:from|import|pip|git|npm|docker|SELECT|EXPLAIN|await|def|class|with)\s")
_ASKS_FOR_COMMAND = re.compile(r"\bwhich (?:command|import|statement|line|call|expression)\b", re.IGNORECASE)
_CHUNK = re.compile(r"(?:[^\s(\[{]|[(\[{][^()\[\]{}]*[)\]}]|[(\[{])+")
_GENERIC = frozenset("raise raises use uses return returns call calls set give gives throw throws via one it".split())
_QUOTES = re.compile(r"[`'\"“”‘’]")
_SPACES = re.compile(r"(?<=[(\[{])\s+|\s+(?=[)\]},:])|(?<=[\w)\]}])\s+(?=[=|*+<>]=?\s)|(?<=[=|*+<>])\s+(?=[\w(\[{])")
_GROUPS = re.compile(r"(?<=\d)[,_](?=\d{3}(?!\d))")
_PARTS = re.compile(r"\s*;\s*|,?\s+and\s+|,\s+(?![^(\[{]*[)\]}])")
_CLAUSES = re.compile(r"[,;]\s|\.\s|\b(?:and|but|although|though|while|whereas|then|instead)\b")

_REJECTS = re.compile(
    r"\b(?:not|never|instead of|rather than|in place of|no longer|replaces|replacing|unlike|except(?: for)?"
    r"|removed|formerly)(?: (?:a|an|the|to|use|using|with|be|is|call|calling|raises?|returns?|method|function"
    r"|option|flag|parameter|argument|old|former|deprecated))*\W*$"
)
_ASKS_FOR_OLD = re.compile(r"\b(?:removed|gone|dropped|deprecated|no longer|not|replaced|renamed)\b")
_ASKS_FOR_NEW = re.compile(r"\b(?:in place of|instead|replacement|replaces|replace|use[d]?)\b")

_SCALES = SCALES | {"k": 1e3}
_UNITS: dict[str, tuple[str, float]] = {
    unit: (dimension, factor)
    for dimension, line in {
        "time": "ns:1e-9 nanosecond:1e-9 us:1e-6 µs:1e-6 microsecond:1e-6 ms:1e-3 millisecond:1e-3 s:1 sec:1 second:1 "
        "min:60 minute:60 h:3600 hour:3600 day:86400 week:604800 month:2629800 year:31557600",
        "size": "b:1 byte:1 kb:1e3 kilobyte:1e3 kib:1024 mb:1e6 megabyte:1e6 mib:1048576 gb:1e9 gigabyte:1e9 "
        "gib:1073741824 tb:1e12 terabyte:1e12 tib:1099511627776 bit:0.125",
        "share": "%:1 percent:1 point:1",
        "count": "time:1",
    }.items()
    for unit, factor in ((name, float(value)) for name, value in (item.split(":") for item in line.split()))
}
_QUANTITY = re.compile(
    rf"(?<![\w.])(?P<number>-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|(?:{'|'.join(NUMBER_WORDS)})\b)(?![\d.]*\d)"
    r"(?:[ -]?(?P<scale>thousand|million|billion|trillion|k(?=\b)))?(?:[ -]?(?P<unit>%|[a-zµ]+))?",
    re.IGNORECASE,
)
_DATED = re.compile(r"\b(?:when|year|date[ds]?|century|decade|period)\b", re.IGNORECASE)
_MONTH = re.compile(rf"(?:{MONTHS}|BCE?|AD|CE)\b")
_HOW_MANY = re.compile(
    r"\bhow many (?:\w+ ){0,2}?(?P<noun>\w+)"
    r"(?= (?:is|are|was|were|do|does|did|can|may|must|will|at|in|of|the|has|have|a|an|to|per|should)\b|\W*$)",
    re.I,
)
_HEDGE = re.compile(r"(?:about|around|roughly|approximately|up to|at most|at least|only|exactly|after|every|within)\s+")

_YES_NO = re.compile(r"(yes|no)\b(?:\s*[,.;:–—-]\s*(.+)|\W*$)", re.IGNORECASE | re.DOTALL)
_SAYS_YES_NO = re.compile(r"\W*(?:the answer is\W+|answer:\s*)?(yes|no)\b(?!\s+(?:longer|one|other|more)\b)", re.I)
_SENTENCE = re.compile(r".*?[.!?](?=\s|$)|.*", re.DOTALL)
_OPPOSITES = [  # the words of one side deny those of the other
    tuple(frozenset(side.split()) for side in line.split("|"))
    for line in (
        "enabled enable enables on active|disabled disable disables off inactive",
        "allowed allow allows permitted|forbidden forbid forbids disallowed refused rejected prohibited banned",
        "accepted accept accepts|rejected reject rejects refused refuse refuses",
        "required mandatory needed compulsory must obligatory need needs require requires|optional",
        "supported support supports|unsupported dropped",
        "available exists exist present supported support|unavailable removed remove removes gone missing absent "
        "dropped",
        "true|false",
        "always|never sometimes",
        "public|private internal",
        "included include includes|excluded exclude excludes",
        "kept keep keeps stored store saved save preserved survive survives stay stays|removed remove removes deleted "
        "delete deletes dropped drop drops discarded discard lost lose overwritten close closes",
        "safe|unsafe",
        "valid|invalid",
        "same|different",
        "mutable|immutable frozen",
        "sensitive|insensitive",
        "stable|unstable experimental provisional",
        "synchronous blocking|asynchronous",
        "possible|impossible",
        "compatible|incompatible",
        "encrypted|unencrypted plain",
        "visible shown|hidden",
        "automatic automatically|manual manually",
        "default|opt explicitly",
        "ordered sorted order defined|unordered unsorted random shuffled",
        "inside within|outside beyond",
        "open|closed",
        "before|after",
        "local|remote",
    )
]
_DENIALS = frozenset(
    "removed dropped refused refuses rejected rejects forbidden forbids fails raises ignored ignores lacks unsupported "
    "unavailable impossible disallowed prohibited discontinued deprecated invalid off disabled".split()
)


class _Fact(NamedTuple):
    kind: str
    """`name`, `version` or `quantity`."""
    text: str
    label: frozenset[str]
    """The stems of the words beside it that say what it is of."""


def verdict(prediction: str, gold: str, question: str) -> bool | None:
    """Returns whether the prediction states a technical gold answer; None if the gold answer is prose."""
    text, asked = plain(prediction), plain(question)
    parts = [part for part in _PARTS.split(plain(gold).rstrip(".")) if part.strip()]
    facts = [_facts(part, asked) for part in parts]
    if any(facts) and not all(facts):  # the part in prose is left to the other grader
        known = [fact for part in facts for fact in part]
        return (
            None
            if all(fact.kind == "quantity" or next(_places(text, fact, asked), None) is not None for fact in known)
            else False
        )
    if not all(facts):
        is_other = len(parts) == 1 and (
            _is_within_longer_name(parts[0], text) or _is_only_rejected(parts[0], text, asked)
        )
        return False if is_other else None
    chosen = [fact for part in facts for fact in part]
    places = [list(_places(text, fact, asked)) for fact in chosen]
    if not all(places) or (len(chosen) == 1 and not _is_about(text, chosen[0], places[0], asked)):
        return False
    if len(chosen) == 2 and not _in_order(text, chosen, places):
        return False
    rest = frozenset().union(*(fact.label for fact in chosen))
    return True if rest <= _stems(f"{text} {asked}") else None


def yes_or_no(gold: str) -> tuple[str, str] | None:
    """Splits the gold answer to a yes-no question into "yes" or "no", and the deciding fact or ""; None for others."""
    match = _YES_NO.fullmatch(gold.strip())
    return (match[1].lower(), match[2] or "") if match else None


def contradicts_yes_or_no(prediction: str, gold_answers: Iterable[str]) -> bool:
    """Returns whether the prediction begins with the opposite of the yes or no that an accepted answer begins with."""
    wanted = {polar[0] for gold in gold_answers if (polar := yes_or_no(gold))}
    said = _SAYS_YES_NO.match(prediction)
    return bool(wanted and said) and said[1].lower() not in wanted


def polarity(prediction: str, question: str) -> str | None:
    """Returns "yes" or "no" as the first sentence affirms or denies what is asked; None if it is about other things."""
    if said := _SAYS_YES_NO.match(prediction):
        return said[1].lower()
    sentence = _without_names(_SENTENCE.match(plain(prediction))[0]).partition(" unless ")[0]
    asked = _without_names(plain(question))
    answer, query = words(sentence), words(asked)
    query_stems = {stem(word) for word in query}
    extra = {word for word in answer if stem(word) not in query_stems}
    denials = sum(word in NEGATIONS for word in answer) - sum(word in NEGATIONS for word in query)
    turned = any(_is_opposite(left, right, answer, query) for left, right in _OPPOSITES)
    if replaced := re.search(r"\b(?:instead of|rather than)\b(.*)", sentence):
        turned = turned or bool(_stems(replaced[1]) & _stems(question))
    turned = turned or bool(_DENIALS & extra) or bool(re.search(r"\bonly (?:if|when|after|with|once)\b", sentence))
    about = _stems(asked) & _stems(sentence)
    same = any(side & set(query) and side & set(answer) for pair in _OPPOSITES for side in pair)
    if not (turned or about or same or NEGATIONS & set(answer)):
        return None
    return "no" if (denials + turned) % 2 else "yes"


def _is_opposite(left: frozenset[str], right: frozenset[str], answer: Sequence[str], query: Sequence[str]) -> bool:
    """Returns whether the answer has a word of the side that the last such word of the question is not of."""
    last = next((word for word in reversed(query) if word in left | right), None)
    denied = right if last in left else left
    return last is not None and next((word for word in answer if word in left | right), None) in denied


@lru_cache(maxsize=10_000)
def plain(text: str) -> str:
    """Removes what does not matter in code: quotation marks, spaces at brackets and operators, empty parentheses,
    separators of thousands."""
    text = in_digits(CONTRACTED_NOT.sub(" not", text))
    text = _GROUPS.sub("", _SPACES.sub("", _QUOTES.sub("", text)))
    depth, characters = 0, []
    for i, character in enumerate(text):
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        if not (character == " " and depth and text[i - 1] in ",:"):
            characters.append(character)
    return "".join(characters).replace("()", "").strip()


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in words(text) if word not in SMALL_WORDS)


def _facts(part: str, question: str) -> list[_Fact]:
    """Returns the facts of one part of a gold answer; none if it is prose."""
    part = _HEDGE.sub("", part)
    chunks = [chunk for chunk in _CHUNK.findall(part) if chunk.strip(".,;:")]
    if len(chunks) > 1 and (_COMMAND.search(part) or (_ASKS_FOR_COMMAND.search(question) and part.islower())):
        return [_Fact("name", part, frozenset())]
    is_version = re.fullmatch(_VERSION, part) and (_OF_VERSIONS.search(question) or not _OF_QUANTITIES.search(question))
    if not is_version and (amount := _QUANTITY.match(part)):
        if _DATED.search(question) or _MONTH.search(part) or any(_quantities_like(question, amount.group(), "")):
            return []  # a date, or a number that the question has too
        label = _stems(part[amount.end() :])
        return [_Fact("quantity", amount.group(), label)] if len(label) <= 3 else []
    names = [chunk.rstrip(".,:") for chunk in chunks if _is_name(chunk.rstrip(".,:"))]
    others = [c for c in chunks if c.rstrip(".,:") not in names and _stems(c) and c.lower() not in _GENERIC]
    if not names or len(names) < len(others):
        return []
    label = frozenset().union(*map(_stems, others)) if others else frozenset()
    return [_Fact("version" if re.fullmatch(_VERSION, name) else "name", name, label) for name in names]


def _without_names(text: str) -> str:
    return " ".join(chunk for chunk in text.split() if not _is_name(chunk.rstrip(".,:;?!")))


def _is_name(chunk: str) -> bool:
    return bool(_NAME.search(chunk) or re.fullmatch(_VERSION, chunk)) and not _ORDINARY.fullmatch(chunk)


def _places(text: str, fact: _Fact, question: str) -> Iterator[int]:
    """Yields where the text states the fact."""
    found = (
        _quantities_like(text, fact.text, question) if fact.kind == "quantity" else _pattern(fact.text).finditer(text)
    )
    wants_old = _ASKS_FOR_OLD.search(question) and not _ASKS_FOR_NEW.search(question)
    for match in found:
        if wants_old or not _REJECTS.search(text[max(0, match.start() - 60) : match.start()]):
            yield match.start()


@lru_cache(maxsize=10_000)
def _pattern(name: str) -> re.Pattern[str]:
    """Matches the name, but not inside of a longer name, version or type."""
    if re.fullmatch(_VERSION, name):
        core = re.escape(re.sub(r"(?:\.0)+$", "", name.removeprefix("v")))
        return re.compile(rf"(?<![\w-])(?<!\d\.)v?{core}(?:\.0)*(?!\w)(?!\.\d)(?!-\w)")
    name = name.lstrip("@.")
    module, _, rest = name.partition(".")
    optional = ""
    if re.fullmatch(r"\w+", module) and re.match(r"[A-Za-z_]", rest):  # a leading module may be left out
        optional, name = rf"(?:{re.escape(module)}\.)?", rest
    core = rf"(?i:{re.escape(name[:1])}){re.escape(name[1:])}"
    return re.compile(rf"(?<![\w-])(?<!\w\[){optional}{core}(?!\w)(?!\.\w)(?!-\w)(?![\[{{])")


def _number(match: re.Match[str]) -> float:
    number = match["number"].lower()
    return float(NUMBER_WORDS.get(number, number)) * _SCALES.get((match["scale"] or "").lower(), 1)


def _value(match: re.Match[str], default_unit: str = "") -> tuple[str, float]:
    """The dimension of a quantity ("" if it has no unit), and its value in the basic unit."""
    for unit in ((match["unit"] or "").lower(), default_unit):
        if known := _UNITS.get(unit) or _UNITS.get(unit.removesuffix("s")):
            return known[0], _number(match) * known[1]
    return "", _number(match)


def _quantities_like(text: str, gold: str, question: str) -> Iterator[re.Match[str]]:
    """Yields the quantities of the text that equal the gold one; a unit that one of them lacks goes without saying."""
    wanted, asked = _QUANTITY.match(gold), _HOW_MANY.search(question)
    noun = asked["noun"].lower() if asked else ""
    dimension, value = _value(wanted, noun)
    found = list(_QUANTITY.finditer(text))
    counted = [
        match
        for match in found
        if noun and noun in words(text[match.end("number") :])[:3] and match["number"] not in question
    ]
    for match in found:
        other, amount = _value(match)
        if dimension and other:
            is_same = dimension == other and abs(amount - value) <= 1e-6 * abs(value)
        else:
            is_same = _number(match) == _number(wanted) and not (noun and other and not dimension)
        if is_same and (dimension or not counted or match in counted):
            yield match


def _rivals(text: str, fact: _Fact, question: str) -> list[int]:
    """Where the text has other things of the same kind, which the question does not have."""
    if fact.kind == "version":
        return [m.start() for m in re.finditer(rf"(?<![\w.-]){_VERSION}", text) if m.group() not in question]
    if fact.kind == "quantity":
        dimension = _value(_QUANTITY.match(fact.text))[0]
        return [m.start() for m in _QUANTITY.finditer(text) if dimension and _value(m)[0] == dimension]
    return []


def _is_about(text: str, fact: _Fact, places: list[int], question: str) -> bool:
    """Returns whether the fact stands in the clause that shares most words with the question, of those with a rival."""
    ends = [match.start() for match in _CLAUSES.finditer(text)]
    clause_of = {at: sum(end < at for end in ends) for at in {*places, *_rivals(text, fact, question)}}
    if len(clause_of) > 2:
        return True  # an enumeration
    bounds = [0, *ends, len(text)]
    predicate = [word for word in words(_without_names(question)) if word not in SMALL_WORDS][-2:]
    asked = {stem(word) for word in predicate}
    shared = {i: len(_stems(text[bounds[i] : bounds[i + 1]]) & asked) for i in set(clause_of.values())}
    return any(shared[clause_of[at]] == max(shared.values()) for at in places)


def _in_order(text: str, facts: list[_Fact], places: list[list[int]]) -> bool:
    """Returns whether two facts may stand in the order of their labels; True if the labels are not in the text."""
    labels = [facts[0].label - facts[1].label, facts[1].label - facts[0].label]
    at: list[list[int]] = [[], []]
    for match in re.finditer(r"\w+", text):
        for side, label in enumerate(labels):
            if stem(match.group().lower()) in label:
                at[side].append(match.start())
    if not all(at):
        return True
    return (min(at[0]) < min(at[1])) == (min(places[0]) < min(places[1]))


def _is_only_rejected(gold: str, text: str, question: str) -> bool:
    """Returns whether a gold answer in prose occurs, but only after "instead of" or the like."""
    places = [match.start() for match in re.finditer(rf"(?i)\b{re.escape(gold)}\b", text)]
    return (
        bool(places)
        and not _ASKS_FOR_OLD.search(question)
        and all(
            re.search(r"\b(?:instead of|rather than|in place of) (?:\w+ )?$", text[max(0, at - 30) : at])
            for at in places
        )
    )


def _is_within_longer_name(gold: str, text: str) -> bool:
    """Returns whether a one-word gold answer occurs only as the start of a longer name: "redis2" for "redis"."""
    if not re.fullmatch(r"[^\W\d_][\w-]+", gold):
        return False
    tail = r"(?!s\b|es\b|ed\b|ing\b)[\w-]+" if "-" in gold else r"[\d_]\w*"
    return bool(re.search(rf"(?i)\b{gold}{tail}|\w_{gold}\b", text)) and not re.search(
        rf"(?i)\b{gold}(?![\w-]*\w)", text
    )
