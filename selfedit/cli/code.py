"""The commands for code: `learn` of a library's release, and `code`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from selfedit.cli.options import add_versions, open_model, open_store, path, project_versions, show, whole
from selfedit.config import LearnConfig, ReleaseConfig, with_settings
from selfedit.errors import SelfeditError
from selfedit.terminal import note, one_line, say

if TYPE_CHECKING:  # the commands import what they need: --help must stay fast
    from selfedit.environments import Environment
    from selfedit.learn import LearnReport
    from selfedit.libraries import Library, Wanted
    from selfedit.release import ReleaseReport

MAX_SCRIPT = 40_000
"""Characters of a task, and of a file that code is written for; longer ones do not fit small models."""


def add(commands, common: argparse.ArgumentParser, with_backend: argparse.ArgumentParser) -> None:
    code = commands.add_parser(
        "code", parents=[common, with_backend], help="write code for a version of a library that was learned"
    )
    code.add_argument("task", help='what the code should do; "-" reads it from the input')
    code.add_argument("--file", type=path, metavar="SCRIPT", help="the file that the code is for; the model reads it")
    code.add_argument(
        "--from",
        dest="arm",
        choices=("auto", "weights", "text", "both"),
        default="auto",
        help="text: the untouched model writes, with the notes that fit best in the prompt; both: the adapter of the "
        "release writes with them; weights: that adapter without them or, where a release has none, the untouched "
        "model with what its memories recite; auto: both, where there is an adapter, else text (default)",
    )
    add_versions(code)
    code.add_argument(
        "--run",
        dest="is_run",
        action="store_true",
        help="also run the code in the sandbox and say how it ended; exit code 1 if it fails",
    )
    add_python(code)
    code.add_argument("--tokens", type=whole(1, 100_000), default=256, help="longest code, in tokens (default: 256)")
    code.set_defaults(run=_code)


def add_python(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--python",
        type=path,
        metavar="PYTHON",
        help="the interpreter that has the library (default: the active environment, .venv, or one made by --install)",
    )


def add_release(learn: argparse.ArgumentParser) -> None:
    """The options of a command that may learn a library's release."""
    learn.set_defaults(set=[], styles=None, quiz=None, writer=None)  # where there are no such options
    learn.add_argument(
        "--study",
        choices=("auto", "code", "facts"),
        default="auto",
        help="code: what changed in a library, as code that is run; facts: passage by passage, as any document; "
        "auto: code, where the documents are about a version of a library and state changes, and facts where nothing "
        "was learned as code (default)",
    )
    add_python(learn)
    learn.add_argument(
        "--install", action="store_true", help="install the library in an environment of its own, to run code with it"
    )
    learn.add_argument("--no-run", action="store_true", help="do not run any code")


def learns_code(arguments, passages) -> bool:
    """Whether `learn` studies these passages as code."""
    from selfedit.edits.changes import find_changes
    from selfedit.libraries import NPM

    if arguments.study == "facts":
        return False
    tags = {passage.library for passage in passages}
    if any(tag.startswith(NPM) for tag in tags):
        if arguments.study == "code":
            raise SelfeditError("only code in Python can be studied; give --study facts")
        return False
    of_facts = [name for name in ("styles", "quiz") if getattr(arguments, name)]
    if arguments.study == "code":
        if of_facts:
            raise SelfeditError(f"--{of_facts[0]} is for facts: leave it out, or give --study facts")
        if len(tags) != 1 or "" in tags:
            raise SelfeditError(
                "--study code needs documents about one version of a library: give --for LIBRARY@VERSION"
            )
        return True
    return len(tags) == 1 and "" not in tags and not of_facts and bool(find_changes(passages))


def _release_config(arguments) -> ReleaseConfig:
    return with_settings(ReleaseConfig(), dict(arguments.set), [LearnConfig()])


