"""The turns of one session → what the user stated in it, each statement readable alone, and what they ask to forget.

Only the user's own sentences count: no pasted text, no question or request (but the facts beside it), nothing
hypothetical, no claim of somebody else, nothing that the assistant wrote. A sentence that refers to the one before it
joins it; one that refers to an earlier turn has its pronoun replaced (see `reference`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from selfedit.sessions import reference, wording
from selfedit.sessions.reader import Reader
from selfedit.sessions.requests import Request, request_in
from selfedit.sessions.values import mentions, values
from selfedit.sessions.wording import LONGEST
from selfedit.text import stem, weight, words
from selfedit.types import Message

ASSERTED = 0.1
"""Probability from which a sentence counts as told for true."""
ASKED = 0.5
"""Probability from which a turn, or a statement of it, asks to forget something."""
MAX_WORDS = 60
"""Of one statement; a longer one is cut, so that a group of statements fits a passage."""


@dataclass(frozen=True)
class Statement:
    """Something that the user told, in the user's words."""

    text: str
    """Readable alone."""
    date: str
    """ISO day of the session."""
    session: str
    turn: int
    """Index of the user's turn among the turns of the session, from 0."""
    kind: str = "fact"
    """`fact`, or `preference`: how to answer, an allergy, a rule."""
    group: int = 0
    """The number of the passage that it belongs to."""
    instead: tuple[str, ...] = ()
    """The texts of the statements that it replaced, the latest first. Often only these name the matter: "It is judo
    now" does not say that this is about a class."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Its own text, then those that it replaced."""
        return self.text, *self.instead

    @property
    def turn_key(self) -> tuple[str, int]:
        """The session and the turn that it comes from."""
        return self.session, self.turn


@dataclass(frozen=True)
class Told:
    """A statement of one turn, and the words around it that help to find what it corrects."""

    statement: Statement
    context: str
    """The whole turn, in the user's own words, or the statement alone if the turn is long."""


@dataclass(frozen=True)
class TurnRead:
    """What a turn of the user says."""

    index: int
    text: str
    """The user's own sentences."""
    told: tuple[Told, ...]
    request: Request | None
    """What it asks to forget, by rule."""
    last: tuple[str, ...]
    """What the user stated in the turn before."""


def stated(turns: Sequence[Message], session: str, date: str, reader: Reader | None = None) -> Iterator[TurnRead]:
    """Yields what each turn of the user says, in order."""
    before: list[str] = []  # the user's sentences of the turns before
    question, claimed, reply = "", "", ""
    disowned: set[str] = set()
    last: list[str] = []
    for index, turn in enumerate(turns):
        if turn.role != "user":
            reply = turn.content if turn.role == "assistant" else reply
            continue
        sentences = wording.sentences(turn.content)
        said = _Turn(before, question, claimed, reply, disowned, _denied(reader, sentences))
        request = request_in(sentences, last)
        asking = request.asking if request else ()
        for sentence in sentences:
            if sentence not in asking:
                said.read(sentence)
        context = " ".join(sentences)
        told = []
        for text in dict.fromkeys(said.texts):
            kind = "preference" if wording.is_preference(text) else "fact"
            for part in _parts(text):
                statement = Statement(part, date, session, index, kind)
                told.append(Told(statement, context if len(context) <= LONGEST else part))
        yield TurnRead(index, context, tuple(told), request, tuple(last))
        last = said.texts
        before = sentences or before
        question, claimed, disowned = said.asked, said.claimed, said.disowned


def _denied(reader: Reader | None, sentences: Sequence[str]) -> frozenset[str]:
    """The sentences of a turn, and the clauses of them, that the user does not tell as true."""
    if reader is None or not sentences:
        return frozenset()
    text = " ".join(sentences)
    pieces = list(dict.fromkeys([*sentences, *(clause for s in sentences for clause in clauses(s))]))
    return frozenset(piece for piece, p in zip(pieces, reader.asserting(text, pieces)) if p < ASSERTED)


def clauses(sentence: str) -> list[str]:
    """The clauses of a sentence that has several, at least three words each; else none."""
    parts = [part.strip() for part in _CLAUSE.split(sentence)]
    return parts if len(parts) > 1 and all(len(words(part)) >= 3 for part in parts) else []


_CLAUSE = re.compile(r"[,;:]\s+(?:(?:and|but|so)\s+)?|\s+(?:but|though|although|whereas)\s+|\s+[–—-]\s+")


