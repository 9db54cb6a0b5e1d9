"""Sequences → packed rows: one sequence after another without padding, and a common beginning only once.

A chat header is a third of a short question. Its rows are the same in every sequence of an adapter, so the products
with the weights compute them once; only attention uses them in each sequence (network.PackedAttention). A sequence
shares rows with the first one or with the one before it, so those with a common beginning belong side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from selfedit.model.chat import TokenizedExample

TOKENS_PER_PASS = 2048
"""Tokens that are computed together, approximately: more would not be faster, only need more memory."""
SHARED_COST = 1 / 8
"""Of a token whose row is shared: it needs keys and values, where a token with a row needs a whole layer's memory."""


@dataclass
class Packing:
    lengths: list[int] = field(default_factory=list)
    """Tokens of each sequence."""
    shared: list[tuple[int, int]] = field(default_factory=list)
    """(leader, n) of each sequence: its first n tokens use the rows of an earlier sequence, the leader."""
    rows: list[tuple[int, int]] = field(default_factory=list)
    """[start, end) of the rows that each sequence adds."""
    label_rows: list[int] = field(default_factory=list)
    """The rows from which labels are predicted, in the order of the sequences and their labels."""


def pack(sequences: Sequence[TokenizedExample], owners: Sequence[Hashable]) -> Packing:
    """Lays out the sequences. Those of one owner (an adapter, or the base model) share the rows of a common beginning,
    which never contains a label."""
    packing, start = Packing(), 0
    leaders: dict[Hashable, tuple[int, int]] = {}  # of each owner: its first sequence and its last one so far
    for i, (sequence, owner) in enumerate(zip(sequences, owners)):
        common, leader = _best(sequences, leaders.get(owner, ()), sequence)
        if sequence.label_start > 1:
            leaders[owner] = (leaders.get(owner, (i,))[0], i)
        origin = start - common  # where the row of its first token would be
        end = origin + len(sequence.tokens)
        packing.lengths.append(len(sequence.tokens))
        packing.shared.append((leader, common))
        packing.rows.append((start, end))
        packing.label_rows.extend(origin + position - 1 for position in sequence.label_positions)
        start = end
    return packing


def _best(sequences: Sequence[TokenizedExample], leaders: Sequence[int], sequence: TokenizedExample) -> tuple[int, int]:
    """The most tokens that a sequence shares with one of the leaders, and that leader; (0, 0) without one."""
    return max(((_shared(sequences[leader], sequence), leader) for leader in leaders), default=(0, 0))


def _shared(leader: TokenizedExample, sequence: TokenizedExample) -> int:
    """Tokens of the common beginning; it ends before the row from which a first label is predicted."""
    return common_prefix(leader.tokens, sequence.tokens, min(leader.label_start, sequence.label_start) - 1)


def common_prefix(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    """Tokens with which both begin, at most `limit`."""
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def passes(
    order: Sequence[int],
    sizes: Sequence[int],
    shared: Callable[[list[int], int], int] = lambda part, i: 0,
    parts: int = 1,
) -> Iterator[list[int]]:
    """Divides the indices in `order` into parts of at most about TOKENS_PER_PASS tokens, at least `parts` if there are
    so many; item i has `sizes[i]` tokens.

    `shared(part, i)`: how many tokens of item i share their rows with an earlier item of the part (`sharing`). A part
    is up to four times as large for items that share three quarters of their tokens, which would be computed again in
    another part."""
    most = min(TOKENS_PER_PASS, sum(sizes[i] for i in order) // parts + 1)
    part, tokens = [], 0
    for i in order:
        common = shared(part, i)
        size = sizes[i] - common + int(common * SHARED_COST)
        if part and tokens + size > most * (4 if 4 * common >= 3 * sizes[i] else 1):
            yield part
            part, tokens, size = [], 0, sizes[i]
        part.append(i)
        tokens += size
    if part:
        yield part


def sharing(sequences: Sequence[TokenizedExample], owners: Sequence[Hashable]) -> Callable[[list[int], int], int]:
    """The `shared` argument of `passes` for what `pack` shares. Not for training, which keeps every layer's attention
    input for the backward pass."""

    def shared(part: list[int], i: int) -> int:
        own = (j for j in part if owners[j] == owners[i] and sequences[j].label_start > 1)
        latest = (j for j in reversed(part) if owners[j] == owners[i] and sequences[j].label_start > 1)
        return _best(sequences, [*islice(own, 1), *islice(latest, 1)], sequences[i])[0]

    return shared
