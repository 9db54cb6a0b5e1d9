"""What may be written, as a function of what was: for `generate.Request.allow`.

A language is a row of choices, each a few texts, one of which stands there. Followed token by token: a text is written
as the tokenizer writes it alone, so that whatever was chosen, the whole always reads back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from selfedit.model.chat import Chat


def choices(chat: Chat, parts: Sequence[Sequence[str]]) -> Callable[[Sequence[int]], list[int]]:
    """One text of each part in turn, then the end."""
    coded = [[tuple(chat.encode(text)) for text in part] for part in parts]
    ends = sorted(chat.ends)

    def allow(written: Sequence[int]) -> list[int]:
        places = {(0, choice, 0) for choice in range(len(coded[0]))}  # part, choice, tokens of it that are written
        for token in written:
            places = entered({(p, c, at + 1) for p, c, at in places if p < len(coded) and coded[p][c][at] == token})
        return sorted({token for p, c, at in places for token in (ends if p == len(coded) else coded[p][c][at : at + 1])})

    def entered(places: set) -> set:
        """Where a text is whole the next part begins."""
        whole = {(p, c, at) for p, c, at in places if p < len(coded) and at == len(coded[p][c])}
        begun = {(p + 1, c, 0) for p, _, _ in whole for c in range(len(coded[p + 1]) if p + 1 < len(coded) else 1)}
        return places - whole | begun

    return allow


def grids(chat: Chat, colours: int, side: int) -> Callable[[Sequence[int]], list[int]]:
    """Rows of equal length, of one token a colour, with a line's end after each; at most so many a side, then the end."""
    cells = [chat.encode(str(colour)) for colour in range(colours)]
    (line,) = chat.encode("\n")
    assert all(len(cell) == 1 for cell in cells), "a colour is not one token"
    cells, ends = [cell[0] for cell in cells], sorted(chat.ends)

    def allow(written: Sequence[int]) -> list[int]:
        rows = [[]]
        for token in written:
            rows.append([]) if token == line else rows[-1].append(token)
        width, own, whole = len(rows[0]), len(rows[-1]), len(rows) - 1
        if whole == 0:
            return [*(cells if own < side else ()), *((line,) if own else ())]
        if own == width:
            return [line]
        return [*(cells if whole < side else ()), *(ends if own == 0 else ())]

    return allow
