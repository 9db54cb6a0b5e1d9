"""`selfedit bench arc`: few-shot tasks, solved in context and after training on recipes (fixed, or chosen by a model).

In: ARC tasks with known outputs. Out: `results.json`, `results.md`, one picture per task, and `trials.jsonl` with one
line per condition and task. The conditions are:

- `in-context`: the untouched model; as in every condition, the prompt holds the examples of the task;
- `fixed`: one recipe for all tasks; the samples differ in the training items that are drawn;
- `self-edit`: the untouched model chooses one recipe per sample; `seal`: a trained editor chooses it;
- `oracle`: the hand-written recipes ORACLE; a task is solved if at least one of them solves it. Together with
  `in-context` it identifies the tasks that the model can learn but does not solve yet: `solvable` in the results.
  `split_tasks` divides them into tasks that train an editor and tasks that test it, before any recipe is sampled. The
  oracle draws its items with seeds of its own, so that a lucky draw is not counted in two conditions. A search (`find`)
  skips recipes it does not need;
- `peft`: the work of `fixed` on `peft` and `transformers`, one sample after another, to compare the cost of a task.
  There the softmax of the loss runs over the whole vocabulary, and votes are counted without weights, so only cost is
  compared.

A sample solves a task if each correct output is among its two attempts. Rate: the mean over tasks of the share of
samples that solve the task. Its 95 % intervals are a bootstrap over tasks, and one over the samples of the same tasks.
`seal` and `self-edit` are compared by difference and ratio, with tasks resampled in pairs. Finished work on disk is not
repeated.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from selfedit.bench.baselines import base_of, check_libraries
from selfedit.bench.intervals import RESAMPLES, mean_interval, mean_ratio, paired_interval, percentiles
from selfedit.bench.tables import between, heading, markdown, number, with_interval
from selfedit.config import FewshotConfig
from selfedit.edits.recipe import Recipe, write_recipes
from selfedit.errors import SelfeditError
from selfedit.loop.domains.fewshot import load_recipe_editor
from selfedit.loop.fewshot import (
    Answer,
    Tried,
    check,
    check_known,
    gold_logprob,
    job,
    questions,
    readable,
    shown,
    solve,
    solved,
    try_recipes,
    votes,
    wording,
)
from selfedit.loop.journal import Journal, lock_run_folder, software, write_json, write_text
from selfedit.model.load import load_model
from selfedit.tasks.arc import ArcTask
from selfedit.types import Progress, no_progress, stable_seed

CONDITIONS = ("in-context", "fixed", "self-edit", "seal", "oracle", "peft")
SEARCH = {"in-context", "oracle"}
"""Conditions that identify the tasks that can be learned and are not solved yet."""
FIXED = Recipe()
ORACLE = (FIXED, replace(FIXED, epochs=4), replace(FIXED, items=64, chain=True))
"""A search tries the later recipes only if the first one raises the outputs above REACH (docs/LOG.md, study 16)."""
REACH = -2.0
"""Log-probability of a whole output, in nats."""
SAMPLES = 64
"""Maximum number of samples per task."""
SEARCHED = 4
"""Number of tasks whose first recipes a search trains together; a killed run loses at most these."""


def run(
    model_name: str,
    tasks: Sequence[ArcTask],
    out: Path,
    *,
    conditions: Sequence[str],
    samples: int = 5,
    seed: int = 0,
    find: int | None = None,
    editor: Path | None = None,
    config: FewshotConfig = FewshotConfig(),
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json.

    `find`: search until this many tasks are solvable, in order of decreasing probability of their outputs under the
    untouched model; the results cover the tasks that were tried. Raises SelfeditError, before any work, on settings
    that cannot be run.
    """
    from selfedit.bench.plots import arc_pages, pyplot

    pyplot()
    if "peft" in conditions:
        check_libraries()
        if config.train.stop_loss or config.train.steps_per_epoch > 1:
            raise SelfeditError(
                "peft trains whole epochs in batches of batch_size: keep the defaults of stop_loss and steps_per_epoch"
            )
    if unknown := [c for c in conditions if c not in CONDITIONS]:
        raise SelfeditError(f"unknown condition {unknown[0]!r}; known: {', '.join(CONDITIONS)}")
    if not conditions or samples < 1 or not tasks:
        raise SelfeditError("give at least 1 condition, 1 sample and 1 task")
    if "seal" in conditions and editor is None:
        raise SelfeditError(
            "seal needs a trained editor: give --editor DIR (`selfedit train-editor --domain arc` makes one)"
        )
    if editor is not None and "seal" not in conditions:
        raise SelfeditError("only the condition seal uses an editor: add it to --conditions")
    if samples > SAMPLES:
        raise SelfeditError(f"{samples} samples; at most {SAMPLES} can be trained together")
    if find is not None and (find < 1 or not SEARCH <= set(conditions)):
        raise SelfeditError(f"a search needs at least 1 task to find and the conditions {' and '.join(sorted(SEARCH))}")
    check_known(tasks)
    bench = _Arc(
        model_name, tasks, out, conditions, samples, seed, editor, config, progress, notify, searching=find is not None
    )
    if find is not None:
        bench.likeliest_first()
    todo = [(c, task) for task in bench.tasks for c in bench.conditions if (c, task.id) not in bench.done]
    for i, (condition, task) in enumerate(todo):
        if find is not None and len(bench.solvable()) >= find:
            break
        progress("tasks", i, len(todo))
        bench.do(condition, task)
    progress("tasks", len(todo), len(todo))
    bench.tasks = tasks = bench.finished()
    result = bench.result() | {"command": command, "software": software(out)}
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    arc_pages(tasks, {(c, t.id): bench.attempts(c, t.id) for c in bench.conditions for t in tasks}, out)
    return result


