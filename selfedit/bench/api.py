"""`selfedit bench api`: does a model that learned a release write code that runs on it?

In: tasks with tests (tasks/api.py), and the documents of the release. Out: `results.json`, `results.md`, a plot, the
home with the memories, `answers.jsonl` with one line per condition, task and sample. Conditions:

- `base`: the untouched model, and the version is not named;
- `name-the-version`: the version is in the prompt, as in all conditions below;
- `stale-docs`: with the best passages of the old version's documents in view, by words;
- `docs-in-context`: with the right passages in view, the ceiling of plain prompts;
- `retrieval`: with the best passages of the release's documents in view, by words;
- `text`: as `selfedit code --from text`, with the notes that fit the task and a draft in view;
- `memory`: as `--from weights`, with the adapter of the release; where the documents are studied as facts, with what
  the adapters of their passages recite of these notes in view; `memory+text`: as `--from both`.

Every body is run with the task's test in the sandbox. Tasks whose reference does not pass there are left out; a task
that does not fit the model has `failed`: it is in no share, and a continued run asks it again. `resources`: how many
bodies exceeded a limit of time, memory or processes. `accuracy`: share of the tasks whose greedy body passes;
`pass_at_5`: share with a passing one among five samples; `stale`: share whose greedy body is the old form, or fails
with its error; `prefers_new`: share whose reference is likelier than the stale body, per token, closed book only;
`unchanged`: accuracy on tasks whose API did not change. Intervals are 95 % bootstraps over tasks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from selfedit import environments
from selfedit.answers.answerer import BASE, BOTH, TEXT, WEIGHTS, Answerer, Ask
from selfedit.answers.choose import rule_name
from selfedit.answers.code import Release, asks_for
from selfedit.bench.conditions import check_conditions
from selfedit.bench.intervals import mean, mean_interval, paired_interval
from selfedit.bench.measure import of_batch
from selfedit.bench.tables import heading, markdown, number, with_interval
from selfedit.config import LearnConfig, ReleaseConfig
from selfedit.documents.read import split_documents
from selfedit.documents.records import Document
from selfedit.edits.quiz import joined
from selfedit.errors import ModelError, SelfeditError
from selfedit.learn import learn, passage_length
from selfedit.libraries import Library, Wanted
from selfedit.loop.journal import Journal, lock_run_folder, read_back, software, write_json, write_text
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model, load_model
from selfedit.release import learn_release
from selfedit.sandbox import Limits, run_programs
from selfedit.tasks.api import UNCHANGED, ApiTask, gold_passages
from selfedit.types import Passage, Progress, Question, no_progress, stable_seed, text_hash

CONDITIONS = ("base", "name-the-version", "stale-docs", "docs-in-context", "retrieval", "text", "memory", "memory+text")
_PRODUCT = {"text": TEXT, "memory": WEIGHTS, "memory+text": BOTH}
"""The conditions in which code is written as `selfedit code` writes it."""
_ADAPTED = ("memory", "memory+text")
_LEARNED = ("text", *_ADAPTED)
_CLOSED_BOOK = ("base", "name-the-version", "memory")
SAMPLES = 5
TEMPERATURE = 0.8
BLOCK = 16
"""Tasks that are answered together; a run that is stopped loses at most these."""
ANSWER_TOKENS = 160
PASSAGE_WORDS = 110
IN_VIEW = 3
"""Passages in view in plain prompts."""
LIMITS = Limits(seconds=20.0)
RESOURCES = ("timeout", "memory", "processes")
"""How a program ends that exceeds a limit; on a busy machine that says little about its code."""
WRITTEN_BY = ("code.py", "edits/changes.py")
"""The files of the package that the written code depends on, beside those of all answers."""
RELEASE = ReleaseConfig()
STUDIES = CODE, FACTS = ("code", "facts")
"""How the documents are studied: as before/after pairs of code, or passage by passage, as any document."""


def run(
    model_name: str,
    tasks: Sequence[ApiTask],
    documents: Sequence[Document],
    out: Path,
    *,
    stale_documents: Sequence[Document] = (),
    library: Library | None = None,
    python: Path | None = None,
    writer_name: str | None = None,
    study: str = CODE,
    conditions: Sequence[str] = CONDITIONS,
    samples: int = SAMPLES,
    config: ReleaseConfig = RELEASE,
    command: str = "",
    progress: Progress = no_progress,
    notify: Callable[[str], None] = lambda message: None,
) -> dict:
    """Runs the benchmark and returns the content of results.json. `library`: the tag of the documents; None: the major
    version of the tasks. `python`: has the library; None: it is installed under the run folder. `writer_name`: another
    model that writes the pairs. `study`: one of STUDIES.

    Raises SelfeditError, before any work, on an unknown condition or one that has no documents.
    """
    from selfedit.bench.plots import documents_plot, pyplot

    check_conditions(conditions, CONDITIONS)
    if not documents and (needs := {"docs-in-context", "retrieval", *_LEARNED}.intersection(conditions)):
        raise SelfeditError(f"{min(needs)} needs the documents of the release: give --docs")
    if not stale_documents and "stale-docs" in conditions:
        notify("stale-docs is left out: give --stale-docs, the documents of the old version")
        conditions = [name for name in conditions if name != "stale-docs"]
        check_conditions(conditions, CONDITIONS)
    pyplot()
    store = MemoryStore(out / "home")
    environment = _environment(tasks[0], python, store.home, notify)
    model = load_model(model_name, notify=notify)
    library = library or Library.parse(f"{tasks[0].library}@{tasks[0].version.partition('.')[0]}")
    length = passage_length(model, PASSAGE_WORDS)
    passages = split_documents(documents, PASSAGE_WORDS, length, str(library))
    settings = {
        **model.identity(),
        "tasks": text_hash(*map(repr, tasks)),
        "passages": [passage.id for passage in passages],
        "stale": text_hash(*(document.text for document in stale_documents)),
        "library": f"{library} {environment.version}",
        "writer": writer_name or model_name,
        "config": repr(config),
    }
    settings |= {} if study == CODE else {"study": study}
    with lock_run_folder(out, settings):
        journal = Journal(out / "answers.jsonl")
        asked, left_out = _sound(tasks, environment.python, journal, progress)
        if left_out:
            reason = f"the reference of {left_out[0]['task']!r} fails here ({left_out[0]['error']})"
            if not asked:
                raise SelfeditError(f"no task is left: {reason}")
            notify(f"{len(left_out)} of {len(tasks)} tasks are left out: {reason}")
        learning: dict = {}
        if set(_LEARNED).intersection(conditions):
            file = out / "learning.json"
            if not file.exists():
                writer = load_model(writer_name, notify=notify) if writer_name not in (None, model_name) else None
                options = {"writer": writer, "progress": progress, "notify": notify}
                if study == FACTS:
                    summary = learn(model, passages, store, LearnConfig(), **options).summary()
                    learned = {"kept": len(summary["memories"]), "texts": len(summary["texts"])}
                    write_json(file, learned | {"seconds": {"learn": summary["seconds"]}})
                else:
                    report = learn_release(model, passages, store, config, library, environment, **options)
                    write_json(file, report.record())
            learning = read_back(file)
        stale_passages = split_documents(stale_documents, PASSAGE_WORDS, length)
        bench = _Bench(model, asked, store, passages, stale_passages, environment, journal, samples, progress)
        rows = [bench.row(condition) for condition in conditions]
    for row in rows:
        for other in ("base", "docs-in-context"):
            row[f"vs_{other}"] = _difference(row, next((r for r in rows if r["condition"] == other), None))
    result = {
        "model": model_name,
        "precision": model.backend.precision,
        "library": tasks[0].library,
        "version": tasks[0].version,
        "run_with": environment.version,
        "documents": len(documents),
        "passages": len(passages),
        "learning": learning,
        "left_out": left_out,
        "rows": rows,
        "command": command,
        "software": software(out),
    }
    write_json(out / "results.json", result)
    write_text(out / "results.md", table(result))
    documents_plot(result | {"rows": [r | {"questions": r["tasks"]} for r in rows]}, out)
    return result


def _environment(task: ApiTask, python: Path | None, home: Path, notify) -> environments.Environment:
    from packaging.specifiers import SpecifierSet

    if python is None:
        return environments.create(task.library, task.version, home, notify)
    found = environments.find(task.library, SpecifierSet(f"=={task.version}"), home, python)
    if not found or found.python != python:
        raise SelfeditError(f"{python} does not have {task.library} {task.version}; without --python it is installed")
    return found


def _sound(
    tasks: Sequence[ApiTask], python: Path, journal: Journal, progress: Progress
) -> tuple[list[ApiTask], list[dict]]:
    """The tasks whose reference passes here, and for each other one its `task` and the `error`."""
    sound = {r["task"] for r in journal.records if r["condition"] == "reference" and r["passed"]}
    todo, left_out = [task for task in tasks if task.id not in sound], []
    programs = [task.program(task.reference) for task in todo]
    for task, outcome in zip(todo, run_programs(programs, python, LIMITS, progress=progress)):
        record = {"condition": "reference", "task": task.id, "passed": outcome.passed, "error": outcome.error}
        journal.add(record)
        if not outcome.passed:
            left_out.append({"task": task.id, "error": outcome.error})
    failing = {one["task"] for one in left_out}
    return [task for task in tasks if task.id not in failing], left_out


def _difference(row: dict, other: dict | None) -> list[float | None] | None:
    """[accuracy of a row − of the other one, low, high] on the tasks that both answered."""
    shared = [id for id in row["passed"] if id in other["passed"]] if other and other is not row else []
    return paired_interval(*([r["passed"][id] for id in shared] for r in (row, other))) if shared and other else None


class _Bench:
    def __init__(
        self,
        model: Model,
        tasks: Sequence[ApiTask],
        store: MemoryStore,
        passages: Sequence[Passage],
        stale_passages: Sequence[Passage],
        environment: environments.Environment,
        journal: Journal,
        samples: int,
        progress: Progress,
    ):
        self.model, self.tasks, self.passages, self.samples, self.progress = model, tasks, passages, samples, progress
        self.environment, self.index, self.stale_index = environment, _Index(passages), _Index(stale_passages)
        self.answerer = Answerer(model, store)
        self.wanted = Wanted(tasks[0].library, f"=={tasks[0].version}")
        self.release = Release(store, model.fingerprint, self.wanted)
        self.has_adapter = bool(self.release.writer) or any(entry.has_adapter for entry in self.release.entries)
        self.journal, self.rule = journal, rule_name(*WRITTEN_BY)
        known = (r for r in journal.records if r.get("rule") == self.rule and "failed" not in r)
        self.known = {(r["condition"], r["task"], r["sample"]): r for r in known}

    def row(self, condition: str) -> dict:
        self._answer(condition)
        keys = {task.id: [(condition, task.id, i) for i in range(self.samples + 1)] for task in self.tasks}
        given = {
            id: [self.known[k] for k in of_task] for id, of_task in keys.items() if set(of_task) <= self.known.keys()
        }
        answered = [(task, given[task.id][0]) for task in self.tasks if task.id in given]
        asked = [(task, r) for task, r in answered if task.kind != UNCHANGED]
        passed = {task.id: float(r["passed"]) for task, r in asked}
        accuracy, ci95 = mean_interval(list(passed.values())) if passed else (None, None)
        unchanged = [float(r["passed"]) for task, r in answered if task.kind == UNCHANGED]
        drawn = [float(any(r["passed"] for r in given[task.id][1:])) for task, _ in asked if self.samples]
        preferred = [r["prefers_new"] for _, r in asked if r.get("prefers_new") is not None]
        return {
            "condition": condition,
            "adapter": condition in _ADAPTED and self.has_adapter,
            "tasks": sum(task.kind != UNCHANGED for task in self.tasks),
            "failed": len(self.tasks) - len(given),
            "resources": sum(r["ended"] in RESOURCES for of_task in given.values() for r in of_task),
            "accuracy": accuracy,
            "ci95": ci95,
            f"pass_at_{self.samples or SAMPLES}": mean(drawn),
            "stale": mean([float(r["stale"]) for task, r in asked if task.stale]),
            "prefers_new": mean(list(map(float, preferred))),
            "unchanged": mean(unchanged),
            "unchanged_tasks": sum(task.kind == UNCHANGED for task in self.tasks),
            "passed": passed,
        }

    def _answer(self, condition: str) -> None:
        todo = [t for t in self.tasks if any((condition, t.id, i) not in self.known for i in range(self.samples + 1))]
        for low in range(0, len(todo), BLOCK):
            block = todo[low : low + BLOCK]
            try:
                asks = self._asks(condition, block)
                drawn = [
                    (task, i, replace(ask, temperature=TEMPERATURE if i else 0.0, seed=stable_seed(task.id, i)))
                    for task, ask in zip(block, asks)
                    for i in range(self.samples + 1)
                ]
                on_token = of_batch(self.progress, condition, low, len(block), len(todo))
                answers = self.answerer.answer([ask for *_, ask in drawn], on_token=on_token)
            except ModelError as error:  # the model can read none of them
                for task in block:
                    self._fail(condition, task, str(error))
                continue
            for (task, i, _), answer in zip(drawn, answers):
                if answer.error and not i:
                    self._fail(condition, task, answer.error)
            written = [(task, i, a.answer) for (task, i, _), a in zip(drawn, answers) if not a.error]
            bodies = [task.code_task().code(text) for task, _, text in written]
            programs = [task.program(body) for (task, *_), body in zip(written, bodies)]
            stale_programs = [task.program(task.stale) for task in block]
            outcomes = run_programs([*programs, *stale_programs], self.environment.python, LIMITS)
            stale_errors = dict(zip((task.id for task in block), (o.error for o in outcomes[len(programs) :])))
            preferred = self._prefers_new(condition, block, asks)
            for (task, i, _), body, outcome in zip(written, bodies, outcomes):
                record = {
                    "condition": condition,
                    "task": task.id,
                    "sample": i,
                    "rule": self.rule,
                    "body": body,
                    "passed": outcome.passed,
                    "ended": outcome.ended,
                    "error": outcome.error,
                    "stale": _is_stale(task, body, outcome.passed, outcome.error, stale_errors[task.id]),
                }
                record |= {} if i else {"prefers_new": preferred.get(task.id)}
                self.journal.add(record)
                self.known[condition, task.id, i] = record

    def _fail(self, condition: str, task: ApiTask, error: str) -> None:
        self.journal.add({"condition": condition, "task": task.id, "sample": 0, "rule": self.rule, "failed": error})

    def _asks(self, condition: str, tasks: Sequence[ApiTask]) -> list[Ask]:
        if condition not in _PRODUCT:
            return [self._plain_ask(condition, task) for task in tasks]
        codes, arm = [task.code_task() for task in tasks], _PRODUCT[condition]
        written = [self.known.get(("name-the-version", task.id, 0)) for task in tasks]
        drafts = None if None in written else [record["body"] for record in written if record]
        stage = lambda done, total: self.progress("draft", done, total)  # noqa: E731  (a callback of one line)
        options = {"tokens": ANSWER_TOKENS, "drafts": drafts, "on_token": stage}
        return asks_for(self.answerer, self.release, codes, arm, **options)

    def _plain_ask(self, condition: str, task: ApiTask) -> Ask:
        code = task.code_task(names_version=condition != "base")
        ask = self.release.ask(code, BASE, ANSWER_TOKENS)
        if condition in ("base", "name-the-version"):
            return ask
        if condition == "docs-in-context":
            passages = gold_passages(task, self.passages, IN_VIEW)
        else:
            index = self.index if condition == "retrieval" else self.stale_index
            passages = index.best(code.instruction)
        return replace(ask, arm=TEXT, passages=passages, view=_in_view)

    def _prefers_new(self, condition: str, tasks: Sequence[ApiTask], asks: Sequence[Ask]) -> dict[str, bool]:
        """Whether the reference is likelier than the stale body, where the prompt is read by one model only."""
        if condition not in _CLOSED_BOOK:
            return {}
        adapters, examples, most = None, {}, self.model.backend.max_positions
        for task, ask in ((task, ask) for task, ask in zip(tasks, asks) if task.stale):
            plan, path = self.answerer.plan(ask)
            if len(plan.requests) != 1:  # none: it does not fit the model
                continue
            if path and adapters is None:
                adapters = self.model.backend.load([path])
            prompt = next(iter(plan.requests.values())).tokens
            bodies = [self.model.chat.encode(body.rstrip() + "\n") for body in (task.reference, task.stale)]
            if len(prompt) + max(map(len, bodies)) <= most:
                pair = (TokenizedExample((*prompt, *labels), len(prompt)) for labels in bodies)
                examples[task.id] = [(example, 0 if path else None) for example in pair]
        both = [example for pair in examples.values() for example in pair]
        values = self.model.backend.gold_logprobs(both, adapters) if both else []
        return {id: new > old for id, new, old in zip(examples, values[::2], values[1::2])}


class _Index:
    """Finds passages by the words of a task, however few it shares with them."""

    def __init__(self, passages: Sequence[Passage]):
        self._passages = {passage.id: passage for passage in passages}
        self._router = Router.of_texts({id: f"{p.title}\n{p.text}" for id, p in self._passages.items()}, least=0)

    def best(self, task: str) -> tuple[Passage, ...]:
        """At most IN_VIEW passages, the best first."""
        return tuple(self._passages[id] for id in self._router.nearest(task, IN_VIEW))


def _in_view(passages: Sequence[Passage], question: Question) -> Question:
    return replace(question, question=joined(passages).with_request(question.question))


def _is_stale(task: ApiTask, body: str, passed: bool, error: str, stale_error: str) -> bool:
    if not task.stale or passed:
        return False
    is_telling = bool(stale_error) and not re.fullmatch(r"AssertionError:?\s*", stale_error)
    return _shape(body) == _shape(task.stale) or (is_telling and error == stale_error)


def _shape(body: str) -> str:
    try:
        return ast.dump(ast.parse(f"if True:\n{body}"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "".join(body.split())


def table(result: dict) -> str:
    """Returns the rows as Markdown."""
    learning = result["learning"]
    about = (
        f"{result['library']} {result['version']}, run with {result['run_with']}; {result['documents']} documents, "
        f"{result['passages']} passages. 95 % intervals: bootstrap over tasks."
    )
    lines = [*heading("Code for a release", result), about, ""]
    if left_out := len(result["left_out"]):
        total = result["rows"][0]["tasks"] + result["rows"][0]["unchanged_tasks"] + left_out
        lines += [f"{left_out} of {total} tasks are left out: their reference does not pass here.", ""]
    if "kept" in learning:
        kept, texts, spent = learning["kept"], learning["texts"], learning["seconds"]["learn"]
        lines += [
            f"Learned as facts: {kept} passages with an adapter, {texts} as their text alone ({spent:,.0f} s).",
            "",
        ]
    elif learning:
        spent = ", ".join(f"{stage} {seconds:,.0f} s" for stage, seconds in learning["seconds"].items())
        lines += [
            f"Learned: {learning['changes']} changes, {learning['written']} samples written, "
            f"{learning['studied']} studied, {learning['judged']} held back; prefers the new side of "
            f"{number(learning['prefers_new_before'], '.2f')} → "
            f"{number(learning['prefers_new_after'], '.2f')} of those; "
            f"general change {number(learning['general_change'], '.2f')}; {learning['reason']} ({spent}).",
            "",
        ]
    drawn = next(key for key in result["rows"][0] if key.startswith("pass_at_"))
    head = ["condition", "tasks", "failed", "resources", "accuracy", drawn.replace("_at_", "@"), "stale", "prefers new"]
    head += ["unchanged", "− base", "− docs-in-context"]
    cells = (
        [
            r["condition"] + (" (no adapter was kept)" if r["condition"] in _ADAPTED and not r["adapter"] else ""),
            r["tasks"],
            r["failed"],
            r["resources"],
            with_interval([r["accuracy"], *(r["ci95"] or (None, None))], ".2f"),
            number(r[drawn], ".2f"),
            number(r["stale"], ".2f"),
            number(r["prefers_new"], ".2f"),
            number(r["unchanged"], ".2f"),
            with_interval(r["vs_base"], "+.2f"),
            with_interval(r["vs_docs-in-context"], "+.2f"),
        ]
        for r in result["rows"]
    )
    return "\n".join([*lines, *markdown(head, cells)]) + "\n"
