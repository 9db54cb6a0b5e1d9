"""The fast backend: all adapters together on packed tokens, for decoder models of the Llama family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from selfedit.config import TrainConfig
from selfedit.model.backend import Cut, Job, OnStep, Request, TrainLog, no_steps
from selfedit.model.chat import Chat, TokenizedExample
from selfedit.model.packed import generate, hidden, lora, score, train
from selfedit.model.packed.decoding import PackedDecoding
from selfedit.model.packed.lora import LoraBatch
from selfedit.model.packed.network import Network
from selfedit.model.peft_folder import WEIGHTS_FILE

RECENT_ADAPTERS = 32
"""Adapters that stay in memory after they were loaded: whoever asks again needs no file."""


class PackedBackend:
    name = "packed"

    def __init__(self, network: Network, chat: Chat, fingerprint: str):
        self.network, self.chat, self.fingerprint = network, chat, fingerprint
        self.shape, self.device, self.dtype = network.shape, network.device, network.dtype
        self.num_layers, self.max_positions = network.shape.layers, network.shape.max_positions
        self.hidden_size = network.shape.hidden
        self._recent = lru_cache(RECENT_ADAPTERS)(self._load_one)

    @property
    def precision(self) -> str:
        return self.network.precision

    @property
    def low_precision(self) -> PackedBackend:
        return self._with_network(self.network.in_bf16)

    def generate(
        self,
        requests: Sequence[Request],
        adapters: LoraBatch | None = None,
        *,
        rows: int = 64,
        on_token: OnStep = no_steps,
    ) -> list[list[int]]:
        """`rows`: requests that are decoded together at most."""
        return generate.generate(self.network, self.chat, requests, adapters, rows=rows, on_token=on_token)

    def decoding(self, slots: int = 64) -> PackedDecoding:
        return PackedDecoding(self.network, self.chat, slots)

    def gold_logprobs(
        self,
        examples: Sequence[tuple[TokenizedExample, int | None]],
        adapters: LoraBatch | None = None,
        *,
        vocabulary: Iterable[int] | None = None,
    ) -> list[float]:
        return score.gold_logprobs(self.network, examples, adapters, vocabulary=vocabulary)

    def greedy_labels(self, examples: Sequence[tuple[TokenizedExample, int]], adapters: LoraBatch) -> list[int]:
        return score.greedy_labels(self.network, examples, adapters)

    def mean_states(self, examples: Sequence[TokenizedExample], layers: int) -> Tensor:
        return hidden.mean_states(self.network, examples, layers)

    def divergences(self, examples: Sequence[TokenizedExample], adapters: LoraBatch) -> list[float]:
        return score.divergences(self.network, examples, adapters)

    def train(
        self,
        jobs: Sequence[Job],
        config: TrainConfig,
        *,
        start: LoraBatch | None = None,
        cut: Cut | None = None,
        vocabulary: Iterable[int] | None = None,
        on_step: OnStep = no_steps,
    ) -> tuple[LoraBatch, list[TrainLog]]:
        return train.train(self.network, jobs, config, start=start, cut=cut, vocabulary=vocabulary, on_step=on_step)

    def save(self, adapters: LoraBatch, row: int, folder: Path, base_model: str, *, small: bool = False) -> None:
        adapters.save(row, folder, base_model, small=small)

    def load(self, folders: Sequence[Path]) -> LoraBatch:
        loaded = [self._recent(folder, *_identity(folder)) for folder in folders]
        return lora.joined(loaded)

    def _load_one(self, folder: Path, *identity: int) -> LoraBatch:
        return lora.load_adapter(self.network, folder)

    # What benchmarks need beyond the protocol

    def merged(self, adapters: LoraBatch, row: int) -> PackedBackend:
        """A backend whose weights have one adapter added."""
        return self._with_network(lora.merged(self.network, adapters, row))

    def with_weights(self, weights: dict[str, Tensor]) -> PackedBackend:
        """A backend of the same shape with other weights, given under their Hugging Face names."""
        return self._with_network(Network(self.shape, weights))

    def divergence_of(self, other: PackedBackend, examples: Sequence[TokenizedExample]) -> float:
        """Mean KL(this ‖ other) over the labels of the examples, in nats per label."""
        return score.divergence(self.network, other.network, examples)

    def _with_network(self, network: Network) -> PackedBackend:
        if network is self.network:
            return self
        other = copy(self)
        other.network = network
        return other


def _identity(folder: Path) -> tuple[int, ...]:
    """Changes whenever the weights' file is replaced."""
    try:
        status = (folder / WEIGHTS_FILE).stat()
        return status.st_ino, status.st_size, status.st_mtime_ns
    except OSError:
        return ()
