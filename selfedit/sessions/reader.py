"""What a small model reads in a conversation: linear heads on its hidden states.

Rules of English know the wordings that somebody thought of; people have others ("vault's alive. what i parked with you
in october, the secret one: erase"). The states in the middle of even a small model separate what is meant: a logistic
regression on them, fitted on invented users (`examples/`), reads what was never seen (docs/LOG.md, "The model reads the
turn"). Probes of this kind: Alain and Bengio, *Understanding intermediate layers using linear classifier probes*
(arXiv:1610.01644).

A text is read behind a note ("Earlier: NOTE", "Now: TEXT") or behind none. Its features are the mean state of its
tokens after half of the layers and, behind a note, what the note changes in it. The heads:

    asks      text: asks to forget something
    meant     note, text: the note is what the text asks to forget
    ended     note, text: the note is no longer true after the text
    answers   note, text: the note answers the text, a question
    asserts   text behind the message so far: the user tells it as true
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfedit.errors import ModelError
from selfedit.model.catalog import CATALOG, is_cached
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import Model, Notify, load_model
from selfedit.sessions import matter

READER = "smollm2-135m"
"""Reads for every model without heads of its own. Qwen2.5-Coder-0.5B reads no better (docs/LOG.md)."""
FOLDER = Path(__file__).with_name("heads")
EXAMPLES = Path(__file__).with_name("examples")
MOST_CHARACTERS = 500
"""Of a text that are read."""
MOST_STATES = 20_000
"""That are kept: 46 MB of those of READER."""
MOST_NOTES = 60
"""Behind which one text is read: those that share the most words with it, and the latest."""
PAIRS = ("meant", "ended", "answers")
"""The heads that read a text behind a note."""
DECAY = 3e-5
"""Weight decay of a head, on features of unit variance divided by the square root of their number."""


@dataclass(frozen=True)
class Head:
    """A logistic regression."""

    weights: Tensor
    """[features]"""
    bias: Tensor
    """[]"""

    def __call__(self, features: Tensor) -> list[float]:
        """The probability of each row of [texts, features]."""
        return (features @ self.weights + self.bias).sigmoid().tolist()


@dataclass(frozen=True)
class Reading:
    """What a turn does to the notes."""

    asks: float
    """The probability that it asks to forget something."""
    meant: list[float]
    """For each note: the probability that this is to be forgotten."""
    ended: list[float]
    """For each note: the probability that it is no longer true."""


class Reader:
    """Reads turns with a model and its heads."""

    def __init__(self, model: Model, heads: dict[str, Head]):
        self.model, self.heads = model, heads
        self.layers = max(1, model.backend.num_layers // 2)
        self._states: dict[tuple[str, str], Tensor] = {}
        self._lock = Lock()
        """Threads of a server share the reader."""

    def turn(self, text: str, notes: Sequence[str]) -> Reading:
        chosen = nearest(text, notes)
        alone, behind = self._features(text, [notes[i] for i in chosen])
        meant, ended = (_scattered(self.heads[name](behind), chosen, len(notes)) for name in ("meant", "ended"))
        return Reading(self.heads["asks"](alone)[0], meant, ended)

    def asking(self, texts: Sequence[str]) -> list[float]:
        """For each text, read alone: the probability that it asks to forget something."""
        return self.heads["asks"](self.states([(_opening(), text) for text in texts])) if texts else []

    def answering(self, question: str, notes: Sequence[str]) -> list[float]:
        """For each note: the probability that it answers the question."""
        chosen = nearest(question, notes)
        _, behind = self._features(question, [notes[i] for i in chosen])
        return _scattered(self.heads["answers"](behind), chosen, len(notes))

    def asserting(self, message: str, pieces: Sequence[str]) -> list[float]:
        """For each piece, which stands in the message: the probability that the user tells it as true."""
        return self.heads["asserts"](self.states(list(_in_message(message, pieces)))) if pieces else []

    def _features(self, text: str, notes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Of the text alone [1, hidden], and behind each note [notes, 2 hidden]."""
        states = self.states([(_opening(note), text) for note in ["", *notes]])
        return states[:1], _compared(states[1:], states[:1])

    def states(self, texts: Sequence[tuple[str, str]]) -> Tensor:
        """(what stands before it, text) → the text's mean state, [texts, hidden]; each is read once."""
        with self._lock:
            if unread := [text for text in dict.fromkeys(texts) if text not in self._states]:
                if len(self._states) + len(unread) > MOST_STATES:
                    self._states = {text: self._states[text] for text in {*texts} - {*unread}}
                read = self.model.backend.mean_states([self._example(*text) for text in unread], self.layers)
                self._states |= zip(unread, map(torch.clone, read))  # clones: a row keeps its whole matrix in memory
            return torch.stack([self._states[text] for text in texts])

    def _example(self, before: str, text: str) -> TokenizedExample:
        chat = self.model.chat
        read = chat.continued(before)
        tokens = chat.encode(chat.plain(" " + " ".join(text.split())[:MOST_CHARACTERS]))
        return TokenizedExample((*read, *tokens), len(read))


