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
from os.path import commonprefix
from typing import NamedTuple

from selfedit.documents.records import Block, Document, texts_under
from selfedit.text import count_words, length_units
from selfedit.types import TITLE_SEPARATOR, Passage, Unit, text_hash

WHOLE_FACTOR = 1.25
"""A document of up to this many times `passage_words` stays whole, since its halves would lose context."""
MIN_PASSAGE_WORDS = 20
MIN_PIECE_WORDS = 5
"""A shorter piece is never a separate passage."""

_PARAGRAPH_COST, _UNIT_COST = 0.05, 0.2
_MIX_COST, _CUT_MIX_COST = 0.15, 0.4
"""Of a passage with two sections, and of one where the first or last of them is cut."""

Length = Callable[[str], int]
_FinerCut = tuple[Callable[[str], Iterator[int]], float]
_FINER_CUTS: Sequence[_FinerCut] = (
    (lambda text: (match.end() for match in re.finditer(r"\n", text)), 0.3),
    (lambda text: (match.end() for match in re.finditer(r"\s+", text)), 0.5),
    (length_units, 1.0),
)
"""Where a unit may be cut that is too long, and the cost of a break there."""


class _Piece(NamedTuple):
    block: int
    text: str
    units: tuple[Unit, ...]
    headings: tuple[str, ...]
    words: int
    """With the headings that stand before the piece if it begins a section."""
    cost: float
    """The cost of a break before the piece."""
    begins_section: bool


def split(document: Document, *, passage_words: int, length: Length = count_words) -> list[Passage]:
    """Splits a document. Raises ValueError if `passage_words` is too small.

    `length`: measures a text in words, or in what limits a passage instead, e.g. the tokens that a model can read. The
    title of a passage is "document › heading › subheading", with the headings that all of it has; other headings are in
    its text.
    """
    if passage_words < MIN_PASSAGE_WORDS:
        raise ValueError(f"passage_words is {passage_words}: give at least {MIN_PASSAGE_WORDS}")
    text = document.text
    source_hash = text_hash(text)
    if length(text) <= WHOLE_FACTOR * passage_words:
        units = tuple(unit for block in document.blocks for unit in block.units)
        return [Passage(document.title, text, document.source, source_hash, units=units)]
    passages = []
    for index, group in enumerate(_balance(list(_pieces(document, passage_words, length)), passage_words)):
        common = commonprefix([piece.headings for piece in group])
        title = TITLE_SEPARATOR.join(dict.fromkeys(filter(None, (document.title, *common))))
        text = "\n\n".join(texts_under(common, _blocks(document, group))).strip("\n")
        units = tuple(dict.fromkeys(unit for piece in group for unit in piece.units))
        passages.append(Passage(title, text, document.source, source_hash, index, units))
    return passages


def _pieces(document: Document, passage_words: int, length: Length) -> Iterator[_Piece]:
    """Cuts every block that is about as long as a passage, so that a short neighbour fits into the same passage."""
    above: tuple[str, ...] = ()
    for index, block in enumerate(document.blocks):
        following = document.blocks[index + 1].headings if index + 1 < len(document.blocks) else ()
        if not block.parts and following[: len(block.headings)] == block.headings:
            continue  # the heading stands before the next block
        new = block.headings[len(commonprefix([above, block.headings])) :]
        begins_section, above = block.headings != above, block.headings
        heading_words = sum(map(length, new)) + len(new)
        cost = 0.0 if begins_section else _PARAGRAPH_COST
        for text, units, words, inner_cost in _cut(block, passage_words - MIN_PIECE_WORDS, length):
            cost = cost if inner_cost is None else inner_cost
            yield _Piece(index, text, units, block.headings, words + heading_words, cost, begins_section)
            heading_words, begins_section = 0, False


def _cut(block: Block, longest: int, length: Length) -> Iterator[tuple[str, tuple[Unit, ...], int, float | None]]:
    """Yields the block, or slices of at most `longest` words, as (text, units, words, cost of a break before)."""
    whole = "".join(block.parts)
    words = length(whole)
    if words <= longest:
        yield whole, block.units, words, None
        return
    cost: float | None = None
    for part, unit in zip(block.parts, block.units):
        for i, (text, words, slice_cost) in enumerate(_slices(part, longest, length, _FINER_CUTS)):
            yield text, (unit,), words, slice_cost if i else cost
            cost = _UNIT_COST


def _slices(text: str, longest: int, length: Length, cuts: Sequence[_FinerCut]) -> Iterator[tuple[str, int, float]]:
    """Cuts a text that is too long after line breaks, else after spaces, else anywhere: (text, words, cost)."""
    words = length(text)
    if words <= longest:
        yield text, words, 0.0
        return
    (find_ends, cost), *finer = cuts
    start = 0
    for end in [*find_ends(text), len(text)]:
        # A slice of few words joins the next one, unless the text ends.
        if end > start and (end == len(text) or length(text[start:end]) >= MIN_PIECE_WORDS):
            for slice, words, finer_cost in _slices(text[start:end], longest, length, finer):
                yield slice, words, max(cost, finer_cost)
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


def _balance(pieces: Sequence[_Piece], passage_words: int) -> list[Sequence[_Piece]]:
    """Groups consecutive pieces with the least total cost, by dynamic programming."""
    total = sum(piece.words for piece in pieces)
    target = total / -(-total // passage_words)
    least = [0.0]  # least[i]: the least cost of grouping the first i pieces
    begins = [0]  # begins[i]: where the last of those groups begins
    for end in range(1, len(pieces) + 1):
        best, best_begin, words, sections = float("inf"), end - 1, 0, 0
        ends_cut = end < len(pieces) and not pieces[end].begins_section
        for begin in range(end - 1, -1, -1):
            piece = pieces[begin]
            words += piece.words
            if words > passage_words and begin < end - 1:  # a single piece may be too long with its headings
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
