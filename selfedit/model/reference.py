"""The reference backend: `transformers` runs the model, `peft` adapts it, one adapter and one text at a time.

It is slow and simple. It exists for two reasons: the tests compare the fast backend with it, and it runs every causal
language model that `transformers` loads. In: the same records as every backend (model/backend.py).

Left out: batches, packing, reuse of a prompt's beginning, bf16 training.

Axes: T tokens, L labels, V vocabulary, R rank, I in, O out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from os.path import commonprefix
from pathlib import Path

import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from selfedit.config import ALL_LINEAR, TrainConfig
from selfedit.errors import AdapterError, ModelError
from selfedit.model import four_bits
from selfedit.model.backend import (
    Cut,
    Job,
    LoraConfig,
    OnStep,
    Request,
    TrainLog,
    check_lengths,
    check_requests,
    lora_config,
    no_steps,
)
from selfedit.model.chat import Chat, SoftLabels, TokenizedExample
from selfedit.model.peft_folder import check_tensors, read_adapter, read_config, write_adapter
from selfedit.model.sampling import Continuation, choose
from selfedit.model.schedule import Schedule
from selfedit.model.shape import GROUPS, MODULES

TEACHER_TOKENS = 16
"""Tokens that a soft label keeps, as in the packed backend."""
_LAYER = re.compile(r"(?:.*?\.)?(?P<index>\d+)\.(?P<path>\D+)")


@dataclass
class ReferenceAdapters:
    """N adapters, each as its tensors under PEFT's names."""

    config: LoraConfig
    tensors: list[dict[str, Tensor]]

    @property
    def count(self) -> int:
        return len(self.tensors)

    def subset(self, rows: Sequence[int]) -> ReferenceAdapters:
        copies = [{name: tensor.clone() for name, tensor in self.tensors[row].items()} for row in rows]
        return ReferenceAdapters(self.config, copies)

    def put(self, row: int, other: ReferenceAdapters, other_row: int) -> None:
        self.tensors[row] = {name: tensor.clone() for name, tensor in other.tensors[other_row].items()}

    def as_stored(self) -> ReferenceAdapters:
        return ReferenceAdapters(self.config, [four_bits.rounded(tensors) for tensors in self.tensors])


