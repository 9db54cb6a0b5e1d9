"""What a sentence is about: the stems of its words, and how much two sentences share."""

from __future__ import annotations

from functools import lru_cache

from selfedit.text import stem, weight, words

_SYNONYMS = (
    "pay pays paid salary wage wages earn earns income rent cost costs price rate fee money",
    "name names named called surname",
    "code pin password passphrase login passcode key combination combo",
    "address live lives street",
    "age old born birthday",
    "weigh weight weighs kilo kilos kg pounds stone",
    "kids kid children child",
    "phone telephone mobile",
    "file path folder",
    "boss manager head lead chief charge",
    "car van bike lorry truck bicycle drive driving ride motorbike scooter",
    "room attic basement cellar loft bedroom",
    "husband wife partner spouse",
    "ex girlfriend boyfriend",
    "doctor dentist physician",
    "laptop computer notebook",
    "start starts begin begins",
    "dad father",
    "mum mother mom",
)
MEANINGS = {stem(word): stem(group.split()[0]) for group in _SYNONYMS for word in group.split()}
"""Stem → the stem that stands for all words of its meaning."""
_EMPTY = frozenset(
    map(
        stem,
        "me us our ours mine yours am please just really already yet still until till thing things stuff anything "
        "something old again quite actually instead maybe ever i im ive id ill dont doesnt didnt cant wont isnt its "
        "thats whats theres youre hes shes theyre weve lol haha ok okay yeah ha oh psst t s m d re ve ll don"
        " doesn didn won isn".split(),
    )
)
"""Words that tell nothing about the matter, beside the commonest ones."""


@lru_cache(maxsize=10_000)
def stems(text: str, value: str = "") -> frozenset[str]:
    """The stems of the words of a text, without those of the value."""
    return frozenset(map(stem, words(text))) - frozenset(map(stem, words(value))) - _EMPTY


def meanings(text: str) -> frozenset[str]:
    """The stems of a text, one for words of one meaning ("pay" and "earn")."""
    return frozenset(MEANINGS.get(word, word) for word in stems(text))


def akin(a: str, b: str) -> bool:
    """Whether two stems are forms of one word: work and worker, hour and hourly."""
    if a == b:
        return True
    short, long = sorted((a, b), key=len)
    return long.startswith(short) and (
        len(short) >= 4 and len(long) - len(short) <= 3 or len(short) == 3 and long == f"{short}e"
    )


def shared(a: frozenset[str], b: frozenset[str]) -> float:
    """The weight of the stems of `a` that have a form in `b`."""
    return sum(weight(term) for term in a if any(akin(term, other) for other in b))
