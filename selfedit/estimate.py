"""How long `learn` will take, before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from selfedit.text import count_words
from selfedit.types import Passage

SECONDS_PER_WORD = {"smollm2-135m": 0.55, "qwen2.5-coder-0.5b": 1.6, "qwen2.5-coder-1.5b": 4.5}
"""Before anything was learned here: measured on 2 cores (docs/LOG.md)."""


def seconds_expected(passages: Sequence[Passage], home: Path, model: str) -> float | None:
    """What the passages will take at the speed of this model in earlier runs in `home`, else at that of
    SECONDS_PER_WORD; None if neither is known."""
    seconds, words = 0.0, 0
    for run in home.glob("runs/learn-*"):
        try:
            if json.loads((run / "config.json").read_text("utf-8"))["model"] == model:
                for line in (run / "trials.jsonl").read_text("utf-8").splitlines():
                    record = json.loads(line)
                    if record.get("words"):
                        seconds, words = seconds + record["seconds"], words + record["words"]
        except (OSError, ValueError, TypeError, KeyError):  # damaged, or of another version
            continue
    speed = seconds / words if words else SECONDS_PER_WORD.get(model)
    unique = {passage.id: count_words(passage.text) for passage in passages}
    return None if speed is None else round(speed * sum(unique.values()), 1)
