"""`selfedit bench knowledge`: what is answered without the passage, after learning it in every way one could.

In: tasks (passages with questions) and conditions (bench/conditions.py). Out: `results.json`, `results.md`, plots, and
`trials.jsonl`, a line for each passage, condition and seed with what was answered. The same questions, the same judge,
one model; passages one at a time or so many together in one adapter. What stands in trials.jsonl is not done again:
a stopped run goes on, a finished one takes more conditions, passages or seeds.

Intervals are bootstraps over passages, 95 %: a passage is drawn with all its questions and seeds, in every condition
at once, so differences are paired. An answer that the judge left unscored is in no mean; above 5 % the run fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

from selfedit.bench.conditions import Condition, Retriever, jobs, parse, put
from selfedit.config import TrainConfig
from selfedit.edits.quiz import with_sentences
from selfedit.errors import SelfeditError, UnscoredError
from selfedit.loop.journal import Journal, claim, write_json
from selfedit.types import Judge, Progress, Task, no_progress, text_hash

TRAIN = TrainConfig(rank=16, alpha=32.0, first_layer=0.33, learning_rate=2e-3, epochs=8, batch_size=2, steps_an_epoch=1)
"""Those of `learn` (docs/LOG.md, study 8) with more epochs, since most edits have few sequences; not tuned here yet."""
ADAPTERS = 8
"""Trained in one stack, at most."""
UNSCORED_MOST = 0.05
RESAMPLES = 10_000


@dataclass(frozen=True)
class Unit:
    """What one adapter learns, and is asked about."""

    condition: Condition
    tasks: tuple[Task, ...]
    seed: int
    together: int

    def key(self, task: Task) -> tuple:
        return self.condition.text, self.together, self.seed, task.passage.id


def run(
    model_name: str,
    tasks: Sequence[Task],
    out: Path,
    *,
    conditions: Sequence[str],
    seeds: int = 1,
    together: Sequence[int] = (),
    editor: Path | None = None,
    train: TrainConfig = TRAIN,
    judge: Judge | None = None,
    judge_name: str = "offline",
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """`together`: also so many passages in one adapter. Raises SelfeditError, before any work, on what cannot be run."""
    from selfedit.bench.plots import knowledge_plots, pyplot

    pyplot()
    bench = _Bench(model_name, tasks, out, conditions, seeds, together, editor, train, judge, judge_name, progress, notify)
    for unit_group in bench.todo():
        bench.do(unit_group)
    bench.rejudge()
    result = bench.result() | {"command": command}
    write_json(out / "results.json", result)
    (out / "results.md").write_text(table(result))
    knowledge_plots(result, out)
    return result


class _Bench:
    def __init__(self, model_name, tasks, out: Path, conditions, seeds, together, editor, train, judge, judge_name, progress, notify):
        from selfedit.loop.editor import load_editor
        from selfedit.model.load import load_model

        if seeds < 1 or any(n < 2 for n in together):
            raise SelfeditError("give at least 1 seed, and at least 2 passages to --together")
        self.tasks = list(map(with_sentences, tasks))
        self.model = load_model(model_name, notify=notify)
        self.editor, self.editor_stack = load_editor(editor, self.model) if editor else (None, None)
        self.conditions = [parse(text, self.tasks, self.editor) for text in dict.fromkeys(conditions)]
        self.seeds, self.together, self.train_config, self.progress = seeds, (1, *sorted(set(together))), train, progress
        self.judge, self.judge_name, self.name = judge, judge_name, model_name
        claim(out, self.settings())
        self.journal = Journal(out / "trials.jsonl")
        self.done = {self.record_key(r): r for r in self.journal.records}

    def settings(self) -> dict:
        return dict(model=self.name, weights=self.model.fingerprint, config=text_hash(json.dumps(asdict(self.train_config))))

    def record_key(self, record: dict) -> tuple:
        return record["condition"], record["together"], record["seed"], record["passage"], record["editor"]

    def key(self, unit: Unit, task: Task) -> tuple:
        return *unit.key(task), self.editor.id if unit.condition.name == "seal" else ""

    # what there is to do

    @cached_property
    def units(self) -> list[Unit]:
        """In the order in which they are done: the cheap conditions first, seed by seed."""
        return [
            Unit(condition, tuple(self.tasks[low : low + n]), seed, n)
            for n in self.together
            for seed in range(self.seeds)
            for condition in sorted(self.conditions, key=lambda c: c.trains)
            if condition.trains or (n == 1 and seed == 0)  # the others are the same for every seed
            if not (n > 1 and condition.name == "finetune")
            for low in range(0, len(self.tasks), n)
        ]

    def todo(self) -> Iterator[list[Unit]]:
        """Groups of one condition and size that are done at once."""
        left = [u for u in self.units if any(self.key(u, t) not in self.done for t in u.tasks)]
        self.total, self.left = len(self.units), len(left)
        for (condition, _), like in groupby(left, key=lambda u: (u.condition, u.together)):
            like, size = list(like), 1 if condition.name == "finetune" else ADAPTERS
            yield from (like[low : low + size] for low in range(0, len(like), size))

    def do(self, units: list[Unit]) -> None:
        self.progress("trials", self.total - self.left, self.total)
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
        self.progress("trials", self.total - self.left, self.total)

    def adapted(self, units: list[Unit]):
        from selfedit.model.train import train

        made = jobs(self.model, units[0].condition, [(u.tasks, u.seed) for u in units], self.train_config, self.editor_stack, self.stage("write"))
        stack, logs = train(self.model.network, made, self.train_config, on_step=self.stage("train"))
        return stack, [log.tokens for log in logs]

    def finetuned(self, unit: Unit):
        from selfedit.bench.baselines import finetune
        from selfedit.model.network import Network

        (made,) = jobs(self.model, unit.condition, [(unit.tasks, unit.seed)], self.train_config)
        epochs = made.epochs or self.train_config.epochs
        weights = finetune(self.model, made.sequences, made.seed, epochs)
        network = Network(self.model.network.shape, weights, {})
        return replace(self.model, network=network), None, [epochs * sum(len(s.tokens) for s in made.sequences)]

    def ask(self, model, stack, units: list[Unit], adapters, tokens, seconds: float) -> None:
        from selfedit.judge.evaluate import Asked, respond

        pairs = [(unit, adapter, task) for unit, adapter in zip(units, adapters) for task in unit.tasks]
        asked = [
            Asked(question, adapter, put(unit.condition, task, question, self.retriever if unit.condition.name == "retrieval" else None))
            for unit, adapter, task in pairs
            for question in task.questions
        ]
        responses = iter(respond(model, asked, stack, judge=self.judge, on_token=self.stage("test")))
        sizes = {id(unit): len(unit.tasks) for unit in units}
        trained = {id(unit): n for unit, n in zip(units, tokens)}
        for unit, _, task in pairs:
            own = [next(responses) for _ in task.questions]
            record = dict(
                condition=unit.condition.text, together=unit.together, seed=unit.seed, passage=task.passage.id, task=task.id,
                editor=self.editor.id if unit.condition.name == "seal" else "",
                judge=self.judge_name, correct=[r.correct for r in own], dense=[round(r.dense, 5) for r in own], answers=[r.text for r in own],
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
        """Ask again for verdicts that are missing or another judge's; what was answered stands in the record."""
        for unit in self.units:
            for task in unit.tasks:
                record = self.done[self.key(unit, task)]
                if record["judge"] == self.judge_name and None not in record["correct"]:
                    continue
                from selfedit.judge.evaluate import offline

                verdicts = (self.judge or offline)(list(zip(task.questions, record["answers"])))
                renewed = record | {"correct": verdicts, "judge": self.judge_name}
                self.journal.add(renewed)
                self.done[self.key(unit, task)] = renewed

    # what comes out

    def result(self) -> dict:
        verdicts = [v for unit in self.units for task in unit.tasks for v in self.done[self.key(unit, task)]["correct"]]
        unscored = verdicts.count(None)
        if unscored > UNSCORED_MOST * len(verdicts):
            raise UnscoredError(f"the judge left {unscored} of {len(verdicts)} answers unscored; the same command asks it again")
        tables = {(c.text, n): self.tallies(c, n) for n in self.together for c in self.conditions if self.of(c, n)}
        base = tables.get(("base", 1))
        rows = []
        for (text, n), own in tables.items():
            passage = tables.get(("passage", n))
            rows.append({"condition": text, "together": n} | self.row(own, base, passage))
        pairs = [(a, b) for a in tables for b in tables if a[1] == b[1] and a != b and a[0].startswith("seal") and not b[0].startswith("seal")]
        return {
            "model": self.name,
            "seeds": self.seeds,
            "judge": self.judge_name,
            "unscored": unscored,
            "editor": asdict(self.editor) if self.editor else None,
            "train_config": json.loads(json.dumps(asdict(self.train_config))),
            "rows": rows,
            "seal_minus": [
                {"condition": a[0], "minus": b[0], "together": a[1], "difference": _difference(tables[a], tables[b])} for a, b in pairs
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
                own = found.setdefault(task.passage.id, {"kinds": {}, "tokens": 0.0, "seconds": 0.0})
                own["tokens"] += record["tokens"]
                own["seconds"] += record["seconds"]
                for question, verdict, dense in zip(task.questions, record["correct"], record["dense"]):
                    for kind in ("", question.kind):
                        tally = own["kinds"].setdefault(kind, [0, 0, 0.0, 0])
                        tally[0] += bool(verdict)
                        tally[1] += verdict is not None
                        tally[2] += dense
                        tally[3] += 1
        return found

    def row(self, own: dict, base: dict | None, passage: dict | None) -> dict:
        kinds = sorted({kind for p in own.values() for kind in p["kinds"]} - {""})
        tallies = _matrix(own, "")
        return {
            "passages": len(own),
            "questions": sum(len(t.questions) for t in self.tasks if t.passage.id in own),
            "accuracy": _share(tallies),
            "ci95": _interval(tallies),
            "vs_base": _difference(own, base),
            "vs_passage": _difference(own, passage),
            "dense": float(tallies[:, 2].sum() / tallies[:, 3].sum()),
            "train_tokens": round(sum(p["tokens"] for p in own.values())),
            "seconds": round(sum(p["seconds"] for p in own.values()), 1),
            "by_kind": {k: {"accuracy": _share(_matrix(own, k)), "ci95": _interval(_matrix(own, k))} for k in kinds} if len(kinds) > 1 else {},
        }


def _matrix(own: dict, kind: str):
    """[passages, 4], in the passages' order."""
    import numpy as np

    return np.array([own[p]["kinds"].get(kind, [0, 0, 0.0, 0]) for p in own], float)


def _share(tallies) -> float | None:
    return float(tallies[:, 0].sum() / tallies[:, 1].sum()) if tallies[:, 1].sum() else None


def _draws(count: int):
    import numpy as np

    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))


