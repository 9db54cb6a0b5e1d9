"""`selfedit bench knowledge`: closed-book accuracy after learning passages under different conditions.

In: tasks (passages with questions) and conditions (bench/conditions.py). Out: `results.json`, `results.md`, plots, and
`trials.jsonl` with one line per passage, condition and seed that holds the answers. All conditions have the same model,
questions and judge. An adapter learns one passage, or several together. Records in trials.jsonl are not made again: a
stopped run resumes, and a finished run can be extended by conditions, passages or seeds.

Intervals are 95 % bootstraps over passages. A passage is resampled with all its questions and seeds, and in all
conditions at once, so differences are paired. Passages that share an adapter are resampled separately, so with few
adapters the interval is too narrow. Answers that the judge left unscored are in no mean; if they are more than 5 % of a
condition, the run fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

from selfedit.bench.baselines import base_of, check_libraries
from selfedit.bench.conditions import Condition, Retriever, jobs, parse, prompt_override
from selfedit.bench.tables import heading, markdown, with_interval
from selfedit.bench.tallies import add, difference, interval, matrix, ratio, share
from selfedit.config import StudyConfig, TrainConfig
from selfedit.edits.quiz import with_sentences
from selfedit.edits.styles import STYLES
from selfedit.errors import SelfeditError, UnscoredError
from selfedit.judge.evaluate import Query, offline, offline_name, respond
from selfedit.loop.journal import Journal, lock_run_folder, software, write_json, write_text
from selfedit.loop.trial import writing_style
from selfedit.types import Judge, Progress, Task, no_progress, text_hash

TRAIN = TrainConfig(
    rank=16, alpha=32.0, first_layer=0.33, learning_rate=2e-3, epochs=8, batch_size=2, steps_per_epoch=1
)
"""The settings of `learn` with more epochs, since most edits have few sequences (docs/LOG.md, studies 8 and 12)."""
ADAPTERS = 8
"""Maximum number of adapters that are trained at once."""
UNSCORED_MOST = 0.05
"""Maximum share of unscored answers per condition."""
JUDGED_AT_ONCE = 64
"""Records per call of the judge; a record has several answers."""


@dataclass(frozen=True)
class Unit:
    """The passages that one adapter learns and is then tested on."""

    condition: Condition
    tasks: tuple[Task, ...]
    seed: int
    together: int


@dataclass(frozen=True)
class Setting:
    conditions: Sequence[str]
    seeds: int = 1
    """How often each passage is learned."""
    together: Sequence[int] = ()
    """Numbers of passages that one adapter learns together, in addition to 1."""
    editor: Path | None = None
    """The folder of an outer-loop run, for `seal`."""
    train: TrainConfig = TRAIN
    study: StudyConfig = StudyConfig()
    judge: Judge = offline
    judge_name: str = field(default_factory=offline_name)
    """Identifies the verdicts of this judge in the records."""

    def __post_init__(self):
        if (self.judge is offline) is not (self.judge_name == offline_name()):
            raise SelfeditError("give the judge a name that differs from the name of the offline judge")
        if self.seeds < 1 or any(n < 2 for n in self.together) or not self.conditions:
            raise SelfeditError("give conditions, at least 1 seed, and at least 2 passages to --together")


def run(
    model_name: str,
    tasks: Sequence[Task],
    out: Path,
    setting: Setting,
    *,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json.

    Raises SelfeditError, before any work, on settings that cannot be run.
    """
    from selfedit.bench.plots import knowledge_plots, pyplot

    pyplot()
    bench = _Bench(model_name, tasks, out, setting, progress, notify)
    for unit_group in bench.todo():
        bench.do(unit_group)
    bench.rejudge()
    result = bench.result() | {
        "precision": bench.model.backend.precision,
        "command": command,
        "software": software(out),
    }
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    knowledge_plots(result, out)
    return result


