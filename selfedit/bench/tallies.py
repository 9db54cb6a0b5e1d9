"""Right answers of a condition, passage by passage → shares, differences and ratios, with their intervals. Pure arithmetic.

A side is {passage: {"kinds": {kind: [right, scored, dense, asked]}}}; the kind "" is all of them. Two sides are compared
on the passages that both have, drawn together.
"""

from __future__ import annotations

from selfedit.bench.intervals import divided, draws, spread


def matrix(side: dict, kind: str = ""):
    """[passages, 4], in the passages' order."""
    import numpy as np

    return np.array([side[p]["kinds"].get(kind, [0, 0, 0.0, 0]) for p in side], float)


def share(tallies) -> float | None:
    return float(tallies[:, 0].sum() / tallies[:, 1].sum()) if tallies[:, 1].sum() else None


def interval(tallies) -> list[float] | None:
    return spread(_drawn_share(tallies)) if tallies[:, 1].sum() else None


def difference(side: dict, other: dict | None) -> list[float | None] | None:
    """[side − other, low, high]."""
    a, b = _pair(side, other, "")
    return None if a is None else [share(a) - share(b), *(spread(_drawn_share(a) - _drawn_share(b)) or (None, None))]


def ratio(side: dict, other: dict | None, kind: str = "") -> list[float | None] | None:
    """[side ÷ other, low, high]."""
    a, b = _pair(side, other, kind)
    return None if a is None or not share(b) else [share(a) / share(b), *(spread(divided(_drawn_share(a), _drawn_share(b))) or (None, None))]


def _pair(side: dict, other: dict | None, kind: str):
    """Both sides' tallies of the passages that both have; None where there is nothing to compare."""
    shared = [p for p in side if p in other] if other is not None and other is not side else []
    a, b = (matrix({p: own[p] for p in shared}, kind) for own in (side, other or {}))
    return (a, b) if shared and a[:, 1].sum() and b[:, 1].sum() else (None, None)


def _drawn_share(tallies):
    """Of each draw: the share of right answers; NaN where nothing was scored, and of one passage alone, which has no interval."""
    drawn = tallies[draws(len(tallies))].sum(1) * (len(tallies) > 1)
    return divided(drawn[:, 0], drawn[:, 1])
