"""Passages of release notes and upgrade guides → the changes of an API that they state.

A row of a table, an item of a list, and a section (its sentences and its code) are one change each, if they name code.
A section that the splitter has cut is put together again; its change belongs to the first of its passages with code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from selfedit.types import Passage, Unit

MAX_WORDS = 90
"""Of the sentences of a section that a change states."""
MAX_BLOCKS, MAX_CODE = 4, 800
"""Code blocks of a section that a change has, and characters of each."""
_NAMES_CODE = re.compile(r"`[^`]+`|\w+\(|\b\w+\.\w+\.?\w*\(|\b\w+_\w+\b|--\w")
_SESSION, _PROMPT = re.compile(r">>>|In \[\d+\]:"), re.compile(r"(?:>>>|\.\.\.|In \[\d+\]:) ?")


@dataclass(frozen=True)
class Change:
    """What a document states about code."""

    passage: Passage
    """The passage that it belongs to."""
    statement: str
    code: tuple[tuple[str, str], ...] = ()
    """Code of the section: what introduces it, e.g. `Before:`, and the code without its output."""
    others: tuple[Passage, ...] = ()
    """Other passages that have parts of it."""

    @property
    def passage_ids(self) -> list[str]:
        return [passage.id for passage in (self.passage, *self.others)]

    @property
    def text(self) -> str:
        """The statement, and the code below it."""
        blocks = [f"{label}\n{code}".strip() for label, code in self.code]
        return "\n".join([self.statement, *blocks])


def find_changes(passages: Sequence[Passage]) -> list[Change]:
    """The changes that the passages state, in their order. `passages`: with units, those of a document in its order."""
    found = []
    units = [(passage, unit) for passage in passages for unit in passage.units]
    for (_, headings), group in groupby(units, key=lambda pair: (pair[0].source, pair[1].headings)):
        section = list(group)
        for passage, unit in section:
            if unit.kind in ("row", "item") and _NAMES_CODE.search(unit.text):
                found.append(Change(passage, _shortened([unit.text])))
        prose = [(passage, unit) for passage, unit in section if unit.kind in ("sentence", "code")]
        found += _of_section(headings[-1] if headings else "", prose)
    return found


def _of_section(heading: str, units: Sequence[tuple[Passage, Unit]]) -> Iterable[Change]:
    code, before = [], ""
    for passage, unit in units:
        if unit.kind == "code":
            is_introduced = unit.text.startswith(f"{before}\n")
            label, text = (before, unit.text[len(before) + 1 :]) if is_introduced else ("", unit.text)
            label = label if label.endswith(":") else ""  # else it is one of the sentences
            if shown := code_of(text):
                code.append((passage, label, shown[:MAX_CODE]))
        before = unit.text
    sentences = [u.text for _, u in units if u.kind == "sentence" and not u.text.endswith(":") and " " in u.text]
    if code or (sentences and _NAMES_CODE.search(heading)):
        passage = code[0][0] if code else units[0][0]
        others = tuple({p.id: p for p, _ in units if p.id != passage.id}.values())
        blocks = tuple((label, text) for _, label, text in code[:MAX_BLOCKS])
        yield Change(passage, _shortened([f"{heading.rstrip('.')}." * bool(heading), *sentences]), blocks, others)


def _shortened(sentences: Iterable[str]) -> str:
    words = " ".join(sentences).split()
    return " ".join(words[:MAX_WORDS])


def code_of(text: str) -> str:
    """The code of an interactive session without its output; other code as it is."""
    lines = text.strip("\n").split("\n")
    if any(_SESSION.match(line) for line in lines):
        lines = [_PROMPT.sub("", line, count=1) for line in lines if _PROMPT.match(line)]
    return "\n".join(lines).rstrip()
