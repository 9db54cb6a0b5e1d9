"""A Python with a library → what the library offers. It is asked in the sandbox (`installed.reader`): nothing of it is
imported here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from selfedit.environments import Environment
from selfedit.errors import LibraryError
from selfedit.sandbox import Limits, run_programs

LIMITS = Limits(seconds=60.0, memory_mb=2048, output_bytes=32_000_000)


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
