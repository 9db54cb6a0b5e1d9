"""The outer loop: contexts with questions → an editor that writes better study material.

ReST-EM, as SEAL has it (arXiv:2506.10943): the editor writes several edits about each context, every edit is studied
by an adapter of its own, what the adapters answer closed book is the reward, and the editor is finetuned on the best.
What the published reward and selection lack is added (docs/SEAL.md, §4):

- the reward is the log-probability of the gold answers over that of the passage studied alone, not a count of five
  answers; of the short answers, since that of whole sentences also pays for knowing the passage by heart; every edit is
  trained with several seeds in one stack, and what they disagree on is the noise;
- an edit is reinforced only if it beats the untouched model, the passage alone, and (where it has questions by rule
  beside it) those questions alone, each by more than the noise; and then whether it is the best of its context or not;
- styles compete: each context has edits in several; the one that gains most is the editor's, and has most of the next
  round's edits;
- edits that lose after the first epoch stop there (successive halving), which shortens the round; in a few contexts none
  does, to see its cost;
- the editor does not study lines that nearly copy the passage; one whose usable lines are much fewer, less varied or less
  in its own words than those of the one before it is not taken.

A round is a folder: `edits.jsonl` and `trials.jsonl`, a line a context; `editor/`; `round.json`, written last. What is
there is not done again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from selfedit.config import RestemConfig
from selfedit.edits.parse import copied
from selfedit.edits.propose import check_styles, write_edits, writing_sequences
from selfedit.edits.styles import STYLES
from selfedit.errors import UnscoredError
from selfedit.judge.evaluate import ANSWER_TOKENS, Query, answers, gold_logprobs, offline_name
from selfedit.loop.editor import Editor, later_rounds, load_editor, save_editor
from selfedit.loop.journal import Journal, lock_run_folder, read_back, software, write_json
from selfedit.loop.selection import cost_of_stopping, diversity, noise, ranking, reinforced, reliability
from selfedit.loop.trial import PASSAGE, QUESTIONS, job, seal_examples, study_sequences, with_questions, writing_style
from selfedit.model.backend import Adapters, Cut, Job, lora_config
from selfedit.model.load import Model
from selfedit.types import Example, Judge, Passage, Progress, SelfEdit, Task, no_progress, stable_seed, text_hash

BLOCK = 4
"""Contexts whose edits are written and trained at once; a run that is stopped loses at most these."""
GUARDED = 16
"""Contexts on which a new editor is compared with the one before it."""


def train_editor(
    model: Model,
    tasks: Sequence[Task],
    out: Path,
    rounds: int,
    config: RestemConfig,
    *,
    judge: Judge | None = None,
    judge_name: str = "",
    progress: Progress = no_progress,
) -> list[dict]:
    """So many rounds, each with contexts of its own, in the tasks' order; from the start again where they run out.

    `out` gets a folder a round, and `rounds.json`. Raises SelfeditError if it holds a run with other settings, or a style
    does not exist.
    """
    check_styles(map(writing_style, config.styles))
    data = text_hash(*(task.key for task in tasks))
    fixed = text_hash(*map(repr, (*STYLES.values(), ANSWER_TOKENS)))
    _alone = lock_run_folder(
        out,
        model.identity()
        | {"data": data, "judge": judge_name or offline_name(), "config": asdict(config), "fixed": fixed},
    )
    summaries = []
    for number in range(1, rounds + 1):
        progress("rounds", number - 1, rounds)
        low = (number - 1) * config.contexts
        own = [tasks[i % len(tasks)] for i in range(low, low + min(config.contexts, len(tasks)))]
        before = out / f"round-{number - 1}" if number > 1 else None
        summaries.append(
            run_round(
                model, own, out / f"round-{number}", number, config, before=before, judge=judge, progress=progress
            )
        )
    progress("rounds", rounds, rounds)
    write_json(out / "rounds.json", summaries + later_rounds(out, rounds))
    return summaries


def run_round(
    model: Model,
    tasks: Sequence[Task],
    folder: Path,
    number: int,
    config: RestemConfig,
    *,
    before: Path | None = None,
    judge: Judge | None = None,
    progress: Progress = no_progress,
) -> dict:
    """A round in its folder, or what is left of it, with all these tasks; its summary, as in `round.json`.

    `before`: the round it goes on from.
    """
    finished = folder / "round.json"
    if finished.exists():
        return read_back(finished)
    round_ = _Round(model, tasks, folder, number, config, before, judge, progress)
    for low in range(0, len(tasks), BLOCK):
        progress("contexts", low, len(tasks))
        round_.try_block(tasks[low : low + BLOCK], audited=low < config.audited)
    progress("contexts", len(tasks), len(tasks))
    summary = round_.finish()
    write_json(finished, summary)
    return summary


class _Round:
    def __init__(self, model, tasks, folder: Path, number: int, config: RestemConfig, before, judge, progress):
        self.model, self.tasks, self.folder, self.number, self.config = model, tasks, folder, number, config
        self.judge, self.progress = judge, progress
        if before:
            self.editor, self.stack = load_editor(before / "editor", model)
            ranked = [row["style"] for row in read_back(before / "round.json")["styles"]]
        else:
            self.editor, self.stack, ranked = Editor(model.name, model.fingerprint, config.styles[0]), None, None
        self.styles = _styles(config, ranked)
        self.controls = list(
            dict.fromkeys([PASSAGE, *(QUESTIONS for style in self.styles if style != writing_style(style))])
        )
        self.edits = Journal(folder / "edits.jsonl")
        self.trials = Journal(folder / "trials.jsonl")
        self.written = {r["context"]: [_edit(e) for e in r["edits"]] for r in self.edits.records}
        self.tried = {r["context"]: r for r in self.trials.records}

    # edits → trials

    def try_block(self, block: Sequence[Task], audited: bool) -> None:
        if all(task.passage.id in self.tried for task in block):
            return
        start = time.perf_counter()
        self.write(block)
        written_in = time.perf_counter() - start
        records = self.trial(block, audited)
        seconds = time.perf_counter() - start
        for record in records:
            record |= {"seconds": round(seconds / len(block), 2), "seconds_writing": round(written_in / len(block), 2)}
            self.trials.add(record)
            self.tried[record["context"]] = record

    def write(self, block: Sequence[Task]) -> None:
        """The edits of each context, of which each says its style; those without anything usable are empty."""
        block = [task for task in block if task.passage.id not in self.written]
        seeds = [stable_seed(self.config.seed, "edit", self.number, k) for k in range(len(self.styles))]
        asked = [
            (task.passage, writing_style(style), seed) for task in block for style, seed in zip(self.styles, seeds)
        ]
        found = iter(write_edits(self.model, asked, self.stack, on_token=partial(self.progress, "write")))
        for task in block:
            own = [next(found) for _ in self.styles]
            self.edits.add(
                {"context": task.passage.id, "id": task.id, "editor": self.editor.id, "edits": [asdict(e) for e in own]}
            )
            self.written[task.passage.id] = own

    def trial(self, block: Sequence[Task], audited: bool) -> list[dict]:
        """Every control and every usable edit, trained with every seed, all in one stack."""
        rows = [
            (task, what, seed)
            for task in block
            for what in (*self.controls, *self.usable(task))
            for seed in range(self.config.seeds)
        ]
        index = {(task.passage.id, what, seed): row for row, (task, what, seed) in enumerate(rows)}
        first: list[float] = []
        stopped: set[int] = set()
        seconds_comparing = 0.0

        def losers(stack: Adapters) -> list[int]:
            nonlocal seconds_comparing
            start = time.perf_counter()
            first.extend(self.gold_logprob([(task, row) for row, (task, _, _) in enumerate(rows)], stack))
            seconds_comparing = time.perf_counter() - start
            losing = (
                set()
                if audited
                else {(t.passage.id, k) for t in block for k in self.ranked(t, index, first)[self.config.survivors :]}
            )
            stopped.update(row for row, (task, what, _) in enumerate(rows) if (task.passage.id, what) in losing)
            return sorted(stopped)

        jobs = [self.job(task, what, seed) for task, what, seed in rows]
        cut = Cut(self.config.cut_after, losers)
        stack, logs = self.model.backend.train(
            jobs, self.config.trial, cut=cut, on_step=partial(self.progress, "train")
        )
        ended = [row for row in range(len(rows)) if row not in stopped]
        untouched = [(task, None) for task in block]
        gold_logprob = dict(zip(ended, self.gold_logprob([(rows[row][0], row) for row in ended], stack)))
        asked = {
            (t.passage.id, what) for t in block for what in (*self.controls, *self.ranked(t, index, first)[:1])
        }  # in the levels of the summary
        answering = [
            row for row in ended if audited or rows[row][2] == 0 and (rows[row][0].passage.id, rows[row][1]) in asked
        ]
        told = self.accuracy([*((rows[row][0], row) for row in answering), *untouched], stack)
        accuracy = dict(zip(answering, told))
        before = zip(self.gold_logprob(untouched), told[len(answering) :])
        left = (self.config.trial.epochs - self.config.cut_after) / self.config.cut_after

        def side(task: Task, what: str | int) -> dict:
            own = [
                index[task.passage.id, what, seed]
                for seed in range(self.config.seeds)
                if (task.passage.id, what, seed) in index
            ]
            return {
                "first": _finite([first[row] for row in own]),
                "gold_logprob": _finite([gold_logprob[row] for row in own if row in gold_logprob]),
                "accuracy": [accuracy[row] for row in own if row in accuracy],
                "tokens": sum(logs[row].tokens for row in own),
                "spared": round(sum(logs[row].tokens * left for row in own if row in stopped)),
            }

        return [
            {"context": task.passage.id, "id": task.id, "title": task.passage.title, "audited": audited}
            | {
                "untouched": dict(zip(("gold_logprob", "accuracy"), own)),
                "controls": {what: side(task, what) for what in self.controls},
            }
            | {"candidates": [{"style": style} | side(task, k) for k, style in enumerate(self.styles)]}
            | {"seconds_comparing": round(seconds_comparing / len(block), 2)}
            for task, own in zip(block, before)
        ]

    def usable(self, task: Task) -> list[int]:
        """Edits with something to study."""
        return [k for k, edit in enumerate(self.written[task.passage.id]) if edit.examples]

    def job(self, task: Task, what: str | int, seed: int) -> Job:
        """A control or an edit. All of a context and seed have the same start, and the same questions where they have any."""
        drawn = stable_seed(self.config.seed, "trial", self.number, seed, task.passage.id)
        edit, style = (
            (SelfEdit("", ""), what)
            if isinstance(what, str)
            else (self.written[task.passage.id][what], self.styles[what])
        )
        if style != writing_style(style):
            edit = with_questions(task.passage, edit, self.config.questions, drawn)
        examples = seal_examples(task.passage, [edit])
        return job(study_sequences(self.model, task.passage, examples), examples, drawn)

    def gold_logprob(self, asked: Sequence[tuple[Task, int | None]], stack: Adapters | None = None) -> list[float]:
        """Of each context under each adapter: the mean log-probability of its short gold answers."""
        pairs = [(replace(q, sentence=""), adapter) for task, adapter in asked for q in task.questions]
        found = iter(gold_logprobs(self.model, pairs, stack))
        return [sum(next(found) for _ in task.questions) / len(task.questions) for task, _ in asked]

    def accuracy(self, asked: Sequence[tuple[Task, int | None]], stack: Adapters) -> list[float | None]:
        """Of each context under each adapter: the share of its scored answers that are right; None without any.

        Raises UnscoredError, before the block is recorded, if the judge leaves more than half unscored: it is out, and the
        same command asks again. What it will not score of the rest is in no mean, and no selection looks at it.
        """
        put = [Query(q, adapter) for task, adapter in asked for q in task.questions]
        verdicts = [
            v for _, v in answers(self.model, put, stack, judge=self.judge, on_token=partial(self.progress, "test"))
        ]
        if verdicts.count(None) > len(verdicts) / 2:
            raise UnscoredError(
                f"the judge left {verdicts.count(None)} of {len(verdicts)} answers unscored; the same command goes on from here"
            )
        told = iter(verdicts)
        scored = [[verdict for _ in task.questions if (verdict := next(told)) is not None] for task, _ in asked]
        return [sum(own) / len(own) if own else None for own in scored]

    def ranked(self, task: Task, index: dict, first: Sequence[float]) -> list[int]:
        """The candidates of a context, that which gained most so far first."""
        seeds = range(self.config.seeds)
        means = {
            k: sum(first[index[task.passage.id, k, s]] for s in seeds)
            for k in range(len(self.styles))
            if (task.passage.id, k, 0) in index
        }
        return sorted(means, key=lambda k: -means[k] if math.isfinite(means[k]) else math.inf)

    # trials → editor

    def finish(self) -> dict:
        trials = [self.tried[task.passage.id] for task in self.tasks]
        errors = noise(trials)
        kept = [
            (task, k) for task, t in zip(self.tasks, trials) for k in reinforced(t, errors, self.config.beyond_noise)
        ]
        styles = ranking(trials)
        start = time.perf_counter()
        stack, guard = self.finetuned(kept, styles[0]["style"])
        studied = tuple(sorted({*self.editor.contexts, *(task.passage.words_id for task in self.tasks)}))
        editor = replace(
            self.editor, style=styles[0]["style"], round=self.number, parent=self.editor.adapter_hash, contexts=studied
        )
        editor = save_editor(
            self.folder / "editor", editor, self.model, stack or self.stack
        )  # without a new adapter it writes as before, in that style
        tokens = sum(side["tokens"] for t in trials for side in (*t["controls"].values(), *t["candidates"]))
        spared = sum(c["spared"] for t in trials for c in t["candidates"])
        return {
            "round": self.number,
            "software": software(),
            "editor": editor.summary(),
            "finetuned": stack is not None,
            "guard": guard,
            "contexts": len(trials),
            "edits": sum(len(t["candidates"]) for t in trials),
            "usable": sum(bool(c["first"]) for t in trials for c in t["candidates"]),
            "kept": len(kept),
            "kept_styles": {s: n for s in self.styles if (n := sum(self.styles[k] == s for _, k in kept))},
            "noise": {style: error if error < math.inf else None for style, error in errors.items()},
            "reliability": {when: reliability(trials, when) for when in ("first", "gold_logprob", "accuracy")},
            "styles": styles,
            "untouched": _level(t["untouched"] for t in trials),
            "controls": {name: _level(t["controls"][name] for t in trials) for name in self.controls},
            "best": _level(
                max(
                    (c for c in t["candidates"] if c["gold_logprob"]),
                    key=lambda c: sum(c["first"]),
                    default=t["controls"][PASSAGE],
                )
                for t in trials
            ),
            "tokens": tokens,
            "tokens_spared": spared / (tokens + spared) if tokens else None,
            "stopping": cost_of_stopping(trials, self.config.survivors),
            "seconds": round(sum(t["seconds"] for t in trials) + time.perf_counter() - start, 1),
            "seconds_writing": round(sum(t["seconds_writing"] for t in trials), 1),
            "seconds_comparing": round(sum(t["seconds_comparing"] for t in trials), 1),
            "seconds_finetuning": round(time.perf_counter() - start, 1),
        }

    def finetuned(self, kept: Sequence[tuple[Task, int]], style: str) -> tuple[Adapters | None, dict]:
        """The editor finetuned on what is kept; None if there is too little, or it came out worse as a writer."""
        found = [(t, e) for t, k in kept if (e := self.own_words(t, self.written[t.passage.id][k])).examples]
        if len(found) < self.config.min_kept:
            return None, {"taken": False, "why": f"{len(found)} edits to finetune on; at least {self.config.min_kept}"}
        sequences = [s for task, edit in found for s in writing_sequences(self.model, task.passage, edit)]
        config = self.config.finetune
        start = None
        if self.stack is not None and self.stack.config == lora_config(self.model.backend.num_layers, config):
            start = self.stack.subset([0])
        jobs = [Job(tuple(sequences), stable_seed(self.config.seed, "editor", self.number))]
        stack, _ = self.model.backend.train(jobs, config, start=start, on_step=partial(self.progress, "finetune"))
        guard = {"before": self.as_writer(self.stack, style), "after": self.as_writer(stack, style)}
        least = {key: self.config.min_kept_share * value for key, value in guard["before"].items()}
        worse = [key for key, value in guard["after"].items() if value < least[key]]
        why = f"much less {' and '.join(worse)} than before" if worse else ""
        return (None if worse else stack), guard | {
            "taken": not worse,
            "why": why,
            "edits": len(found),
            "sequences": len(sequences),
        }

    def as_writer(self, stack: Adapters | None, style: str) -> dict[str, float]:
        """How varied and how much in its own words what can be used is of what this editor writes, and how much that is.
        What it copies or invents is not counted as varied: it cannot be used."""
        asked = [
            (t.passage, writing_style(style), stable_seed(self.config.seed, "guard", self.number))
            for t in self.tasks[:GUARDED]
        ]
        edits = write_edits(self.model, asked, stack)
        copies = [_copied(e, passage) for (passage, _, _), edit in zip(asked, edits) for e in edit.examples]
        return {
            "diversity": diversity([e.text for edit in edits for e in edit.examples]),
            "own words": 1 - sum(copies) / len(copies) if copies else 0.0,
            "usable lines": len(copies) / len(edits),
        }

    def own_words(self, task: Task, edit: SelfEdit) -> SelfEdit:
        """The edit without lines that nearly copy the passage: an editor that studies those ends up copying."""
        return replace(
            edit, examples=tuple(e for e in edit.examples if _copied(e, task.passage) <= self.config.max_copied)
        )


def _finite(values: list[float]) -> list[float]:
    """None of them where training diverged: that edit did not reach the end."""
    return values if all(map(math.isfinite, values)) else []


def _styles(config: RestemConfig, ranked: Sequence[str] | None) -> list[str]:
    """A style for each edit of a context: all in turn at first, later half of them in the best, the rest in the next best."""
    if not ranked:
        return [config.styles[k % len(config.styles)] for k in range(config.edits)]
    best = (config.edits + 1) // 2
    return [ranked[0] if k < best else ranked[(k - best + 1) % len(ranked)] for k in range(config.edits)]


def _copied(example: Example, passage: Passage) -> float:
    return copied(f"{example.prompt} {example.text}", passage)


def _edit(record: dict) -> SelfEdit:
    return SelfEdit(record["style"], record["text"], tuple(Example(**e) for e in record["examples"]))


def _level(sides) -> dict[str, float | None]:
    """Mean over contexts, of the mean over seeds."""
    sides = list(sides)

    def mean(key: str) -> float | None:
        own = [
            sum(v) / len(v)
            for s in sides
            if (v := [x for x in (s[key] if isinstance(s[key], list) else [s[key]]) if x is not None])
        ]
        return sum(own) / len(own) if own else None

    return {"gold_logprob": mean("gold_logprob"), "accuracy": mean("accuracy")}
