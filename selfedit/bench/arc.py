"""`selfedit bench arc`: few-shot tasks solved in context, after studying them as a fixed recipe says, and as the model chose.

In: ARC tasks with known outputs. Out: `results.json`, `results.md`, a page of pictures for each task, and `trials.jsonl`, a
line for each condition and task. Conditions:

- `in-context`: the untouched model, with the examples in view (as in every other condition);
- `fixed`: one recipe for all tasks, each sample with another draw of items;
- `self-edit`: the untouched model chooses a recipe, a sample each; `seal`: a trained editor does;
- `oracle`: recipes set by hand, ORACLE; a task counts as solved if one of them solves it. With `in-context` beside it, it
  finds the tasks that the model can learn and does not know: `solvable` in the results, which `split_tasks` parts into
  those that train an editor and those that test it, before any recipe is drawn; its items are drawn apart from those of
  the other conditions, so that no luck is counted twice. A search (`find`) leaves out recipes that it can do without;
- `peft`: what `fixed` does as others do it, one sample after another on `peft` and `transformers`: what a task costs there.
  Labels are told apart from all tokens there and votes counted, not rated, so only the cost is compared.

A sample solves a task if each of its outputs is among the two attempts. Rate: the mean over tasks of the share of samples
that do; intervals, 95 %: a bootstrap over tasks, and one over the samples of the same tasks. `seal` over `self-edit`:
their difference and ratio, tasks drawn in pairs. What is on disk is not done again.
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

from selfedit.bench.baselines import check_libraries
from selfedit.bench.intervals import RESAMPLES, mean_interval, mean_ratio, paired_interval, spread
from selfedit.bench.tables import between, heading, markdown, number, with_interval
from selfedit.config import TrainConfig
from selfedit.edits.recipe import FIXED_HERE as RECIPES_HERE
from selfedit.edits.recipe import Recipe, write_recipes
from selfedit.errors import SelfeditError
from selfedit.loop.fewshot import (
    FIXED_HERE,
    TRAIN,
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
)
from selfedit.loop.journal import Journal, lock_run_folder, software, write_json, write_text
from selfedit.loop.recipes import load_recipe_editor
from selfedit.model.load import load_model
from selfedit.tasks.arc import ArcTask
from selfedit.types import Progress, no_progress, stable_seed, text_hash

CONDITIONS = ("in-context", "fixed", "self-edit", "seal", "oracle", "peft")
SEARCH = {"in-context", "oracle"}
"""Conditions that tell which tasks can be learned and are not known."""
FIXED = Recipe()
ORACLE = (FIXED, replace(FIXED, epochs=4), replace(FIXED, items=64, chain=True))
"""docs/LOG.md, study 16. A search tries those after the first where it brings the outputs within reach."""
REACH = -2.0
"""Log-probability of a whole output (nats)."""
SAMPLES = 64
"""Of a task, at most."""
SEARCHED = 4
"""Tasks whose first recipes of the search train as one stack; a kill loses so many at most."""


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
    train: TrainConfig = TRAIN,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """`find`: a search that ends once so many tasks are solvable, those first whose outputs the untouched model finds
    likeliest; the results are of the tasks it came to. Raises SelfeditError, before any work, on what cannot be run."""
    from selfedit.bench.plots import arc_pages, pyplot

    pyplot()
    if "peft" in conditions:
        check_libraries()
        if train.stop_loss or train.steps_per_epoch > 1:
            raise SelfeditError(
                "peft trains every epoch whole, in batches of batch_size: leave stop_loss and steps_per_epoch as they are"
            )
    if unknown := [c for c in conditions if c not in CONDITIONS]:
        raise SelfeditError(f"unknown condition {unknown[0]!r}; known: {', '.join(CONDITIONS)}")
    if not conditions or samples < 1 or not tasks:
        raise SelfeditError("give conditions, at least 1 sample, and tasks")
    if "seal" in conditions and editor is None:
        raise SelfeditError(
            "seal needs a trained editor: give --editor DIR (`selfedit train-editor --domain arc` makes one)"
        )
    if editor is not None and "seal" not in conditions:
        raise SelfeditError("an editor is for the condition seal: name it in --conditions")
    if samples > SAMPLES:
        raise SelfeditError(f"{samples} samples; at most {SAMPLES}, which train as one stack")
    if find is not None and (find < 1 or not SEARCH <= set(conditions)):
        raise SelfeditError(f"a search finds at least 1 task, by the conditions {' and '.join(sorted(SEARCH))}")
    check_known(tasks)
    bench = _Arc(
        model_name, tasks, out, conditions, samples, seed, editor, train, progress, notify, searching=find is not None
    )
    if find is not None:
        bench.likeliest_first()
    left = [(c, task) for task in bench.tasks for c in bench.conditions if (c, task.id) not in bench.done]
    for i, (condition, task) in enumerate(left):
        if find is not None and len(bench.solvable()) >= find:
            break
        progress("tasks", i, len(left))
        bench.do(condition, task)
    progress("tasks", len(left), len(left))
    bench.tasks = tasks = bench.finished()
    result = bench.result() | {"command": command, "software": software()}
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
        train: TrainConfig,
        progress,
        notify,
        *,
        searching: bool,
    ):
        self.name, self.conditions, self.searching = model_name, list(dict.fromkeys(conditions)), searching
        self.samples, self.seed, self.train_config, self.progress = samples, seed, train, progress
        self.model = model = load_model(model_name, notify=notify)
        self.tasks, self.left_out = readable(model, tasks)
        if not self.tasks:
            check(model, tasks)
        if self.left_out:
            notify(
                f"left out, as {model.name} does not read so much at once: {len(self.left_out)} of {len(tasks)} tasks"
            )
        tasks = self.tasks
        self.editor, self.editor_stack = load_recipe_editor(editor, model) if "seal" in conditions else (None, None)
        if self.editor and (known := sum(task.key in self.editor.contexts for task in tasks)):
            raise SelfeditError(f"the editor was trained on {known} of these tasks; give others")
        config = text_hash(
            json.dumps(asdict(train)),
            str(samples),
            str(seed),
            *map(Recipe.to_json, (FIXED, *ORACLE)),
            *FIXED_HERE,
            *RECIPES_HERE,
        )
        self._alone = lock_run_folder(out, model.identity() | {"config": config})
        self.journal = Journal(out / "trials.jsonl")
        self.searched: dict[str, tuple[Tried, float]] = {}
        """First recipes of the search, with the seconds they took, of tasks to come."""
        known = {task.id: task.key for task in tasks}
        self.done = {
            (r["condition"], r["task"]): r
            for r in self.journal.records
            if known.get(r["task"]) == r["key"] and self.counts(r)
        }

    def counts(self, record: dict) -> bool:
        """Whether it is of this editor, and of every recipe unless a search may do without."""
        whole = record["condition"] != "oracle" or self.searching or len(record["recipes"]) == len(ORACLE)
        return whole and record["editor"] == self.writer(record["condition"])

    def seeds(self, condition: str, task: ArcTask) -> list[int]:
        """One a sample. Conditions but oracle have the same."""
        if condition == "oracle":
            return [stable_seed(self.seed, "oracle", task.id, k) for k in range(len(ORACLE))]
        return [stable_seed(self.seed, task.id, k) for k in range(self.samples)]

    def writer(self, condition: str) -> str:
        return self.editor.id if condition == "seal" and self.editor else ""

    def do(self, condition: str, task: ArcTask) -> None:
        """Every sample of a condition, as one stack."""
        if condition == "peft":
            self.peft_base  # loaded once, before the clock starts
        start = time.perf_counter()
        if condition == "in-context":
            recipes, answers = [], [solve(self.model, [(task, None)], on_token=partial(self.progress, "answer"))[0]]
            dense_, tokens = gold_logprob(self.model, [(task, None)]), [0]
        elif condition == "peft":
            recipes = [FIXED] * self.samples
            answers, tokens = self.by_peft(task)
            dense_ = [None] * self.samples
        else:
            seeds = self.seeds(condition, task)
            recipes, tried = self.recipes(condition, task, seeds), []
            if condition == "oracle" and self.searching:
                first, seconds = self.search(task)
                start, tried = time.perf_counter() - seconds, [first]
            # A search: what one recipe solves needs no other, and what it leaves far away others do not reach.
            if not tried or solved(task, first.answers) < 1 and _within_reach(task, first.gold_logprob):
                left = slice(len(tried), None)
                tried += try_recipes(
                    self.model,
                    [(task, *one) for one in zip(recipes[left], seeds[left])],
                    self.train_config,
                    self.progress,
                )
            recipes = recipes[: len(tried)]
            answers, dense_, tokens = (
                [t.answers for t in tried],
                [t.gold_logprob for t in tried],
                [t.tokens for t in tried],
            )
        record = {
            "condition": condition, "task": task.id, "key": task.key, "editor": self.writer(condition), "recipes": [json.loads(r.to_json()) for r in recipes],
            "solved": [solved(task, own) == 1 for own in answers], "gold_logprob": dense_, "tokens": tokens, "threads": torch.get_num_threads(),
            "answers": [[a.record() for a in own] for own in answers], "seconds": round(time.perf_counter() - start, 2),
        }  # fmt: skip
        self.journal.add(record)
        self.done[condition, task.id] = json.loads(json.dumps(record))

    def likeliest_first(self) -> None:
        """Orders the tasks by the log-probability of their whole outputs under the untouched model."""
        means = gold_logprob(self.model, [(task, None) for task in self.tasks])
        whole = {task.id: _whole(task, mean) for task, mean in zip(self.tasks, means)}
        self.tasks = sorted(self.tasks, key=lambda task: whole[task.id], reverse=True)

    def finished(self) -> list[ArcTask]:
        """Those that had every condition."""
        return [task for task in self.tasks if all((c, task.id) in self.done for c in self.conditions)]

    def solvable(self) -> list[str]:
        """The finished tasks that oracle solves and in-context does not; none without both."""
        solving = lambda condition, task: any(self.done[condition, task.id]["solved"])  # noqa: E731
        searched = self.finished() if SEARCH <= set(self.conditions) else []
        return [task.id for task in searched if solving("oracle", task) and not solving("in-context", task)]

    def search(self, task: ArcTask) -> tuple[Tried, float]:
        """The first recipe of `oracle`, tried together with those of the tasks behind it; and the seconds of its own share."""
        if task.id not in self.searched:
            ahead = [t for t in self.tasks[self.tasks.index(task) :] if ("oracle", t.id) not in self.done][:SEARCHED]
            start = time.perf_counter()
            tried = try_recipes(
                self.model,
                [(t, ORACLE[0], self.seeds("oracle", t)[0]) for t in ahead],
                self.train_config,
                self.progress,
            )
            seconds = (time.perf_counter() - start) / len(ahead)
            self.searched |= {t.id: (one, seconds) for t, one in zip(ahead, tried)}
        return self.searched.pop(task.id)

    def by_peft(self, task: ArcTask) -> tuple[list[list[Answer]], list[int]]:
        """Answers and tokens of each sample: the items, layers, batches, rates, precision and questions of `fixed`; labels are
        told apart from all tokens, as the library does it, and votes are counted, not rated."""
        from selfedit.bench.baselines import train_and_generate
        from selfedit.model.backend import lora_config

        jobs = [job(self.model, task, FIXED, seed) for seed in self.seeds("fixed", task)]
        asked = questions(self.model, task)
        requests = [q.request for q in asked]
        prompts, most, ends = (
            [r.tokens for r in requests],
            max(r.max_new_tokens for r in requests),
            sorted(self.model.chat.ends),
        )
        bf16, layers = (
            self.model.backend.precision == "mixed",
            lora_config(self.model.backend.num_layers, self.train_config).layers,
        )
        answers = []
        for k, own in enumerate(jobs):
            self.progress("train", k, len(jobs))
            said = train_and_generate(
                self.peft_base,
                own,
                self.train_config,
                layers,
                bf16,
                prompts,
                most,
                ends,
                lambda row, tokens: requests[row].allow(tokens),
            )
            answers.append(votes(self.model, asked, said))
        return answers, [own.epochs * sum(len(s.tokens) for s in own.examples) for own in jobs]

    @cached_property
    def peft_base(self):
        from selfedit.bench.baselines import load_base

        return load_base(self.model.folder, self.model.backend.device, self.model.backend.dtype)

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
        """For the page: which sample, and its attempts at each test pair; the first that solved the task, if one did."""
        record = self.done[condition, id]
        place, n = record["solved"].index(True) if True in record["solved"] else 0, len(record["solved"])
        title = condition if n == 1 else f"{condition}, {place + 1} of {n}\n({sum(record['solved'])} solve it)"
        return title, [[tuple(map(tuple, grid)) for grid in answer["attempts"]] for answer in record["answers"][place]]

    def shares(self, condition: str) -> list[list[float]]:
        """Of each task, whether each sample solved it; of `oracle`, whether any did."""
        own = [self.done[condition, task.id]["solved"] for task in self.tasks]
        return [[float(any(s))] if condition == "oracle" else list(map(float, s)) for s in own]

    def result(self) -> dict:
        rows, rates = [], {}
        for condition in self.conditions:
            own, shares = [self.done[condition, task.id] for task in self.tasks], self.shares(condition)
            samples, done = len(shares[0]), sum(map(len, shares))
            rates[condition] = [sum(s) / len(s) for s in shares]
            rate, ci95 = mean_interval(rates[condition])
            values = [v for r in own for v in _of_samples(condition, r["gold_logprob"])]
            rows.append(
                {"condition": condition, "tasks": len(own), "samples": samples, "rate": rate, "ci95": ci95}
                | {
                    "ci95_samples": _over_samples(shares) if samples > 1 else None,
                    "gold_logprob": sum(values) / len(values) if values else None,
                }
                | {
                    "tokens": round(sum(sum(r["tokens"]) for r in own) / done),
                    "seconds": round(sum(r["seconds"] for r in own) / done, 1),
                }
            )
        pairs = [("seal", "self-edit"), ("seal", "fixed"), ("self-edit", "fixed"), ("fixed", "in-context")]
        return {
            "model": self.name, "precision": self.model.backend.precision, "samples": self.samples, "editor": self.editor.summary() if self.editor else None,
            "train_config": json.loads(json.dumps(asdict(self.train_config))), "fixed": json.loads(FIXED.to_json()), "oracle": [json.loads(r.to_json()) for r in ORACLE],
            "rows": rows, "compared": [{"condition": a, "with": b} | _compared(rates[a], rates[b]) for a, b in pairs if {a, b} <= rates.keys()],
            "cost": self.cost() if {"fixed", "peft"} <= rates.keys() else None,
            "tasks": [{"id": t.id} | {c: rates[c][i] for c in self.conditions} for i, t in enumerate(self.tasks)],
            "solvable": self.solvable(), "left_out": self.left_out,
        }  # fmt: skip

    def cost(self) -> list[float | None] | None:
        """Seconds of `peft` over those of `fixed`; None where they ran on other threads."""
        fixed, peft = ([self.done[c, task.id] for task in self.tasks] for c in ("fixed", "peft"))
        if len({r.get("threads") for r in (*fixed, *peft)}) > 1:
            return None
        return mean_ratio([r["seconds"] for r in peft], [r["seconds"] for r in fixed])


def split_tasks(result: dict, seed: int = 0) -> dict[str, list[str]]:
    """The solvable tasks in two halves, drawn once: `train` for an editor, `test` for the benchmark."""
    drawn = random.Random(seed).sample(sorted(result["solvable"]), len(result["solvable"]))
    return {"train": sorted(drawn[: len(drawn) // 2]), "test": sorted(drawn[len(drawn) // 2 :])}


def _within_reach(task: ArcTask, gold_logprob: float | None) -> bool:
    return gold_logprob is not None and _whole(task, gold_logprob) > REACH


def _whole(task: ArcTask, gold_logprob: float) -> float:
    """Log-probability of its outputs as wholes, a mean over them, at so many nats a token; a cell and the end of a row are a
    token each."""
    return gold_logprob * sum(len(pair.output) * (len(pair.output[0]) + 1) for pair in task.test) / len(task.test)


def _of_samples(condition: str, gold_logprob: Sequence[float | None]) -> list[float]:
    """Of each sample that did not diverge; of `oracle`, whose recipes are one sample, the likeliest."""
    values = [v for v in gold_logprob if v is not None]
    return [max(values)] if condition == "oracle" and values else values


def _compared(ours: Sequence[float], theirs: Sequence[float]) -> dict:
    """Difference and ratio of the mean rates."""
    ratio, *bounds = mean_ratio(ours, theirs)
    return {
        "difference": paired_interval(ours, theirs),
        "ratio": ratio,
        "ratio_ci95": None if None in bounds else bounds,
    }


def _over_samples(shares: Sequence[Sequence[float]]) -> list[float] | None:
    """Interval of the rate if the samples of each task were drawn again."""
    import numpy as np

    drawn = np.random.default_rng(0)
    means = [np.array(own)[drawn.integers(0, len(own), (RESAMPLES, len(own)))].mean(1) for own in shares]
    return spread(np.mean(means, axis=0))


def table(result: dict) -> str:
    """The rows in Markdown, for people."""
    conditions, left_out = [r["condition"] for r in result["rows"]], len(result["left_out"])
    lines = [
        *heading("Few-shot tasks", result),
        "Solved: every output among two attempts (oracle: under any of its recipes, which are one sample). 95 % bootstraps over tasks, and over the samples of "
        "these tasks; with five or six of them a tenth too narrow, and where all tasks go alike, an interval over tasks says nothing. Tokens and seconds: of one "
        "sample of one task; dense: nats a token of the outputs.",
        *(
            ["", f"Left out, as the model does not read so much at once: {left_out} of the tasks given."]
            if left_out
            else []
        ),
        "",
        *markdown(
            [
                "condition",
                "tasks",
                "samples",
                "solved",
                "over tasks",
                "over samples",
                "gold_logprob",
                "tokens",
                "seconds",
            ],
            (
                [
                    r["condition"],
                    r["tasks"],
                    r["samples"],
                    number(r["rate"]),
                    between(r["ci95"], ".2f"),
                    between(r["ci95_samples"], ".2f"),
                    number(r["gold_logprob"]),
                ]
                + [f"{r['tokens']:,}", f"{r['seconds']:,.1f}"]
                for r in result["rows"]
            ),
        ),
    ]
    if result["compared"]:
        ratios = [[r["ratio"], *(r["ratio_ci95"] or (None, None))] for r in result["compared"]]
        cells = (
            [f"{r['condition']} over {r['with']}", with_interval(r["difference"], "+.3f"), with_interval(own, ".2f")]
            for r, own in zip(result["compared"], ratios)
        )
        lines += ["", *markdown(["", "difference", "ratio"], cells)]
    if result["cost"]:
        lines += [
            "",
            f"A task as `peft` and `transformers` do it takes {with_interval(result['cost'], '.1f')} times as long as `fixed`, whose samples train and answer together.",
        ]
    lines += [
        "",
        *markdown(
            ["task", *conditions], ([t["id"], *(number(t[c], ".2f") for c in conditions)] for t in result["tasks"])
        ),
    ]
    return "\n".join(lines) + "\n"
