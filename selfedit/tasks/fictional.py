"""Invented documents with cloze probes → Tasks about knowledge that no model has seen in training.

In: a JSON list, `[{id, context, probes: [{kind, prompt, target}]}]`, as made from the Fictional Knowledge data set
(Chang et al. 2024, "How Do Large Language Models Acquire Factual Knowledge During Pretraining?"). Out: one Task per
context, in the order of the file. The kind of a question is that of its probe (memorization, paraphrase or
composition). A probe is a text to be continued, with a space between prompt and target.
"""

from __future__ import annotations

from selfedit.tasks.records import elements, field, numbered, optional_id
from selfedit.types import Passage, Question, Task, text_hash


def fictional_tasks(content: object, path: str) -> list[Task]:
    """Raises DocumentError that names the item and the missing field."""
    tasks = []
    for at, item in numbered(content, path):
        context = field(item, "context", str, at)
        passage = Passage(title="", text=context, source=path, source_hash=text_hash(context))
        probes = tuple(_question(probe, probe_at) for probe_at, probe in elements(item, "probes", at))
        tasks.append(Task(passage, probes, optional_id(item, at)))
    return tasks


def _question(probe: object, at: str) -> Question:
    return Question(
        question=field(probe, "prompt", str, at),
        answers=(field(probe, "target", str, at),),
        kind=field(probe, "kind", str, at),
    )
