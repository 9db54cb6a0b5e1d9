"""Two passages that say different things of the same, by hand."""

import pytest

from selfedit.memory.contradict import Disagreement, disagreements
from selfedit.types import Passage


def said(here: str, there: str) -> list[Disagreement]:
    return disagreements(Passage("a", here, "a.txt", "1" * 64), Passage("b", there, "b.txt", "2" * 64))


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("The tram line to Holmenkollen opened in 1898.", "The tram line to Holmenkollen opened in 1899."),
        ("In 1898 the tram line to Holmenkollen was opened.", "The tram line to Holmenkollen opened in 1899."),
        (
            "The bridge was built by the engineer Ada Quill for the railway.",
            "The bridge was built by the engineer Bert Hall for the railway.",
        ),
        ("Guests may park bicycles behind the old library.", "Guests may not park bicycles behind the old library."),
        ("Guests can't park bicycles behind the old library.", "Guests can park bicycles behind the old library."),
    ],
)
def test_one_other_value_or_a_not_is_a_disagreement(here, there):
    assert said(here, there) == [Disagreement(here, there)] and said(there, here) == [Disagreement(there, here)]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("The tram line to Holmenkollen opened in 1898.", "The tram line to Holmenkollen opened in 1898."),
        ("The tram line to Holmenkollen opened in 1898.", "The ferry to Nesodden sank in 1899."),
        ("The tram line to Holmenkollen opened in 1898.", "The tram line to Holmenkollen carries skiers."),
        (
            "In March the library lent 20 books to pupils.",
            "In April the library lent 30 books to pupils.",
        ),  # two rows of a table
        ("It opened in 1898.", "It opened in 1899."),  # too little to know that it is the same
        ("The engineer Ada Quill built the bridge for the railway.", "Ada Quill built the bridge for the railway."),
        (
            "The bridge of Quill was built for the railway.",
            "The bridge of Ada Quill was built for the railway.",
        ),  # a fuller name
    ],
)
def test_what_is_the_same_or_of_something_else_is_none(here, there):
    assert said(here, there) == []


def test_each_pair_of_sentences_is_told():
    found = said(
        "The gate of Orsk is 12 feet wide. The tower of Orsk has 90 stone steps.",
        "The gate of Orsk is 14 feet wide. The tower of Orsk has 91 stone steps.",
    )
    assert [(d.here.split()[1], d.there.split()[1]) for d in found] == [("gate", "gate"), ("tower", "tower")]
