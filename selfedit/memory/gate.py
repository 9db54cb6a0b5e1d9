"""What may enter the memory: of a passage's Trials, the best that earns its place, or none; and why, in words.

A trial earns its place if it makes the gold answers of questions it did not study more probable by more than chance
(paired, against the untouched model), answers more of them right, and leaves general behaviour and ability within their bounds. Both are
asked for: a sentence learned by heart becomes probable under any question, also one that does not call it up. An edit
must also beat the passage studied alone; where none does, the passage alone may enter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from selfedit.config import ConsolidateConfig, GateConfig
from selfedit.types import Score, Trial


def decide(trials: Sequence[Trial], before: Score, config: GateConfig) -> tuple[list[Trial], int | None]:
    """The trials with `kept` and `reason` filled in, and the index of the kept one."""
    reasons = [_fault(trial, before, config) for trial in trials]
    fit = [i for i, reason in enumerate(reasons) if not reason]
    best = max(fit, key=lambda i: _merit(trials[i].score), default=None)
    decided = []
    for i, (trial, reason) in enumerate(zip(trials, reasons)):
        if i == best:
            reason = f"best gain: {trial.score.gold_logprob - before.gold_logprob:+.2f} nats a token"
        decided.append(replace(trial, kept=i == best, reason=reason or f"{trials[best].name} gained more"))
    return decided, best


def _merit(score: Score) -> float:
    """Accuracy and the probability of the right answer count alike: both lie in [0, 1]."""
    return score.accuracy + math.exp(score.gold_logprob)


def _fault(trial: Trial, before: Score, config: GateConfig) -> str:
    """Why a trial may not enter; empty if it may."""
    after = trial.score
    if after.gold_logprob is None or before.gold_logprob is None:
        return "no question to judge it by"
    gain, margin = _paired(after.logprobs, before.logprobs)
    if gain < config.min_gain or gain - margin <= 0:
        return f"gained {gain:+.2f} ± {margin:.2f} nats a token, needs {config.min_gain:+.2f} beyond chance"
    if after.accuracy <= before.accuracy:
        return f"answers no more questions: {before.accuracy:.0%} → {after.accuracy:.0%}"
    return general_fault(trial.general_change, trial.general_lost, config)


def general_fault(change: float | None, lost: float | None, config: GateConfig | ConsolidateConfig) -> str:
    """Why an adapter harms what is not its business (None: not measured); empty if it does not."""
    if change is not None and change > config.max_general_change:
        return f"changes general behaviour by {change:.2f} nats a token, over {config.max_general_change:.2f}"
    if lost is not None and lost > config.max_general_lost:
        return f"ends {lost:.0%} fewer everyday sentences right, over {config.max_general_lost:.0%}"
    return ""


def _paired(after: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """Mean difference and the half-width of its 90 % normal interval; a single question has none to speak of."""
    differences = [a - b for a, b in zip(after, before)]
    mean, n = sum(differences) / len(differences), len(differences)
    if n < 2:
        return mean, 0.0
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return mean, 1.645 * math.sqrt(variance / n)
