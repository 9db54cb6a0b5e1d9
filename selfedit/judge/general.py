"""How far an adapter moves the model away from what was learned: mean KL divergence on a fixed set of general texts.

The set (general.jsonl, our own) has everyday questions in chat form and plain prose on topics that no memory is about.
0 is the untouched model; an adapter that answers everything with what it learned last is several nats away.
"""

from __future__ import annotations

import json
from pathlib import Path

from selfedit.model.chat import Sequence
from selfedit.model.load import Model
from selfedit.model.score import divergences
from selfedit.model.stack import Stack
from selfedit.types import Example


def general_changes(model: Model, stack: Stack) -> list[float]:
    """Of each adapter: mean KL(untouched ‖ adapted) in nats a token."""
    return divergences(model.network, general_texts(model), stack)


def general_texts(model: Model) -> list[Sequence]:
    return [model.chat.study(Example(r["answer"], r["prompt"])) for r in _records()]


def general_questions() -> list[str]:
    """Those of the texts that are questions; no memory is about them."""
    return [r["prompt"] for r in _records() if r["prompt"]]


def _records() -> list[dict]:
    lines = (Path(__file__).parent / "general.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
