"""Sequences → packed rows: laid end to end without padding; what the prompts of one owner begin with alike is laid once.

A chat header is a third of a short question. Its rows are the same in every sequence of an adapter, so the products
with the weights need them once; only attention sees them in each sequence (see network.PackedAttention).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from selfedit.model.chat import TokenizedExample

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


def pack(sequences: Sequence[TokenizedExample], owners: Sequence[Hashable]) -> Packing:
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
        packing.label_rows.extend(zero + place - 1 for place in sequence.label_positions)
        start = end
    return packing


def _shared(leader: TokenizedExample, sequence: TokenizedExample) -> int:
    """Tokens, short of the row that predicts a first label."""
    return alike(leader.tokens, sequence.tokens, min(leader.label_start, sequence.label_start) - 1)


def alike(a: Sequence[int], b: Sequence[int], most: int) -> int:
    """Tokens that both begin with, `most` of them at most."""
    return next((i for i in range(most) if a[i] != b[i]), most)


def passes(
    order: Sequence[int], sizes: Sequence[int], shared: Callable[[list[int], int], int] = lambda part, i: 0
) -> Iterator[list[int]]:
    """What to run together, up to about TOKENS_A_PASS tokens a time: the indices of `order`, item i having `sizes[i]` tokens.

    `shared(part, i)` of them are laid already in its part (`sharing`) and count an eighth: keys and values, where a row of
    its own takes all of a layer's room. A pass is up to four times as large for those that share three quarters of
    themselves: apart they would be read in full."""
    part, tokens = [], 0
    for i in order:
        common = shared(part, i)
        size = sizes[i] - common + common // 8
        if part and tokens + size > TOKENS_A_PASS * (4 if 4 * common >= 3 * sizes[i] else 1):
            yield part
            part, tokens, size = [], 0, sizes[i]
        part.append(i)
        tokens += size
    if part:
        yield part


def sharing(sequences: Sequence[TokenizedExample], owners: Sequence[Hashable]) -> Callable[[list[int], int], int]:
    """What `pack` will lay once, for `passes`; not for training, where every layer keeps what attention saw."""

    def shared(part: list[int], i: int) -> int:
        leader = next((j for j in part if owners[j] == owners[i] and sequences[j].label_start > 1), None)
        return 0 if leader is None else _shared(sequences[leader], sequences[i])

    return shared
