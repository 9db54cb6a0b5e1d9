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
from selfedit.sessions.values import values
from selfedit.text import words
from selfedit.types import Message

MAX_WORDS = 60
"""Of one statement; a longer one is cut, so that a group of statements fits a passage."""
_FORGET = re.compile(
    r"(?:^|[,;:]|\b(?:please|so|and|you|to|now|favou?r,?|then)\b,?)\s*(?:please |just |kindly )?"
    r"(?P<verb>forget|delete|erase|wipe|drop|remove|scrub|unlearn)\b(?P<target>[^.!?]*)",
    re.IGNORECASE,
)
_NOT_FORGETTING = re.compile(
    r"\b(?:don['’]t|do not|never|can['’]t|cannot|won['’]t|didn['’]t|if I|when I|I|I['’]ll|always|tend to|might|may)\s+"
    r"(?:ever |always |often |sometimes |just )?(?:forget|drop|delete|remove|wipe|erase)\b|\bforget(?:s|ting|ful)\b",
    re.IGNORECASE,
)
_IDIOM = re.compile(
    r"^\s*(?:it|that|about it|this|all that)?\s*(?:please|then|again)?"
    r"(?: from (?:your |the )?(?:memory|notes|mind))?\s*$",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"(?:never|not)\s+([^,;]+?)[.!]*$", re.IGNORECASE)
_NOT_CONTRAST = re.compile(r",? (?:and )?not (?:an? |the )?([\w:-]+(?:\.\w+)*)(?=[,.!;]|\s*$)", re.IGNORECASE)


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

    @property
    def turn_key(self) -> tuple[str, int]:
        """The session and the turn that it comes from."""
        return self.session, self.turn


@dataclass(frozen=True)
class Request:
    """A request to forget."""

    target: str
    """The words for what is to be forgotten; empty for everything."""
    strict: bool
    """Whether the verb has another everyday meaning ("delete"), so that all words must be in a statement."""
    turn: int
    context: tuple[str, ...] = ()
    """The statements of the turn before, for "please forget that again"."""


@dataclass(frozen=True)
class Told:
    """A statement of one turn, and the words around it that help to find what it corrects."""

    statement: Statement
    context: str
    """The whole turn, in the user's own words."""

    @property
    def turn(self) -> int:
        return self.statement.turn


def stated(turns: Sequence[Message], session: str, date: str) -> Iterator[Told | Request]:
    """Yields the statements and the requests to forget of a session, in order."""
    before: list[str] = []  # the user's sentences of the turns before
    question, claimed, reply = "", "", ""
    last: tuple[str, ...] = ()
    for index, turn in enumerate(turns):
        if turn.role != "user":
            reply = turn.content if turn.role == "assistant" else reply
            continue
        sentences = wording.sentences(turn.content)
        reader = _Turn(before, question, claimed, reply, last)
        for position, sentence in enumerate(sentences):
            reader.read(sentence, " ".join(sentences[:position]))
        last = tuple(reader.texts)
        for request in reader.requests:
            yield Request(*request, index, reader.last)
        context = " ".join(sentences)
        for text in reader.texts:
            kind = "preference" if wording.is_preference(text) else "fact"
            for part in _parts(text):
                yield Told(Statement(part, date, session, index, kind), context)
        before = sentences or before
        question, claimed = reader.asked, reader.claimed


