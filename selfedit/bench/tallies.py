"""Right answers of a condition, passage by passage → shares, differences and ratios, with their intervals. Pure arithmetic.

A side is {passage: {"kinds": {kind: [right, scored, dense, asked]}}}; the kind "" is all of them. Two sides are compared
on the passages that both have, drawn together.
"""

from __future__ import annotations

from functools import partial

from selfedit.bench.intervals import bounds, divided


def matrix(side: dict, kind: str = ""):
    """[passages, 4], in the passages' order."""
    import numpy as np

    return np.array([side[p]["kinds"].get(kind, [0, 0, 0.0, 0]) for p in side], float)


def share(tallies) -> float | None:
    return float(tallies[:, 0].sum() / tallies[:, 1].sum()) if tallies[:, 1].sum() else None


def interval(tallies) -> list[float] | None:
    return bounds(len(tallies), partial(_drawn_share, tallies)) if tallies[:, 1].sum() else None


def difference(side: dict, other: dict | None) -> list[float | None] | None:
    """[side − other, low, high]."""
    a, b = _pair(side, other, "")
    if a is None:
        return None
    own = bounds(len(a), lambda picked: _drawn_share(a, picked) - _drawn_share(b, picked))
    return [share(a) - share(b), *(own or (None, None))]


def ratio(side: dict, other: dict | None, kind: str = "") -> list[float | None] | None:
    """[side ÷ other, low, high]."""
    a, b = _pair(side, other, kind)
    if a is None or not share(b):
        return None
    own = bounds(len(a), lambda picked: divided(_drawn_share(a, picked), _drawn_share(b, picked)))
    return [share(a) / share(b), *(own or (None, None))]


def _pair(side: dict, other: dict | None, kind: str):
    """Both sides' tallies of the passages that both have; None where there is nothing to compare."""
    shared = [p for p in side if p in other] if other is not None and other is not side else []
    a, b = (matrix({p: own[p] for p in shared}, kind) for own in (side, other or {}))
    return (a, b) if shared and a[:, 1].sum() and b[:, 1].sum() else (None, None)


def _drawn_share(tallies, picked):
    """Of each draw: the share of right answers; NaN where nothing was scored."""
    drawn = tallies[picked].sum(1)
    return divided(drawn[:, 0], drawn[:, 1])
