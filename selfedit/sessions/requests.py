"""Which sentence asks to forget something that was told, and the words that tell what.

A request is an imperative of a verb for forgetting, or a wish that something had not been told or were not kept. A verb
with other meanings ("drop", "lose") counts if the sentence also mentions telling, a secret or the memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfedit.sessions.wording import matcher, one_of
from selfedit.text import words

_IMPERATIVE = (
    r"(?:^|[,;:.!?–—-]\s*|\b(?:please|pls|so|and|then|just|kindly|now|you|to|mind|better|must|should|would|could"
    r"|yeah)\b,? )"
    r"(?:please |just |kindly |quickly |simply |now )*"
)
_TOLD = (
    "(?:told|tell|said|say|gave|mentioned|mention|shared|pasted|wrote|whispered|typed|sent|confessed|heard|let slip)"
)
_NOT = "(?:never|not|no|dont|didnt|nobody|no one|nothing|without|less|(?:do|did|had|have|must|should|ca|wo|would)n't)"
_MEMORY = (
    r"\b(?:memory|memories|mind|head|notes?|notebook|records?|files?|logs?|storage|database|system|history|computer)\b"
)
_CERTAIN = matcher(
    rf"{_IMPERATIVE}(?:forget|unsee|unhear|unlearn|unread|unremember|disregard"
    r"|(?:do not|don['’]t|dont|never|stop) (?:ever )?(?:keep|keeping|store|storing|remember|remembering|retain"
    r"|save))\b|\b"
    + one_of(
        rf"(?:pretend|act|proceed|behave|though|as if|treat|consider|wish|rather|prefer|like it if)\b.{{0,60}}"
        rf"\b(?:{_NOT}\b.{{0,25}}\b(?:{_TOLD}|know|remember|happened|came up|come up|keep|kept|store|stored"
        rf"|existed|there)"
        r"|unsaid|untold|forgot|gone)",
        "you (?:never|didn't) (?:heard?|saw|see|read|know) | you know nothing | never (?:happened|existed"
        "|came up) | no trace | off the record | wipe the slate",
        r"(?:make|let|have) [^.!?]{1,40}\b(?:vanish|disappear|go away|drop|go)(?= *[,.!?]|$)",
        r"(?:must|should|ought|may|can)(?: not|n't| never)(?: to)? be (?:in|on|kept|stored|saved|known|remembered"
        r"|here)\b",
        rf"(?:out of|out from|from|off) (?:your|the|any|all) (?:\w+ )?{_MEMORY}",
    )
)
_EVERYDAY = matcher(
    _IMPERATIVE
    + one_of(
        "lose | drop | scrap | wipe | delet(?:e|ing) | eras(?:e|ing) | scrub | strike | remov(?:e|ing) | bin | burn",
        "discard | purge | clear | shred | cut | take | cross | blot | blank | chuck | toss | ditch | dump",
        "get rid | let go | throw | undo",
    )
    + r"\b"
)
_OF_MEMORY = matcher(
    rf"\b(?:I|we)(?:'d| had| have|'ve)? (?:just |ever |once )?{_TOLD}\b|{_MEMORY}|\b(?:what|everything|all) (?:I"
    rf"|you)\b|\b"
    + one_of(
        "code | pin | password | passphrase | passcode | combination | login | number | address | name | birthday",
        "salary | secret | please | pls | again | will you | would you | could you | can you | from last time",
    )
    + r"\b|^\W*(?:\w+\W+){0,3}(?:it|that|this|them|those|the lot|everything|all of it)?\W*$"
)
_OTHER_MEANING = matcher(
    r"\b"
    + one_of(
        "(?:before|if|when|in case|lest|and|that|once|as|whenever|should|so) (?:I|we) (?:ever )?(?:forget|forgot)",
        "(?<!let )(?:I|we|he|she|it|they|who|people|never|not|n't|dont|cant|always|often|may|might|will|'ll|'d"
        "|ever) (?:ever |always |often |sometimes |just |to )?(?:forget|drop|lose|delete|remove|wipe|erase|scrap"
        "|cut|take|clear)",
        r"forget (?:to|about it|how)\b | forget-me | forget(?:s|ting|ful)",
    )
    + r"\b"
)
_EVERYTHING = matcher(r"\bforget (?:about )?(?:everything|all)\b(?: of (?:it|that))?(?P<rest>[^,.!?]*)")
_IT = matcher(r"\b(?:forget|drop|delete|lose|scrap) (?:about )?(?:it|that|this|all that)(?= *[,.!?;]| *$)")
_POLITE = matcher(r"\b(?:please|pls|again|what I|(?:will|would|can|could) you|from (?:your|the))\b")
_OBJECT = matcher(r"\b(?:forget|delete|erase|remove|wipe|scrub)\b(?: about| the fact)?\s+(?P<object>[^,.!?;]+)")


@dataclass(frozen=True)
class Request:
    """A request to forget."""

    target: str
    """The words that ask; empty for everything."""
    asking: tuple[str, ...]
    """The sentences that ask."""
    around: tuple[str, ...]
    """The other sentences of the turn."""
    last: tuple[str, ...]
    """What the user stated in the turn before."""
    certain: bool
    """Whether the sentence has no other meaning, so that the best match goes even if it is weak."""

    @property
    def named(self) -> str:
        """The words for what is to be forgotten, for a message."""
        match = _OBJECT.search(self.target)
        return match["object"].strip() if match else self.target


def request_in(sentences: Sequence[str], last: Sequence[str]) -> Request | None:
    """The request to forget that the sentences of a turn make.

    last: what the user stated in the turn before.
    """
    asking, certain = [], False
    for index, sentence in enumerate(sentences):
        plain = _OTHER_MEANING.sub(" ", sentence)
        sure = bool(_CERTAIN.search(plain))
        if not sure and not (_EVERYDAY.search(plain) and _OF_MEMORY.search(plain)):
            continue
        if match := _EVERYTHING.search(plain):
            about = re.search(r"\b(?:about (?!me\b)|(?:of|in) (?!(?:it|that)\b))(.+)", match["rest"])
            return Request(about[1] if about else "", (sentence,), (), (), True)
        it = _IT.search(plain)
        before = " ".join([*sentences[:index], plain[: it.start()]]) if it else ""
        if it and len(words(before)) < 3 and not (_POLITE.search(plain) and last):
            continue  # the idiom "forget it"
        asking.append(sentence)
        certain |= sure
    if not asking:
        return None
    around = tuple(sentence for sentence in sentences if sentence not in asking)
    return Request(_OTHER_MEANING.sub(" ", " ".join(asking)), tuple(asking), around, tuple(last), certain)
