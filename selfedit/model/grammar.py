"""What may be written, as a function of what was: for `generate.Request.allow`.

A language is a row of choices, each a few texts, one of which stands there. Followed token by token: a text is written
as the tokenizer writes it alone, so that whatever was chosen, the whole always reads back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfedit.errors import ModelError
from selfedit.model.chat import Chat


def choices(chat: Chat, parts: Sequence[Sequence[str]]) -> Callable[[Sequence[int]], list[int]]:
    """One text of each part in turn, then the end."""
    coded = [[tuple(chat.encode(text)) for text in part] for part in parts]
    ends = sorted(chat.ends)

    def allow(written: Sequence[int]) -> list[int]:
        places = {(0, choice, 0) for choice in range(len(coded[0]))}  # part, choice, tokens of it that are written
        for token in written:
            places = entered({(p, c, at + 1) for p, c, at in places if p < len(coded) and coded[p][c][at] == token})
        return sorted(
            {token for p, c, at in places for token in (ends if p == len(coded) else coded[p][c][at : at + 1])}
        )

    def entered(places: set) -> set:
        """Where a text is whole the next part begins."""
        whole = {(p, c, at) for p, c, at in places if p < len(coded) and at == len(coded[p][c])}
        begun = {(p + 1, c, 0) for p, _, _ in whole for c in range(len(coded[p + 1]) if p + 1 < len(coded) else 1)}
        return places - whole | begun

    return allow


class GridForm:
    """How a model reads and writes grids of colours (0 to 9): a line a row, a token a cell; with a space between cells where
    its tokenizer would join them."""

    def __init__(self, chat: Chat, side: int):
        """`side`: rows and columns, at most. Raises ModelError for a tokenizer that joins or splits cells either way."""
        self.chat, self.side, self.ends = chat, side, sorted(chat.ends)
        self.cells = [chat.encode(str(colour)) for colour in range(10)]
        self.line = chat.encode("\n")
        grid = [[colour for other in range(10) for colour in (other, last)] for last in range(10)]
        """Every colour before every other, and at the end of a row."""
        for self.between in ("", " "):
            self.gap = chat.encode(self.between) if self.between else []
            apart = [token for row in grid for token in self._apart(row)]
            if self.ends and max(map(len, (self.line, self.gap, *self.cells))) == 1 and self.tokens(grid) == apart:
                return
        raise ModelError("this model's tokenizer does not have a token for each cell of a grid; take another --model")

    def _apart(self, row: Sequence[int]) -> list[int]:
        """Its tokens, each cell written alone."""
        tokens = [token for colour in row for token in self.cells[colour] + self.gap]
        return tokens[: len(tokens) - len(self.gap)] + self.line

    def text(self, grid: Sequence[Sequence[int]]) -> str:
        return "".join(self.between.join(map(str, row)) + "\n" for row in grid)

    def tokens(self, grid: Sequence[Sequence[int]]) -> list[int]:
        return self.chat.encode(self.text(grid))

    def read(self, text: str) -> tuple[tuple[int, ...], ...] | None:
        """None for what is no grid; a blank line may follow it."""
        text = text.removesuffix("\n") if text.endswith("\n\n") else text
        rows = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
        cells = [row.split(" ") if self.between else list(row) for row in rows]
        whole = all(
            len(own) == len(cells[0]) <= self.side and all(len(c) == 1 and c in "0123456789" for c in own)
            for own in cells
        )
        return tuple(tuple(map(int, own)) for own in cells) if whole and cells[0] and len(cells) <= self.side else None

    def allow(
        self, written: Sequence[int], size: tuple[int, int] | None = None, colours: Sequence[int] = range(10)
    ) -> list[int]:
        """Rows of equal length in these colours, and the end: behind the last row if the size (rows, columns) is known, else
        behind a blank line."""
        cells, line = [self.cells[colour][0] for colour in colours], self.line[0]
        width = next((i for i, token in enumerate(written) if token == line), None)
        """Of a row, in tokens."""
        if width is None and size:
            width = (2 if self.gap else 1) * size[1] - bool(self.gap)
        whole, row = (0, len(written)) if width is None else divmod(len(written), width + 1)
        """Rows behind us; tokens of the present one."""
        if row == 1 and written[-1] == line:  # the blank line
            return self.ends
        if row == 0 and size:
            return cells if whole < size[0] else self.ends
        if row == 0:
            return [*(cells if whole < self.side else ()), *([line] if whole else ())]
        if width is not None:
            return [line] if row == width else self.gap if self.gap and row % 2 else cells
        if self.gap:
            return [*(self.gap if row + 1 < 2 * self.side else ()), line] if row % 2 else cells
        return [*(cells if row < self.side else ()), line]
