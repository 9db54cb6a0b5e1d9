"""`selfedit bench stream`: documents learned one after another; what is still known after each, by every way to keep them.

In: tasks (documents with questions). Out: `results.json`, `results.md`, heat maps, and `trials.jsonl`, a line for each
method, step and document. Every method studies the same sequences of each document, with the same settings:

- `sequential`: one adapter, trained on and on;
- `merged`: an adapter a document, merged into the weights before the next (published SEAL);
- `routed`: an adapter a document, each question answered under the one that the router finds (ours);
- `consolidated`: after so many documents one adapter is trained on all so far from the untouched model, on what the others
  study (what is drawn afresh in each epoch: all of it once) with the settings of `memory consolidate`, for questions that the router sends to any of them (ours; but nobody is let out of it who does
  not hold, since the questions that would tell are those that are asked here);
- `retrieval`: the best passage of those so far, by BM25, in the prompt.

A matrix has K+1 rows, after so many documents, and K columns; row 0 is the untouched model, and after i documents the
first i are asked. Just learned: the mean of its diagonal (for `consolidated`, that of `routed`: it is what goes in);
retained: of its last row. Intervals are bootstraps over documents, 95 %. Documents without questions are asked what
judges a memory in `learn`: questions that the model writes, answers with the passage in view and not without, and its own
rewordings of the passage, to be continued with a fact that it does not know. What is on disk is not done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

from selfedit.bench.conditions import Retriever, jobs, parse
from selfedit.bench.general import General
from selfedit.bench.intervals import mean_ratio
from selfedit.bench.tables import heading, markdown, number, with_interval
from selfedit.config import ConsolidateConfig, LearnConfig, TrainConfig
from selfedit.edits.propose import propose
from selfedit.edits.quiz import open_book_prompt, questions_from_rewordings, with_sentences, write_quiz
from selfedit.errors import SelfeditError
from selfedit.judge.evaluate import Query, answers, offline_name
from selfedit.judge.general import general_changes, general_texts
from selfedit.loop.journal import Journal, lock_run_folder, read_back, software, write_json, write_text
from selfedit.memory.route import Router
from selfedit.types import Passage, Progress, Question, Task, no_progress, text_hash

STUDIED = ("passage", "self-edit", "edits", "distill")
METHODS = ("sequential", "merged", "routed", "consolidated", "retrieval")
TRAIN = TrainConfig(
    rank=16, alpha=32.0, first_layer=0.33, learning_rate=2e-3, epochs=8, batch_size=2, steps_per_epoch=1
)
"""As `bench knowledge`."""
ADAPTERS = 8
"""Trained in one stack, at most."""


@dataclass(frozen=True)
class Setting:
    methods: tuple[str, ...] = METHODS
    study: str = "self-edit:questions"
    """A condition of `bench knowledge`, one of STUDIED: what is studied of each document."""
    questions: int = 6
    """Query about each document, at most, spread over its kinds."""
    consolidate: tuple[int, ...] = (10,)
    """After so many documents each, and after the last; one number: after every so many."""
    answer_tokens: int = 24
    seed: int = 0


def run(
    model_name: str,
    tasks: Sequence[Task],
    out: Path,
    setting: Setting = Setting(),
    *,
    train: TrainConfig = TRAIN,
    together: TrainConfig = ConsolidateConfig().train,
    general: Path | None = None,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """`together`: of `consolidated`. `general`: a folder of multiple-choice sets (JSON lines of query, choices, gold), to measure what else is forgotten."""
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
        Retriever(tasks)  # without the library it would fail after everything else
    bench = _Stream(model_name, tasks, out, setting, train, together, general, progress, notify)
    for step, method in enumerate(("base", *setting.methods)):
        progress("methods", step, len(setting.methods) + 1)
        getattr(bench, method)()
    result = bench.result() | {"precision": bench.model.backend.precision, "command": command, "software": software()}
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
        self.model, self.out, self.setting, self.progress = (
            load_model(model_name, notify=notify),
            out,
            setting,
            progress,
        )
        self.train_config, self.together = train, together
        config = [
            json.dumps(asdict(train)),
            json.dumps(asdict(together)),
            setting.study,
            str(setting.questions),
            str(setting.answer_tokens),
            str(setting.seed),
            offline_name(),
        ]
        self._alone = lock_run_folder(
            out, self.model.identity() | {"documents": [t.key for t in tasks], "config": text_hash(*config)}
        )
        self.journal = Journal(out / "trials.jsonl")
        self.done = {(r["method"], r["step"], r["document"]): r for r in self.journal.records}
        self.tasks = [self.judged(task) for task in tasks]

    def judged(self, task: Task) -> Task:
        """With so many questions, as many of each kind; of a document that has none, such as the model writes itself."""
        if not task.questions:
            known = self.done.get(("quiz", 0, task.key))
            if known is None:
                known = self.add("quiz", 0, task, questions=[asdict(q) for q in self.written(task.passage)])
            task = replace(
                task, questions=tuple(Question(**q | {"answers": tuple(q["answers"])}) for q in known["questions"])
            )
        kinds: dict[str, list[Question]] = {}
        for question in with_sentences(task).questions:
            kinds.setdefault(question.kind, []).append(question)
        most = max(map(len, kinds.values()), default=0)
        in_turn = [own[i] for i in range(most) for own in kinds.values() if i < len(own)]
        return replace(task, questions=tuple(in_turn[: self.setting.questions]))

    def written(self, passage: Passage) -> list[Question]:
        """By the model, as in `learn`; nothing of them is studied here, so all of them can be asked."""
        learn = LearnConfig()
        quiz = write_quiz(self.model, passage, spans=learn.spans, seed=self.setting.seed, progress=self.progress)
        proposal = propose(self.model, passage, learn.styles, seed=self.setting.seed, on_token=self.stage("write"))
        lines = [*proposal.held_out, *(example.text for edit in proposal.edits for example in edit.examples)]
        return [*quiz.judging, *quiz.studied, *questions_from_rewordings(self.model, passage, lines, self.progress)[0]]

    def add(self, method: str, step: int, task: Task, **values) -> dict:
        record = {"method": method, "step": step, "document": task.key, "id": task.id} | values
        self.journal.add(record)
        self.done[method, step, task.key] = record
        return record

    # asking

    def missing(self, method: str, step: int) -> list[Task]:
        """Documents learned by then (all of them at step 0: the untouched model) that were not asked about yet."""
        own = self.tasks[:step] if step else self.tasks
        return [task for task in own if (method, step, task.key) not in self.done]

    def ask(
        self,
        method: str,
        step: int,
        adapters: Callable[[Question], int | None] = lambda question: None,
        model=None,
        stack=None,
    ) -> None:
        if missing := self.missing(method, step):
            self.record(
                method,
                step,
                missing,
                self.answers([Query(q, adapters(q)) for task in missing for q in task.questions], stack, model),
            )
        self.progress("documents", step, len(self.tasks))

    def ask_each_once(self, method: str, asked: Callable[[Question, int], Query], stack=None) -> None:
        """After each step; what is asked as it was after an earlier one is answered as it was."""
        found: dict[Query, tuple[str, bool | None]] = {}
        for step in range(1, len(self.tasks) + 1):
            for task in self.tasks[:step]:
                if record := self.done.get((method, step, task.key)):  # by an earlier run
                    found = (
                        dict(zip((asked(q, step) for q in task.questions), zip(record["answers"], record["correct"])))
                        | found
                    )
            if missing := self.missing(method, step):
                wanted = [asked(q, step) for task in missing for q in task.questions]
                new = [one for one in dict.fromkeys(wanted) if one not in found]
                found |= zip(new, self.answers(new, stack))
                self.record(method, step, missing, [found[one] for one in wanted])
            self.progress("documents", step, len(self.tasks))

    def answers(self, asked: Sequence[Query], stack=None, model=None) -> list[tuple[str, bool | None]]:
        return answers(
            model or self.model, asked, stack, tokens=self.setting.answer_tokens, on_token=self.stage("test")
        )

    def record(
        self, method: str, step: int, tasks: Iterable[Task], answered: Iterable[tuple[str, bool | None]]
    ) -> None:
        answered = iter(answered)
        for task in tasks:
            own = [next(answered) for _ in task.questions]
            self.add(method, step, task, correct=[correct for _, correct in own], answers=[text for text, _ in own])

    def stage(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.progress(name, done, total)

    # learning

    def learned(
        self,
        method: str,
        groups: dict[int, Sequence[Task]],
        backend=None,
        stack=None,
        config: TrainConfig | None = None,
    ):
        """The adapters of a method that were trained at these steps on these tasks, now or earlier, as one stack.

        `backend`: if not the model's; `config`: how they train, if not as on one document; `stack`: to start from."""
        folders = {step: self.out / method / str(step) for step in groups}
        left = [step for step, folder in folders.items() if not (folder / "log.json").exists()]
        for low in range(0, len(left), ADAPTERS):
            part, start = left[low : low + ADAPTERS], time.perf_counter()
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
                write_json(folders[step] / "log.json", {"tokens": log.tokens, "seconds": round(seconds, 2)})
            self.progress("documents", part[-1], len(self.tasks))
        return self.model.backend.load(list(folders.values()))

    # the methods

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
        count, at = len(self.tasks), sorted(set(self.setting.consolidate))
        return [*(range(at[0], count, at[0]) if len(at) == 1 else (step for step in at if step < count)), count]

    def routed(self) -> None:
        stack = self.learned("routed", {step: [task] for step, task in enumerate(self.tasks, 1)})
        self.ask_each_once("routed", lambda question, step: Query(question, self.route(question, step)), stack)
        self.measure("routed", stack, lambda texts: [self.router(len(self.tasks)).at(text) for text in texts])

    def consolidated(self) -> None:
        count, stack = len(self.tasks), None
        for step in self.consolidations:
            stack = self.learned("consolidated", {step: self.tasks[:step]}, config=self.together)
            self.ask(
                "consolidated", step, lambda question: None if self.route(question, step) is None else 0, stack=stack
            )
        self.measure(
            "consolidated", stack, lambda texts: [None if self.router(count).at(text) is None else 0 for text in texts]
        )

    def retrieval(self) -> None:
        retriever = lru_cache(1)(lambda step: Retriever(self.tasks[:step], most=1))
        self.ask_each_once(
            "retrieval", lambda question, step: Query(question, None, _in_view(retriever(step), question))
        )

    # which memory

    def router(self, step: int) -> _Numbered:
        """Over the first so many documents."""
        return self._routers.setdefault(
            step,
            _Numbered(
                Router.of_texts(
                    {str(i): f"{t.passage.title}\n{t.passage.text}" for i, t in enumerate(self.tasks[:step])}
                )
            ),
        )

    @cached_property
    def _routers(self) -> dict:
        return {}

    def route(self, question: Question, step: int) -> int | None:
        return self.router(step).at(question.question)

    # what else is forgotten

    def measure(
        self, method: str, stack, adapters: Callable[[Sequence[str]], list[int | None]] | None, model=None
    ) -> None:
        """After the last document: general ability on the sets, as asked; and for one adapter that many documents share, KL on
        the general texts and general ability, whatever a router would say."""
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
            at = adapters(self.general.texts) if adapters else [None] * len(self.general.texts)
            accuracy, sets = self.general.accuracy(model or self.model, at, stack)
            write_json(file, {"accuracy": accuracy, "sets": sets})

    def general_file(self, method: str, of: str) -> Path:
        return (
            self.out / f"general-{method}-{f'{of}-{self.general.hash}' if of != 'texts' and self.general else of}.json"
        )

    def measured(self, method: str, of: str) -> dict:
        file = self.general_file(method, of)
        return read_back(file) if file.exists() else {}

    # what comes out

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
            rows.append(
                {"method": method, "documents": count}
                | _kept([learned[i + 1][i] for i in range(count)], matrix[-1])
                | {"general_before": before, "general_after": self.measured(method, "sets").get("accuracy")}
                | {
                    "general_always": self.measured(
                        method, "sets" if method in ("sequential", "merged") else "always"
                    ).get("accuracy")
                }
                | {"general_change": self.measured(method, "texts").get("change")}
                | {
                    "tokens": sum(log["tokens"] for log in spent),
                    "seconds": round(sum(log["seconds"] for log in spent), 1),
                }
            )
        curve = [
            {"documents": step}
            | _kept([matrices["routed"][i + 1][i] for i in range(step)], matrices["consolidated"][step][:step])
            | read_back(self.out / "consolidated" / str(step) / "log.json")
            for step in (self.consolidations if "consolidated" in matrices else ())
        ]
        return {
            "model": self.name,
            "study": self.setting.study,
            "questions": sum(len(task.questions) for task in self.tasks),
            "untouched": _mean(matrices[self.setting.methods[0]][0]),
            "train_config": json.loads(json.dumps(asdict(self.train_config))),
            "consolidate_config": json.loads(json.dumps(asdict(self.together))),
            "rows": rows,
            "consolidation": curve,
            "matrices": matrices,
        }

    def share(self, method: str, step: int, task: Task) -> float | None:
        """Of right answers; None where that was not asked, or nothing is there to be asked."""
        record = self.done.get((method, step, task.key))
        return sum(map(bool, record["correct"])) / len(record["correct"]) if record and record["correct"] else None


