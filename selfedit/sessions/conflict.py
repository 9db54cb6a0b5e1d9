"""Whether a new sentence states another value of what an older one states.

Both must share words, and one value of the same kind must differ (see `values`). Words of correction ("now", "instead",
"I said … but") lower the weight of the words that both must share.
"""

from __future__ import annotations

import re

from selfedit.sessions import matter, values, wording
from selfedit.text import split_sentences

SHARED = 1.0
"""Weight of the words that a correction and the older clause must share; common words weigh less than 1."""
SHARED_NAME = 1.3
"""The same where the values are names, since many names stand beside one word."""
SHARED_PLAIN = 2.0
"""The same without a word of correction."""
ALIKE = 0.7
"""Share of the words of the shorter sentence that both must have without a word of correction."""
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
        alike = shared >= SHARED_PLAIN and shared >= ALIKE * max(matter.shared(a, a), matter.shared(b, b))
        return shared if alike else 0.0
    if restates(context, before.text) or _leaves(new, before, after):
        return 1.0 + matter.shared(a, b)
    if before.relation == after.relation == "are" and before.kind == "number" and not before.units:
        return 0.5  # "there are 12 of us", "we are 13 now"
    mentioned = values.mentions(context, before.text)
    if mentioned or _same_shape(before.text, after.text):
        least = 0.5
    elif before.kind == "name" and (_takes_over(sentence, new) or before.relation == after.relation != ""):
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


def _leaves(new: str, before: values.Value, after: values.Value) -> bool:
    """Whether the user left a place for another in one sentence: "I quit Acme, I am with Brix now"."""
    if before.kind != "name" or before.is_subject or after.is_subject or not after.relation:
        return False
    return bool(re.search(rf"\b(?:I|we)\b(?:['’]ve| have)? \w+ {re.escape(before.text)}\b", new)) and bool(
        wording.DEPARTS.search(new)
    )


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