def work_expected(arguments, passages, home: Path) -> tuple[float | None, int | None]:
    """The seconds that `learn_passages` will take, where that is known, and how many changes of an API it studies as
    code; None: it learns facts."""
    from selfedit.edits.changes import find_changes
    from selfedit.estimate import seconds_expected, seconds_for_code

    if not learns_code(arguments, passages):
        return seconds_expected(passages, home, arguments.model), None
    changes = len(find_changes(passages))
    pairs = changes * _release_config(arguments).samples
    return seconds_for_code(pairs, home, arguments.writer or arguments.model), changes


def learn_passages(
    arguments, model, passages, store, config: LearnConfig, progress, *, writer=None, again: bool = False, **options
) -> LearnReport | ReleaseReport:
    """The report on learning passages: as code where `learns_code` says so; as facts, with the `options` of `learn`,
    otherwise and where nothing is learned as code. `arguments`: with those of `add_release`."""
    from selfedit.learn import learn
    from selfedit.libraries import Library
    from selfedit.release import learn_release

    told = {"progress": progress.stage, "notify": progress.note}
    if learns_code(arguments, passages):
        library = Library.parse(passages[0].library)
        environment = find_environment(arguments, library, store.home, progress.note)
        settings = _release_config(arguments)
        release = learn_release(
            model, passages, store, settings, library, environment, writer=writer, again=again, **told
        )
        if release.shared or arguments.study == "code":
            return release
        progress.note(f"nothing was learned as code ({release.reason}); the passages are learned as facts")
    options |= {"writer": writer, "again": again, "on_report": progress.report}
    return learn(model, passages, store, config, **told, **options)


def find_environment(arguments, library: Library, home: Path, notify: Callable[[str], None]) -> Environment | None:
    """The Python in which the code of `learn` is run; None, and a note that says why, where none is."""
    from selfedit import environments

    if arguments.no_run:
        return None
    found, fault = _installed(arguments, library, home, must=bool(arguments.python))
    if fault:
        notify(f"code is not run: {fault}")
    elif not found and arguments.install:
        if not library.lowest_allowed:
            raise SelfeditError(f"--install needs a version: give --for {library.name}@VERSION")
        return environments.create(library.name, library.lowest_allowed, home, notify)
    elif not found and arguments.python:
        raise SelfeditError(f"{arguments.python} does not have {library}; install it there, or give another --python")
    elif not found:
        notify(f"code is not run, since {library} is not installed here: give --python PYTHON or --install")
    return found


def _installed(arguments, library: Library, home: Path, must: bool) -> tuple[Environment | None, str]:
    """The Python that has the library, or None; and why no code can be run here, which is raised if code `must` run."""
    from packaging.specifiers import SpecifierSet

    from selfedit import environments
    from selfedit.sandbox import SandboxError

    try:
        return environments.find(library.name, SpecifierSet(library.specifier), home, arguments.python), ""
    except SandboxError as error:
        if must:
            raise
        return None, str(error)


def _code(arguments) -> int:
    from selfedit.answers.answerer import Answerer
    from selfedit.answers.code import Release, asks_for
    from selfedit.code import CodeTask
    from selfedit.installed.names import installed_api, problems
    from selfedit.libraries import described
    from selfedit.sandbox import run_programs
    from selfedit.terminal import Progress, after

    task = _input() if arguments.task == "-" else arguments.task
    if not task.strip():
        raise SelfeditError("the task is empty")
    script = _script(arguments.file) if arguments.file else ""
    store = open_store(arguments)
    with Progress(quiet=arguments.json) as progress:
        model = open_model(arguments, progress.note)
        wanted, unknown = _wanted(arguments, store, model, task, progress.note)
        about = f"Using {described(wanted)}: " if wanted else ""
        code_task = CodeTask(f"{about}{task.strip()}", script=script)
        environment, missing = _environment(arguments, wanted, store.home)
        python = _python(arguments, wanted, environment) if arguments.is_run else None
        stage = after(5.0, progress.stage)
        on_token = lambda done, total: stage("answer", done, total)  # noqa: E731  (a callback of one line)
        answerer, release = Answerer(model, store), Release(store, model.fingerprint, wanted)
        options = {"tokens": arguments.tokens, "on_token": on_token}
        (ask,) = asks_for(answerer, release, [code_task], arguments.arm, **options)
        (answer,) = answerer.answer([ask], on_token=on_token)
    if answer.error:
        raise SelfeditError(answer.error)
    code = code_task.code(answer.answer)
    record = {"code": code} | {k: v for k, v in answer.record().items() if k not in ("answer", "memory")}
    record |= {"library": str(wanted) if wanted else None, "sources": _sources(answer)}
    if environment:
        try:
            api = installed_api(environment, code)
            found = problems(code, api, code_task.before)
            record["checked"] = {"with": api.about, "problems": list(map(str, found))}
        except SelfeditError as error:
            missing = [f"names are not checked: {error}"]
    if notes := unknown + missing:
        record["note"] = "; ".join(notes)
    outcome = None
    if python:
        outcome = run_programs([code], python)[0]
        record |= {"ran": {"ended": outcome.ended, "error": outcome.error, "output": outcome.output}}
    show(arguments, record, lambda: say(code.rstrip("\n")))
    if not arguments.json:
        for source in record["sources"]:
            note(f"  from {one_line(source)}")
        if text := record.get("note"):
            note(f"  {one_line(text)}")
        for problem in record.get("checked", {}).get("problems", ()):
            note(f"  {one_line(problem)}")
        if outcome:
            note(f"  {'runs' if outcome.passed else one_line(outcome.error)}")
    return 1 if outcome and not outcome.passed else 0


