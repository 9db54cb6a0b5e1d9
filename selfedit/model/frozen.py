"""Token sequences → the hidden states that enter the first adapted layer: no adapter changes them.

Training reuses them in every epoch, scoring for every adapter that is asked the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from selfedit.model.network import Network, PackedAttention
from selfedit.model.packing import passes


class FrozenBelow:
    def __init__(self, network: Network, first_layer: int, sequences: Iterable[tuple[int, ...]]):
        """Of every distinct sequence of tokens; `first_layer` of them are below."""
        self.first_layer = first_layer
        self.states: dict[tuple[int, ...], Tensor] = {}
        distinct = sorted(set(sequences), key=len)
        for part in passes(range(len(distinct)), [len(tokens) for tokens in distinct]):
            self._compute(network, [distinct[i] for i in part])

    @torch.no_grad()
    def _compute(self, network: Network, sequences: list[tuple[int, ...]]) -> None:
        lengths = [len(tokens) for tokens in sequences]
        attention = PackedAttention(lengths, network.device)
        tokens = torch.tensor([t for own in sequences for t in own], device=network.device)
        x = network.run(network.embed(tokens), attention.positions, attention, layers=range(self.first_layer))
        self.states |= zip(sequences, x.split(lengths))

    def __getitem__(self, tokens: tuple[int, ...]) -> Tensor:
        """[T, hidden]"""
        return self.states[tokens]
