"""Questions → answers from the weights: the memory that fits each is found, and the model answers under it.

The document is never in the prompt. Where no memory fits, the untouched model answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from selfedit.edits.parse import sentences
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.model.generate import Request, generate
from selfedit.model.load import Model
from selfedit.model.stack import Stack, load_adapters, read_config
from selfedit.types import MemoryEntry, Passage, Question, SelfEdit


ADAPTERS = 32
"""In a stack, at most: so much memory is enough for any number of questions."""
NEAR = 3
"""Memories that are looked at for what disagrees with an answer."""


@dataclass(frozen=True)
class Answer:
    answer: str
    memory: MemoryEntry | None
    """None: the untouched model answered."""
    score: float
    """How well the memory fits the question, as the router scores it."""
    disagrees: tuple[dict, ...] = ()
    """Other sources that say otherwise of what is asked: `memory`, `source`, what is said `here` and `there`."""

    def record(self) -> dict:
        return {
            "answer": self.answer,
            "memory": self.memory.id if self.memory else None,
            "source": self.memory.passage.source if self.memory else None,
        } | ({"disagrees": list(self.disagrees)} if self.disagrees else {})


def ask(
    model: Model,
    store: MemoryStore,
    questions: Sequence[Question],
    *,
    max_new_tokens: int = 48,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """Answers in the questions' order. A question of another kind than `question` is a text that is continued."""
    router = store.router(model.fingerprint)
    routed = [router.route(question.question) for question in questions]
    entries = {id: store.get(id) for id in {id for id, _ in routed if id}}
    answers: list[Answer | None] = [None] * len(questions)
    for stack, rows in _stacks(model, store, {id for id, _ in routed if id}):
        own = [i for i, (id, _) in enumerate(routed) if (id in rows if id else stack is None)]
        requests = [Request(tuple(model.chat.prompt(questions[i])), rows.get(routed[i][0]), max_new_tokens) for i in own]
        for i, tokens in zip(own, generate(model, requests, stack, on_token=on_token)):
            id, score = routed[i]
            answers[i] = Answer(model.chat.decode(tokens).strip(), entries.get(id), score, _disagreeing(questions[i].question, id, router, store))
    return answers


def _disagreeing(question: str, id: str | None, router: Router, store: MemoryStore) -> tuple[dict, ...]:
    """What was found when either memory was learned: this one's differences to others that fit the question too, and theirs to it."""
    fitting = [other for other, score in router.best(question, NEAR) if score >= router.threshold] if id else []
    if len(fitting) < 2:
        return ()
    found = []
    for other in map(store.get, fitting):
        for one in other.scores.get("disagrees", ()):
            if other.id == id and one["memory"] in fitting:
                found.append(one)
            elif one["memory"] == id:
                found.append({"memory": other.id, "source": other.passage.source, "here": one["there"], "there": one["here"]})
    return tuple(one for one in found if Router({"": f"{one['here']}\n{one['there']}"}).route(question)[0] is not None)


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


def _stacks(model: Model, store: MemoryStore, ids: set[str]) -> Iterator[tuple[Stack | None, dict[str, int]]]:
    """The adapters needed, in stacks of one LoRA configuration, and which row is whose; first the untouched model."""
    yield None, {}
    paths = {id: store.answering_path(id) for id in sorted(ids)}
    groups: dict = {}
    for path in dict.fromkeys(paths.values()):
        groups.setdefault(read_config(path, model.network.shape), []).append(path)
    for own in groups.values():
        for low in range(0, len(own), ADAPTERS):
            rows = {path: row for row, path in enumerate(own[low : low + ADAPTERS])}
            yield load_adapters(model.network, list(rows)), {id: rows[path] for id, path in paths.items() if path in rows}
