"""How probable is it that an answer is right? A logistic regression over what can be seen without asking a model again.

Fitted on 152 questions with up to three answers each (docs/LOG.md, "Which arm"), and on 960 quotations ("Quoting").
"""

from __future__ import annotations

from math import exp
from pathlib import Path

from selfedit.disk import file_hash
from selfedit.judge.grounding import Grounded
from selfedit.text import words
from selfedit.types import text_hash

CERTAIN = 0.8
"""Under `strict`, an answer must be right with at least this probability. Then 6 % of what a model wrote is wrong, and
.44 of the right answers stay (cross-validated); of what is quoted 7 % and .63."""
FITTED = {
    "constant": -1.98,
    "text": -0.47,
    "both": 0.37,
    "text of several": 1.24,
    "in sentence": 0.96,
    "asked": 4.37,
    "score": -1.84,
}
"""The score counts against an answer only beside `asked`: what fits the question then stands in other sentences."""
ANSWERING = (
    "answers/*.py", "edits/parse.py", "edits/quiz.py", "edits/recitation.py", "judge/grading.py", "judge/grounding.py",
    "libraries.py", "memory/contradict.py", "memory/route.py", "model/chat.py", "text.py",
)  # fmt: skip
"""The files of the package that answers depend on."""
QUOTED = {"constant": -3.26, "asked": 2.3, "margin": 5.22, "score": 4.02}
"""Of a sentence that is quoted."""


def probability(arm: str, answer: Grounded, score: float, max_passages: int) -> float:
    """The probability that an answer is right; 0 if it has no words. `score`: how well the best memory fits the
    question; `max_passages`: that the model reads at most (`Model.max_passages`)."""
    seen = features(arm, answer, score, max_passages)
    fitted = QUOTED if answer.quoted else FITTED
    return 1 / (1 + exp(-sum(weight * seen[name] for name, weight in fitted.items()))) if words(answer.text) else 0.0


def features(arm: str, answer: Grounded, score: float, max_passages: int) -> dict[str, float]:
    """What the probability of an answer depends on, each from 0 to 1 or little more."""
    return {
        "constant": 1.0,
        "text": float(arm == "text"),
        "both": float(arm == "both"),
        "text of several": float(arm == "text" and max_passages > 1),
        "in sentence": answer.support.in_sentence,
        "asked": answer.support.asked,
        "score": score,
        "margin": answer.margin,
    }


def rule_name(*more: str) -> str:
    """Identifies how answers are made and chosen; a change of the code that they depend on changes the name. `more`:
    patterns of other files in the package that they depend on."""
    root = Path(__file__).parents[1]
    files = sorted(path for name in (*ANSWERING, *more) for path in root.glob(name) if path.is_file())
    return text_hash(*(part for path in files for part in (path.name, file_hash(path))))[:8]