class _Turn:
    """Reads the sentences of one user turn."""

    def __init__(
        self,
        before: list[str],
        question: str,
        claimed: str,
        reply: str,
        disowned: set[str],
        denied: frozenset[str] = frozenset(),
    ):
        """`denied`: sentences and clauses that the user does not tell as true."""
        self.before = list(before)
        self.earlier_question, self.earlier_claim, self.reply = question, claimed, reply
        self.texts: list[str] = []
        self.asked = self.claimed = ""
        self.earlier_disowned, self.denied = disowned, denied
        self.disowned: set[str] = set()
        """Values of what somebody else claims or what is only supposed."""
        self.joins = False
        """Whether the sentence before was kept, so that a sentence that refers to it can join it."""

    def read(self, sentence: str) -> None:
        kept = self._kept_clauses(sentence) if self._is_denied(sentence) else self._kept(sentence)
        self.before.append(wording.without_lead_in(sentence))
        self.joins = bool(kept)

    def _is_denied(self, sentence: str) -> bool:
        return sentence in self.denied and not wording.to_remember(sentence) and not wording.is_about_answers(sentence)

    def _kept_clauses(self, sentence: str) -> bool:
        """Keeps the clauses that the user tells as true, of a sentence that they do not."""
        if wording.is_question(sentence) or wording.is_request(sentence):
            return self._kept(sentence)
        true = [clause for clause in clauses(sentence) if clause not in self.denied]
        self.claimed = sentence
        self._disown(" ".join(clause for clause in clauses(sentence) or [sentence] if clause in self.denied))
        return any([self._kept(clause) for clause in true])

    def _kept(self, sentence: str) -> bool:
        sentence = wording.without_lead_in(sentence)
        fact = wording.to_remember(sentence)
        if fact:
            return self._keep(fact)
        sentence = self._without_denied(sentence)
        if not sentence or wording.is_small_talk(sentence):
            return False
        if wording.is_about_answers(sentence):
            return self._keep(sentence)
        if wording.is_hypothetical(sentence):
            self._disown(sentence)
            return False
        sentence = wording.without_unreal(sentence)
        if not sentence:
            return False
        if wording.is_question(sentence) or wording.is_request(sentence):
            facts = [fact for fact in wording.facts_beside(sentence) if not wording.is_small_talk(fact)]
            if wording.is_question(sentence) or re.match(r"remind me\b", sentence, re.IGNORECASE):
                self.asked = sentence
            if sentence.endswith(":"):
                return False
            return any([self._keep(fact) for fact in facts if not wording.claim(fact)])
        confirms = self.earlier_claim and reference.begins_with_pronoun(sentence) and values(sentence)
        if not confirms and (claim := wording.claim(sentence)):
            self.claimed, truth = wording.truth_after(claim[1])
            self._disown(self.claimed)
            known = wording.introduction(claim[0])
            kept = bool(known) and self._keep(known)
            if truth:
                kept = self._keep(reference.against(self.claimed, truth))
            return kept
        if self.claimed and reference.refers_back(sentence):
            return bool(values(sentence)) and self._keep(reference.against(self.claimed, sentence))
        return self._keep(sentence)

    def _keep(self, sentence: str) -> bool:
        if self.joins and self.texts and reference.refers_back(sentence):
            self.texts[-1] = f"{self.texts[-1]} {sentence}"
            return True
        question = self.earlier_question if not self.texts else ""
        sentence = reference.resolved(sentence, self.before, question, self.earlier_claim)
        sentence = _introduced(sentence, self.before)
        least = 2 if wording.is_preference(sentence) else 3
        if len(words(sentence)) < 2 or (len(words(sentence)) < least and not re.search(r"\d|[A-Z]\w*\W*$", sentence)):
            return False
        self.texts.append(sentence[:1].upper() + sentence[1:])
        return True

    def _disown(self, text: str) -> None:
        self.disowned |= {v.text.lower() for v in values(text) if not v.is_subject and v.kind not in ("room", "colour")}

    def _without_denied(self, sentence: str) -> str:
        """The sentence without the clauses that repeat a claim, a supposition, or the assistant's word in a denial."""
        spurious = self.disowned | self.earlier_disowned
        if _NEGATION.search(sentence):
            told = " ".join([*self.before[-8:], self.earlier_question])
            spurious |= {
                word.lower() for word in words(self.reply) if weight(stem(word)) == 1 and not mentions(told, word)
            }
        if not any(mentions(sentence, word) for word in spurious):
            return sentence
        clauses = re.split(r"(?<=[,;:!?])\s+(?:and |but )?|\s+(?=(?:but|and not) )", sentence)
        kept = [clause for clause in clauses if not any(mentions(clause, word) for word in spurious)]
        return re.sub(r"^but ", "", " ".join(kept))


_NEGATION = re.compile(
    r"\b(?:no|not|never|nope|wrong|nonsense|rubbish|none|neither|nor|\w+n['’]?t|where did|who (?:said|told))\b",
    re.IGNORECASE,
)
_NEW_NAME = re.compile(
    r"^([A-Z]\w+(?: and [A-Z]\w+)?)(?= (?:would |will |also |barely |really |never |always )*"
    r"(?:likes?|loves?|sees?|says?|wants?|knows?|hates?|thinks?|plays?|enjoys?|laughs?|agrees?)\b)"
)
_MY_PERSON = re.compile(rf"\b([Mm]y (?:{reference._PERSON}))\b(?!,? [A-Z])")


def _introduced(sentence: str, before: list[str]) -> str:
    """The sentence with "(my wife)" after a name at its start that no sentence before explains."""
    match = _NEW_NAME.match(sentence)
    if not match or _MY_PERSON.search(sentence) or any(match[1] in earlier for earlier in before):
        return sentence
    for earlier in reversed(before):
        if persons := _MY_PERSON.findall(earlier):
            return f"{match[1]} ({persons[-1].lower()}){sentence[match.end() :]}"
    return sentence


def _parts(text: str) -> Iterator[str]:
    """The text, or runs of at most MAX_WORDS of its words."""
    ends = [match.end() for match in re.finditer(r"\S{1,200}\s*", text)]
    cuts = [0, *ends[MAX_WORDS - 1 :: MAX_WORDS]]
    if cuts[-1] < len(text):
        cuts.append(len(text))
    for start, end in pairwise(cuts):
        if part := text[start:end].strip():
            yield part
