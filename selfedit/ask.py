"""Questions → answers: the memory that fits each question is found, and answers in one of three ways (ARMS).

    weights   the adapter of the memory answers, and the document is not in the prompt
    text      the untouched model answers with the memory's passage in the prompt
    both      the adapter answers with the passage in the prompt

Where no memory fits, the base model answers. Where several fit nearly as well, each may answer in the same batch, and
the answer that its model gives the highest probability is taken. On facts this gains next to nothing, and among
memories that do not fit it does harm (docs/LOG.md, study 14), so one memory answers by default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfedit.edits.parse import sentences
from selfedit.edits.quiz import with_passage
from selfedit.errors import ModelError
from selfedit.memory.contradict import disagreeing
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import Adapters, OnStep, Request, no_steps
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model
from selfedit.model.peft_folder import CONFIG_FILE
from selfedit.text import language, words
from selfedit.types import MemoryEntry, Passage, Question, SelfEdit

ANSWER_TOKENS = 64
"""Longest answer; a memory answers with a whole statement."""
ADAPTERS = 32
"""Loaded together at most, which bounds the memory for any number of questions."""
COMPARED = 3
"""Memories that are searched for a sentence that contradicts an answer."""
NEARLY_AS_GOOD = 0.9
"""Share of the best memory's score that another memory must reach to be tried as well."""
ARMS = ("weights", "text", "both")
"""The ways to answer with a memory; without one, the untouched model answers closed book."""


@dataclass(frozen=True)
class Answer:
    answer: str
    memory: MemoryEntry | None
    """None: the base model answered."""
    score: float
    """How well the memory fits the question, in [0, 1) (`Router.route`)."""
    disagrees: tuple[dict, ...] = ()
    """Other sources that contradict this one about the question: `memory`, `source`, the sentences `here` and
    `there`."""
    error: str = ""
    """Why there is no answer."""

    def record(self) -> dict:
        record = {
            "answer": self.answer,
            "memory": self.memory.id if self.memory else None,
            "source": self.memory.passage.source if self.memory else None,
        }
        disagrees = {"disagrees": list(self.disagrees)} if self.disagrees else {}
        return record | disagrees | ({"error": self.error} if self.error else {})


@dataclass(frozen=True)
class _Attempt:
    """A question that one memory, or the base model, is to answer."""

    question: int
    """Index of the question."""
    memory: str | None
    """The memory that fits; None if none does."""
    score: float
    tokens: tuple[int, ...]
    """The prompt."""
    adapter: str | None
    """The memory whose adapter answers; None: the untouched model."""


def ask(
    model: Model,
    store: MemoryStore,
    questions: Sequence[Question],
    *,
    arm: str = "weights",
    max_new_tokens: int = ANSWER_TOKENS,
    tries: int = 1,
    on_token: OnStep = no_steps,
) -> list[Answer]:
    """Answers in the order of the questions. A question whose kind is not `question` is a text to be continued.

    `arm`: one of ARMS. `tries`: the number of memories that answer a question at most, if they fit nearly equally well.
    A question that is too long for the model gets an error in place of an answer; raises ModelError if all are."""
    assert arm in ARMS
    return store.read_consistently(lambda state: _ask(model, store, questions, arm, max_new_tokens, tries, on_token))


def _ask(
    model: Model,
    store: MemoryStore,
    questions: Sequence[Question],
    arm: str,
    max_new_tokens: int,
    tries: int,
    on_token: OnStep,
) -> list[Answer]:
    router = store.router(model.fingerprint)
    entries: dict[str | None, MemoryEntry] = {}
    attempts, errors = [], {}
    for i, question in enumerate(questions):
        try:
            closed_book = _prompt(model, question, max_new_tokens)
        except ModelError as error:
            errors[i] = error
            continue
        for id, score in _fitting(router, question.question, tries):
            if id is not None and id not in entries:
                entries[id] = store.get(id)
            try:
                in_view = id is not None and arm != "weights"
                tokens = _prompt_in_view(model, entries[id], question, max_new_tokens) if in_view else closed_book
            except ModelError as error:
                errors[i] = error
            else:
                attempts.append(_Attempt(i, id, score, tokens, None if arm == "text" else id))
    if errors and not attempts:
        raise next(iter(errors.values()))
    candidates: list[list[tuple[float, Answer]]] = [[] for _ in questions]
    for adapters, rows in _adapters(model, store, {a.adapter for a in attempts if a.adapter}):
        batch = [a for a in attempts if (a.adapter is None if adapters is None else a.adapter in rows)]
        requests = [Request(a.tokens, rows.get(a.adapter), max_new_tokens) for a in batch]
        texts = model.backend.generate(requests, adapters, on_token=on_token)
        certainties = _certainties(model, adapters, requests, texts) if tries > 1 else [0.0] * len(batch)
        for attempt, tokens, certainty in zip(batch, texts, certainties):
            entry = entries.get(attempt.memory)
            disagrees = _disagreeing(questions[attempt.question].question, entry, router, store)
            answer = Answer(model.chat.decode(tokens).strip(), entry, attempt.score, disagrees)
            candidates[attempt.question].append((certainty, answer))
    return [
        max(given, key=lambda pair: pair[0])[1] if given else Answer("", None, 0.0, error=str(errors[i]))
        for i, given in enumerate(candidates)
    ]


