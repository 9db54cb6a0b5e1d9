"""What a session changes in the statements known so far: statements added, replaced by a correction, and forgotten.

A new statement replaces the clause of an older one that states another value of the same matter: the same words, and
one value of the same kind that differs (see `values`). Words of correction ("now", "instead", "I said … but") lower
the number of words that both must share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from selfedit.sessions import passages, values, wording
from selfedit.sessions.statements import Request, Statement, Told, stated
from selfedit.text import split_sentences, stem, weight, words
from selfedit.types import Message

SHARED = 1.0
"""Weight of the words that a correction and the older clause must share; common words weigh less than 1."""
SHARED_NAME = 1.3
"""The same where the values are names, since many names stand beside one word."""
SHARED_PLAIN = 2.0
"""The same without a word of correction."""
ALIKE = 0.7
"""Share of the words of the shorter sentence that both must have without a word of correction."""
_SECRET = frozenset(map(stem, "name number code file date birthday age pay address phone key".split()))
"""Words for an attribute: a statement need not use them if it has a value."""
_SYNONYMS = (
    "pay salary wage wages earn earns income",
    "name names called",
    "code pin password passphrase login passcode",
    "address live lives street",
    "age old born birthday",
    "kids kid children child",
    "phone telephone mobile",
    "file path folder",
)
_SYNONYM = {stem(word): stem(group.split()[0]) for group in _SYNONYMS for word in group.split()}
_EMPTY = frozenset(
    map(
        stem,
        "me us our ours mine yours am please just really already yet still until till thing things stuff anything "
        "something old again quite actually instead maybe ever".split(),
    )
)
"""Words that tell nothing about the matter, beside the commonest ones."""


_DEPARTS = re.compile(
    r"\b(?:left|leaves|gone|retire[sd]?|moved (?:out|away)|gave up|stopped|quit|broke|dropped|sold|closed|shut|died)\b",
    re.IGNORECASE,
)
_MOVES = re.compile(r"\b(?:moved|changed|switched|shifted|postponed|slipped|rescheduled)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Changes:
    """The statements after a session, and what led there."""

    statements: tuple[Statement, ...]
    """All that is known now, in order of time."""
    added: tuple[Statement, ...] = ()
    replaced: tuple[tuple[Statement, Statement], ...] = ()
    """(older, newer): the older one went, or lost the clause with the older value."""
    forgotten: tuple[Statement, ...] = ()
    unknown: tuple[str, ...] = ()
    """Requests to forget something of which nothing is known."""


def updated(
    statements: Sequence[Statement], turns: Sequence[Message], session: str, date: str, start: int = 0
) -> Changes:
    """Returns what is known after the session.

    start: index of the first turn that was not read before; the turns before it are context.
    """
    known = list(statements)
    added: list[Statement] = []
    replaced: list[tuple[Statement, Statement]] = []
    forgotten: list[Statement] = []
    unknown: list[str] = []
    for event in stated(turns, session, date):
        if event.turn < start:
            continue
        if isinstance(event, Request):
            gone = about(event.target, known, strict=event.strict)
            known = [statement for statement in known if statement not in gone]
            added = [statement for statement in added if statement not in gone]
            forgotten += gone
            if not gone:
                unknown.append(event.target)
            continue
        new, pairs = _corrected(event, known)
        if not new:
            continue
        for old, rest, _ in pairs:
            at = known.index(old)
            known[at : at + 1] = [replace(old, text=rest)] if rest else []
            added = [statement for statement in added if statement != old]
        for old, _, value in pairs:
            renamed = {s: _with_role(s, old, value) for s in known if s.turn_key == new.turn_key}
            known = [renamed.get(statement, statement) for statement in known]
            added = [renamed.get(statement, statement) for statement in added]
        if pairs:
            left = [s for s in known if s.turn_key != new.turn_key or not _only_departs(s, pairs)]
            known, added = left, [statement for statement in added if statement in left]
        new = replace(new, group=passages.group_for(new, known))
        replaced += [(old, new) for old, _, _ in pairs]
        known.append(new)
        added.append(new)
    return Changes(tuple(known), tuple(added), tuple(replaced), tuple(forgotten), tuple(unknown))


def _corrected(told: Told, known: Iterable[Statement]) -> tuple[Statement | None, list[tuple[Statement, str, str]]]:
    """The new statement, without the older value, and (older statement, what is left of it, older value) for each that
    it replaces."""
    new = told.statement
    if match := wording.RESTATED.match(new.text):
        new = _restated(new, match)
        if not new:
            return None, []
    pairs = []
    known = list(known)
    for old in known:
        if old.turn_key == new.turn_key:
            continue
        if pair := _conflict(old.text, new.text, told.context):
            before, after = pair
            text = values.without(new.text, before.text, keep=after.text) or new.text
            if match is None and _names_only_value(text, after.text) and _restates(told.context, before.text):
                clause = values.clause_with(old.text, before.text).replace(before.text, after.text)
                text = f"{clause[:1].upper()}{clause[1:].rstrip('.!')}: {text}"
            new = replace(new, text=text)
            pairs.append(
                (old, values.without(old.text, before.text, pronoun=_former(old.text, before.text)), before.text)
            )
    if not pairs and (lone := _lone_value(new, known)):
        old, before = lone
        pairs.append((old, values.without(old.text, before, pronoun=_former(old.text, before)), before))
    return new, pairs


def _lone_value(new: Statement, known: Iterable[Statement]) -> tuple[Statement, str] | None:
    """The only time or weekday that is known, for a change that does not name its matter: "we changed to Sunday"."""
    if not _MOVES.search(new.text):
        return None
    for after in values.values(new.text):
        if after.kind in ("time", "weekday"):
            found = [(old, v.text) for old in known for v in values.values(old.text) if v.kind == after.kind]
            if len(found) == 1 and found[0][0].turn_key != new.turn_key:
                return found[0]
    return None


def _restates(context: str, value: str) -> bool:
    """Whether the user repeats the older value in order to correct it: "I told you 3 May"."""
    return any(
        values.mentions(match["old"], value)
        for sentence in split_sentences(context, "en")
        if (match := wording.RESTATED.match(wording.without_lead_in(sentence)))
    )


def _names_only_value(text: str, value: str) -> bool:
    """Whether a sentence says only "it is VALUE", so that its subject must come from the older statement."""
    return bool(re.search(rf"(?:^|[ ,])it(?:['’]s| is| was) (?:on |at )?{re.escape(value)}", text, re.IGNORECASE))


def _restated(new: Statement, match: re.Match) -> Statement | None:
    """The new value in the words that the user repeats: "I said we meet on Monday, it is Friday" → "We meet on Friday:
    it is Friday"; None where only the older value is repeated."""
    old, rest = match["old"], match["new"]
    if not rest:
        return None
    for before in values.values(old):
        for after in values.values(rest):
            if before.kind == after.kind and before.text != after.text:
                subject = old.replace(before.text, after.text)
                return replace(new, text=f"{subject[:1].upper()}{subject[1:]}: {rest}")
    return replace(new, text=rest[:1].upper() + rest[1:])


