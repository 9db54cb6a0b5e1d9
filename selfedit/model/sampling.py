"""Logits of the next token → the token: greedy or drawn, under a grammar if the request has one.

Every request draws from its own seed, so that its text does not depend on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selfedit.model.backend import Request


class Sampler:
    """The random state of a batch of requests."""

    def __init__(self, requests: Sequence[Request]):
        self.requests = requests
        self.generators = [torch.Generator().manual_seed(r.seed) if r.temperature else None for r in requests]

    def choose(self, logits: Tensor, rows: Sequence[int], answers: Sequence[Sequence[int]]) -> list[int]:
        """Logits [B, vocabulary] → one token per row; row b continues request `rows[b]`, whose answer so far is
        `answers[rows[b]]`. Changes the logits of requests with a grammar."""
        for logit_row, i in zip(logits, rows):
            if allow := self.requests[i].allow:
                allowed = torch.tensor(allow(answers[i]), device=logits.device)
                kept = logit_row[allowed]
                logit_row.fill_(float("-inf")).index_copy_(0, allowed, kept)
        tokens = logits.argmax(1).tolist()
        drawing = [(row, i) for row, i in enumerate(rows) if self.requests[i].temperature]
        if not drawing:
            return tokens
        values, ids = logits.float().topk(min(logits.shape[1], max(self.requests[i].top_k for _, i in drawing)), 1)
        values, ids = values.cpu(), ids.cpu()
        for row, i in drawing:
            request = self.requests[i]
            odds = (values[row, : request.top_k] / request.temperature).softmax(0)
            odds = odds * (odds.cumsum(0) - odds < request.top_p)
            cumulative = odds.cumsum(0)
            draw = torch.rand((), generator=self.generators[i]) * cumulative[-1]
            tokens[row] = int(ids[row, min(int((cumulative <= draw).sum()), int(odds.nonzero()[-1]))])
        return tokens
