"""How far an adapter moves the model away from what it could do: mean KL divergence on a fixed set of general texts, and
the share of everyday sentences that it ends right.

Both sets are our own, on topics that no memory is about. The texts (general.jsonl) are questions in chat form and plain
prose: 0 is the untouched model; an adapter that answers everything with what it learned last is several nats away. The
sentences (choices.jsonl) have three endings, of which the likeliest, a mean over its tokens, is the model's choice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from selfedit.model.backend import Adapters
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.types import Example, Question


def general_changes(model: Model, stack: Adapters) -> list[float]:
    """Of each adapter: mean KL(untouched ‖ adapted) in nats a token."""
    return model.backend.divergences(general_texts(model), stack)


def general_abilities(model: Model, stack: Adapters) -> list[float]:
    """The share of everyday sentences ended right: of the untouched model, then of each adapter."""
    items = _records("choices.jsonl")
    right = grade_choices(model, [(item, row) for row in range(stack.count) for item in items], stack)
    return [
        _untouched(model),
        *(sum(right[low : low + len(items)]) / len(items) for low in range(0, len(right), len(items))),
    ]


@lru_cache(maxsize=4)
def _untouched(model: Model) -> float:
    items = _records("choices.jsonl")
    return sum(grade_choices(model, [(item, None) for item in items])) / len(items)


def grade_choices(model: Model, asked: Sequence[tuple[dict, int | None]], stack: Adapters | None = None) -> list[bool]:
    """For each ({query, choices, gold}, adapter) whether the likeliest choice is the right one."""
    golds = [
        (model.chat.gold(Question(item["query"], (), kind="choice"), choice), adapter)
        for item, adapter in asked
        for choice in item["choices"]
    ]
    found = iter(model.backend.gold_logprobs(golds, stack))
    right = []
    for item, _ in asked:
        values = [next(found) for _ in item["choices"]]
        right.append(values.index(max(values)) == item["gold"])
    return right


def general_texts(model: Model) -> list[TokenizedExample]:
    return [model.chat.study(Example(r["answer"], r["prompt"])) for r in _records()]


def general_questions() -> list[Question]:
    """Those of the texts that are questions; no memory is about them."""
    return [Question(r["prompt"], (r["answer"],)) for r in _records() if r["prompt"]]


def _records(name: str = "general.jsonl") -> list[dict]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
