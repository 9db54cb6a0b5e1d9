"""N jobs → N trained adapters: the inner loop.

Each adapter has its own examples, rate, epochs and seed, and ends up exactly where it would alone: the loss is the sum
over adapters of each one's own mean, and clipping and AdamW work on each one's row. What makes it fast: the adapters
share every product with the frozen weights; there is no padding; each core computes a part of every step by itself; a
chat header is computed once per batch; logits exist only for labels; the activations below the first adapted layer are
computed once and reused in every epoch; an adapter that is done leaves the batch.
The reference is the `peft` library, one adapter at a time: tests/test_train.py and tests/test_backend.py compare.

Axes: N adapters, T packed tokens, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from selfedit.config import TrainConfig
from selfedit.model.backend import Cut, Job, OnStep, TrainLog, lora_config, no_steps
from selfedit.model.chat import TokenizedExample
from selfedit.model.packed.distill import softened
from selfedit.model.packed.frozen import FrozenBelow
from selfedit.model.packed.lora import Gradients, LoraBatch, TokenRange
from selfedit.model.packed.network import Linear, LinearFn, Network, Vocabulary, rms_norm
from selfedit.model.packed.openmp import limit_threads
from selfedit.model.packed.packing import Packing, pack, passes
from selfedit.model.packed.score import LABELS_PER_PASS
from selfedit.model.schedule import Schedule

TOKENS_PER_WORKER = 64
"""A step is shared out among threads if each has at least about so many."""


def train(
    network: Network,
    jobs: Sequence[Job],
    config: TrainConfig,
    *,
    start: LoraBatch | None = None,
    cut: Cut | None = None,
    vocabulary: Iterable[int] | None = None,
    on_step: OnStep = no_steps,
) -> tuple[LoraBatch, list[TrainLog]]:
    """As `Backend.train`."""
    assert jobs and all(job.examples for job in jobs), "every job needs an example"
    jobs = softened(network, jobs)
    adapters = start
    if adapters is None:
        adapters = LoraBatch(network.shape, lora_config(network.shape.layers, config), len(jobs), network.device)
        for i, job in enumerate(jobs):
            adapters.init_(i, job.seed)
    runs = [_Run(i, Schedule(job, config), adapters) for i, job in enumerate(jobs)]
    total = sum(run.left for run in runs)
    with _Workers(adapters, sum(run.schedule.tokens_per_step for run in runs)) as workers:
        texts = (example.tokens for job in jobs for example in job.examples + job.once)
        frozen = FrozenBelow(network, adapters.config.layers[0], texts, workers.map, len(workers.gradients))
        if config.rivals and vocabulary is None:
            vocabularies = workers.map(partial(_vocabulary, network, frozen, count=config.rivals), jobs)
        else:
            vocabularies = [Vocabulary(network, vocabulary)] * len(jobs)
        while going := [run for run in runs if not run.finished]:
            active = [run for run in going if cut is None or len(run.log.losses) < cut.epochs]
            if not active:
                for row in cut.losers(adapters):
                    runs[row].stop_()
                cut = None
                continue
            shares = _shares([run.next_work() for run in active], len(workers.gradients))

            def study(share: list[_Work], gradients: Gradients) -> None:
                sizes = [sum(len(s.tokens) for s in work.sequences) for work in share]
                for part in passes(range(len(share)), sizes):  # never inside an adapter
                    _backward(network, adapters, gradients, frozen, vocabularies, [share[i] for i in part])

            workers.map(study, shares, workers.gradients)
            done: dict[int, list] = {run.row: [] for run in active}
            for share, gradients in zip(shares, workers.gradients):
                for work in share:
                    done[work.run.row].append((work, gradients.flat[work.run.row]))
            workers.map(_Run.update_, active, list(done.values()))
            on_step(total - sum(run.left for run in runs), total)
    return adapters, [run.log for run in runs]


class _Workers:
    """Threads that share each step: each trains on a part of its examples, on its own cores, into its own gradients.

    On a CPU, products of a few hundred rows keep two cores busy only if each core computes separate products. A GPU has
    one worker.
    """

    def __init__(self, adapters: LoraBatch, tokens: int):
        """`tokens`: of an average step."""
        threads = torch.get_num_threads()
        count = min(threads, max(1, tokens // TOKENS_PER_WORKER)) if adapters.flat.device.type == "cpu" else 1
        self.gradients = [Gradients(adapters) for _ in range(count)]
        share = partial(limit_threads, threads // count)
        self.pool = ThreadPoolExecutor(count, initializer=share) if count > 1 else None

    def map(self, function: Callable, *items: Sequence) -> list:
        """As `map`; a single call is made by the calling thread, on all cores."""
        calls = self.pool.map if self.pool and min(map(len, items)) > 1 else map
        return list(calls(function, *items))

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *error) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


class _Run:
    """One adapter's progress: what it studies next, its optimizer, its log."""

    def __init__(self, row: int, schedule: Schedule, adapters: LoraBatch):
        self.row, self.schedule, self.config = row, schedule, schedule.config
        self.parameter = adapters.flat[row].requires_grad_()
        self.optimizer = torch.optim.AdamW(
            [self.parameter],
            lr=schedule.peak,
            betas=(self.config.beta1, self.config.beta2),
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.log = TrainLog()
        self.finished = False
        self.left = schedule.examples
        """Examples to study, over all epochs."""
        self._batches: list[Sequence[TokenizedExample]] = []
        self._epoch_loss: list[Tensor] = []
        self._largest = 0.0

    def next_work(self) -> _Work:
        """The next step's examples."""
        if not self._batches:
            self._batches = self.schedule.batches(len(self.log.losses))
            self.left = self.schedule.left_after(len(self.log.losses)) + sum(map(len, self._batches))
        batch = self._batches.pop(0)
        return _Work(self, list(batch), 1.0 / sum(example.labels for example in batch))

    def update_(self, done: list[tuple[_Work, Tensor]]) -> None:
        """Notes the losses and, unless the whole run is over, clips and steps. `done`: the step's work and its
        gradients, by worker."""
        self._note(done)
        if not self._batches and self.schedule.is_known(self.log):
            self.stop_()
            return
        gradient = done[0][1]
        for _, other in done[1:]:
            gradient.add_(other)
        if self.config.clip:
            norm = torch.linalg.vector_norm(gradient)
            gradient.mul_((self.config.clip / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.param_groups[0]["lr"] = self.schedule.next_rate()
        self.parameter.grad = gradient
        self.optimizer.step()
        self.log.steps += 1
        if len(self.log.losses) == self.schedule.epochs:
            self.stop_()

    def _note(self, done: list[tuple[_Work, Tensor]]) -> None:
        self._epoch_loss.append(sum(work.losses.sum() for work, _ in done))
        if self.config.stop_loss:
            self._largest = max(self._largest, *((work.losses.max() / work.weight).item() for work, _ in done))
        for work, _ in done:
            if self.config.known_loss:
                for example, loss in zip(work.sequences, work.losses.split([s.labels for s in work.sequences])):
                    self.schedule.study(example, loss.sum().item() / (work.weight * example.labels))
            self.log.tokens += sum(len(example.tokens) for example in work.sequences)
            self.log.rows += work.rows
            self.left -= len(work.sequences)
        if not self._batches:
            self.log.losses.append(torch.stack(self._epoch_loss).mean().item())
            self.log.largest.append(self._largest)
            self._epoch_loss.clear()
            self._largest = 0.0

    def stop_(self) -> None:
        self.finished, self.left = True, 0
        self.parameter.grad, self.optimizer = None, None


@dataclass
class _Work:
    """Sequences of one adapter's step: all of them, or some."""

    run: _Run
    sequences: list[TokenizedExample]
    weight: float
    """Of a label's loss: 1 over the labels of the whole step."""
    losses: Tensor | None = None
    """The share of each label in the step's mean loss, once it is done."""
    rows: int = 0
    """Packed rows it took."""


def _shares(works: list[_Work], count: int) -> list[list[_Work]]:
    """A step in at most `count` shares of about as many tokens, none of which is empty.

    Where an adapter has several sequences, they are side by side, so that few adapters are in two shares."""
    count = min(count, sum(len(work.sequences) for work in works))
    shares: list[list[_Work]] = [[] for _ in range(count)]
    if all(len(work.sequences) == 1 for work in works):
        sizes = [0] * count
        for work in sorted(works, key=lambda work: len(work.sequences[0].tokens), reverse=True):
            smallest = sizes.index(min(sizes))
            shares[smallest].append(work)
            sizes[smallest] += len(work.sequences[0].tokens)
        return shares
    total, before = sum(len(s.tokens) for work in works for s in work.sequences), 0
    for work in works:
        for sequence in work.sequences:
            share = shares[int((before + len(sequence.tokens) / 2) * count / total)]
            before += len(sequence.tokens)
            if not share or share[-1].run is not work.run:
                share.append(_Work(work.run, [], work.weight))
            share[-1].sequences.append(sequence)
    return [share for share in shares if share]


def _backward(
    network: Network,
    adapters: LoraBatch,
    gradients: Gradients,
    frozen: FrozenBelow,
    vocabularies: list[Vocabulary],
    part: list[_Work],
) -> None:
    """Computes the losses, and writes the gradients into the rows of the adapters. `vocabularies`: of each adapter."""
    studied = [sequence for work in part for sequence in work.sequences]
    packing = pack(studied, [work.run.row for work in part for _ in work.sequences])
    ranges, done = [], 0
    for work in part:
        own, done = packing.rows[done : done + len(work.sequences)], done + len(work.sequences)
        ranges.append(TokenRange(work.run.row, own[0][0], own[-1][1]))
        work.rows = own[-1][1] - own[0][0]
    hidden = _at_labels(network, frozen, studied, packing, adapters.linear(network, ranges, gradients))
    total, start = 0.0, 0
    for vocabulary, works in groupby(part, key=lambda work: vocabularies[work.run.row]):
        works = list(works)
        counts = [sum(s.labels for s in work.sequences) for work in works]
        weights = torch.cat([torch.full((n,), work.weight) for n, work in zip(counts, works)]).to(network.device)
        tokens, odds = _targets([sequence for work in works for sequence in work.sequences], network.device)
        own, start = hidden[start : start + len(weights)], start + len(weights)
        losses = HeadLoss.apply(own, vocabulary.head, vocabulary.label_indices(tokens), odds, weights)
        total = total + losses.sum()
        for work, of_work in zip(works, losses.detach().split(counts)):
            work.losses = of_work
    total.backward()


def _at_labels(
    network: Network,
    frozen: FrozenBelow,
    studied: Sequence[TokenizedExample],
    packing: Packing,
    linear: LinearFn | None = None,
) -> Tensor:
    """The hidden states [L, hidden] from which the labels are predicted."""
    states = [frozen[sequence.tokens][common:] for sequence, (_, common) in zip(studied, packing.shared)]
    attention = network.attention(packing.lengths, packing.shared)
    layers = range(frozen.first_layer, network.shape.layers)
    x = network.run(torch.cat(states), attention.positions, attention, linear, layers)
    return rms_norm(x[torch.tensor(packing.label_rows, device=network.device)], network.norm, network.shape.eps)


@torch.no_grad()
def _vocabulary(network: Network, frozen: FrozenBelow, job: Job, count: int) -> Vocabulary:
    """The tokens that a job studies, and at each label the `count` tokens that the untouched model finds likeliest."""
    studied = job.examples + job.once
    tokens = {token for example in studied for token in example.tokens}
    count = min(count, network.shape.vocab)
    for part in passes(range(len(studied)), [len(example.tokens) for example in studied]):
        own = [studied[i] for i in part]
        tokens.update(token for example in own if example.soft for token in example.soft.tokens.unique().tolist())
        for rows in _at_labels(network, frozen, own, pack(own, [None] * len(own))).split(HeadLoss.ROWS):
            tokens.update(network.head.trained(rows).topk(count).indices.unique().tolist())
    return Vocabulary(network, tokens)


def _targets(studied: list[TokenizedExample], device) -> tuple[Tensor, Tensor]:
    """Tokens and probabilities [L, K] of all labels; K is 1 if no label is soft. A label with fewer tokens repeats one
    of them, with the probability 0."""
    width = max((s.soft.tokens.shape[1] for s in studied if s.soft), default=1)
    count = sum(s.labels for s in studied)
    tokens, odds = torch.zeros(count, width, dtype=torch.long), torch.zeros(count, width)
    row = 0
    for s in studied:
        own = slice(row, row + s.labels)
        if s.soft:
            tokens[own] = s.soft.tokens[:, :1]
            tokens[own, : s.soft.tokens.shape[1]], odds[own, : s.soft.odds.shape[1]] = s.soft.tokens, s.soft.odds
        else:
            tokens[own], odds[own, 0] = torch.tensor(s.targets)[:, None], 1.0
        row = own.stop
    return tokens.to(device), odds.to(device)


class HeadLoss(torch.autograd.Function):
    """Hidden states [L, hidden] → the weighted divergence [L] of soft labels from the predicted distributions.

    A label is K tokens with their probabilities, [L, K] each; with K = 1 the loss is cross-entropy. The gradient is
    computed together with the loss, a block of labels at a time: the logits of all labels are never in memory together.
    """

    ROWS = LABELS_PER_PASS

    @staticmethod
    def forward(ctx, hidden: Tensor, head: Linear, targets: Tensor, odds: Tensor, weights: Tensor) -> Tensor:
        losses, gradient = torch.empty_like(weights), torch.empty_like(hidden)
        for low in range(0, len(targets), HeadLoss.ROWS):
            rows = slice(low, low + HeadLoss.ROWS)
            logits = head.product(hidden[rows]).to(weights.dtype)
            target, share, weight = targets[rows], odds[rows].to(weights.dtype), weights[rows, None]
            total = torch.logsumexp(logits, 1, keepdim=True)
            surprise = total - logits.gather(1, target) + torch.where(share > 0, share, 1.0).log()
            losses[rows] = (share * surprise).sum(1) * weight[:, 0]
            probabilities = logits.sub_(total).exp_()
            probabilities.scatter_add_(1, target, -share).mul_(weight)
            gradient[rows] = head.back(probabilities.to(hidden.dtype))
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx, grad: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * grad[:, None].to(gradient.dtype), None, None, None, None
