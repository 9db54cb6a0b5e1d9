"""The outer loop for few-shot tasks: tasks → an editor that chooses how to study them.

SEAL's few-shot half: several recipes are drawn for each task, each is an adapter, all of a task in one stack; the editor
is finetuned on the recipes that solved their task. With a model that solves few, the recipe of a task under which its
outputs are likeliest, if likelier than untouched, makes up the number (`min_kept`): its reward can rank where none solves.

A round is a folder: `trials.jsonl`, a line a task; `editor/`; `round.json`, written last. What is there is not done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from selfedit.config import RecipeConfig, TrainConfig
from selfedit.edits.recipe import FIXED_HERE as RECIPES_HERE
from selfedit.edits.recipe import Recipe, read_recipe, write_recipes, writing_sequence
from selfedit.errors import AdapterError, SelfeditError
from selfedit.loop.editor import Editor, later_rounds, load_editor, save_editor
from selfedit.loop.fewshot import FIXED_HERE, TRAIN, check, check_known, gold_logprob, shown, solved, try_recipes
from selfedit.loop.journal import Journal, lock_run_folder, read_back, software, write_json
from selfedit.model.backend import Adapters, Job
from selfedit.model.load import Model
from selfedit.tasks.arc import ArcTask
from selfedit.types import Progress, no_progress, stable_seed, text_hash

STYLE = "recipe"
"""An Editor's, that writes recipes."""


def train_recipes(
    model: Model,
    tasks: Sequence[ArcTask],
    out: Path,
    rounds: int,
    config: RecipeConfig,
    trial: TrainConfig = TRAIN,
    *,
    progress: Progress = no_progress,
) -> list[dict]:
    """So many rounds, each with all tasks. `out` gets a folder a round, and `rounds.json`. Raises SelfeditError on tasks
    that cannot be studied, and if `out` holds a run with other settings."""
    if not tasks:
        raise SelfeditError("give at least 1 task")
    check(model, tasks)
    check_known(tasks)
    _alone = lock_run_folder(
        out,
        model.identity()
        | {
            "data": text_hash(*(t.key for t in tasks)),
            "config": asdict(config),
            "trial": asdict(trial),
            "fixed": text_hash(*FIXED_HERE, *RECIPES_HERE),
        },
    )
    summaries = []
    for number in range(1, rounds + 1):
        progress("rounds", number - 1, rounds)
        summaries.append(_round(model, tasks, out, number, config, trial, progress))
    progress("rounds", rounds, rounds)
    write_json(out / "rounds.json", summaries + later_rounds(out, rounds))
    return summaries


def _round(
    model: Model,
    tasks: Sequence[ArcTask],
    out: Path,
    number: int,
    config: RecipeConfig,
    trial: TrainConfig,
    progress: Progress,
) -> dict:
    folder = out / f"round-{number}"
    if (folder / "round.json").exists():
        return read_back(folder / "round.json")
    editor, stack = Editor(model.name, model.fingerprint, STYLE), None
    if number > 1:
        editor, stack = load_editor(out / f"round-{number - 1}" / "editor", model)
    journal = Journal(folder / "trials.jsonl")
    tried = {record["task"]: record for record in journal.records}
    for i, task in enumerate(tasks):
        progress("tasks", i, len(tasks))
        if task.id not in tried:
            start = time.perf_counter()
            seeds = [stable_seed(config.seed, "recipe", number, task.id, k) for k in range(config.edits)]
            recipes = write_recipes(
                model, [(shown(model, task), seed) for seed in seeds], stack, temperature=config.temperature
            )
            found = try_recipes(model, [(task, recipe, seed) for recipe, seed in zip(recipes, seeds)], trial, progress)
            (untouched,) = gold_logprob(model, [(task, None)])
            journal.add(
                {"task": task.id, "untouched": untouched, "seconds": round(time.perf_counter() - start, 2)}
                | {
                    "recipes": [json.loads(r.to_json()) for r in recipes],
                    "solved": [solved(task, t.answers) for t in found],
                }
                | {"gold_logprob": [t.gold_logprob for t in found], "tokens": [t.tokens for t in found]}
            )
            tried[task.id] = journal.records[-1]
    progress("tasks", len(tasks), len(tasks))
    trials = [tried[task.id] for task in tasks]
    kept = reinforced(trials, config.min_kept)
    sequences = [writing_sequence(model, shown(model, tasks[i]), _recipe(trials[i], k)) for i, k in kept]
    adapter, start = stack, time.perf_counter()
    if sequences:
        again = stack.subset([0]) if stack else None
        jobs = [Job(tuple(sequences), stable_seed(config.seed, "editor", number))]
        adapter, _ = model.backend.train(jobs, config.finetune, start=again, on_step=partial(progress, "finetune"))
    seconds = time.perf_counter() - start
    studied = tuple(sorted({*editor.contexts, *(task.key for task in tasks)}))
    editor = save_editor(
        folder / "editor", replace(editor, round=number, parent=editor.adapter_hash, contexts=studied), model, adapter
    )
    summary = {
        "round": number, "software": software(), "editor": editor.summary(), "tasks": len(tasks), "recipes": sum(len(t["recipes"]) for t in trials),
        "solved": sum(s == 1 for t in trials for s in t["solved"]), "tasks_solved": sum(max(t["solved"]) == 1 for t in trials), "kept": len(kept),
        "gain": sum(gains) / len(gains) if (gains := [g for t in trials for g in _gains(t) if g is not None]) else None,
        "seconds": round(sum(t["seconds"] for t in trials) + seconds, 1), "seconds_finetuning": round(seconds, 1),
    }  # fmt: skip
    write_json(folder / "round.json", summary)
    return summary


def reinforced(trials: Sequence[dict], least: int) -> list[tuple[int, int]]:
    """(task, recipe) places: every recipe that solved its task, unless all did, which tells nothing; while that is fewer
    than `least`, of the tasks that none solved the recipe that gained most in log-probability, the greatest gains first."""
    found = [
        (i, k)
        for i, t in enumerate(trials)
        if min(t["solved"]) < 1
        for k, right in enumerate(t["solved"])
        if right == 1
    ]
    others = [
        max((gain, i, k) for k, gain in enumerate(_gains(t)) if gain is not None)
        for i, t in enumerate(trials)
        if max(t["solved"]) < 1 and any(_gains(t))
    ]
    gained = [(i, k) for gain, i, k in sorted(others, reverse=True) if gain > 0]
    return found + gained[: max(0, least - len(found))]


def _gains(trial: dict) -> list[float | None]:
    """Of each recipe, nats a token over the untouched model; None where it diverged."""
    return [None if value is None else value - trial["untouched"] for value in trial["gold_logprob"]]


def load_recipe_editor(folder: Path, model: Model) -> tuple[Editor, Adapters | None]:
    """As `load_editor`. Raises AdapterError for one that writes about documents."""
    editor, stack = load_editor(folder, model)
    if editor.style != STYLE:
        raise AdapterError(
            f"{folder}: an editor that writes about documents; `selfedit train-editor --domain arc` makes one for tasks"
        )
    return editor, stack


def _recipe(trial: dict, place: int) -> Recipe:
    return read_recipe(json.dumps(trial["recipes"][place]))
