"""Hidden states of the base model: a way to compare texts that the routing benchmark measures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selfedit.model.packed.network import Network, PackedAttention
from selfedit.model.packed.packing import passes


@torch.inference_mode()
def mean_states(network: Network, texts: Sequence[Sequence[int]], layers: int) -> Tensor:
    """Token ids of each text → the mean fp32 state behind the first `layers` layers over all tokens but the first,
    [texts, hidden]. The first token of a text attends to itself alone, so its state says little."""
    means: dict[int, Tensor] = {}
    for part in passes(range(len(texts)), [len(tokens) for tokens in texts]):
        attention = PackedAttention([len(texts[i]) for i in part], network.device)
        tokens = torch.tensor([token for i in part for token in texts[i]], device=network.device)
        x = network.run(network.embed(tokens), attention.positions, attention, layers=range(layers)).float()
        for i, states in zip(part, x.split([len(texts[i]) for i in part])):
            means[i] = states[min(1, len(states) - 1) :].mean(0)
    return torch.stack([means[i] for i in range(len(texts))])
