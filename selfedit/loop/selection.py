"""Trials of a round → which edits are reinforced, which style pays, how far the reward can be trusted. Pure arithmetic.

A trial is a context's record (restem.py): the log-probability of its gold answers, a mean a seed, under the untouched
model, after the passage alone and after each candidate edit. The gain of a candidate is its own over the passage's, by
seed. Seeds differ in nothing that a candidate could be praised for, so what they disagree on is noise, and the
correlation between them over all candidates is the reward's reliability (SEAL's five yes-or-no answers: .13). Answers
cost most and say least, so `accuracy` has one seed but in audited contexts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np


def gains(trial: dict, candidate: dict, when: str) -> list[float]:
    """By seed, nats a token over the passage alone. `when`: `first` (where all were compared) or `dense` (at the end)."""
    return [own - alone for own, alone in zip(candidate[when], trial["passage"][when])]


def noise(trials: Sequence[dict]) -> float:
    """Standard error of a candidate's mean gain: the spread between its seeds, pooled over all that reached the end."""
    own = [gains(t, c, "dense") for t in trials for c in t["candidates"] if c["dense"]]
    if not own:
        return math.inf
    return math.sqrt(np.mean([np.var(values, ddof=1) for values in own]) / len(own[0]))


def reinforced(trial: dict, error: float, beyond: float) -> list[int]:
    """The candidates that reached the end and gained more than noise over the untouched model, over the passage alone and
    over what stands beside the edit: `a+b` over `b`, where that was tried; and that answer no less than the passage alone."""
    ended = {c["style"]: _mean(gains(trial, c, "dense")) for c in trial["candidates"] if c["dense"]}
    found = []
    for i, candidate in enumerate(trial["candidates"]):
        scored = candidate["accuracy"] and trial["passage"]["accuracy"]
        if not candidate["dense"] or not scored:
            continue
        beside = ended.get(candidate["style"].partition("+")[2], 0.0)
        gain = _mean(gains(trial, candidate, "dense")) - max(beside, 0.0)
        over_untouched = _mean(candidate["dense"]) - trial["untouched"]["dense"]
        if min(gain, over_untouched) > beyond * error and _mean(candidate["accuracy"]) >= _mean(trial["passage"]["accuracy"]):
            found.append(i)
    return found


def ranking(trials: Sequence[dict]) -> list[dict]:
    """Styles by their mean gain where all candidates were compared, the best first; an edit that was not usable gained nothing."""
    by_style: dict[str, list[float]] = {}
    for t in trials:
        for c in t["candidates"]:
            by_style.setdefault(c["style"], []).append(_mean(gains(t, c, "first")) if c["first"] else 0.0)
    rows = [
        {"style": style, "edits": len(own), "gain": _mean(own), "error": float(np.std(own, ddof=1) / math.sqrt(len(own))) if len(own) > 1 else None}
        for style, own in by_style.items()
    ]
    return sorted(rows, key=lambda row: -row["gain"])


def reliability(trials: Sequence[dict], when: str) -> dict:
    """Correlation between seeds over candidates, of one run's reward and of the mean of all seeds (Spearman–Brown), in all
    and within contexts; `when`: `first`, `dense`, or `accuracy` (the published reward)."""
    rows, groups = [], []
    for i, t in enumerate(trials):
        for c in t["candidates"]:
            if len(c[when]) > 1:
                rows.append(gains(t, c, when))
                groups.append(i)
    if len(rows) < 3:
        return {"candidates": len(rows), "one_run": None, "mean_of_seeds": None, "within_one_run": None, "within_mean_of_seeds": None}
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
        own = [(_mean(gains(t, c, "first")), _mean(gains(t, c, "dense"))) for c in t["candidates"] if c["first"] and c["dense"]]
        if not t["audited"] or len(own) <= survivors:
            continue
        audited += 1
        going = sorted(own, reverse=True)[:survivors]
        best, best_going = max(end for _, end in own), max(end for _, end in going)
        kept += best_going == best
        lost.append(best - best_going)
    return {"contexts": audited, "best_survives": kept / audited if audited else None, "gain_lost": _mean(lost) if lost else None}


def diversity(texts: Sequence[str]) -> float:
    """Distinct word triples, as a share of all, over all texts; 1 if there are none."""
    triples = [tuple(words[i : i + 3]) for text in texts for words in [text.casefold().split()] for i in range(len(words) - 2)]
    return len(set(triples)) / len(triples) if triples else 1.0


def _between_seeds(values: np.ndarray) -> float | None:
    """Mean correlation of two columns, over all pairs."""
    found = [np.corrcoef(values[:, a], values[:, b])[0, 1] for a, b in combinations(range(values.shape[1]), 2) if values[:, [a, b]].std(0).all()]
    return float(np.mean(found)) if found else None


def _spearman_brown(one: float | None, runs: int) -> float | None:
    return None if one is None else runs * one / (1 + (runs - 1) * one)


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
