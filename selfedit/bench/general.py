"""General ability: multiple-choice questions, answered by the choice that is likeliest behind the question.

In: a folder with JSON lines of {query, choices, gold}; of each file that has those, the first questions. Out: the share
of right choices (`judge.general.grade_choices`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from selfedit.errors import DocumentError
from selfedit.judge.general import grade_choices
from selfedit.tasks.records import elements, expect, field, read_jsonl
from selfedit.types import text_hash

SETS = ("arc_easy", "piqa", "openbook_qa", "copa")
"""Of which a model of 135 million parameters answers more than chance."""
EACH = 50
"""Questions of a set."""


class General:
    def __init__(self, folder: Path):
        self.items: list[tuple[str, dict]] = []
        for name in SETS:
            file = folder / f"{name}.jsonl"
            if file.exists():
                self.items += [(name, _item(at, line)) for at, line in islice(read_jsonl(file), EACH)]
        if not self.items:
            raise DocumentError(
                f"{folder}: none of {', '.join(f'{name}.jsonl' for name in SETS)} is there; give another --general"
            )
        self.texts = [item["query"] for _, item in self.items]
        self.hash = text_hash(json.dumps(self.items))[:12]

    def accuracy(self, model, adapters: Sequence[int | None], stack=None) -> tuple[float, dict[str, float]]:
        """In all, and by set; question i under `adapters[i]`."""
        right = grade_choices(model, [(item, adapter) for (_, item), adapter in zip(self.items, adapters)], stack)
        of = {name: [r for (own, _), r in zip(self.items, right) if own == name] for name, _ in self.items}
        return sum(right) / len(right), {name: sum(own) / len(own) for name, own in of.items()}


def _item(at: str, line: object) -> dict:
    choices = [expect(choice, str, where) for where, choice in elements(line, "choices", at)]
    gold = field(line, "gold", int, at, may_be_empty=True)
    if not 0 <= gold < len(choices):
        raise DocumentError(f"{at}: 'gold' is {gold}; there are choices 0 to {len(choices) - 1}")
    return {"query": field(line, "query", str, at), "choices": choices, "gold": gold}
