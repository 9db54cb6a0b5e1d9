"""Code → what its expressions are, as far as it is certain: imports, names that are bound once, constructors, and the
annotated results of functions, methods and properties of a library.
"""

from __future__ import annotations

import ast
import io
from types import FunctionType, GeneratorType

from selfedit.installed.api import Api, Kind, Value

DEEPEST = 50
"""Nested expressions that are followed."""
_NUMBERS_AND_TEXTS = (int, float, complex, str, bytes)
_CONTAINERS = (list, dict, set, tuple, range, slice, GeneratorType)
_FILES = (io.TextIOWrapper, io.BufferedRandom, io.BytesIO, io.StringIO)
_PLAIN = (*_NUMBERS_AND_TEXTS, *_CONTAINERS, *_FILES, object, type, BaseException, FunctionType)
PLAIN = frozenset(name for kind in _PLAIN for name in dir(kind))
"""What may be called on a value of Python's own types."""


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
