"""Trials of a round → which edits are reinforced, which style is best, how reliable the reward is. Pure arithmetic.

The reward is the mean log-probability of a context's gold answers, one number per seed. The gain of an edit is its
reward minus that of the passage alone, seed by seed; its merit is its reward minus that of its control, which studies
all that is studied beside the edit. Seeds differ in nothing that an edit could be praised for, so the differences
between them are noise, and the correlation between them over all edits is the reliability of the reward (of SEAL's
five yes-or-no answers: .13).

`when` names the measurement: `first`, after the first epochs, when all edits are compared, or `gold_logprob`, at the
end, which stopped edits do not reach. Answers cost most and tell least (docs/LOG.md, study 12): no selection uses
`accuracy`, and it is measured for only one seed except in audited contexts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

PASSAGE = "passage"
"""Name of the control that studies the passage alone."""


@dataclass(frozen=True)
class Outcome:
    """What the adapters of one edit, or of one control, achieved: one number per seed."""

    style: str
    """The style of the edit, or the name of the control."""
    first: Sequence[float] = ()
    """Mean log-probability of the gold answers after the first epochs; empty if there was nothing to study, or if
    training diverged."""
    gold_logprob: Sequence[float] = ()
    """The same at the end; empty also if the edit was stopped."""
    accuracy: Sequence[float | None] = ()
    """Share of right answers, for the seeds that answered; None if the judge scored none of them."""
    tokens: int = 0
    """Tokens trained on, by all seeds together."""
    spared: int = 0
    """Tokens that stopping the edit saved."""


@dataclass(frozen=True)
class ContextTrial:
    """One context: what the untouched model, the controls and the edits achieve."""

    task: str
    """Task.key."""
    id: str
    context: str
    """Passage.id."""
    title: str
    audited: bool
    """True if no edit was stopped."""
    untouched: Outcome
    """One number, as there are no seeds."""
    controls: dict[str, Outcome]
    candidates: Sequence[Outcome]
    """One per edit, in the order of the edits."""
    seconds_comparing: float = 0.0
    seconds: float = 0.0
    seconds_writing: float = 0.0

    @classmethod
    def from_json(cls, record: dict) -> ContextTrial:
        """From its `asdict`."""
        outcomes = {
            "untouched": Outcome(**record["untouched"]),
            "controls": {name: Outcome(**control) for name, control in record["controls"].items()},
            "candidates": [Outcome(**candidate) for candidate in record["candidates"]],
        }
        return cls(**record | outcomes)


def gains(trial: ContextTrial, edit: Outcome, when: str) -> list[float]:
    """Per seed, nats per token above the passage alone."""
    return _differences(edit, trial.controls[PASSAGE], when)


def merits(trial: ContextTrial, edit: Outcome, when: str) -> list[float]:
    """Per seed, nats per token above the control: `b` for the style `a+b`, otherwise the passage alone."""
    return _differences(edit, trial.controls[_control(edit)], when)


def _control(edit: Outcome) -> str:
    return edit.style.partition("+")[2] or PASSAGE


def _has_controls(trial: ContextTrial, edit: Outcome, when: str) -> bool:
    """Whether both controls of an edit were measured: where the training of one diverged, no gain is known."""
    return all(getattr(trial.controls[name], when) for name in (PASSAGE, _control(edit)))


def _differences(edit: Outcome, control: Outcome, when: str) -> list[float]:
    return [a - b for a, b in zip(getattr(edit, when), getattr(control, when))]


def noise(trials: Sequence[ContextTrial]) -> dict[str, float]:
    """Style → standard error of an edit's mean merit at the end, from the variance between its seeds, pooled over all
    edits of the style."""
    merits_of: dict[str, list[list[float]]] = {}
    for t in trials:
        for edit in t.candidates:
            of_edit = merits(t, edit, "gold_logprob")  # empty where the edit or its control was not measured
            merits_of.setdefault(edit.style, []).extend([of_edit] if of_edit else [])
    return {
        style: math.sqrt(np.mean(np.var(rows, axis=1, ddof=1)) / len(rows[0])) if rows else math.inf
        for style, rows in merits_of.items()
    }


def reinforced(trial: ContextTrial, errors: dict[str, float], beyond: float) -> list[int]:
    """Positions of the edits that reached the end and exceed the untouched model, the passage alone and their control,
    each by more than `beyond` standard errors; none whose controls were not measured."""
    positions = []
    for i, edit in enumerate(trial.candidates):
        if not (edit.gold_logprob and _has_controls(trial, edit, "gold_logprob")):
            continue
        least = min(
            _mean(edit.gold_logprob) - trial.untouched.gold_logprob[0],
            _mean(gains(trial, edit, "gold_logprob")),
            _mean(merits(trial, edit, "gold_logprob")),
        )
        if least > beyond * errors[edit.style]:
            positions.append(i)
    return positions


def ranking(trials: Sequence[ContextTrial]) -> list[dict]:
    """Styles by their mean gain after the first epochs, the best first. An unusable edit gains nothing; one whose
    controls were not measured does not count. A style without any edit that counts has a gain of 0."""
    by_style: dict[str, list[tuple[float, float]]] = {}
    for t in trials:
        for edit in t.candidates:
            pairs = by_style.setdefault(edit.style, [])
            if not _has_controls(t, edit, "first"):
                continue
            pairs.append(
                (_mean(gains(t, edit, "first")), _mean(merits(t, edit, "first"))) if edit.first else (0.0, 0.0)
            )
    rows = []
    for style, pairs in by_style.items():
        gain, merit = map(float, np.mean(pairs or [(0.0, 0.0)], 0))
        error = merit_error = None
        if len(pairs) > 1:
            error, merit_error = map(float, np.std(pairs, 0, ddof=1) / math.sqrt(len(pairs)))
        row = {"style": style, "edits": len(pairs), "gain": gain, "error": error}
        rows.append(row | {"merit": merit, "merit_error": merit_error})
    return sorted(rows, key=lambda row: -row["gain"])


def reliability(trials: Sequence[ContextTrial], when: str) -> dict:
    """Correlation between seeds over all edits, also within contexts: of the reward of one run, and of the mean over
    all seeds (Spearman–Brown). `when` may also be `accuracy`, the published reward."""
    rows, groups = [], []
    for i, t in enumerate(trials):
        control = getattr(t.controls[PASSAGE], when)
        for edit in t.candidates:
            values = getattr(edit, when)
            if len(values) == len(control) > 1 and None not in (*values, *control):
                rows.append(gains(t, edit, when))
                groups.append(i)
    one = within = None
    if len(rows) >= 3:
        values, groups = np.array(rows), np.array(groups)
        centred = values.copy()
        for group in set(groups.tolist()):
            centred[groups == group] -= values[groups == group].mean(0)
        one, within = _between_seeds(values), _between_seeds(centred)
    return {
        "candidates": len(rows),
        "one_run": one,
        "mean_of_seeds": _spearman_brown(one, len(rows[0]) if rows else 0),
        "within_one_run": within,
        "within_mean_of_seeds": _spearman_brown(within, len(rows[0]) if rows else 0),
    }


def cost_of_stopping(trials: Sequence[ContextTrial], survivors: int) -> dict:
    """From the contexts in which no edit was stopped: how often the best edit would have survived, and the mean gain
    that stopping would have lost."""
    survived, lost = 0, []
    for t in trials:
        pairs = [
            (_mean(gains(t, edit, "first")), _mean(gains(t, edit, "gold_logprob")))
            for edit in t.candidates
            if edit.first
            and edit.gold_logprob
            and all(_has_controls(t, edit, when) for when in ("first", "gold_logprob"))
        ]
        if not t.audited or len(pairs) <= survivors:
            continue
        best = max(end for _, end in pairs)
        best_survivor = max(end for _, end in sorted(pairs, reverse=True)[:survivors])
        survived += best_survivor == best
        lost.append(best - best_survivor)
    return {
        "contexts": len(lost),
        "best_survives": survived / len(lost) if lost else None,
        "gain_lost": _mean(lost) if lost else None,
    }


def levels(outcomes: Iterable[Outcome]) -> dict[str, float | None]:
    """Mean over contexts of the mean over seeds."""
    outcomes = list(outcomes)

    def mean(name: str) -> float | None:
        scored = [[value for value in getattr(outcome, name) if value is not None] for outcome in outcomes]
        means = [sum(values) / len(values) for values in scored if values]
        return sum(means) / len(means) if means else None

    return {"gold_logprob": mean("gold_logprob"), "accuracy": mean("accuracy")}


def diversity(texts: Sequence[str]) -> float:
    """Share of distinct word triples among all word triples of the texts; 1 if there are none."""
    triples = [
        tuple(words[i : i + 3]) for text in texts for words in [text.casefold().split()] for i in range(len(words) - 2)
    ]
    return len(set(triples)) / len(triples) if triples else 1.0


def _between_seeds(values: np.ndarray) -> float | None:
    """Mean correlation between two columns, over all pairs of columns."""
    correlations = [
        np.corrcoef(values[:, a], values[:, b])[0, 1]
        for a, b in combinations(range(values.shape[1]), 2)
        if values[:, [a, b]].std(0).all()
    ]
    return float(np.mean(correlations)) if correlations else None


def _spearman_brown(one: float | None, runs: int) -> float | None:
    """Reliability of the mean of so many runs; None if runs disagree."""
    return runs * one / (1 + (runs - 1) * one) if one is not None and one > 0 else None


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
