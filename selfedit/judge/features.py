"""A prediction, a gold answer and the question → eleven numbers from which the grader reads its verdict.

The idea: fold case, accents, plurals, endings and number words; leave out small words and what the question already
said; then count how much of the gold is in the prediction, and what else the prediction says. A word also half counts
if a similar one is said (erosive, eroding), fully if an acronym says it, and more if it is rare. How common a word is
comes with the fitted numbers: the share of article titles in whose questions and answers it occurs.

Left out, since these eleven numbers did better across titles than a hundred and thirty: word vectors, word order, the
gold's head noun and last word, how near a number is, hedges, the kind of question, where in the answer the gold stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

_STEM_LENGTH = 6  # letters that tell words apart: monetarization = monetarisation, but also internal = international
_COPIED = 3  # words in a row that make a piece of the answer a copy of the question
_SIMILAR = 0.5  # below it two words have nothing in common
_SAME = 0.7  # above it they are forms of one word
_LEAST_WEIGHT = 0.15  # of the commonest word; the rarest has 1.15
_GRAM = 4  # letters

NEGATIONS = frozenset("not no never neither nor cannot without none nothing".split())
SMALL_WORDS = frozenset(
    "a an the of in on at to for from by with and or as is was were are be been being it its his her their this that "
    "these those which who they he she has had have into over than about also such some other around nearly "
    "approximately".split()
)
_TITLES = frozenset(  # of people: "Barack Obama" is President Obama
    "king queen emperor empress prince princess duke count earl lord sir dame pope saint bishop archbishop president "
    "chancellor minister governor senator general marshal admiral colonel captain mr mrs ms dr doctor professor".split()
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
_TIMES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_TWENTY_ONE = re.compile(rf"\b({'|'.join(_TENS)})[ -]({'|'.join(_ONES[1:10] + _ORDINALS[:9])})\b", re.IGNORECASE)
_NOT = re.compile(r"n['’]t\b", re.IGNORECASE)
_UNSAID = re.compile(r"(?<=\d),(?=\d{3})|['’]s?\b|(?<=\d)(?:st|nd|rd|th)\b", re.IGNORECASE)
_INITIALS = re.compile(r"\b(?:[A-Za-z]\.)+[A-Za-z]\b\.?")  # U.S.
_WORD = re.compile(r"\d+\.\d+|[^\W_]+")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_SENTENCE = re.compile(r"\s*.*?\w[^\w\s]*[.!?](?=\s)", re.DOTALL)
_ITEMS = re.compile(r",|;|&|\band\b|\bor\b")

# Name → which way alone it may move the verdict: 1 towards right, -1 towards wrong, 0 either.
FEATURES = {
    "words": 1,  # share of the gold's new words that the answer has, outside what it copied from the question
    "words_anywhere": 1,  # the same, copied or not
    "weight": 1,  # as "words", with rare words weighing more and similar words counting in part
    "letters": 1,  # share of the gold's runs of four letters
    "worst_item": 1,  # of a gold that is a list: how well the least found item is found
    "missing_numbers": -1,  # how many of the gold's
    "precision": 1,  # share of the first sentence's new words that are the gold's
    "other_names": -1,  # capitalised words of the first sentence that are neither the gold's nor the question's
    "echo": 0,  # share of the question's words that the answer repeats
    "rarity": 0,  # of the gold's new words
    "names": 0,  # share of the gold's words that are capitalised
}


def features(prediction: str, gold: str, question: str, common: Mapping[str, float]) -> list[float]:
    """In the order of FEATURES. `common` has the share of titles in which a stem occurs; a stem that it lacks is rare."""
    said, asked, wanted = words(prediction), words(question), words(gold)
    said_stems, asked_stems = [stem(word) for word in said], [stem(word) for word in asked]
    told, known = set(said_stems), set(asked_stems)
    new = new_words(wanted, known)
    # A choice ("internal or external?") is answered in the question's own words; elsewhere copying it says nothing.
    fresh = said if "or" in asked else [word for word, keep in zip(said, not_copied(said_stems, asked_stems)) if keep]
    fresh_stems, spelled = {stem(word) for word in fresh}, _spelled_acronyms(prediction, gold)
    scores = [1.0 if word in spelled else _found(word, set(fresh), fresh_stems) for word in new]
    rarity = [1.0 - common.get(stem(word), 0.0) for word in new]
    weights = [_LEAST_WEIGHT + value for value in rarity]
    precision, other_names = _first_sentence(prediction, wanted, known)
    values = {
        "words": _mean([score == 1 for score in scores]),
        "words_anywhere": _mean([word in spelled or stem(word) in told for word in new]),
        "weight": sum(score * weight for score, weight in zip(scores, weights)) / max(sum(weights), 1e-9),
        "letters": _letters(wanted, said),
        "worst_item": _worst_item(gold, set(said), told),
        "missing_numbers": _missing_numbers(said, wanted, asked),
        "precision": precision,
        "other_names": other_names,
        "echo": _mean([stem(word) in told for word in asked if word not in SMALL_WORDS]),
        "rarity": _mean(rarity),
        "names": _mean([word[0].isupper() and word.lower() not in SMALL_WORDS for word in _cased_words(gold)]),
    }
    return [round(float(values[name]), 3) for name in FEATURES]


def new_words(wanted: Sequence[str], known: Collection[str]) -> list[str]:
    """The gold's words less the small ones and those whose stems the question has, unless nothing else is left."""
    content = [word for word in wanted if word not in SMALL_WORDS] or list(wanted)
    content = [word for word in content if word not in _TITLES] or content
    return [word for word in content if stem(word) not in known] or content