class ReferenceBackend:
    name = "reference"

    def __init__(self, model, chat: Chat, fingerprint: str):
        self.model, self.chat, self.fingerprint = model, chat, fingerprint
        self.device, self.dtype = model.device, model.dtype
        self.precision = {torch.float32: "fp32", torch.float64: "fp64"}.get(model.dtype, "bf16")
        self.layer_modules = _linear_modules(model)
        """Linear module name (as in `modules` of a LoraConfig) → its full name in each layer that has it."""
        self.num_layers = 1 + max(layer for names in self.layer_modules.values() for layer in names)
        self.hidden_size = model.config.get_text_config().hidden_size
        self.max_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 20
        self._peft: tuple[LoraConfig, object] | None = None

    @property
    def low_precision(self) -> ReferenceBackend:
        return self

    # operations

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], adapters: ReferenceAdapters | None = None, *, on_token: OnStep = no_steps
    ) -> list[list[int]]:
        check_requests(requests, self.max_positions)
        total, done = sum(request.max_new_tokens for request in requests), 0
        answers = []
        for request in requests:
            written = Continuation(request)
            first = request.read_by_base if request.adapter is not None else 0
            with self._adapted(None, None) as model:
                read = model(input_ids=self._row(request.tokens[:first]), use_cache=True) if first else None
            with self._adapted(adapters, request.adapter) as model:
                if last := request.tokens[first:]:
                    past = read.past_key_values if read else None
                    read = model(input_ids=self._row(last), past_key_values=past, use_cache=True)
                while None not in written.write(choose(read.logits[:, -1].clone(), [written])[0], self.chat):
                    on_token(done + len(written.tokens), total)
                    token = self._row(written.tokens[-1:])
                    read = model(input_ids=token, past_key_values=read.past_key_values, use_cache=True)
            answers.append(written.tokens)
            done += request.max_new_tokens
            on_token(done, total)
        return answers

    def decoding(self, slots: int = 64) -> ReferenceDecoding:
        return ReferenceDecoding(self)

    @torch.no_grad()
    def gold_logprobs(
        self,
        examples: Sequence[tuple[TokenizedExample, int | None]],
        adapters: ReferenceAdapters | None = None,
        *,
        vocabulary: Iterable[int] | None = None,
    ) -> list[float]:
        vocabulary = None if vocabulary is None else set(vocabulary)
        means = []
        for example, row in examples:
            with self._adapted(adapters, row) as model:
                logprobs = self._label_logprobs(model, example, vocabulary)
            targets = torch.tensor(example.targets, device=self.device)
            means.append(logprobs.gather(1, targets[:, None]).mean().item())
        return means

    @torch.no_grad()
    def greedy_labels(self, examples: Sequence[tuple[TokenizedExample, int]], adapters: ReferenceAdapters) -> list[int]:
        counts = []
        for example, row in examples:
            with self._adapted(adapters, row) as model:
                best = self._label_logprobs(model, example, None).argmax(1).tolist()
            counts.append(len(commonprefix([best, example.targets])))
        return counts

    @torch.no_grad()
    def mean_states(self, examples: Sequence[TokenizedExample], layers: int) -> torch.Tensor:
        check_lengths((len(example.tokens) for example in examples), self.max_positions)
        means = []
        with self._adapted(None, None) as model:
            for example in examples:
                states = model(input_ids=self._row(example.tokens), output_hidden_states=True).hidden_states[layers]
                means.append(states[0, example.label_start :].float().mean(0).cpu())
        return torch.stack(means)

    @torch.no_grad()
    def divergences(self, examples: Sequence[TokenizedExample], adapters: ReferenceAdapters) -> list[float]:
        labels = sum(example.labels for example in examples)
        totals = [0.0] * adapters.count
        for example in examples:
            with self._adapted(None, None) as model:
                base = self._label_logprobs(model, example)
            for row in range(adapters.count):
                with self._adapted(adapters, row) as model:
                    adapted = self._label_logprobs(model, example)
                totals[row] += (base.exp() * (base - adapted)).sum().item()
        return [total / labels for total in totals]

    def train(
        self,
        jobs: Sequence[Job],
        config: TrainConfig,
        *,
        start: ReferenceAdapters | None = None,
        cut: Cut | None = None,
        vocabulary: Iterable[int] | None = None,
        on_step: OnStep = no_steps,
    ) -> tuple[ReferenceAdapters, list[TrainLog]]:
        check_lengths((len(e.tokens) for job in jobs for e in job.examples + job.once), self.max_positions)
        jobs = [replace(job, examples=self._softened(job.examples), once=self._softened(job.once)) for job in jobs]
        adapters = start or self._fresh(lora_config(self.num_layers, config), jobs)
        if config.rivals and vocabulary is None:
            vocabularies = [self._vocabulary(job, config.rivals) for job in jobs]
        else:
            vocabularies = [None if vocabulary is None else set(vocabulary)] * len(jobs)
        runs = [_Run(self, adapters, row, Schedule(job, config), vocabularies[row]) for row, job in enumerate(jobs)]
        total = sum(run.schedule.examples for run in runs)

        def report() -> None:
            on_step(total - sum(run.left for run in runs), total)

        if cut:
            for run in runs:
                run.study(cut.epochs, report)
            for row in cut.losers(adapters):
                runs[row].left = 0
        for run in runs:
            run.study(run.schedule.epochs, report)
        report()
        return adapters, [run.log for run in runs]

    @torch.no_grad()
    def _vocabulary(self, job: Job, count: int) -> set[int]:
        """The tokens that a job studies, and at each label the `count` tokens that the untouched model finds
        likeliest."""
        tokens: set[int] = set()
        with self._adapted(None, None) as model:
            for example in job.examples + job.once:
                tokens.update(example.tokens, example.soft.tokens.flatten().tolist() if example.soft else ())
                logprobs = self._label_logprobs(model, example)
                tokens.update(logprobs.topk(min(count, logprobs.shape[1])).indices.flatten().tolist())
        return tokens

    def save(
        self, adapters: ReferenceAdapters, row: int, folder: Path, base_model: str, *, small: bool = False
    ) -> None:
        write_adapter(folder, adapters.tensors[row], adapters.config, base_model, small)

    def load(self, folders: Sequence[Path]) -> ReferenceAdapters:
        configs = [read_config(folder, self.num_layers, list(self.layer_modules)) for folder in folders]
        if len(set(configs)) > 1:
            raise AdapterError("adapters of different rank, alpha, modules or layers cannot be loaded together")
        expected = {name: tuple(tensor.shape) for name, tensor in self._start(configs[0], 0).items()}
        tensors = []
        for folder in folders:
            read = read_adapter(folder)
            check_tensors(folder, read, expected)
            tensors.append({name: read[name].to(self.device, torch.get_default_dtype()) for name in expected})
        return ReferenceAdapters(configs[0], tensors)

    # adapters

    def _fresh(self, config: LoraConfig, jobs: Sequence[Job]) -> ReferenceAdapters:
        if set(config.modules) == set(ALL_LINEAR):
            config = replace(config, modules=tuple(self.layer_modules))
        if unknown := [name for name in config.modules if name not in self.layer_modules]:
            raise ModelError(f"the model has no module {unknown[0]!r}; it has {', '.join(self.layer_modules)}")
        return ReferenceAdapters(config, [self._start(config, job.seed) for job in jobs])

    def _start(self, config: LoraConfig, seed: int) -> dict[str, Tensor]:
        """PEFT's start under PEFT's names: A uniform in ±1/sqrt(I), B zero."""
        generator, tensors = torch.Generator().manual_seed(seed), {}
        others = [(name,) for name in config.modules if name not in MODULES]
        for layer in config.layers:
            for group in (*GROUPS.values(), *others):  # the packed backend draws the A of a group as one
                modules = [self.layer_modules[name] for name in group if name in config.modules]
                names = [names[layer] for names in modules if layer in names]
                if not names:
                    continue
                sizes = [_sizes(self.model.get_submodule(name)) for name in names]
                inputs = sizes[0][0]
                drawn = torch.empty(inputs, len(names) * config.rank)
                drawn.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
                for name, a, (_, outputs) in zip(names, drawn.split(config.rank, 1), sizes):
                    adapter, b = f"base_model.model.{name}.lora_", torch.zeros(outputs, config.rank)
                    tensors[f"{adapter}A.weight"] = a.t().contiguous().to(self.device)
                    tensors[f"{adapter}B.weight"] = b.to(self.device)
        return tensors

    @contextmanager
    def _adapted(self, adapters: ReferenceAdapters | None, row: int | None) -> Iterator:
        """The model with one adapter, or as it is."""
        if row is not None:
            model = self._peft_model(adapters.config)
            set_peft_model_state_dict(model, adapters.tensors[row])
            yield model
        elif self._peft is None:
            yield self.model
        else:
            with self._peft[1].disable_adapter():
                yield self._peft[1]

    def _peft_model(self, config: LoraConfig):
        """The model as `peft` wraps it for this configuration; only the last one is kept."""
        if self._peft is None or self._peft[0] != config:
            if self._peft is not None:
                self._peft[1].unload()
            targets = [
                name for m in config.modules for layer, name in self.layer_modules[m].items() if layer in config.layers
            ]
            wrapped = PeftConfig(
                r=config.rank, lora_alpha=config.alpha, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM"
            )
            self._peft = config, get_peft_model(self.model, wrapped, autocast_adapter_dtype=False).eval()
        return self._peft[1]

    # texts

    def _row(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor([list(tokens)], device=self.device)

    def _label_logprobs(self, model, example: TokenizedExample, vocabulary: Collection[int] | None = None) -> Tensor:
        """Log-probabilities [L, V] at the labels; −inf for tokens that are not in the vocabulary."""
        check_lengths([len(example.tokens)], self.max_positions)
        logits = model(input_ids=self._row(example.tokens), use_cache=False).logits[0]
        logits = logits[[position - 1 for position in example.label_positions]]
        if self.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        if vocabulary is not None:
            excluded = torch.ones(logits.shape[1], dtype=torch.bool, device=self.device)
            excluded[sorted(vocabulary)] = False
            logits = logits.masked_fill(excluded, -torch.inf)
        return logits.log_softmax(1)

    @torch.no_grad()
    def _softened(self, examples: Sequence[TokenizedExample]) -> tuple[TokenizedExample, ...]:
        """With the base model's distribution behind the teacher's prompt mixed into the labels."""
        result = []
        for example in examples:
            if example.distill:
                with self._adapted(None, None) as model:
                    mixed = self._label_logprobs(model, example.teacher).exp() * example.distill
                mixed[torch.arange(example.labels), example.teacher.targets] += 1 - example.distill
                odds, tokens = mixed.topk(min(TEACHER_TOKENS, mixed.shape[1]), 1)
                example = replace(example, soft=SoftLabels(tokens, odds / odds.sum(1, keepdim=True)))
            result.append(example)
        return tuple(result)


class ReferenceDecoding:
    """Each request is written as a whole by `generate` when it begins, and its tokens are returned one per step."""

    def __init__(self, backend: ReferenceBackend):
        self.backend = backend
        self._waiting: dict[int, tuple[Request, ReferenceAdapters | None]] = {}
        self._events: dict[int, deque[list[int | None]]] = {}
        """The events of each of the next steps, by key."""
        self._keys = count()

    @property
    def running(self) -> int:
        return len(self._waiting) + len(self._events)

    def add(self, requests: Sequence[tuple[Request, Path | None]]) -> list[int]:
        check_requests((request for request, _ in requests), self.backend.max_positions)
        adapters = [self.backend.load([folder]) if folder else None for _, folder in requests]
        keys = [next(self._keys) for _ in requests]
        for key, (request, _), adapter in zip(keys, requests, adapters):
            self._waiting[key] = replace(request, adapter=0 if adapter else None), adapter
        return keys

    def step(self) -> list[tuple[int, int | None]]:
        for key, (request, adapter) in self._waiting.items():
            written, (tokens,) = Continuation(request), self.backend.generate([request], adapter)
            steps = deque(written.write(token, self.backend.chat) for token in tokens)
            if not steps or None not in steps[-1]:
                steps.append([None])
            self._events[key] = steps
        self._waiting.clear()
        events = [(key, event) for key, steps in self._events.items() for event in steps.popleft()]
        self._events = {key: steps for key, steps in self._events.items() if steps}
        return events

    def cancel(self, key: int) -> None:
        self._waiting.pop(key, None)
        self._events.pop(key, None)


class _Run:
    """One adapter's training, which can pause after any epoch."""

    def __init__(
        self, backend: ReferenceBackend, adapters: ReferenceAdapters, row: int, schedule: Schedule, vocabulary
    ):
        self.backend, self.adapters, self.row, self.schedule = backend, adapters, row, schedule
        self.vocabulary = vocabulary
        self.log, self.left = TrainLog(), schedule.examples
        self._optimizer_state: dict | None = None

    def study(self, epochs: int, report) -> None:
        """Goes on until so many epochs are done, or the loss is low enough."""
        if not self.left or len(self.log.losses) >= epochs:
            return
        with self.backend._adapted(self.adapters, self.row) as model:
            parameters = [p for name, p in model.named_parameters() if "lora_" in name]
            config = self.schedule.config
            betas = config.beta1, config.beta2
            optimizer = torch.optim.AdamW(
                parameters, lr=self.schedule.peak, betas=betas, weight_decay=config.weight_decay
            )
            if self._optimizer_state:
                optimizer.load_state_dict(self._optimizer_state)
            while self.left and len(self.log.losses) < epochs:
                self._epoch(model, parameters, optimizer, report)
            self._optimizer_state = optimizer.state_dict()
            state = get_peft_model_state_dict(model)
            self.adapters.tensors[self.row] = {name: tensor.detach().clone() for name, tensor in state.items()}

    def _epoch(self, model, parameters, optimizer, report) -> None:
        losses, epoch, largest = [], len(self.log.losses), 0.0
        batches = self.schedule.batches(epoch)
        self.left = self.schedule.left_after(epoch) + sum(map(len, batches))
        for batch in batches:
            optimizer.zero_grad()
            labels = sum(example.labels for example in batch)
            loss = 0.0
            for example in batch:
                of_labels = self._losses(model, example)
                part = of_labels.sum() / labels
                part.backward()
                loss += part.item()
                largest = max(largest, of_labels.max().item())
                self.schedule.study(example, of_labels.mean().item())
            losses.append(loss)
            tokens = sum(len(example.tokens) for example in batch)
            self.log.tokens += tokens
            self.log.rows += tokens
            self.left -= len(batch)
            report()
            if len(losses) == len(batches):
                self.log.losses.append(sum(losses) / len(losses))
                self.log.largest.append(largest)
                if self.schedule.is_known(self.log):
                    self.left = 0
                    return
            if self.schedule.config.clip:
                torch.nn.utils.clip_grad_norm_(parameters, self.schedule.config.clip)
            optimizer.param_groups[0]["lr"] = self.schedule.next_rate()
            optimizer.step()
            self.log.steps += 1

    def _losses(self, model, example: TokenizedExample) -> Tensor:
        """Of each label: the divergence of soft labels, which is cross-entropy for hard ones."""
        logprobs = self.backend._label_logprobs(model, example, self.vocabulary)
        if example.soft is None:
            return -logprobs.gather(1, torch.tensor(example.targets, device=logprobs.device)[:, None])[:, 0]
        odds = example.soft.odds.to(logprobs.dtype)
        entropy = torch.where(odds > 0, odds, 1.0).log()
        return (odds * (entropy - logprobs.gather(1, example.soft.tokens))).sum(1)


def _linear_modules(model) -> dict[str, dict[int, str]]:
    """The linear modules inside the model's repeated layers: short name → {layer: full name}.

    Those of ALL_LINEAR come first, in its order; others have the names of the model's own modules.
    """
    paths: dict[str, dict[int, str]] = {}
    for name, module in model.named_modules():
        match = _LAYER.fullmatch(name)
        if match and _sizes(module):
            paths.setdefault(match["path"], {})[int(match["index"])] = name
    if not paths:
        raise ModelError("the model has no linear modules in repeated layers that an adapter could change")
    last = [path.rpartition(".")[2] for path in paths]
    names = [path if last.count(short) > 1 else short for path, short in zip(paths, last)]
    order = {name: i for i, name in enumerate(ALL_LINEAR)}
    return dict(sorted(zip(names, paths.values()), key=lambda item: order.get(item[0], len(order))))


def _sizes(module) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear layer, or of the transposed one that GPT-2 uses; None for other modules."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":
        return module.weight.shape[0], module.weight.shape[1]
    if hasattr(module, "base_layer"):  # as `peft` wraps it
        return _sizes(module.base_layer)
    return None
