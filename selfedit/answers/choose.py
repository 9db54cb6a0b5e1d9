"""Which of several answers is right? A logistic regression over what can be seen without asking a model again.

Fitted on 118 questions with up to three answers each (docs/LOG.md, "Which arm").
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from typing import Protocol

from selfedit.answers.support import Support
from selfedit.disk import file_hash
from selfedit.judge.grading import f1
from selfedit.text import words
from selfedit.types import text_hash

CERTAIN = 0.75
"""Under `strict`, an answer must be right with at least this probability. Then 2 % of what is answered is wrong,
and two fifths of the right answers stay (cross-validated on the same data)."""
FITTED = {
    "constant": -3.72,
    "text": 0.04,
    "both": 0.07,
    "text of several": 1.32,
    "in sentence": 1.01,
    "asked": 3.75,
    "agrees": 1.47,
    "length": 0.35,
    "score": -1.92,
}


class Answered(Protocol):
    """What is known of an arm's answer."""

    @property
    def arm(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def support(self) -> Support | None: ...


def probabilities(answers: Sequence[Answered], score: float, reads: int) -> list[float]:
    """The probability of each answer to one question to be right. `score`: how well the best memory fits the question;
    `reads`: passages that the model reads at most (`Model.reads`)."""
    seen = [features(answer, answers, score, reads) for answer in answers]
    return [1 / (1 + exp(-sum(FITTED[name] * value for name, value in one.items()))) for one in seen]


def features(answer: Answered, answers: Sequence[Answered], score: float, reads: int) -> dict[str, float]:
    """What the probability of an answer depends on; 0 to 1 but for `length`."""
    support, is_text, said = answer.support, answer.arm == "text", words(answer.text)
    others = [other.text for other in answers if other is not answer and words(other.text)]
    return {
        "constant": 1.0,
        "text": float(is_text),
        "both": float(answer.arm == "both"),
        "text of several": float(is_text and reads > 1),
        "in sentence": support.in_sentence if support else 0.0,
        "asked": support.asked if support else 0.0,
        "agrees": max((f1(answer.text, (other,)) for other in others), default=0.0) if said else 0.0,
        "length": log(1 + len(said)),
        "score": score,
    }


def rule_name() -> str:
    """Identifies the rule; a change of its numbers, or of what it sees, changes the name."""
    return text_hash(*(file_hash(Path(__file__).with_name(name)) for name in ("choose.py", "support.py")))[:8]
