"""Decides which of a passage's trials enters the memory: the best one that passes every test, or none; and says why.

A trial passes if it makes the gold answers of questions that it did not study more probable by more than chance
(paired, against the untouched model), answers more of them correctly, and keeps the changes of general behaviour and
ability within their bounds. Several more right answers are beyond chance, too, however much the probabilities differ.
Both probability and answers are required: a sentence learned by heart becomes probable after any question, including
one that does not retrieve it. A trial may compete with the passage studied alone; if no edit beats that, the passage
alone may enter. A trial that learned to recite its passage must recite it, and the passage must have become more
probable: what it recites is read like the text itself, so it may enter where no question was found to judge it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, stdev

from selfedit.config import ConsolidateConfig, GateConfig
from selfedit.types import Score, Trial


def decide(trials: Sequence[Trial], before: Score, config: GateConfig) -> tuple[list[Trial], int | None]:
    """Returns the trials with `kept` and `reason` filled in, and the index of the kept one."""
    reasons = [_fault(trial, before, config) for trial in trials]
    fit = [i for i, reason in enumerate(reasons) if not reason]
    best = max(fit, key=lambda i: _merit(trials[i].score), default=None)
    decided = []
    for i, (trial, reason) in enumerate(zip(trials, reasons)):
        if i == best:
            answers = f"answers {trial.score.right} of {before.n} right, {before.right} before"
            gain = f"{_gained(trial.score, before):+.2f} nats"
            reason = f"{answers}; gold answers {gain}"
            if trial.share_recited is not None:
                reason = f"recites {trial.share_recited:.0%} of the text ({gain} per token); {answers}"
        elif best is not None and not reason:
            equal = trial.score.accuracy == trials[best].score.accuracy
            reason = f"{trials[best].name} {'gained more' if equal else 'answers more'}"
        decided.append(replace(trial, kept=i == best, reason=reason))
    return decided, best


def _merit(score: Score) -> tuple[float, float]:
    """What a user would see decides. The probability of the gold answer only breaks ties: it is lower for a model that
    answers in sentences, whether they are right or not."""
    assert score.gold_logprob is not None  # only of trials without a fault
    return score.accuracy or 0.0, score.gold_logprob  # no question judges a passage that is only recited


def _fault(trial: Trial, before: Score, config: GateConfig) -> str:
    """Returns why a trial may not enter; empty if it may."""
    after = trial.score
    if trial.share_recited is not None:
        fault = _recitation_fault(trial, before, config)
        return fault or general_fault(trial.general_change, trial.general_lost, config)
    if None in (after.gold_logprob, before.gold_logprob) or after.accuracy is None or before.accuracy is None:
        return "no question to judge it by"
    gain, margin = _paired(after.logprobs, before.logprobs)
    more_right = after.right - before.right
    if gain < config.min_gain or (gain - margin <= 0 and more_right < config.sure_answers):
        return f"gained {gain:+.2f} ± {margin:.2f} nats per token, needs {config.min_gain:+.2f} beyond chance"
    if after.accuracy <= before.accuracy:
        return f"answers no more questions: {before.accuracy:.0%} → {after.accuracy:.0%}"
    return general_fault(trial.general_change, trial.general_lost, config)


def _recitation_fault(trial: Trial, before: Score, config: GateConfig) -> str:
    assert trial.share_recited is not None and before.gold_logprob is not None
    if trial.share_recited < config.min_recited:
        return f"recites {trial.share_recited:.0%} of the text, needs {config.min_recited:.0%}"
    if -before.gold_logprob < config.min_gain:  # of which a perfect recitation can gain no more
        return f"the text was known: the untouched model says it at {before.gold_logprob:.2f} nats per token"
    if before.n and not any(trial.score.correct):
        return f"answers none of {before.n} questions"
    return ""


def general_fault(change: float | None, lost: float | None, config: GateConfig | ConsolidateConfig) -> str:
    """Returns how an adapter harms unrelated behaviour; empty if it does not. None means not measured."""
    if change is not None and exceeds(change, config.max_general_change):
        return f"changes general behaviour by {change:.2f} nats per token, over {config.max_general_change:.2f}"
    if lost is not None and exceeds(lost, config.max_general_lost):
        return f"ends {lost:.0%} fewer everyday sentences right, over {config.max_general_lost:.0%}"
    return ""


def _gained(after: Score, before: Score) -> float:
    """Nats per token of the gold answers, on average."""
    assert after.gold_logprob is not None and before.gold_logprob is not None  # both are scored, or there is a fault
    return after.gold_logprob - before.gold_logprob


def exceeds(value: float, bound: float) -> bool:
    """Whether a value is over its bound by more than floating-point rounding, by which 39/40 − 33/40 is over .15."""
    return value > bound + 1e-9


def _paired(after: Sequence[float], before: Sequence[float]) -> tuple[float, float]:
    """Returns the mean difference and the half-width of its 90 % normal interval (0 for a single question)."""
    differences = [a - b for a, b in zip(after, before)]
    n = len(differences)
    return mean(differences), 1.645 * stdev(differences) / math.sqrt(n) if n > 1 else 0.0
