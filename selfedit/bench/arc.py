"""`selfedit bench arc`: few-shot tasks solved in context, after studying them as a fixed recipe says, and as the model chose.

In: ARC tasks with known outputs. Out: `results.json`, `results.md`, a page of pictures for each task, and `trials.jsonl`, a
line for each condition and task. Conditions:

- `in-context`: the untouched model, with the examples in view (as in every other condition);
- `fixed`: one recipe for all tasks, each sample with another draw of items;
- `self-edit`: the untouched model chooses a recipe, a sample each; `seal`: a trained editor does;
- `oracle`: recipes set by hand, ORACLE; a task counts as solved if one of them solves it. It finds the tasks that the
  model can learn at all: `solvable` in the results.

A sample solves a task if each of its outputs is among the two attempts. Rate: the mean over tasks of the share of samples
that do; intervals, 95 %: a bootstrap over tasks, and one over the samples of the same tasks. What is on disk is not done
again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from selfedit.bench.measure import paired_interval
from selfedit.config import TrainConfig
from selfedit.edits.recipe import Recipe, write_recipes
from selfedit.errors import SelfeditError
from selfedit.loop.editor import load_editor
from selfedit.loop.fewshot import TRAIN, Answer, check, dense, shown, solve, solved, try_recipes
from selfedit.loop.journal import Journal, claim, software, write_json
from selfedit.loop.recipes import STYLE
from selfedit.model.load import load_model
from selfedit.tasks.arc import ArcTask, arc_json
from selfedit.types import Progress, no_progress, stable_seed, text_hash

CONDITIONS = ("in-context", "fixed", "self-edit", "seal", "oracle")
FIXED = Recipe()
ORACLE = tuple(replace(FIXED, learning_rate=rate, epochs=epochs, items=items) for rate, epochs, items in ((3e-4, 2, 48), (1e-3, 1, 48), (1e-3, 2, 64)))
"""docs/LOG.md, study 16."""
RESAMPLES = 10_000


def run(
    model_name: str,
    tasks: Sequence[ArcTask],
    out: Path,
    *,
    conditions: Sequence[str],
    samples: int = 5,
    seed: int = 0,
    editor: Path | None = None,
    train: TrainConfig = TRAIN,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Raises SelfeditError, before any work, on what cannot be run."""
    from selfedit.bench.plots import arc_pages, pyplot

    pyplot()
    if unknown := [c for c in conditions if c not in CONDITIONS]:
        raise SelfeditError(f"unknown condition {unknown[0]!r}; known: {', '.join(CONDITIONS)}")
    if not conditions or samples < 1 or not tasks:
        raise SelfeditError("give conditions, at least 1 sample, and tasks")
    if "seal" in conditions and editor is None:
        raise SelfeditError("seal needs a trained editor: give --editor DIR (`selfedit train-editor --domain arc` makes one)")
    if unknown := [task.id for task in tasks if any(pair.output is None for pair in task.test)]:
        raise SelfeditError(f"task {unknown[0]}: its test has no output to compare with; `selfedit adapt` answers it")
    bench = _Arc(model_name, tasks, out, conditions, samples, seed, editor, train, progress, notify)
    for condition in bench.conditions:
        for i, task in enumerate(tasks):
            progress(condition, i, len(tasks))
            if (condition, task.id) not in bench.done:
                bench.do(condition, task)
        progress(condition, len(tasks), len(tasks))
    result = bench.result() | {"command": command, "software": software()}
    write_json(out / "results.json", result)
    (out / "results.md").write_text(table(result))
    arc_pages(tasks, {key: bench.attempts(*key) for key in bench.done if key[0] in bench.conditions}, out)
    return result


