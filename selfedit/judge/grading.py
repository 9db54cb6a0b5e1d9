"""Graders: what a model said, and the gold answers → right or wrong, or an overlap in [0, 1]. No language model.

`is_correct` stands in for SEAL's GPT-4.1 judge (yes or no: extra words allowed, the gold fully conveyed and not
contradicted, blank is wrong). The idea: rules for what must hold (the gold itself is right; blank, denied, echoed
and endlessly guessing answers are wrong), then shallow trees over the few numbers of features.py, each of which may
move the verdict one way only, so that saying more of the gold never hurts. The trees are grader.json, fitted to GPT-4.1's
verdicts by tools/fit_grader.py.

Of 27,669 verdicts (tools/fit_grader.py): across the 70 titles that it was chosen on, each graded by trees that had not
seen it (n = 22,887), accuracy 0.888 and Cohen's kappa 0.768; on the other 17 titles (n = 4,782) 0.885 and 0.756. More
features do not help: what is left is knowledge (the jejunum is a part of the small intestine) and the judge's own
noise. Its verdicts on two nearly equal predictions to one question agree with a kappa of 0.88.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence, Set
from functools import cache
from pathlib import Path

from selfedit.judge.features import NEGATIONS, SMALL_WORDS, features, new_words, not_copied, stem, words

GRADER = Path(__file__).with_name("grader.json")
_MAX_ALTERNATIVES = 15  # a longer enumeration is a guess at everything
_MAX_NAMES = 25  # and numbers; more of them are a guess at everything without commas
_MAX_WORDS_BEFORE_TARGET = 12
_ECHO = 0.7  # share of the question's words that makes an answer without any of its own a repetition
_FIRST_WORDS = re.compile(r"(?:\s*\S+){0,80}")  # later words are rambling; SEAL's answers have at most 64 tokens
_NEXT_SAMPLE = re.compile(r"\n\s*(?:Question:|---)")  # a base model goes on with another question of its own

_OPPOSITES = {  # each with the words of its line
    word: frozenset(line.split()) - {word}
    for line in (
        "north south east west",
        "northern southern eastern western",
        "increase decrease",
        "increased decreased",
        "more less fewer",
        "higher lower",
        "larger smaller",
        "large small",
        "upper lower",
        "internal external",
        "positive negative",
        "public private",
        "male female",
        "men women",
        "before after",
    )
    for word in line.split()
}


def is_correct(prediction: str, answers: Sequence[str], question: str = "") -> bool:
    """Whether the prediction conveys at least one of the gold answers."""
    prediction = cut(prediction)
    return any(_conveys(prediction, cut(gold), question) for gold in answers)


def cut(text: str) -> str:
    """The part that is graded: the first eighty words, and no further question that a base model asks itself."""
    return _FIRST_WORDS.match(_NEXT_SAMPLE.split(text.strip())[0]).group()


def f1(prediction: str, answers: Sequence[str]) -> float:
    """SQuAD's F1: overlap of normalised words with the nearest gold answer, in [0, 1]."""
    return max((_f1(normalize(prediction).split(), normalize(gold).split()) for gold in answers), default=0.0)


def continues_with(prediction: str, answers: Sequence[str]) -> bool:
    """For cloze probes: the continuation says a target, word for word, with at most twelve words before it."""
    said = " ".join(words(prediction))
    for gold in answers:
        target = " ".join(words(gold))
        before, found, _ = f" {said} ".partition(f" {target} ")
        if target and found and len(before.split()) <= _MAX_WORDS_BEFORE_TARGET:
            return True
    return False


def normalize(text: str) -> str:
    """SQuAD's own normalisation: lower case, no punctuation, no articles, single spaces."""
    text = re.sub(r"[!-/:-@\[-`{-~]", "", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _conveys(prediction: str, gold: str, question: str) -> bool:
    said, wanted = words(prediction), words(gold)
    if not wanted:  # a symbol, such as "+"
        symbol = re.escape(gold.strip())
        return bool(symbol) and bool(re.search(rf"\b{symbol}\b" if symbol.isalnum() else symbol, prediction))
    if _bare(said, wanted) == _bare(wanted, wanted):
        return True
    if not said or _guesses_at_everything(prediction, gold):
        return False
    asked = words(question)
    if _echoes(said, asked) or _denied(said, wanted, asked) or _contradicts(set(said), set(wanted)):
        return False
    return _score(features(prediction, gold, question, _fitted()["common"])) > 0


def _bare(said: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Without small words and "the answer is", unless the gold says them."""
    return [word for word in said if word in wanted or word not in SMALL_WORDS | {"answer", "correct"}]


def _score(values: Sequence[float]) -> float:
    """Log odds of right: the sum over all trees of the leaf that the values lead to."""
    total = 0.0
    for node in _fitted()["trees"]:
        while node.__class__ is list:  # faster than isinstance
            feature, threshold, below, above = node
            node = below if values[feature] <= threshold else above
        total += node
    return total


@cache
def _fitted() -> dict:
    """`trees`: a node is [feature, threshold, node if not above it, node if above it], a leaf a number; `common`: see
    features()."""
    return json.loads(GRADER.read_text(encoding="utf-8"))


def _guesses_at_everything(prediction: str, gold: str) -> bool:
    pieces, wanted_pieces = (len(re.split(r"[,;\n]|\band\b|\bor\b", text.strip())) for text in (prediction, gold))
    names, wanted_names = (len(re.findall(r"(?<!\w)[A-Z0-9]", text)) for text in (prediction, gold))
    return pieces > max(_MAX_ALTERNATIVES, 2 * wanted_pieces) or names > max(_MAX_NAMES, 2 * wanted_names)


def _echoes(said: Sequence[str], asked: Sequence[str]) -> bool:
    """Every word is copied from the question, and most of the question is."""
    stems, question_stems = [stem(word) for word in said], [stem(word) for word in asked]
    return len(said) >= _ECHO * len(asked) and not any(not_copied(stems, question_stems))


def _denied(said: Sequence[str], wanted: Sequence[str], asked: Sequence[str]) -> bool:
    """A negation stands just before the gold: "not in Oslo"; but "not Bergen but Oslo" is fine."""
    stems, question_stems = [stem(word) for word in said], [stem(word) for word in asked]
    new = {stem(word) for word in new_words(wanted, set(question_stems))}
    first = next((i for i, found in enumerate(stems) if found in new), 0)
    gold_stems = {stem(word) for word in wanted}
    while first and stems[first - 1] in gold_stems:
        first -= 1
    fresh = not_copied(stems, question_stems)
    near = {said[i] for i in range(max(0, first - 2), first) if fresh[i]}
    if not NEGATIONS & near or NEGATIONS & set(wanted):
        return False
    # What is not so, the answer may say with a "not" of its own: "They did not regard 1 as a number".
    return not NEGATIONS & set(asked) or set(said[:first]) <= SMALL_WORDS | NEGATIONS


def _contradicts(said: Set[str], wanted: Set[str]) -> bool:
    """It says the opposite of a word of the gold, and not the word."""
    return any(_OPPOSITES[word] & said for word in wanted - said if word in _OPPOSITES)


def _f1(said: list[str], gold: list[str]) -> float:
    if not said or not gold:
        return float(said == gold)
    return 2 * sum((Counter(said) & Counter(gold)).values()) / (len(said) + len(gold))
