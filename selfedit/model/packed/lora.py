"""N independent LoRA adapters on one frozen model, as one tensor.

All parameters of a batch of adapters are one matrix [N, P]: one row per adapter. The optimizer, clipping and saving
work on rows; the forward pass uses views of them, A: [N, I, m·R] and B: [N, R, O], where the A of the m modules that
read the same input lie side by side. Packed tokens are grouped by adapter: token ranges say which rows of the input
belong to which adapter; tokens outside every range use the base weights.
Source: LoRA (arXiv:2106.09685).

Axes: N adapters, T packed tokens, R rank, I in, O out, m modules of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from selfedit.errors import AdapterError
from selfedit.model import four_bits
from selfedit.model.backend import LoraConfig
from selfedit.model.packed.network import Linear, LinearFn, Network
from selfedit.model.packed.quantized import Weight
from selfedit.model.peft_folder import check_tensors, read_adapter, read_config, write_adapter
from selfedit.model.shape import GROUPS, MODULES, PARENTS, Shape


@dataclass(frozen=True)
class TokenRange:
    """Rows [start, end) of the packed tokens use this adapter."""

    adapter: int
    start: int
    end: int


def adjacent(spans: Iterable[tuple[int | None, int, int]]) -> list[TokenRange]:
    """Spans (adapter, start, end) in ascending order → ranges: spans that lie side by side are one product. None and
    empty spans have no adapter."""
    ranges: list[TokenRange] = []
    for adapter, start, end in spans:
        if adapter is None or start >= end:
            continue
        if ranges and (ranges[-1].adapter, ranges[-1].end) == (adapter, start):
            start = ranges.pop().start
        ranges.append(TokenRange(adapter, start, end))
    return ranges


class LoraView:
    """The adapters of one group in one layer, as views into a flat matrix [N, P]."""

    def __init__(self, flat: Tensor, offset: int, shape: Shape, group: str, config: LoraConfig):
        count, r = flat.shape[0], config.rank
        modules = [m for m in GROUPS[group] if m in config.modules]
        width_in = shape.widths(modules[0])[0]
        self.offset, end = offset, offset + width_in * len(modules) * r
        self.a = flat[:, offset:end].view(count, width_in, len(modules) * r)
        self.b: list[Tensor] = []
        self.columns: list[tuple[int, int]] = []
        """[low, high) of each module's columns in the output of the group."""
        start = 0
        for module in GROUPS[group]:
            width = shape.widths(module)[1]
            if module in modules:
                self.b.append(flat[:, end : end + r * width].view(count, r, width))
                self.columns.append((start, start + width))
                end += r * width
            start += width
        self.end, self.modules = end, modules


class LoraBatch:
    def __init__(self, shape: Shape, config: LoraConfig, count: int, device="cpu"):
        self.shape, self.config, self.count = shape, config, count
        self.size = _parameter_count(shape, config)
        self.flat = torch.zeros(count, self.size, device=device)
        self.views = _views(self.flat, shape, config)
        self._anchor = torch.zeros((), device=device, requires_grad=True)

    def init_(self, adapter: int, seed: int) -> None:
        """PEFT's start: A uniform in ±1/sqrt(I), B zero (so an untrained adapter changes nothing)."""
        generator = torch.Generator().manual_seed(seed)
        for view in self.views.values():
            bound = view.a.shape[1] ** -0.5
            view.a[adapter] = (
                torch.empty(view.a.shape[1:]).uniform_(-bound, bound, generator=generator).to(view.a.device)
            )

    def linear(self, network: Network, ranges: list[TokenRange], gradients: Gradients | None = None) -> LinearFn:
        """The `linear` argument of `Network.run` with these adapters. `gradients`: takes those of a backward pass."""
        grouped = _grouped_bmm if network.device.type == "cuda" else _grouped_loop

        def apply(layer: int, group: str, x: Tensor) -> Tensor:
            base = network.layers[layer].linears[group]
            view = self.views.get((layer, group))
            if view is None or not ranges:
                return base(x)
            grads = gradients.views[layer, group] if gradients else None
            return AdaptedLinear.apply(x, self._anchor, base, view, grads, ranges, self.config.scale, grouped)

        return apply

    def subset(self, rows: Sequence[int]) -> LoraBatch:
        """Copies of these adapters."""
        picked = LoraBatch(self.shape, self.config, len(rows), self.flat.device)
        picked.flat.copy_(self.flat[list(rows)])
        return picked

    @torch.no_grad()
    def put(self, row: int, other: LoraBatch, other_row: int) -> None:
        """Copies an adapter of others of the same configuration into a row."""
        self.flat[row].copy_(other.flat[other_row])

    def as_stored(self) -> LoraBatch:
        """Copies of these adapters as they are read back from a small folder."""
        read = LoraBatch(self.shape, self.config, self.count, self.flat.device)
        for adapter in range(self.count):
            read._take(adapter, four_bits.rounded(self.tensors(adapter)))
        return read

    # PEFT folders

    def tensors(self, adapter: int) -> dict[str, Tensor]:
        """One adapter under PEFT's names: lora_A [R, I], lora_B [O, R]."""
        r, out = self.config.rank, {}
        for (layer, _), view in self.views.items():
            for j, module in enumerate(view.modules):
                name = _peft_name(layer, module)
                out[f"{name}.lora_A.weight"] = view.a[adapter, :, j * r : (j + 1) * r].t().contiguous().cpu()
                out[f"{name}.lora_B.weight"] = view.b[j][adapter].t().contiguous().cpu()
        return out

    def save(self, adapter: int, folder: Path, base_model: str, *, small: bool = False) -> None:
        write_adapter(folder, self.tensors(adapter), self.config, base_model, small)

    def load_(self, adapter: int, tensors: dict[str, Tensor], folder: Path) -> None:
        """Takes one adapter's tensors, as `tensors` gives them. Raises AdapterError if they do not fit."""
        check_tensors(folder, tensors, {name: tuple(t.shape) for name, t in self.tensors(adapter).items()})
        self._take(adapter, tensors)

    def _take(self, adapter: int, tensors: dict[str, Tensor]) -> None:
        r = self.config.rank
        for (layer, _), view in self.views.items():
            for j, module in enumerate(view.modules):
                name = _peft_name(layer, module)
                view.a[adapter, :, j * r : (j + 1) * r] = tensors[f"{name}.lora_A.weight"].t()
                view.b[j][adapter] = tensors[f"{name}.lora_B.weight"].t()


