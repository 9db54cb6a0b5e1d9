"""The commands judge calibrate, adapt and train-editor; those of `bench` are in cli/benchmarks.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from selfedit.cli import benchmarks
from selfedit.cli.options import (
    Parser,
    add_json,
    add_out,
    add_settings,
    add_writer,
    arc_tasks,
    check_writer,
    fewshot_config,
    listed,
    open_judge,
    open_local_writer,
    open_model,
    open_remote_writer,
    path,
    path_text,
    show,
    typed,
    whole,
)
from selfedit.config import with_settings
from selfedit.errors import SelfeditError
from selfedit.terminal import note


def add(commands, with_model: Parser, with_backend: Parser) -> None:
    with_judge = Parser(add_help=False)
    address = "ask a judge at an OpenAI-compatible address (key: OPENAI_API_KEY) instead of the offline one"
    with_judge.add_argument("--judge", metavar="URL", help=address)
    with_judge.add_argument("--judge-model", metavar="NAME", default="gpt-4.1", help="the model that judges there")

    with_tasks = Parser(add_help=False)
    ids = "only these few-shot tasks: a JSON list of ids, or the list of that name"
    with_tasks.add_argument("--ids", type=path_text, metavar="FILE[:NAME]", help=ids)
    side = "only few-shot tasks whose grids have at most N rows and N columns"
    with_tasks.add_argument("--max-side", type=whole(1, 1000), metavar="N", help=side)

    judge = commands.add_parser("judge", help="how far a judge can be trusted")
    judge_actions = judge.add_subparsers(title="actions", required=True, metavar="ACTION")
    about = "compare a judge, as it is, with verdicts of one that you trust"
    calibrate = judge_actions.add_parser("calibrate", parents=[with_judge], help=about)
    verdicts = "JSONL, also .gz, of {title, question, gold, prediction, correct}"
    calibrate.add_argument("--data", type=path, required=True, metavar="FILE", help=verdicts)
    calibrate.add_argument("--all", action="store_true", help="also titles that the offline grader was fitted on")
    calibrate.add_argument("--limit", type=whole(1), metavar="N", help="only the first N answers")
    add_json(calibrate)
    calibrate.set_defaults(run=_judge_calibrate)

    benchmarks.add(commands, with_model, with_judge, with_tasks)

    about = "a few-shot task in ARC's JSON form: examples in, answer out"
    adapt = commands.add_parser("adapt", parents=[with_backend], help=about)
    adapt.add_argument("examples", type=path, metavar="EXAMPLES", help="{train: [{input, output}], test: [{input}]}")
    adapt.add_argument("--ask", type=path, metavar="FILE", help="{test: [{input}]}, if not those of EXAMPLES")
    adapt.add_argument("--recipe", type=path, metavar="FILE", help="how to study, as JSON (default: a fixed recipe)")
    edits = "N more recipes, chosen by the model (default: 0; with --editor 3)"
    adapt.add_argument("--edits", type=whole(0, 1000), metavar="N", help=edits)
    chooser = "a run of train-editor --domain arc, which chooses instead"
    adapt.add_argument("--editor", type=path, metavar="DIR", help=chooser)
    add_json(adapt)
    adapt.set_defaults(run=_adapt)

    about = "the outer loop: a model that writes better study material"
    editor = commands.add_parser("train-editor", parents=[with_backend, with_judge, with_tasks], help=about)
    domain = "what is studied: passages, or few-shot tasks"
    editor.add_argument("--domain", choices=("text", "arc"), default="text", help=domain)
    data = "passages with questions, as for bench knowledge; for arc: tasks, as for bench arc"
    editor.add_argument("--data", type=path_text, required=True, metavar="FILE", help=data)
    editor.add_argument("--rounds", type=whole(1, 1000), default=2, metavar="N", help="how often the editor is trained")
    contexts = "passages per round (default: 50), or few-shot tasks (default: all)"
    editor.add_argument("--contexts", type=whole(1, 100_000), metavar="N", help=contexts)
    edits = "edits per passage, or recipes per task (default: 5)"
    editor.add_argument("--edits", type=whole(1, 1000), metavar="N", help=edits)
    editor.add_argument("--seeds", type=whole(2, 100), metavar="K", help="how often each edit is tried (default: 2)")
    add_settings(editor, "the trials' training", "learning_rate=0.002")
    editor.add_argument("--styles", metavar="A,B", help="the styles that compete, each also with +questions")
    add_writer(editor, "that writes the edits until an editor was trained on those that helped (text only)")
    add_json(editor)
    add_out(editor, required=True)
    editor.set_defaults(run=_train_editor)


def _judge_calibrate(arguments) -> int:
    from selfedit.judge.calibrate import calibrate, not_fitted_on, read_verdicts
    from selfedit.terminal import Progress, after, calibration_table

    verdicts = read_verdicts(arguments.data)
    compared = verdicts if arguments.all or arguments.judge is not None else not_fitted_on(verdicts)
    if not compared:
        raise SelfeditError(
            f"{arguments.data}: the grader was fitted on every title in it; --all compares them all the same"
        )
    judge, _ = open_judge(arguments)
    with Progress(quiet=arguments.json) as progress:
        result = calibrate(compared[: arguments.limit], judge, after(5.0, progress.stage))
    result["left_out"] = len(verdicts) - len(compared)
    show(arguments, result, lambda: calibration_table(result))
    return 0


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

    names = ("seeds", "styles", "judge", "writer", "writer_model")
    if unused := [name for name in names if getattr(arguments, name) is not None]:
        raise SelfeditError(f"--{unused[0].replace('_', '-')} is for --domain text")
    edits = {} if arguments.edits is None else {"edits": arguments.edits}
    config = RecipeConfig(**edits, trial=fewshot_config(arguments))
    tasks = arc_tasks(arguments.data, arguments, arguments.contexts)
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
    is_remote = check_writer(arguments)
    tasks = load_tasks(arguments.data, notify=note)
    judge, judge_name = open_judge(arguments)
    remote = open_remote_writer(arguments, arguments.out) if is_remote else None

    def domain(model):
        writer = remote or open_local_writer(arguments, note)
        return Knowledge(model, tasks, config, judge=judge, judge_name=judge_name, writer=writer)

    return domain