def _conflict(old: str, new: str, context: str) -> tuple[values.Value, values.Value] | None:
    """The older and the newer value, if the new sentence states another value of the same matter."""
    corrects = wording.corrects(context)
    new_values = values.values(new)
    best: tuple[float, values.Value, values.Value] | None = None
    for sentence in split_sentences(old, "en"):
        old_values = values.values(sentence)
        for before in old_values:
            if before.kind in ("month", "year") or not corrects and values.mentions(new, before.text):
                continue
            for after in new_values:
                if after.kind != before.kind or values.mentions(old, after.text):
                    continue
                if not _comparable(before, after, sentence, context):
                    continue
                score = _score(sentence, new, context, before, after, corrects)
                if score and (best is None or score > best[0]):
                    best = score, before, after
    return (best[1], best[2]) if best else None


def _comparable(before: values.Value, after: values.Value, sentence: str, context: str) -> bool:
    """Whether the units of two numbers agree, the noun before the older one is named again, and two names are both
    subjects or both none, unless the context mentions the older name."""
    if before.kind == "name":
        return before.is_subject == after.is_subject or values.mentions(context, before.text)
    if before.units and after.units and not before.units & after.units:
        return False
    if after.label and not before.label:
        return not before.units and after.label in _stems(sentence, "")
    return not before.label or any(_akin(before.label, term) for term in _stems(context, ""))


