"""The records that pass between stages: document → Passage → SelfEdit → Example → adapter → Score → Trial →
MemoryEntry.

Values only, without torch: every module may import this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple


def text_hash(*parts: str) -> str:
    """SHA-256 of the parts, in hex. Moving a boundary between two parts changes the hash."""
    digest = sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def as_utf8(text: str) -> str:
    """The text with "?" for each half of a surrogate pair, which a file name that is not UTF-8 contains."""
    return text.encode(errors="replace").decode()


def stable_seed(*parts: object) -> int:
    """A seed in [0, 2**63) that depends only on the parts and is the same in every process and on every machine."""
    return int(text_hash(*map(str, parts))[:16], 16) >> 1


Progress = Callable[[str, int, int], None]
"""(stage, done, total), called as work goes on."""


def no_progress(stage: str, done: int, total: int) -> None:
    pass


TITLE_SEPARATOR = " › "
"""Between the title of a document and the headings in the title of a passage."""


class Unit(NamedTuple):
    """The smallest part of a document that states something."""

    kind: str
    """`sentence`, `item` of a list, `row` of a table, `code`, or `field` of a document's header."""
    text: str
    """Readable alone: a row has its column headings, code the sentence that introduces it."""
    headings: tuple[str, ...] = ()
    """The headings above it, the outermost first, without the title of the document."""


@dataclass(frozen=True)
class Passage:
    """A part of a document that is small enough to be learned at once."""

    title: str
    """The title of the document, or its file name; may be empty."""
    text: str
    source: str
    """The absolute path or the URL that it was read from."""
    source_hash: str
    """SHA-256 of the whole document's text, in hex."""
    index: int = 0
    """Position among the passages of its document, from 0."""
    units: tuple[Unit, ...] = field(default=(), compare=False, repr=False)
    """What its text states, in order; stored with a memory only if it is about a library."""
    library: str = ""
    """The library and its versions that the text describes, as `libraries.Library` writes them; empty: anything."""

    @property
    def id(self) -> str:
        """A hash of title, text and library without the source: a moved file has the same passages."""
        return text_hash(self.title, self.text, *filter(None, [self.library]))[:16]

    @property
    def words_id(self) -> str:
        """A hash of the words alone, without the title, line breaks and spaces."""
        return text_hash(" ".join(self.text.split()))[:16]

    @property
    def request(self) -> str:
        """What a model is asked for that learned to recite the passage. The part tells passages under one heading
        apart, for an adapter of several."""
        about = f"“{self.title}”" if self.title else "the text"
        return f"What does {about} say, part {self.index + 1}?"

    def with_request(self, request: str) -> str:
        """The request, with the passage before it."""
        return f"{self.title}\n\n{self.text}\n\n{request}".strip()


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclass(frozen=True)
class Question:
    question: str
    answers: tuple[str, ...]
    """Every accepted gold answer; the first is the canonical one."""
    kind: str = "question"
    """`question` is asked in chat form. Any other kind, e.g. that of a cloze probe, is a text to be continued."""
    sentence: str = ""
    """The answer as a whole sentence if it is known; a model that has studied the passage often gives it."""


Judge = Callable[[Sequence[tuple[Question, str]]], list[bool | None]]
"""(question, answer) pairs → one verdict per pair. None means unscored, which is not wrong."""