class _Arc:
    def __init__(
        self,
        model_name,
        tasks,
        out: Path,
        conditions,
        samples: int,
        seed: int,
        editor,
        config: FewshotConfig,
        progress,
        notify,
        *,
        searching: bool,
    ):
        self.name, self.conditions, self.searching = model_name, list(dict.fromkeys(conditions)), searching
        self.samples, self.seed, self.config, self.progress = samples, seed, config, progress
        self.model = model = load_model(model_name, notify=notify)
        self.tasks, self.left_out = readable(model, tasks)
        if not self.tasks:
            check(model, tasks)
        if self.left_out:
            notify(
                f"{len(self.left_out)} of {len(tasks)} tasks exceed the context length of {model.name} and are left out"
            )
        tasks = self.tasks
        self.editor, self.editor_stack = load_recipe_editor(editor, model) if "seal" in conditions else (None, None)
        if self.editor and (known := sum(task.key in self.editor.contexts for task in tasks)):
            raise SelfeditError(f"the editor was trained on {known} of these tasks; give other tasks")
        settings = {"config": asdict(config) | {"samples": samples, "seed": seed, "reach": REACH}}
        settings |= {"recipes": [asdict(recipe) for recipe in (FIXED, *ORACLE)], "prompts": wording()}
        self._lock = lock_run_folder(out, model.identity() | settings)
        self.journal = Journal(out / "trials.jsonl")
        self.searched: dict[str, tuple[Tried, float]] = {}
        """Task id → the trial of the first recipe and its seconds, for tasks that the search has not reached yet."""
        keys = {task.id: task.key for task in tasks}
        self.done = {
            (r["condition"], r["task"]): r
            for r in self.journal.records
            if keys.get(r["task"]) == r["key"] and self.is_valid(r)
        }

    def is_valid(self, record: dict) -> bool:
        """Whether a record was made with this editor and, unless this is a search, with every recipe of ORACLE."""
        complete = record["condition"] != "oracle" or self.searching or len(record["recipes"]) == len(ORACLE)
        return complete and record["editor"] == self.editor_id(record["condition"])

    def seeds(self, condition: str, task: ArcTask) -> list[int]:
        """Returns one seed per sample; all conditions except oracle have the same seeds."""
        if condition == "oracle":
            return [stable_seed(self.seed, "oracle", task.id, k) for k in range(len(ORACLE))]
        return [stable_seed(self.seed, task.id, k) for k in range(self.samples)]

    def editor_id(self, condition: str) -> str:
        return self.editor.id if condition == "seal" and self.editor else ""

    def do(self, condition: str, task: ArcTask) -> None:
        """Runs all samples of one condition on one task, with one adapter per sample, and records them."""
        if condition == "peft":
            _ = self.peft_base  # loads the model before the time is measured
        start = time.perf_counter()
        if condition == "in-context":
            recipes, answers = (
                [],
                solve(self.model, [(task, None)], None, self.config, on_token=partial(self.progress, "answer")),
            )
            logprobs, tokens = gold_logprob(self.model, [(task, None)]), [0]
        elif condition == "peft":
            recipes = [FIXED] * self.samples
            answers, tokens = self.by_peft(task)
            logprobs = [None] * self.samples
        else:
            seeds = self.seeds(condition, task)
            recipes, tried = self.recipes(condition, task, seeds), []
            if condition == "oracle" and self.searching:
                first, seconds = self.search(task)
                start, tried = time.perf_counter() - seconds, [first]
            # A search stops at the first recipe if that solves the task, or if it leaves the outputs so improbable that
            # the other recipes do not solve it either.
            if not tried or solved(task, first.answers) < 1 and _within_reach(task, first.gold_logprob):
                remaining = [(task, *pair) for pair in zip(recipes[len(tried) :], seeds[len(tried) :])]
                tried += try_recipes(self.model, remaining, self.config, self.progress)
            recipes = recipes[: len(tried)]
            answers, logprobs = [t.answers for t in tried], [t.gold_logprob for t in tried]
            tokens = [t.tokens for t in tried]
        record = {
            "condition": condition,
            "task": task.id,
            "key": task.key,
            "editor": self.editor_id(condition),
            "recipes": [json.loads(r.to_json()) for r in recipes],
            "solved": [solved(task, sample) == 1 for sample in answers],
            "gold_logprob": logprobs,
            "tokens": tokens,
            "threads": torch.get_num_threads(),
            "answers": [[a.record() for a in sample] for sample in answers],
            "seconds": round(time.perf_counter() - start, 2),
        }
        self.journal.add(record)
        self.done[condition, task.id] = json.loads(json.dumps(record))

    def likeliest_first(self) -> None:
        """Sorts the tasks by the log-probability of their whole outputs under the untouched model, highest first."""
        means = gold_logprob(self.model, [(task, None) for task in self.tasks])
        whole = {task.id: _whole(task, mean) for task, mean in zip(self.tasks, means)}
        self.tasks = sorted(self.tasks, key=lambda task: whole[task.id], reverse=True)

    def finished(self) -> list[ArcTask]:
        """Returns the tasks that have a record of every condition."""
        return [task for task in self.tasks if all((c, task.id) in self.done for c in self.conditions)]

    def solvable(self) -> list[str]:
        """Returns the finished tasks that oracle solves and in-context does not; none if a condition is missing."""

        def is_solved(condition: str, task: ArcTask) -> bool:
            return any(self.done[condition, task.id]["solved"])

        searched = self.finished() if SEARCH <= set(self.conditions) else []
        return [task.id for task in searched if is_solved("oracle", task) and not is_solved("in-context", task)]

    def search(self, task: ArcTask) -> tuple[Tried, float]:
        """Returns the trial of the first oracle recipe, and its seconds; the next tasks are tried at the same time."""
        if task.id not in self.searched:
            ahead = [t for t in self.tasks[self.tasks.index(task) :] if ("oracle", t.id) not in self.done][:SEARCHED]
            start = time.perf_counter()
            tried = try_recipes(
                self.model, [(t, ORACLE[0], self.seeds("oracle", t)[0]) for t in ahead], self.config, self.progress
            )
            seconds = (time.perf_counter() - start) / len(ahead)
            self.searched |= {t.id: (trial, seconds) for t, trial in zip(ahead, tried)}
        return self.searched.pop(task.id)

    def by_peft(self, task: ArcTask) -> tuple[list[list[Answer]], list[int]]:
        """Returns the answers and the tokens of each sample, with `peft` instead of our training and decoding.

        Items, layers, batches, learning rates, precision and questions are those of `fixed`. The loss is over the whole
        vocabulary, as the library computes it, and votes are counted without weights.
        """
        from selfedit.bench.baselines import train_and_generate
        from selfedit.model.backend import lora_config

        jobs = [job(self.model, task, FIXED, seed, self.config) for seed in self.seeds("fixed", task)]
        variants = questions(self.model, task)
        requests = [q.request for q in variants]
        prompts, ends = [r.tokens for r in requests], sorted(self.model.chat.ends)
        new_tokens = max(r.max_new_tokens for r in requests)
        bf16, layers = (
            self.model.backend.precision == "mixed",
            lora_config(self.model.backend.num_layers, self.config.train).layers,
        )

        def allow(row: int, tokens: list[int]):
            return requests[row].allow(tokens)

        answers = []
        for k, sample in enumerate(jobs):
            self.progress("train", k, len(jobs))
            outputs = train_and_generate(
                self.peft_base, sample, self.config.train, layers, bf16, prompts, new_tokens, ends, allow
            )
            answers.append(votes(self.model, variants, outputs))
        return answers, [sample.epochs * sum(len(s.tokens) for s in sample.examples) for sample in jobs]

    @cached_property
    def peft_base(self):
        return base_of(self.model)

    def recipes(self, condition: str, task: ArcTask, seeds: Sequence[int]) -> list[Recipe]:
        if condition == "oracle":
            return list(ORACLE)
        if condition == "fixed":
            return [FIXED] * len(seeds)
        writer = self.editor_stack if condition == "seal" else None
        return write_recipes(
            self.model,
            [(shown(self.model, task), seed) for seed in seeds],
            writer,
            on_token=partial(self.progress, "write"),
        )

    def attempts(self, condition: str, id: str) -> tuple[str, list[list]]:
        """Returns a title and the attempts at each test pair for the picture of a task.

        They belong to the first sample that solved the task, or to the first sample if none did.
        """
        record = self.done[condition, id]
        index, n = record["solved"].index(True) if True in record["solved"] else 0, len(record["solved"])
        title = condition if n == 1 else f"{condition}, {index + 1} of {n}\n({sum(record['solved'])} solve it)"
        return title, [[tuple(map(tuple, grid)) for grid in answer["attempts"]] for answer in record["answers"][index]]

    def shares(self, condition: str) -> list[list[float]]:
        """Returns for each task whether each sample solved it; for `oracle`, whether any recipe did."""
        verdicts = [self.done[condition, task.id]["solved"] for task in self.tasks]
        return [[float(any(v))] if condition == "oracle" else list(map(float, v)) for v in verdicts]

    def result(self) -> dict:
        rows, rates = [], {}
        for condition in self.conditions:
            records, shares = [self.done[condition, task.id] for task in self.tasks], self.shares(condition)
            samples, runs = len(shares[0]), sum(map(len, shares))
            rates[condition] = [sum(s) / len(s) for s in shares]
            rate, ci95 = mean_interval(rates[condition])
            logprobs = [v for r in records for v in _sample_logprobs(condition, r["gold_logprob"])]
            rows.append(
                {
                    "condition": condition,
                    "tasks": len(records),
                    "samples": samples,
                    "rate": rate,
                    "ci95": ci95,
                    "ci95_samples": _interval_over_samples(shares) if samples > 1 else None,
                    "gold_logprob": sum(logprobs) / len(logprobs) if logprobs else None,
                    "tokens": round(sum(sum(r["tokens"]) for r in records) / runs),
                    "seconds": round(sum(r["seconds"] for r in records) / runs, 1),
                }
            )
        pairs = [("seal", "self-edit"), ("seal", "fixed"), ("self-edit", "fixed")]
        unsolved = not any(rates.get("in-context", [1.0]))
        pairs += [] if unsolved else [("fixed", "in-context")]  # as where `split_tasks` chose the tasks
        return {
            "model": self.name,
            "precision": self.model.backend.precision,
            "samples": self.samples,
            "editor": self.editor.summary() if self.editor else None,
            "train_config": json.loads(json.dumps(asdict(self.config.train))),
            "fixed": json.loads(FIXED.to_json()),
            "oracle": [json.loads(r.to_json()) for r in ORACLE],
            "rows": rows,
            "compared": [
                {"condition": a, "with": b} | _compare(rates[a], rates[b]) for a, b in pairs if {a, b} <= rates.keys()
            ],
            "cost": self.cost() if {"fixed", "peft"} <= rates.keys() else None,
            "tasks": [{"id": t.id} | {c: rates[c][i] for c in self.conditions} for i, t in enumerate(self.tasks)],
            "solvable": self.solvable(),
            "unsolved_in_context": unsolved,
            "left_out": self.left_out,
        }

    def cost(self) -> list[float | None] | None:
        """Returns the ratio of the seconds of `peft` to those of `fixed`; None if their numbers of threads differ."""
        fixed, peft = ([self.done[c, task.id] for task in self.tasks] for c in ("fixed", "peft"))
        if len({r.get("threads") for r in (*fixed, *peft)}) > 1:
            return None
        return mean_ratio([r["seconds"] for r in peft], [r["seconds"] for r in fixed])


