"""General ability: multiple-choice questions, answered by the choice that is most probable after the question.

In: a folder with files of JSON lines {query, choices, gold}; the first EACH questions of every known file are read.
Out: the share of correct choices (`judge.general.grade_choices`).
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
"""Question sets on which a model of 135 million parameters scores above chance."""
EACH = 50
"""Number of questions per set."""


class General:
    def __init__(self, folder: Path):
        self.items: list[tuple[str, dict]] = []
        for name in SETS:
            file = folder / f"{name}.jsonl"
            if file.exists():
                self.items += [(name, _item(at, line)) for at, line in islice(read_jsonl(file), EACH)]
        if not self.items:
            raise DocumentError(
                f"{folder} has none of the files {', '.join(f'{name}.jsonl' for name in SETS)}; give another --general"
            )
        self.texts = [item["query"] for _, item in self.items]
        self.hash = text_hash(json.dumps(self.items))[:12]

    def accuracy(self, model, adapters: Sequence[int | None], stack=None) -> tuple[float, dict[str, float]]:
        """Returns the accuracy over all questions and per set; question i is answered under `adapters[i]`."""
        correct = grade_choices(model, [(item, adapter) for (_, item), adapter in zip(self.items, adapters)], stack)
        by_set: dict[str, list[bool]] = {}
        for (name, _), verdict in zip(self.items, correct):
            by_set.setdefault(name, []).append(verdict)
        return sum(correct) / len(correct), {name: sum(verdicts) / len(verdicts) for name, verdicts in by_set.items()}


def _item(at: str, line: object) -> dict:
    choices = [expect(choice, str, where) for where, choice in elements(line, "choices", at)]
    gold = field(line, "gold", int, at, may_be_empty=True)
    if not 0 <= gold < len(choices):
        raise DocumentError(f"{at}: 'gold' is {gold}; it must be between 0 and {len(choices) - 1}")
    return {"query": field(line, "query", str, at), "choices": choices, "gold": gold}
