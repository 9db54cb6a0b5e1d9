"""The house has one direction: a file imports only from its own room or from rooms below."""

import argparse
import ast
import json
import resource
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from selfedit.cli import _parser

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "selfedit"
ROOMS = [  # from below
    {"types", "errors", "config", "disk", "text", "libraries", "locks", "thread_waiting", "worker", "remote", "code"},
    {"sandbox", "sandbox_runner", "environments"},
    {"installed"},
    {"model"},
    {"documents", "sessions"},
    {"edits", "judge", "tasks"},
    {"loop"},
    {"memory"},
    {"answers"},
    {"learn", "release", "watch", "adapt", "retest", "estimate", "conversations"},
    {"cli", "terminal", "serve", "bench", "export", "demo"},
]
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms} | {
    "cluster": 2
}  # it maps any function, and knows none
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str | None:
    """`selfedit.model.packed.lora` → `model`; None for other packages and for `selfedit` itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "selfedit" and len(parts) > 1 else None


def imported(source: str) -> list[str]:
    """Every module of ours that the source imports, also inside functions; of `from m import n` both m and m.n."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out from `selfedit`"
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [module for module in modules if room_of(module)]


def upward(room: str, source: str) -> set[str]:
    """Rooms above this one, or beside it, from which the source imports."""
    others = {room_of(module) for module in imported(source)} & LEVELS.keys() - {room}
    return {other for other in others if not allowed(room, other)}


def allowed(room: str, other: str) -> bool:
    """Downward; on a floor of several rooms also sideways, since no circle may come of it (below)."""
    return LEVELS[other] < LEVELS[room] or (LEVELS[other] == LEVELS[room] and len(ROOMS[LEVELS[room]]) > 1)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_downward_only(file):
    room = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if room == "__init__":
        assert imported(file.read_text()) == []
        return
    assert room in LEVELS, f"selfedit/{room} has no place in the house: give it one in ROOMS, and in the design"
    assert upward(room, file.read_text()) == set()


def test_a_wrong_import_would_be_found():
    assert upward("model", "def f():\n    from selfedit.memory.store import MemoryStore\n") == {"memory"}
    assert upward("types", "from selfedit import cli") == {"cli"}
    assert upward("loop", "import selfedit.memory.store, selfedit.judge.grading") == {"memory"}
    assert upward("memory", "import selfedit.loop.trial, selfedit.errors, torch") == set()


def test_no_file_imports_itself_in_a_circle():
    names = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in FILES if file.name != "__init__.py"
    }
    graph = {name: {module for module in imported(file.read_text()) if module in names} for name, file in names.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(names)  # raises CycleError and names the circle


LIGHT = ["selfedit", "selfedit.cli", "selfedit.types", "selfedit.errors", "selfedit.config", "selfedit.terminal"]
HEAVY = "{'torch', 'numpy', 'transformers', 'rich', 'httpx', 'filelock', 'safetensors'} & sys.modules.keys()"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_imports_nothing_heavy(module):
    imported = python(f"import sys, {module}; print({HEAVY})")
    assert (imported.stdout, imported.stderr) == ("set()\n", "")


def commands(parser: argparse.ArgumentParser, *prefix: str) -> list[list[str]]:
    """The names of the parser's command and of all commands below it, as they are typed."""
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [[*prefix]] + [c for choices in below for name in choices for c in commands(choices[name], *prefix, name)]


COMMANDS = commands(_parser())


def test_the_commands_are_found_in_the_parser():
    assert len(COMMANDS) > 25 and ["memory", "list"] in COMMANDS and ["train-editor"] in COMMANDS


EACH = f"""
import contextlib, io, json, sys, selfedit.cli
shown = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = selfedit.cli.main(arguments)
    shown.append([code, sorted({HEAVY}), output.getvalue()])
print(json.dumps(shown))
"""
"""Runs commands in one process: the exit code of each, what is imported by then, and what it printed."""


def test_help_is_shown_without_importing_anything_heavy():
    commands = [["--version"], *([*command, "--help"] for command in COMMANDS)]
    shown = python(EACH, json.dumps(commands))
    assert shown.stderr == ""
    for arguments, (code, heavy, output) in zip(commands, json.loads(shown.stdout), strict=True):
        assert (code, heavy) == (0, []), arguments
        usage = " ".join(["usage: selfedit", *arguments[:-1]])
        assert output.startswith("selfedit " if arguments == ["--version"] else usage), arguments


def test_help_is_fast():
    """As a multiple of Python's own start, because machines differ; of the processor's time, because it may be busy."""

    def seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    own, help = (min(seconds(*arguments) for _ in range(5)) for arguments in (["-c", ""], ["-m", "selfedit.cli", "-h"]))
    assert help < max(0.3, 8 * own)


HIDDEN = {"network", "flat", "views"}
"""Attributes of a backend's inside."""
PACKED = "selfedit.model.packed"


def looks_inside(source: str) -> list[str]:
    """What a source names of the inside of a backend: modules below `model`, or attributes."""
    modules = [module for module in imported(source) if module.startswith((PACKED, "selfedit.model.reference"))]
    attributes = [node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return modules + [name for name in attributes if name in HIDDEN]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_the_model_package_knows_how_a_backend_works(file):
    if file.relative_to(PACKAGE).parts[0] != "model":
        assert looks_inside(file.read_text()) == []


def test_a_look_inside_a_backend_would_be_found():
    assert looks_inside("from selfedit.model.packed.lora import LoraBatch") == [
        PACKED + ".lora",
        PACKED + ".lora.LoraBatch",
    ]
    assert looks_inside("print(model.backend.network.shape)") == ["network"]
    assert looks_inside("model.backend.train([], config)") == []
