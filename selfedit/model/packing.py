"""Sequences → packed rows: laid end to end without padding; what the prompts of one owner begin with alike is laid once.

A chat header is a third of a short question. Its rows are the same in every sequence of an adapter, so the products
with the weights need them once; only attention sees them in each sequence (see network.PackedAttention).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence as SequenceOf
from dataclasses import dataclass, field

from selfedit.model.chat import Sequence

TOKENS_A_PASS = 2048
"""What is run together at most, about: enough to fill the processor, and no more memory."""


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
        common = _shared(sequences[leader], sequence) if leader < i else 0
        zero = start - common  # where its first token would lie
        end = zero + len(sequence.tokens)
        packing.lengths.append(len(sequence.tokens))
        packing.shared.append((leader, common))
        packing.rows.append((start, end))
        packing.label_rows.extend(zero + place - 1 for place in sequence.places)
        start = end
    return packing


def _shared(leader: Sequence, sequence: Sequence) -> int:
    """Tokens, short of the row that predicts a first label."""
    return alike(leader.tokens, sequence.tokens, min(leader.label_start, sequence.label_start) - 1)


def alike(a: SequenceOf[int], b: SequenceOf[int], most: int) -> int:
    """Tokens that both begin with, `most` of them at most."""
    return next((i for i in range(most) if a[i] != b[i]), most)


def passes(order: SequenceOf[int], sizes: SequenceOf[int]) -> Iterator[list[int]]:
    """What to run together, up to about TOKENS_A_PASS tokens a time: the indices of `order`, item i having `sizes[i]` tokens."""
    part, tokens = [], 0
    for i in order:
        if part and tokens + sizes[i] > TOKENS_A_PASS:
            yield part
            part, tokens = [], 0
        part.append(i)
        tokens += sizes[i]
    if part:
        yield part


def passes_sharing(order: SequenceOf[int], sequences: SequenceOf[Sequence], owners: SequenceOf[Hashable]) -> Iterator[list[int]]:
    """As `passes`, of what is packed and not trained on: what `pack` lays once counts once, and an eighth in each other
    sequence (keys and values, where a row of its own takes all of a layer's room). A pass is up to four times as large for
    sequences that share three quarters of themselves: apart they would be read in full."""
    part, tokens, leaders = [], 0, {}
    for i in order:
        sequence, owner = sequences[i], owners[i]
        shared = _shared(leaders[owner], sequence) if owner in leaders else 0
        size = len(sequence.tokens) - shared + shared // 8
        if part and tokens + size > TOKENS_A_PASS * (4 if 4 * shared >= 3 * len(sequence.tokens) else 1):
            yield part
            part, tokens, leaders, size = [], 0, {}, len(sequence.tokens)
        if sequence.label_start > 1:
            leaders.setdefault(owner, sequence)
        part.append(i)
        tokens += size
    if part:
        yield part
