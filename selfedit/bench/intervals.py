"""95 % bootstrap intervals. What is drawn are tasks (documents, passages, memories), each with all that was asked about it."""

from __future__ import annotations

from collections.abc import Sequence

RESAMPLES = 10_000


def draws(count: int):
    """Places [RESAMPLES, count] of tasks drawn with replacement; the same for all that is drawn together."""
    import numpy as np

    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def spread(values) -> list[float] | None:
    """[low, high] of what the draws gave; None where 2.5 % of them or more gave nothing finite."""
    import numpy as np

    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    return [float(v) for v in np.percentile(finite, [2.5, 97.5])] if len(finite) > 0.975 * len(values) else None


def paired_interval(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """[mean of ours − theirs, low, high], resampled together."""
    import numpy as np

    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    return [float(difference.mean()), *spread(difference[draws(len(difference))].mean(1))]


def mean_ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float | None]:
    """[mean of ours ÷ mean of theirs, low, high], resampled together; no ratio to nothing, and not every ratio has bounds."""
    import numpy as np

    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    if not b.mean():
        return [None, None, None]
    picked = draws(len(a))
    return [float(a.mean() / b.mean()), *(spread(divided(a[picked].mean(1), b[picked].mean(1))) or (None, None))]


def divided(above, below):
    """Draw by draw; NaN where there is nothing to divide by."""
    import numpy as np

    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
