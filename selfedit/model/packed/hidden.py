"""Hidden states of the base model: what it has understood of a text, for linear heads and for comparing texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selfedit.model.backend import check_lengths
from selfedit.model.chat import TokenizedExample
from selfedit.model.packed.network import Network
from selfedit.model.packed.packing import pack, passes, sharing


@torch.inference_mode()
def mean_states(network: Network, examples: Sequence[TokenizedExample], layers: int) -> Tensor:
    """As `Backend.mean_states`."""
    check_lengths((len(example.tokens) for example in examples), network.shape.max_positions)
    nobody = [None] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: examples[i].tokens)
    means = torch.zeros(len(examples), network.shape.hidden)
    for part in passes(order, [len(example.tokens) for example in examples], sharing(examples, nobody)):
        own = [examples[i] for i in part]
        packing = pack(own, nobody[: len(own)])
        tokens = [t for example, (_, common) in zip(own, packing.shared) for t in example.tokens[common:]]
        attention = network.attention(packing.lengths, packing.shared)
        x = network.embed(torch.tensor(tokens, device=network.device))
        x = network.run(x, attention.positions, attention, layers=range(layers)).float()
        for i, example, (_, end) in zip(part, own, packing.rows):
            means[i] = x[end - len(example.tokens) + example.label_start : end].mean(0)
    return means