def _score(sentence: str, new: str, context: str, before: values.Value, after: values.Value, corrects: bool) -> float:
    """How surely `after` replaces `before`; 0 if it does not."""
    a = _stems(sentence, before.text)
    b, wide = _stems(new, after.text), _stems(context, after.text)
    if not corrects:
        shared = _weight(a, b)
        alike = shared >= SHARED_PLAIN and shared >= ALIKE * max(_weight(a, a), _weight(b, b))
        return shared if alike else 0.0
    if _restates(context, before.text):
        return 1.0 + _weight(a, b)
    mentioned = values.mentions(context, before.text)
    if mentioned or _same_shape(before.text, after.text):
        least = 0.5
    elif before.kind == "name" and _takes_over(sentence, new):
        least = SHARED
    else:
        least = SHARED_NAME if before.kind == "name" else SHARED
    shared = _weight(a, b)
    if _same_shape(before.text, after.text):
        shared += 0.5
    if before.kind != "name" or mentioned:
        shared = max(shared, (0.5 if mentioned else 1.0) * _weight(a, wide))
    clause = _weight(_stems(values.clause_with(sentence, before.text), before.text), b | wide)
    return shared + clause if shared >= least else 0.0


def _same_shape(a: str, b: str) -> bool:
    """Whether two values are long numbers of one form, such as two addresses."""
    forms = [re.sub(r"\d+", "0", text) for text in (a, b)]
    return forms[0] == forms[1] and forms[0].count("0") > 2


def _takes_over(sentence: str, new: str) -> bool:
    """Whether the new sentence names a new holder of a role: "New editor since May, Eve" after "my editor is Ada"."""
    return any(
        re.search(rf"\b(?:my|our) {re.escape(role)}\b", sentence, re.IGNORECASE)
        for role in re.findall(r"\bnew (\w+)", new, re.IGNORECASE)
    )


@lru_cache(maxsize=10_000)
def _stems(text: str, value: str) -> frozenset[str]:
    """The stems of the words of a text, without those of the value."""
    spelled = {stem(word) for word in words(text)} - {stem(word) for word in words(value)} - _EMPTY
    return frozenset(spelled)


def _matter(text: str) -> frozenset[str]:
    """The stems of a text, one for words of one meaning ("pay" and "earn")."""
    return frozenset(_SYNONYM.get(word, word) for word in _stems(text, ""))


def _akin(a: str, b: str) -> bool:
    """Whether two stems are forms of one word: work and worker, hour and hourly."""
    return a == b or min(len(a), len(b)) >= 4 and (a.startswith(b) or b.startswith(a)) and abs(len(a) - len(b)) <= 3


def _weight(a: frozenset[str], b: frozenset[str]) -> float:
    return sum(weight(term) for term in a if any(_akin(term, other) for other in b))


def _with_role(statement: Statement, old: Statement, value: str) -> Statement:
    """The statement with "my former neighbour" for the older name: "Ada left! My new neighbour is Eve."."""
    if not (role := _former(old.text, value)) or not values.mentions(statement.text, value):
        return statement
    text = statement.text.replace(value, role)
    return replace(statement, text=text[:1].upper() + text[1:])


