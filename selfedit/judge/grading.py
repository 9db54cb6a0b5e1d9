"""Graders: the answer of a model and the gold answers → correct or not, or an overlap in [0, 1]; no language model.

`is_correct` stands in for SEAL's GPT-4.1 judge (yes or no; extra words are allowed, the gold answer must be fully
conveyed and not contradicted, a blank answer is wrong). First come rules for what must hold: the gold answer itself is
correct; blank, negated and echoing answers, and answers that guess at everything, are wrong. Technical answers (names
of code, versions, quantities, yes or no) are decided by technical.py. For all others, shallow decision trees decide
from the few numbers of features.py. Each number may move the verdict in one direction only, so an answer that says more
of the gold is never graded worse. The trees are in grader.json, fitted to verdicts of GPT-4.1 by tools/fit_grader.py.

Agreement with 27,669 verdicts (tools/fit_grader.py): on the 70 titles of the development set, each graded by trees
fitted without it (n = 22,887), accuracy 0.888 and Cohen's kappa 0.768; on the other 17 titles (n = 4,782) 0.886 and
0.758. More features do not help. The remaining disagreement needs knowledge (the jejunum is a part of the small
intestine) or is noise of GPT-4.1, whose verdicts on two nearly equal predictions agree with a kappa of 0.88.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence, Set
from functools import cache
from pathlib import Path

from selfedit.judge.features import NEGATIONS, SMALL_WORDS, features, new_words, not_copied, stem, words
from selfedit.judge.technical import contradicts_yes_or_no, polarity, verdict, yes_or_no

GRADER = Path(__file__).with_name("grader.json")
_MAX_ALTERNATIVES = 15  # a longer enumeration guesses at everything
_MAX_NAMES = 25  # names and numbers; an answer with more of them guesses at everything, even without commas
_MAX_WORDS_BEFORE_TARGET = 12
_ECHO = 0.7  # an answer that copies this share of the question's words, and adds none, is a repetition
_FIRST_WORDS = re.compile(r"(?:\s*\S+){0,80}")  # later words are ignored; SEAL's answers have at most 64 tokens
_NEXT_SAMPLE = re.compile(r"\n\s*(?:Question:|---)")  # base models continue with another question and answer

_OPPOSITES = {  # word → the other words of its line
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
    """Returns whether the prediction conveys at least one of the gold answers."""
    prediction = cut(prediction)
    if contradicts_yes_or_no(prediction, answers):
        return False
    return any(_conveys(prediction, cut(gold), question) for gold in answers)


def cut(text: str) -> str:
    """Returns the part that is graded: the first 80 words, up to the next question that a base model may generate."""
    return _FIRST_WORDS.match(_NEXT_SAMPLE.split(text.strip())[0]).group()


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns SQuAD's F1: the overlap of normalized words with the most similar gold answer, in [0, 1]."""
    return max((_f1(normalize(prediction).split(), normalize(gold).split()) for gold in answers), default=0.0)


def continues_with(prediction: str, answers: Sequence[str]) -> bool:
    """Grades cloze probes: whether the continuation has a gold answer verbatim, with at most 12 words before it."""
    predicted = " ".join(words(prediction))
    for gold in answers:
        target = " ".join(words(gold))
        before, match, _ = f" {predicted} ".partition(f" {target} ")
        if target and match and len(before.split()) <= _MAX_WORDS_BEFORE_TARGET:
            return True
    return False


def normalize(text: str) -> str:
    """Normalizes as SQuAD does: lower case, no punctuation, no articles, single spaces."""
    text = re.sub(r"[!-/:-@\[-`{-~]", "", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _conveys(prediction: str, gold: str, question: str) -> bool:
    predicted, target = words(prediction), words(gold)
    if not target:  # a symbol, such as "+"
        symbol = re.escape(gold.strip())
        return bool(symbol) and bool(re.search(rf"\b{symbol}\b" if symbol.isalnum() else symbol, prediction))
    if _content(predicted, target) == _content(target, target):
        return True
    if not predicted or _guesses_at_everything(prediction, gold):
        return False
    if polar := yes_or_no(gold):
        wanted, fact = polar
        return _conveys(prediction, fact, question) if fact else polarity(prediction, question) == wanted
    decided = verdict(prediction, gold, question)
    if decided is not None:
        return decided
    query = words(question)
    if _echoes(predicted, query) or _negates(predicted, target, query) or _contradicts(set(predicted), set(target)):
        return False
    return _score(features(prediction, gold, question, _fitted()["common"])) > 0


def _content(predicted: Sequence[str], target: Sequence[str]) -> list[str]:
    """Removes small words and "the answer is", unless the gold answer has them."""
    return [word for word in predicted if word in target or word not in SMALL_WORDS | {"answer", "correct"}]


def _score(values: Sequence[float]) -> float:
    """Returns the log odds of correct: the sum over all trees of the leaf that the values lead to."""
    total = 0.0
    for node in _fitted()["trees"]:
        while node.__class__ is list:  # faster than isinstance
            feature, threshold, below, above = node
            node = below if values[feature] <= threshold else above
        total += node
    return total


@cache
def _fitted() -> dict:
    """Returns `trees` and `common` (see `features`).

    A node of a tree is [feature, threshold, node if the value is not above it, node if it is above]; a leaf is a
    number.
    """
    return json.loads(GRADER.read_text(encoding="utf-8"))


def _guesses_at_everything(prediction: str, gold: str) -> bool:
    pieces, wanted_pieces = (len(re.split(r"[,;\n]|\band\b|\bor\b", text.strip())) for text in (prediction, gold))
    names, wanted_names = (len(re.findall(r"(?<!\w)[A-Z0-9]", text)) for text in (prediction, gold))
    return pieces > max(_MAX_ALTERNATIVES, 2 * wanted_pieces) or names > max(_MAX_NAMES, 2 * wanted_names)


def _echoes(predicted: Sequence[str], query: Sequence[str]) -> bool:
    """Returns whether all words are copied from the question, and most words of the question are copied."""
    stems, query_stems = [stem(word) for word in predicted], [stem(word) for word in query]
    return len(predicted) >= _ECHO * len(query) and not any(not_copied(stems, query_stems))


def _negates(predicted: Sequence[str], target: Sequence[str], query: Sequence[str]) -> bool:
    """Returns whether a negation stands just before the gold answer: "not in Oslo", but not "not Bergen but Oslo"."""
    stems, query_stems = [stem(word) for word in predicted], [stem(word) for word in query]
    new = {stem(word) for word in new_words(target, set(query_stems))}
    first = next((i for i, word_stem in enumerate(stems) if word_stem in new), 0)
    target_stems = {stem(word) for word in target}
    while first and stems[first - 1] in target_stems:
        first -= 1
    fresh = not_copied(stems, query_stems)
    near = {predicted[i] for i in range(max(0, first - 2), first) if fresh[i]}
    if not NEGATIONS & near or NEGATIONS & set(target):
        return False
    # A question with a negation may be answered with one: "They did not regard 1 as a number".
    return not NEGATIONS & set(query) or set(predicted[:first]) <= SMALL_WORDS | NEGATIONS


def _contradicts(predicted: Set[str], target: Set[str]) -> bool:
    """Returns whether the answer has the opposite of a word of the gold answer, and lacks the word itself."""
    return any(_OPPOSITES[word] & predicted for word in target - predicted if word in _OPPOSITES)


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    return 2 * sum((Counter(predicted) & Counter(gold)).values()) / (len(predicted) + len(gold))
