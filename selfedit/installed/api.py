"""A Python with a library → what the library offers (`Api`), and what an expression in code is (`Scope`).

The library is asked in the sandbox (`installed.reader`); nothing of it is imported here. What code says about types is
followed as far as it is certain: imports, names that are bound once, constructors, and the annotated results of
functions, methods and properties.
"""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FunctionType, GeneratorType

from selfedit.environments import Environment
from selfedit.errors import LibraryError
from selfedit.sandbox import Limits, run_programs

LIMITS = Limits(seconds=60.0, memory_mb=2048, output_bytes=32_000_000)
DEEPEST = 50
"""Nested expressions that are followed."""
_PLAIN = (
    object,
    type,
    str,
    bytes,
    int,
    float,
    complex,
    list,
    dict,
    set,
    tuple,
    range,
    slice,
    BaseException,
    FunctionType,
)
_PLAIN += (GeneratorType, io.TextIOWrapper, io.BufferedRandom, io.BytesIO, io.StringIO)
PLAIN = frozenset(name for kind in _PLAIN for name in dir(kind))
"""What may be called on a value of Python's own types."""


@dataclass(frozen=True)
class Entity:
    """A module, class or function of the library: one of these."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """An instance of one of these classes of the library; of none: it is of something else."""

    classes: tuple[int, ...] = ()


Kind = Entity | Value | None
"""What an expression is; None: it is not known."""


class Api:
    """What an installed library offers."""

    def __init__(self, library: str, version: str, told: dict | None):
        """`told`: as `installed.reader` prints it. Raises LibraryError if it is anything else."""
        if told is None or not _is_told(told):
            raise LibraryError(f"{library} {version} does not tell what it offers; give another --python")
        self.library, self.version = library, version
        self.modules: dict[str, int] = told["modules"]
        self.entities: list[dict] = told["entities"]
        self.elsewhere: dict[str, list[str]] = told["elsewhere"]
        """Names that the classes of other modules have."""
        self._roots = {name.partition(".")[0] for name in self.modules}

    @cached_property
    def having(self) -> dict[str, Kind]:
        """What a name is as an attribute of a value whose type is not known."""
        found: dict[str, list[Kind]] = {}
        for number, entity in enumerate(self.entities):
            for name, member in (entity.get("members") or {}).items():
                is_function = isinstance(member, int) and self.entities[member]["kind"] == "function"
                if entity["kind"] == "class" or is_function:
                    found.setdefault(name, []).append(self._member(number, name))
        return {name: _one_of(kinds) for name, kinds in found.items()}

    def owns(self, module: str) -> bool:
        return module.partition(".")[0] in self._roots

    def module(self, name: str) -> Kind:
        return Entity((self.modules[name],)) if name in self.modules else None

    def members(self, kind: Kind) -> set[str] | None:
        """The names that an expression has as attributes; None: any."""
        having = [self.entities[number].get("members") for number in _numbers(kind)]
        return {name for members in having for name in members} if having and None not in having else None

    def member(self, kind: Kind, name: str) -> Kind:
        """An attribute of an expression."""
        return kind if kind == Value() else _one_of([self._member(number, name) for number in _numbers(kind)])

    def _member(self, number: int, name: str) -> Kind:
        member = (self.entities[number].get("members") or {}).get(name)
        if isinstance(member, int):
            return Entity((member,))
        return Value(tuple(member)) if member else None

    def result(self, kind: Kind) -> Kind:
        """What a call gives."""
        if not isinstance(kind, Entity):
            return kind if kind == Value() else None
        gives = [self.entities[number].get("gives") for number in kind.numbers]
        return _one_of([Value(tuple(classes)) if classes else None for classes in gives])

    def parameters(self, kind: Kind) -> set[str] | None:
        """The names of arguments that a call may use; None: any."""
        numbers = kind.numbers if isinstance(kind, Entity) else ()
        taken = [self.entities[number].get("parameters") for number in numbers]
        return {name for names in taken for name in names} if taken and None not in taken else None


def _numbers(kind: Kind) -> tuple[int, ...]:
    return kind.numbers if isinstance(kind, Entity) else kind.classes if kind else ()


def _one_of(kinds: Sequence[Kind]) -> Kind:
    """Any of these kinds, if they are of one sort."""
    for sort in (Entity, Value):
        if kinds and all(isinstance(kind, sort) for kind in kinds):
            return sort(tuple(dict.fromkeys(number for kind in kinds for number in _numbers(kind))))
    return None


def installed_api(environment: Environment, imports: Sequence[str] = ()) -> Api:
    """`imports`: other modules that the code may use. Raises SandboxError, and LibraryError where the library cannot be
    imported."""
    program = Path(__file__).with_name("reader.py").read_text()
    call = f"main({environment.library!r}, {[*imports]!r})"
    (outcome,) = run_programs([f"{program}\n\n{call}\n"], environment.python, LIMITS)
    if not outcome.passed:
        raise LibraryError(f"{environment.library} {environment.version} cannot be imported: {outcome.error}")
    try:
        told = json.loads(outcome.output.strip().rpartition("\n")[2])
    except (ValueError, RecursionError):
        told = None
    return Api(environment.library, environment.version, told)


def _is_told(told: object) -> bool:
    """Whether this is what `installed.reader` prints: the library may have printed something else."""
    if not isinstance(told, dict) or told.keys() != {"modules", "entities", "elsewhere"}:
        return False
    modules, entities, elsewhere = told["modules"], told["entities"], told["elsewhere"]

    def is_number(value: object) -> bool:
        return type(value) is int and 0 <= value < len(entities)

    def is_list(value: object, is_one: Callable[[object], bool]) -> bool:
        return isinstance(value, list) and all(map(is_one, value))

    def is_text(value: object) -> bool:
        return isinstance(value, str)

    def is_entity(value: object) -> bool:
        if not isinstance(value, dict) or not is_text(value.get("kind")):
            return False
        members, parameters, gives = value.get("members") or {}, value.get("parameters"), value.get("gives")
        return (
            isinstance(members, dict)
            and all(one is None or is_number(one) or is_list(one, is_number) for one in members.values())
            and (parameters is None or is_list(parameters, is_text))
            and (gives is None or is_list(gives, is_number))
        )

    return (
        is_list(entities, is_entity)
        and isinstance(modules, dict)
        and all(map(is_number, modules.values()))
        and isinstance(elsewhere, dict)
        and all(is_list(names, is_text) for names in elsewhere.values())
    )


class Scope:
    """What the names of a piece of code stand for."""

    def __init__(self, api: Api, tree: ast.AST):
        self.api = api
        self.modules: set[str] = set()
        """Modules that are imported."""
        self.attributes: set[str] = set()
        """Names that the code gives to attributes, functions and classes of its own."""
        self._bound: dict[str, ast.expr | Kind] = {}
        self._targets: set[int] = set()
        self._depth = 0
        for node in ast.walk(tree):
            self._bind(node)

    def kind(self, node: ast.expr) -> Kind:
        """What an expression is."""
        if self._depth > DEEPEST:
            return None
        self._depth += 1
        try:
            return self._kind(node)
        finally:
            self._depth -= 1

    def _kind(self, node: ast.expr) -> Kind:
        if isinstance(node, ast.Name):
            bound = self._bound.get(node.id)
            return self.kind(bound) if isinstance(bound, ast.expr) else bound
        if isinstance(node, ast.Attribute):
            if owner := self.kind(node.value):
                return self.api.member(owner, node.attr)
            return None if node.attr in self._of_others else self.api.having.get(node.attr)
        if isinstance(node, ast.Call):
            return self.api.result(self.kind(node.func))
        literals = (
            ast.Constant | ast.JoinedStr | ast.List | ast.ListComp | ast.Dict | ast.DictComp | ast.Set | ast.Tuple
        )
        return Value() if isinstance(node, literals) else None

    def allowed(self, node: ast.expr) -> set[str] | None:
        """The names that may follow the dot behind an expression; None: any."""
        kind = self.kind(node)
        if kind is not None:
            return self.api.members(kind)
        others = {name for name in self.modules if name not in self.api.modules}
        is_own = isinstance(node, ast.Name) and node.id in ("self", "cls")  # it may get any attribute
        return None if is_own or not others <= self.api.elsewhere.keys() else self._of_others.union(self.api.having)

    @property
    def _of_others(self) -> set[str]:
        """What a value may have that is not of the library."""
        return PLAIN.union(self.attributes, *(self.api.elsewhere.get(name, ()) for name in self.modules))

    def parameters(self, function: ast.expr) -> set[str] | None:
        """The names of arguments that a call may use; None: any."""
        return self.api.parameters(self.kind(function))

    # What is bound

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                self._set(alias.asname or name, self._module(name))
        elif isinstance(node, ast.ImportFrom):
            module = self._module(node.module or "")
            for alias in node.names:
                submodule = self.api.module(f"{node.module}.{alias.name}")
                self._set(alias.asname or alias.name, submodule or self.api.member(module, alias.name))
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self._targets.add(id(node.targets[0]))
            self._set(node.targets[0].id, node.value)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in self._targets:
            self._set(node.id, None)
        elif isinstance(node, ast.arg):
            self._set(node.arg, None)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.attributes.add(node.name)
            self._set(node.name, None)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            self.attributes.add(node.attr)

    def _set(self, name: str, value: ast.expr | Kind) -> None:
        """A name that is bound more than once may stand for anything."""
        self._bound[name] = value if self._bound.get(name, value) == value else None

    def _module(self, name: str) -> Kind:
        self.modules.add(name)
        return self.api.module(name) if self.api.owns(name) else Value()