def _interval(tallies) -> list[float] | None:
    import numpy as np

    if not tallies[:, 1].sum():
        return None
    drawn = tallies[_draws(len(tallies))].sum(1)
    return [float(v) for v in np.nanpercentile(drawn[:, 0] / np.maximum(drawn[:, 1], 1e-9), [2.5, 97.5])]


def _difference(own: dict, other: dict | None) -> list[float] | None:
    """[own − other, low, high], on the passages that both have, drawn together."""
    import numpy as np

    if other is None or own is other or own.keys() != other.keys():
        return None
    a, b = _matrix(own, ""), _matrix({p: other[p] for p in own}, "")
    drawn = _draws(len(a))
    a_drawn, b_drawn = a[drawn].sum(1), b[drawn].sum(1)
    differences = a_drawn[:, 0] / np.maximum(a_drawn[:, 1], 1e-9) - b_drawn[:, 0] / np.maximum(b_drawn[:, 1], 1e-9)
    low, high = np.percentile(differences, [2.5, 97.5])
    return [_share(a) - _share(b), float(low), float(high)]


def table(result: dict) -> str:
    """The rows in Markdown, for people."""

    def spread(values, digits: str = ".3f") -> str:
        return "–" if values is None else "{:{d}} [{:{d}}, {:{d}}]".format(*values, d=digits)

    lines = [
        f"# Knowledge: {result['model']}",
        "",
        f"`{result['command']}`",
        "",
        f"Closed book but for in-context and retrieval; {result['seeds']} seeds; judge: {result['judge']}"
        + (f" ({result['unscored']} answers unscored)" if result["unscored"] else "")
        + ". 95 % intervals: paired bootstrap over passages.",
        "",
        "| condition | together | passages | questions | accuracy | − base | − passage | dense | tokens a passage | seconds a passage |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in result["rows"]:
        runs = r["passages"] * (result["seeds"] if r["train_tokens"] else 1)
        accuracy = "–" if r["accuracy"] is None else spread([r["accuracy"], *r["ci95"]])
        lines.append(
            f"| {r['condition']} | {r['together']} | {r['passages']} | {r['questions']} | {accuracy} | {spread(r['vs_base'], '+.3f')} | "
            f"{spread(r['vs_passage'], '+.3f')} | {r['dense']:.2f} | {r['train_tokens'] / runs:,.0f} | {r['seconds'] / runs:.1f} |"
        )
    if result["seal_minus"]:
        lines += ["", "| difference | together | accuracy |", "|---|--:|--:|"]
        lines += [f"| {d['condition']} − {d['minus']} | {d['together']} | {spread(d['difference'], '+.3f')} |" for d in result["seal_minus"]]
    kinds = list(dict.fromkeys(kind for r in result["rows"] for kind in r["by_kind"]))
    if kinds:
        lines += ["", "| condition | together | " + " | ".join(kinds) + " |", "|---|--:|" + "--:|" * len(kinds)]
        for r in result["rows"]:
            own = [spread([r["by_kind"][k]["accuracy"], *r["by_kind"][k]["ci95"]]) if k in r["by_kind"] else "–" for k in kinds]
            lines.append(f"| {r['condition']} | {r['together']} | " + " | ".join(own) + " |")
    return "\n".join(lines) + "\n"
