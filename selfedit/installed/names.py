"""Code that names only what an installed library has: what it gets wrong (`problems`), and a guard while it is written.

The guard is monitor-guided decoding (Agrawal et al. 2023, arXiv:2306.10763): a token after which an attribute or an
imported name could no longer become one that the library has is replaced by the next likeliest. Arguments are left
alone: that a name is one is told by the `=` behind it, when it is too late to write another (docs/LOG.md).
"""

from __future__ import annotations

import ast
import difflib
import io
import keyword
import re
import sys
import tokenize
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache

from selfedit.installed.api import Api, Entity
from selfedit.installed.scope import Scope

SIMILAR = 3
_NAME = re.compile(r"[^\W\d]\w*")
_SPACE = (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True)
class Problem:
    text: str
    similar: tuple[str, ...] = ()
    """Names that the library has."""

    def __str__(self) -> str:
        return f"{self.text} (similar: {', '.join(self.similar)})" if self.similar else self.text


def problems(code: str, api: Api, before: str = "") -> list[Problem]:
    """What the code names and the library does not have. `before`: imports of the file that it belongs to."""
    try:
        tree = ast.parse(f"{before}{code}")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [Problem(f"it is no Python: {getattr(error, 'msg', None) or error}")]
    scope, found = Scope(api, tree), {}
    about = f"{api.library} {api.version}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            allowed = scope.allowed(node.value)
            if allowed is not None and node.attr not in allowed:
                of = ast.unparse(node.value).rpartition(".")[2].partition("(")[0] if scope.kind(node.value) else ""
                text = f"`{of}` of {about} has no `{node.attr}`" if of else f"nothing in {about} has `{node.attr}`"
                found[text] = _similar(node.attr, allowed)
        elif isinstance(node, ast.Call) and (taken := scope.parameters(node.func)) is not None:
            for name in (one.arg for one in node.keywords if one.arg and one.arg not in taken):
                function = ast.unparse(node.func).rpartition(".")[2]
                found[f"`{function}` of {about} takes no `{name}`"] = _similar(name, taken)
        elif isinstance(node, ast.ImportFrom) and node.module and api.owns(node.module) and not node.level:
            known = _importable(api, node.module)
            for alias in node.names:
                if known is not None and alias.name != "*" and alias.name not in known:
                    found[f"`{node.module}` of {about} has no `{alias.name}`"] = _similar(alias.name, known)
    return [Problem(text, similar) for text, similar in found.items()]


def _similar(name: str, names: set[str]) -> tuple[str, ...]:
    public = [other for other in names if not other.startswith("_")]
    return tuple(difflib.get_close_matches(name, sorted(public), SIMILAR))


def _importable(api: Api, module: str) -> set[str] | None:
    """What may be imported from a module of the library; None: anything."""
    if module not in api.modules:
        return None
    submodules = {name[len(module) + 1 :] for name in api.modules if name.startswith(f"{module}.")}
    return {*(api.entities[api.modules[module]].get("members") or ()), *submodules}


class Guard:
    """Whether code that is being written can still become code that names only what the library has."""

    def __init__(self, api: Api, before: str, task: str):
        """`before`: the code before what is written. `task`: may name columns and fields, which are allowed too."""
        self.api, self.before = api, before
        self.of_task = frozenset(_NAME.findall(task))
        self._scope = lru_cache(maxsize=8)(lambda code: Scope(api, _parsed(code)))

    def accepts(self, written: str, text: str) -> bool:
        """For `Request.accepts`. Both may end anywhere, and `text` begins with `written`."""
        since = len(self.before) + len(written)
        for line in _statements(self.before + text, since):
            scope = self._scope(line.code[: line.start])
            names = [i for i, token in enumerate(line.tokens) if token.type == tokenize.NAME]
            new = [i for i in names if line.ends[i] >= since or line.ends[i + 1 : i + 2] > [since]]  # or what follows
            if not all(self._fits(line, i, scope) for i in new):
                return False
        return True

    def _fits(self, line: _Line, i: int, scope: Scope) -> bool:
        """Whether a name, of which the end may be missing, can stand where it does."""
        name, is_whole = line.tokens[i].string, line.ends[i] < len(line.code)

        def fits(names: Iterable[str]) -> bool:
            return name in names if is_whole else any(other.startswith(name) for other in names)

        if line.is_import:
            module = line.module_before(i)
            names = _importable(self.api, module) if module and self.api.owns(module) else None
            return names is None or fits(names)
        value = line.expression(i - 2) if line.text(i - 1) == "." else None
        allowed = None if value is None else scope.allowed(value)
        if value is None or allowed is None:
            return True
        return fits(allowed if isinstance(scope.kind(value), Entity) else allowed | self.of_task)


