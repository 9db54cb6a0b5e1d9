"""Helpers for the Markdown tables of all benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def heading(title: str, result: dict) -> list[str]:
    """Returns the title with the name of the model, and the command with the version of the software."""
    version = ", ".join(str(result[key]) for key in ("software", "precision") if key in result)
    return [f"# {title}: {Path(result['model']).name}", "", f"`{result['command']}` (selfedit {version})", ""]


def markdown(head: Sequence[str], cells: Iterable[Sequence[object]], words: int = 1) -> list[str]:
    """Returns the lines of a table; the first `words` columns are aligned as text, the others as numbers."""
    lines = [list(head), [*["---"] * words, *["--:"] * (len(head) - words)], *cells]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def number(value: float | None, digits: str = ".3f") -> str:
    return "–" if value is None else f"{value:{digits}}"


def between(bounds: Sequence[float] | None, digits: str = ".3f") -> str:
    return "–" if bounds is None else f"[{bounds[0]:{digits}}, {bounds[1]:{digits}}]"


def with_interval(values: Sequence[float | None] | None, digits: str = ".3f") -> str:
    """Formats [value, low, high]; only the value if it has no interval."""
    if values is None or values[0] is None:
        return "–"
    value = number(values[0], digits)
    return value if values[1] is None else f"{value} {between(values[1:], digits)}"
