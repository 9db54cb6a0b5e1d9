"""Tables → one line per row: "heading: cell; heading: cell"."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from selfedit.documents.records import Block
from selfedit.errors import DocumentError
from selfedit.types import Unit

Cell = tuple[str, bool]
"""Text, and whether it is a heading."""


def table_rows(grid: list[tuple[bool, list[Cell | None]]]) -> list[str]:
    """One line per row: "heading: cell; heading: cell", without the empty cells. `grid`: (is in the head, cells)."""
    grid = [(head, cells) for head, cells in grid if any(cell and cell[0] for cell in cells)]
    heads = 0
    while heads < len(grid) - 1 and (
        grid[heads][0] or all(cell is None or cell[1] or not cell[0] for cell in grid[heads][1])
    ):
        heads += 1
    width = max((len(cells) for _, cells in grid), default=0)
    if not heads and width > 2 and _looks_like_heads(grid):
        heads = 1
    names = [
        " ".join(dict.fromkeys(cells[i][0] for _, cells in grid[:heads] if i < len(cells) and cells[i] and cells[i][0]))
        for i in range(width)
    ]
    rows = []
    for _, cells in grid[heads:]:
        texts = [cell[0] if cell else "" for cell in cells]
        if len(texts) > 1 and len(set(texts)) == 1:  # one cell over the whole width
            rows.append(texts[0])
        elif not heads and width == 2 and all(texts):
            rows.append(f"{texts[0].removesuffix(':')}: {texts[1]}")
        else:
            rows.append("; ".join(f"{name}: {text}" if name else text for name, text in zip(names, texts) if text))
    return rows


def _looks_like_heads(grid: list[tuple[bool, list[Cell | None]]]) -> bool:
    """Whether the first row of a table without marked headings is a row of short distinct names above other values."""
    first = [cell[0] if cell else "" for cell in grid[0][1]]
    return (
        len(grid) > 1
        and all(first)
        and len(set(first)) == len(first)
        and all(len(text.split()) <= 5 and not any(c.isdigit() for c in text) for text in first)
    )


def table_blocks(rows: list[list[str]], headings: tuple[str, ...]) -> Iterator[Block]:
    """The first row with more than one cell has the headings; what stands above it are paragraphs."""
    rows = [row for row in rows if any(row)]
    while len(rows) > 1 and sum(map(bool, rows[0])) == 1 < max(map(len, rows)):
        text = "".join(rows.pop(0))
        yield Block((text,), (Unit("sentence", text, headings),), headings)
    lines = table_rows([(i == 0 and len(rows) > 1, [(cell, False) for cell in row]) for i, row in enumerate(rows)])
    if lines:
        yield Block(
            tuple(f"{line}\n" for line in lines), tuple(Unit("row", line, headings) for line in lines), headings
        )


def csv_rows(text: str) -> list[list[str]]:
    """The rows of a table in CSV, with the separator that gives the most columns to the most rows."""
    return max((_csv_rows(text, separator) for separator in ",;\t|"), key=_regularity)


def _csv_rows(text: str, separator: str) -> list[list[str]]:
    try:
        return [[" ".join(cell.split()) for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
    except csv.Error as error:
        if "field limit" in str(error):
            limit = f"a cell of more than {csv.field_size_limit():,} characters"
            raise DocumentError(f"{limit}; close the quotation mark that begins it, or split it") from None
        raise DocumentError(f"a damaged table ({error}); save it again as CSV") from None


def _regularity(rows: list[list[str]]) -> float:
    """How well a separator fits: the commonest number of columns, times the share of rows that have it."""
    widths = [len(row) for row in rows[:200] if row]
    common = max(set(widths), key=widths.count, default=0)
    return (common - 1) * (widths.count(common) / max(1, len(widths))) ** 2