class _Numbered:
    """A router of documents that are known by their numbers."""

    def __init__(self, router: Router):
        self.router = router

    def at(self, text: str) -> int | None:
        id, _ = self.router.route(text)
        return None if id is None else int(id)


def _in_view(retriever: Retriever, question: Question) -> Question:
    passage = retriever.view(question)
    text = (
        open_book_prompt(passage, question.question)
        if question.kind == "question"
        else passage.with_request(question.question)
    )
    return replace(question, question=text)


def _mean(values: Iterable[float | None]) -> float | None:
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def _kept(learned: Sequence[float | None], last: Sequence[float | None]) -> dict:
    """Means over documents of what was right just after learning and at the end; their ratio with its interval."""
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
    """The rows in Markdown, for people."""

    def kept(row: dict) -> list[str]:
        return [
            number(row["just_learned"]),
            number(row["retained"]),
            with_interval([row["ratio"], *(row["ci95"] or (None, None))], ".2f"),
        ]

    lines = [
        *heading("A stream of documents", result),
        f"{result['rows'][0]['documents']} documents, {result['questions']} questions, each document studied as `{result['study']}`; the untouched model "
        f"answers {number(result['untouched'])}. Retained: after the last document; ratio with a 95 % bootstrap over documents. Adapters are kept without the gate "
        "of `learn`. General: right choices among those of questions about other things, asked as the documents' are (of `routed` and `consolidated` those that "
        "the router lets through); always, and KL: under the adapter itself. Tokens and seconds: of writing and training, all steps together.",
        "",
        *markdown(
            [
                "method",
                "just learned",
                "retained",
                "ratio",
                "general before",
                "after",
                "always",
                "KL",
                "tokens",
                "seconds",
            ],
            (
                [
                    r["method"],
                    *kept(r),
                    number(r["general_before"]),
                    number(r["general_after"]),
                    number(r["general_always"]),
                    number(r["general_change"], ".2f"),
                    f"{r['tokens']:,}",
                    f"{r['seconds']:,.0f}",
                ]
                for r in result["rows"]
            ),
        ),
    ]
    if result["consolidation"]:
        cells = (
            [r["documents"], *kept(r), f"{r['tokens']:,}", f"{r['seconds']:,.0f}"] for r in result["consolidation"]
        )
        lines += [
            "",
            *markdown(["consolidated", "just learned", "retained", "ratio", "tokens", "seconds"], cells, words=0),
        ]
    return "\n".join(lines) + "\n"
