"""A strong judge's verdicts → selfedit/judge/grader.json, the numbers with which `is_correct` decides; kappa by split.

    python -m venv .venv-fit && .venv-fit/bin/pip install lightgbm==4.7.0
    PYTHONPATH=. .venv-fit/bin/python tools/fit_grader.py ../shared/data/squad/gpt41_verdicts.jsonl.gz

The file has one {title, question, gold, prediction, correct} a line. All lines of a title fall into one split (by the
hash of the title), since they are about one text. Settings and features were chosen by cross-validation across the fit
and develop titles; the shipped trees are fitted on both, and the report titles are only read. A question counts as one
example however many predictions it has. lightgbm is needed here alone: the project grades in pure Python.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import lightgbm
import numpy as np

from selfedit.judge import grading
from selfedit.judge.calibrate import kappa, title_hash
from selfedit.judge.features import FEATURES, features, stem, words

OUT = Path(grading.__file__).parent / "grader.json"
TREES = 200
SETTINGS = {
    "objective": "binary",
    "learning_rate": 0.06,
    "num_leaves": 4,
    "min_child_samples": 100,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.6,
    "bagging_freq": 1,
    "lambda_l2": 5,
    "monotone_constraints": list(FEATURES.values()),
    "monotone_constraints_method": "intermediate",
    "deterministic": True,
    "num_threads": 1,
    "seed": 1,
    "verbose": -1,
}
LEAST_SHARE = 0.1  # of the titles; a rarer stem counts as never seen
FOLDS = 5


def split(title: str) -> str:
    """Returns the split of a title: 60 % fit; the rest is report (never used for tuning) if odd, else develop."""
    byte = sha256(title.encode()).digest()[0]
    return "fit" if byte >= 102 else "report" if byte % 2 else "develop"


def common_stems(rows: list[dict]) -> dict[str, float]:
    """Stem → share of the titles in which it occurs."""
    titles = defaultdict(set)
    for row in rows:
        for text in (row["question"], row["gold"], row["prediction"]):
            for word in words(text):
                titles[stem(word)].add(row["title"])
    total = len({row["title"] for row in rows})
    shares = {word: round(len(found) / total, 2) for word, found in sorted(titles.items())}
    return {word: share for word, share in shares.items() if share >= LEAST_SHARE}


def fit(rows: list[dict], common: dict[str, float]) -> lightgbm.Booster:
    predictions = Counter((row["question"], row["gold"]) for row in rows)
    weights = [1 / predictions[row["question"], row["gold"]] for row in rows]
    return lightgbm.train(
        SETTINGS, lightgbm.Dataset(table(rows, common), [row["correct"] for row in rows], weight=weights), TREES
    )


def table(rows: list[dict], common: dict[str, float]) -> np.ndarray:
    return np.array([features(grading.cut(row["prediction"]), row["gold"], row["question"], common) for row in rows])


def nested(node: dict) -> list | float:
    """lightgbm's tree → the form that grading.py reads."""
    if "leaf_value" in node:
        return round(node["leaf_value"], 4)
    return [node["split_feature"], round(node["threshold"], 4), nested(node["left_child"]), nested(node["right_child"])]


def agreement(ours: list[bool], theirs: list[bool]) -> str:
    cells = Counter(zip(map(bool, ours), theirs))
    both, only_ours, only_theirs, neither = (
        cells[k] for k in ((True, True), (True, False), (False, True), (False, False))
    )
    n = len(theirs)
    return (
        f"kappa {kappa([both, only_ours, only_theirs, neither]):.4f}, accuracy {(both + neither) / n:.4f}, n={n}; "
        f"both right {both}, only we {only_ours}, only they {only_theirs}, both wrong {neither}"
    )


def cross_validate(rows: list[dict]) -> str:
    """Of the trees alone, without the rules: each fold's titles are judged by trees and shares that the others gave."""
    titles = sorted({row["title"] for row in rows}, key=lambda title: sha256(title.encode()).digest()[1:])
    fold = {title: i % FOLDS for i, title in enumerate(titles)}
    ours, theirs = [], []
    for k in range(FOLDS):
        seen, unseen = ([row for row in rows if (fold[row["title"]] == k) is held] for held in (False, True))
        common = common_stems(seen)
        ours += (fit(seen, common).predict(table(unseen, common)) > 0.5).tolist()
        theirs += [row["correct"] for row in unseen]
    return agreement(ours, theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verdicts", type=Path)
    with gzip.open(parser.parse_args().verdicts, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    known = [row for row in rows if split(row["title"]) != "report"]
    common = common_stems(known)
    booster = fit(known, common)
    trees = [nested(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
    fitted = sorted({title_hash(row["title"]) for row in known})
    OUT.write_text(
        json.dumps(
            {"fitted_titles": fitted, "common": common, "trees": trees}, separators=(",", ":"), ensure_ascii=False
        )
        + "\n",
        encoding="utf-8",
    )
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB, {len(trees)} trees, {len(common)} stems")
    print("fit and develop, cross-validated by title:", cross_validate(known))
    for name in ("fit", "develop", "report"):
        part = [row for row in rows if split(row["title"]) == name]
        if part:
            ours = [grading.is_correct(row["prediction"], [row["gold"]], row["question"]) for row in part]
            print(
                f"{name}, {len({row['title'] for row in part})} titles:",
                agreement(ours, [row["correct"] for row in part]),
            )


if __name__ == "__main__":
    main()
