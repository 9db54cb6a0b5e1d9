"""95 % bootstrap intervals. What is drawn are tasks (documents, passages, memories), each with all that was asked about it.

Percentiles of the draws, as is usual: with n of them about √((n − 1) / n) as wide as they should be, so a tenth too narrow
with five or six. One alone has no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

RESAMPLES = 10_000


def draws(count: int):
    """Places [RESAMPLES, count] of tasks drawn with replacement; the same for all that is drawn together."""
    import numpy as np

    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def spread(values) -> list[float] | None:
    """[low, high] of what the draws gave; None where 2.5 % of them or more gave nothing finite."""
    import numpy as np

    values = np.asarray(values, float)
    if np.isfinite(values).mean() <= 0.975:
        return None
    return [float(v) for v in np.percentile(values[~np.isnan(values)], [2.5, 97.5])]


def bounds(count: int, of: Callable) -> list[float] | None:
    """[low, high] of what `of` makes of the draws from so many tasks; None of one alone, and as `spread`."""
    return spread(of(draws(count))) if count > 1 else None


def mean_interval(values: Sequence[float]) -> tuple[float, list[float] | None]:
    """The mean, and its [low, high]; of one task alone None."""
    import numpy as np

    values = np.asarray(values, float)
    return float(values.mean()), bounds(len(values), lambda picked: values[picked].mean(1))


def paired_interval(ours: Sequence[float], theirs: Sequence[float]) -> list[float | None]:
    """[mean of ours − theirs, low, high], resampled together; of one task alone no bounds."""
    import numpy as np

    mean, own = mean_interval(np.asarray(ours, float) - np.asarray(theirs, float))
    return [mean, *(own or (None, None))]


def mean_ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float | None]:
    """[mean of ours ÷ mean of theirs, low, high], resampled together; no ratio to nothing, and not every ratio has bounds,
    that of one task alone never."""
    import numpy as np

    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    if not b.mean():
        return [None, None, None]
    own = bounds(len(a), lambda picked: divided(a[picked].mean(1), b[picked].mean(1)))
    return [float(a.mean() / b.mean()), *(own or (None, None))]


def divided(above, below):
    """Draw by draw; by nothing: infinite, and of nothing by nothing NaN."""
    import numpy as np

    return np.divide(above, below, out=np.where((above > 0) & (below == 0), np.inf, np.nan), where=below > 0)
