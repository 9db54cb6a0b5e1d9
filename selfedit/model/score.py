"""Log-probabilities and divergences under N adapters and the untouched model at once, without decoding.

In: sequences with labels, and whose adapter each is scored under. Out: one number a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from selfedit.model.chat import Sequence
from selfedit.model.network import Network, PackedAttention
from selfedit.model.packing import pack, passes
from selfedit.model.stack import Segment, Stack

LABELS_A_PASS = 128  # 25 MB of logits with 49,152 tokens: larger blocks are given back to the system each time, and come back page by page


@torch.inference_mode()
def mean_logprobs(network: Network, items: SequenceOf[tuple[Sequence, int | None]], stack: Stack | None = None) -> list[float]:
    """Mean log-probability (nats a token, at most 0) of each sequence's labels under its adapter (None: untouched)."""
    order = sorted(range(len(items)), key=lambda i: (-1 if items[i][1] is None else items[i][1], len(items[i][0].tokens)))
    out = [0.0] * len(items)
    for part in passes(order, [len(s.tokens) for s, _ in items]):
        sequences = [items[i][0] for i in part]
        hidden = label_states(network, sequences, [items[i][1] for i in part], stack)
        targets = torch.tensor([t for s in sequences for t in s.tokens[s.label_start :]], device=network.device)
        chunks = zip(hidden.split(LABELS_A_PASS), targets.split(LABELS_A_PASS))
        gold = torch.cat([network.logits(h).float().log_softmax(1).gather(1, t[:, None])[:, 0] for h, t in chunks])
        for i, values in zip(part, gold.split([s.labels for s in sequences])):
            out[i] = values.mean().item()
    return out


@torch.inference_mode()
def divergences(network: Network, sequences: SequenceOf[Sequence], stack: Stack) -> list[float]:
    """How far each adapter of the stack moves the model on these: mean KL(untouched ‖ adapted), nats a label."""
    totals = [0.0] * stack.count
    for part in passes(range(len(sequences)), [len(s.tokens) for s in sequences]):
        own = [sequences[i] for i in part]
        before = label_states(network, own, [None] * len(own), None).split(LABELS_A_PASS)
        untouched = [network.logits(h).float().log_softmax(1) for h in before]
        for adapter in range(stack.count):
            after = label_states(network, own, [adapter] * len(own), stack).split(LABELS_A_PASS)
            for p, h in zip(untouched, after):
                q = network.logits(h).float().log_softmax(1)
                totals[adapter] += (p.exp() * (p - q)).sum().item()
    labels = sum(s.labels for s in sequences)
    return [total / labels for total in totals]


def label_states(network: Network, sequences: list[Sequence], adapters: list[int | None], stack: Stack | None) -> Tensor:
    """Last hidden states [L, hidden] from which the labels are predicted."""
    packing = pack(sequences, adapters)
    segments = [Segment(a, *rows) for a, rows in zip(adapters, packing.rows) if a is not None]
    tokens = [token for s, (_, common) in zip(sequences, packing.shared) for token in s.tokens[common:]]
    attention = PackedAttention(packing.lengths, network.device, packing.shared)
    linear = stack.linear(network, segments) if segments else None
    x = network.run(network.embed(torch.tensor(tokens, device=network.device)), attention.positions, attention, linear)
    return x[torch.tensor(packing.label_rows, device=network.device)]
