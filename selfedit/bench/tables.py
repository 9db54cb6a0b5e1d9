"""Markdown for people: what the tables of all benchmarks have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def heading(title: str, result: dict) -> list[str]:
    """What was run, by which command, of which software."""
    by = ", ".join(str(result[key]) for key in ("software", "precision") if key in result)
    return [f"# {title}: {Path(result['model']).name}", "", f"`{result['command']}` (selfedit {by})", ""]


def markdown(head: Sequence[str], cells: Iterable[Sequence[object]], words: int = 1) -> list[str]:
    """A table; its first so many columns are words, the others numbers."""
    lines = [list(head), [*["---"] * words, *["--:"] * (len(head) - words)], *cells]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def number(value: float | None, digits: str = ".3f") -> str:
    return "–" if value is None else f"{value:{digits}}"


def between(bounds: Sequence[float] | None, digits: str = ".3f") -> str:
    return "–" if bounds is None else f"[{bounds[0]:{digits}}, {bounds[1]:{digits}}]"


def with_interval(values: Sequence[float | None] | None, digits: str = ".3f") -> str:
    """Of [value, low, high]; the value alone where it has no interval."""
    if values is None or values[0] is None:
        return "–"
    own = number(values[0], digits)
    return own if values[1] is None else f"{own} {between(values[1:], digits)}"
