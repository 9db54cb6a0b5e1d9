"""Numbers of correct answers per passage → accuracies, differences and ratios, each with its interval.

One side of a comparison is {passage: {"kinds": {kind: [correct, scored, log-probability, questions]}}}, where each list
is summed over questions and the kind "" counts all questions. Two sides are compared on the passages that both have,
and these are resampled in pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from selfedit.bench.intervals import bootstrap, divide


def add(side: dict, passage: str, kinds: Iterable[str], verdict: bool | None, gold_logprob: float = 0.0) -> None:
    """Counts an answer for its passage, under all of `kinds` and under "". `verdict`: None if it was not scored."""
    of_passage = side.setdefault(passage, {"kinds": {}})["kinds"]
    for kind in {"", *kinds}:
        tally = of_passage.setdefault(kind, [0, 0, 0.0, 0])
        for i, value in enumerate((bool(verdict), verdict is not None, gold_logprob, 1)):
            tally[i] += value


def matrix(side: dict, kind: str = ""):
    """Returns the tallies [passages, 4] of one kind of question, in the order of the passages."""
    import numpy as np

    return np.array([side[p]["kinds"].get(kind, [0, 0, 0.0, 0]) for p in side], float)


def share(tallies) -> float | None:
    return float(tallies[:, 0].sum() / tallies[:, 1].sum()) if tallies[:, 1].sum() else None


def interval(tallies) -> list[float] | None:
    return bootstrap(len(tallies), partial(_resampled_share, tallies)) if tallies[:, 1].sum() else None


def difference(side: dict, other: dict | None) -> list[float | None] | None:
    """Returns [side − other, low, high] of the accuracy."""
    a, b = _pair(side, other, "")
    if a is None:
        return None
    bounds = bootstrap(len(a), lambda picked: _resampled_share(a, picked) - _resampled_share(b, picked))
    return [share(a) - share(b), *(bounds or (None, None))]


def ratio(side: dict, other: dict | None, kind: str = "") -> list[float | None] | None:
    """Returns [side ÷ other, low, high] of the accuracy."""
    a, b = _pair(side, other, kind)
    if a is None or not share(b):
        return None
    bounds = bootstrap(len(a), lambda picked: divide(_resampled_share(a, picked), _resampled_share(b, picked)))
    return [share(a) / share(b), *(bounds or (None, None))]


def _pair(side: dict, other: dict | None, kind: str):
    """Returns the tallies of both sides for the passages that both have; (None, None) if nothing can be compared."""
    shared = [p for p in side if p in other] if other is not None and other is not side else []
    a, b = (matrix({p: passages[p] for p in shared}, kind) for passages in (side, other or {}))
    return (a, b) if shared and a[:, 1].sum() and b[:, 1].sum() else (None, None)


def _resampled_share(tallies, picked):
    """Returns the accuracy of each resample [RESAMPLES]; NaN where no answer was scored."""
    sums = tallies[picked].sum(1)
    return divide(sums[:, 0], sums[:, 1])
