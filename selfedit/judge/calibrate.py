"""Verdicts of a trusted judge → how well another judge agrees with them: Cohen's kappa, accuracy, where they differ.

In: JSON lines, also gzipped, of {title, question, gold, prediction, correct}, and a judge, as it is: nothing is fitted
here. The lines of one title are about one text and not independent of each other, so the interval of kappa comes from
drawing whole titles (percentiles of a bootstrap). A line that the judge leaves unscored is counted, not compared.

The titles that the offline grader was fitted on stand in grader.json, if they are recorded, as short hashes; on those
it agrees better than it will elsewhere. `not_fitted_on` leaves them out.
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
"""Positive: the judge says right; true: so does the verdict."""
DRAWS = 2000
_LINES_AT_ONCE = 256


@dataclass(frozen=True)
class Verdict:
    """What a trusted judge found."""

    title: str
    question: Question
    prediction: str
    correct: bool


def read_verdicts(path: str | PurePath) -> list[Verdict]:
    """Raises DocumentError that says which line lacks what."""
    return [_verdict(item, where) for where, item in read_jsonl(path)]


def not_fitted_on(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those of titles that the offline grader has not seen."""
    seen = set(json.loads(GRADER.read_text(encoding="utf-8")).get("fitted_titles", [])) if GRADER.exists() else set()
    return [verdict for verdict in verdicts if title_hash(verdict.title) not in seen]


def title_hash(title: str) -> str:
    """By which grader.json remembers a title."""
    return sha256(title.encode(errors="replace")).hexdigest()[:8]


def calibrate(verdicts: Sequence[Verdict], judge: Judge, progress: Progress = no_progress) -> dict:
    """`n` and `titles` are of what was scored. `kappa` is None if all lines are in one cell (it is not defined there),
    `ci95` (of kappa) also with a single title. Raises UnscoredError if nothing was scored."""
    start, found = perf_counter(), []
    for low in range(0, len(verdicts), _LINES_AT_ONCE):
        found += judge([(v.question, v.prediction) for v in verdicts[low : low + _LINES_AT_ONCE]])
        progress("judge", len(found), len(verdicts))
    seconds = perf_counter() - start
    scored = [(verdict, said) for verdict, said in zip(verdicts, found) if said is not None]
    if not scored:
        raise UnscoredError(
            f"the judge gave no verdict on any of {len(verdicts)} answers; ask again when it can be reached"
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
    """Cohen's kappa of each row of counts `[..., 4]`, in the order of CELLS; NaN where it is not defined."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    n = tp + fp + fn + tn
    with np.errstate(invalid="ignore", divide="ignore"):
        agreed = (tp + tn) / n
        by_chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / n**2
        return np.where(by_chance < 1, (agreed - by_chance) / (1 - by_chance), np.nan)


def _counts(scored: Sequence[tuple[Verdict, bool]]) -> np.ndarray:
    """A row a title, in the columns of CELLS."""
    rows: dict[str, list[int]] = {}
    for verdict, said in scored:
        rows.setdefault(verdict.title, [0, 0, 0, 0])[2 * (not said) + (not verdict.correct)] += 1
    return np.array(list(rows.values()))


def _interval(counts: np.ndarray) -> list[float] | None:
    """95 %, of kappa, by drawing as many titles with replacement."""
    titles = len(counts)
    drawn = np.random.default_rng(stable_seed("calibrate")).multinomial(titles, [1 / titles] * titles, DRAWS)
    kappas = kappa(drawn @ counts)
    kappas = kappas[~np.isnan(kappas)]
    return [float(edge) for edge in np.quantile(kappas, (0.025, 0.975))] if titles > 1 and len(kappas) else None


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _verdict(item: object, where: str) -> Verdict:
    question = Question(field(item, "question", str, where), (field(item, "gold", str, where),))
    prediction = field(item, "prediction", str, where, may_be_empty=True)
    return Verdict(field(item, "title", str, where), question, prediction, field(item, "correct", bool, where))
