"""Questions → answers from the weights: the memory that fits each is found, and the model answers under it.

The document is never in the prompt. Where no memory fits, the untouched model answers. Where several fit nearly as well,
each may be tried in the same batch, and the answer that its adapter is most certain of is taken; on facts that is worth
next to nothing, and among memories that do not fit it does harm (docs/LOG.md, study 14), so one is tried unless told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfedit.edits.parse import sentences
from selfedit.memory.contradict import disagreeing
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import Adapters, Request
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.model.peft_folder import CONFIG_FILE
from selfedit.text import language
from selfedit.types import MemoryEntry, Passage, Question, SelfEdit

ADAPTERS = 32
"""Loaded together at most, which bounds the memory for any number of questions."""
NEAR = 3
"""Memories that are looked at for what disagrees with an answer."""
NEARLY = 0.9
"""Of the best memory's score: what others have to reach to be tried beside it."""


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
    tries: int = 1,
    on_token: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """Answers in the questions' order. A question of another kind than `question` is a text that is continued.

    `tries`: so many memories, at most, answer a question that they fit nearly alike."""
    return store.read_consistently(lambda state: _ask(model, store, questions, max_new_tokens, tries, on_token))


def _ask(
    model: Model, store: MemoryStore, questions: Sequence[Question], max_new_tokens: int, tries: int, on_token
) -> list[Answer]:
    router = store.router(model.fingerprint)
    fitting = [_fitting(router, question.question, tries) for question in questions]
    ids = {id for own in fitting for id, _ in own if id}
    entries = {id: store.get(id) for id in ids}
    found: list[list[tuple[float, Answer]]] = [[] for _ in questions]
    for stack, rows in _adapters(model, store, ids):
        own = [
            (i, id, score)
            for i, fit in enumerate(fitting)
            for id, score in fit
            if (id in rows if id else stack is None)
        ]
        prompts = [tuple(model.chat.prompt(questions[i])) for i, _, _ in own]
        said = model.backend.generate(
            [Request(p, rows.get(id), max_new_tokens) for p, (_, id, _) in zip(prompts, own)], stack, on_token=on_token
        )
        certain = (
            _certainties(model, stack, prompts, said, [rows.get(id) for _, id, _ in own])
            if tries > 1
            else [0.0] * len(own)
        )
        for (i, id, score), tokens, certainty in zip(own, said, certain):
            disagrees = _disagreeing(questions[i].question, entries.get(id), router, store)
            found[i].append((certainty, Answer(model.chat.decode(tokens).strip(), entries.get(id), score, disagrees)))
    return [max(own, key=lambda one: one[0])[1] for own in found]


def _fitting(router: Router, question: str, tries: int) -> list[tuple[str | None, float]]:
    """The memory that fits best and those that fit nearly as well, with their scores; None alone if none fits."""
    id, score = router.route(question)
    if id is None or tries < 2:
        return [(id, score)]
    return router.best(question, tries, max(router.threshold, NEARLY * score))


def _certainties(
    model: Model, stack: Adapters | None, prompts, said: Sequence[list[int]], rows: Sequence[int | None]
) -> list[float]:
    """Of each answer: its mean log-probability (nats a token) under the adapter that gave it; of an empty one, the least."""
    scored = [i for i, tokens in enumerate(said) if tokens]
    found = model.backend.gold_logprobs(
        [(TokenizedExample(prompts[i] + tuple(said[i]), len(prompts[i])), rows[i]) for i in scored], stack
    )
    certain = dict(zip(scored, found))
    return [certain.get(i, -math.inf) for i in range(len(said))]


def _disagreeing(question: str, entry: MemoryEntry | None, router: Router, store: MemoryStore) -> tuple[dict, ...]:
    """Where other memories that fit the question say otherwise than this one, of what is asked."""
    fitting = [other for other, _ in router.best(question, NEAR, router.threshold)] if entry else []
    others = [store.get(other) for other in fitting if other != entry.id]
    found = [one for other in others for one in disagreeing(entry.passage, other)]
    return tuple(
        one
        for one in found
        if Router.of_texts({"": f"{one['here']}\n{one['there']}"}, least=0).route(question)[0] is not None
    )


def nearest_example(question: str, edits: Sequence[SelfEdit]) -> tuple[str, str] | None:
    """(style, text) of the studied line that is most like the question: what `--why` shows."""
    lines = {
        f"{i}.{j}": (edit.style, f"{e.prompt} {e.text}".strip())
        for i, edit in enumerate(edits)
        for j, e in enumerate(edit.examples)
    }
    return lines.get(_nearest(question, {key: text for key, (_, text) in lines.items()}))


def nearest_sentence(question: str, passage: Passage) -> str:
    """The passage's sentence that is most like the question, else how the passage begins."""
    numbered = {str(i): sentence for i, sentence in enumerate(sentences(passage.text))}
    return numbered.get(_nearest(question, numbered), passage.text[:200])


def _nearest(question: str, texts: dict[str, str]) -> str | None:
    """Of texts that are about one subject, in one language."""
    return Router.of_texts(texts, 0, language("\n".join(texts.values()))).route(question)[0]


def _adapters(model: Model, store: MemoryStore, ids: set[str]) -> Iterator[tuple[Adapters | None, dict[str, int]]]:
    """The adapters of these memories, in batches of one LoRA configuration, with the row of each memory; first None, for
    the base model."""
    yield None, {}
    paths = {id: store.answering_path(id) for id in sorted(ids)}
    groups: dict[str, list[Path]] = {}
    for path in dict.fromkeys(paths.values()):
        groups.setdefault((path / CONFIG_FILE).read_text(), []).append(path)
    for folders in groups.values():
        for low in range(0, len(folders), ADAPTERS):
            rows = {path: row for row, path in enumerate(folders[low : low + ADAPTERS])}
            yield model.backend.load(list(rows)), {id: rows[path] for id, path in paths.items() if path in rows}
