"""`selfedit bench stream`: documents learned one after another, and how much of them each method retains.

In: tasks (documents with questions). Out: `results.json`, `results.md`, heat maps, and `trials.jsonl` with one line per
method, step and document. Every method trains on the same sequences of each document, with the same settings:

- `sequential`: one adapter that is trained on each document in turn;
- `merged`: one adapter per document, merged into the weights before the next document (published SEAL);
- `routed`: one adapter per document; the router chooses the adapter that answers a question (ours);
- `consolidated`: at certain steps, one new adapter is trained on all documents so far, with the settings of `memory
  consolidate`. Its training data is that of the other methods; questions that are new in each epoch are used once. It
  answers the questions that the router assigns to any of these documents (ours). Unlike `memory consolidate`, it drops
  no document that it fails to retain, since that decision would need the questions that are asked here;
- `retrieval`: the best passage so far, by BM25, in the prompt.

A matrix has K+1 rows (steps) and K columns (documents). Row 0 is the untouched model; after i documents, the first i
are tested. Just learned: the mean of the diagonal (for `consolidated`, the diagonal of `routed`, whose adapters it
replaces). Retained: the mean of the last row. Intervals are 95 % bootstraps over documents. Documents without questions
are tested with questions like those that judge a memory in `learn`: questions that the model writes, and answers only
with the passage in the prompt, and rewordings of the passage that end before a fact the model does not know. Finished
work on disk is not repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from selfedit.bench.conditions import Retriever, jobs, parse
from selfedit.bench.general import General
from selfedit.bench.intervals import mean_ratio
from selfedit.bench.knowledge import ADAPTERS, TRAIN
from selfedit.bench.tables import heading, markdown, number, with_interval
from selfedit.config import ConsolidateConfig, LearnConfig, StudyConfig, TrainConfig
from selfedit.edits.propose import propose
from selfedit.edits.quiz import questions_from_rewordings, with_passage, with_sentences, write_quizzes
from selfedit.edits.styles import STYLES
from selfedit.errors import SelfeditError
from selfedit.judge.evaluate import Query, answers, offline_name
from selfedit.judge.general import general_changes, general_texts
from selfedit.loop.journal import Journal, lock_run_folder, read_back, software, write_json, write_text
from selfedit.memory.route import Router
from selfedit.types import Passage, Progress, Question, Task, no_progress, text_hash

STUDIED = ("passage", "self-edit", "edits", "distill")
METHODS = ("sequential", "merged", "routed", "consolidated", "retrieval")
TOGETHER = replace(ConsolidateConfig().train, learning_rate=2e-3)
"""The settings of `memory consolidate` with the embedded model, for `consolidated`."""


@dataclass(frozen=True)
class Setting:
    methods: tuple[str, ...] = METHODS
    study: str = "self-edit:questions"
    """The training data of each document: a condition of `bench knowledge` whose name is in STUDIED."""
    questions: int = 6
    """Maximum number of questions per document, spread over their kinds."""
    consolidate: tuple[int, ...] = (10,)
    """Steps at which to consolidate, besides the last; a single number n means every n documents."""
    answer_tokens: int = 24
    seed: int = 0


def run(
    model_name: str,
    tasks: Sequence[Task],
    out: Path,
    setting: Setting = Setting(),
    *,
    train: TrainConfig = TRAIN,
    together: TrainConfig = TOGETHER,
    general: Path | None = None,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json.

    `together`: the training settings of `consolidated`. `general`: a folder of multiple-choice sets (bench/general.py),
    to measure the loss of other abilities. Raises SelfeditError, before any work, on settings that cannot be run.
    """
    from selfedit.bench.plots import pyplot, stream_plots

    pyplot()
    if unknown := [m for m in setting.methods if m not in METHODS]:
        raise SelfeditError(f"unknown method {unknown[0]!r}; known: {', '.join(METHODS)}")
    if not setting.methods or ("consolidated" in setting.methods and "routed" not in setting.methods):
        raise SelfeditError(f"give methods of {', '.join(METHODS)}; consolidated is compared with routed and needs it")
    if setting.study.partition("@")[0].partition(":")[0] not in STUDIED:
        raise SelfeditError(f"documents cannot be studied as {setting.study!r}; give {', '.join(STUDIED)}")
    if len(tasks) < 2 or min(setting.consolidate, default=0) < 2 or setting.questions < 1:
        raise SelfeditError("give at least 2 documents, 1 question each, and at least 2 documents to consolidate")
    if "retrieval" in setting.methods:
        Retriever(tasks)  # a missing library is reported before any work
    bench = _Stream(model_name, tasks, out, setting, train, together, general, progress, notify)
    for step, method in enumerate(("base", *setting.methods)):
        progress("methods", step, len(setting.methods) + 1)
        getattr(bench, method)()
    result = bench.result() | {
        "precision": bench.model.backend.precision,
        "command": command,
        "software": software(out),
    }
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    stream_plots(result, out)
    return result


