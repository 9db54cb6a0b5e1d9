"""Log-probabilities and divergences under N adapters and the base model at once, without decoding.

In: tokenized examples, and under which adapter each is scored. Out: one number per example or adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from selfedit.model.backend import check_lengths
from selfedit.model.chat import TokenizedExample
from selfedit.model.packed.frozen import FrozenBelow
from selfedit.model.packed.lora import LoraBatch, adjacent
from selfedit.model.packed.network import Network, Vocabulary
from selfedit.model.packed.packing import common_prefix, pack, passes, sharing

LABELS_PER_PASS = 128
"""25 MB of logits with 49,152 tokens: larger blocks go back to the system each time, and come back page by page."""


@torch.inference_mode()
def gold_logprobs(
    network: Network,
    items: Sequence[tuple[TokenizedExample, int | None]],
    adapters: LoraBatch | None = None,
    *,
    vocabulary: Iterable[int] | None = None,
) -> list[float]:
    """As `Backend.gold_logprobs`."""
    targets_among = Vocabulary(network, vocabulary)
    order = sorted(range(len(items)), key=lambda i: (-1 if items[i][1] is None else items[i][1], items[i][0].tokens))
    out = [0.0] * len(items)
    distinct = {s.tokens for s, _ in items}
    # where most prompts differ, it saves more to read their common header once in each pass, which excludes this
    often = adapters is not None and 2 * len(distinct) <= len(items)
    frozen = FrozenBelow(network, adapters.config.layers[0], distinct) if often else None
    shared = sharing([s for s, _ in items], [adapter for _, adapter in items])
    for part in passes(order, [len(s.tokens) for s, _ in items], shared):
        sequences = [items[i][0] for i in part]
        hidden = label_states(network, sequences, [items[i][1] for i in part], adapters, frozen)
        targets = targets_among.label_indices(
            torch.tensor([t for s in sequences for t in s.targets], device=network.device)
        )
        chunks = zip(hidden.split(LABELS_PER_PASS), targets.split(LABELS_PER_PASS))
        gold = torch.cat(
            [
                network.logits(h, targets_among.head).float().log_softmax(1).gather(1, t[:, None])[:, 0]
                for h, t in chunks
            ]
        )
        for i, values in zip(part, gold.split([s.labels for s in sequences])):
            out[i] = values.mean().item()
    return out


@torch.inference_mode()
def greedy_labels(network: Network, items: Sequence[tuple[TokenizedExample, int]], adapters: LoraBatch) -> list[int]:
    """As `Backend.greedy_labels`."""
    frozen = FrozenBelow(network, adapters.config.layers[0], (s.tokens for s, _ in items))
    out = [0] * len(items)
    for part in passes(range(len(items)), [len(s.tokens) for s, _ in items]):
        sequences = [items[i][0] for i in part]
        hidden = label_states(network, sequences, [items[i][1] for i in part], adapters, frozen)
        best = torch.cat([network.logits(h).argmax(1) for h in hidden.split(LABELS_PER_PASS)])
        for i, sequence, own in zip(part, sequences, best.split([s.labels for s in sequences])):
            out[i] = common_prefix(own.tolist(), sequence.targets, sequence.labels)
    return out


@torch.inference_mode()
def divergences(network: Network, sequences: Sequence[TokenizedExample], adapters: LoraBatch) -> list[float]:
    """As `Backend.divergences`."""
    totals = [0.0] * adapters.count
    for part in passes(range(len(sequences)), [len(s.tokens) for s in sequences]):
        own = [sequences[i] for i in part]
        frozen = FrozenBelow(network, adapters.config.layers[0], (s.tokens for s in own))
        rows = [None, *range(adapters.count)]
        states = [label_states(network, own, [row] * len(own), adapters, frozen) for row in rows]
        for before, *after in zip(*(of_row.split(LABELS_PER_PASS) for of_row in states)):
            untouched = network.logits(before).float().log_softmax(1)  # of a few labels: it is wide
            for adapter, changed in enumerate(after):
                totals[adapter] += _kl(untouched, network.logits(changed))
    labels = sum(s.labels for s in sequences)
    return [total / labels for total in totals]


@torch.inference_mode()
def divergence(network: Network, other: Network, sequences: Sequence[TokenizedExample]) -> float:
    """Mean KL(network ‖ other) over the labels of the examples, in nats per label."""
    total = 0.0
    for part in passes(range(len(sequences)), [len(s.tokens) for s in sequences]):
        own = [sequences[i] for i in part]
        states = [label_states(one, own, [None] * len(own), None).split(LABELS_PER_PASS) for one in (network, other)]
        total += sum(_kl(network.logits(h).float().log_softmax(1), other.logits(g)) for h, g in zip(*states))
    return total / sum(s.labels for s in sequences)


def _kl(p: Tensor, logits: Tensor) -> float:
    """`p`: log-probabilities [L, vocabulary]."""
    return (p.exp() * (p - logits.float().log_softmax(1))).sum().item()


def label_states(
    network: Network,
    sequences: list[TokenizedExample],
    rows: Sequence[int | None],
    adapters: LoraBatch | None,
    frozen: FrozenBelow | None = None,
) -> Tensor:
    """Last hidden states [L, hidden] from which the labels are predicted. `rows`: the adapter of each sequence.
    `frozen`: the states that enter the first adapted layer, if they are computed already. Raises ModelError on a
    sequence that is longer than the model's positions."""
    check_lengths((len(s.tokens) for s in sequences), network.shape.max_positions)
    packing = pack(sequences, rows)
    ranges = adjacent((row, *span) for row, span in zip(rows, packing.rows))
    own = [(s.tokens, common) for s, (_, common) in zip(sequences, packing.shared)]
    if frozen:
        x = torch.cat([frozen[tokens][common:] for tokens, common in own])
    else:
        x = network.embed(
            torch.tensor([token for tokens, common in own for token in tokens[common:]], device=network.device)
        )
    attention = network.attention(packing.lengths, packing.shared)
    linear = adapters.linear(network, ranges) if ranges else None
    layers = range(frozen.first_layer if frozen else 0, network.shape.layers)
    x = network.run(x, attention.positions, attention, linear, layers)
    return x[torch.tensor(packing.label_rows, device=network.device)]
