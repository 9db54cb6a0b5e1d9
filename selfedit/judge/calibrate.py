"""Verdicts of a trusted judge → the agreement of another judge with them: Cohen's kappa, accuracy, confusion matrix.

In: JSON lines (also gzipped) of {title, question, gold, prediction, correct}, and a judge; nothing is fitted here.
Lines with the same title are about the same text and not independent, so the interval of kappa is a percentile
bootstrap over titles. Lines that the judge leaves unscored are counted but not compared.

grader.json records hashes of the titles that the offline grader was fitted on. On these titles its agreement is higher
than on new ones; `not_fitted_on` leaves them out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePath
from time import perf_counter

import numpy as np

from selfedit.errors import UnscoredError
from selfedit.judge.grading import GRADER
from selfedit.tasks.records import field, read_jsonl
from selfedit.types import Judge, Progress, Question, no_progress, stable_seed

CELLS = ("true_positive", "false_positive", "false_negative", "true_negative")
"""Positive: the judge says that the answer is correct. True: the trusted verdict agrees."""
RESAMPLES = 2000
_LINES_AT_ONCE = 256


@dataclass(frozen=True)
class Verdict:
    """An answer and the verdict of the trusted judge."""

    title: str
    question: Question
    prediction: str
    correct: bool


def read_verdicts(path: str | PurePath) -> list[Verdict]:
    """Raises DocumentError that names the line and the missing field."""
    return [_verdict(item, where) for where, item in read_jsonl(path)]


def not_fitted_on(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Returns the verdicts on titles that the offline grader was not fitted on."""
    fitted = set(json.loads(GRADER.read_text(encoding="utf-8")).get("fitted_titles", [])) if GRADER.exists() else set()
    return [verdict for verdict in verdicts if title_hash(verdict.title) not in fitted]


def title_hash(title: str) -> str:
    """Returns the identifier of a title in grader.json."""
    return sha256(title.encode(errors="replace")).hexdigest()[:8]


def calibrate(verdicts: Sequence[Verdict], judge: Judge, progress: Progress = no_progress) -> dict:
    """Returns the agreement of a judge with the trusted verdicts.

    `n` and `titles` count what was scored. `kappa` is None if all lines are in one cell, where it is not defined;
    `ci95`, its interval, is also None if there is a single title. Raises UnscoredError if nothing was scored.
    """
    start, judged = perf_counter(), []
    for low in range(0, len(verdicts), _LINES_AT_ONCE):
        judged += judge([(v.question, v.prediction) for v in verdicts[low : low + _LINES_AT_ONCE]])
        progress("judge", len(judged), len(verdicts))
    seconds = perf_counter() - start
    scored = [(verdict, correct) for verdict, correct in zip(verdicts, judged) if correct is not None]
    if not scored:
        raise UnscoredError(
            f"the judge gave no verdict on any of {len(verdicts)} answers; try again when it can be reached"
        )
    counts = _counts(scored)
    total = counts.sum(0)
    return {
        "n": len(scored),
        "titles": len(counts),
        "kappa": _number(kappa(total)),
        "ci95": _interval(counts),
        "accuracy": float((total[0] + total[3]) / len(scored)),
        "confusion": dict(zip(CELLS, map(int, total))),
        "unscored": len(verdicts) - len(scored),
        "seconds": round(seconds, 3),
    }


def kappa(counts: np.ndarray) -> np.ndarray:
    """Returns Cohen's kappa of counts [..., 4] in the order of CELLS; NaN where it is not defined."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    n = tp + fp + fn + tn
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (tp + tn) / n
        by_chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / n**2
        return np.where(by_chance < 1, (observed - by_chance) / (1 - by_chance), np.nan)


def _counts(scored: Sequence[tuple[Verdict, bool]]) -> np.ndarray:
    """Returns counts [titles, 4] in the order of CELLS."""
    rows: dict[str, list[int]] = {}
    for verdict, correct in scored:
        rows.setdefault(verdict.title, [0, 0, 0, 0])[2 * (not correct) + (not verdict.correct)] += 1
    return np.array(list(rows.values()))


def _interval(counts: np.ndarray) -> list[float] | None:
    """Returns the 95 % interval of kappa, with titles resampled."""
    titles = len(counts)
    weights = np.random.default_rng(stable_seed("calibrate")).multinomial(titles, [1 / titles] * titles, RESAMPLES)
    kappas = kappa(weights @ counts)
    kappas = kappas[~np.isnan(kappas)]
    return [float(edge) for edge in np.quantile(kappas, (0.025, 0.975))] if titles > 1 and len(kappas) else None


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _verdict(item: object, where: str) -> Verdict:
    question = Question(field(item, "question", str, where), (field(item, "gold", str, where),))
    prediction = field(item, "prediction", str, where, may_be_empty=True)
    return Verdict(field(item, "title", str, where), question, prediction, field(item, "correct", bool, where))