def reader_of(model: Model, notify: Notify = lambda message: None) -> Reader | None:
    """The model itself where it has heads, else READER. None, so that rules read alone, where READER cannot be fetched
    or the environment says SELFEDIT_READER=rules."""
    if os.environ.get("SELFEDIT_READER") == "rules":
        return None
    if _file(model).exists():
        return Reader(model, _heads(_file(model)))
    if not is_cached(READER):
        notify(f"fetching {READER} ({CATALOG[READER].megabytes} MB, once), which reads conversations")
    shared = _shared_reader()
    if isinstance(shared, ModelError):
        notify(f"conversations are read by rules alone, which understand less: {shared}")
        return None
    return shared


@lru_cache(maxsize=1)
def _shared_reader() -> Reader | ModelError:
    try:
        model = load_model(READER)
    except ModelError as error:
        return error
    return Reader(model, _heads(_file(model)))


def _file(model: Model) -> Path:
    return FOLDER / f"{model.fingerprint[:16]}.safetensors"


@lru_cache(maxsize=4)
def _heads(file: Path) -> dict[str, Head]:
    return {name: Head(tensor[:-1], tensor[-1]) for name, tensor in load_file(file).items()}


def nearest(text: str, notes: Sequence[str]) -> list[int]:
    """The indices of the notes to read a text behind, ascending."""
    if len(notes) <= MOST_NOTES:
        return list(range(len(notes)))
    asked = matter.meanings(text)
    shares = [matter.shared(asked, matter.meanings(note)) for note in notes]
    best = sorted(range(len(notes)), key=lambda i: (shares[i], i), reverse=True)
    latest = [i for i in reversed(range(len(notes))) if i not in best[: MOST_NOTES // 2]]
    return sorted([*best[: MOST_NOTES // 2], *latest[: MOST_NOTES - MOST_NOTES // 2]])


def _scattered(values: Sequence[float], indices: Sequence[int], count: int) -> list[float]:
    """The values at their indices in a list of `count`, 0 elsewhere."""
    given = dict(zip(indices, values))
    return [given.get(i, 0.0) for i in range(count)]


def _opening(note: str = "") -> str:
    return f"Earlier: {note}\nNow:" if note else "Now:"


def _in_message(message: str, pieces: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(the message up to the piece, the piece)."""
    at = 0
    for piece in pieces:
        found = message.find(piece, at)
        at = max(message.find(piece) if found < 0 else found, 0)
        yield f"{_opening()} {message[:at]}"[-MOST_CHARACTERS:].strip(), piece
        at += len(piece)


def _compared(behind: Tensor, alone: Tensor) -> Tensor:
    return torch.cat([behind, behind - alone], 1)


# Fitting


@dataclass(frozen=True)
class _Example:
    """A text that is read for a head, behind a note or, for `asks` and `asserts`, behind none."""

    head: str
    before: str
    text: str
    label: bool


def fit(model: Model) -> dict[str, Head]:
    """The heads of a model, from the examples. Reads about 33,000 short texts."""
    reader, examples = Reader(model, {}), list(_examples())
    texts = {(e.before, e.text) for e in examples} | {(_opening(), e.text) for e in examples}
    order = sorted(texts)
    states = dict(zip(order, reader.states(order)))
    heads = {}
    for name in dict.fromkeys(example.head for example in examples):
        own = [example for example in examples if example.head == name]
        features = torch.stack([states[e.before, e.text] for e in own])
        if name in PAIRS:
            features = _compared(features, torch.stack([states[_opening(), e.text] for e in own]))
        heads[name] = regression(features, torch.tensor([e.label for e in own]))
    return heads


def regression(features: Tensor, labels: Tensor) -> Head:
    """A logistic regression of labels [n] on features [n, d], with weight decay."""
    mean, scale = features.mean(0), (features.std(0) + 1e-5) * features.shape[1] ** 0.5
    x, y = (features - mean) / scale, labels.float()
    weights, bias = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights + bias, y)
        value = value + DECAY * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    folded = weights.detach() / scale
    return Head(folded, bias.detach() - folded @ mean)


def _examples() -> Iterator[_Example]:
    for user in _lines("users.jsonl"):
        notes = [_opening(note) for note in user["notes"]]
        for turn in user["turns"]:
            yield _Example("asks", _opening(), turn["turn"], bool(turn["forgets"]))
            for i, note in enumerate(notes):
                yield _Example("meant", note, turn["turn"], i in turn["forgets"])
                yield _Example("ended", note, turn["turn"], i in turn["replaces"])
        for question in user["questions"]:
            for i, note in enumerate(notes):
                yield _Example("answers", note, question["question"], i == question["note"])
    for line in _lines("messages.jsonl"):
        told = {piece: True for piece in line["asserts"]} | {piece: False for piece in line["not"]}
        pieces = sorted(told, key=line["message"].find)
        for text in dict.fromkeys([line["message"], *pieces]):
            yield _Example("asks", _opening(), text, False)
        for (before, piece), name in zip(_in_message(line["message"], pieces), pieces):
            yield _Example("asserts", before, piece, told[name])


def _lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (EXAMPLES / name).read_text("utf-8").splitlines()]


def save(heads: dict[str, Head], model: Model) -> Path:
    FOLDER.mkdir(exist_ok=True)
    file = _file(model)
    save_file({name: torch.cat([head.weights, head.bias[None]]).float() for name, head in heads.items()}, file)
    return file
