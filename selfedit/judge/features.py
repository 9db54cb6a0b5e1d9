"""A prediction, a gold answer and a question → eleven numbers, the features from which the grader decides.

The idea: normalize case, accents, plurals, endings and number words; ignore small words and words of the question; then
measure how much of the gold answer is in the prediction, and what else the prediction has. A gold word counts fully if
it or its acronym occurs, in part if a similar word occurs (erosive, eroding), and more if it is rare. The frequency of
a word is part of the fitted numbers: the share of article titles in whose questions and answers it occurs.

Left out, since these eleven features generalize to new titles better than 130 did: word vectors, word order, the head
noun and the last word of the gold answer, the distance between numbers, hedges, the kind of question, and the position
of the gold answer in the prediction.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from selfedit.text import CONTRACTED_NOT, plain, without_accents
from selfedit.text import words as text_words

_STEM_LENGTH = 6  # letters; equates monetarization and monetarisation, but also internal and international
_COPIED = 3  # a run of this many words of the question is copied
_SIMILAR = 0.5  # words with a lower similarity have nothing in common
_SAME = 0.7  # words with a higher similarity are forms of the same word
_LEAST_WEIGHT = 0.15  # weight of the most common word; the rarest has 1.15
_GRAM = 4  # letters

NEGATIONS = frozenset("not no never neither nor cannot without none nothing".split())
SMALL_WORDS = frozenset(
    "a an the of in on at to for from by with and or as is was were are be been being it its his her their this that "
    "these those which who they he she has had have into over than about also such some other around nearly "
    "approximately".split()
)
_TITLES = frozenset(  # titles of people: "Barack Obama" answers "President Obama"
    "king queen emperor empress prince princess duke count earl lord sir dame pope saint bishop archbishop president "
    "chancellor minister governor senator general marshal admiral colonel captain mr mrs ms dr doctor professor".split()
)
_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = (
    {word: str(n) for n, word in enumerate([*_ONES, "seventeen", "eighteen", "nineteen"])}
    | {word: str(n) for n, word in enumerate(_ORDINALS, start=1)}
    | {word: str(10 * n) for n, word in enumerate(_TENS, start=2)}
    | {"once": "1", "twice": "2"}
)
SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_TWENTY_ONE = re.compile(rf"\b({'|'.join(_TENS)})[ -]({'|'.join(_ONES[1:10] + _ORDINALS[:9])})\b", re.IGNORECASE)
_UNSAID = re.compile(r"(?<=\d),(?=\d{3})|['’]s?\b|(?<=\d)(?:st|nd|rd|th)\b", re.IGNORECASE)
_INITIALS = re.compile(r"\b(?:[A-Za-z]\.)+[A-Za-z]\b\.?")  # U.S.
_DECIMAL = re.compile(r"(\d+\.\d+)")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_SENTENCE = re.compile(r"\s*.*?\w[^\w\s]*[.!?](?=\s)", re.DOTALL)
_ITEMS = re.compile(r",|;|&|\band\b|\bor\b")

# Name → the direction in which the feature may move the verdict: 1 towards correct, -1 towards wrong, 0 both.
FEATURES = {
    "words": 1,  # share of the gold's new words in the parts of the answer that are not copied from the question
    "words_anywhere": 1,  # share of the gold's new words in the whole answer
    "weight": 1,  # like "words", but rare words weigh more and similar words count in part
    "letters": 1,  # share of the gold's letter 4-grams
    "worst_item": 1,  # if the gold is a list: the score of the item that is matched worst
    "missing_numbers": -1,  # count of the gold's numbers that the answer lacks
    "precision": 1,  # share of the first sentence's new words that are the gold's
    "other_names": -1,  # capitalized words of the first sentence that neither the gold nor the question has
    "echo": 0,  # share of the question's words that the answer repeats
    "rarity": 0,  # mean rarity of the gold's new words
    "names": 0,  # share of the gold's words that are capitalized
}


def features(prediction: str, gold: str, question: str, common: Mapping[str, float]) -> list[float]:
    """Returns the features in the order of FEATURES; `common`: stem → share of titles, 0 for stems it lacks."""
    predicted, query, target = words(prediction), words(question), words(gold)
    predicted_stems, query_stems = [stem(word) for word in predicted], [stem(word) for word in query]
    stems, known = set(predicted_stems), set(query_stems)
    new = new_words(target, known)
    # A choice ("internal or external?") is answered with words of the question; otherwise copied words are no answer.
    fresh = list(predicted)
    if "or" not in query:
        fresh = [word for word, keep in zip(predicted, not_copied(predicted_stems, query_stems)) if keep]
    fresh_stems, acronyms = {stem(word) for word in fresh}, _acronym_words(prediction, gold)
    scores = [1.0 if word in acronyms else _match(word, set(fresh), fresh_stems) for word in new]
    rarity = [1.0 - common.get(stem(word), 0.0) for word in new]
    weights = [_LEAST_WEIGHT + value for value in rarity]
    precision, other_names = _first_sentence(prediction, target, known)
    values = {
        "words": _mean([score == 1 for score in scores]),
        "words_anywhere": _mean([word in acronyms or stem(word) in stems for word in new]),
        "weight": sum(score * weight for score, weight in zip(scores, weights)) / max(sum(weights), 1e-9),
        "letters": _letters(target, predicted),
        "worst_item": _worst_item(gold, set(predicted), stems),
        "missing_numbers": _missing_numbers(predicted, target, query),
        "precision": precision,
        "other_names": other_names,
        "echo": _mean([stem(word) in stems for word in query if word not in SMALL_WORDS]),
        "rarity": _mean(rarity),
        "names": _mean([word[0].isupper() and word.lower() not in SMALL_WORDS for word in _cased_words(gold)]),
    }
    return [round(float(values[name]), 3) for name in FEATURES]


def new_words(target: Sequence[str], known: Collection[str]) -> list[str]:
    """Removes small words, titles and words with a known stem from the gold answer, unless nothing else is left."""
    content = [word for word in target if word not in SMALL_WORDS] or list(target)
    content = [word for word in content if word not in _TITLES] or content
    return [word for word in content if stem(word) not in known] or content


@lru_cache(maxsize=10_000)
def words(text: str) -> tuple[str, ...]:
    """Lower-case words without accents, articles, possessives; numbers in digits ("1,200", "third", "twenty-one")."""
    return tuple(NUMBER_WORDS.get(word, word) for word in map(str.casefold, _cased_words(text)))


@lru_cache(maxsize=10_000)
def _cased_words(text: str) -> tuple[str, ...]:
    text = CONTRACTED_NOT.sub(" not", without_accents(plain(text)))
    text = _UNSAID.sub("", text)
    text = _INITIALS.sub(lambda match: match.group().replace(".", ""), text)
    text = text.replace("%", " percent ").replace("per cent", "percent")
    text = in_digits(text)
    parts = _DECIMAL.split(text)  # every second part is a number
    found = (word for i, part in enumerate(parts) for word in ((part,) if i % 2 else text_words(part)))
    return tuple(word for word in found if word.lower() not in ("a", "an", "the"))


def in_digits(text: str) -> str:
    """The text with "twenty-one" and the like in digits."""
    return _TWENTY_ONE.sub(lambda match: str(sum(int(NUMBER_WORDS[word.lower()]) for word in match.groups())), text)


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """The stem with which the grader's numbers were fitted; `text.stem`, which retrieval needs, keeps more letters."""
    if word[0].isdigit():
        return word
    if len(word) > 3 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return word[:_STEM_LENGTH]