@lru_cache(maxsize=10_000)
def words(text: str) -> tuple[str, ...]:
    """Lower-case words without accents, articles, possessives; numbers in digits ("1,200", "third", "twenty-one")."""
    return tuple(_DIGITS.get(word, word) for word in map(str.casefold, _cased_words(text)))


@lru_cache(maxsize=10_000)
def _cased_words(text: str) -> tuple[str, ...]:
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = _NOT.sub(" not", text)
    text = _UNSAID.sub("", text)
    text = _INITIALS.sub(lambda match: match.group().replace(".", ""), text)
    text = text.replace("%", " percent ").replace("per cent", "percent")
    text = _TWENTY_ONE.sub(lambda match: str(sum(int(_DIGITS[word.lower()]) for word in match.groups())), text)
    return tuple(word for word in _WORD.findall(text) if word.lower() not in ("a", "an", "the"))


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    if word[0].isdigit():
        return word
    if len(word) > 3 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return word[:_STEM_LENGTH]


@lru_cache(maxsize=200_000)
def similarity(a: str, b: str) -> float:
    """Of two spellings, in [0, 1]: a common beginning, common pairs of letters, or one word within the other."""
    if stem(a) == stem(b):
        return 1.0
    if a[0].isdigit() or b[0].isdigit() or min(len(a), len(b)) < 4:
        return 0.0
    longest = max(len(a), len(b))
    beginning = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b))) / longest
    pairs_a, pairs_b = ({word[i : i + 2] for i in range(len(word) - 1)} for word in (a, b))
    pairs = 2 * len(pairs_a & pairs_b) / (len(pairs_a) + len(pairs_b))
    within = (min(len(a), len(b)) / longest + 1) / 2 if a in b or b in a else 0.0
    best = max((beginning + 1) / 2 if beginning >= 0.5 else 0.0, pairs, within)
    return best if best >= _SIMILAR else 0.0


def not_copied(said: Sequence[str], asked: Sequence[str]) -> list[bool]:
    """False for every run of words that the question has too: "The name of Queen's first album is"."""
    runs = {tuple(asked[i : i + _COPIED]) for i in range(len(asked) - _COPIED + 1)}
    fresh = [True] * len(said)
    for i in range(len(said) - _COPIED + 1):
        if tuple(said[i : i + _COPIED]) in runs:
            fresh[i : i + _COPIED] = [False] * _COPIED
    return fresh


def _spelled_acronyms(prediction: str, gold: str) -> set[str]:
    """The gold's words that the prediction says as an acronym, and acronyms of the gold that it spells out."""
    said, wanted = _cased_words(prediction), _cased_words(gold)
    names = [word for word in wanted if word[0].isupper()]
    initials = "".join(word[0] for word in names)
    found = set()
    for word in said:
        if 2 <= len(word) <= 6 and word.isupper() and word in initials:
            start = initials.index(word)
            found |= {name.lower() for name in names[start : start + len(word)]}
    shorts = [word for word in names if 2 <= len(word) <= 6 and word.isupper()]
    if shorts:
        every = "".join(word[0] for word in said).upper()
        large = "".join(word[0] for word in said if word.lower() not in SMALL_WORDS).upper()
        found |= {word.lower() for word in shorts if word in every or word in large}
    return found


def _letters(wanted: Sequence[str], said: Sequence[str]) -> float:
    gold, text = f" {' '.join(wanted)} ", f" {' '.join(said)} "
    grams = {gold[i : i + _GRAM] for i in range(len(gold) - _GRAM + 1)}
    return _mean([gram in text for gram in grams])


def _worst_item(gold: str, said: Collection[str], stems: Collection[str]) -> float:
    items = [[word for word in words(item) if word not in SMALL_WORDS] for item in _ITEMS.split(gold)]
    return min((max(_found(word, said, stems) for word in item) for item in items if item), default=0.0)


def _found(word: str, said: Collection[str], stems: Collection[str]) -> float:
    """1 if it is said, less if only a similar word is."""
    return 1.0 if stem(word) in stems else max((similarity(word, other) for other in said), default=0.0)


def _missing_numbers(said: Sequence[str], wanted: Sequence[str], asked: Sequence[str]) -> int:
    numbers, known, told = _numbers(wanted), _numbers(asked), _numbers(said)
    return len((numbers - known or numbers) - told)


def _numbers(text: Sequence[str]) -> set[float]:
    """One number for "7 million", and 1970 for "1970s"."""
    found = [(i, _NUMBER.match(word)) for i, word in enumerate(text) if word[0].isdigit()]
    return {
        float(match.group()) * _TIMES.get(text[i + 1] if i + 1 < len(text) else "", 1) for i, match in found if match
    }


def _first_sentence(prediction: str, wanted: Sequence[str], known: Collection[str]) -> tuple[float, int]:
    """Of its words that are new to the question: the share that is the gold's, and how many others are names."""
    match = _SENTENCE.match(prediction)
    sentence = match.group() if match else prediction
    pairs = list(zip(words(sentence), _cased_words(sentence)))
    new = [
        (i, word, cased) for i, (word, cased) in enumerate(pairs) if word not in SMALL_WORDS and stem(word) not in known
    ]
    other = [(i, cased) for i, word, cased in new if max((similarity(word, w) for w in wanted), default=0) < _SAME]
    return 1 - len(other) / max(len(new), 1) if new else 0.0, sum(i > 0 and cased[0].isupper() for i, cased in other)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
