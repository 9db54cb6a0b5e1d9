"""Batched decoding under N adapters and the base model at once.

In: requests (prompt tokens, the adapter, how to sample). Out: the new tokens of each, in order.
A step is one product with the frozen weights for all rows and a small one per adapter. What the prompts of an adapter
have in common at their start (a passage, a chat header) is read once. Rows join and leave between steps: newcomers are
appended to the cache, and the last rows move to the places of those that have ended. Each row draws from its own seed:
in fp32 its text does not depend on its neighbours. A draft of a text is read with its prompt, and kept as far as the
model would have written it. The reference is the greedy text of `transformers`: tests/test_generate.py compares.

Axes: B rows, H heads, K key-value heads, G = H / K, D head size, T packed tokens, C cache length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from selfedit.model.backend import OnStep, Request, check_requests, no_steps
from selfedit.model.chat import Chat
from selfedit.model.packed.lora import LoraBatch, TokenRange, adjacent
from selfedit.model.packed.network import Network
from selfedit.model.packed.packing import common_prefix
from selfedit.model.sampling import Continuation, choose

SHARED_PREFIX = 16
"""Prompts that share at least this many tokens have them read once."""
QUERIES = 512
"""Tokens of a prompt that look at those before them at once: the memory that this takes is linear in the prompt."""
PREFILL_TOKENS = 4096
"""Tokens of prompts that are read together, approximately: more would not be faster, only need more memory."""
LENGTH_STEP = 64
"""Tokens: the length of the cache is a multiple of this, so that most newcomers fit without a copy of the cache."""
DRAFT_ROWS = 64
"""Tokens of a draft that are compared at once: their logits are 39 MB with 152,000 tokens."""


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
    check_requests(requests, network.shape.max_positions)
    texts = [Continuation(request) for request in requests]
    total = later = sum(request.max_new_tokens for request in requests)
    decoder = Decoder(network, chat, rows, adapters)
    waiting = sorted(texts, key=lambda text: ranking(text.request))
    together = decoder.rows_that_fit(max((r.most_tokens for r in requests), default=1))
    for low in range(0, len(waiting), together):
        batch = waiting[low : low + together]
        later -= sum(text.request.max_new_tokens for text in batch)
        decoder.join(batch)
        while decoder.rows:
            left = sum(text.request.max_new_tokens - len(text.tokens) for text in decoder.rows)
            on_token(total - later - left, total)
            decoder.step()
        on_token(total - later, total)
    return [text.tokens for text in texts]


def ranking(request: Request) -> tuple:
    """Sorts requests that share what the base model reads side by side, then those of one adapter."""
    row = -1 if request.adapter is None else request.adapter
    return request.tokens[: request.read_by_base], row, request.tokens


class Decoder:
    """The rows of a running batch and their cache. What a row has not filled of the cache is zero: attention hides it,
    but a NaN that another row left there would pass through the mask."""

    def __init__(self, network: Network, chat: Chat, max_rows: int, adapters: LoraBatch | None = None):
        self.network, self.chat, self.max_rows, self.adapters = network, chat, max_rows, adapters
        self.rows: list[Continuation] = []
        """In the order of the cache."""
        shape = network.shape
        empty = torch.zeros(0, shape.kv_heads, 0, shape.head_dim, device=network.device, dtype=network.dtype)
        self.keys, self.values = [empty] * shape.layers, [empty] * shape.layers
        """[B, K, C, D] of each layer, with room for more rows and tokens than there are."""

    def rows_that_fit(self, longest: int) -> int:
        """Rows of so many tokens whose keys and values fit into the working memory; at least one."""
        shape = self.network.shape
        token_bytes = 2 * shape.layers * shape.kv_heads * shape.head_dim * self.network.dtype.itemsize
        return max(1, min(self.max_rows, self.network.working_bytes // (_cache_length(longest) * token_bytes)))

    @torch.inference_mode()
    def join(self, newcomers: Sequence[Continuation]) -> list[tuple[Continuation, int | None]]:
        """Reads the prompts of the newcomers and writes their first tokens; returns what `step` returns."""
        newcomers = sorted(newcomers, key=lambda text: ranking(text.request))
        self._make_room(newcomers)
        events, last = [], []
        for part in self._parts(newcomers):
            drafts = [self._draft(text.request) for text in part]
            states = self._prefill([text.request for text in part], drafts)
            self.rows += part
            for text, draft, of_text in zip(part, drafts, states.split([1 + len(draft) for draft in drafts])):
                accepted = self._accepted(draft, of_text)
                last.append(of_text[accepted])
                for token in draft[:accepted]:
                    events += [(text, event) for event in text.write(token, self.chat)]
                if accepted < len(draft):
                    self._clear(text, len(text.request.tokens) + accepted)
        return events + self._write(self.network.logits(torch.stack(last)), newcomers)

    def _parts(self, newcomers: Sequence[Continuation]) -> Iterator[list[Continuation]]:
        """Sorted newcomers in parts of about PREFILL_TOKENS; tokens that a prompt shares with the one before it do not
        count."""
        part, size, before = [], 0, ()
        for text in newcomers:
            tokens = text.request.tokens
            whole = len(tokens) + len(text.request.draft)
            shared = common_prefix(before, tokens, min(len(before), len(tokens)))
            if part and size + whole - shared > PREFILL_TOKENS:
                yield part
                part, size, shared = [], 0, 0
            part.append(text)
            size, before = size + whole - shared, tokens
        if part:
            yield part

    def _draft(self, request: Request) -> tuple[int, ...]:
        """The part of the draft that the text may begin with: at least its last token is left to be written."""
        is_greedy = not (request.temperature or request.allow or request.stop)
        usable = request.draft[: request.max_new_tokens - 1] if is_greedy else ()
        return tuple(takewhile(lambda token: token not in self.chat.ends, usable))

    def _accepted(self, draft: tuple[int, ...], states: Tensor) -> int:
        """How many tokens of the draft are the most probable ones. `states` [1 + draft, hidden]: behind the prompt and
        behind each token of the draft."""
        for low in range(0, len(draft), DRAFT_ROWS):
            part = draft[low : low + DRAFT_ROWS]
            best = self.network.logits(states[low : low + len(part)]).argmax(1).tolist()
            if (right := common_prefix(part, best, len(part))) < len(part):
                return low + right
        return len(draft)

    @torch.inference_mode()
    def step(self) -> list[tuple[Continuation, int | None]]:
        """Writes one more token of every row: the tokens, and None for each row that ends and leaves."""
        return self._write(*self._read_last_tokens()) if self.rows else []

    @torch.inference_mode()
    def remove(self, leaving: Iterable[Continuation]) -> None:
        """Removes rows: the last ones move to their places."""
        leaving = set(leaving)
        used, staying = self._used, [i for i, row in enumerate(self.rows) if row not in leaving]
        count, end = len(staying), len(self.rows)
        moved = [i for i in staying if i >= count]
        free = [i for i in range(count) if self.rows[i] in leaving]
        for cache in (*self.keys, *self.values):
            part = cache[:end, :, :used]
            if moved:
                part[free] = part[moved]
            part[count:].zero_()
        for place, i in zip(free, moved):
            self.rows[place] = self.rows[i]
        del self.rows[count:]

    def _clear(self, row: Continuation, start: int) -> None:
        """Empties the cache of a row from a token on."""
        place = self.rows.index(row)
        for cache in (*self.keys, *self.values):
            cache[place, :, start:].zero_()

    @property
    def _used(self) -> int:
        """No row has filled more places of the cache."""
        return max((len(row.request.tokens) + len(row.tokens) for row in self.rows), default=0)

    def _write(self, logits: Tensor, rows: Sequence[Continuation]) -> list[tuple[Continuation, int | None]]:
        tokens = choose(logits, rows)
        events = [(row, event) for row, token in zip(rows, tokens) for event in row.write(token, self.chat)]
        if ended := [row for row, event in events if event is None]:
            self.remove(ended)
        return events

    def _make_room(self, newcomers: Sequence[Continuation]) -> None:
        """Enlarges the cache if they do not fit: to twice the rows if some run already, since more may follow."""
        rows, _, length, _ = self.keys[0].shape
        count = len(self.rows) + len(newcomers)
        needed = _cache_length(max(text.request.most_tokens for text in (*self.rows, *newcomers)))
        if count <= rows and needed <= length:
            return
        if self.rows_that_fit(length) >= count:
            needed = max(needed, length)
        rows = max(count, min(2 * count, self.rows_that_fit(needed))) if self.rows else count
        used = self._used
        for caches in (self.keys, self.values):
            for layer, old in enumerate(caches):
                caches[layer] = old.new_zeros(rows, old.shape[1], needed, old.shape[3])
                caches[layer][: len(self.rows), :, :used] = old[: len(self.rows), :, :used]

    def _ranges(self, parts: list[tuple[Request, int, int]]) -> list[TokenRange]:
        """The ranges of adjacent tokens on which the same adapter acts. `parts`: (request, low, high): tokens low to
        high of a request's prompt and answer, one part after another."""
        spans, start = [], 0
        for request, low, high in parts:
            end = start + high - low
            spans.append((request.adapter, start + max(0, request.read_by_base - low), end))
            start = end
        return adjacent(spans)

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

    def _prefill(self, requests: list[Request], drafts: list[tuple[int, ...]]) -> Tensor:
        """Reads prompts with the drafts of their texts into the cache behind the rows. The states behind the prompt
        and behind each token of its draft, [B + tokens of all drafts, hidden]."""
        groups = _groups(requests)
        prefixes = [(requests[rows[0]], shared, self._places(rows)) for shared, rows in groups if shared]
        device = self.network.device
        if prefixes:
            lengths = [shared for _, shared, _ in prefixes]
            packed = self.network.attention(lengths)

            def read_prefix(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                for (_, shared, cached), k_part, v_part in zip(prefixes, k.split(lengths), v.split(lengths)):
                    self.keys[layer][cached, :, :shared] = k_part.transpose(0, 1)
                    self.values[layer][cached, :, :shared] = v_part.transpose(0, 1)
                return packed(layer, q, k, v)

            tokens = torch.tensor([t for r, shared, _ in prefixes for t in r.tokens[:shared]], device=device)
            ranges = self._ranges([(request, 0, shared) for request, shared, _ in prefixes])
            self.network.run(self.network.embed(tokens), packed.positions, read_prefix, self._linear(ranges))
        return self._read_suffixes(requests, drafts, groups)

    def _places(self, newcomers: range) -> slice:
        """The rows of the cache that they get."""
        return slice(len(self.rows) + newcomers.start, len(self.rows) + newcomers.stop)

    def _read_suffixes(
        self, requests: list[Request], drafts: list[tuple[int, ...]], groups: list[tuple[int, range]]
    ) -> Tensor:
        device = self.network.device
        suffixes = [requests[i].tokens[shared:] + drafts[i] for shared, rows in groups for i in rows]
        lengths = [len(s) for s in suffixes]
        starts = [shared for shared, rows in groups for _ in rows]
        positions = torch.cat([torch.arange(start, start + length) for start, length in zip(starts, lengths)])
        cache_rows = torch.arange(len(self.rows), len(self.rows) + len(requests))
        where = self._cache_indices(cache_rows.repeat_interleave(torch.tensor(lengths)), positions).to(device)
        group_sizes = [lengths[rows[0] : rows[-1] + 1] for _, rows in groups]
        kv_heads = self.network.shape.kv_heads
        sharing = self.network.shape.heads // kv_heads
        windows = self.network.shape.windows

        @lru_cache(maxsize=len(groups) * len({*windows} or {0}))  # short prompts need the same ones in each layer
        def mask_of(shared: int, low: int, high: int, window: int) -> Tensor:
            """Which of the keys before `shared + high` the queries low to high of a suffix see."""
            mask = torch.ones(high - low, shared + high, dtype=torch.bool, device=device).tril(shared + low)
            return (mask.triu(shared + low - window + 1) if window else mask).repeat(sharing, 1)

        def read_suffix(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._store(layer, where, k, v)
            out = []
            window = windows[layer] if windows else 0
            for (shared, rows), sizes, queries in zip(groups, group_sizes, q.split(list(map(sum, group_sizes)))):
                padded = torch.nn.utils.rnn.pad_sequence(queries.split(sizes), batch_first=True)
                padded = padded.unflatten(2, (kv_heads, sharing)).permute(0, 2, 3, 1, 4)
                parts = []
                for low in range(0, max(sizes), QUERIES):
                    part = padded[:, :, :, low : low + QUERIES]
                    high = low + part.shape[3]
                    cached = self._places(rows), slice(None), slice(shared + high)
                    o = F.scaled_dot_product_attention(
                        part.flatten(2, 3),  # the G heads that share keys, as G queries
                        self.keys[layer][cached],
                        self.values[layer][cached],
                        attn_mask=mask_of(shared, low, high, window),
                    )
                    parts.append(o.unflatten(2, (sharing, -1)))
                o = torch.cat(parts, 3).permute(0, 3, 1, 2, 4).flatten(2)
                out.extend(o[j, :length] for j, length in enumerate(sizes))
            return torch.cat(out)

        ranges = self._ranges([(r, start, start + length) for r, start, length in zip(requests, starts, lengths)])
        tokens = torch.tensor([t for s in suffixes for t in s], device=device)
        x = self.network.run(self.network.embed(tokens), positions.to(device), read_suffix, self._linear(ranges))
        ends = accumulate(lengths)
        return x[[i for end, draft in zip(ends, drafts) for i in range(end - 1 - len(draft), end)]]

    def _read_last_tokens(self) -> tuple[Tensor, list[Continuation]]:
        """The last token of every row into the cache; logits [B, vocab] of the next, and their rows: those of one
        adapter side by side, in whatever order the cache has them."""
        device, shape, count = self.network.device, self.network.shape, len(self.rows)
        order = sorted(range(count), key=lambda i: -1 if (a := self.rows[i].request.adapter) is None else a)
        rows, sorted_already = [self.rows[i] for i in order], order == list(range(count))
        ends = [len(row.request.tokens) + len(row.tokens) for row in rows]
        longest = max(ends)
        positions, cache_rows = torch.tensor(ends, device=device) - 1, torch.tensor(order, device=device)
        where = self._cache_indices(cache_rows, positions)
        token_rows = cache_rows.argsort()  # of each row of the cache

        def mask_of(window: int) -> Tensor | None:
            if count == 1 and not window:
                return None
            place, last = torch.arange(longest, device=device), positions[token_rows, None]
            hidden = place > last
            if window:
                hidden |= place <= last - window
            mask = torch.zeros(count, longest, device=device, dtype=self.network.dtype)
            return mask.masked_fill_(hidden, float("-inf")).repeat_interleave(shape.kv_heads, 0)[:, None]

        masks = {window: mask_of(window) for window in {*shape.windows} or {0}}

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._store(layer, where, k, v)
            keys, values = (cache[layer][:count, :, :longest] for cache in (self.keys, self.values))
            mask = masks[shape.windows[layer] if shape.windows else 0]
            q = q if sorted_already else q[token_rows]
            grouped = q.view(count, shape.kv_heads, -1, shape.head_dim)  # the G heads that share keys, as G queries
            if mask is None:
                return F.scaled_dot_product_attention(grouped, keys, values).view(count, -1)
            # two batched products: a third faster than the fused kernel, which is made for many queries
            odds = torch.baddbmm(mask, grouped.flatten(0, 1), keys.flatten(0, 1).mT, alpha=shape.head_dim**-0.5)
            o = torch.bmm(odds.softmax(-1), values.flatten(0, 1)).reshape(count, -1)
            return o if sorted_already else o[cache_rows]

        ranges = self._ranges([(row.request, end - 1, end) for row, end in zip(rows, ends)])
        x = self.network.embed(torch.tensor([row.tokens[-1] for row in rows], device=device))
        x = self.network.run(x, positions, attend, self._linear(ranges))
        return self.network.logits(x), rows


def _cache_length(tokens: int) -> int:
    return -(-max(1, tokens) // LENGTH_STEP) * LENGTH_STEP


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