class _Stream:
    def __init__(
        self,
        model_name,
        tasks,
        out: Path,
        setting: Setting,
        train: TrainConfig,
        together: TrainConfig,
        general,
        progress,
        notify,
    ):
        from selfedit.model.load import load_model

        self.condition = parse(setting.study, tasks, None)
        self.name, self.general = model_name, General(general) if general else None
        self.model = load_model(model_name, notify=notify)
        self.out, self.setting, self.progress = out, setting, progress
        self.train_config, self.together = train, together
        self._routers: dict[int, Router] = {}
        config = [
            json.dumps(asdict(train)),
            json.dumps(asdict(together)),
            setting.study,
            str(setting.questions),
            str(setting.answer_tokens),
            str(setting.seed),
            offline_name(),
            *(json.dumps(asdict(defaults)) for defaults in (StudyConfig(), LearnConfig())),
            *map(repr, STYLES.values()),
        ]
        self._lock = lock_run_folder(
            out, self.model.identity() | {"documents": [t.key for t in tasks], "config": text_hash(*config)}
        )
        self.journal = Journal(out / "trials.jsonl")
        self.done = {(r["method"], r["step"], r["document"]): r for r in self.journal.records}
        self.tasks = [self.with_questions(task) for task in tasks]

    def with_questions(self, task: Task) -> Task:
        """Returns the task with at most `setting.questions` questions, of all kinds in turn; writes missing ones."""
        if not task.questions:
            record = self.done.get(("quiz", 0, task.key))
            if record is None:
                record = self.add("quiz", 0, task, questions=[asdict(q) for q in self.write_questions(task.passage)])
            task = replace(
                task, questions=tuple(Question(**q | {"answers": tuple(q["answers"])}) for q in record["questions"])
            )
        kinds: dict[str, list[Question]] = {}
        for question in with_sentences(task).questions:
            kinds.setdefault(question.kind, []).append(question)
        in_turn = [q for row in zip_longest(*kinds.values()) for q in row if q is not None]
        return replace(task, questions=tuple(in_turn[: self.setting.questions]))

    def write_questions(self, passage: Passage) -> list[Question]:
        """Writes questions as `learn` does; none of them is used for training here, so all of them can be asked."""
        learn = LearnConfig()
        options = {"seed": self.setting.seed}
        (quiz,) = write_quizzes(self.model, [passage], spans=learn.spans, progress=self.progress, **options)
        (proposal,) = propose(self.model, [passage], learn.styles, on_token=self.stage("write"), **options)
        lines = [*proposal.held_out, *(example.text for edit in proposal.edits for example in edit.examples)]
        ((reworded, _),) = questions_from_rewordings(self.model, [(passage, lines)], progress=self.progress)
        return [*quiz.judging, *quiz.studied, *reworded]

    def add(self, method: str, step: int, task: Task, **values) -> dict:
        record = {"method": method, "step": step, "document": task.key, "id": task.id} | values
        self.journal.add(record)
        self.done[method, step, task.key] = record
        return record

    # Questions and answers.

    def missing(self, method: str, step: int) -> list[Task]:
        """Returns the documents learned by this step that are not tested yet; at step 0, all documents count."""
        learned = self.tasks[:step] if step else self.tasks
        return [task for task in learned if (method, step, task.key) not in self.done]

    def ask(
        self,
        method: str,
        step: int,
        adapters: Callable[[Question], int | None] = lambda question: None,
        model=None,
        stack=None,
    ) -> None:
        """Tests the documents learned by this step; `adapters`: chooses the adapter that answers a question."""
        if missing := self.missing(method, step):
            queries = [Query(q, adapters(q)) for task in missing for q in task.questions]
            self.record(method, step, missing, self.answers(queries, stack, model))
        self.progress("documents", step, len(self.tasks))

    def ask_each_once(self, method: str, query: Callable[[Question, int], Query], stack=None) -> None:
        """Tests all steps; a query that occurred at an earlier step is not answered again."""
        known: dict[Query, tuple[str, bool | None]] = {}
        for step in range(1, len(self.tasks) + 1):
            for task in self.tasks[:step]:
                if record := self.done.get((method, step, task.key)):  # written by an earlier run
                    for question, *answer in zip(task.questions, record["answers"], record["correct"]):
                        known.setdefault(query(question, step), tuple(answer))
            if missing := self.missing(method, step):
                queries = [query(q, step) for task in missing for q in task.questions]
                new = [q for q in dict.fromkeys(queries) if q not in known]
                known |= zip(new, self.answers(new, stack))
                self.record(method, step, missing, [known[q] for q in queries])
            self.progress("documents", step, len(self.tasks))

    def answers(self, queries: Sequence[Query], stack=None, model=None) -> list[tuple[str, bool | None]]:
        return answers(
            model or self.model, queries, stack, tokens=self.setting.answer_tokens, on_token=self.stage("test")
        )

    def record(
        self, method: str, step: int, tasks: Iterable[Task], answered: Iterable[tuple[str, bool | None]]
    ) -> None:
        answered = iter(answered)
        for task in tasks:
            of_task = [next(answered) for _ in task.questions]
            correct, texts = [verdict for _, verdict in of_task], [text for text, _ in of_task]
            self.add(method, step, task, correct=correct, answers=texts)

    def stage(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(name, done, total)

    # Training.

    def learned(
        self,
        method: str,
        groups: dict[int, Sequence[Task]],
        backend=None,
        stack=None,
        config: TrainConfig | None = None,
    ):
        """Returns the adapters of a method, one per step in `groups`, trained on the tasks of that step now or earlier.

        `backend`: the base weights, by default those of the model. `stack`: the adapter to continue from. `config`: the
        training settings, by default those for one document.
        """
        folders = {step: self.out / method / str(step) for step in groups}
        todo = [step for step, folder in folders.items() if not (folder / "log.json").exists()]
        for low in range(0, len(todo), ADAPTERS):
            part, start = todo[low : low + ADAPTERS], time.perf_counter()
            made = jobs(
                self.model,
                self.condition,
                [(tuple(groups[step]), self.setting.seed) for step in part],
                self.train_config,
                on_token=self.stage("write"),
            )
            trained, logs = (backend or self.model.backend).train(
                made, config or self.train_config, start=stack, on_step=self.stage("train")
            )
            seconds = (time.perf_counter() - start) / len(part)
            for row, (step, log) in enumerate(zip(part, logs)):
                self.model.backend.save(trained, row, folders[step], self.name)
                spent = {"tokens": log.tokens, "epochs": len(log.losses), "seconds": round(seconds, 2)}
                write_json(folders[step] / "log.json", spent)
            self.progress("documents", part[-1], len(self.tasks))
        return self.model.backend.load(list(folders.values()))

    # One function per method.

    def base(self) -> None:
        self.ask("base", 0)
        self.measure("base", None, None)

    def sequential(self) -> None:
        stack = None
        for step, task in enumerate(self.tasks, 1):
            stack = self.learned("sequential", {step: [task]}, stack=stack)
            self.ask("sequential", step, lambda question: 0, stack=stack)
        self.measure("sequential", stack, lambda texts: [0] * len(texts))

    def merged(self) -> None:
        model = self.model
        for step, task in enumerate(self.tasks, 1):
            stack = self.learned("merged", {step: [task]}, model.backend)
            model = replace(model, backend=model.backend.merged(stack, 0))
            self.ask("merged", step, model=model)
        self.measure("merged", None, None, model)

    @property
    def consolidations(self) -> list[int]:
        """The steps at which documents are consolidated; the last is always among them."""
        count, steps = len(self.tasks), sorted(set(self.setting.consolidate))
        if len(steps) == 1:
            steps = range(steps[0], count, steps[0])
        return [*(step for step in steps if step < count), count]

    def routed(self) -> None:
        stack = self.learned("routed", {step: [task] for step, task in enumerate(self.tasks, 1)})
        self.ask_each_once("routed", lambda q, step: Query(q, self.route(q.question, step)), stack)
        self.measure("routed", stack, lambda texts: [self.route(text, len(self.tasks)) for text in texts])

    def consolidated(self) -> None:
        def adapter(text: str, step: int) -> int | None:
            return None if self.route(text, step) is None else 0

        stack = None
        for step in self.consolidations:
            stack = self.learned("consolidated", {step: self.tasks[:step]}, config=self.together)
            self.ask("consolidated", step, lambda q, step=step: adapter(q.question, step), stack=stack)
        self.measure("consolidated", stack, lambda texts: [adapter(text, len(self.tasks)) for text in texts])

    def retrieval(self) -> None:
        retriever = lru_cache(1)(lambda step: Retriever(self.tasks[:step], most=1))

        def query(question: Question, step: int) -> Query:
            return Query(question, None, with_passage(retriever(step).best(question), question))

        self.ask_each_once("retrieval", query)

    def route(self, text: str, step: int) -> int | None:
        """Returns the index of the memory that the router chooses among the first `step` documents, or None."""
        if step not in self._routers:
            passages = {str(i): f"{t.passage.title}\n{t.passage.text}" for i, t in enumerate(self.tasks[:step])}
            self._routers[step] = Router.of_texts(passages)
        id, _ = self._routers[step].route(text)
        return None if id is None else int(id)

    # Loss of other abilities.

    def measure(
        self, method: str, stack, adapters: Callable[[Sequence[str]], list[int | None]] | None, model=None
    ) -> None:
        """Measures the loss of other abilities after the last document.

        It consists of the accuracy on the multiple-choice sets, under the adapters that `adapters` chooses. For an
        adapter that many documents share, it also has the KL divergence on the general texts, and the accuracy without
        a router.
        """
        file = self.general_file(method, "texts")
        if not file.exists() and method in ("sequential", "merged", "consolidated"):
            change = (
                general_changes(self.model, stack)[0]
                if stack
                else self.model.backend.divergence_of(model.backend, general_texts(self.model))
            )
            write_json(file, {"change": change})
        file = self.general_file(method, "always")
        if not file.exists() and self.general and method == "consolidated":
            write_json(file, {"accuracy": self.general.accuracy(self.model, [0] * len(self.general.texts), stack)[0]})
        file = self.general_file(method, "sets")
        if not file.exists() and self.general:
            rows = adapters(self.general.texts) if adapters else [None] * len(self.general.texts)
            accuracy, sets = self.general.accuracy(model or self.model, rows, stack)
            write_json(file, {"accuracy": accuracy, "sets": sets})

    def general_file(self, method: str, kind: str) -> Path:
        name = f"{kind}-{self.general.hash}" if kind != "texts" and self.general else kind
        return self.out / f"general-{method}-{name}.json"

    def measured(self, method: str, kind: str) -> dict:
        file = self.general_file(method, kind)
        return read_back(file) if file.exists() else {}

    # Results.

    def result(self) -> dict:
        before, matrices, rows = self.measured("base", "sets").get("accuracy"), {}, []
        count = len(self.tasks)
        for method in self.setting.methods:
            matrix = [[self.share("base", 0, task) for task in self.tasks]]
            matrix += [[self.share(method, step, task) for task in self.tasks] for step in range(1, count + 1)]
            matrices[method] = matrix
            learned = matrices["routed"] if method == "consolidated" else matrix
            steps = self.consolidations if method == "consolidated" else range(1, count + 1)
            logs = [self.out / method / str(step) / "log.json" for step in steps]
            spent = [read_back(log) for log in logs if log.exists()]
            unrouted = "sets" if method in ("sequential", "merged") else "always"
            rows.append(
                {"method": method, "documents": count}
                | _retention([learned[i + 1][i] for i in range(count)], matrix[-1])
                | {
                    "general_before": before,
                    "general_after": self.measured(method, "sets").get("accuracy"),
                    "general_always": self.measured(method, unrouted).get("accuracy"),
                    "general_change": self.measured(method, "texts").get("change"),
                    "tokens": sum(log["tokens"] for log in spent),
                    "seconds": round(sum(log["seconds"] for log in spent), 1),
                }
            )
        curve = [
            {"documents": step}
            | _retention([matrices["routed"][i + 1][i] for i in range(step)], matrices["consolidated"][step][:step])
            | read_back(self.out / "consolidated" / str(step) / "log.json")
            for step in (self.consolidations if "consolidated" in matrices else ())
        ]
        together = json.loads(json.dumps(asdict(self.together)))
        if curve:  # a budget of tokens in `study` determines the epochs
            together |= {"epochs": curve[-1].get("epochs", together["epochs"])}
        return {
            "model": self.name,
            "study": self.setting.study,
            "questions": sum(len(task.questions) for task in self.tasks),
            "untouched": _mean(matrices[self.setting.methods[0]][0]),
            "train_config": json.loads(json.dumps(asdict(self.train_config))),
            "consolidate_config": together,
            "rows": rows,
            "consolidation": curve,
            "matrices": matrices,
        }

    def share(self, method: str, step: int, task: Task) -> float | None:
        """Returns the accuracy on a document; None if it was not tested at this step, or has no questions."""
        record = self.done.get((method, step, task.key))
        return sum(map(bool, record["correct"])) / len(record["correct"]) if record and record["correct"] else None


def _mean(values: Iterable[float | None]) -> float | None:
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def _retention(learned: Sequence[float | None], last: Sequence[float | None]) -> dict:
    """Returns the mean accuracy over documents, just after learning and at the end, and their ratio."""
    pairs = [(a, b) for a, b in zip(learned, last) if a is not None and b is not None]
    if not pairs:
        return {"just_learned": _mean(learned), "retained": _mean(last), "ratio": None, "ci95": None}
    just, retained = zip(*pairs)
    ratio, *bounds = mean_ratio(retained, just)
    return {
        "just_learned": _mean(just),
        "retained": _mean(retained),
        "ratio": ratio,
        "ci95": None if None in bounds else bounds,
    }


def table(result: dict) -> str:
    """Returns the rows as Markdown."""

    def retention(row: dict) -> list[str]:
        ratio = with_interval([row["ratio"], *(row["ci95"] or (None, None))], ".2f")
        return [number(row["just_learned"]), number(row["retained"]), ratio]

    def cost(row: dict) -> list[str]:
        return [f"{row['tokens']:,}", f"{row['seconds']:,.0f}"]

    def general(row: dict) -> list[str]:
        accuracies = [number(row[f"general_{name}"]) for name in ("before", "after", "always")]
        return [*accuracies, number(row["general_change"], ".2f")]

    retention_head, cost_head = ["just learned", "retained", "ratio"], ["tokens", "seconds"]
    lines = [
        *heading("A stream of documents", result),
        f"{result['rows'][0]['documents']} documents, {result['questions']} questions; training data: "
        f"`{result['study']}`; accuracy of the untouched model: {number(result['untouched'])}. Retained: after the "
        "last document; ratio with a 95 % bootstrap over documents. Adapters are kept without the gate of `learn`. "
        "General: accuracy on unrelated multiple-choice questions; with `routed` and `consolidated`, a question "
        "reaches an adapter only if the router assigns it to a document. Always, and KL: under the adapter, without a "
        "router. Tokens and seconds: writing and training, all steps together.",
        "",
        *markdown(
            ["method", *retention_head, "general before", "after", "always", "KL", *cost_head],
            ([r["method"], *retention(r), *general(r), *cost(r)] for r in result["rows"]),
        ),
    ]
    if result["consolidation"]:
        cells = ([r["documents"], *retention(r), *cost(r)] for r in result["consolidation"])
        lines += ["", *markdown(["consolidated", *retention_head, *cost_head], cells, words=0)]
    return "\n".join(lines) + "\n"
