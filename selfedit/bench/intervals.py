"""95 % bootstrap intervals. Tasks (documents, passages, memories) are resampled, each with all its questions.

The bounds are percentiles of the resampled statistic, as is usual. With n tasks they are about √((n − 1) / n) as wide
as they should be, that is a tenth too narrow with five or six tasks. A single task has no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

RESAMPLES = 10_000


def resample(count: int):
    """Returns indices [RESAMPLES, count] of tasks drawn with replacement; the same indices for the same count."""
    import numpy as np

    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def percentiles(values) -> list[float] | None:
    """Returns [low, high] of the resampled values, or None if at least 2.5 % of them are not finite."""
    import numpy as np

    values = np.asarray(values, float)
    if np.isfinite(values).mean() <= 0.975:
        return None
    return [float(v) for v in np.percentile(values[~np.isnan(values)], [2.5, 97.5])]


def bootstrap(count: int, statistic: Callable) -> list[float] | None:
    """Returns [low, high] of a statistic of `count` tasks; None for a single task, or as `percentiles` does.

    `statistic`: maps indices [RESAMPLES, count] to values [RESAMPLES].
    """
    return percentiles(statistic(resample(count))) if count > 1 else None


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def mean_interval(values: Sequence[float]) -> tuple[float, list[float] | None]:
    """Returns the mean and its [low, high], which is None for a single task."""
    import numpy as np

    values = np.asarray(values, float)
    return float(values.mean()), bootstrap(len(values), lambda picked: values[picked].mean(1))


def paired_interval(ours: Sequence[float], theirs: Sequence[float]) -> list[float | None]:
    """Returns [mean of ours − theirs, low, high], resampled in pairs; a single task has no bounds."""
    import numpy as np

    difference, bounds = mean_interval(np.asarray(ours, float) - np.asarray(theirs, float))
    return [difference, *(bounds or (None, None))]


def mean_ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float | None]:
    """Returns [mean of ours ÷ mean of theirs, low, high], resampled in pairs.

    All three are None if the mean of theirs is 0; the bounds are None for a single task, or as `percentiles` does.
    """
    import numpy as np

    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    if not b.mean():
        return [None, None, None]
    bounds = bootstrap(len(a), lambda picked: divide(a[picked].mean(1), b[picked].mean(1)))
    return [float(a.mean() / b.mean()), *(bounds or (None, None))]


def divide(above, below):
    """Divides elementwise: x / 0 is infinite for x > 0, and 0 / 0 is NaN."""
    import numpy as np

    return np.divide(above, below, out=np.where((above > 0) & (below == 0), np.inf, np.nan), where=below > 0)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Returns Spearman's correlation, equal values with their mean rank; None if one side has a single value."""
    import numpy as np

    if min(len(set(a)), len(set(b))) < 2:
        return None
    ranks = [[sum(w < v for w in side) + sum(w <= v for w in side) for v in side] for side in (a, b)]
    return float(np.corrcoef(ranks)[0, 1])