class _Turn:
    """Reads the sentences of one user turn."""

    def __init__(self, before: list[str], question: str, claimed: str, reply: str, last: tuple[str, ...]):
        self.before = list(before)
        self.earlier_question, self.earlier_claim, self.reply = question, claimed, reply
        self.last = last
        self.texts: list[str] = []
        self.requests: list[tuple[str, bool]] = []
        self.asked = self.claimed = ""
        self.joins = False
        """Whether the sentence before was kept, so that a sentence that refers to it can join it."""

    def read(self, sentence: str, turn_so_far: str) -> None:
        kept = self._kept(sentence, turn_so_far)
        self.before.append(wording.without_lead_in(sentence))
        self.joins = bool(kept)

    def _kept(self, sentence: str, turn_so_far: str) -> bool:
        if self._forgets(sentence, turn_so_far):
            return False
        sentence = wording.without_note(wording.without_lead_in(sentence))
        fact = wording.to_remember(sentence)
        if fact:
            return self._keep(fact)
        if not sentence or wording.is_small_talk(sentence):
            return False
        if wording.is_hypothetical(sentence):
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
            self.claimed = claim[1]
            known = wording.introduction(claim[0])
            return bool(known) and self._keep(known)
        if self.claimed and reference.refers_back(sentence) and not values(sentence):
            return False  # a comment on the claim
        return self._keep(sentence)

    def _keep(self, sentence: str) -> bool:
        if self.joins and self.texts and reference.refers_back(sentence):
            self.texts[-1] = f"{self.texts[-1]} {sentence}"
            return True
        sentence = self._without_denied(sentence)
        if not sentence:
            return False
        question = self.earlier_question if not self.texts else ""
        sentence = reference.resolved(sentence, self.before, question, self.earlier_claim)
        sentence = _introduced(sentence, self.before)
        if len(words(sentence)) < 2 or (len(words(sentence)) < 3 and not re.search(r"\d|[A-Z]\w*\W*$", sentence)):
            return False
        self.texts.append(sentence[:1].upper() + sentence[1:])
        return True

    def _without_denied(self, sentence: str) -> str:
        """The sentence without ", not X" where X is the assistant's word and the true value stays."""
        if (denial := _DENIAL.match(sentence)) and all(word in self.reply.lower() for word in words(denial[1].lower())):
            return ""
        match = _NOT_CONTRAST.search(sentence)
        if match and match[1].lower() in self.reply.lower() and len(words(sentence)) > len(words(match[0])):
            return sentence[: match.start()] + sentence[match.end() :]
        return sentence

    def _forgets(self, sentence: str, turn_so_far: str) -> bool:
        match = None if _NOT_FORGETTING.search(sentence) else _FORGET.search(sentence)
        if not match:
            return False
        target, lead = match["target"].split(",")[0], sentence[: match.start()]
        strict = match["verb"].lower() != "forget"
        if re.match(
            r"\s*(?:about )?(?:everything|all)(?: of (?:it|that))?(?: (?:that )?(?:I|you) .*|\s*)$",
            target,
            re.IGNORECASE,
        ):
            about = re.search(r"\babout (?!me\b)(.*)", target)
            self.requests.append((about[1] if about else "", False))
            return True
        if _IDIOM.match(target) or re.match(
            r"\s*(?:these|them|those|what I (?:just )?(?:said|told you))\b", target, re.IGNORECASE
        ):
            polite = re.search(
                r"\b(?:please|again|what I|will you|would you|can you|could you)\b", sentence, re.IGNORECASE
            )
            if len(words(wording.without_lead_in(lead))) >= 3:
                target = reference.thing_named(lead)
            elif polite and len(words(turn_so_far)) >= 3:
                target = reference.thing_named(turn_so_far)
            elif polite and self.last:
                target = " ".join(self.last)
            else:
                return False
        elif re.search(r"\b(?:its|his|her|their)\b", target, re.IGNORECASE):
            target = f"{reference.thing_named(lead or turn_so_far)} {target}"
        self.requests.append((target.strip(), strict))
        if lead := wording.without_lead_in(lead).rstrip(" ,;:"):
            self._keep_lead(lead, target)
        return True

    def _keep_lead(self, lead: str, target: str) -> None:
        """Keeps the clause before a request to forget, if it is about something else."""
        shared = {word.lower() for word in words(lead) if len(word) > 3} & {word.lower() for word in words(target)}
        if len(words(lead)) >= 4 and not shared and not wording.is_request(lead) and lead not in target:
            self._keep(f"{re.sub(r',? so$', '', lead)}.")


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
