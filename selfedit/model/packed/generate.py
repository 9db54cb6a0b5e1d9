"""Batched decoding under N adapters and the base model at once.

In: requests (prompt tokens, the adapter, how to sample). Out: the new tokens of each, in order.
Requests of one adapter are adjacent rows, so a step is one product with the frozen weights for all rows and a small one
per adapter. What the prompts of an adapter have in common at their start (a passage, a chat header) is read once. The
cache is allocated once, for the longest row. Each row draws from its own seed: in fp32 its text does not depend on its
neighbours. The reference is the greedy text of `transformers`: tests/test_generate.py compares.

Axes: B rows, H heads, K key-value heads, G = H / K, D head size, T packed tokens, C cache length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from selfedit.errors import ModelError
from selfedit.model.backend import OnStep, Request, no_steps
from selfedit.model.chat import Chat
from selfedit.model.packed.lora import LoraBatch, TokenRange
from selfedit.model.packed.network import Network
from selfedit.model.packed.packing import common_prefix
from selfedit.model.sampling import Sampler

SHARED_PREFIX = 16
"""Prompts that share at least this many tokens have them read once."""


def generate(
    network: Network,
    chat: Chat,
    requests: Sequence[Request],
    adapters: LoraBatch | None = None,
    *,
    rows: int = 64,
    on_token: OnStep = no_steps,
) -> list[list[int]]:
    """As `Backend.generate`. `rows`: requests that are decoded together at most."""
    limit = network.shape.max_positions
    for request in requests:
        if len(request.tokens) + request.max_new_tokens > limit:
            raise ModelError(f"a prompt of {len(request.tokens)} tokens does not fit the model's {limit} positions")
    longest = max((len(r.tokens) + r.max_new_tokens for r in requests), default=1)
    rows = max(1, min(rows, network.working_bytes // (longest * _bytes_per_token(network))))
    order = sorted(range(len(requests)), key=lambda i: _order(requests[i]))
    answers: list[list[int]] = [[] for _ in requests]
    total = later = sum(request.max_new_tokens for request in requests)
    for low in range(0, len(order), rows):
        batch = order[low : low + rows]
        later -= sum(requests[i].max_new_tokens for i in batch)

        def report(left: int, later: int = later) -> None:
            on_token(total - later - left, total)

        with torch.inference_mode():
            decoded = _Decoder(network, chat, [requests[i] for i in batch], adapters).run(report)
        for i, tokens in zip(batch, decoded):
            answers[i] = tokens
    return answers


def _order(request: Request) -> tuple:
    """Brings together the requests that can share what the base model reads, then those of one adapter."""
    row = -1 if request.adapter is None else request.adapter
    return request.tokens[: request.read_by_base], row, request.tokens


def _bytes_per_token(network: Network) -> int:
    """Size of one token's keys and values in the cache."""
    shape = network.shape
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * network.dtype.itemsize


