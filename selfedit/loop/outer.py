"""The outer loop: tasks → an editor that writes better study material (ReST-EM, as in SEAL, arXiv:2506.10943).

In each round the editor proposes several candidates per task, every candidate is studied by an adapter of its own, the
adapters are rewarded, and the editor is finetuned on the best candidates. What tasks, candidates and rewards are is
known to a `Domain` (loop/domains/): four methods.

A round is a folder: `edits.jsonl` and `trials.jsonl` with one line per task, `editor/`, and `round.json`, which is
written last. A stopped run continues from what these files hold, and does nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from selfedit.config import RecipeConfig, RestemConfig
from selfedit.loop.editor import Editor, later_rounds, load_editor, save_editor
from selfedit.loop.journal import Journal, lock_run_folder, read_back, software, write_json
from selfedit.model.backend import Adapters, Job, lora_config
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.types import Progress, no_progress, stable_seed, text_hash


@dataclass(frozen=True)
class Round:
    """What stays the same throughout a round."""

    number: int
    """From 1."""
    tasks: Sequence[Any]
    editor: Editor
    """The editor of the previous round, which proposes in this one."""
    adapters: Adapters | None = None
    """Its adapter in row 0; None: the untouched model proposes."""
    previous: dict | None = None
    """Summary of the previous round."""
    progress: Progress = no_progress


@dataclass(frozen=True)
class Block:
    """Tasks of a round that are worked on together, with the candidates of each."""

    tasks: Sequence[Any]
    candidates: Sequence[Sequence[Any]]
    start: int = 0
    """Position of the first task in the round."""


@dataclass(frozen=True)
class Lesson:
    """What a round's trials teach the editor."""

    examples: Sequence[TokenizedExample]
    """What the editor is finetuned on."""
    edits: int
    """Number of candidates that the examples come from."""
    contexts: tuple[str, ...]
    """Identifiers of the round's tasks. The editor must not be judged on them."""
    report: dict
    """The domain's part of the round's summary."""
    style: str
    """The style in which the editor writes from now on."""
    why_not: str = ""
    """The reason, if there are no examples."""
    quality: Callable[[Adapters | None], dict[str, float]] | None = None
    """Measures how well an editor writes."""
    min_quality: float = 0.0
    """Share of each of these numbers that the finetuned editor must reach of its predecessor's; otherwise it is
    discarded."""


