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
from selfedit.edits.recipe import Recipe, read_recipe, write_recipes, writing_sequence
from selfedit.loop.editor import Editor, load_editor, save_editor
from selfedit.loop.fewshot import TRAIN, check, dense, shown, solved, try_recipes
from selfedit.loop.journal import Journal, claim, software, write_json
from selfedit.model.load import Model
from selfedit.model.train import Job, train
from selfedit.tasks.arc import ArcTask, arc_json
from selfedit.types import Progress, no_progress, stable_seed, text_hash

STYLE = "recipe"
"""An Editor's, that writes recipes."""


def train_recipes(
    model: Model, tasks: Sequence[ArcTask], out: Path, rounds: int, config: RecipeConfig, trial: TrainConfig = TRAIN, *, progress: Progress = no_progress
) -> list[dict]:
    """So many rounds, each with all tasks. `out` gets a folder a round, and `rounds.json`. Raises SelfeditError on tasks
    that cannot be studied, and if `out` holds a run with other settings."""
    for task in tasks:
        check(model, task)
    data = text_hash(*(json.dumps(arc_json(task)) for task in tasks))
    settings = {"model": model.name, "weights": model.fingerprint, "precision": model.network.precision, "data": data}
    claim(out, settings | {"config": asdict(config), "trial": asdict(trial)})
    summaries = []
    for number in range(1, rounds + 1):
        progress("rounds", number - 1, rounds)
        summaries.append(_round(model, tasks, out, number, config, trial, progress))
    progress("rounds", rounds, rounds)
    write_json(out / "rounds.json", summaries)
    return summaries


def _round(model: Model, tasks: Sequence[ArcTask], out: Path, number: int, config: RecipeConfig, trial: TrainConfig, progress: Progress) -> dict:
    folder = out / f"round-{number}"
    if (folder / "round.json").exists():
        return json.loads((folder / "round.json").read_text())
    editor, stack = Editor(model.name, model.fingerprint, STYLE), None
    if number > 1:
        editor, stack = load_editor(out / f"round-{number - 1}" / "editor", model)
    journal, start = Journal(folder / "trials.jsonl"), time.perf_counter()
    tried = {record["task"]: record for record in journal.records}
    for i, task in enumerate(tasks):
        progress("tasks", i, len(tasks))
        if task.id not in tried:
            seeds = [stable_seed(config.seed, "recipe", number, k) for k in range(config.edits)]
            recipes = write_recipes(model, [(shown(task), seed) for seed in seeds], stack, temperature=config.temperature)
            began = time.perf_counter()
            found, _ = try_recipes(model, [(task, recipe, seed) for recipe, seed in zip(recipes, seeds)], trial, progress)
            (untouched,) = dense(model, [(task, None)])
            journal.add(
                {"task": task.id, "untouched": untouched, "seconds": round(time.perf_counter() - began, 2)}
                | {"recipes": [json.loads(r.to_json()) for r in recipes], "solved": [solved(task, t.answers) for t in found]}
                | {"dense": [t.dense for t in found], "tokens": [t.tokens for t in found]}
            )
            tried[task.id] = journal.records[-1]
    progress("tasks", len(tasks), len(tasks))
    trials = [tried[task.id] for task in tasks]
    kept = reinforced(trials, config.min_kept)
    sequences = [writing_sequence(model, shown(tasks[i]), _recipe(trials[i], k)) for i, k in kept]
    adapter = stack
    if sequences:
        again = stack.subset([0]) if stack else None
        jobs = [Job(tuple(sequences), stable_seed(config.seed, "editor", number))]
        adapter, _ = train(model.network, jobs, config.finetune, stack=again, on_step=partial(progress, "finetune"))
    studied = tuple(sorted({*editor.contexts, *(task.id for task in tasks)}))
    editor = save_editor(folder / "editor", replace(editor, round=number, parent=editor.adapter_hash, contexts=studied), adapter)
    summary = {
        "round": number, "software": software(), "editor": editor.summary(), "tasks": len(tasks), "recipes": sum(len(t["recipes"]) for t in trials),
        "solved": sum(s == 1 for t in trials for s in t["solved"]), "tasks_solved": sum(max(t["solved"]) == 1 for t in trials), "kept": len(kept),
        "gain": sum(sum(t["dense"]) / len(t["dense"]) - t["untouched"] for t in trials) / len(trials),
        "seconds": round(sum(t["seconds"] for t in trials), 1), "seconds_finetuning": round(time.perf_counter() - start - sum(t["seconds"] for t in trials), 1),
    }  # fmt: skip
    write_json(folder / "round.json", summary)
    return summary


def reinforced(trials: Sequence[dict], least: int) -> list[tuple[int, int]]:
    """(task, recipe) places: every recipe that solved its task; while that is fewer than `least`, of the tasks that none
    solved the recipe that gained most in log-probability, the greatest gains first."""
    found = [(i, k) for i, t in enumerate(trials) for k, right in enumerate(t["solved"]) if right == 1]
    others = [(max(t["dense"]) - t["untouched"], i, t["dense"].index(max(t["dense"]))) for i, t in enumerate(trials) if max(t["solved"]) < 1]
    gained = [(i, k) for gain, i, k in sorted(others, reverse=True) if gain > 0]
    return found + gained[: max(0, least - len(found))]


def _recipe(trial: dict, place: int) -> Recipe:
    return read_recipe(json.dumps(trial["recipes"][place]))
