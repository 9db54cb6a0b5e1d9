"""Whether a new sentence states another value of what an older one states.

Both must share words, and one value of the same kind must differ (see `values`). Words of correction ("now", "instead",
"I said … but") lower the weight of the words that both must share.
"""

from __future__ import annotations

import re

from selfedit.sessions import matter, values, wording
from selfedit.text import split_sentences, stem, weight

SHARED = 0.9
"""Weight of the words that a correction and the older clause must share; common words weigh less than 1."""
SHARED_NAME = 1.3
"""The same where the values are names, since many names stand beside one word."""
SHARED_PLAIN = 2.0
"""The same without a word of correction."""
ALIKE = 0.7
"""Share of the words of the shorter sentence that both must have without a word of correction."""
_NOW = re.compile(
    r"\b(?:now|nowadays|these days|instead|relocated|moved|became|as of|actually|in fact)\b", re.IGNORECASE
)
_NAMED = re.compile(r"\brenamed\b|\bit['’]?s\b", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"\b(?:I|we)\b", re.IGNORECASE)


def conflict(old: str, new: str, context: str) -> tuple[values.Value, values.Value] | None:
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
        return not before.units and after.label in matter.stems(sentence)
    return not before.label or any(matter.akin(before.label, term) for term in matter.stems(context))


def _score(sentence: str, new: str, context: str, before: values.Value, after: values.Value, corrects: bool) -> float:
    """How surely `after` replaces `before`; 0 if it does not."""
    a = matter.stems(sentence, before.text)
    b, wide = matter.stems(new, after.text), matter.stems(context, after.text)
    if before.label in values.LABELS and not (_FIRST_PERSON.search(sentence) and _FIRST_PERSON.search(new)):
        a = a - {before.label}  # plot 7 and plot 9 of two people
    if not corrects:
        shared = matter.shared(a, b)
        if before.kind in ("date", "time", "weekday"):
            return shared if shared >= 0.5 * max(SHARED_PLAIN, matter.shared(a, a), matter.shared(b, b)) else 0.0
        alike = shared >= SHARED_PLAIN and shared >= ALIKE * max(matter.shared(a, a), matter.shared(b, b))
        return shared if alike else 0.0
    if restates(context, before.text):
        return 1.0 + matter.shared(a, b)
    if (
        re.search(r"\bof us\b|\bwe(?: are|['’]re)\b", sentence)
        and before.relation == after.relation == "are"
        and before.kind == "number"
        and not before.units
    ):
        return 0.5  # "there are 12 of us", "we are 13 now"
    mentioned = values.mentions(context, before.text)
    if mentioned or before.kind in ("colour", "room") or _same_shape(before.text, after.text):
        least = 0.5
    elif before.kind == "name" and (
        before.relation == after.relation != ""
        or before.relation in ("called", "named")
        and _NAMED.search(new)
        or before.relation
        and after.relation
        and _NOW.search(new)
        or any(stem(role) in a for role in re.findall(r"\bnew (\w+)", new, re.IGNORECASE))
    ):
        least = SHARED
    else:
        least = SHARED_NAME if before.kind == "name" else SHARED
    shared = matter.shared(a, b)
    if _same_shape(before.text, after.text):
        shared += 0.5
    if before.kind != "name" or mentioned:
        shared = max(shared, (0.5 if mentioned else 1.0) * matter.shared(a, wide))
    clause = matter.shared(matter.stems(values.clause_with(sentence, before.text), before.text), b | wide)
    return shared + clause if shared >= least else 0.0


def restates(context: str, value: str) -> bool:
    """Whether the user repeats the older value in order to correct it: "I told you 3 May"."""
    return any(
        values.mentions(match["old"], value)
        for sentence in split_sentences(context, "en")
        if (match := wording.RESTATED.match(wording.without_lead_in(sentence)))
    )


def _same_shape(a: str, b: str) -> bool:
    """Whether two values have one form: the same letters, digits and marks in the same places."""
    if " " in a:
        return False
    forms = [re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "0", text)) for text in (a, b)]
    short = [re.sub(r"(.)\1+", r"\1", form) for form in forms]
    return forms[0] == forms[1] and "a" in forms[0] and "0" in forms[0] or short[0] == short[1] and len(short[0]) > 4


_PREDICATE = re.compile(
    r"(?:^|[,;.!?]\s+(?:(?:and|but|so)\s+)?)(?P<subject>I|we|(?:(?:my|our|the|his|her"
    r"|their)\s+)?(?:[\w'’-]+\s+){0,3}?[\w-]+?)"
    r"(?:['’](?P<short>s|re|m)|\s+(?:now |just |only |currently |always |usually )?(?P<verb>is|are|am|was"
    r"|\w{2,}))\s+(?P<rest>[^.!?;,]+)",
    re.IGNORECASE,
)
_VAGUE = frozenset("have had got has think know can will do did said told feel see want need love like m am be".split())


def _predicates(text: str) -> set[tuple[str, str, str]]:
    """(stem of the subject's noun, stem of the verb, what follows) of the clauses of a text."""
    found = set()
    for match in _PREDICATE.finditer(text):
        subject = match["subject"].split()[-1].lower()
        verb = (match["verb"] or match["short"]).lower()
        verb = "is" if verb in ("s", "re", "is", "are", "was") else stem(verb)
        found.add((stem(subject), verb, match["rest"].strip()))
    return found


def same_predicate(old: str, new: str) -> str | None:
    """What the older text says of the same subject with the same verb, if the new one says another thing "now"."""
    for sentence in split_sentences(new, "en"):
        if not _NOW.search(sentence):
            continue
        for subject, verb, rest in _predicates(sentence):
            for other, same, before in _predicates(old):
                if (subject, verb) != (other, same) or verb in _VAGUE or before == rest:
                    continue
                if weight(subject) + weight(verb) >= 0.9 or rest.split()[0] == before.split()[0]:
                    return before
    return None
