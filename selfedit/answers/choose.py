"""Which of several answers is right? A logistic regression over what can be seen without asking a model again.

Fitted on public data (docs/LOG.md, "Which arm"); the calibration is in `docs/results/`.
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

CERTAIN = 0.6
"""Under `strict`, an answer must be right with at least this probability."""
FITTED = {
    "constant": -4.7,
    "text": 0.05,
    "both": 0.3,
    "text of several": 1.4,
    "in sentence": 1.1,
    "asked": 3.6,
    "agrees": 1.1,
    "length": 0.6,
    "score": -1.2,
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