def _sources(answer) -> list[str]:
    return list(dict.fromkeys(passage.source for passage in (*answer.recited, *answer.read)))


def _input() -> str:
    if sys.stdin is None:
        raise SelfeditError("there is no input to read the task from")
    sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    return _read(sys.stdin, "the input")


def _script(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            return _read(stream, str(file))
    except OSError as error:
        raise SelfeditError(f"{file}: cannot be read ({error.strerror})") from None


def _read(stream, name: str) -> str:
    try:
        text = stream.read(MAX_SCRIPT + 1)
    except UnicodeError:
        raise SelfeditError(f"{name} is not UTF-8; give text in UTF-8") from None
    if len(text) > MAX_SCRIPT:
        raise SelfeditError(f"{name} has over {MAX_SCRIPT:,} characters; give a part of it")
    return text


def _wanted(arguments, store, model, task: str, notify):
    """The version that the code is for: the one given, the one that the task names, that of the project, or the newest
    one that is known; None if nothing is known of any library. Also, in words, the named versions that are unknown."""
    from selfedit.libraries import Scope

    tags = store.libraries(model.fingerprint)
    scope = Scope(arguments.library, task, project_versions(arguments, store, model.fingerprint, notify))
    versions, unknown = scope.versions(tags), scope.unknown(tags)
    if named := scope.named(tags):
        return versions.get(named[-1].name, named[-1]), unknown
    pinned = [versions[name] for name in scope.project if name in versions]
    if len(candidates := pinned or list(versions.values())) > 1:
        raise SelfeditError(f"which library is it for? give --for ({', '.join(sorted(w.name for w in candidates))})")
    return (candidates[0] if candidates else None), unknown


def _environment(arguments, wanted: Wanted | None, home: Path) -> tuple[Environment | None, list[str]]:
    """The Python that has the library that the code is for, or None; and, in words, why there is none."""
    from selfedit.libraries import NPM, Library

    if not wanted or wanted.name.startswith(NPM):
        return None, []
    must = bool(arguments.python or arguments.is_run)
    found, fault = _installed(arguments, Library.parse(str(wanted)), home, must)
    if found:
        return found, []
    where = f"{arguments.python} does not have {wanted}" if arguments.python else f"{wanted} is not installed here"
    return None, [f"names are not checked: {fault or f'{where}; give --python PYTHON'}"]


def _python(arguments, wanted: Wanted | None, environment: Environment | None) -> Path:
    """The interpreter that runs the code: looked for before the code is written."""
    from selfedit.sandbox import run_programs

    if environment:
        return environment.python
    if wanted:
        raise SelfeditError(f"--run needs a Python that has {wanted}: give --python, or learn with --install")
    python = arguments.python or Path(sys.executable)
    run_programs([""], python)
    return python
