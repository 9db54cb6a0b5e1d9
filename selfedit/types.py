"""The records that flow: document → Passage → SelfEdit → Example → adapter → Score → Trial → MemoryEntry.

Values only, no machinery and no torch: any room may import this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256


def text_hash(*parts: str) -> str:
    """SHA-256 of the parts, in hex; a boundary between parts cannot be moved without changing it."""
    digest = sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def as_utf8(text: str) -> str:
    """The text as it can be written: "?" for half a surrogate pair, as a name that is not UTF-8 has it."""
    return text.encode(errors="replace").decode()


def stable_seed(*parts: object) -> int:
    """A seed in [0, 2**63) that depends on the parts alone, the same in every process and on every machine."""
    return int(text_hash(*map(str, parts))[:16], 16) >> 1


Progress = Callable[[str, int, int], None]
"""(stage, done, total), called as work goes on."""


def no_progress(stage: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Passage:
    """A piece of a document, small enough to be learned in one go."""

    title: str
    """What the document calls itself, or its file name; may be empty."""
    text: str
    source: str
    """Whole path, or URL, it was read from."""
    source_hash: str
    """SHA-256 of the whole document's text, in hex."""
    index: int = 0
    """Position among the passages of its document, from 0."""

    @property
    def id(self) -> str:
        """What it says, not where it lay: a moved file is the same passage."""
        return text_hash(self.title, self.text)[:16]

    @property
    def words_id(self) -> str:
        """What it says, whatever its title, line breaks and spaces."""
        return text_hash(" ".join(self.text.split()))[:16]

    def with_request(self, request: str) -> str:
        """The request with the passage before it."""
        return f"{self.title}\n\n{self.text}\n\n{request}".strip()


@dataclass(frozen=True)
class Question:
    question: str
    answers: tuple[str, ...]
    """Every accepted gold answer; the first is the canonical one."""
    kind: str = "question"
    """`question`: asked in chat form. Any other kind is a text to be continued, e.g. a cloze probe's kind."""
    sentence: str = ""
    """The answer as a whole sentence, where it is known: what a model that has studied the passage may well say."""


Judge = Callable[[Sequence[tuple[Question, str]]], list[bool | None]]
"""(question, what was said) pairs → a verdict each; None: unscored, which is not wrong."""


@dataclass(frozen=True)
class Task:
    """A passage and the questions that tell whether it was learned."""

    passage: Passage
    questions: tuple[Question, ...]
    id: str = ""
    """What its file calls it; may be empty."""
    edits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Study material that others wrote about it: "writer/style" → texts."""

    @property
    def key(self) -> str:
        """What it says and asks: with another question, or another right answer, it is another task."""
        asked = [text for q in self.questions for text in (q.kind, q.question, str(len(q.answers)), *q.answers)]
        return text_hash(self.passage.id, *asked)[:16]


@dataclass(frozen=True)
class Example:
    """One thing to study: a text, or (with a prompt) an answer in the chat form in which questions are asked."""

    text: str
    prompt: str = ""
    once: bool = False
    """One of many draws of the same: studied in one epoch, not in each."""


@dataclass(frozen=True)
class SelfEdit:
    """Study material that a model wrote about a passage."""

    style: str
    text: str
    """As written; what is trained on are its examples (`edits.parse`)."""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Score:
    """How well questions were answered. `None` in a field means unscored, which is not zero."""

    accuracy: float | None
    """Share of questions answered correctly, in [0, 1]."""
    gold_logprob: float | None
    """Mean over questions of the mean log-probability (nats a token) of the gold answer, bare or as a sentence; at most 0."""
    correct: tuple[bool | None, ...] = ()
    """A verdict a question, in their order; None: unscored."""
    logprobs: tuple[float, ...] = ()
    """The dense score a question, in their order."""

    @property
    def n(self) -> int:
        return len(self.logprobs)


@dataclass(frozen=True)
class Trial:
    """One candidate: what was studied, and what it did."""

    name: str
    """The styles studied, or `passage` for the passage alone."""
    edits: tuple[SelfEdit, ...]
    score: Score
    general_change: float | None
    """How far behaviour moved on general prompts: mean KL(untouched ‖ adapted), nats a token."""
    tokens: int
    """Tokens trained on, all epochs together."""
    seconds: float
    general_lost: float | None = None
    """Share of everyday sentences that the untouched model ends right, less this one's; below 0: it ends more of them right."""
    kept: bool = False
    reason: str = ""
    """Why it was kept or dropped, in words."""


@dataclass(frozen=True)
class MemoryEntry:
    """A kept memory as it lies on disk: a folder and a hash."""

    id: str
    model: str
    """Name of the model it belongs to."""
    model_hash: str
    """Fingerprint of that model's weights; an adapter is worthless on any other."""
    adapter_hash: str
    """SHA-256 of adapter_model.safetensors."""
    created: str
    """UTC, ISO 8601."""
    size_bytes: int
    passage: Passage
    scores: dict = field(default_factory=dict)

    @property
    def questions(self) -> tuple[Question, ...]:
        """Judging questions: it was kept for what it did on them."""
        return tuple(Question(**q | {"answers": tuple(q["answers"])}) for q in self.scores.get("questions", ()))