@dataclass(frozen=True)
class Task:
    """A passage and the questions that show whether it was learned."""

    passage: Passage
    questions: tuple[Question, ...]
    id: str = ""
    """Its name in its file; may be empty."""
    edits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Study material from other writers: "writer/style" → texts."""

    @property
    def key(self) -> str:
        """A hash of the passage, the questions and the gold answers."""
        questions = [text for q in self.questions for text in (q.kind, q.question, str(len(q.answers)), *q.answers)]
        return text_hash(self.passage.id, *questions)[:16]


@dataclass(frozen=True)
class Example:
    """One text to study or, with a prompt, an answer in the chat form in which questions are asked."""

    text: str
    prompt: str = ""
    once: bool = False
    """Whether it is studied in one epoch only, because other epochs have another draw of the same."""
    opening: str = ""
    """The beginning of an answer that is given, as the first lines of a function; the text goes on from it."""


@dataclass(frozen=True)
class SelfEdit:
    """Study material that a model wrote about a passage."""

    style: str
    text: str
    """As written. Training uses the examples that `edits.parse` makes of it."""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Score:
    """How well questions were answered. None in a field means unscored, which is not zero."""

    accuracy: float | None
    """Share of questions answered correctly, in [0, 1]."""
    gold_logprob: float | None
    """Mean over the questions of the gold answer's mean log-probability in nats per token, bare or as a sentence; of
    what recites, that of the whole passage as the answer to the request for it. At most 0."""
    correct: tuple[bool | None, ...] = ()
    """One verdict per question, in order; None means unscored."""
    logprobs: tuple[float, ...] = ()
    """One log-probability of the gold answer per question, in order; empty where the passage is the answer."""

    @property
    def n(self) -> int:
        return len(self.correct)

    @property
    def right(self) -> int:
        """Questions answered correctly."""
        return sum(map(bool, self.correct))


@dataclass(frozen=True)
class Trial:
    """One candidate for a memory: what was studied and what that changed."""

    name: str
    """The styles that were studied, or `passage` for the passage alone."""
    edits: tuple[SelfEdit, ...]
    score: Score
    general_change: float | None
    """How much the behaviour on general prompts changed: mean KL(untouched ‖ adapted) in nats per token."""
    tokens: int
    """Tokens trained on, over all epochs."""
    seconds: float
    general_lost: float | None = None
    """Share of everyday sentences that the untouched model completes correctly, minus the share of this one; below 0 if
    this one completes more."""
    recited: Passage | None = None
    """What its adapter recites, where it learned to."""
    share_recited: float | None = None
    """The share of the passage's words that it recites (`edits.recitation`)."""
    kept: bool = False
    reason: str = ""
    """Why it was kept or dropped, for people."""


@dataclass(frozen=True)
class MemoryEntry:
    """A kept memory on disk: a folder and a hash, or only the text of its passage."""

    id: str
    model: str
    """The name of the model that it belongs to."""
    model_hash: str
    """The fingerprint of that model's weights; the adapter is useless for others."""
    adapter_hash: str
    """SHA-256 of adapter_model.safetensors; empty where nothing was learned and the text alone answers."""
    created: str
    """UTC, ISO 8601."""
    size_bytes: int
    passage: Passage
    scores: dict = field(default_factory=dict)

    @property
    def has_adapter(self) -> bool:
        return bool(self.adapter_hash)

    @property
    def recites(self) -> bool:
        """Whether its own adapter learned to recite the passage; questions are then answered from what it recites."""
        return "share_recited" in self.scores

    def record(self) -> dict:
        """What a list of memories shows, for programs."""
        scores = self.scores
        return {
            "id": self.id,
            "title": self.passage.title,
            "source": self.passage.source,
            "source_hash": self.passage.source_hash,
            "library": self.passage.library or None,
            "model": self.model,
            "adapter_hash": self.adapter_hash,
            "created": self.created,
            "size_bytes": self.size_bytes,
            "accuracy_before": scores.get("before", {}).get("accuracy"),
            "accuracy_after": scores.get("after", {}).get("accuracy"),
            "questions": len(scores.get("questions", [])),
            "share_recited": scores.get("share_recited"),
            "general_change": scores.get("general_change"),
        }

    def details(self, edits: Sequence[SelfEdit]) -> dict:
        """`record` with the passage, all that was studied, and the scores."""
        studied = [{"style": e.style, "prompt": x.prompt, "text": x.text} for e in edits for x in e.examples]
        return self.record() | {"passage": self.passage.text, "studied": studied, "scores": self.scores}

    @property
    def questions(self) -> tuple[Question, ...]:
        """The judging questions; the memory was kept because of its answers to them."""
        return tuple(Question(**q | {"answers": tuple(q["answers"])}) for q in self.scores.get("questions", ()))

    @property
    def right_when_kept(self) -> int:
        """Judging questions that it answered correctly when it was kept."""
        return sum(map(bool, self.scores.get("after", {}).get("correct", ())))
