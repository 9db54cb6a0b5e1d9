"""Environments are made by the real pip from a folder of wheels, without the network."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.specifiers import SpecifierSet

from selfedit import environments
from selfedit.environments import COMPLETE, Environment, create, find, installed
from selfedit.errors import LibraryError
from selfedit.sandbox import SandboxError, isolation, run_programs

try:
    isolation()
except SandboxError as error:
    pytest.skip(f"code cannot be run safely here: {error}", allow_module_level=True)


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory) -> Path:
    """The package `red_gate` in versions 1.0 and 2.0."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        info = f"red_gate-{version}.dist-info"
        with zipfile.ZipFile(folder / f"red_gate-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("red_gate.py", f"VERSION = {version!r}\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: red-gate\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return folder


def use_wheels(patch: pytest.MonkeyPatch, wheels: Path, folder: Path) -> None:
    """pip finds packages there and nowhere else, and this folder has no environment."""
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(wheels))
    patch.delenv("VIRTUAL_ENV", raising=False)
    patch.chdir(folder)


@pytest.fixture
def wheels(wheel_folder, tmp_path, monkeypatch) -> None:
    use_wheels(monkeypatch, wheel_folder, tmp_path)


@pytest.fixture(scope="module")
def made(wheel_folder, tmp_path_factory) -> SimpleNamespace:
    """A home with an environment of each version, and what was told when they were made. Not to be changed."""
    home, notes = tmp_path_factory.mktemp("made") / "home", []
    with pytest.MonkeyPatch.context() as patch:
        use_wheels(patch, wheel_folder, home.parent)
        first, second = (create("Red_Gate", version, home, notes.append) for version in ("1", "2.0"))
    return SimpleNamespace(home=home, notes=notes, first=first, second=second)


def test_an_environment_is_made_once_and_found_by_its_version(wheels, made, tmp_path):
    notes, home, first, second = made.notes, made.home, made.first, made.second
    assert find("red-gate", SpecifierSet(">=1"), tmp_path / "home") is None
    assert first == Environment(home / "environments" / "red-gate-1" / "bin" / "python", "red-gate", "1")
    assert len(notes) == 2 and notes[0].startswith("installs red-gate==1 in ")
    assert create("red-gate", "2.0", home, notes.append) == second and len(notes) == 2
    assert find("Red_Gate", SpecifierSet("<2"), home) == Environment(first.python, "Red_Gate", "1.0")
    assert find("red-gate", SpecifierSet(""), home).version == "2.0"  # the newest
    (outcome,) = run_programs(["import red_gate\nprint(red_gate.VERSION)"], second.python)
    assert outcome.output == "2.0\n"


def test_what_an_interrupted_installation_left_is_replaced(wheels, tmp_path):
    folder = tmp_path / "environments" / "red-gate-2.0"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("half a program")
    assert installed("red-gate", create("red-gate", "2.0", tmp_path, str).python) == "2.0"


def test_two_processes_make_one_environment(wheels, tmp_path):
    make = "from selfedit.environments import *; create('red-gate', '2.0', Path(sys.argv[1]), print)"
    command = [sys.executable, "-c", make, str(tmp_path / "home")]
    root = Path(__file__).parents[1]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)]
    told = "".join(process.communicate(timeout=300)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0] and told.count("installs red-gate==2.0 in") == 1
    assert installed("red-gate", tmp_path / "home/environments/red-gate-2.0/bin/python") == "2.0"


def test_what_cannot_be_installed_is_one_line_and_is_tried_again_later(wheels, tmp_path, monkeypatch):
    with pytest.raises(LibraryError, match=r"^red-gate==3 cannot be installed \(Could not .*; check the version"):
        create("red-gate", "3", tmp_path, str)
    assert not list(tmp_path.glob(f"environments/*/{COMPLETE}"))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # as without a network
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(LibraryError, match=r"^red-gate==2.0 cannot be installed .* and the network$"):
        create("red-gate", "2.0", tmp_path, str)


@pytest.mark.parametrize(
    ("library", "version"), [("../x", "1"), ("npm/react", "1"), ("-r", "1"), ("x", "1; 2"), ("", "1")]
)
def test_only_names_and_versions_reach_pip(library, version, tmp_path):
    with pytest.raises(LibraryError, match="give"):
        create(library, version, tmp_path, str)


def test_only_the_given_python_else_the_active_one_then_that_of_the_folder(wheels, made, tmp_path, monkeypatch):
    one, two = replace(made.first, version="1.0"), made.second  # as the environment itself says it
    assert find("red-gate", SpecifierSet(""), made.home, one.python) == one
    assert find("red-gate", SpecifierSet("==2"), made.home, one.python) is None  # no other one takes its place
    assert find("red-gate", SpecifierSet("==2"), made.home) == two
    monkeypatch.setenv("VIRTUAL_ENV", str(one.python.parents[1]))
    assert find("red-gate", SpecifierSet(""), made.home) == one
    monkeypatch.delenv("VIRTUAL_ENV")
    (tmp_path / ".venv").symlink_to(one.python.parents[1])
    assert find("red-gate", SpecifierSet(""), made.home).version == "1.0"
    with pytest.raises(SandboxError, match="is no Python; give"):
        find("red-gate", SpecifierSet(""), made.home, tmp_path / "missing")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("", "is no Python; give the path"),  # not executable
        ("exec sleep 100", r"does not say what is installed there \(stopped after 0.5 s\)"),
        ("head -c 300000 /dev/urandom", r"does not say what is installed there \(wrote more than 64 KB\)"),
        ("echo 2.0", r"does not start where code is run \(2.0\)"),
        ("kill -9 $$", "does not start where code is run"),
    ],
)
def test_a_given_python_that_is_none_is_one_line(tmp_path, monkeypatch, program, message):
    monkeypatch.setattr(environments, "SECONDS", 0.5 if "sleep" in program else 10.0)
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755 if program else 0o644)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    with pytest.raises(SandboxError, match=message) as caught:
        find("red-gate", SpecifierSet(""), tmp_path, python)
    assert "\n" not in str(caught.value)


def test_a_given_python_that_is_a_folder_or_leads_to_itself_is_one_line(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    for name in (".", "circle"):
        with pytest.raises(SandboxError, match="is no Python; give"):
            find("red-gate", SpecifierSet(""), tmp_path, tmp_path / name)


def test_a_program_of_somebody_else_in_the_folder_runs_in_the_sandbox_only(wheels, tmp_path):
    program = tmp_path / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho stolen > {tmp_path}/mark\necho 2.0\n")
    program.chmod(0o755)
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    assert find("red-gate", SpecifierSet(""), tmp_path) is None
    assert not (tmp_path / "mark").exists()


def test_an_interpreter_without_the_library_is_asked_without_importing_it(made, tmp_path):
    copy = shutil.copytree(made.second.python.parents[1], tmp_path / "environment", symlinks=True)
    (module,) = copy.glob("lib/*/site-packages/red_gate.py")
    module.write_text("raise SystemExit")
    assert installed("red-gate", copy / "bin" / "python") == "2.0"
    assert installed("blue-gate", copy / "bin" / "python") is None