def _statements(code: str, since: int) -> list[_Line]:
    """The statements of code that may end anywhere, from the one on that has the character `since`; without a string in
    which the code ends, and none if it cannot be read."""
    tokens: list[tokenize.TokenInfo] = []
    end = (sys.maxsize, 0)
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.ERRORTOKEN and token.string in "'\"":  # Python 3.11
                break
            tokens.append(token)
    except tokenize.TokenError as error:
        end = error.args[1] if "string" in error.args[0] else end
    except SyntaxError:
        return []
    offsets = [0, *(match.end() for match in re.finditer("\n", code))]
    found, some = [], list[tokenize.TokenInfo]()
    for token in [*(token for token in tokens if token.end <= end), None]:
        if token and token.type not in (*_SPACE, tokenize.NEWLINE):
            some.append(token)
        elif some and (token is None or token.type == tokenize.NEWLINE):
            ends = [offsets[token.end[0] - 1] + token.end[1] for token in some]
            if ends[-1] >= since or token is None:
                found.append(_Line(code, offsets[some[0].start[0] - 1], some, ends))
            some = []
    return found


@dataclass(frozen=True)
class _Line:
    """A statement of code."""

    code: str
    """All of it."""
    start: int
    """Of the statement, in characters."""
    tokens: list[tokenize.TokenInfo]
    ends: list[int]
    """Of the tokens, in characters of the code."""

    @cached_property
    def opened(self) -> dict[int, int]:
        """Closing bracket → opening bracket, as indices of tokens."""
        opened, stack = {}, []
        for i, token in enumerate(self.tokens):
            if token.string in ("(", "[", "{"):
                stack.append(i)
            elif token.string in (")", "]", "}") and stack:
                opened[i] = stack.pop()
        return opened

    def text(self, i: int) -> str:
        return self.tokens[i].string if 0 <= i < len(self.tokens) else ""

    @property
    def is_import(self) -> bool:
        return self.text(0) in ("from", "import")

    def module_before(self, i: int) -> str:
        """The module that a name of `from … import …` is imported from; empty for any other part of the statement."""
        texts = [token.string for token in self.tokens[:i]]
        is_name = texts[:1] == ["from"] and "import" in texts and texts[-1] in ("import", ",", "(")
        return "".join(texts[1 : texts.index("import")]) if is_name else ""

    def expression(self, last: int) -> ast.expr | None:
        """The expression of names, attributes, calls and subscripts that ends with a token."""
        i = last
        while i >= 0:
            if i in self.opened:
                i = self.opened[i]
                if not (self._is_name(i - 1) or i - 1 in self.opened):
                    break
            elif not self._is_name(i) and self.tokens[i].type not in (tokenize.STRING, tokenize.NUMBER):
                return None
            elif self.text(i - 1) != ".":
                break
            else:
                i -= 1
            i -= 1
        if i < 0:
            return None
        begin = self.ends[i] - len(self.text(i))
        try:
            return ast.parse(f"({self.code[begin : self.ends[last]]})", mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    def _is_name(self, i: int) -> bool:
        return i >= 0 and self.tokens[i].type == tokenize.NAME and not keyword.iskeyword(self.text(i))


def _parsed(code: str) -> ast.AST:
    """The code that may end in the middle of a block, without its last lines if need be."""
    lines = code.split("\n")
    for count in range(len(lines), 0, -1):
        last = next((line for line in reversed(lines[:count]) if line.strip()), "")
        indent = last[: len(last) - len(last.lstrip())]
        for end in ("", f"{indent}pass", f"{indent}    pass"):
            with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                return ast.parse("\n".join([*lines[:count], end]))
    return ast.Module([], [])
