"""What the untouched model says with the passage in view → soft labels for an adapter that must say it without.

Context distillation: beside the token that is right, a label holds the odds that the teacher gives its alternatives.
They cost one pass without gradient, in which the passage is read once for many questions about it (packing.pack).
Source: Snell et al., *Learning by Distilling Context*, 2022, arXiv:2209.15189; the mixture with the right token is
Hinton et al., 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from selfedit.model.chat import SoftLabels, TokenizedExample
from selfedit.model.packed.network import Network
from selfedit.model.packed.packing import passes
from selfedit.model.packed.score import LABELS_A_PASS, label_states

WIDTH = 16
"""Tokens that a soft label keeps; they hold nearly all of the teacher's odds."""


@torch.inference_mode()
def soften(
    network: Network, studied: Sequence[TokenizedExample], seen: Sequence[TokenizedExample], share: float
) -> list[TokenizedExample]:
    """The studied sequences with soft labels: `share` of each is the untouched model's own odds, the rest the right token.

    `seen[i]` ends in the labels of `studied[i]`, behind all that the teacher may see.
    """
    softened = list(studied)
    for part in passes(range(len(seen)), [len(s.tokens) for s in seen]):
        own = [seen[i] for i in part]
        hidden = label_states(network, own, [None] * len(own), None)
        right = torch.tensor([t for s in own for t in s.targets], device=network.device)
        tokens, odds = zip(
            *(
                _mixed(network.logits(h).float(), t, share)
                for h, t in zip(hidden.split(LABELS_A_PASS), right.split(LABELS_A_PASS))
            )
        )
        sizes = [s.labels for s in own]
        for i, own_tokens, own_odds in zip(part, torch.cat(tokens).split(sizes), torch.cat(odds).split(sizes)):
            softened[i] = replace(studied[i], soft=SoftLabels(own_tokens, own_odds))
    return softened


def _mixed(logits: torch.Tensor, right: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [L, vocab] of the teacher and the right tokens [L] → the likeliest tokens of their mixture and its odds, [L, WIDTH]."""
    mixed = logits.softmax(1).mul_(share)
    mixed[torch.arange(len(right), device=right.device), right] += 1 - share
    odds, tokens = mixed.topk(min(WIDTH, mixed.shape[1]), 1)
    return tokens, odds / odds.sum(1, keepdim=True)
