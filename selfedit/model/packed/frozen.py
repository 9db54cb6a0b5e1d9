"""Token sequences → the hidden states that enter the first adapted layer: no adapter changes them.

Training reuses them in every epoch, scoring for every adapter that is asked the same. So many are kept as fit; those of
the longest sequences are computed anew each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import torch
from torch import Tensor

from selfedit.model.backend import check_lengths
from selfedit.model.packed.network import Network
from selfedit.model.packed.packing import passes


class FrozenBelow:
    def __init__(self, network: Network, first_layer: int, sequences: Iterable[tuple[int, ...]]):
        """Of every distinct sequence of tokens; `first_layer` of them are below. Raises ModelError on one that is
        longer than the model's positions."""
        self.network, self.first_layer = network, first_layer
        self.states: dict[tuple[int, ...], Tensor] = {}
        distinct = sorted(set(sequences), key=len)
        check_lengths(map(len, distinct), network.shape.max_positions)
        lengths = [len(tokens) for tokens in distinct]
        room = network.working_bytes // (network.shape.hidden * network.dtype.itemsize)
        kept = sum(total <= room for total in accumulate(lengths))
        for part in passes(range(kept), lengths):
            own = [distinct[i] for i in part]
            self.states |= zip(own, self._computed(own))

    @torch.no_grad()
    def _computed(self, sequences: list[tuple[int, ...]]) -> tuple[Tensor, ...]:
        lengths = [len(tokens) for tokens in sequences]
        attention = self.network.attention(lengths)
        tokens = torch.tensor([t for own in sequences for t in own], device=self.network.device)
        x = self.network.run(self.network.embed(tokens), attention.positions, attention, layers=range(self.first_layer))
        return x.split(lengths)

    def __getitem__(self, tokens: tuple[int, ...]) -> Tensor:
        """[T, hidden]"""
        return self.states[tokens] if tokens in self.states else self._computed([tokens])[0]