class _Bench:
    def __init__(self, model_name: str, tasks: Sequence[Task], out: Path, setting: Setting, progress: Progress, notify):
        from selfedit.loop.editor import load_editor
        from selfedit.model.load import load_model

        self.tasks, self.setting, self.progress = list(map(with_sentences, tasks)), setting, progress
        self.name, self.model = model_name, load_model(model_name, notify=notify)
        self.editor, self.editor_stack = load_editor(setting.editor, self.model) if setting.editor else (None, None)
        if self.editor and (known := sum(t.passage.words_id in self.editor.contexts for t in self.tasks)):
            raise SelfeditError(
                f"the editor was trained on {known} of these passages; leave them out (--skip) or give other --data"
            )
        if too_many := [n for n in setting.together if n > len(tasks)]:
            raise SelfeditError(f"--together {too_many[0]}: there are {len(tasks)} passages")
        self.conditions = [parse(text, self.tasks, self.editor) for text in dict.fromkeys(setting.conditions)]
        if "finetune" in (names := {condition.name for condition in self.conditions}):
            check_libraries()
        if "retrieval" in names:
            _ = self.retriever  # a missing library is reported before any work
        self.together = 1, *sorted(set(setting.together))
        self.left = 0
        """Number of units that are not finished."""
        self._lock = lock_run_folder(out, self.settings())
        self.journal = Journal(out / "trials.jsonl")
        self.done = {self.record_key(r): r for r in self.journal.records}

    def settings(self) -> dict:
        config = {"train": asdict(self.setting.train), "study": asdict(self.setting.study)}
        return self.model.identity() | {"config": config, "prompts": text_hash(*map(repr, STYLES.values()))}

    def record_key(self, record: dict) -> tuple:
        return record["condition"], record["together"], record["seed"], record["task"], record["depends"]

    def key(self, unit: Unit, task: Task) -> tuple:
        return unit.condition.text, unit.together, unit.seed, task.key, self.depends(unit, task)

    def depends(self, unit: Unit, task: Task) -> str:
        """Returns a hash of what the answers depend on besides the task; empty if they depend on nothing else."""
        parts = [t.passage.id for t in unit.tasks] if unit.together > 1 else []
        if unit.condition.name == "seal":
            parts.append(self.editor.id)
        elif unit.condition.name == "edits":
            parts += [text for t in unit.tasks for text in t.edits[writing_style(unit.condition.detail)]]
        elif unit.condition.name == "retrieval":
            parts += [t.passage.id for t in self.tasks]
        return text_hash(*parts)[:12] if parts else ""

    # Work to be done.

    @cached_property
    def units(self) -> list[Unit]:
        """All units in the order in which they are run: seed by seed, conditions without training first."""
        return [
            Unit(condition, tuple(self.tasks[low : low + n]), seed, n)
            for n in self.together
            for seed in range(self.setting.seeds)
            for condition in sorted(self.conditions, key=lambda c: c.trains)
            if condition.trains or (n == 1 and seed == 0)  # without training every seed gives the same answers
            if not (n > 1 and condition.name == "finetune")
            for low in range(0, len(self.tasks) - n + 1, n)  # a last group of fewer than n passages is left out
        ]

    def todo(self) -> Iterator[list[Unit]]:
        """Yields groups of units that are run at once: units of one condition and size."""
        todo = [u for u in self.units if any(self.key(u, t) not in self.done for t in u.tasks)]
        self.left = len(todo)
        for (condition, _), group in groupby(todo, key=lambda u: (u.condition, u.together)):
            units, size = list(group), 1 if condition.name == "finetune" else ADAPTERS
            yield from (units[low : low + size] for low in range(0, len(units), size))

    def do(self, units: list[Unit]) -> None:
        self.progress("trials", len(self.units) - self.left, len(self.units))
        condition = units[0].condition
        base = base_of(self.model) if condition.name == "finetune" else None  # read before the clock starts
        start = time.perf_counter()
        if condition.name == "finetune":
            model, stack, tokens = self.finetuned(units[0], base)
            adapters = [None]
        elif condition.trains:
            model, (stack, tokens) = self.model, self.adapted(units)
            adapters = list(range(len(units)))
        else:
            model, stack, tokens, adapters = self.model, None, [0] * len(units), [None] * len(units)
        seconds = (time.perf_counter() - start) / len(units)
        self.ask(model, stack, units, adapters, tokens, seconds)
        self.left -= len(units)
        self.progress("trials", len(self.units) - self.left, len(self.units))

    def adapted(self, units: list[Unit]):
        made = jobs(
            self.model,
            units[0].condition,
            [(u.tasks, u.seed) for u in units],
            self.setting.train,
            self.editor_stack,
            self.stage("write"),
            self.setting.study,
        )
        stack, logs = self.model.backend.train(made, self.setting.train, on_step=self.stage("train"))
        return stack, [log.tokens for log in logs]

    def finetuned(self, unit: Unit, base):
        from selfedit.bench.baselines import finetune

        (made,) = jobs(
            self.model, unit.condition, [(unit.tasks, unit.seed)], self.setting.train, study=self.setting.study
        )
        epochs = made.epochs or self.setting.train.epochs
        weights = finetune(base, made.examples, made.seed, epochs, self.setting.study.finetune_rate)
        return (
            replace(self.model, backend=self.model.backend.with_weights(weights)),
            None,
            [epochs * sum(len(s.tokens) for s in made.examples)],
        )

    def ask(self, model, stack, units: list[Unit], adapters, tokens, seconds: float) -> None:
        """Asks the questions of all units and records the answers.

        `adapters`, `tokens`: the adapter and the number of training tokens of each unit; `seconds`: per unit.
        """
        retriever = self.retriever if units[0].condition.name == "retrieval" else None
        rows = [(unit, adapter, n, task) for unit, adapter, n in zip(units, adapters, tokens) for task in unit.tasks]
        queries = [
            Query(question, adapter, prompt_override(unit.condition, task, question, retriever))
            for unit, adapter, _, task in rows
            for question in task.questions
        ]
        responses = iter(
            respond(model, queries, stack, tokens=self.setting.study.answer_tokens, on_token=self.stage("test"))
        )
        for unit, _, trained, task in rows:
            of_task = [next(responses) for _ in task.questions]
            record = {
                "condition": unit.condition.text,
                "together": unit.together,
                "seed": unit.seed,
                "task": task.key,
                "id": task.id,
                "depends": self.depends(unit, task),
                "judge": offline_name(),
                "correct": [r.correct for r in of_task],
                "gold_logprob": [round(r.gold_logprob, 5) for r in of_task],
                "answers": [r.text for r in of_task],
                "tokens": trained / len(unit.tasks),
                "seconds": round(seconds / len(unit.tasks), 3),
            }
            self.journal.add(record)
            self.done[self.key(unit, task)] = record

    @cached_property
    def retriever(self) -> Retriever:
        return Retriever(self.tasks, self.setting.study.retrieved)

    def stage(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(name, done, total)

    def rejudge(self) -> None:
        """Asks the judge for verdicts that are missing or came from another judge.

        The offline judge has graded every answer before, so the answers are on disk even if this judge fails.
        """
        unjudged = []
        for unit in self.units:
            for task in unit.tasks:
                record = self.done[self.key(unit, task)]
                if record["judge"] != self.setting.judge_name or None in record["correct"]:
                    unjudged.append((unit, task, record))
        for low in range(0, len(unjudged), JUDGED_AT_ONCE):
            self.progress("judge", low, len(unjudged))
            part = unjudged[low : low + JUDGED_AT_ONCE]
            pairs = [pair for _, task, record in part for pair in zip(task.questions, record["answers"])]
            verdicts = iter(self.setting.judge(pairs))
            for unit, task, record in part:
                renewed = record | {
                    "correct": [next(verdicts) for _ in task.questions],
                    "judge": self.setting.judge_name,
                }
                self.journal.add(renewed)
                self.done[self.key(unit, task)] = renewed

    # Results.

    def result(self) -> dict:
        tables = {
            (c.text, n): self.tallies(c, n) for n in self.together for c in self.conditions if self.units_of(c, n)
        }
        unscored = 0
        for (text, _), side in tables.items():
            _, scored, _, answered = matrix(side).sum(0)
            unscored += int(answered - scored)
            if answered - scored > UNSCORED_MOST * answered:
                raise UnscoredError(
                    f"{text}: the judge left {answered - scored:.0f} of {answered:.0f} answers unscored; "
                    "run the same command to ask it again"
                )
        base, ceiling = tables.get(("base", 1)), tables.get(("in-context", 1))
        rows = []
        for (text, n), side in tables.items():
            passage = tables.get(
                (f"passage@{text.partition('@')[2]}", n)
            )  # the control at the same budget, if it was run
            if passage is None or passage is side:
                passage = tables.get(("passage", n))
            rows.append({"condition": text, "together": n} | self.row(side, base, passage, ceiling))
        pairs = [
            (a, b)
            for a in tables
            for b in tables
            if a[1] == b[1] and a != b and a[0].startswith("seal") and not b[0].startswith("seal")
        ]
        return {
            "model": self.name,
            "seeds": self.setting.seeds,
            "judge": self.setting.judge_name,
            "unscored": unscored,
            "editor": self.editor.summary() if self.editor else None,
            "train_config": json.loads(json.dumps(asdict(self.setting.train))),
            "rows": rows,
            "seal_minus": [
                {"condition": a[0], "minus": b[0], "together": a[1], "difference": difference(tables[a], tables[b])}
                | {
                    "tokens": [
                        round(sum(p["tokens"] for p in tables[side].values()) / len(tables[side]) / self.setting.seeds)
                        for side in (a, b)
                    ]
                }
                for a, b in pairs
            ],
        }

    def units_of(self, condition: Condition, together: int) -> list[Unit]:
        return [u for u in self.units if u.condition == condition and u.together == together]

    def tallies(self, condition: Condition, together: int) -> dict:
        """Returns per passage the sums over its seeds that bench/tallies.py describes, with tokens and seconds."""
        side: dict[str, dict] = {}
        for unit in self.units_of(condition, together):
            for task in unit.tasks:
                record = self.done[self.key(unit, task)]
                passage = side.setdefault(task.key, {"kinds": {}, "tokens": 0.0, "seconds": 0.0})
                passage["tokens"] += record["tokens"]
                passage["seconds"] += record["seconds"]
                for question, verdict, gold_logprob in zip(task.questions, record["correct"], record["gold_logprob"]):
                    add(side, task.key, [question.kind], verdict, gold_logprob)
        return side

    def row(self, side: dict, base: dict | None, passage: dict | None, ceiling: dict | None) -> dict:
        def accuracy(kind: str = "") -> dict:
            tallies = matrix(side, kind)
            return {"accuracy": share(tallies), "ci95": interval(tallies), "of_in_context": ratio(side, ceiling, kind)}

        kinds = sorted({kind for p in side.values() for kind in p["kinds"]} - {""})
        tallies = matrix(side)
        return accuracy() | {
            "passages": len(side),
            "questions": sum(len(t.questions) for t in self.tasks if t.key in side),
            "vs_base": difference(side, base),
            "vs_passage": difference(side, passage),
            "gold_logprob": float(tallies[:, 2].sum() / tallies[:, 3].sum()),
            "train_tokens": round(sum(p["tokens"] for p in side.values())),
            "seconds": round(sum(p["seconds"] for p in side.values()), 1),
            "by_kind": {kind: accuracy(kind) for kind in kinds} if len(kinds) > 1 else {},
        }


def table(result: dict) -> str:
    """Returns the rows as Markdown."""

    def accuracy(row: dict) -> str:
        return with_interval([row["accuracy"], *(row["ci95"] or (None, None))])

    def cells(r: dict) -> list[str]:
        runs = r["passages"] * (result["seeds"] if r["train_tokens"] else 1)
        return [
            *(str(r[name]) for name in ("condition", "together", "passages", "questions")),
            *(accuracy(r), with_interval(r["vs_base"], "+.3f"), with_interval(r["vs_passage"], "+.3f")),
            *(with_interval(r["of_in_context"], ".2f"), f"{r['gold_logprob']:.2f}"),
            *(f"{r['train_tokens'] / runs:,.0f}", f"{r['seconds'] / runs:.1f}"),
        ]

    shared = any(row["together"] > 1 for row in result["rows"])
    narrow = " Passages that are learned together are resampled one by one, so their intervals are too narrow."
    unscored = f" ({result['unscored']} answers unscored)" if result["unscored"] else ""
    head = "condition,together,passages,questions,accuracy,− base,− passage,÷ in-context".split(",")
    head += ["log-probability", "tokens per passage", "seconds per passage"]
    lines = [
        *heading("Knowledge", result),
        "Closed book, except in-context and retrieval. Log-probability: of the correct answer, short or as a sentence, "
        f"nats per token. {result['seeds']} seeds; judge: {result['judge']}{unscored}. 95 % intervals: paired "
        f"bootstrap over passages.{narrow if shared else ''}",
        "",
        *markdown(head, map(cells, result["rows"])),
    ]
    if result["seal_minus"]:
        differences = (
            [
                f"{d['condition']} − {d['minus']}",
                d["together"],
                with_interval(d["difference"], "+.3f"),
                " and ".join(f"{n:,}" for n in d["tokens"]),
            ]
            for d in result["seal_minus"]
        )
        lines += ["", *markdown(["difference", "together", "accuracy", "tokens per passage"], differences)]
    kinds = list(dict.fromkeys(kind for r in result["rows"] for kind in r["by_kind"]))
    if kinds:
        for title, cell in (("accuracy", accuracy), ("÷ in-context", lambda row: with_interval(row["of_in_context"]))):
            by_kind = [
                [r["condition"], r["together"], *(cell(r["by_kind"][k]) if k in r["by_kind"] else "–" for k in kinds)]
                for r in result["rows"]
            ]
            lines += ["", *markdown([title, "together", *kinds], by_kind)]
    return "\n".join(lines) + "\n"
