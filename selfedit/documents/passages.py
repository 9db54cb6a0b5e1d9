"""The blocks of a document → passages that are short enough to be learned.

In: a Document. Out: Passages in reading order, of similar length and at most `passage_words` words (a document that is
only a little longer stays whole). Together they are the document; nothing is lost or repeated.

The idea is that of TeX's line breaking. The document is cut into pieces: its blocks, and the sentences, rows or lines
of a block that is too long for a passage. Each break has a cost, a group of pieces that mixes sections has one, and so
has a deviation from the average length. Dynamic programming finds the groups with the least total cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from selfedit.documents.records import Block, Document, texts_under
from selfedit.text import count_words, length_units
from selfedit.types import Passage, Unit, text_hash

WHOLE_FACTOR = 1.25
"""A document of up to this many times `passage_words` stays whole, since its halves would lose context."""
MIN_PASSAGE_WORDS = 20
MIN_PIECE_WORDS = 5
"""A shorter piece is never a separate passage."""
TITLE_SEPARATOR = " › "

_PARAGRAPH_COST, _UNIT_COST = 0.05, 0.2
_MIX_COST, _CUT_MIX_COST = 0.15, 0.4
"""Of a passage with two sections, and of one where the first or last of them is cut."""
_FINER_CUTS = ((re.compile(r"\n"), 0.3), (re.compile(r"\s+"), 0.5))

Length = Callable[[str], int]


class _Piece(NamedTuple):
    block: int
    text: str
    units: tuple[Unit, ...]
    headings: tuple[str, ...]
    heading_words: int
    """Of the headings that stand before the piece, if it begins a section."""
    words: int
    size: int
    """The length in tokens, headings included."""
    cost: float
    """The cost of a break before the piece."""
    begins_section: bool


def split(
    document: Document, *, passage_words: int, length: Length | None = None, max_length: int = 0
) -> list[Passage]:
    """Splits a document. Raises ValueError if `passage_words` is too small.

    `length` and `max_length` limit the passages further, e.g. to the tokens that a model can read. The title of a
    passage is "document › heading › subheading", with the headings that all of it has; other headings are in its text.
    """
    if passage_words < MIN_PASSAGE_WORDS:
        raise ValueError(f"passage_words is {passage_words}: give at least {MIN_PASSAGE_WORDS}")
    text = document.text
    source_hash = text_hash(text)
    limit = max_length if length else passage_words
    length = length or count_words
    if count_words(text) <= WHOLE_FACTOR * passage_words and (limit == passage_words or length(text) <= limit):
        units = tuple(unit for block in document.blocks for unit in block.units)
        return [Passage(document.title, text, document.source, source_hash, units=units)]
    pieces = list(_pieces(document, passage_words - MIN_PIECE_WORDS, length, limit))
    passages = []
    for index, group in enumerate(_balance(pieces, passage_words, limit)):
        common = _common([piece.headings for piece in group])
        title = TITLE_SEPARATOR.join(dict.fromkeys(filter(None, (document.title, *common))))
        text = "\n\n".join(texts_under(common, _blocks(document, group))).strip("\n")
        units = tuple(dict.fromkeys(unit for piece in group for unit in piece.units))
        passages.append(Passage(title, text, document.source, source_hash, index, units))
    return passages


def _pieces(document: Document, longest: int, length: Length, limit: int) -> Iterator[_Piece]:
    """Cuts every block that is longer than `longest` words, or three quarters of `limit`."""
    above: tuple[str, ...] = ()
    for index, block in enumerate(document.blocks):
        following = document.blocks[index + 1].headings if index + 1 < len(document.blocks) else ()
        if not block.parts and following[: len(block.headings)] == block.headings:
            continue  # the heading stands before the next block
        new = block.headings[len(_common([above, block.headings])) :]
        begins_section, above = block.headings != above, block.headings
        heading_words = sum(map(count_words, new)) + len(new)
        cost = 0.0 if begins_section else _PARAGRAPH_COST
        for text, units, inner_cost in _cut(block, longest, length, limit * 3 // 4):
            size = length(" ".join((*new, text)))
            yield _Piece(
                index, text, units, block.headings, heading_words, count_words(text) + heading_words, size,
                cost if inner_cost is None else inner_cost, begins_section,
            )  # fmt: skip
            new, heading_words, begins_section = (), 0, False


def _cut(
    block: Block, longest: int, length: Length, limit: int
) -> Iterator[tuple[str, tuple[Unit, ...], float | None]]:
    """Yields the block, or slices of it that fit, as (text, units, cost of a break before it)."""

    def fits(text: str) -> bool:
        return count_words(text) <= longest and length(text) <= limit

    whole = "".join(block.parts)
    if fits(whole):
        yield whole, block.units, None
        return
    cost: float | None = None
    waiting, units = "", []
    for part, unit in zip(block.parts, block.units):
        units.append(unit)
        for i, (text, slice_cost) in enumerate(_slices(part, fits, _FINER_CUTS)):
            if i and count_words(waiting) >= MIN_PIECE_WORDS or waiting and not fits(waiting + text):
                yield waiting, tuple(units[:-1] if i == 0 else units), cost
                waiting, units, cost = "", [unit], slice_cost if i else _UNIT_COST
            waiting += text
        if i or count_words(waiting) >= MIN_PIECE_WORDS:
            yield waiting, tuple(units), cost
            waiting, units, cost = "", [], _UNIT_COST
    if waiting:
        yield waiting, tuple(units), cost


def _slices(
    text: str, fits: Callable[[str], bool], cuts: Sequence[tuple[re.Pattern[str], float]]
) -> Iterator[tuple[str, float]]:
    """Cuts a text that is too long after line breaks, else after spaces, else anywhere."""
    if fits(text):
        yield text, 0.0
        return
    if not cuts:
        start = 0
        ends = list(length_units(text))
        for i, end in enumerate(ends):
            if i + 1 == len(ends) or not fits(text[start : ends[i + 1]]):
                yield text[start : end if i + 1 < len(ends) else len(text)], 1.0
                start = end
        return
    (pattern, cost), *finer = cuts
    start = 0
    for end in [*(match.end() for match in pattern.finditer(text)), len(text)]:
        for slice, finer_cost in _slices(text[start:end], fits, finer) if end > start else ():
            yield slice, max(cost, finer_cost)
        start = end


def _blocks(document: Document, group: Sequence[_Piece]) -> list[Block]:
    """The pieces, those of one block joined again."""
    blocks: list[Block] = []
    last = -1
    for piece in group:
        if piece.block == last:
            blocks[-1] = blocks[-1]._replace(parts=(*blocks[-1].parts, piece.text))
        else:
            blocks.append(document.blocks[piece.block]._replace(parts=(piece.text,) if piece.text else ()))
        last = piece.block
    return blocks


def _balance(pieces: Sequence[_Piece], passage_words: int, limit: int) -> list[Sequence[_Piece]]:
    """Groups consecutive pieces with the least total cost, by dynamic programming."""
    total = sum(piece.words for piece in pieces)
    target = total / -(-total // passage_words)
    least = [0.0]  # least[i]: the least cost of grouping the first i pieces
    begins = [0]  # begins[i]: where the last of those groups begins
    for end in range(1, len(pieces) + 1):
        best, best_begin, words, size, sections = float("inf"), end - 1, 0, 0, 0
        ends_cut = end < len(pieces) and not pieces[end].begins_section
        for begin in range(end - 1, -1, -1):
            piece = pieces[begin]
            words += piece.words
            size += piece.size
            if words > passage_words or size > limit:
                break
            cost = least[begin] + piece.cost + (words / target - 1) ** 2
            if sections:
                cost += _MIX_COST + _CUT_MIX_COST * (ends_cut + (not piece.begins_section))
            if cost < best:
                best, best_begin = cost, begin
            sections += piece.begins_section
        least.append(best)
        begins.append(best_begin)
    groups, end = [], len(pieces)
    while end:
        groups.append(pieces[begins[end] : end])
        end = begins[end]
    return groups[::-1]


def _common(paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The headings with which all paths begin."""
    first, last = min(paths), max(paths)
    return next((first[:i] for i, (a, b) in enumerate(zip(first, last)) if a != b), min(first, last, key=len))
