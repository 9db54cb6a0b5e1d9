"""Code → what it names and an installed library does not have: modules, what is imported from them, attributes of its
modules and classes, and arguments of its functions. The library is asked in the sandbox (`installed.reader`); nothing
of it is imported here.

Only what is certain is told: names that are followed from an import. What a value has is not known, since few values in
code that a model writes have a type that can be told (docs/LOG.md, "Which notes are in view").
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from selfedit.environments import Environment
from selfedit.errors import LibraryError
from selfedit.sandbox import Limits, run_programs

LIMITS = Limits(seconds=60.0, memory_mb=2048, output_bytes=32_000_000)
SIMILAR = 3
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_NAME = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Problem:
    text: str
    similar: tuple[str, ...] = ()
    """Names that the library has."""

    def __str__(self) -> str:
        return f"{self.text} (similar: {', '.join(self.similar)})" if self.similar else self.text


class Api:
    """What an installed library offers."""

    def __init__(self, library: str, version: str, told: object):
        """`told`: as `installed.reader` prints it. Raises LibraryError if it is anything else."""
        if not isinstance(told, dict) or not _is_told(told):
            raise LibraryError(f"{library} {version} does not tell what it offers; give another --python")
        self.about = f"{library} {version}"
        self.modules: dict[str, int] = told["modules"]
        self.listed = {*told["listed"], *self.modules}
        """All modules, also those that could not be imported."""
        self._opened = {*told["opened"]}
        """Those whose modules are all listed."""
        self._names = {number: name for name, number in self.modules.items()}
        self._roots = {name.partition(".")[0] for name in self.listed}
        self.entries: list[dict] = told["entries"]

    def owns(self, module: str) -> bool:
        return module.partition(".")[0] in self._roots

    def members(self, number: int | None) -> dict[str, int | None] | None:
        """Of a module or class; None: not known."""
        return None if number is None else self.entries[number]["members"]

    def attributes(self, number: int | None) -> set[str] | None:
        """What a module or class has, with the modules below it, imported or not; None: not known."""
        members, module = self.members(number), self._names.get(number) if number is not None else None
        if members is None or (module and module not in self._opened):
            return None
        below = (name[len(module) + 1 :] for name in self.listed if name.startswith(f"{module}.")) if module else ()
        return {*members, *(name.partition(".")[0] for name in below)}

    def may_have(self, module: str) -> bool:
        """Whether there is such a module, or may be one in a package that could not be read."""
        while module and module not in self.listed:
            module = module.rpartition(".")[0]
            if module in self._opened:
                return False
        return True


def installed_api(environment: Environment, code: str = "") -> Api:
    """`code`: what is to be checked. Raises SandboxError, and LibraryError where the library cannot be imported."""
    program = Path(__file__).with_name("reader.py").read_text()
    call = f"main({environment.library!r}, {sorted({*_NAME.findall(code)})!r})"
    (outcome,) = run_programs([f"{program}\n\n{call}\n"], environment.python, LIMITS)
    if not outcome.passed:
        raise LibraryError(f"{environment.library} {environment.version} cannot be imported: {outcome.error}")
    try:
        told = json.loads(outcome.output.strip().rpartition("\n")[2])
    except (ValueError, RecursionError):
        told = None
    return Api(environment.library, environment.version, told)


def _is_told(told: dict) -> bool:
    """Whether this is what `installed.reader` prints: the library may have printed something else."""
    modules, entries = told.get("modules"), told.get("entries")
    if not (isinstance(modules, dict) and isinstance(entries, list)):
        return False

    def is_number(value: object) -> bool:
        return type(value) is int and 0 <= value < len(entries)

    def is_entry(value: object) -> bool:
        if not isinstance(value, dict) or value.keys() != {"members", "parameters"}:
            return False
        members, parameters = value["members"], value["parameters"]
        is_members = isinstance(members, dict) and all(one is None or is_number(one) for one in members.values())
        return (members is None or is_members) and (parameters is None or _are_texts(parameters))

    names = all(_are_texts(told.get(key)) for key in ("listed", "opened"))
    return names and all(map(is_number, modules.values())) and all(map(is_entry, entries))


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def problems(code: str, api: Api, before: str = "") -> list[Problem]:
    """What the code names and the library does not have; nothing where it is no Python. `before`: what stands before
    the code in its file, as far as it tells what names stand for; it is not checked itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual escapes in what a model wrote
            nodes = [*ast.walk(ast.parse(f"{before}{code}"))]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    reading, first_line = _Reading(api), before.count("\n") + 1
    for node in nodes:
        reading.bind(node)
    for node in nodes:
        if getattr(node, "lineno", 0) >= first_line:
            reading.check(node)
    return list(reading.found)


class _Reading:
    def __init__(self, api: Api):
        self.api = api
        self.found: dict[Problem, None] = {}
        self.bound: dict[str, int | None] = {}
        """What is imported; None for a name that may also stand for something else."""

    def bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                self._set(alias.asname or name, self.api.modules.get(name))
        elif isinstance(node, ast.ImportFrom):
            members = self.api.members(self.api.modules.get(node.module or "")) or {}
            for alias in node.names:
                submodule = self.api.modules.get(f"{node.module}.{alias.name}")
                self._set(alias.asname or alias.name, members.get(alias.name) if submodule is None else submodule)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            self._set(node.id, None)
        elif isinstance(node, ast.arg):
            self._set(node.arg, None)
        elif isinstance(node, _NAMED) and node.name:
            self._set(node.name, None)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            self._set(node.rest, None)

    def _set(self, name: str, number: int | None) -> None:
        self.bound[name] = number if self.bound.get(name, number) == number else None

    def _number(self, node: ast.expr) -> int | None:
        """The module, class or function that an expression is, as far as it is known."""
        names = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        number = self.bound.get(node.id) if isinstance(node, ast.Name) else None
        for name in reversed(names):
            number = (self.api.members(number) or {}).get(name)
        return number

    def check(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self._check_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            self._check_module(node.module)
            known = self.api.attributes(self.api.modules.get(node.module))
            for name in (alias.name for alias in node.names if alias.name != "*"):
                self._report(node.module, "has no", name, known)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            self._report(_name(node.value), "has no", node.attr, self.api.attributes(self._number(node.value)))
        elif isinstance(node, ast.Call) and (number := self._number(node.func)) is not None:
            taken = self.api.entries[number]["parameters"]
            for name in (keyword.arg for keyword in node.keywords if keyword.arg):
                self._report(_name(node.func), "takes no", name, taken)

    def _check_module(self, name: str) -> None:
        if self.api.owns(name) and not self.api.may_have(name):
            self._report(None, "has no module", name, self.api.listed)

    def _report(self, owner: str | None, what: str, name: str, names: Collection[str] | None) -> None:
        """`names`: those that there are; None: not known."""
        if names is None or name in names:
            return
        of = f"`{owner}` of {self.api.about}" if owner else self.api.about
        public = sorted(other for other in names if not other.rpartition(".")[2].startswith("_"))
        self.found[Problem(f"{of} {what} `{name}`", tuple(difflib.get_close_matches(name, public, SIMILAR)))] = None


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