class _Decoder:
    """Decodes one batch, from the prompts to the last token."""

    def __init__(self, network: Network, chat: Chat, requests: list[Request], adapters: LoraBatch | None):
        self.network, self.chat, self.requests, self.adapters = network, chat, requests, adapters
        shape, device = self.network.shape, self.network.device
        longest = max(len(r.tokens) + r.max_new_tokens for r in requests)
        cache = (len(requests), shape.kv_heads, longest, shape.head_dim)
        self.keys = [torch.zeros(cache, device=device, dtype=self.network.dtype) for _ in range(shape.layers)]
        self.values = [torch.zeros(cache, device=device, dtype=self.network.dtype) for _ in range(shape.layers)]
        self.filled = torch.tensor([len(r.tokens) for r in requests], device=device)
        self.sampler = Sampler(requests)

    def run(self, on_step: Callable[[int], None]) -> list[list[int]]:
        """New tokens of each request. `on_step(left)`: tokens that may still be written."""
        answers: list[list[int]] = [[] for _ in self.requests]
        alive = list(range(len(self.requests)))  # the requests behind the rows
        tokens = self.sampler.choose(self._prefill(), alive, answers)
        while True:
            going = []
            for row, (i, token) in enumerate(zip(alive, tokens)):
                if token not in self.chat.ends:
                    answers[i].append(token)
                    full = len(answers[i]) == self.requests[i].max_new_tokens
                    if not (full or (self.requests[i].one_line and self._line_is_over(answers[i]))):
                        going.append(row)
            on_step(sum(self.requests[alive[row]].max_new_tokens - len(answers[alive[row]]) for row in going))
            if not going:
                return answers
            if len(going) < len(alive):  # rows that ended leave
                alive, tokens = [alive[row] for row in going], [tokens[row] for row in going]
                self._keep_rows(going)
            tokens = self.sampler.choose(self._step(tokens, alive), alive, answers)

    def _line_is_over(self, tokens: list[int]) -> bool:
        return tokens[-1] in self.chat.breaks and "\n" in self.chat.decode(tokens).lstrip()

    def _ranges(self, parts: list[tuple[Request, int, int]]) -> list[TokenRange]:
        """The ranges of adjacent tokens on which the same adapter acts. `parts`: (request, low, high): tokens low to
        high of a request's prompt and answer, one part after another."""
        ranges: list[TokenRange] = []
        start = 0
        for request, low, high in parts:
            first, end = start + max(0, request.read_by_base - low), start + high - low
            start = end
            if request.adapter is None or first >= end:
                continue
            last = ranges[-1] if ranges else None
            if last and last.adapter == request.adapter and last.end == first:
                ranges[-1] = TokenRange(request.adapter, last.start, end)
            else:
                ranges.append(TokenRange(request.adapter, first, end))
        return ranges

    def _linear(self, ranges: list[TokenRange]):
        return self.adapters.linear(self.network, ranges) if ranges else None

    def _cache_indices(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The indices [T·K] of the keys of these tokens [T] in a cache that is viewed as [B·K·C, D]."""
        _, heads, length, _ = self.keys[0].shape
        row_heads = rows[:, None] * heads + torch.arange(heads, device=rows.device)
        return (row_heads * length + positions[:, None]).flatten()

    def _store(self, layer: int, where: Tensor, k: Tensor, v: Tensor) -> None:
        for cache, new in ((self.keys[layer], k), (self.values[layer], v)):
            cache.view(-1, cache.shape[3]).index_copy_(0, where, new.reshape(-1, cache.shape[3]))

    def _prefill(self) -> Tensor:
        """Read the prompts into the cache; logits [B, vocab] of what follows each."""
        groups = _groups(self.requests)
        prefixes = [(self.requests[rows[0]], shared, rows) for shared, rows in groups if shared]
        device = self.network.device
        if prefixes:
            lengths = [shared for _, shared, _ in prefixes]
            packed = self.network.attention(lengths)

            def read_prefix(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                for (_, shared, rows), k_part, v_part in zip(prefixes, k.split(lengths), v.split(lengths)):
                    cached = slice(rows[0], rows[-1] + 1)
                    self.keys[layer][cached, :, :shared] = k_part.transpose(0, 1)
                    self.values[layer][cached, :, :shared] = v_part.transpose(0, 1)
                return packed(layer, q, k, v)

            tokens = torch.tensor([t for r, shared, _ in prefixes for t in r.tokens[:shared]], device=device)
            ranges = self._ranges([(request, 0, shared) for request, shared, _ in prefixes])
            self.network.run(self.network.embed(tokens), packed.positions, read_prefix, self._linear(ranges))
        return self._read_suffixes(groups)

    def _read_suffixes(self, groups) -> Tensor:
        device = self.network.device
        suffixes = [self.requests[i].tokens[shared:] for shared, rows in groups for i in rows]
        lengths = [len(s) for s in suffixes]
        positions = torch.cat(
            [torch.arange(shared, len(self.requests[i].tokens)) for shared, rows in groups for i in rows]
        )
        where = self._cache_indices(torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)), positions).to(
            device
        )
        group_sizes = [lengths[rows[0] : rows[-1] + 1] for _, rows in groups]
        kv_heads = self.network.shape.kv_heads
        sharing = self.network.shape.heads // kv_heads
        windows = self.network.shape.windows

        def mask_of(shared: int, queries: int, window: int) -> Tensor:
            mask = torch.ones(queries, shared + queries, dtype=torch.bool, device=device).tril(shared)
            return (mask.triu(shared - window + 1) if window else mask).repeat(sharing, 1)

        masks = {
            window: [mask_of(shared, max(sizes), window) for (shared, _), sizes in zip(groups, group_sizes)]
            for window in {*windows} or {0}
        }

        def read_suffix(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._store(layer, where, k, v)
            out = []
            for (_, rows), sizes, mask, queries in zip(
                groups, group_sizes, masks[windows[layer] if windows else 0], q.split(list(map(sum, group_sizes)))
            ):
                cached = slice(rows[0], rows[-1] + 1), slice(None), slice(mask.shape[1])
                padded = torch.nn.utils.rnn.pad_sequence(queries.split(sizes), batch_first=True)
                padded = (
                    padded.unflatten(2, (kv_heads, sharing)).permute(0, 2, 3, 1, 4).flatten(2, 3)
                )  # the G heads that share keys, as G queries
                o = F.scaled_dot_product_attention(
                    padded, self.keys[layer][cached], self.values[layer][cached], attn_mask=mask
                )
                o = o.unflatten(2, (sharing, -1)).permute(0, 3, 1, 2, 4).flatten(2)
                out.extend(o[j, :length] for j, length in enumerate(sizes))
            return torch.cat(out)

        ranges = self._ranges([(r, len(r.tokens) - length, len(r.tokens)) for r, length in zip(self.requests, lengths)])
        tokens = torch.tensor([t for s in suffixes for t in s], device=device)
        x = self.network.run(self.network.embed(tokens), positions.to(device), read_suffix, self._linear(ranges))
        return self.network.logits(x[torch.tensor(lengths, device=device).cumsum(0) - 1])

    def _step(self, tokens: list[int], alive: list[int]) -> Tensor:
        """One token per row into the cache; logits [B, vocab] of the next."""
        device, shape, count = self.network.device, self.network.shape, len(alive)
        positions, longest = self.filled, int(self.filled.max()) + 1
        where = self._cache_indices(torch.arange(count, device=device), positions)

        def mask_of(window: int) -> Tensor | None:
            if count == 1 and not window:
                return None
            place = torch.arange(longest, device=device)
            hidden = place > positions[:, None]
            if window:
                hidden |= place <= positions[:, None] - window
            mask = torch.zeros(count, longest, device=device, dtype=self.network.dtype)
            return mask.masked_fill_(hidden, float("-inf")).repeat_interleave(shape.kv_heads, 0)[:, None]

        masks = {window: mask_of(window) for window in {*shape.windows} or {0}}

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._store(layer, where, k, v)
            keys, values = self.keys[layer], self.values[layer]
            mask = masks[shape.windows[layer] if shape.windows else 0]
            grouped = q.view(count, shape.kv_heads, -1, shape.head_dim)  # the G heads that share keys, as G queries
            if mask is None:
                o = F.scaled_dot_product_attention(grouped, keys[:, :, :longest], values[:, :, :longest])
                return o.view(count, -1)
            # two batched products: a third faster than the fused kernel, which is made for many queries
            odds = torch.baddbmm(
                mask, grouped.flatten(0, 1), keys.flatten(0, 1)[:, :longest].mT, alpha=shape.head_dim**-0.5
            )
            o = torch.bmm(odds.softmax(-1), values.flatten(0, 1)[:, :longest])
            return o.reshape(count, -1)

        written = [(self.requests[i], len(self.requests[i].tokens)) for i in alive]
        ranges = self._ranges([(request, end, end + 1) for request, end in written])
        x = self.network.embed(torch.tensor(tokens, device=device))
        x = self.network.run(x, positions, attend, self._linear(ranges))
        self.filled = positions + 1
        return self.network.logits(x)

    def _keep_rows(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.filled.device)
        self.filled = self.filled[index]
        used = int(self.filled.max())
        for cache in (self.keys, self.values):
            for layer, old in enumerate(cache):
                new = old.new_zeros(len(rows), *old.shape[1:])  # a NaN would pass through the mask
                new[:, :, :used] = old[index, :, :used]
                cache[layer] = new


def _groups(requests: Sequence[Request]) -> list[tuple[int, range]]:
    """Sorted requests → groups of (tokens of the common beginning, which is read once; rows of the batch), chosen by
    dynamic programming so that the fewest tokens are read."""
    common = []  # of neighbours, but for the last token of each, from whose row the next token is predicted
    for a, b in zip(requests, requests[1:]):
        limit = min(len(a.tokens), len(b.tokens)) - 1
        if (a.adapter, a.adapter_from) != (b.adapter, b.adapter_from):
            limit = min(limit, a.read_by_base, b.read_by_base)
        common.append(common_prefix(a.tokens, b.tokens, limit))
    saved, last = [0], []  # for the first n rows: the most tokens that need not be read again, and the last group
    for end in range(1, len(requests) + 1):
        most, group, shared = saved[end - 1], (0, range(end - 1, end)), len(requests[end - 1].tokens)
        for start in range(end - 2, -1, -1):
            shared = min(shared, common[start])
            if shared < SHARED_PREFIX:
                break
            if (total := saved[start] + shared * (end - 1 - start)) > most:
                most, group = total, (shared, range(start, end))
        saved.append(most)
        last.append(group)
    groups, end = [], len(requests)
    while end:
        groups.append(last[end - 1])
        end = groups[-1][1].start
    return groups[::-1]