def _only_departs(statement: Statement, pairs: list[tuple[Statement, str, str]]) -> bool:
    """Whether a sentence only says that the older name is gone: "Ada left us."."""
    names = {value.text for value in values.values(statement.text)}
    return any(names == {value} for _, _, value in pairs) and bool(_DEPARTS.search(statement.text))


def _former(old: str, value: str) -> str:
    """ "My neighbour is called Ada" → "my former neighbour", for what is left of the statement."""
    match = re.match(r"(my|our) (?:new |former )?((?:[\w-]+ ){0,5}?)(?:is|are)\b", old, re.IGNORECASE)
    return f"{match[1].lower()} former {match[2].strip()}" if match else ""


def about(target: str, statements: Iterable[Statement], *, strict: bool = False) -> list[Statement]:
    """The statements that a request to forget names; all of them if it names nothing in particular.

    strict: every word of the request must be in the statement.
    """
    known = list(statements)
    if not target:
        return known
    wanted = _named(target)
    if not wanted:
        return []
    holders = wanted - _SECRET
    attributes = wanted - holders
    scores = []
    for statement in known:
        stems = _matter(statement.text)
        found = _weight(wanted, stems)
        held = _weight(holders, stems) if holders else 1.0
        if attributes and held and _has_value(statement.text, attributes):
            found = max(found, _weight(holders, stems) + 0.9 * _weight(attributes, attributes))
        scores.append(found / _weight(wanted, wanted) if held else 0.0)
    least = max(max(scores, default=0.0) - 0.01, 0.99 if strict and not attributes else 0.5)
    gone = [statement for statement, score in zip(known, scores) if score >= least]
    secrets = {v.text for s in gone for v in values.values(s.text) if v.kind == "code"}
    if "name" in attributes:
        secrets |= {v.text for s in gone for v in values.values(s.text) if v.kind == "name"}
    return [s for s in known if s in gone or any(values.mentions(s.text, secret) for secret in secrets)]


def _named(target: str) -> frozenset[str]:
    """The stems of a request that tell what is to be forgotten."""
    target = (
        re.split(
            r"[,;]| (?:that|which) I | from (?:your|what|the)\b| (?:out )?of your\b| in your\b| will you\b", target
        )[0]
        or target
    )
    return frozenset(term for term in _matter(target) if weight(term) == 1 or term in _SYNONYM.values())


def _has_value(text: str, attributes: frozenset[str]) -> bool:
    kinds = {value.kind for value in values.values(text)}
    return "name" in kinds if attributes == {"name"} else bool(kinds - {"name", "month", "weekday"})


def transcript_without(turns: Sequence[Message], forgotten: Iterable[Statement]) -> list[Message]:
    """The conversation without the sentences, of either side, that tell something forgotten."""
    texts = [statement.text for statement in forgotten]
    secrets = {value.text for text in texts for value in values.values(text) if value.kind not in ("month", "weekday")}
    secrets = {secret for secret in secrets if re.search(r"\d|/", secret)} or secrets
    stems = [_stems(text, "") for text in texts]
    return [Message(turn.role, _without_sentences(turn.content, secrets, stems)) for turn in turns]


def _without_sentences(content: str, secrets: set[str], stems: list[frozenset[str]]) -> str:
    lines = []
    for line in content.split("\n"):
        kept = [s for s in split_sentences(line, "en") if not _tells(s, secrets, stems)]
        lines.append(line if len(kept) == len(split_sentences(line, "en")) else " ".join(kept))
    return "\n".join(lines)


def _tells(sentence: str, secrets: set[str], stems: list[frozenset[str]]) -> bool:
    if any(values.mentions(sentence, secret) for secret in secrets):
        return True
    terms = _stems(sentence, "")
    return any(_weight(terms, other) >= max(2.0, ALIKE * _weight(terms, terms)) for other in stems)
