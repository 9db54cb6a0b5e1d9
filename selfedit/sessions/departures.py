"""Somebody or something that another one replaces: "Ada left, so Eve is at the desk now".

A clause with a verb of departure names what is gone, and the rest of the turn names what takes its place. Without such
a verb, words of replacement ("so it's", "has taken over") tell that the subject of the clause before is gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfedit.sessions import matter, reference, values
from selfedit.sessions.wording import matcher, one_of
from selfedit.text import stem, weight, words

_CLAUSE = re.compile(
    r"(?:[,;:!?]|(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bProf)\.)\s+(?:(?:and|but|so|because|since)\b\s*(?:that )?)?"
    r"|\s+(?:and|but|so)\s+(?:that )?",
    re.IGNORECASE,
)
_GONE = matcher(
    r"\b"
    + one_of(
        r"(?<!are )(?<!is )left | dropped | (?:took|taken|take) (?:\w+ )?off | leaves | leaving | gone",
        r"retire[sd]? | retiring | resign(?:s|ed) | quit | packed (?:it |up)?\w* | closed? | shut | died | dead",
        "expired | broke(?:n)? | fail(?:s|ed) | sold | stolen | rip | withdr[ae]wn? | withdrew | poached",
        "(?<!I )(?<!we )(?<!got )(?<!been )moved (?:on|out|away|to|back) | didn't last | no more | no longer",
        "stopped | gave up | given up | bust | scrapped | ditched | dumped | cancell?ed | fired | sacked",
        "transferred | passed | conked | kaput | history | flooded | burnt | burned | ran (?:away|off) | on leave",
        "leave | divorced | stepped down | bowed out | written off | crashed",
        "went (?:to|on|off|away|back|bust|under) | goodbye | bye | farewell | is off | off sick | discontinued",
        r"demolished | torn down | crushed | drowned | leaks | taken off | pulled out | let (?:\w+ )?go | exit",
    )
    + r"\b"
)
_INSTEAD = matcher(
    r"\bso (?:that )?(?:it['’]?s|there['’]?s)\b|\b"
    + one_of(
        "instead | in (?:its|his|her|their) (?:place|stead) | taken over | took over | takes over | taking over",
        "put (?:me|us|him|her|it|them) | until further | stepp?(?:s|ed) in | fill(?:s|ed|ing) in",
        r"cover(?:s|ing) for | (?:it's|its) \w+(?: \w+){0,6} nowadays",
    )
    + r"\b"
)
_SWAP = matcher(
    r"(?P<change>\b(?:swapped|traded|exchanged|replaced|ditched|dumped|dropped|left|quit|gave up|sold"
    r"|switched from|changed from"
    r"|moved from|went from) )(?P<a>[^,.;]{2,40}?) (?:and (?:am|are) \w+ with|for|to|in favou?r of) (?=\w)"
    r"|\bnot (?P<b>[^,.;]{2,40}?),? but (?=\w)|\s*[,;]? (?:and )?not (?P<c>(?!\w+ing\b)[^,.;]{2,25})(?=[.!]*$)"
    r"|,? (?:instead of|rather than) (?P<d>[^,.;!]{2,40})|\bno longer (?P<e>[^,.;!]{2,40})"
)
"""What is gone and what comes instead in one clause."""
_CALENDAR = re.compile(values._CALENDAR)
_WE = re.compile(r"(?:and )?(?:I|we)(?:['’]?ve| have)?(?: all| both)?", re.IGNORECASE)
_PERSON = re.compile(r"\s*(?:he|she)(?:['’]s)?\b", re.IGNORECASE)


def departed(sentences: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names in what is known that the sentences of a turn tell to be replaced."""
    lower = not any(re.search(r"\w [A-Z]\w", text) for text in [*sentences, *known])
    rare = _rare(known)
    names = rare if lower else _names(known)
    gone = []
    for sentence in sentences if rare else ():
        if swap := _SWAP.search(sentence):
            terms = [stem(word) for word in words(_swapped(swap)) if not _CALENDAR.match(word)]
            gone += [term for term in terms if term in rare][-1:]
    clauses = [clause for sentence in sentences for clause in _CLAUSE.split(sentence) if clause.strip()] if rare else []
    last_instead = max((i for i, clause in enumerate(clauses) if _INSTEAD.search(clause)), default=0)
    newcomers = {anything: [_newcomer(clause, rare, anything) for clause in clauses] for anything in (False, True)}
    for index, clause in enumerate(clauses):
        loss, strong = _GONE.search(clause), index < last_instead
        before, after = (clause[: loss.start()], clause[loss.end() :]) if loss else (clause if strong else "", "")
        mine = bool(loss and _WE.fullmatch(before.strip()))  # "I quit X": even a common noun is what is gone
        wanted = rare if strong or mine else names
        terms = [term for word in words(before) if not mine and (term := stem(word)) in wanted and weight(term) == 1]
        terms = terms or [term for word in words(after)[:4] if (term := stem(word)) in wanted and weight(term) == 1]
        if not terms or _COUNTED.match(clause) or _COUNTED.match(after.strip()) or len(words(clause)) < 3 and not loss:
            continue
        new = newcomers[lower or strong or mine]
        if any(new[index + 1 :]) or loss and any(new[:index]):
            gone.append(terms[-1])
    return gone


