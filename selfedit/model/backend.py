"""What the rest of the code needs of a language model: eight operations, and the records that go in and out.

    generate        requests → the new tokens of each
    decoding        a running batch: requests join and leave, each step writes one more token of each
    gold_logprobs   tokenized examples → the mean log-probability of each one's labels
    mean_states     tokenized examples → the mean hidden state of each one's labels in the middle of the network
    divergences     tokenized examples → how far each adapter moves the model on them
    train           jobs → one trained LoRA adapter per job
    save, load      adapters ↔ folders in PEFT's format
    fingerprint     identifies the weights

Every operation takes N adapters at once (`Adapters`) and says by a row number which adapter a request or an example
uses; `None` stands for the base model without an adapter. Implementations: `packed` trains and decodes all adapters
together on packed tokens, for decoder models of the Llama family; `reference` runs `transformers` and `peft`, one
adapter at a time, for every causal model that `transformers` loads. The tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selfedit.config import TrainConfig
from selfedit.errors import ModelError
from selfedit.model.chat import TokenizedExample

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

BACKENDS = ("packed", "reference")

OnStep = Callable[[int, int], None]
"""(done, total), called as work goes on."""


def no_steps(done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class LoraConfig:
    """What all adapters of one `Adapters` have in common."""

    rank: int
    alpha: float
    modules: tuple[str, ...]
    """Names of the adapted linear modules, e.g. `q_proj`."""
    layers: tuple[int, ...]
    """Indices of the adapted layers, ascending."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def lora_config(num_layers: int, config: TrainConfig) -> LoraConfig:
    """The adapters that a TrainConfig asks for in a model of so many layers; at least the last layer is adapted."""
    first = min(num_layers - 1, round(config.first_layer * num_layers))
    return LoraConfig(config.rank, config.alpha, config.modules, tuple(range(first, num_layers)))


def check_lengths(lengths: Iterable[int], max_positions: int) -> None:
    """Raises ModelError if a text has more tokens than the model has positions."""
    if (longest := max(lengths, default=0)) > max_positions:
        raise ModelError(f"a text of {longest} tokens does not fit the model's {max_positions} positions; split it")


