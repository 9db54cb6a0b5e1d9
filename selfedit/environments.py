"""Which Python has a library at a version: one that is there, or a new virtual environment in the memory home.

An interpreter is asked in the sandbox: a folder's `.venv` may have come with somebody else's files.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from selfedit.disk import plain_errors, replace, turn
from selfedit.errors import LibraryError
from selfedit.sandbox import Limits, SandboxError, isolation, run_programs

COMPLETE = "complete"
"""The file that an environment has when everything is installed; an interrupted one is made anew."""
SECONDS = 60.0


@dataclass(frozen=True)
class Environment:
    python: Path
    library: str
    version: str


def installed(library: str, python: Path) -> str | None:
    """The version of a library that an interpreter has, without importing the library. Raises SandboxError if the
    interpreter does not answer."""
    ask = f"from importlib.metadata import version\nprint(version({str(library)!r}))"
    outcome = run_programs([ask], python, Limits(seconds=SECONDS))[0]
    if outcome.ended not in ("passed", "failed"):
        raise SandboxError(f"{python}: does not say what is installed there ({outcome.error}); give another Python")
    try:
        return str(Version(outcome.output)) if outcome.passed else None
    except InvalidVersion:
        return None


def find(library: str, wanted: SpecifierSet, home: Path, python: Path | None = None) -> Environment | None:
    """`python` if its version of the library is wanted. Where no `python` is given, the first one of these: the active
    environment, the folder's `.venv`, the one that runs this, and those made by `create`. Raises SandboxError."""
    isolation()
    for candidate in [python] if python else dict.fromkeys(_candidates(library, home)):
        try:
            version = installed(library, candidate)
        except SandboxError:
            if python:
                raise
            continue
        if version and wanted.contains(version, prereleases=True):
            return Environment(candidate, library, version)
    return None


def _candidates(library: str, home: Path) -> Iterator[Path]:
    for folder in (os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"), ".venv"):
        if folder and (found := Path(folder).absolute() / "bin" / "python").exists():
            yield found
    yield Path(sys.executable)
    made = (home.absolute() / "environments").glob(f"{canonicalize_name(library)}-[0-9]*/{COMPLETE}")
    newest = sorted(made, key=lambda marker: Version(marker.parent.name.rpartition("-")[2]), reverse=True)
    yield from (marker.parent / "bin" / "python" for marker in newest)


def create(library: str, version: str, home: Path, notify: Callable[[str], None]) -> Environment:
    """Makes a virtual environment with the library, unless there is one. Only wheels are installed, so that no code of
    a package runs. Raises LibraryError."""
    if not re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", library, re.ASCII):
        raise LibraryError(f"{library[:200]}: only packages of Python can be installed; give a name such as polars")
    try:
        name, version = canonicalize_name(library), str(Version(version))
    except InvalidVersion:
        raise LibraryError(f"{library}=={version[:200]}: not a version; give one such as 2.1.0") from None
    folder = home.absolute() / "environments" / f"{name}-{version}"
    found = Environment(folder / "bin" / "python", name, version)
    with plain_errors(f"make the environment {folder}", LibraryError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with turn(folder, lambda process: notify(f"waits for process {process}, which installs {name}=={version}")):
            if not (folder / COMPLETE).exists():
                notify(f"installs {name}=={version} in {folder}")
                shutil.rmtree(folder, ignore_errors=True)
                ours = find_spec("pip") is not None  # copying pip takes longer than installing a library
                _call([sys.executable, "-I", "-m", "venv", *["--without-pip"] * ours, str(folder)], found)
                pip = [sys.executable, "-I", "-m", "pip", "--python", str(folder)]
                pip = pip if ours else [str(found.python), "-I", "-m", "pip"]
                options = ["--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--retries", "1"]
                _call([*pip, "install", *options, f"{name}=={version}"], found)
                replace(folder / COMPLETE, f"{name}=={version}\n".encode())
    return found


def _call(command: list[str], wanted: Environment) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, umask=0o022)  # the sandbox reads it
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["no reason given"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
        reason = reason.partition(" (from versions:")[0][:300]
        advice = "check the version and the network"
        raise LibraryError(f"{wanted.library}=={wanted.version} cannot be installed ({reason}); {advice}")
