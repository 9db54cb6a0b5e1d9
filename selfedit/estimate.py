"""How long `learn` will take, before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfedit.errors import RunError
from selfedit.loop.journal import Journal, read_back
from selfedit.text import count_words
from selfedit.types import Passage

FIXED_WORDS = 120
"""The part of the work on a passage that does not depend on its length, in words that take as long (docs/LOG.md)."""
SECONDS_PER_WORD = {"smollm2-135m": 0.31, "qwen2.5-coder-0.5b": 0.93, "qwen2.5-coder-1.5b": 2.5}
"""Before anything was learned here: measured on 2 cores (docs/LOG.md)."""


def seconds_expected(passages: Sequence[Passage], home: Path, model: str) -> float | None:
    """What the passages will take at the speed of this model in earlier runs in `home`, else at that of
    SECONDS_PER_WORD; None if neither is known."""
    seconds, words = 0.0, 0
    for run in home.glob("runs/learn-*"):
        try:
            if read_back(run / "config.json").get("model") == model:
                for record in Journal(run / "trials.jsonl").records:
                    if record.get("words"):
                        seconds, words = seconds + record["seconds"], words + FIXED_WORDS + record["words"]
        except (RunError, TypeError, KeyError):  # damaged, or of another version
            continue
    speed = seconds / words if words else SECONDS_PER_WORD.get(model)
    unique = {passage.id: FIXED_WORDS + count_words(passage.text) for passage in passages}
    return None if speed is None else round(speed * sum(unique.values()), 1)