class Gradients:
    """The gradients of a batch of adapters: `flat` [N, P] has the layout of the batch's own parameters.

    A backward pass overwrites the rows of the adapters that it trains. Other rows are not initialized, and take no
    memory until they are written.
    """

    def __init__(self, batch: LoraBatch):
        self.flat = torch.empty_like(batch.flat)
        self.views = _views(self.flat, batch.shape, batch.config)


def load_adapter(network: Network, folder: Path) -> LoraBatch:
    """One PEFT adapter folder. Raises AdapterError if it does not fit."""
    batch = LoraBatch(network.shape, read_config(folder, network.shape.layers, MODULES), 1, network.device)
    batch.load_(0, read_adapter(folder), folder)
    return batch


def joined(batches: Sequence[LoraBatch]) -> LoraBatch:
    """All adapters of these batches in one. Raises AdapterError if their configurations differ."""
    first = batches[0]
    if len({batch.config for batch in batches}) > 1:
        raise AdapterError("adapters of different rank, alpha, modules or layers cannot be loaded together")
    result = LoraBatch(first.shape, first.config, sum(batch.count for batch in batches), first.flat.device)
    torch.cat([batch.flat for batch in batches], out=result.flat)
    return result


def merged(network: Network, batch: LoraBatch, adapter: int) -> Network:
    """A network with one adapter added to its weights; the given network stays as it is."""
    made = copy(network)
    made.layers = [replace(layer, linears=dict(layer.linears)) for layer in network.layers]
    for (layer, group), view in batch.views.items():
        base, rank = network.layers[layer].linears[group], batch.config.rank
        weight = base.full()
        for j, (low, high) in enumerate(view.columns):
            product = view.a[adapter][:, j * rank : (j + 1) * rank] @ view.b[j][adapter]
            weight[low:high] += (batch.config.scale * product).t()
        linear = made.layers[layer].linears[group] = Linear([Weight(weight)], base.bias)
        linear.trains_in_bf16 = base.trains_in_bf16  # the next document is trained on it
    return made


def _peft_name(layer: int, module: str) -> str:
    return f"base_model.model.model.layers.{layer}.{PARENTS[module]}.{module}"


def _parameter_count(shape: Shape, config: LoraConfig) -> int:
    return sum(config.rank * sum(shape.widths(m)) for m in config.modules) * len(config.layers)


def _views(flat: Tensor, shape: Shape, config: LoraConfig) -> dict[tuple[int, str], LoraView]:
    views, offset = {}, 0
    for layer in config.layers:
        for group, modules in GROUPS.items():
            if any(m in config.modules for m in modules):
                view = views[layer, group] = LoraView(flat, offset, shape, group, config)
                offset = view.end
    return views