@dataclass(frozen=True)
class Request:
    """A prompt to continue."""

    tokens: tuple[int, ...]
    adapter: int | None = None
    """Row of the adapters; None: the base model."""
    max_new_tokens: int = 64
    temperature: float = 0.0
    """0: greedy."""
    top_p: float = 0.95
    top_k: int = 50
    seed: int = 0
    stop: Callable[[str], bool] | None = None
    """The text so far → whether it ends there; asked at a line break and at the token behind it."""
    allow: Callable[[Sequence[int]], Sequence[int] | np.ndarray] | None = None
    """A grammar: the tokens so far → those that may follow, at least one; an end token where it may end."""
    adapter_from: int = 0
    """So many of the first tokens are read by the base model; the adapter acts on the others, and on what is
    written."""
    draft: tuple[int, ...] = ()
    """A guess of what will be written. As far as it is right it is read at once, in place of one step for each token;
    up to rounding it does not change what is written (speculative decoding, Leviathan et al. 2023). For greedy
    requests."""

    @property
    def read_by_base(self) -> int:
        """How many of the first tokens the base model reads."""
        return len(self.tokens) if self.adapter is None else min(self.adapter_from, len(self.tokens))

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and of the longest text that may follow it."""
        return len(self.tokens) + self.max_new_tokens


def has_line(text: str) -> bool:
    """For `Request.stop`: the first line that has text is whole."""
    return "\n" in text.lstrip()


def check_requests(requests: Iterable[Request], max_positions: int) -> None:
    """Raises ModelError if a prompt has no tokens, or has more with its text than the model has positions."""
    for request in requests:
        if not request.tokens:
            raise ModelError("a prompt has no tokens; give at least one")
        check_lengths([request.most_tokens], max_positions)


@dataclass(frozen=True)
class Job:
    """What one adapter studies. A `None` takes the TrainConfig's value."""

    examples: tuple[TokenizedExample, ...]
    """Studied in every epoch."""
    seed: int = 0
    learning_rate: float | None = None
    epochs: int | None = None
    once: tuple[TokenizedExample, ...] = ()
    """Each studied in one epoch only: the first of them in the first epoch."""

    def studied_in(self, epoch: int, epochs: int) -> tuple[TokenizedExample, ...]:
        """The examples of one of `epochs` epochs, counted from 0."""
        low, high = (len(self.once) * e // epochs for e in (epoch, epoch + 1))
        return self.examples + self.once[low:high]


@dataclass
class TrainLog:
    losses: list[float] = field(default_factory=list)
    """Mean loss (nats per label) of each epoch, measured while training."""
    largest: list[float] = field(default_factory=list)
    """The largest loss of a label in each epoch; may be 0 where training does not stop at a loss."""
    tokens: int = 0
    """Tokens trained on, all epochs together."""
    rows: int = 0
    """Rows that the network computed for them: fewer where a batch shares a chat header."""
    steps: int = 0


@dataclass(frozen=True)
class Cut:
    """Stops some adapters early: once every adapter has finished so many epochs, `losers(adapters)` names the rows that
    stop there."""

    epochs: int
    losers: Callable[[Any], Sequence[int]]


class Adapters(Protocol):
    """N adapters of one configuration, as a backend holds them."""

    config: LoraConfig
    count: int

    def subset(self, rows: Sequence[int]) -> Adapters:
        """Copies of these adapters."""

    def put(self, row: int, other: Adapters, other_row: int) -> None:
        """Copies an adapter of others of the same configuration into a row."""

    def as_stored(self) -> Adapters:
        """Copies of these adapters as they are read back from a small folder, so that what is tested is what is
        kept."""


class Decoding(Protocol):
    """A batch that requests can join and leave while it runs. One thread drives it: no method is thread-safe."""

    @property
    def running(self) -> int:
        """Requests that have not ended, including those that have not begun."""

    def add(self, requests: Sequence[tuple[Request, Path | None]]) -> list[int]:
        """Lets requests join; returns a key for each. The path is the verified PEFT folder whose adapter acts on the
        request, None for the base model; `Request.adapter` is ignored. A folder is read once, and its contents must
        never change. Requests begin in the order of their arrival, and wait while the memory of the batch is full or
        while it runs adapters of another LoraConfig. Requests that are added together share the reading of common
        prompt beginnings. Raises ModelError on a prompt that does not fit and AdapterError on a folder that does not
        fit; nothing joins then."""

    def step(self) -> list[tuple[int, int | None]]:
        """Writes one more token of every request that runs, and the first one of those that begin, after what is right
        of its draft: (key, token) in the order of the keys, and (key, None) once when a request has ended. Empty if no
        request is left."""

    def cancel(self, key: int) -> None:
        """Removes a request, of which nothing more is written; a key whose request has ended changes nothing."""


class Backend(Protocol):
    name: str
    """One of BACKENDS."""
    fingerprint: str
    """Hexadecimal; equal for equal weights, wherever they are stored. Adapters are bound to it."""
    precision: str
    """`fp32`, `mixed` (large products of training in bf16), or the name of another dtype."""
    num_layers: int
    hidden_size: int
    """The width of the states between the layers."""
    max_positions: int
    """Tokens that the model can read at once."""

    @property
    def low_precision(self) -> Backend:
        """A view of this backend that also generates and scores in bf16, where the processor is faster in it."""

    def generate(
        self, requests: Sequence[Request], adapters: Adapters | None = None, *, on_token: OnStep = no_steps
    ) -> list[list[int]]:
        """The new tokens of each request, without the end token. `on_token(done, total)`: tokens written, of at most
        `total`. Raises ModelError if a prompt and its answer are longer than `max_positions`."""

    def decoding(self, slots: int = 64) -> Decoding:
        """An empty batch of at most `slots` requests at a time; each text is the one that `generate` writes."""

    def gold_logprobs(
        self,
        examples: Sequence[tuple[TokenizedExample, int | None]],
        adapters: Adapters | None = None,
        *,
        vocabulary: Iterable[int] | None = None,
    ) -> list[float]:
        """Mean log-probability (nats per label, at most 0) of each example's labels under its adapter. `vocabulary`:
        the tokens that compete for a label, if not all of them. Raises ModelError on an example that is too long."""

    def greedy_labels(self, examples: Sequence[tuple[TokenizedExample, int]], adapters: Adapters) -> list[int]:
        """How many of each example's labels, from the first one on, are the likeliest tokens under its adapter: so far
        the example is what that would write. Raises ModelError on an example that is too long."""

    def mean_states(self, examples: Sequence[TokenizedExample], layers: int) -> Tensor:
        """The base model's mean fp32 state of all tokens from the first label on, behind the first `layers` layers,
        [examples, hidden], on the CPU. Raises ModelError on an example that is too long."""

    def divergences(self, examples: Sequence[TokenizedExample], adapters: Adapters) -> list[float]:
        """Mean KL(base ‖ adapted) over the labels of the examples, in nats per label, of each adapter."""

    def train(
        self,
        jobs: Sequence[Job],
        config: TrainConfig,
        *,
        start: Adapters | None = None,
        cut: Cut | None = None,
        vocabulary: Iterable[int] | None = None,
        on_step: OnStep = no_steps,
    ) -> tuple[Adapters, list[TrainLog]]:
        """Trains one adapter per job; each ends up where it would if it were trained alone.

        `start`: adapters to go on from (one per job, changed in place) instead of fresh ones. `vocabulary`: as in
        `gold_logprobs`. `on_step(done, total)`: examples studied, over all jobs and epochs. Examples with
        a teacher learn from the base model's distribution behind its prompt. Raises ModelError on an
        example that is too long."""

    def save(self, adapters: Adapters, row: int, folder: Path, base_model: str, *, small: bool = False) -> None:
        """Writes one adapter as a PEFT folder. `base_model`: the model's name, for the folder's record. `small`: in
        four bits, which PEFT itself does not read (`peft_folder.export_adapter`)."""

    def load(self, folders: Sequence[Path]) -> Adapters:
        """PEFT folders of one configuration, in their order. Raises AdapterError on a folder that does not fit."""
