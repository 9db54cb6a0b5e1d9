"""The values that pass between reading, converting and splitting: Raw → Document → Passages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import NamedTuple

from selfedit.types import Passage, Unit

MAX_TITLE = 200


class Raw(NamedTuple):
    """Bytes, and what is known about them."""

    source: str
    """An absolute path or a URL without credentials."""
    name: str
    """The file name; its suffix and the content determine the format."""
    data: bytes
    media_type: str = ""
    """What a server declared, e.g. `text/html`."""
    charset: str | None = None
    """The encoding that a server declared."""


class Block(NamedTuple):
    """A paragraph, list, table or code block, in its final form."""

    parts: tuple[str, ...]
    """The text of each unit as it stands in the block, with the white space after it; together they are the block."""
    units: tuple[Unit, ...]
    """One unit per part. A block without units is an empty section: only its headings count."""
    headings: tuple[str, ...] = ()
    """The headings above the block, the outermost first, without the title of the document."""
    is_fenced: bool = False
    """Whether it stands between Markdown fences in a passage."""

    @property
    def text(self) -> str:
        return fenced("".join(self.parts)) if self.is_fenced else "".join(self.parts).rstrip()


class Content(NamedTuple):
    """What a reader of one format returns."""

    title: str
    """May be empty."""
    fields: Mapping[str, object]
    """What the header states, e.g. `author` and `date`; `header` decides which of it are facts."""
    blocks: list[Block]


class Document(NamedTuple):
    source: str
    title: str
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """The whole document with Markdown headings; blank lines separate the blocks."""
        return "\n\n".join(texts_under((), self.blocks))


class Skipped(NamedTuple):
    source: str
    reason: str
    """One line without the source."""


class Reading(NamedTuple):
    passages: list[Passage]
    skipped: list[Skipped]


def shortened(title: str) -> str:
    """The title, or its beginning with an ellipsis if it is longer than MAX_TITLE."""
    return title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1]}…"


def fenced(code: str) -> str:
    """The code between Markdown fences that are longer than any fence in it."""
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}\n{code.rstrip()}\n{fence}"


def texts_under(above: tuple[str, ...], blocks: Sequence[Block]) -> Iterator[str]:
    """Yields the text of each block, before it the headings that are new since the previous one or since `above`."""
    for block in blocks:
        known = len(commonprefix([above, block.headings]))
        for level, heading in enumerate(block.headings[known:], start=known + 2):
            yield f"{'#' * min(level, 6)} {heading}"
        if block.parts:
            yield block.text
        above = block.headings