@lru_cache(maxsize=200_000)
def similarity(a: str, b: str) -> float:
    """Returns the similarity of two words in [0, 1], from a common prefix, common letter pairs, or inclusion."""
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


def not_copied(predicted: Sequence[str], query: Sequence[str]) -> list[bool]:
    """Returns False for words in runs that the question also has: "The name of Queen's first album is"."""
    runs = {tuple(query[i : i + _COPIED]) for i in range(len(query) - _COPIED + 1)}
    fresh = [True] * len(predicted)
    for i in range(len(predicted) - _COPIED + 1):
        if tuple(predicted[i : i + _COPIED]) in runs:
            fresh[i : i + _COPIED] = [False] * _COPIED
    return fresh


def _acronym_words(prediction: str, gold: str) -> set[str]:
    """Returns gold words that the prediction abbreviates to an acronym, and gold acronyms that it spells out."""
    predicted, target = _cased_words(prediction), _cased_words(gold)
    names = [word for word in target if word[0].isupper()]
    initials = "".join(word[0] for word in names)
    matched = set()
    for word in predicted:
        if 2 <= len(word) <= 6 and word.isupper() and word in initials:
            start = initials.index(word)
            matched |= {name.lower() for name in names[start : start + len(word)]}
    acronyms = [word for word in names if 2 <= len(word) <= 6 and word.isupper()]
    if acronyms:
        all_initials = "".join(word[0] for word in predicted).upper()
        content_initials = "".join(word[0] for word in predicted if word.lower() not in SMALL_WORDS).upper()
        matched |= {word.lower() for word in acronyms if word in all_initials or word in content_initials}
    return matched


def _letters(target: Sequence[str], predicted: Sequence[str]) -> float:
    gold, text = f" {' '.join(target)} ", f" {' '.join(predicted)} "
    grams = {gold[i : i + _GRAM] for i in range(len(gold) - _GRAM + 1)}
    return _mean([gram in text for gram in grams])


def _worst_item(gold: str, predicted: Collection[str], stems: Collection[str]) -> float:
    items = [[word for word in words(item) if word not in SMALL_WORDS] for item in _ITEMS.split(gold)]
    return min((max(_match(word, predicted, stems) for word in item) for item in items if item), default=0.0)


def _match(word: str, predicted: Collection[str], stems: Collection[str]) -> float:
    """Returns 1 if the prediction has the word, else the similarity of its most similar word."""
    return 1.0 if stem(word) in stems else max((similarity(word, other) for other in predicted), default=0.0)


def _missing_numbers(predicted: Sequence[str], target: Sequence[str], query: Sequence[str]) -> int:
    numbers, known = _numbers(target), _numbers(query)
    return len((numbers - known or numbers) - _numbers(predicted))


def _numbers(text: Sequence[str]) -> set[float]:
    """Returns the numbers of a text: one number for "7 million", and 1970 for "1970s"."""
    matches = [(i, _NUMBER.match(word)) for i, word in enumerate(text) if word[0].isdigit()]
    return {
        float(match.group()) * SCALES.get(text[i + 1] if i + 1 < len(text) else "", 1) for i, match in matches if match
    }


def _first_sentence(prediction: str, target: Sequence[str], known: Collection[str]) -> tuple[float, int]:
    """Looks at the new words of the first sentence: returns the gold's share, and the number of other names."""
    match = _SENTENCE.match(prediction)
    sentence = match.group() if match else prediction
    pairs = list(zip(words(sentence), _cased_words(sentence)))
    new = [
        (i, word, cased) for i, (word, cased) in enumerate(pairs) if word not in SMALL_WORDS and stem(word) not in known
    ]
    other = [(i, cased) for i, word, cased in new if max((similarity(word, w) for w in target), default=0) < _SAME]
    return 1 - len(other) / max(len(new), 1) if new else 0.0, sum(i > 0 and cased[0].isupper() for i, cased in other)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
