"""Questions → answers from the weights: the memory that fits each is found, and the model answers under it.

The document is never in the prompt. Where no memory fits, the untouched model answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfedit.edits.parse import sentences
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.model.generate import Request, generate
from selfedit.model.load import Model
from selfedit.model.stack import Stack, load_adapters, read_config
from selfedit.types import MemoryEntry, Passage, Question, SelfEdit


@dataclass(frozen=True)
class Answer:
    answer: str
    memory: MemoryEntry | None
    """None: the untouched model answered."""
    score: float
    """How well the memory fits the question, as the router scores it."""

    def record(self) -> dict:
        return {
            "answer": self.answer,
            "memory": self.memory.id if self.memory else None,
            "source": self.memory.passage.source if self.memory else None,
        }


def ask(
    model: Model,
    store: MemoryStore,
    questions: Sequence[Question],
    *,
    max_new_tokens: int = 48,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """Answers in the questions' order. A question of another kind than `question` is a text that is continued."""
    entries = {entry.id: entry for entry in store.active(model.fingerprint)}
    router = Router({id: learned_text(entry, store.edits(id)) for id, entry in entries.items()})
    routed = [router.route(question.question) for question in questions]
    answers: list[Answer | None] = [None] * len(questions)
    for stack, rows in _stacks(model, store, {id for id, _ in routed if id}):
        own = [i for i, (id, _) in enumerate(routed) if (id in rows if id else stack is None)]
        requests = [Request(tuple(model.chat.prompt(questions[i])), rows.get(routed[i][0]), max_new_tokens) for i in own]
        for i, tokens in zip(own, generate(model, requests, stack, on_token=on_token)):
            id, score = routed[i]
            answers[i] = Answer(model.chat.decode(tokens).strip(), entries.get(id), score)
    return answers


def learned_text(entry: MemoryEntry, edits: Sequence[SelfEdit]) -> str:
    """What a memory knows, as the router reads it: nothing twice, since more text would only look less like a question."""
    flat = " ".join(entry.passage.text.split())
    studied = dict.fromkeys(e.text for edit in edits for e in edit.examples if " ".join(e.text.split()) not in flat)
    return "\n".join([entry.passage.title, entry.passage.text, *studied])


def nearest_example(question: str, edits: Sequence[SelfEdit]) -> tuple[str, str] | None:
    """(style, text) of the studied line that is most like the question: what `--why` shows."""
    lines = {f"{i}.{j}": (edit.style, f"{e.prompt} {e.text}".strip()) for i, edit in enumerate(edits) for j, e in enumerate(edit.examples)}
    return lines.get(_nearest(question, {key: text for key, (_, text) in lines.items()}))


def nearest_sentence(question: str, passage: Passage) -> str:
    """The passage's sentence that is most like the question, else how the passage begins."""
    own = {str(i): sentence for i, sentence in enumerate(sentences(passage.text))}
    return own.get(_nearest(question, own), passage.text[:200])


def _nearest(question: str, texts: dict[str, str]) -> str | None:
    return Router(texts).route(question)[0] if texts else None


def _stacks(model: Model, store: MemoryStore, ids: set[str]) -> list[tuple[Stack | None, dict[str, int]]]:
    """The adapters needed, one stack a LoRA configuration, and which row is whose; first the untouched model."""
    groups: dict = {}
    for id in sorted(ids):
        path = store.adapter_path(id)
        groups.setdefault(read_config(path, model.network.shape), []).append((id, path))
    stacks: list[tuple[Stack | None, dict[str, int]]] = [(None, {})]
    for members in groups.values():
        stack = load_adapters(model.network, [path for _, path in members])
        stacks.append((stack, {id: row for row, (id, _) in enumerate(members)}))
    return stacks
