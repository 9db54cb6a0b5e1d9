"""The names that an installed library has → JSON. Runs in the library's own Python.

The text of this file is a program of the sandbox (`installed.names`), so it imports nothing but the standard library,
and runs with Python 3.10 and later. It prints a list of modules and classes, `{members, parameters}`: `members` has for
each name the number of its module or class in the list, or of a function; null for anything else. `parameters`: the
names of the arguments that a function or class takes; null: any, or not known.
"""

import importlib
import inspect
import json
import pkgutil
import sys
import time
import warnings
from importlib.metadata import packages_distributions
from types import ModuleType

SECONDS = 15.0
"""To import the modules below the first ones; what is not imported is not checked."""
NO_PART = {"test", "tests", "conftest", "benchmarks", "setup"}
"""Modules that some libraries install beside their own."""


class Reader:
    def __init__(self, roots, asked):
        """`roots`: the names of the library's top-level modules. `asked`: names that a module may give only when it is
        asked for them."""
        self.roots, self.entries, self._numbers, self._queue = roots, [], {}, []
        modules = {name: self._number(sys.modules[name]) for name in sorted(sys.modules) if self._is_owned(name)}
        self.modules = {name: number for name, number in modules.items() if number is not None}
        while self._queue:
            entry, value = self._queue.pop()
            entry["parameters"] = parameters(value)
            if isinstance(value, (ModuleType, type)):
                names = {*dir(value), *dir(type(value)), *(name for name in asked if has(value, name))}
                entry["members"] = {name: self._number(member(value, name)) for name in sorted(names)}

    def _is_owned(self, module):
        return isinstance(module, str) and module.partition(".")[0] in self.roots

    def _number(self, value):
        """Of a module, class or function of the library; None for anything else."""
        is_module = isinstance(value, ModuleType)
        if not (is_module or isinstance(value, type) or inspect.isroutine(value)):
            return None
        if not self._is_owned(getattr(value, "__name__" if is_module else "__module__", None)):
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.entries)
            self.entries.append({"members": None, "parameters": None})
            self._queue.append((self.entries[-1], value))
        return self._numbers[id(value)]


def has(owner, name):
    try:
        return hasattr(owner, name)
    except Exception:
        return True


def member(owner, name):
    try:
        return getattr(owner, name) if isinstance(owner, ModuleType) else inspect.getattr_static(owner, name)
    except Exception:  # one that is loaded when it is asked for, and needs what is not installed
        return None


def parameters(value):
    try:
        found = inspect.signature(value).parameters.values()
    except Exception:
        return None
    is_any = any(one.kind is one.VAR_KEYWORD for one in found)
    return None if is_any else [one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def imported(name):
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit):  # it needs what is not installed, or is a program
        return None


def import_below(module, until, listed, opened):
    """Imports the public modules below a package, until it is time to end. `listed`: gets the names of all modules;
    `opened`: of those whose modules are all listed."""
    try:
        below = [*pkgutil.iter_modules(getattr(module, "__path__", ()))]
    except Exception:
        return
    if module is not None:
        opened.append(module.__name__)
    for one in below:
        name = f"{module.__name__}.{one.name}"
        listed.append(name)
        if not one.name.startswith("_") and one.name not in NO_PART and time.monotonic() < until:
            import_below(imported(name), until, listed, opened)


def main(library, asked):
    warnings.simplefilter("ignore")
    distributions = packages_distributions()
    normal = {
        name: {d.lower().replace("_", "-").replace(".", "-") for d in distributions[name]} for name in distributions
    }
    roots = {name for name in normal if library in normal[name] and not name.startswith("_") and name not in NO_PART}
    first = [module for module in map(imported, sorted(roots)) if module]
    if not first:
        raise ModuleNotFoundError("it has no module that can be imported")
    listed, opened = sorted(roots), []
    for module in first:
        import_below(module, time.monotonic() + SECONDS, listed, opened)
    reader = Reader(roots, asked)
    told = {"modules": reader.modules, "listed": listed, "opened": opened, "entries": reader.entries}
    print("\n" + json.dumps(told))