def _prompt(model: Model, question: Question, max_new_tokens: int) -> tuple[int, ...]:
    """The tokens of a question. Raises ModelError if the model cannot read it."""
    tokens, limit = tuple(model.chat.prompt(question)), model.backend.max_positions
    if len(tokens) + max_new_tokens > limit:
        raise ModelError(
            f"a question of {len(tokens)} tokens and an answer of {max_new_tokens} do not fit the model's "
            f"{limit} positions; shorten it"
        )
    return tokens


def _prompt_in_view(model: Model, entry: MemoryEntry, question: Question, max_new_tokens: int) -> tuple[int, ...]:
    """The tokens of a question with the passage of a memory before it. Raises ModelError if the model cannot read it,
    although it can read the question."""
    try:
        return _prompt(model, with_passage(entry.passage, question), max_new_tokens)
    except ModelError:
        raise ModelError(
            f"the passage of memory {entry.id} and an answer of {max_new_tokens} tokens do not fit the model's "
            f"{model.backend.max_positions} positions; answer from the weights"
        ) from None


def _fitting(router: Router, question: str, tries: int) -> list[tuple[str | None, float]]:
    """The memory that fits best and those that fit nearly as well, with their scores; only None if no memory fits."""
    id, score = router.route(question)
    if id is None or tries < 2:
        return [(id, score)]
    return [(other, fit) for other, fit in router.ranked(question) if fit >= NEARLY_AS_GOOD * score][:tries]


def _certainties(
    model: Model, adapters: Adapters | None, requests: Sequence[Request], texts: Sequence[list[int]]
) -> list[float]:
    """The mean log-probability of each text (nats per token) under the adapter that wrote it; −inf for an empty
    text."""
    written = [i for i, tokens in enumerate(texts) if tokens]
    examples = [TokenizedExample(requests[i].tokens + tuple(texts[i]), len(requests[i].tokens)) for i in written]
    logprobs = model.backend.gold_logprobs(list(zip(examples, (requests[i].adapter for i in written))), adapters)
    known = dict(zip(written, logprobs))
    return [known.get(i, -math.inf) for i in range(len(texts))]


def _disagreeing(question: str, entry: MemoryEntry | None, router: Router, store: MemoryStore) -> tuple[dict, ...]:
    """Contradictions between the answering memory and other memories that fit the question, about what it asks."""
    fitting = [id for id, _ in router.best(question, COMPARED, router.threshold)] if entry else []
    others = [store.get(id) for id in fitting if id != entry.id]
    records = [record for other in others for record in disagreeing(entry.passage, other)]
    return tuple(r for r in records if _nearest(question, {"": f"{r['here']}\n{r['there']}"}) is not None)


def nearest_example(question: str, edits: Sequence[SelfEdit], title: str) -> tuple[str, str] | None:
    """(style, text) of the studied line that resembles the question most; None if no line does. Shown by `--why`."""
    lines = {
        f"{i}.{j}": (edit.style, f"{e.prompt} {e.text}".strip())
        for i, edit in enumerate(edits)
        for j, e in enumerate(edit.examples)
    }
    return lines.get(_nearest_beyond(title, question, {key: text for key, (_, text) in lines.items()}))


def nearest_sentence(question: str, passage: Passage) -> str:
    """The sentence of the passage that resembles the question most, else the beginning of the passage."""
    numbered = {str(i): sentence for i, sentence in enumerate(sentences(passage.text))}
    return numbered.get(_nearest_beyond(passage.title, question, numbered), passage.text[:200])


def _nearest_beyond(title: str, question: str, texts: dict[str, str]) -> str | None:
    """As `_nearest`, by the words that are not in the title, which many of the texts have; else by all words."""
    known = "|".join(map(re.escape, words(title)))
    return _nearest(re.sub(rf"\b(?:{known})\b", " ", question, flags=re.IGNORECASE), texts) or _nearest(question, texts)


def _nearest(question: str, texts: dict[str, str]) -> str | None:
    """The key of the text that resembles the question most; None if no text does. The texts are about one subject, in
    one language."""
    return Router.of_texts(texts, 0, language("\n".join(texts.values()))).route(question)[0]


def _adapters(model: Model, store: MemoryStore, ids: set[str]) -> Iterator[tuple[Adapters | None, dict[str, int]]]:
    """The adapters of these memories, in batches of one LoRA configuration, with the row of each memory; first None,
    for the base model."""
    yield None, {}
    paths = {id: store.answering_path(id) for id in sorted(ids)}
    groups: dict[str, list[Path]] = {}
    for path in dict.fromkeys(paths.values()):
        groups.setdefault((path / CONFIG_FILE).read_text(), []).append(path)
    for folders in groups.values():
        for low in range(0, len(folders), ADAPTERS):
            rows = {path: row for row, path in enumerate(folders[low : low + ADAPTERS])}
            yield model.backend.load(list(rows)), {id: rows[path] for id, path in paths.items() if path in rows}
