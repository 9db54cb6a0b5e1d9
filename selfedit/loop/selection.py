"""Trials of a round → which edits are reinforced, which style pays, how far the reward can be trusted. Pure arithmetic.

A trial is a context's record (restem.py): the log-probability of its gold answers, a mean a seed, under the untouched
model, after its controls (the passage alone; with questions by rule) and after each candidate edit. The gain of a
candidate is its own over the passage's, by seed; its merit is its own over its control's: what stands beside an edit is
not its merit. Seeds differ in nothing that a candidate could be praised for, so what they disagree on is noise, and the
correlation between them over all candidates is the reward's reliability (SEAL's five yes-or-no answers: .13).

`when` is `first`, where all were compared, or `dense`, the end, which those that were stopped have not; answers cost
most and say least (docs/LOG.md, study 12), so `accuracy` has no vote, and one seed but in audited contexts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np


def gains(trial: dict, candidate: dict, when: str) -> list[float]:
    """By seed, nats a token over the passage alone."""
    return _over(candidate[when], trial["controls"]["passage"][when])


def merits(trial: dict, candidate: dict, when: str) -> list[float]:
    """By seed, nats a token over what is studied beside the edit: of `a+b` over the control `b`, of others over the passage."""
    return _over(candidate[when], trial["controls"][candidate["style"].partition("+")[2] or "passage"][when])


def _over(own: Sequence[float], control: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(own, control)]


def noise(trials: Sequence[dict]) -> dict[str, float]:
    """Style → standard error of an edit's mean merit at the end: the spread between its seeds, pooled over the style."""
    by_style: dict[str, list[list[float]]] = {}
    for t in trials:
        for c in t["candidates"]:
            by_style.setdefault(c["style"], []).extend([merits(t, c, "gold_logprob")] if c["gold_logprob"] else [])
    return {
        style: math.sqrt(np.mean(np.var(own, axis=1, ddof=1)) / len(own[0])) if own else math.inf
        for style, own in by_style.items()
    }


def reinforced(trial: dict, errors: dict[str, float], beyond: float) -> list[int]:
    """The candidates that reached the end and there are above the untouched model, the passage alone and their own control,
    each by more than `beyond` standard errors."""
    found = []
    for i, candidate in enumerate(trial["candidates"]):
        if not candidate["gold_logprob"]:
            continue
        over_untouched = _mean(candidate["gold_logprob"]) - trial["untouched"]["gold_logprob"]
        least = min(
            over_untouched,
            _mean(gains(trial, candidate, "gold_logprob")),
            _mean(merits(trial, candidate, "gold_logprob")),
        )
        if least > beyond * errors[candidate["style"]]:
            found.append(i)
    return found


def ranking(trials: Sequence[dict]) -> list[dict]:
    """Styles by their mean gain where all candidates were compared, the best first; an edit that was not usable gained nothing."""
    by_style: dict[str, list[tuple[float, float]]] = {}
    for t in trials:
        for c in t["candidates"]:
            own = (_mean(gains(t, c, "first")), _mean(merits(t, c, "first"))) if c["first"] else (0.0, 0.0)
            by_style.setdefault(c["style"], []).append(own)
    rows = []
    for style, own in by_style.items():
        (gain, merit), errors = (
            np.mean(own, 0),
            np.std(own, 0, ddof=1) / math.sqrt(len(own)) if len(own) > 1 else (None, None),
        )
        named = {"gain": gain, "error": errors[0], "merit": merit, "merit_error": errors[1]}
        rows.append(
            {"style": style, "edits": len(own)}
            | {key: None if value is None else float(value) for key, value in named.items()}
        )
    return sorted(rows, key=lambda row: -row["gain"])


def reliability(trials: Sequence[dict], when: str) -> dict:
    """Correlation between seeds over candidates, of one run's reward and of the mean of all seeds (Spearman–Brown), in all
    and within contexts; `when` may also be `accuracy` (the published reward)."""
    rows, groups = [], []
    for i, t in enumerate(trials):
        for c in t["candidates"]:
            alone = t["controls"]["passage"][when]
            if len(c[when]) == len(alone) > 1 and None not in (*c[when], *alone):
                rows.append(gains(t, c, when))
                groups.append(i)
    if len(rows) < 3:
        return {
            "candidates": len(rows),
            "one_run": None,
            "mean_of_seeds": None,
            "within_one_run": None,
            "within_mean_of_seeds": None,
        }
    values, groups = np.array(rows), np.array(groups)
    centred = values.copy()
    for group in set(groups.tolist()):
        centred[groups == group] -= values[groups == group].mean(0)
    one, within = _between_seeds(values), _between_seeds(centred)
    seeds = values.shape[1]
    return {
        "candidates": len(rows),
        "one_run": one,
        "mean_of_seeds": _spearman_brown(one, seeds),
        "within_one_run": within,
        "within_mean_of_seeds": _spearman_brown(within, seeds),
    }


def cost_of_stopping(trials: Sequence[dict], survivors: int) -> dict:
    """Where none was stopped: how often the best at the end would have survived, and the gain lost where it would not."""
    kept, lost, audited = 0, [], 0
    for t in trials:
        own = [
            (_mean(gains(t, c, "first")), _mean(gains(t, c, "gold_logprob")))
            for c in t["candidates"]
            if c["first"] and c["gold_logprob"]
        ]
        if not t["audited"] or len(own) <= survivors:
            continue
        audited += 1
        going = sorted(own, reverse=True)[:survivors]
        best, best_going = max(end for _, end in own), max(end for _, end in going)
        kept += best_going == best
        lost.append(best - best_going)
    return {
        "contexts": audited,
        "best_survives": kept / audited if audited else None,
        "gain_lost": _mean(lost) if lost else None,
    }


def diversity(texts: Sequence[str]) -> float:
    """Distinct word triples, as a share of all, over all texts; 1 if there are none."""
    triples = [
        tuple(words[i : i + 3]) for text in texts for words in [text.casefold().split()] for i in range(len(words) - 2)
    ]
    return len(set(triples)) / len(triples) if triples else 1.0


def _between_seeds(values: np.ndarray) -> float | None:
    """Mean correlation of two columns, over all pairs."""
    found = [
        np.corrcoef(values[:, a], values[:, b])[0, 1]
        for a, b in combinations(range(values.shape[1]), 2)
        if values[:, [a, b]].std(0).all()
    ]
    return float(np.mean(found)) if found else None


def _spearman_brown(one: float | None, runs: int) -> float | None:
    """Of the mean of so many runs; not defined where runs disagree."""
    return runs * one / (1 + (runs - 1) * one) if one is not None and one > 0 else None


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