class _Arc:
    def __init__(self, model_name, tasks, out: Path, conditions, samples: int, seed: int, editor, train: TrainConfig, progress, notify):
        self.name, self.tasks, self.conditions = model_name, tasks, list(dict.fromkeys(conditions))
        self.samples, self.seed, self.train_config, self.progress = samples, seed, train, progress
        self.model = model = load_model(model_name, notify=notify)
        for task in tasks:
            check(model, task)
        self.editor, self.editor_stack = load_editor(editor, model) if editor else (None, None)
        if self.editor and self.editor.style != STYLE:
            raise SelfeditError(f"{editor}: an editor that writes about documents; `selfedit train-editor --domain arc` makes one for tasks")
        if self.editor and (known := sum(task.id in self.editor.contexts for task in tasks)):
            raise SelfeditError(f"the editor was trained on {known} of these tasks; give others")
        config = text_hash(json.dumps(asdict(train)), str(samples), str(seed), FIXED.to_json(), *(r.to_json() for r in ORACLE))
        claim(out, {"model": model_name, "weights": model.fingerprint, "precision": model.network.precision, "config": config})
        self.journal = Journal(out / "trials.jsonl")
        known = {task.id: _key(task) for task in tasks}
        self.done = {(r["condition"], r["task"]): r for r in self.journal.records if known.get(r["task"]) == r["key"] and r["editor"] == self.writer(r["condition"])}

    def writer(self, condition: str) -> str:
        return self.editor.id if condition == "seal" and self.editor else ""

    def do(self, condition: str, task: ArcTask) -> None:
        """Every sample of a condition, as one stack."""
        start = time.perf_counter()
        if condition == "in-context":
            recipes, answers = [], [solve(self.model, [(task, None)], on_token=partial(self.progress, "answer"))[0]]
            dense_, tokens = dense(self.model, [(task, None)]), [0]
        else:
            seeds = [stable_seed(self.seed, condition, k) for k in range(len(ORACLE) if condition == "oracle" else self.samples)]
            recipes = self.recipes(condition, task, seeds)
            tried, _ = try_recipes(self.model, [(task, recipe, seed) for recipe, seed in zip(recipes, seeds)], self.train_config, self.progress)
            answers, dense_, tokens = [t.answers for t in tried], [t.dense for t in tried], [t.tokens for t in tried]
        record = {
            "condition": condition, "task": task.id, "key": _key(task), "editor": self.writer(condition), "recipes": [json.loads(r.to_json()) for r in recipes],
            "solved": [solved(task, own) == 1 for own in answers], "dense": dense_, "tokens": tokens,
            "answers": [[asdict(a) for a in own] for own in answers], "seconds": round(time.perf_counter() - start, 2),
        }  # fmt: skip
        self.journal.add(record)
        self.done[condition, task.id] = json.loads(json.dumps(record))

    def recipes(self, condition: str, task: ArcTask, seeds: Sequence[int]) -> list[Recipe]:
        if condition == "oracle":
            return list(ORACLE)
        if condition == "fixed":
            return [FIXED] * len(seeds)
        writer = self.editor_stack if condition == "seal" else None
        return write_recipes(self.model, [(shown(task), seed) for seed in seeds], writer, on_token=partial(self.progress, "write"))

    def attempts(self, condition: str, id: str) -> list[Answer]:
        """Of the first sample that solved the task, else of the first: an Answer a test pair."""
        record = self.done[condition, id]
        own = record["answers"][record["solved"].index(True) if True in record["solved"] else 0]
        return [Answer(tuple(tuple(map(tuple, grid)) for grid in a["attempts"]), tuple(a["votes"]), a["asked"]) for a in own]

    def result(self) -> dict:
        rows = []
        for condition in self.conditions:
            own = [self.done[condition, task.id] for task in self.tasks]
            shares = [[float(any(r["solved"]))] if condition == "oracle" else [float(s) for s in r["solved"]] for r in own]
            rate, low, high = paired_interval([sum(s) / len(s) for s in shares], [0.0] * len(shares))
            rows.append(
                {"condition": condition, "tasks": len(own), "samples": len(shares[0]), "rate": rate, "ci95": [low, high], "ci95_samples": _over_samples(shares)}
                | {"dense": sum(sum(r["dense"]) / len(r["dense"]) for r in own) / len(own), "tokens": sum(sum(r["tokens"]) for r in own)}
                | {"seconds": round(sum(r["seconds"] for r in own), 1)}
            )
        per_task = [{"id": t.id} | {c: sum(self.done[c, t.id]["solved"]) / len(self.done[c, t.id]["solved"]) for c in self.conditions} for t in self.tasks]
        return {
            "model": self.name, "precision": self.model.network.precision, "samples": self.samples, "editor": self.editor.summary() if self.editor else None,
            "train_config": json.loads(json.dumps(asdict(self.train_config))), "fixed": json.loads(FIXED.to_json()), "oracle": [json.loads(r.to_json()) for r in ORACLE],
            "rows": rows, "tasks": per_task, "solvable": [t["id"] for t in per_task if t.get("oracle")],
        }  # fmt: skip


def _key(task: ArcTask) -> str:
    return text_hash(json.dumps(arc_json(task)))[:16]


def _over_samples(shares: Sequence[Sequence[float]]) -> list[float]:
    """Interval of the rate if the samples of each task were drawn again."""
    import numpy as np

    drawn = np.random.default_rng(0)
    means = [np.array(own)[drawn.integers(0, len(own), (RESAMPLES, len(own)))].mean(1) for own in shares]
    return [float(v) for v in np.percentile(np.mean(means, axis=0), [2.5, 97.5])]


def table(result: dict) -> str:
    """The rows in Markdown, for people."""
    lines = [
        f"# Few-shot tasks: {result['model']}",
        "",
        f"`{result['command']}` (selfedit {result['software']}, {result['precision']})",
        "",
        "Solved: every output among two attempts. 95 %: over tasks, and over the samples of these tasks.",
        "",
        "| condition | tasks | samples | solved | over tasks | over samples | dense | tokens | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in result["rows"]:
        spans = " | ".join(f"[{low:.2f}, {high:.2f}]" for low, high in (r["ci95"], r["ci95_samples"]))
        lines.append(f"| {r['condition']} | {r['tasks']} | {r['samples']} | {r['rate']:.3f} | {spans} | {r['dense']:.3f} | {r['tokens']:,} | {r['seconds']:,.0f} |")
    conditions = [r["condition"] for r in result["rows"]]
    lines += ["", f"| task | {' | '.join(conditions)} |", f"|---|{'--:|' * len(conditions)}"]
    lines += [f"| {t['id']} | {' | '.join(f'{t[c]:.2f}' for c in conditions)} |" for t in result["tasks"]]
    return "\n".join(lines) + "\n"
