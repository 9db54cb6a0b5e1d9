"""`selfedit bench knowledge`: what is answered without the passage, after learning it in every way one could.

In: tasks (passages with questions) and conditions (bench/conditions.py). Out: `results.json`, `results.md`, plots, and
`trials.jsonl`, a line for each passage, condition and seed with what was answered. The same questions, the same judge,
one model; passages one at a time or so many together in one adapter. What stands in trials.jsonl is not done again:
a stopped run goes on, a finished one takes more conditions, passages or seeds.

Intervals are bootstraps over passages, 95 %: a passage is drawn with all its questions and seeds, in every condition
at once, so differences are paired. Passages that share an adapter are drawn apart too: with few adapters the interval
is too narrow. An answer that the judge left unscored is in no mean; above 5 % of a condition's the run fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

from selfedit.bench.baselines import FINETUNE_RATE, check_libraries
from selfedit.bench.conditions import (
    QUESTIONS_A_SENTENCE,
    RETRIEVED,
    SEAL_STYLE,
    TEACHER_TOKENS,
    Condition,
    Retriever,
    jobs,
    parse,
    prompt_override,
)
from selfedit.bench.tables import heading, markdown, with_interval
from selfedit.bench.tallies import difference, interval, matrix, ratio, share
from selfedit.config import TrainConfig
from selfedit.edits.quiz import with_sentences
from selfedit.edits.styles import STYLES
from selfedit.errors import SelfeditError, UnscoredError
from selfedit.judge.evaluate import ANSWER_TOKENS, Query, offline, offline_name, respond
from selfedit.loop.journal import Journal, lock_run_folder, software, write_json, write_text
from selfedit.loop.trial import writing_style
from selfedit.types import Judge, Progress, Task, no_progress, text_hash

TRAIN = TrainConfig(
    rank=16, alpha=32.0, first_layer=0.33, learning_rate=2e-3, epochs=8, batch_size=2, steps_per_epoch=1
)
"""Those of `learn` (docs/LOG.md, study 8) with more epochs, since most edits have few sequences; compared in study 12."""
ADAPTERS = 8
"""Trained in one stack, at most."""
UNSCORED_MOST = 0.05
JUDGED_AT_ONCE = 64
"""Records, of several answers each."""
FIXED = tuple(
    map(
        repr,
        (QUESTIONS_A_SENTENCE, TEACHER_TOKENS, RETRIEVED, ANSWER_TOKENS, SEAL_STYLE, FINETUNE_RATE, *STYLES.values()),
    )
)
"""What results depend on and no option changes: with other values it is another run."""


@dataclass(frozen=True)
class Unit:
    """What one adapter learns, and is asked about."""

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
    """Also so many passages in one adapter."""
    editor: Path | None = None
    """A run of the outer loop, for `seal`."""
    train: TrainConfig = TRAIN
    judge: Judge = offline
    judge_name: str = field(default_factory=offline_name)
    """By which its verdicts are known."""

    def __post_init__(self):
        if (self.judge is offline) is not (self.judge_name == offline_name()):
            raise SelfeditError("give the judge a name of its own, by which its verdicts are known")
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
    """Raises SelfeditError, before any work, on what cannot be run."""
    from selfedit.bench.plots import knowledge_plots, pyplot

    pyplot()
    bench = _Bench(model_name, tasks, out, setting, progress, notify)
    for unit_group in bench.todo():
        bench.do(unit_group)
    bench.rejudge()
    result = bench.result() | {"precision": bench.model.backend.precision, "command": command, "software": software()}
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
            self.retriever  # without its library it would fail after much else
        self.together = 1, *sorted(set(setting.together))
        self.left = 0
        """Units to be done still."""
        self._alone = lock_run_folder(out, self.settings())
        self.journal = Journal(out / "trials.jsonl")
        self.done = {self.record_key(r): r for r in self.journal.records}

    def settings(self) -> dict:
        return self.model.identity() | {"config": text_hash(json.dumps(asdict(self.setting.train)), *FIXED)}

    def record_key(self, record: dict) -> tuple:
        return record["condition"], record["together"], record["seed"], record["task"], record["depends"]

    def key(self, unit: Unit, task: Task) -> tuple:
        return unit.condition.text, unit.together, unit.seed, task.key, self.depends(unit, task)

    def depends(self, unit: Unit, task: Task) -> str:
        """What the answers depend on besides the task itself; empty if nothing."""
        parts = [t.passage.id for t in unit.tasks] if unit.together > 1 else []
        if unit.condition.name == "seal":
            parts.append(self.editor.id)
        elif unit.condition.name == "edits":
            parts += [text for t in unit.tasks for text in t.edits[writing_style(unit.condition.detail)]]
        elif unit.condition.name == "retrieval":
            parts += [t.passage.id for t in self.tasks]
        return text_hash(*parts)[:12] if parts else ""

    # what there is to do

    @cached_property
    def units(self) -> list[Unit]:
        """In the order in which they are done: the cheap conditions first, seed by seed."""
        return [
            Unit(condition, tuple(self.tasks[low : low + n]), seed, n)
            for n in self.together
            for seed in range(self.setting.seeds)
            for condition in sorted(self.conditions, key=lambda c: c.trains)
            if condition.trains or (n == 1 and seed == 0)  # the others are the same for every seed
            if not (n > 1 and condition.name == "finetune")
            for low in range(0, len(self.tasks) - n + 1, n)  # passages that do not fill an adapter are left out
        ]

    def todo(self) -> Iterator[list[Unit]]:
        """Groups of one condition and size that are done at once."""
        left = [u for u in self.units if any(self.key(u, t) not in self.done for t in u.tasks)]
        self.left = len(left)
        for (condition, _), like in groupby(left, key=lambda u: (u.condition, u.together)):
            like, size = list(like), 1 if condition.name == "finetune" else ADAPTERS
            yield from (like[low : low + size] for low in range(0, len(like), size))

    def do(self, units: list[Unit]) -> None:
        self.progress("trials", len(self.units) - self.left, len(self.units))
        condition = units[0].condition
        start = time.perf_counter()
        if condition.name == "finetune":
            model, stack, tokens = self.finetuned(units[0])
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
        )
        stack, logs = self.model.backend.train(made, self.setting.train, on_step=self.stage("train"))
        return stack, [log.tokens for log in logs]

    def finetuned(self, unit: Unit):
        from selfedit.bench.baselines import finetune

        (made,) = jobs(self.model, unit.condition, [(unit.tasks, unit.seed)], self.setting.train)
        epochs = made.epochs or self.setting.train.epochs
        weights = finetune(self.model, made.examples, made.seed, epochs)
        return (
            replace(self.model, backend=self.model.backend.with_weights(weights)),
            None,
            [epochs * sum(len(s.tokens) for s in made.examples)],
        )

    def ask(self, model, stack, units: list[Unit], adapters, tokens, seconds: float) -> None:
        pairs = [(unit, adapter, task) for unit, adapter in zip(units, adapters) for task in unit.tasks]
        asked = [
            Query(
                question,
                adapter,
                prompt_override(
                    unit.condition, task, question, self.retriever if unit.condition.name == "retrieval" else None
                ),
            )
            for unit, adapter, task in pairs
            for question in task.questions
        ]
        responses = iter(respond(model, asked, stack, on_token=self.stage("test")))
        sizes = {id(unit): len(unit.tasks) for unit in units}
        trained = {id(unit): n for unit, n in zip(units, tokens)}
        for unit, _, task in pairs:
            own = [next(responses) for _ in task.questions]
            record = dict(
                condition=unit.condition.text, together=unit.together, seed=unit.seed, task=task.key, id=task.id, depends=self.depends(unit, task),
                judge=offline_name(), correct=[r.correct for r in own], gold_logprob=[round(r.gold_logprob, 5) for r in own], answers=[r.text for r in own],
                tokens=trained[id(unit)] / sizes[id(unit)], seconds=round(seconds / sizes[id(unit)], 3),
            )  # fmt: skip
            self.journal.add(record)
            self.done[self.key(unit, task)] = record

    @cached_property
    def retriever(self) -> Retriever:
        return Retriever(self.tasks)

    def stage(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(name, done, total)

    def rejudge(self) -> None:
        """Ask for the verdicts that are missing, or another judge's: the offline one has seen every answer when it was given,
        so that no refusal can lose one."""
        asked = []
        for unit in self.units:
            for task in unit.tasks:
                record = self.done[self.key(unit, task)]
                if record["judge"] != self.setting.judge_name or None in record["correct"]:
                    asked.append((unit, task, record))
        for low in range(0, len(asked), JUDGED_AT_ONCE):
            self.progress("judge", low, len(asked))
            part = asked[low : low + JUDGED_AT_ONCE]
            pairs = [pair for _, task, record in part for pair in zip(task.questions, record["answers"])]
            verdicts = iter(self.setting.judge(pairs))
            for unit, task, record in part:
                renewed = record | {
                    "correct": [next(verdicts) for _ in task.questions],
                    "judge": self.setting.judge_name,
                }
                self.journal.add(renewed)
                self.done[self.key(unit, task)] = renewed

    # what comes out

    def result(self) -> dict:
        tables = {(c.text, n): self.tallies(c, n) for n in self.together for c in self.conditions if self.of(c, n)}
        unscored = 0
        for (text, _), own in tables.items():
            _, scored, _, asked = matrix(own).sum(0)
            unscored += int(asked - scored)
            if asked - scored > UNSCORED_MOST * asked:
                raise UnscoredError(
                    f"{text}: the judge left {asked - scored:.0f} of {asked:.0f} answers unscored; the same command asks it again"
                )
        base = tables.get(("base", 1))
        rows = []
        for (text, n), own in tables.items():
            alike = tables.get((f"passage@{text.partition('@')[2]}", n))  # at the same budget, where that was run
            passage = alike if alike is not None and alike is not own else tables.get(("passage", n))
            rows.append(
                {"condition": text, "together": n} | self.row(own, base, passage, tables.get(("in-context", 1)))
            )
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

    def of(self, condition: Condition, together: int) -> list[Unit]:
        return [u for u in self.units if u.condition == condition and u.together == together]

    def tallies(self, condition: Condition, together: int) -> dict:
        """Of each passage, summed over its seeds: [right, scored, dense, asked] in all and by kind of question; tokens and seconds."""
        found: dict[str, dict] = {}
        for unit in self.of(condition, together):
            for task in unit.tasks:
                record = self.done[self.key(unit, task)]
                own = found.setdefault(task.key, {"kinds": {}, "tokens": 0.0, "seconds": 0.0})
                own["tokens"] += record["tokens"]
                own["seconds"] += record["seconds"]
                for question, verdict, gold_logprob in zip(task.questions, record["correct"], record["gold_logprob"]):
                    for kind in ("", question.kind):
                        tally = own["kinds"].setdefault(kind, [0, 0, 0.0, 0])
                        tally[0] += bool(verdict)
                        tally[1] += verdict is not None
                        tally[2] += gold_logprob
                        tally[3] += 1
        return found

    def row(self, own: dict, base: dict | None, passage: dict | None, ceiling: dict | None) -> dict:
        kinds = sorted({kind for p in own.values() for kind in p["kinds"]} - {""})
        tallies = matrix(own)
        return {
            "passages": len(own),
            "questions": sum(len(t.questions) for t in self.tasks if t.key in own),
            "accuracy": share(tallies),
            "ci95": interval(tallies),
            "vs_base": difference(own, base),
            "vs_passage": difference(own, passage),
            "of_in_context": ratio(own, ceiling),
            "gold_logprob": float(tallies[:, 2].sum() / tallies[:, 3].sum()),
            "train_tokens": round(sum(p["tokens"] for p in own.values())),
            "seconds": round(sum(p["seconds"] for p in own.values()), 1),
            "by_kind": {
                k: {
                    "accuracy": share(matrix(own, k)),
                    "ci95": interval(matrix(own, k)),
                    "of_in_context": ratio(own, ceiling, k),
                }
                for k in kinds
            }
            if len(kinds) > 1
            else {},
        }


def table(result: dict) -> str:
    """The rows in Markdown, for people."""

    def accuracy(row: dict) -> str:
        return with_interval([row["accuracy"], *(row["ci95"] or (None, None))])

    def cells(r: dict) -> list[str]:
        runs = r["passages"] * (result["seeds"] if r["train_tokens"] else 1)
        return [
            *(str(r[name]) for name in ("condition", "together", "passages", "questions")), accuracy(r),
            with_interval(r["vs_base"], "+.3f"), with_interval(r["vs_passage"], "+.3f"), with_interval(r["of_in_context"], ".2f"),
            f"{r['gold_logprob']:.2f}", f"{r['train_tokens'] / runs:,.0f}", f"{r['seconds'] / runs:.1f}",
        ]  # fmt: skip

    unscored = f" ({result['unscored']} answers unscored)" if result["unscored"] else ""
    head = [
        "condition",
        "together",
        "passages",
        "questions",
        "accuracy",
        "− base",
        "− passage",
        "÷ in-context",
        "gold_logprob",
        "tokens a passage",
        "seconds a passage",
    ]
    lines = [
        *heading("Knowledge", result),
        f"Closed book but for in-context and retrieval; dense: log-probability of the right answer, short or as a sentence, nats a token; {result['seeds']} seeds; "
        f"judge: {result['judge']}{unscored}. 95 % intervals: paired bootstrap over passages.",
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
        lines += ["", *markdown(["difference", "together", "accuracy", "tokens a passage"], differences)]
    kinds = list(dict.fromkeys(kind for r in result["rows"] for kind in r["by_kind"]))
    if kinds:
        for title, shown in (("accuracy", accuracy), ("÷ in-context", lambda own: with_interval(own["of_in_context"]))):
            by_kind = (
                [r["condition"], r["together"], *(shown(r["by_kind"][k]) if k in r["by_kind"] else "–" for k in kinds)]
                for r in result["rows"]
            )
            lines += ["", *markdown([title, "together", *kinds], by_kind)]
    return "\n".join(lines) + "\n"
