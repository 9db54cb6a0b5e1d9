"""Graders: what a model said, and the gold answers → right or wrong, or an overlap in [0, 1]. Pure rules, no model.

`is_correct` stands in for SEAL's GPT-4.1 judge (yes or no: extra words allowed, the gold fully conveyed and not
contradicted, blank is wrong). The idea: after folding case, accents, plurals, endings and number words, most of the
gold's content words must be in the answer. Words that the question already said do not count, on either side.

On 27,669 GPT-4.1 verdicts, rules tuned on 44 titles and read off on the other 43 (n = 12,337): accuracy 0.881, Cohen's
kappa 0.754; the usual test, the normalised gold is contained in the answer, has 0.831 and 0.641 there. What is left
out, because it loses accuracy there: word order, weights a word, names in full, counting alternatives strictly.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_COVERAGE = 0.6  # share of the gold's content words; two of three pass, one of two does not
_STEM_LENGTH = 6  # letters that tell words apart: monetarization = monetarisation, but also internal = international
_RESTATED = 3  # words in a row that make a piece of the answer a copy of the question
_MAX_WORDS = 80  # later words are rambling; SEAL's answers have at most 64 tokens
_MAX_ALTERNATIVES = 15  # a longer enumeration is a guess at everything
_MAX_WORDS_BEFORE_TARGET = 12

_NEGATIONS = frozenset("not no never neither nor cannot without".split())
_SMALL_WORDS = frozenset(
    "a an the of in on at to for from by with and or as is was were are be been being it its his her their this that "
    "these those which who they he she has had have into over than about also such some other around nearly "
    "approximately".split()
)
_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_DIGITS = (
    {word: str(n) for n, word in enumerate([*_ONES, "seventeen", "eighteen", "nineteen"])}
    | {word: str(n) for n, word in enumerate(_ORDINALS, start=1)}
    | {word: str(10 * n) for n, word in enumerate(_TENS, start=2)}
    | {"once": "1", "twice": "2"}
)


def is_correct(prediction: str, answers: Sequence[str], question: str = "") -> bool:
    """Whether the prediction conveys at least one of the gold answers."""
    prediction = " ".join(prediction.split(" ")[:_MAX_WORDS])
    return any(_conveys(prediction, gold, question) for gold in answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """SQuAD's F1: overlap of normalised words with the nearest gold answer, in [0, 1]."""
    return max((_f1(normalize(prediction).split(), normalize(gold).split()) for gold in answers), default=0.0)


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """SQuAD's exact match: equal to a gold answer after normalisation."""
    return normalize(prediction) in {normalize(gold) for gold in answers}


def continues_with(prediction: str, answers: Sequence[str]) -> bool:
    """For cloze probes: the continuation says a target, word for word, with at most twelve words before it."""
    said = " ".join(_words(prediction))
    for gold in answers:
        target = " ".join(_words(gold))
        before, found, _ = f" {said} ".partition(f" {target} ")
        if target and found and len(before.split()) <= _MAX_WORDS_BEFORE_TARGET:
            return True
    return False


def normalize(text: str) -> str:
    """SQuAD's own normalisation: lower case, no punctuation, no articles, single spaces."""
    text = re.sub(r"[!-/:-@\[-`{-~]", "", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _conveys(prediction: str, gold: str, question: str) -> bool:
    said, asked = _words(prediction), _words(question)
    wanted = [word for word in _words(gold) if word not in _SMALL_WORDS] or _words(gold)
    if not wanted:  # a symbol, such as "+"
        return bool(gold.strip()) and gold.strip() in prediction
    if len(_alternatives(prediction)) > max(_MAX_ALTERNATIVES, 2 * len(_alternatives(gold))):
        return False

    question_stems = {_stem(word) for word in asked}
    new = [stem for word in wanted if (stem := _stem(word)) not in question_stems]
    stems = new or [_stem(word) for word in wanted]
    said_stems = [_stem(word) for word in said]
    # A choice ("internal or external?") is answered in the question's own words; elsewhere copying it says nothing.
    heard = set(said_stems if "or" in asked else _without_copies(said_stems, [_stem(word) for word in asked]))
    found = [stem for stem in stems if stem in heard]
    if len(found) < _COVERAGE * len(stems) or any(stem[0].isdigit() and stem not in heard for stem in stems):
        return False

    first = min(said_stems.index(stem) for stem in found)
    denied = _NEGATIONS & set(said[max(0, first - 2) : first])  # "not in Oslo", but "not Bergen but Oslo" is fine
    return not denied or bool(_NEGATIONS & {*wanted, *asked})


def _f1(said: list[str], gold: list[str]) -> float:
    if not said or not gold:
        return float(said == gold)
    return 2 * sum((Counter(said) & Counter(gold)).values()) / (len(said) + len(gold))


def _alternatives(text: str) -> list[str]:
    return re.split(r"[,;\n]|\band\b|\bor\b", text.strip())


@lru_cache(maxsize=10_000)
def _words(text: str) -> tuple[str, ...]:
    """Lower-case words without accents, articles, possessives; numbers in digits ("1,200", "third", "twenty-one")."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    text = re.sub(r"n['’]t\b", " not", text)
    text = re.sub(r"(?<=\d),(?=\d{3})|['’]s?\b|(?<=\d)(?:st|nd|rd|th)\b", "", text)
    text = text.replace("%", " percent ").replace("per cent", "percent")
    text = re.sub(rf"\b({'|'.join(_TENS)})[ -]({'|'.join(_ONES[1:10] + _ORDINALS[:9])})\b", _digits, text)
    found = re.findall(r"\d+\.\d+|[^\W_]+", text)
    return tuple(_DIGITS.get(word, word) for word in found if word not in ("a", "an", "the"))


def _digits(match: re.Match) -> str:
    return str(sum(int(_DIGITS[word]) for word in match.groups()))


def _stem(word: str) -> str:
    if word[0].isdigit():
        return word
    if len(word) > 3 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return word[:_STEM_LENGTH]


def _without_copies(said: list[str], asked: list[str]) -> list[str]:
    """The answer less every run of words that the question has too: "The name of Queen's first album is"."""
    copied = {tuple(asked[i : i + _RESTATED]) for i in range(len(asked) - _RESTATED + 1)}
    keep = [True] * len(said)
    for i in range(len(said) - _RESTATED + 1):
        if tuple(said[i : i + _RESTATED]) in copied:
            keep[i : i + _RESTATED] = [False] * _RESTATED
    return [stem for stem, kept in zip(said, keep) if kept]
