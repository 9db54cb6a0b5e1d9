"""Code as an answer: how a model is asked for it, where the answer ends, and what of it is code.

A task is an instruction, with the beginning of a function (`starter`) or without one. The answer begins with the fence
and the starter, so that a model goes on with code and does not explain.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

FENCE = "```"
INDENT = " " * 4


@dataclass(frozen=True)
class CodeTask:
    instruction: str
    starter: str = ""
    """The first lines of the answer: imports, `def f(…):` and a docstring, for a function whose body is to be written;
    empty: the answer is a piece of code."""
    script: str = ""
    """A file that the code is for."""

    @property
    def prompt(self) -> str:
        script = f"{_fenced(self.script)}\n\n" if self.script else ""
        starter = f"\n\n{_fenced(self.starter)}" if self.starter else ""
        return f"{script}{self.instruction}{starter}"

    @property
    def before(self) -> str:
        """The code before what is written, as far as it tells what names stand for: the imports of the file, and the
        starter."""
        return "".join(f"{ast.unparse(node)}\n" for node in _imports(self.script)) + self.starter

    @property
    def opening(self) -> str:
        """The beginning of the answer, which is given. It ends with a line, since the spaces before code belong to the
        tokens of the code."""
        return f"{FENCE}python\n{self.starter}"

    def is_whole(self, text: str) -> bool:
        """Whether a text that goes on from `opening` has all of the answer: its fence is closed, or the function has
        ended."""
        return FENCE in text or bool(self.starter and _is_left(text))

    def code(self, text: str) -> str:
        """The code of a text that goes on from `opening`, without the starter; a body is indented."""
        text = text.partition(FENCE)[0]
        if not self.starter:
            return f"{text.strip()}\n"
        lines = f"{INDENT}{text.lstrip()}".split("\n")
        end = next((i for i, line in enumerate(lines) if line.strip() and not line[0].isspace()), len(lines))
        return "\n".join(lines[:end]).rstrip() + "\n"


def _imports(code: str) -> list[ast.Import | ast.ImportFrom]:
    """Those of a whole file; none if it is no Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def _is_left(text: str) -> bool:
    """Whether a line begins at the left margin."""
    return any(line and not line[0].isspace() for line in text.split("\n"))


def _fenced(code: str) -> str:
    return f"{FENCE}python\n{code.rstrip()}\n{FENCE}"


def is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def as_function(setup: str, code: str, task: str) -> tuple[str, str, str] | None:
    """A piece of code as a function `f` of the variables of `setup` that it uses: its call, the starter with imports,
    definitions and docstring, and the indented body, which returns what the last statement makes. None if there is no
    such value."""
    try:
        return _as_function(ast.parse(setup), ast.parse(code), task)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _as_function(before: ast.Module, tree: ast.Module, task: str) -> tuple[str, str, str] | None:
    if not tree.body:
        return None
    made = {node.id for node in ast.walk(before) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used = dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in made)
    *first, last = tree.body
    if isinstance(last, ast.Expr):
        value = ast.unparse(last.value)
    elif isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name):
        value = ast.unparse(last.value)
    else:
        return None
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    given = [ast.unparse(node) for node in before.body if isinstance(node, kinds)]
    docstring = re.sub(r'["\\]', "'", " ".join(task.split())).rstrip(".")
    head = "\n".join([*given, "", "", ""] if given else [])
    call = f"f({', '.join(used)})"
    starter = f'{head}def {call}:\n    """{docstring[:1].upper()}{docstring[1:]}."""\n'
    body = "\n".join([*map(ast.unparse, first), f"return {value}"])
    return call, starter, textwrap.indent(body, INDENT) + "\n"
