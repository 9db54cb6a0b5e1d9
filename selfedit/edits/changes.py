"""Passages of release notes and upgrade guides → the changes of an API that they state.

A row of a table, an item of a list, and a section (its sentences and its code) are one change each, if they name code.
A section that the splitter has cut is put together again; its change belongs to the first of its passages with code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from selfedit.types import TITLE_SEPARATOR, Passage, Unit

MAX_WORDS = 90
"""Of the sentences of a section that a change states."""
MAX_BLOCKS, MAX_CODE = 4, 400
"""Code blocks of a section that a change has, and characters of each."""
_NAMES_CODE = re.compile(r"`[^`]+`|\w+\(|\b\w+\.\w+\.?\w*\(|\b\w+_\w+\b|--\w")
_PROMPT = re.compile(r"(?:>>>|\.\.\.|In \[\d+\]:) ?")


@dataclass(frozen=True)
class Change:
    """What a document states about code."""

    passage: Passage
    """The passage that it belongs to."""
    statement: str
    code: tuple[tuple[str, str], ...] = ()
    """Code of the section: what introduces it, e.g. `Before:`, and the code without its output."""

    @property
    def text(self) -> str:
        """The statement, and the code below it."""
        blocks = [f"{label}\n{code}".strip() for label, code in self.code]
        return "\n".join([self.statement, *blocks])


def find_changes(passages: Sequence[Passage]) -> list[Change]:
    """The changes that the passages state, in their order. `passages`: with units, those of a document in its order."""
    found = []
    for _, group in groupby(passages, key=lambda passage: (passage.source, passage.title)):
        section = list(group)
        lines = [(p, u) for p in section for u in p.units if u.kind in ("row", "item") and _NAMES_CODE.search(u.text)]
        found += [Change(passage, _shortened([unit.text])) for passage, unit in lines]
        listed = {unit for _, unit in lines}
        prose = [(p, u) for p in section for u in p.units if u not in listed and u.kind in ("sentence", "code")]
        found += _of_section(section[0].title, prose)
    return found


def _of_section(title: str, units: Sequence[tuple[Passage, Unit]]) -> Iterable[Change]:
    code, before = [], ""
    for passage, unit in units:
        if unit.kind == "code":
            label, text = (
                (before, unit.text[len(before) + 1 :]) if unit.text.startswith(f"{before}\n") else ("", unit.text)
            )
            if lines := code_of(text):
                code.append((passage, label, lines[:MAX_CODE]))
        before = unit.text
    sentences = [u.text for _, u in units if u.kind == "sentence" and not u.text.endswith(":") and " " in u.text]
    heading = title.rpartition(TITLE_SEPARATOR)[2]
    if code or (sentences and _NAMES_CODE.search(heading)):
        passage = code[0][0] if code else units[0][0]
        blocks = tuple((label, text) for _, label, text in code[:MAX_BLOCKS])
        yield Change(passage, _shortened([heading.rstrip(".") + ".", *sentences]), blocks)


def _shortened(sentences: Iterable[str]) -> str:
    words = " ".join(sentences).split()
    return " ".join(words[:MAX_WORDS])


def code_of(text: str) -> str:
    """The code of an interactive session without its output; other code as it is."""
    lines = text.strip("\n").split("\n")
    if any(_PROMPT.match(line) for line in lines):
        lines = [_PROMPT.sub("", line, count=1) for line in lines if _PROMPT.match(line)]
    return "\n".join(lines).rstrip()
