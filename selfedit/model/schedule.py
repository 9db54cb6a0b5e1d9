"""The order and the learning rates in which one adapter studies its job; the same for every backend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from selfedit.config import TrainConfig
from selfedit.model.backend import Job, TrainLog
from selfedit.model.chat import TokenizedExample


class Schedule:
    """One adapter's way through its job: batches in an order drawn anew in every epoch, at a rate that falls to 0."""

    def __init__(self, job: Job, config: TrainConfig):
        self.job, self.config = job, config
        self.epochs = job.epochs or config.epochs
        self.peak = config.learning_rate if job.learning_rate is None else job.learning_rate
        sizes = [len(job.studied_in(epoch, self.epochs)) for epoch in range(self.epochs)]
        self.batch_size = max(1, min(config.batch_size, round(sizes[0] / config.steps_per_epoch)))
        self.steps = sum(math.ceil(size / self.batch_size) for size in sizes)
        self.examples = sum(sizes)
        """Over all epochs."""
        self.generator = torch.Generator().manual_seed(job.seed)
        self._losses: dict[tuple[int, ...], list[float]] = {}
        """Of the answers, by their tokens: the mean loss of each example of the current epoch."""
        self._done = self._share = 0.0
        """The share of the whole job that is done, and the share of a step of the current epoch."""

    @property
    def tokens_per_step(self) -> int:
        """On average, over all epochs."""
        epochs = (self.job.studied_in(epoch, self.epochs) for epoch in range(self.epochs))
        return sum(len(example.tokens) for examples in epochs for example in examples) // self.steps

    def batches(self, epoch: int) -> list[Sequence[TokenizedExample]]:
        """Of an epoch; to be called once for each, in their order, since the order is drawn from one generator."""
        examples = self.job.studied_in(epoch, self.epochs)
        order = [examples[i] for i in torch.randperm(len(examples), generator=self.generator).tolist()]
        order = self._left(order)
        batches = [order[low : low + self.batch_size] for low in range(0, len(order), self.batch_size)]
        self._done, self._share = epoch / self.epochs, 1 / (self.epochs * len(batches))
        return batches

    def left_after(self, epoch: int) -> int:
        """Examples of the later epochs."""
        return sum(len(self.job.studied_in(later, self.epochs)) for later in range(epoch + 1, self.epochs))

    def _left(self, examples: list[TokenizedExample]) -> list[TokenizedExample]:
        """Without further examples of answers that are known; one each stays, so that they are not forgotten."""
        known = {key for key, losses in self._losses.items() if sum(losses) < self.config.known_loss * len(losses)}
        self._losses.clear()
        left, seen = [], set()
        for example in examples:
            key = tuple(example.targets)
            if key not in seen:
                left.append(example)
            if key in known:
                seen.add(key)
        return left

    def study(self, example: TokenizedExample, loss: float) -> None:
        """Notes the loss of an example (mean over its labels, in nats) in the current epoch."""
        self._losses.setdefault(tuple(example.targets), []).append(loss)

    def next_rate(self) -> float:
        """The rate of the next step of the current epoch."""
        rate = self.peak * (1 - self._done)
        self._done += self._share
        return rate

    def is_known(self, log: TrainLog) -> bool:
        """Whether the loss of the last epoch in the log is low enough. The update that would follow is left out: what
        was measured is what is kept."""
        return log.losses[-1] < self.config.stop_loss and log.largest[-1] <= self.config.stop_largest
