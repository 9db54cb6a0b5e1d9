"""What the base model says with the passage in view → soft labels for an adapter that must say it without.

Context distillation: besides the right token, a label holds the probabilities that the teacher gives its alternatives.
They cost one pass without gradient, in which the passage is read once for many questions about it (packing.pack).
Source: Snell et al., *Learning by Distilling Context*, 2022, arXiv:2209.15189; the mixture with the right token is
Hinton et al., 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from selfedit.model.backend import Job
from selfedit.model.chat import SoftLabels, TokenizedExample
from selfedit.model.packed.network import Network
from selfedit.model.packed.packing import passes
from selfedit.model.packed.score import LABELS_PER_PASS, label_states

WIDTH = 16
"""Tokens that a soft label keeps; they hold nearly all of the teacher's probability."""


def softened(network: Network, jobs: Sequence[Job]) -> list[Job]:
    """The jobs with soft labels in the examples that have a teacher."""
    return [replace(job, examples=soften(network, job.examples), once=soften(network, job.once)) for job in jobs]


@torch.inference_mode()
def soften(network: Network, examples: Sequence[TokenizedExample]) -> tuple[TokenizedExample, ...]:
    """The examples with soft labels where `distill` is not 0: so great a share of each label is the base model's own
    distribution behind the teacher's prompt, the rest is the right token."""
    taught = [i for i, example in enumerate(examples) if example.distill]
    teachers = [examples[i].teacher for i in taught]
    result = list(examples)
    for part in passes(range(len(teachers)), [len(t.tokens) for t in teachers]):
        batch = [teachers[i] for i in part]
        hidden = label_states(network, batch, [None] * len(batch), None)
        right = torch.tensor([t for teacher in batch for t in teacher.targets], device=network.device)
        shares = torch.tensor([examples[taught[i]].distill for i in part for _ in range(teachers[i].labels)])
        chunks = zip(*(x.split(LABELS_PER_PASS) for x in (hidden, right, shares.to(network.device))))
        tokens, odds = zip(*(mixed(network.logits(h).float(), t, share) for h, t, share in chunks))
        sizes = [teacher.labels for teacher in batch]
        for i, own_tokens, own_odds in zip(part, torch.cat(tokens).split(sizes), torch.cat(odds).split(sizes)):
            result[taught[i]] = replace(examples[taught[i]], soft=SoftLabels(own_tokens, own_odds))
    return tuple(result)


def mixed(logits: torch.Tensor, right: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [L, V] of the teacher, right tokens [L] and the teacher's shares [L] → the likeliest tokens of the mixture
    and their probabilities, [L, WIDTH] each."""
    mixture = logits.softmax(1).mul_(share[:, None])
    mixture[torch.arange(len(right), device=right.device), right] += 1 - share
    odds, tokens = mixture.topk(min(WIDTH, mixture.shape[1]), 1)
    return tokens, odds / odds.sum(1, keepdim=True)
