"""The text of a document → passages that are short enough to be learned.

In: a title and a normalized text. Out: Passages in reading order, of similar length and at most `passage_words` words
(a document that is only a little longer stays whole). Together they are the text; nothing is lost or repeated.

The idea is that of TeX's line breaking. The text is cut into pieces wherever a break is allowed: before a Markdown
heading, between paragraphs, and inside a paragraph only if it is too long for a passage: between sentences, lines,
words, and finally characters, in this order. Each kind of break has a cost. The chosen breaks minimize the sum of these
costs and of the squared deviations from the average length.

Left out: underlined headings, and repairing a code fence that is cut in two.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from selfedit.text import count_words, length_units, sentence_ends
from selfedit.types import Passage, text_hash

WHOLE_FACTOR = 1.25
"""A document of up to this many times `passage_words` stays whole, since its halves would lose context."""
MIN_PASSAGE_WORDS = 20
MIN_PIECE_WORDS = 5
"""A shorter piece is never a separate passage."""

SECTION_COST, PARAGRAPH_COST = 0.0, 0.05


def _matches(pattern: str) -> Callable[[str], Iterator[int]]:
    return lambda text: (match.end() for match in re.finditer(pattern, text))


_SENTENCE_CUT, *_FINER_CUTS = (
    (sentence_ends, 0.2),
    (_matches(r"\n"), 0.3),
    (_matches(r"\s+"), 0.5),
    (length_units, 1.0),
)
"""Where a paragraph may be cut, and the cost of a break there."""
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)", re.MULTILINE)
_HEADING = re.compile(r"#{1,6} .*\S")


class _Piece(NamedTuple):
    text: str
    words: int
    heading: str
    """The Markdown heading above the piece."""
    cost: float
    """The cost of a break before the piece."""


def split_passages(title: str, text: str, source: str, *, passage_words: int, is_code: bool = False) -> list[Passage]:
    """Splits a text. Raises ValueError if `passage_words` is too small.

    `is_code`: `#` starts a comment instead of a heading, and a line is cut only if it is longer than a passage. The
    title of a passage of a divided document is "title — heading", with the heading of most of its words.
    """
    if passage_words < MIN_PASSAGE_WORDS:
        raise ValueError(f"passage_words is {passage_words}: give at least {MIN_PASSAGE_WORDS}")
    source_hash = text_hash(text)
    if count_words(text) <= WHOLE_FACTOR * passage_words:
        return [Passage(title, text, source, source_hash)]
    # A piece is a little shorter than a passage, so that a very short neighbour fits into the same passage.
    longest = passage_words - MIN_PIECE_WORDS
    pieces = [part for piece in _paragraphs(text, is_code) for part in _cut(piece, longest, is_code)]
    groups = _balance(pieces, passage_words)
    passages = []
    for index, group in enumerate(groups):
        part = "".join(piece.text for piece in group).strip("\n").rstrip()
        passages.append(Passage(_title(title, group), part, source, source_hash, index))
    return passages


def heading_text(line: str) -> str:
    """Returns the text of a Markdown heading without its marks."""
    words = line.split()[1:]
    return " ".join(words[:-1] if words and not words[-1].strip("#") else words)


def _paragraphs(text: str, is_code: bool) -> Iterator[_Piece]:
    """Yields paragraphs; a heading belongs to the paragraph below it, and a code fence is not split at blank lines."""
    lines: list[str] = []
    heading, cost, fence, has_body = "", SECTION_COST, "", False
    for line in text.splitlines(keepends=True):
        found = None if is_code or fence else _HEADING.match(line)
        if found:
            if has_body:
                yield _piece(lines, heading, cost)
                lines, has_body = [], False
            heading, cost = heading_text(line), SECTION_COST
        elif not is_code and (mark := _FENCE.match(line)):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence):
                fence = ""
        lines.append(line)
        if not found and line.strip():
            has_body = True
        elif has_body and not fence:
            yield _piece(lines, heading, cost)
            lines, cost, has_body = [], PARAGRAPH_COST, False
    if lines:
        yield _piece(lines, heading, cost)


def _piece(lines: list[str], heading: str, cost: float) -> _Piece:
    text = "".join(lines)
    return _Piece(text, count_words(text), heading, cost)


def _cut(piece: _Piece, longest: int, is_code: bool) -> list[_Piece]:
    """Returns the piece, or slices of at most `longest` words, cut at the coarsest breaks that allow this."""
    by_line = is_code or _FENCE.search(piece.text)
    parts = [piece]
    for find_ends, cost in _FINER_CUTS if by_line else (_SENTENCE_CUT, *_FINER_CUTS):
        parts = [
            finer for part in parts for finer in ([part] if part.words <= longest else _slices(part, find_ends, cost))
        ]
    return parts


def _slices(piece: _Piece, find_ends: Callable[[str], Iterator[int]], cost: float) -> Iterator[_Piece]:
    """Cuts the piece after each match; a slice of fewer than MIN_PIECE_WORDS joins the next one."""
    start, before = 0, piece.cost
    for end in [*find_ends(piece.text), len(piece.text)]:
        text = piece.text[start:end]
        words = count_words(text)
        if words >= MIN_PIECE_WORDS or end == len(piece.text) and text:
            yield _Piece(text, words, piece.heading, before)
            start, before = end, cost


def _balance(pieces: list[_Piece], passage_words: int) -> list[list[_Piece]]:
    """Groups consecutive pieces into passages of at most `passage_words` words with the least total cost.

    The groups are found by dynamic programming.
    """
    total = sum(piece.words for piece in pieces)
    target = total / -(-total // passage_words)
    least = [0.0]  # least[i]: the least cost of grouping the first i pieces
    begins = [0]  # begins[i]: where the last of those groups begins
    for end in range(1, len(pieces) + 1):
        best, best_begin, words = float("inf"), end - 1, 0
        for begin in range(end - 1, -1, -1):
            words += pieces[begin].words
            if words > passage_words:
                break
            cost = least[begin] + pieces[begin].cost + (words / target - 1) ** 2
            if cost < best:
                best, best_begin = cost, begin
        least.append(best)
        begins.append(best_begin)
    groups, end = [], len(pieces)
    while end:
        groups.append(pieces[begins[end] : end])
        end = begins[end]
    return groups[::-1]


def _title(title: str, group: list[_Piece]) -> str:
    words_under: Counter[str] = Counter()
    for piece in group:
        words_under[piece.heading] += piece.words
    heading = words_under.most_common(1)[0][0]
    return " — ".join(dict.fromkeys(part for part in (title, heading) if part))
