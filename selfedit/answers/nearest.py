"""What a memory studied that is nearest to a question. By words, no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfedit.memory.route import Router
from selfedit.text import language, words
from selfedit.types import SelfEdit


def nearest_example(question: str, edits: Sequence[SelfEdit], title: str) -> tuple[str, str] | None:
    """(style, text) of the studied line that resembles the question most; None if no line does. Shown by `--why`."""
    lines = {
        f"{i}.{j}": (edit.style, f"{e.prompt} {e.text}".strip())
        for i, edit in enumerate(edits)
        for j, e in enumerate(edit.examples)
    }
    found = _nearest_beyond(title, question, {key: text for key, (_, text) in lines.items()})
    return None if found is None else lines[found]


def _nearest_beyond(title: str, question: str, texts: dict[str, str]) -> str | None:
    """As `nearest`, by the words that are not in the title, which many of the texts have; else by all words."""
    known = "|".join(map(re.escape, words(title)))
    return nearest(re.sub(rf"\b(?:{known})\b", " ", question, flags=re.IGNORECASE), texts) or nearest(question, texts)


def nearest(question: str, texts: dict[str, str]) -> str | None:
    """The key of the text that resembles the question most; None if no text does. The texts are about one subject, in
    one language."""
    return Router.of_texts(texts, 0, language("\n".join(texts.values()))).route(question)[0]
