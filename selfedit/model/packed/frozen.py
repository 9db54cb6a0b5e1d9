"""Token sequences → the hidden states that enter the first adapted layer: no adapter changes them.

Training reuses them in every epoch, scoring for every adapter that is asked the same. So many are kept as fit; those of
the longest sequences are computed anew each time. The most recent ones stay after that: what was trained on is scored
next, and the texts of the harm test are the same for every batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import accumulate
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from selfedit.model.backend import check_lengths
from selfedit.model.packed.network import Network
from selfedit.model.packed.packing import common_prefix, passes

RECENT_TOKENS = 16_384
"""Tokens whose states stay: 38 MB in a model of 576 dimensions."""


class _Recent:
    """States [T, hidden] by the number of layers and the tokens; those that were not used for longest leave first."""

    def __init__(self):
        self._states: OrderedDict[tuple[int, tuple[int, ...]], Tensor] = OrderedDict()
        self._tokens = 0

    def get(self, layers: int, tokens: tuple[int, ...]) -> Tensor | None:
        key = layers, tokens
        if key in self._states:
            self._states.move_to_end(key)
        return self._states.get(key)

    def add(self, layers: int, tokens: tuple[int, ...], states: Tensor) -> None:
        self._states[layers, tokens] = states
        self._tokens += len(tokens)
        while self._tokens > RECENT_TOKENS:
            (_, left), _ = self._states.popitem(last=False)
            self._tokens -= len(left)


_RECENT: WeakKeyDictionary[Network, _Recent] = WeakKeyDictionary()


class FrozenBelow:
    def __init__(
        self,
        network: Network,
        first_layer: int,
        sequences: Iterable[tuple[int, ...]],
        each: Callable[..., Iterable] = map,
        workers: int = 1,
    ):
        """`sequences`: of tokens; equal ones are computed once. `first_layer`: how many layers are computed. `each`:
        a `map` that makes its calls in so many `workers` at once. Raises ModelError on a sequence that is longer than
        the model's positions."""
        self.network, self.first_layer = network, first_layer
        self.states: dict[tuple[int, ...], Tensor] = {}
        distinct = sorted(set(sequences), key=len)
        check_lengths(map(len, distinct), network.shape.max_positions)
        room = network.working_bytes // (network.shape.hidden * network.dtype.itemsize)
        fitting = sum(total <= room for total in accumulate(map(len, distinct)))
        recent = _RECENT.setdefault(network, _Recent())
        for tokens in distinct[:fitting]:
            if (known := recent.get(first_layer, tokens)) is not None:
                self.states[tokens] = known
        kept = sorted(tokens for tokens in distinct[:fitting] if tokens not in self.states)
        if not kept:
            return
        divided = passes(range(len(kept)), [len(tokens) for tokens in kept], parts=workers)
        parts = [[kept[i] for i in part] for part in divided]
        for part, states in zip(parts, each(self._computed, parts)):
            for tokens, of_tokens in zip(part, states):
                self.states[tokens] = of_tokens
                recent.add(first_layer, tokens, of_tokens)

    @torch.inference_mode(False)  # for training, whoever computes them
    @torch.no_grad()
    def _computed(self, texts: list[tuple[int, ...]]) -> list[Tensor]:
        """Of different texts in ascending order; a common beginning is computed once."""
        shared = [
            (max(0, i - 1), common_prefix(before, text, min(len(before), len(text))))
            for i, (before, text) in enumerate(zip([(), *texts], texts))
        ]
        attention = self.network.attention([len(tokens) for tokens in texts], shared)
        new = [token for tokens, (_, common) in zip(texts, shared) for token in tokens[common:]]
        x = self.network.embed(torch.tensor(new, device=self.network.device))
        x = self.network.run(x, attention.positions, attention, layers=range(self.first_layer))
        return [x[own.to(x.device)] for own in attention.rows]

    def __getitem__(self, tokens: tuple[int, ...]) -> Tensor:
        """[T, hidden]"""
        return self.states[tokens] if tokens in self.states else self._computed([tokens])[0]
