"""Which statements a request to forget means, and the conversation without them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date

from selfedit.sessions import matter, values
from selfedit.sessions.reader import Reading
from selfedit.sessions.reference import refers_back
from selfedit.sessions.requests import Request
from selfedit.sessions.statements import ASKED, Statement, TurnRead
from selfedit.text import split_sentences, stem, weight
from selfedit.types import Message

_FILLER = frozenset(
    map(
        stem,
        "forget please pls kindly memory notes told tell said say gave give mentioned shared wrote trace"
        " remember never "
        "pretend wipe delete erase scrub strike remove lose drop scrap again should would could thing things business "
        "everything anything nothing rather prefer though happened heard keep kept don dont now just so last time "
        "oh ok let make want wants here private my our".split(),
    )
)
"""Words of requests that do not tell what is to be forgotten."""
_GENERIC = {"code": 0.3, "number": 0.3, "name": 0.1}
"""Weights of words that many secrets share."""
_JUST_SAID = re.compile(
    r"\b(?:that|this|those|these|them|it)\b"
    r"(?= *(?:[,.!?;:]|$|please|pls|now|again|too|as well|from|will|would|can|could))"
    r"|\bjust (?:said|told|wrote|typed|now|sent|shared|mentioned)\b|\blast (?:thing|message|bit|part|one|line)\b",
    re.IGNORECASE,
)
"""What points to the turn before. A request that only names something means nothing else that was told there."""
_QUOTED = re.compile(r"[\"“]([^\"”]{2,40})[\"”]")
SHARED_SENTENCE = 0.7
"""Share of the words of a sentence that a forgotten statement has too, so that the sentence tells it."""
MEANT = 0.4
"""Probability from which a statement is meant by a turn that asks to forget something."""
MEANT_AT_ALL = 0.15
"""Probability from which the one that is meant most probably is."""
_ATTRIBUTES = {
    "code": {"code", "number"},
    "number": {"code", "number"},
    "name": {"name"},
    "pay": {"number"},
    "phone": {"number", "code"},
    "address": {"number", "name"},
    "age": {"number", "date"},
    "weigh": {"number"},
}
"""Attribute → the kinds of values by which a statement has it without its word."""


def meant(request: Request, known: Sequence[Statement]) -> list[Statement]:
    """The statements that a request to forget means: those that share the most with its sentence, the sentences around
    it and, if these share little, what the user stated in the turn before."""
    if not request.target:
        return list(known)
    scores = _scores(request.target, known)
    last = request.last if refers_back(request.target) or _JUST_SAID.search(request.target) else ()
    for sentences in (request.around, last):
        if max(scores, default=0.0) < (1 if sentences == request.around else 0.3):
            rows = [_scores(f"{sentence} {request.target}", known) for sentence in sentences]
            scores = [score + 0.5 * sum(row) for score, *row in zip(scores, *rows)]
    return _best(scores, known, 0.3 if request.certain else 0.5, request.target)


def read_as_meant(turn: TurnRead, reading: Reading, known: Sequence[Statement]) -> list[Statement]:
    """The statements that a turn asks to forget, as the model reads it: those that are probably meant, else what the
    user just said, if the turn speaks of that. Empty if it does not ask, or nothing is meant."""
    if reading.asks < ASKED:
        return []
    gone = [s for s, probability in zip(known, reading.meant) if probability >= MEANT]
    best = max(reading.meant, default=0.0)
    if not gone and _JUST_SAID.search(turn.text):
        gone = [s for s in known if s.text in turn.last]
    if not gone and reading.asks * best >= MEANT_AT_ALL:
        gone = [known[reading.meant.index(best)]]
    return _with_same_secrets(gone, known, turn.text)


def _scores(target: str, known: Sequence[Statement]) -> list[float]:
    """How much each statement shares with the words; words of many statements count less, common words nothing."""
    wanted = {term for term in matter.meanings(target) - _FILLER if weight(term) == 1 or term in _ATTRIBUTES}
    scores = [0.0] * len(known)
    texts = [matter.meanings(s.text) | {stem(f"{date.fromisoformat(s.date):%B}")} for s in known]
    for term in wanted:
        having = [i for i, text in enumerate(texts) if any(matter.akin(term, other) for other in text)]
        for i in having:
            scores[i] += _GENERIC.get(term, 1) / len(having) ** 0.5
    for kinds in (_ATTRIBUTES[attribute] for attribute in wanted & _ATTRIBUTES.keys()):
        for i, statement in enumerate(known):
            found = {"code" if _is_secret(v) else v.kind for v in values.values(statement.text)}
            if not found & kinds:
                scores[i] *= 0.5
            else:
                scores[i] += 0.5 if "code" in found & kinds else min(0.5, scores[i])
    return scores


def _is_secret(value: values.Value) -> bool:
    return value.kind == "number" and not value.units and len(re.findall(r"\d", value.text)) >= 4


def _best(scores: Sequence[float], known: Sequence[Statement], least: float, target: str) -> list[Statement]:
    """The statements with the highest scores, and those with the same secret."""
    best = max(scores, default=0.0)
    if not best or best < least:
        return []
    gone = [statement for statement, score in zip(known, scores) if score >= 0.95 * best]
    if best <= 0.5:
        gone = gone[-1:]
    return _with_same_secrets(gone, known, target)


def _with_same_secrets(gone: Sequence[Statement], known: Sequence[Statement], target: str) -> list[Statement]:
    """These statements, and all others that state the same code, or the same name where a name is to be forgotten."""
    kinds = {"code", "name"} if "name" in matter.meanings(target) else {"code"}
    secrets = {
        value.text for s in gone for value in values.values(s.text) if value.kind in kinds and matter.stems(value.text)
    }
    return [s for s in known if s in gone or any(values.mentions(s.text, secret) for secret in secrets)]


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
