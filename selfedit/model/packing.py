"""Sequences → packed rows: laid end to end without padding; what the prompts of one owner begin with alike is laid once.

A chat header is a third of a short question. Its rows are the same in every sequence of an adapter, so the products
with the weights need them once; only attention sees them in each sequence (see network.PackedAttention).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence as SequenceOf
from dataclasses import dataclass, field

from selfedit.model.chat import Sequence


@dataclass
class Packing:
    lengths: list[int] = field(default_factory=list)
    """Tokens of each sequence."""
    shared: list[tuple[int, int]] = field(default_factory=list)
    """(leader, n): the first n tokens have no rows of their own, but those of an earlier sequence."""
    rows: list[tuple[int, int]] = field(default_factory=list)
    """[start, end) of each sequence's own rows."""
    label_rows: list[int] = field(default_factory=list)
    """The rows from which labels are predicted, in the order of sequences and labels."""


def pack(sequences: SequenceOf[Sequence], owners: SequenceOf[Hashable]) -> Packing:
    """Sequences of one owner (an adapter, or the untouched model) may share rows; no label ever lies in what is shared."""
    packing, leaders, start = Packing(), {}, 0
    for i, (sequence, owner) in enumerate(zip(sequences, owners)):
        leader = leaders.setdefault(owner, i) if sequence.label_start > 1 else i
        common = _alike(sequences[leader], sequence) if leader < i else 0
        zero = start - common  # where its first token would lie
        end = zero + len(sequence.tokens)
        packing.lengths.append(len(sequence.tokens))
        packing.shared.append((leader, common))
        packing.rows.append((start, end))
        packing.label_rows.extend(range(zero + sequence.label_start - 1, end - 1))
        start = end
    return packing


def _alike(a: Sequence, b: Sequence) -> int:
    """Tokens that both begin with, short of the row that predicts a first label."""
    most = min(a.label_start, b.label_start) - 1
    return next((i for i in range(most) if a.tokens[i] != b.tokens[i]), most)