def split_tasks(result: dict, seed: int = 0) -> dict[str, list[str]]:
    """Divides the solvable tasks at random into two halves: `train` for an editor, `test` for the benchmark."""
    shuffled = random.Random(seed).sample(sorted(result["solvable"]), len(result["solvable"]))
    return {"train": sorted(shuffled[: len(shuffled) // 2]), "test": sorted(shuffled[len(shuffled) // 2 :])}


def _within_reach(task: ArcTask, gold_logprob: float | None) -> bool:
    return gold_logprob is not None and _whole(task, gold_logprob) > REACH


def _whole(task: ArcTask, gold_logprob: float) -> float:
    """Returns the log-probability of a whole output (nats), averaged over the outputs of the task.

    `gold_logprob`: nats per token; each cell and each end of a row is one token.
    """
    return gold_logprob * sum(len(pair.output) * (len(pair.output[0]) + 1) for pair in task.test) / len(task.test)


def _sample_logprobs(condition: str, gold_logprob: Sequence[float | None]) -> list[float]:
    """Returns the values of the samples that did not diverge; only the highest for `oracle`, which is one sample."""
    values = [v for v in gold_logprob if v is not None]
    return [max(values)] if condition == "oracle" and values else values


def _compare(ours: Sequence[float], theirs: Sequence[float]) -> dict:
    """Returns the difference and the ratio of the mean rates."""
    ratio, *bounds = mean_ratio(ours, theirs)
    return {
        "difference": paired_interval(ours, theirs),
        "ratio": ratio,
        "ratio_ci95": None if None in bounds else bounds,
    }


def _interval_over_samples(shares: Sequence[Sequence[float]]) -> list[float] | None:
    """Returns the interval of the rate when the samples of each task are resampled."""
    import numpy as np

    rng = np.random.default_rng(0)
    means = [np.array(task)[rng.integers(0, len(task), (RESAMPLES, len(task)))].mean(1) for task in shares]
    return percentiles(np.mean(means, axis=0))


def table(result: dict) -> str:
    """Returns the rows as Markdown."""

    def cells(r: dict) -> list[object]:
        intervals = between(r["ci95"], ".2f"), between(r["ci95_samples"], ".2f")
        return [
            *(r[name] for name in ("condition", "tasks", "samples")),
            *(number(r["rate"]), *intervals, number(r["gold_logprob"])),
            *(f"{r['tokens']:,}", f"{r['seconds']:,.1f}"),
        ]

    conditions, left_out = [r["condition"] for r in result["rows"]], len(result["left_out"])
    head = "condition,tasks,samples,solved,over tasks,over samples,log-probability,tokens,seconds".split(",")
    lines = [
        *heading("Few-shot tasks", result),
        "A task is solved if every output is among two attempts (oracle: under any of its recipes, which count as one "
        "sample). Intervals: 95 % bootstrap over tasks, and over the samples of these tasks; with five or six tasks "
        "they are a tenth too narrow, and if all tasks have the same result, the interval over tasks says nothing. "
        "Tokens and seconds: per sample and task. Log-probability: of the correct outputs, nats per token.",
        *(["", f"{left_out} of the given tasks are left out: they exceed the context length."] if left_out else []),
        "",
        *markdown(head, map(cells, result["rows"])),
    ]
    if result["compared"]:
        ratios = [[r["ratio"], *(r["ratio_ci95"] or (None, None))] for r in result["compared"]]
        cells = (
            [f"{r['condition']} over {r['with']}", with_interval(r["difference"], "+.3f"), with_interval(ratio, ".2f")]
            for r, ratio in zip(result["compared"], ratios)
        )
        lines += ["", *markdown(["", "difference", "ratio"], cells)]
    if result["unsolved_in_context"]:
        lines += [
            "",
            "in-context solves none of these tasks, so nothing is compared with it. If `--split` chose the tasks, that "
            "is so by construction, and all rates hold only for tasks that oracle solves and in-context does not.",
        ]
    if result["cost"]:
        lines += [
            "",
            f"A task with `peft` and `transformers` takes {with_interval(result['cost'], '.1f')} times as long as "
            "`fixed`, whose samples are trained and tested together.",
        ]
    lines += [
        "",
        *markdown(
            ["task", *conditions], ([t["id"], *(number(t[c], ".2f") for c in conditions)] for t in result["tasks"])
        ),
    ]
    return "\n".join(lines) + "\n"