_COUNTED = re.compile(r"(?:only )?(?:\d+|two|three|four|five|six|some|most|many|half|one)\b", re.IGNORECASE)


def _names(known: Sequence[str]) -> set[str]:
    return {
        stem(word)
        for text in known
        for v in values.values(text)
        if v.kind in ("name", "code")
        for word in words(v.text)
    }


def _rare(known: Sequence[str]) -> set[str]:
    return {term for text in known for term in matter.stems(text) if weight(term) == 1}


def _newcomer(clause: str, rare: set[str], lower: bool) -> bool:
    """Whether a clause has a name, or any rare word, that nothing known has."""
    if _PERSON.match(clause):
        return False
    found = matter.stems(clause) if lower else _names([clause])
    return any(weight(term) == 1 and not _CALENDAR.match(term.title()) for term in found - rare)


def _swapped(swap: re.Match[str]) -> str:
    return swap["a"] or swap["b"] or swap["c"] or swap["d"] or swap["e"]


def _mention(text: str, term: str) -> str | None:
    return next((word for word in words(text) if stem(word) == term or stem(word) == f"{term}s"), None)


def without(text: str, term: str) -> str:
    """A known statement without the clauses that mention the name; "" if nothing is left that stands alone."""
    if not (word := _mention(text, term)):
        return text
    role = _role(text, term)
    rest = values.without(text, word, pronoun=role)
    alone = not re.match(r"(?:it|he|she|they|its|his|her|their)\b", rest, re.IGNORECASE)
    return rest if alone and (role or values.values(rest)) else ""


def newcomer(text: str, term: str) -> str:
    """A new statement without the clauses about what is gone; "" if it has no other."""
    swap = _SWAP.search(text)
    if swap and not swap["e"] and _mention(_swapped(swap), term):
        rest = f"{text[: swap.start()]}{'changed to ' if swap['change'] else ''}{text[swap.end() :]}"
        return rest[:1].upper() + rest[1:]
    if not _mention(text, term):
        return text
    spans, start = [], 0
    for match in _CLAUSE.finditer(text):
        spans.append((text[start : match.start()], match[0]))
        start = match.end()
    spans.append((text[start:].rstrip(".!"), ""))
    kept = [(clause, end) for clause, end in spans if not _mention(clause, term)]
    if kept and kept[0] != spans[0] and reference.begins_with_pronoun(kept[0][0]):
        subject = reference.subject_of(spans[0][0])
        if subject and not _mention(subject, term):
            kept[0] = (reference.with_subject(kept[0][0], subject), kept[0][1])
    while kept and _PERSON.match(kept[0][0]):
        kept.pop(0)
    if not kept:
        return text if swap else ""
    if _WE.match(text) and kept[0] != spans[0] and len(words(kept[0][0])) < 4:
        kept[0] = (f"{text.split()[0]} {kept[0][0]}", kept[0][1])
    rest = "".join(clause + end for clause, end in kept[:-1]) + kept[-1][0]
    return f"{rest[:1].upper()}{rest[1:]}." if len(words(rest)) >= 3 else ""


def _role(text: str, term: str) -> str:
    """ "My neighbour is called Ada" → "my former neighbour"."""
    match = re.match(r"(my|our) (?:new |former |present )?((?:[\w-]+ ){0,5}?)(?:is|are)\b", text, re.IGNORECASE)
    return f"{match[1].lower()} former {match[2].strip()}" if match and not _mention(match[0], term) else ""
