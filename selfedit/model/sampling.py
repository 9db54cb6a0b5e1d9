"""Logits of the next token → the token: greedy or drawn, under a grammar if the request has one.

Every request draws from its own seed, so that its text does not depend on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selfedit.model.backend import Request
from selfedit.model.chat import Chat


class Continuation:
    """A request, the tokens that have been written for it, and its random state."""

    def __init__(self, request: Request):
        self.request = request
        self.tokens: list[int] = []
        self.generator = torch.Generator().manual_seed(request.seed) if request.temperature else None

    def write(self, token: int, chat: Chat) -> list[int | None]:
        """What a chosen token adds: the token unless it is an end token, and None if the text ends with it."""
        if token in chat.ends:
            return [None]
        self.tokens.append(token)
        is_full = len(self.tokens) >= self.request.max_new_tokens
        return [token, None] if is_full or self._is_stopped(chat) else [token]

    def _is_stopped(self, chat: Chat) -> bool:
        stop = self.request.stop
        return bool(stop and not chat.breaks.isdisjoint(self.tokens[-2:]) and stop(chat.decode(self.tokens)))


def choose(logits: Tensor, rows: Sequence[Continuation]) -> list[int]:
    """Logits [B, vocabulary] → the next token of each row. Changes the logits of requests with a grammar."""
    for logit_row, row in zip(logits, rows):
        if allow := row.request.allow:
            allowed = torch.as_tensor(allow(row.tokens), device=logits.device)
            kept = logit_row[allowed]
            logit_row.fill_(float("-inf")).index_copy_(0, allowed, kept)
    tokens = logits.argmax(1).tolist()
    drawing = [(i, row.request, row.generator) for i, row in enumerate(rows) if row.generator]
    if not drawing:
        return tokens
    values, ids = logits.float().topk(min(logits.shape[1], max(request.top_k for _, request, _ in drawing)), 1)
    values, ids = values.cpu(), ids.cpu()
    for i, request, generator in drawing:
        odds = (values[i, : request.top_k] / request.temperature).softmax(0)
        is_likely = odds.cumsum(0) - odds < request.top_p
        is_likely[0] = True  # top_p may be too small for a float
        odds = odds * is_likely
        cumulative = odds.cumsum(0)
        draw = torch.rand((), generator=generator) * cumulative[-1]
        tokens[i] = int(ids[i, min(int((cumulative <= draw).sum()), int(odds.nonzero()[-1]))])
    return tokens
