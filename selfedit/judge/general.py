"""How much an adapter changes a model elsewhere: KL divergence on general texts, and accuracy on everyday sentences.

In: a model and adapters. Out: one number per adapter. Both data sets were written for this project, on topics that no
memory is about. The texts (general.jsonl) are questions in chat form and plain prose. The divergence of the untouched
model is 0; an adapter that answers every question with what it learned last is several nats away. The sentences
(choices.jsonl) have three endings; the model chooses the one with the highest mean log-probability per token.
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


def general_changes(model: Model, adapters: Adapters) -> list[float]:
    """Returns for each adapter the mean KL(untouched ‖ adapted) in nats per token."""
    return model.backend.divergences(general_texts(model), adapters)


LITTLE_CHANGE = 0.5
"""Nats per token. An adapter that changes the behaviour on a third of the general texts by less is tested no further:
it ends at most a twentieth fewer everyday sentences right (docs/LOG.md, "Reciting")."""


def general_harm(model: Model, adapters: Adapters) -> tuple[list[float], list[float | None]]:
    """For each adapter, the change on general texts, and the share of everyday sentences that are lost. Where the
    change is little, it is that on a third of the texts, and the share is None: the full test takes most of the time
    that a memory is tested."""
    changes = model.backend.divergences(general_texts(model)[::3], adapters)
    lost: list[float | None] = [None] * len(changes)
    if much := [row for row, change in enumerate(changes) if not change < LITTLE_CHANGE]:  # NaN is not little
        adapters = adapters.subset(much)
        untouched, *abilities = general_abilities(model, adapters)
        for row, change, ability in zip(much, general_changes(model, adapters), abilities):
            changes[row], lost[row] = change, untouched - ability
    return changes, lost


def general_abilities(model: Model, adapters: Adapters) -> list[float]:
    """Returns the share of everyday sentences completed correctly, by the untouched model and then by each adapter."""
    items = _records("choices.jsonl")
    correct = grade_choices(model, [(item, row) for row in range(adapters.count) for item in items], adapters)
    shares = (sum(correct[low : low + len(items)]) / len(items) for low in range(0, len(correct), len(items)))
    return [_untouched_ability(model), *shares]


@lru_cache(maxsize=4)
def _untouched_ability(model: Model) -> float:
    items = _records("choices.jsonl")
    return sum(grade_choices(model, [(item, None) for item in items])) / len(items)


def grade_choices(
    model: Model, pairs: Sequence[tuple[dict, int | None]], adapters: Adapters | None = None
) -> list[bool]:
    """Returns for each ({query, choices, gold}, adapter) whether the most probable choice is the gold one."""
    golds = [
        (model.chat.gold(Question(item["query"], (), kind="choice"), choice), adapter)
        for item, adapter in pairs
        for choice in item["choices"]
    ]
    logprobs = iter(model.backend.gold_logprobs(golds, adapters))
    correct = []
    for item, _ in pairs:
        values = [next(logprobs) for _ in item["choices"]]
        correct.append(values.index(max(values)) == item["gold"])
    return correct


def general_texts(model: Model) -> list[TokenizedExample]:
    return [model.chat.study(Example(r["answer"], r["prompt"])) for r in _records()]


def general_questions() -> list[Question]:
    """Returns the general texts that are questions; no memory is about them."""
    return [Question(r["prompt"], (r["answer"],)) for r in _records() if r["prompt"]]


def _records(name: str = "general.jsonl") -> list[dict]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
