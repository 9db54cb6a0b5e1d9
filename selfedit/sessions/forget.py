"""What a request to forget names, and the conversation without it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from selfedit.sessions import matter, values
from selfedit.sessions.statements import Statement
from selfedit.text import split_sentences, stem, weight
from selfedit.types import Message

_SECRET = frozenset(map(stem, "name number code file date birthday age pay address phone key".split()))
"""Words for an attribute: a statement need not use them if it has a value."""
_WITHOUT_TARGET = re.compile(
    r"[,;]| (?:that|which) I | from (?:your|what|the)\b| (?:out )?of your\b| in your\b| will you\b"
)
_QUOTED = re.compile(r"[\"“]([^\"”]{2,40})[\"”]")
SHARED_SENTENCE = 0.7
"""Share of the words of a sentence that a forgotten statement has too, so that the sentence tells it."""


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
        stems = matter.meanings(statement.text)
        found = matter.shared(wanted, stems)
        held = matter.shared(holders, stems) if holders else 1.0
        if attributes and held and _has_value(statement.text, attributes):
            found = max(found, matter.shared(holders, stems) + 0.9 * matter.shared(attributes, attributes))
        scores.append(found / matter.shared(wanted, wanted) if held else 0.0)
    least = max(max(scores, default=0.0) - 0.01, 0.99 if strict and not attributes else 0.5)
    gone = [statement for statement, score in zip(known, scores) if score >= least]
    secrets = {v.text for s in gone for v in values.values(s.text) if v.kind == "code"}
    if "name" in attributes:
        secrets |= {v.text for s in gone for v in values.values(s.text) if v.kind == "name"}
    return [s for s in known if s in gone or any(values.mentions(s.text, secret) for secret in secrets)]


def _named(target: str) -> frozenset[str]:
    """The stems of a request that tell what is to be forgotten."""
    target = _WITHOUT_TARGET.split(target)[0] or target
    return frozenset(term for term in matter.meanings(target) if weight(term) == 1 or term in matter.MEANINGS.values())


def _has_value(text: str, attributes: frozenset[str]) -> bool:
    kinds = {value.kind for value in values.values(text)}
    return "name" in kinds if attributes == {"name"} else bool(kinds - {"name", "month", "weekday"})


def transcript_without(turns: Sequence[Message], forgotten: Iterable[Statement]) -> list[Message]:
    """The conversation without the sentences, of either side, that tell something forgotten."""
    texts = [statement.text for statement in forgotten]
    secrets = {secret for text in texts for secret in _secrets(text)}
    stems = [matter.stems(text) for text in texts]
    return [Message(turn.role, _without_sentences(turn.content, secrets, stems)) for turn in turns]


def _secrets(text: str) -> set[str]:
    """The values that make a sentence tell what the text tells: numbers, codes and quoted words, else names."""
    found = [value for value in values.values(text) if value.kind not in ("month", "weekday")]
    exact = {value.text for value in found if value.kind != "name"} | set(_QUOTED.findall(text))
    return exact or {value.text for value in found if not value.is_subject} or {value.text for value in found}


def _without_sentences(content: str, secrets: set[str], stems: list[frozenset[str]]) -> str:
    lines = []
    for line in content.split("\n"):
        kept = [s for s in split_sentences(line, "en") if not _tells(s, secrets, stems)]
        lines.append(line if len(kept) == len(split_sentences(line, "en")) else " ".join(kept))
    return "\n".join(lines)


def _tells(sentence: str, secrets: set[str], stems: list[frozenset[str]]) -> bool:
    if any(values.mentions(sentence, secret) for secret in secrets):
        return True
    terms = matter.stems(sentence)
    least = max(2.0, SHARED_SENTENCE * matter.shared(terms, terms))
    return any(matter.shared(terms, other) >= least for other in stems)
