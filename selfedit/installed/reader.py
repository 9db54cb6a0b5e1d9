"""The modules, classes and functions of an installed library → JSON. Runs in the library's own Python.

The text of this file is a program of the sandbox (`installed.api`), so it imports nothing but the standard library.

An entity is a module, a class or a function: `{kind, name, members, parameters, gives, public}`. `members`: names → the
entity; a list of classes for a property whose values are of one of them; null where nothing is known. `parameters`: the
names that a call may use; null: any. `gives`: the classes that the result may be of; null: not known.
"""

import dis
import importlib
import inspect
import json
import pkgutil
import sys
import time
import warnings
from functools import cache
from importlib.metadata import packages_distributions
from types import FunctionType, ModuleType

SECONDS = 15.0
"""To import the modules below the first; what is not imported is not checked."""
NO_PART = {"test", "tests", "conftest", "benchmarks", "setup"}
"""Modules that some libraries install beside their own."""


class Reader:
    def __init__(self, roots):
        """`roots`: the top-level modules of the library."""
        self.roots = roots
        self.entities, self._numbers, self._queue, self._functions = [], {}, [], {}
        self._classes = {}  # by name; None: several have it
        modules = {
            name: sys.modules[name] for name in sorted(sys.modules) if self._is_owned(name) and sys.modules[name]
        }
        for module in modules.values():
            for value in list(vars(module).values()):
                if isinstance(value, type) and self._is_owned(value.__module__):
                    is_same = self._classes.setdefault(value.__name__, value) is value
                    self._classes[value.__name__] = value if is_same else None
        public = [name for name in modules if not any(part.startswith("_") for part in name.split("."))]
        self.modules = {name: self._number(modules[name]) for name in public}
        while self._queue:
            number, value = self._queue.pop()
            self.entities[number] |= self._described(value)

    def _is_owned(self, module):
        return (module or "").partition(".")[0] in self.roots

    def _number(self, value):
        """The number of an entity, which is described later; None for anything else."""
        if isinstance(value, ModuleType):
            is_entity = self._is_owned(value.__name__)
        else:
            is_kind = isinstance(value, type) or inspect.isroutine(value)
            is_entity = is_kind and self._is_owned(getattr(value, "__module__", None))
        if not is_entity:
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.entities)
            self._queue.append((len(self.entities), value))
            self.entities.append({"name": getattr(value, "__name__", "")})
        return self._numbers[id(value)]

    def _described(self, value):
        if isinstance(value, ModuleType):
            members = {name: self._member_of_module(value, name) for name in dir(value)}
            return {"kind": "module", "members": members}
        if isinstance(value, type):
            names = {*dir(value), *fields_of(value)}
            members = {name: self._member_of_class(value, name) for name in sorted(names)}
            return {"kind": "class", "members": members, **self._call(value, None), "gives": [self._number(value)]}
        return {"kind": "function", **self._call(value, None)}

    def _member_of_module(self, module, name):
        try:
            value = getattr(module, name)
        except Exception:  # one that is loaded when it is asked for, and needs what is not installed
            return None
        number = self._number(value)
        if number is None and callable(value) and self._is_owned(type(value).__module__):
            return self._function(type(value).__call__, None)  # an object that is called
        return number

    def _member_of_class(self, owner, name):
        value = inspect.getattr_static(owner, name, None)
        accessor = getattr(value, "_accessor", None)  # pandas has namespaces of this kind
        if isinstance(accessor, type):
            return [self._number(accessor)]
        getter = getattr(value, "fget", None) or getattr(value, "func", None)
        if isinstance(value, type):
            return self._number(value)
        if getter is not None:
            return self._call(getter, owner)["gives"]
        if name.startswith("__"):
            return None
        if callable(value) or isinstance(value, (classmethod, staticmethod)):
            return self._function(getattr(value, "__func__", value), owner)
        return None

    def _function(self, function, owner):
        """The number of a function or method; what it gives may depend on its class."""
        call = self._call(function, owner)
        key = id(function), str(call["gives"])
        if key not in self._functions:
            self._functions[key] = len(self.entities)
            self.entities.append({"name": getattr(function, "__name__", ""), "kind": "function", **call})
        return self._functions[key]

    def _call(self, function, owner):
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return {"parameters": None, "gives": None}
        parameters = signature.parameters.values()
        is_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
        names = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        names = names[1:] if names[:1] in (["self"], ["cls"]) else names
        return {"parameters": None if is_any else names, "gives": self._classes_of(signature.return_annotation, owner)}

    def _classes_of(self, annotation, owner):
        """The numbers of the classes that an annotation names; None if it names anything else."""
        if isinstance(annotation, str):
            parts = [part.strip("\"' ").rpartition(".")[2] for part in annotation.split("|")]
            found = [owner if part == "Self" else self._classes.get(part) for part in parts if part != "None"]
        else:
            found = [annotation]
        numbers = [self._number(one) if isinstance(one, type) else None for one in found]
        return None if None in numbers or not numbers else numbers


def fields_of(cls):
    """Attributes that only its instances have."""
    for base in cls.__mro__:
        for names in (getattr(base, "__annotations__", ()), getattr(base, "__slots__", ())):
            yield from names if isinstance(names, (dict, list, tuple)) else ()
        for function in vars(base).values():
            if isinstance(function, FunctionType):
                yield from stored_by(function.__code__)


@cache
def stored_by(code):
    """The attributes that a function sets: most are those of `self`."""
    return [one.argval for one in dis.get_instructions(code) if one.opname == "STORE_ATTR"]


def modules_of(library):
    """The top-level modules of a distribution, whose name is in its normal form."""
    of = packages_distributions()
    normal = {module: {name.lower().replace("_", "-").replace(".", "-") for name in of[module]} for module in of}
    return {module for module, names in normal.items() if library in names and not module.startswith("_")}


def imported(name):
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit):  # it needs what is not installed, or is a program
        return None


def import_below(module, until):
    """Imports the public modules below a package, until it is time to end."""
    for one in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not one.name.startswith("_") and one.name not in NO_PART and time.monotonic() < until:
            import_below(imported(f"{module.__name__}.{one.name}"), until)
    for name in dir(module):  # loads what is loaded when it is asked for
        getattr(module, name, None)


def main(library, imports):
    """`imports`: modules that the code will use; of those that are not of the library, the names that its classes have
    are told."""
    warnings.simplefilter("ignore")
    roots = modules_of(library)
    if not roots:
        raise ModuleNotFoundError("it has no module")
    for root in roots:
        import_below(importlib.import_module(root), time.monotonic() + SECONDS)
    others = {name: imported(name) for name in imports}
    of_others = {name: module for name, module in others.items() if module and name.partition(".")[0] not in roots}
    elsewhere = {
        name: sorted({a for kind in vars(module).values() if isinstance(kind, type) for a in dir(kind)})
        for name, module in of_others.items()
    }
    reader = Reader(roots)
    print("\n" + json.dumps({"modules": reader.modules, "entities": reader.entities, "elsewhere": elsewhere}))
