"""Grammars: the tokens written so far → the tokens that may follow, for `Request.allow`.

Two languages: a sequence of choices between texts, and a grid of digits. A text is always written in the tokens into
which the tokenizer divides it when it stands alone, so that whatever is chosen can be read back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfedit.errors import ModelError
from selfedit.model.chat import Chat


def choices(chat: Chat, parts: Sequence[Sequence[str]]) -> Callable[[Sequence[int]], list[int]]:
    """The language of one text from each part in turn, and then the end.

    A position (part, choice, n) says that n tokens of that choice are written."""
    encoded = [[tuple(chat.encode(text)) for text in part] for part in parts]
    ends = sorted(chat.ends)

    def allow(written: Sequence[int]) -> list[int]:
        positions = {(0, choice, 0) for choice in range(len(encoded[0]))}
        for token in written:
            matching = {(p, c, n) for p, c, n in positions if p < len(encoded) and encoded[p][c][n] == token}
            positions = with_next_parts({(p, c, n + 1) for p, c, n in matching})
        following = (ends if p == len(encoded) else encoded[p][c][n : n + 1] for p, c, n in positions)
        return sorted({token for tokens in following for token in tokens})

    def with_next_parts(positions: set) -> set:
        """Where a text is complete, the next part begins."""
        complete = {(p, c, n) for p, c, n in positions if p < len(encoded) and n == len(encoded[p][c])}
        counts = [*map(len, encoded), 1]  # behind the last part there is one choice: the end
        begun = {(p + 1, c, 0) for p, _, _ in complete for c in range(counts[p + 1])}
        return positions - complete | begun

    return allow


class GridForm:
    """How a model reads and writes grids of colours (0 to 9): one line per row and one token per cell, with a space
    between the cells if its tokenizer would join them."""

    def __init__(self, chat: Chat, side: int):
        """`side`: the largest number of rows and columns. Raises ModelError for a tokenizer that has no token per cell,
        with or without spaces."""
        self.chat, self.side, self.ends = chat, side, sorted(chat.ends)
        self.cells = [chat.encode(str(colour)) for colour in range(10)]
        self.line = chat.encode("\n")
        # Every colour stands before every other one, and at the end of a row.
        grid = [[colour for other in range(10) for colour in (other, last)] for last in range(10)]
        for self.between in ("", " "):
            self.gap = chat.encode(self.between) if self.between else []
            one_by_one = [token for row in grid for token in self._cell_by_cell(row)]
            single = max(map(len, (self.line, self.gap, *self.cells))) == 1
            if self.ends and single and self.tokens(grid) == one_by_one:
                return
        raise ModelError("this model's tokenizer does not have a token for each cell of a grid; take another --model")

    def _cell_by_cell(self, row: Sequence[int]) -> list[int]:
        """The tokens of a row when each cell is encoded alone."""
        tokens = [token for colour in row for token in self.cells[colour] + self.gap]
        return tokens[: len(tokens) - len(self.gap)] + self.line

    def text(self, grid: Sequence[Sequence[int]]) -> str:
        return "".join(self.between.join(map(str, row)) + "\n" for row in grid)

    def tokens(self, grid: Sequence[Sequence[int]]) -> list[int]:
        return self.chat.encode(self.text(grid))

    def read(self, text: str) -> tuple[tuple[int, ...], ...] | None:
        """The grid, after which a blank line may follow; None if the text is not a grid."""
        text = text.removesuffix("\n") if text.endswith("\n\n") else text
        rows = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
        cells = [row.split(" ") if self.between else list(row) for row in rows]
        if not cells[0] or len(cells) > self.side or len(cells[0]) > self.side:
            return None
        if any(len(row) != len(cells[0]) or any(len(c) != 1 or c not in "0123456789" for c in row) for row in cells):
            return None
        return tuple(tuple(map(int, row)) for row in cells)

    def allow(
        self, written: Sequence[int], size: tuple[int, int] | None = None, colours: Sequence[int] = range(10)
    ) -> list[int]:
        """A grammar of rows of equal length in these colours, and of the end: after the last row if the size (rows,
        columns) is known, else after a blank line."""
        cells, line = [self.cells[colour][0] for colour in colours], self.line[0]
        width = next((i for i, token in enumerate(written) if token == line), None)  # of a row, in tokens
        if width is None and size:
            width = (2 if self.gap else 1) * size[1] - bool(self.gap)
        rows, column = (0, len(written)) if width is None else divmod(len(written), width + 1)  # complete rows; tokens
        if column == 1 and written[-1] == line:  # the blank line
            return self.ends
        if column == 0 and size:
            return cells if rows < size[0] else self.ends
        if column == 0:
            return [*(cells if rows < self.side else ()), *([line] if rows else ())]
        if width is not None:
            return [line] if column == width else self.gap if self.gap and column % 2 else cells
        if self.gap:
            return [*(self.gap if column + 1 < 2 * self.side else ()), line] if column % 2 else cells
        return [*(cells if column < self.side else ()), line]
