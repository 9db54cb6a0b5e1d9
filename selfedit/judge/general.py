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
    lines = (Path(__file__).parent / "general.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [model.chat.study(Example(r["answer"], r["prompt"])) for r in records]
