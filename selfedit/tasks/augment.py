"""Invertible transforms of grids: they make many training tasks from a few examples, and many variants of a question.

In: a grid. Out: the transformed grid; `Transform.back` inverts it. A Transform changes every grid of a task in the same
way. Colours and the order of the examples are permuted elsewhere (loop/fewshot.py). Source: test-time training for ARC
(Akyürek et al., arXiv:2411.07279); SEAL chooses among its families of transforms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selfedit.tasks.arc import SIDE, Grid

Array = np.ndarray


@dataclass(frozen=True)
class Transform:
    name: str
    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]

    def __call__(self, grid: Grid) -> Grid:
        return as_grid(self.forward(np.array(grid)))

    def back(self, grid: Grid) -> Grid | None:
        """Returns the original grid; None if this transform cannot produce the given grid."""
        original = as_grid(self.backward(np.array(grid)))
        return original if original and original[0] and self(original) == grid else None

    def then(self, other: Transform) -> Transform:
        return Transform(
            f"{self.name}, {other.name}",
            lambda g: other.forward(self.forward(g)),
            lambda g: self.backward(other.backward(g)),
        )


def as_grid(array: Array) -> Grid:
    return tuple(tuple(int(cell) for cell in row) for row in array)


def _turned(quarters: int) -> Transform:
    return Transform(f"rotate {90 * quarters}", lambda g: np.rot90(g, -quarters), lambda g: np.rot90(g, quarters))


def _own_inverse(name: str, change: Callable[[Array], Array]) -> Transform:
    return Transform(name, change, change)


def _moved(down: int, right: int) -> Transform:
    """Shifts the grid cyclically: cells that leave on one side enter on the opposite side."""
    return Transform(
        f"translate {down} {right}",
        lambda g: np.roll(g, (down, right), (0, 1)),
        lambda g: np.roll(g, (-down, -right), (0, 1)),
    )


def _half(axis: int) -> Callable[[Array], Array]:
    return lambda g: g[: g.shape[0] // 2] if axis == 0 else g[:, : g.shape[1] // 2]


def _mirrored(axis: int) -> Transform:
    """Appends the mirror image of the grid."""
    return Transform(
        f"reflect {'down' if axis == 0 else 'right'}",
        lambda g: np.concatenate((g, np.flip(g, axis)), axis),
        _half(axis),
    )


def _repeated(axis: int) -> Transform:
    return Transform(f"repeat {'down' if axis == 0 else 'right'}", lambda g: np.concatenate((g, g), axis), _half(axis))


def _stretched(rows: int, columns: int) -> Transform:
    """Repeats each cell `rows` times down and `columns` times to the right."""
    name = {(2, 2): "double", (2, 1): "double height", (1, 2): "double width"}[rows, columns]
    return Transform(name, lambda g: g.repeat(rows, 0).repeat(columns, 1), lambda g: g[::rows, ::columns])


IDENTITY = _own_inverse("as it is", lambda g: g)
TRANSPOSE = _own_inverse("transpose", lambda g: g.T)
FLIP_DOWN, FLIP_RIGHT = _own_inverse("flip down", np.flipud), _own_inverse("flip right", np.fliplr)
TURNS = tuple(_turned(quarters) for quarters in (1, 2, 3))
READINGS = (IDENTITY, TRANSPOSE, FLIP_DOWN, FLIP_RIGHT, TURNS[1])
"""The transforms under which each question is asked: those of the paper."""
BASIC = (
    *TURNS,
    FLIP_DOWN,
    FLIP_RIGHT,
    TRANSPOSE,
    _mirrored(0),
    _mirrored(1),
    *(_moved(d, r) for d, r in ((1, 0), (0, 1), (1, 1), (2, 1))),
)
SIZE = (_stretched(2, 2), _stretched(2, 1), _stretched(1, 2))
CHAIN = tuple(
    first.then(second)
    for first in (TURNS[0], TURNS[1], FLIP_DOWN, FLIP_RIGHT, TRANSPOSE)
    for second in (_stretched(2, 2), TRANSPOSE, _moved(1, 1))
)
REPEAT = (_repeated(0), _repeated(1))
FAMILIES = {"basic": BASIC, "size": SIZE, "chain": CHAIN, "repeat": REPEAT}


def fits(grid: Grid) -> bool:
    """Returns whether the grid does not exceed the maximum size."""
    return len(grid) <= SIDE and len(grid[0]) <= SIDE