class Domain(Protocol):
    """A kind of task that an editor can be trained for."""

    model: Model
    tasks: Sequence[Any]
    """Each has an `id` for people, and a `key` that depends on its content."""
    config: RestemConfig | RecipeConfig
    settings: dict[str, str]
    """What results depend on besides the model, the tasks and the config."""
    style: str
    """The style of the first editor."""
    candidate_from_json: Callable[[dict], Any]
    """Reads the `asdict` of a candidate. Candidates and trials are frozen dataclasses."""
    trial_from_json: Callable[[dict], Any]

    def propose(self, current: Round, tasks: Sequence[Any]) -> list[Sequence[Any]]:
        """The candidates of each task, written by the round's editor."""

    def study(self, current: Round, block: Block) -> Any:
        """Trains one adapter per candidate, and those that they are compared with."""

    def reward(self, current: Round, block: Block, studied: Any) -> list[Any]:
        """One trial per task, from what `study` returned. Trials have a `task` (its key), `seconds` and
        `seconds_writing`, which the loop fills in."""

    def editor_examples(self, current: Round, trials: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Lesson:
        """What the editor is finetuned on, given the trials and the candidates of all tasks of the round."""


def train_editor(domain: Domain, out: Path, rounds: int, *, progress: Progress = no_progress) -> list[dict]:
    """Runs the rounds and returns their summaries. Each round takes the next `config.contexts` tasks and starts again
    from the first when they run out.

    `out` gets a folder for each round, and `rounds.json`. Raises RunError if it holds a run with other settings.
    """
    tasks, contexts = domain.tasks, domain.config.contexts or len(domain.tasks)
    settings = {"data": text_hash(*(task.key for task in tasks)), "config": asdict(domain.config)} | domain.settings
    _lock = lock_run_folder(out, domain.model.identity() | settings)
    summaries = []
    for number in range(1, rounds + 1):
        progress("rounds", number - 1, rounds)
        first = (number - 1) * contexts
        selected = [tasks[i % len(tasks)] for i in range(first, first + min(contexts, len(tasks)))]
        summaries.append(run_round(domain, selected, out, number, progress))
    progress("rounds", rounds, rounds)
    write_json(out / "rounds.json", summaries + later_rounds(out, rounds))
    return summaries


def run_round(domain: Domain, tasks: Sequence[Any], out: Path, number: int, progress: Progress = no_progress) -> dict:
    """Does what is left of a round, and returns its summary, which is also in its `round.json`."""
    folder, before = out / f"round-{number}", out / f"round-{number - 1}"
    if (folder / "round.json").exists():
        return read_back(folder / "round.json")
    if number == 1:
        current = Round(1, tasks, Editor(domain.model.name, domain.model.fingerprint, domain.style), progress=progress)
    else:
        editor, adapters = load_editor(before / "editor", domain.model)
        current = Round(number, tasks, editor, adapters, read_back(before / "round.json"), progress)
    candidates, trials = _try_candidates(domain, current, folder)
    start = time.perf_counter()
    lesson = domain.editor_examples(current, trials, candidates)
    adapters, guard = _finetune(domain, current, lesson)
    editor = replace(
        current.editor, style=lesson.style, contexts=tuple(sorted({*current.editor.contexts, *lesson.contexts}))
    )
    if adapters is not None:
        editor = replace(editor, round=number, parent=current.editor.adapter_hash)
    # without a new adapter, the editor writes as before, in the lesson's style
    written_by = current.adapters if adapters is None else adapters
    editor = save_editor(folder / "editor", editor, domain.model, written_by)
    seconds = time.perf_counter() - start
    summary = {
        "round": number,
        "software": software(out),
        "editor": editor.summary(),
        "finetuned": adapters is not None,
        "guard": guard,
        **lesson.report,
        "seconds": round(sum(t.seconds for t in trials) + seconds, 1),
        "seconds_writing": round(sum(t.seconds_writing for t in trials), 1),
        "seconds_finetuning": round(seconds, 1),
    }
    write_json(folder / "round.json", summary)
    return summary


def _try_candidates(domain: Domain, current: Round, folder: Path) -> tuple[list, list]:
    """The candidates and the trial of each task of the round, from disk where they are there."""
    edits_file, trials_file = Journal(folder / "edits.jsonl"), Journal(folder / "trials.jsonl")
    candidates = {r["task"]: [domain.candidate_from_json(edit) for edit in r["edits"]] for r in edits_file.records}
    trials = {r["task"]: domain.trial_from_json(r) for r in trials_file.records}
    tasks, size = current.tasks, domain.config.block
    for start in range(0, len(tasks), size):
        current.progress("tasks", start, len(tasks))
        if not (untried := [task for task in tasks[start : start + size] if task.key not in trials]):
            continue
        began = time.perf_counter()
        unwritten = [task for task in untried if task.key not in candidates]
        for task, written in zip(unwritten, domain.propose(current, unwritten) if unwritten else []):
            edits = [asdict(edit) for edit in written]
            edits_file.add({"task": task.key, "id": task.id, "editor": current.editor.id, "edits": edits})
            candidates[task.key] = written
        seconds_writing = time.perf_counter() - began
        block = Block(untried, [candidates[task.key] for task in untried], start)
        rewarded = domain.reward(current, block, domain.study(current, block))
        seconds = time.perf_counter() - began
        for trial in rewarded:
            trial = replace(
                trial,
                seconds=round(seconds / len(untried), 2),
                seconds_writing=round(seconds_writing / len(untried), 2),
            )
            trials_file.add(asdict(trial))
            trials[trial.task] = trial
    current.progress("tasks", len(tasks), len(tasks))
    return [candidates[task.key] for task in tasks], [trials[task.key] for task in tasks]


def _finetune(domain: Domain, current: Round, lesson: Lesson) -> tuple[Adapters | None, dict]:
    """The finetuned editor and how it compares with its predecessor; None if there are no examples, or if it writes
    much worse."""
    if not lesson.examples:
        return None, {"taken": False, "why": lesson.why_not}
    backend, config, start = domain.model.backend, domain.config.finetune, None
    if current.adapters is not None and current.adapters.config == lora_config(backend.num_layers, config):
        start = current.adapters.subset([0])
    job = Job(tuple(lesson.examples), stable_seed(domain.config.seed, "editor", current.number))
    adapters, _ = backend.train([job], config, start=start, on_step=partial(current.progress, "finetune"))
    guard, worse = {}, []
    if lesson.quality:
        guard = {"before": lesson.quality(current.adapters), "after": lesson.quality(adapters)}
        worse = [key for key, value in guard["after"].items() if value < lesson.min_quality * guard["before"][key]]
    guard |= {
        "taken": not worse,
        "why": f"much less {' and '.join(worse)} than before" if worse else "",
        "edits": lesson.edits,
        "sequences": len(lesson.examples),
    }
    return (None if worse else adapters), guard