class AdaptedLinear(torch.autograd.Function):
    """y = x·Wᵀ + b + scale·(x·A)·B, with the A and B of each token range's adapter.

    The gradients of A and B are written directly into a gradient matrix (each view is visited once per step), so that
    autograd never handles hundreds of small tensors. `anchor` makes the output a part of the autograd graph.
    """

    @staticmethod
    def forward(ctx, x, anchor, base: Linear, view: LoraView, grads: LoraView | None, ranges, scale: float, grouped):
        y = base(x) if grads is None else base.trained(x)
        h = grouped.forward(x, y, view, ranges, scale)
        if grads is not None:
            ctx.save_for_backward(x, h)
            ctx.rest = base, view, grads, ranges, scale, grouped
        return y

    @staticmethod
    def backward(ctx, dy):
        x, h = ctx.saved_tensors
        base, view, grads, ranges, scale, grouped = ctx.rest
        dx = base.back(dy) if ctx.needs_input_grad[0] else None
        grouped.backward(x, h, dy, dx, view, grads, ranges, scale)
        return (dx,) + (None,) * 7


class _grouped_loop:
    """One small product per token range: best on a CPU, where the cost of a product is its arithmetic."""

    @staticmethod
    def forward(x, y, view: LoraView, ranges, scale):
        h = x.new_empty(x.shape[0], view.a.shape[2])
        r = h.shape[1] // len(view.b)
        for s in ranges:
            rows = slice(s.start, s.end)
            torch.mm(x[rows], view.a[s.adapter], out=h[rows])
            for j, (low, high) in enumerate(view.columns):
                y[rows, low:high].addmm_(h[rows, j * r : (j + 1) * r], view.b[j][s.adapter], alpha=scale)
        return h

    @staticmethod
    def backward(x, h, dy, dx, view: LoraView, grads: LoraView, ranges, scale):
        r = h.shape[1] // len(view.b)
        dh = torch.empty_like(h)
        for s in ranges:
            rows = slice(s.start, s.end)
            for j, (low, high) in enumerate(view.columns):
                dy_j, columns = dy[rows, low:high], slice(j * r, (j + 1) * r)
                torch.mm(dy_j, view.b[j][s.adapter].t(), out=dh[rows, columns])
                torch.mm(h[rows, columns].t(), dy_j, out=grads.b[j][s.adapter]).mul_(scale)
            dh[rows].mul_(scale)
            torch.mm(x[rows].t(), dh[rows], out=grads.a[s.adapter])
            if dx is not None:
                dx[rows].addmm_(dh[rows], view.a[s.adapter].t())


class _grouped_bmm:
    """All token ranges as one padded batched product: best on a GPU, where the launch of a product is its cost."""

    @staticmethod
    def _padded(x: Tensor, ranges) -> Tensor:
        """[T, C] → [ranges, longest, C], zeros behind the shorter ones."""
        return torch.nn.utils.rnn.pad_sequence([x[s.start : s.end] for s in ranges], batch_first=True)

    @staticmethod
    def _add_(target: Tensor, padded: Tensor, ranges, low: int = 0) -> None:
        for i, s in enumerate(ranges):
            target[s.start : s.end, low : low + padded.shape[2]] += padded[i, : s.end - s.start]

    @staticmethod
    def forward(x, y, view: LoraView, ranges, scale):
        cls, adapters = _grouped_bmm, [s.adapter for s in ranges]
        h = torch.bmm(cls._padded(x, ranges), view.a[adapters].to(x.dtype))
        r = h.shape[2] // len(view.b)
        for j, (low, _) in enumerate(view.columns):
            cls._add_(y, torch.bmm(h[..., j * r : (j + 1) * r], view.b[j][adapters].to(x.dtype)) * scale, ranges, low)
        return h

    @staticmethod
    def backward(x, h, dy, dx, view: LoraView, grads: LoraView, ranges, scale):
        cls, adapters = _grouped_bmm, [s.adapter for s in ranges]
        r = h.shape[2] // len(view.b)
        dh = torch.empty_like(h)
        for j, (low, high) in enumerate(view.columns):
            dy_j, part = cls._padded(dy[:, low:high], ranges), slice(j * r, (j + 1) * r)
            dh[..., part] = torch.bmm(dy_j, view.b[j][adapters].to(x.dtype).mT) * scale
            grads.b[j][adapters] = (torch.bmm(h[..., part].mT, dy_j) * scale).float()
        grads.a[adapters] = torch.bmm(cls._padded(x, ranges).mT, dh).float()
        if dx is not None:
            cls._add_(dx, torch.bmm(dh, view.a[adapters].to(x.dtype).mT), ranges)
