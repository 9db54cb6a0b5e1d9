"""N independent LoRA adapters on one frozen model, as one tensor; PEFT folders in and out.

All parameters of a stack lie in one matrix [N, P]: a row is an adapter. The optimizer, clipping and saving work on rows;
the forward pass sees views of them, A: [N, I, m·R] and B: [N, R, O], with the A of the m modules that read the same
input side by side. Packed tokens are grouped by adapter: `segments` names, for each run of rows, whose they are, and
rows that no segment covers see the untouched model.
Source: LoRA (arXiv:2106.09685); file format of the `peft` library.

Axes: N adapters, T packed tokens, R rank, I in, O out, m modules of a group.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selfedit.errors import AdapterError
from selfedit.model.packed.network import Linear, LinearFn, Network
from selfedit.model.shape import GROUPS, MODULES, PARENTS, Shape

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class LoraConfig:
    rank: int
    alpha: float
    modules: tuple[str, ...]
    layers: tuple[int, ...]
    """Indices of the adapted layers, rising."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class TokenRange:
    """Rows [start, end) of the packed tokens belong to this adapter."""

    adapter: int
    start: int
    end: int


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
        """Where in the group's output each module writes."""
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
        self.sites = _sites(self.flat, shape, config)
        self._anchor = torch.zeros((), device=device, requires_grad=True)

    def init_(self, adapter: int, seed: int) -> None:
        """PEFT's start: A uniform in ±1/sqrt(I), B zero (so an untrained adapter changes nothing)."""
        generator = torch.Generator().manual_seed(seed)
        for site in self.sites.values():
            bound = site.a.shape[1] ** -0.5
            site.a[adapter] = (
                torch.empty(site.a.shape[1:]).uniform_(-bound, bound, generator=generator).to(site.a.device)
            )

    def linear(self, network: Network, segments: list[TokenRange], gradients: Gradients | None = None) -> LinearFn:
        """The `linear` of `Network.run` under these adapters. `gradients`: where a backward pass leaves theirs."""
        grouped = _grouped_bmm if network.device.type == "cuda" else _grouped_loop

        def apply(layer: int, group: str, x: Tensor) -> Tensor:
            base = network.layers[layer].linears[group]
            site = self.sites.get((layer, group))
            if site is None or not segments:
                return base(x)
            grads = gradients.sites[layer, group] if gradients else None
            return AdaptedLinear.apply(x, self._anchor, base, site, grads, segments, self.config.scale, grouped)

        return apply

    def subset(self, adapters: list[int]) -> LoraBatch:
        """A new stack with copies of these rows."""
        picked = LoraBatch(self.shape, self.config, len(adapters), self.flat.device)
        picked.flat.copy_(self.flat[adapters])
        return picked

    # PEFT folders

    def tensors(self, adapter: int) -> dict[str, Tensor]:
        """One adapter under PEFT's names: lora_A [R, I], lora_B [O, R]."""
        r, out = self.config.rank, {}
        for (layer, _), site in self.sites.items():
            for j, module in enumerate(site.modules):
                name = f"base_model.model.model.layers.{layer}.{PARENTS[module]}.{module}"
                out[f"{name}.lora_A.weight"] = site.a[adapter, :, j * r : (j + 1) * r].t().contiguous().cpu()
                out[f"{name}.lora_B.weight"] = site.b[j][adapter].t().contiguous().cpu()
        return out

    def save(self, adapter: int, folder: Path, base_model: str) -> None:
        """Write a PEFT adapter folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors(adapter), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "inference_mode": True,
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "target_modules": sorted(self.config.modules),
            "layers_to_transform": list(self.config.layers),
            "layers_pattern": "layers",
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n")

    def load_(self, adapter: int, tensors: dict[str, Tensor]) -> None:
        expected = self.tensors(adapter)
        if tensors.keys() != expected.keys():
            odd = sorted(tensors.keys() ^ expected.keys())[0]
            raise AdapterError(f"the adapter does not fit the model: tensor {odd!r} is on one side only")
        r = self.config.rank
        for (layer, _), site in self.sites.items():
            for j, module in enumerate(site.modules):
                name = f"base_model.model.model.layers.{layer}.{PARENTS[module]}.{module}"
                a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
                if (
                    a.shape != expected[f"{name}.lora_A.weight"].shape
                    or b.shape != expected[f"{name}.lora_B.weight"].shape
                ):
                    raise AdapterError(f"the adapter does not fit the model: {name} has other sizes")
                site.a[adapter, :, j * r : (j + 1) * r] = a.t()
                site.b[j][adapter] = b.t()


class Gradients:
    """Room for the gradients of a stack's adapters: `flat` [N, P] is laid out as the stack's own.

    A backward pass writes those of the adapters it holds, over what was there; before that a row means nothing, and
    takes no memory.
    """

    def __init__(self, stack: LoraBatch):
        self.flat = torch.empty_like(stack.flat)
        self.sites = _sites(self.flat, stack.shape, stack.config)


def read_config(folder: Path, shape: Shape) -> LoraConfig:
    """The LoraConfig of a PEFT folder. Raises AdapterError on kinds that are not plain LoRA."""
    try:
        raw = json.loads((folder / CONFIG_FILE).read_text())
        modules, layers = raw["target_modules"], raw.get("layers_to_transform")
        rank, alpha = raw["r"], raw["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{folder / CONFIG_FILE}: not a readable PEFT adapter configuration ({error})") from error
    for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication"):
        if raw.get(key):
            raise AdapterError(f"{folder}: an adapter with {key!r} is not supported; only plain LoRA is")
    if raw.get("peft_type") != "LORA" or raw.get("bias", "none") != "none":
        raise AdapterError(f"{folder}: only plain LoRA adapters without biases are supported")
    if modules == "all-linear":
        modules = list(MODULES)
    if not isinstance(modules, list) or not modules or not set(modules) <= MODULES.keys():
        raise AdapterError(f"{folder}: target_modules {modules!r} are not among {', '.join(MODULES)}")
    layers = list(range(shape.layers)) if layers is None else [layers] if isinstance(layers, int) else layers
    if not isinstance(layers, list) or not layers or not all(isinstance(i, int) and i >= 0 for i in layers):
        raise AdapterError(f"{folder}: layers_to_transform {layers!r} are not indices of layers")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
        raise AdapterError(f"{folder}: 'r' {rank!r} and 'lora_alpha' {alpha!r} are not those of a LoRA adapter")
    return LoraConfig(rank, alpha, tuple(m for m in MODULES if m in modules), tuple(sorted(set(layers))))


def load_adapters(network: Network, folders: list[Path]) -> LoraBatch:
    """PEFT adapter folders of one configuration → a stack, in their order. Raises AdapterError on any that do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    configs = [read_config(folder, network.shape) for folder in folders]
    if len(set(configs)) != 1:
        raise AdapterError("adapters of different rank, alpha, modules or layers cannot share a stack")
    if configs[0].layers[-1] >= network.shape.layers:
        raise AdapterError(
            f"{folders[0]}: adapts layer {configs[0].layers[-1]}, but the model has {network.shape.layers} layers"
        )
    stack = LoraBatch(network.shape, configs[0], len(folders), network.device)
    for i, folder in enumerate(folders):
        try:
            stack.load_(i, load_file(folder / WEIGHTS_FILE))
        except (OSError, SafetensorError) as error:
            raise AdapterError(f"{folder / WEIGHTS_FILE}: not a readable adapter ({error})") from error
        except AdapterError as error:
            raise AdapterError(f"{folder}: {error}") from error
    return stack


def _parameter_count(shape: Shape, config: LoraConfig) -> int:
    return sum(config.rank * sum(shape.widths(m)) for m in config.modules) * len(config.layers)


def _sites(flat: Tensor, shape: Shape, config: LoraConfig) -> dict[tuple[int, str], LoraView]:
    sites, offset = {}, 0
    for layer in config.layers:
        for group, modules in GROUPS.items():
            if any(m in config.modules for m in modules):
                site = sites[layer, group] = LoraView(flat, offset, shape, group, config)
                offset = site.end
    return sites


class AdaptedLinear(torch.autograd.Function):
    """y = x·Wᵀ + b + scale·(x·A)·B, for each segment its own A and B.

    The gradients of A and B are written straight into a gradient matrix (each site is visited once a step),
    so that autograd never sees hundreds of small tensors. `anchor` only makes the output part of the graph.
    """

    @staticmethod
    def forward(ctx, x, anchor, base: Linear, site: LoraView, grads: LoraView | None, segments, scale: float, grouped):
        y = base(x) if grads is None else base.trained(x)
        h = grouped.forward(x, y, site, segments, scale)
        if grads is not None:
            ctx.save_for_backward(x, h)
            ctx.rest = base, site, grads, segments, scale, grouped
        return y

    @staticmethod
    def backward(ctx, dy):
        x, h = ctx.saved_tensors
        base, site, grads, segments, scale, grouped = ctx.rest
        dx = base.back(dy) if ctx.needs_input_grad[0] else None
        grouped.backward(x, h, dy, dx, site, grads, segments, scale)
        return (dx,) + (None,) * 7


class _grouped_loop:
    """One small product a segment: best on a CPU, where a product's cost is its arithmetic."""

    @staticmethod
    def forward(x, y, site: LoraView, segments, scale):
        h = x.new_empty(x.shape[0], site.a.shape[2])
        r = h.shape[1] // len(site.b)
        for s in segments:
            rows = slice(s.start, s.end)
            torch.mm(x[rows], site.a[s.adapter], out=h[rows])
            for j, (low, high) in enumerate(site.columns):
                y[rows, low:high].addmm_(h[rows, j * r : (j + 1) * r], site.b[j][s.adapter], alpha=scale)
        return h

    @staticmethod
    def backward(x, h, dy, dx, site: LoraView, grads: LoraView, segments, scale):
        r = h.shape[1] // len(site.b)
        dh = torch.empty_like(h)
        for s in segments:
            rows = slice(s.start, s.end)
            for j, (low, high) in enumerate(site.columns):
                dy_j, own = dy[rows, low:high], slice(j * r, (j + 1) * r)
                torch.mm(dy_j, site.b[j][s.adapter].t(), out=dh[rows, own])
                torch.mm(h[rows, own].t(), dy_j, out=grads.b[j][s.adapter]).mul_(scale)
            dh[rows].mul_(scale)
            torch.mm(x[rows].t(), dh[rows], out=grads.a[s.adapter])
            if dx is not None:
                dx[rows].addmm_(dh[rows], site.a[s.adapter].t())


class _grouped_bmm:
    """All segments as one batched product, padded to the longest: best on a GPU, where a product's cost is its launch."""

    @staticmethod
    def _padded(x: Tensor, segments) -> Tensor:
        """[T, C] → [segments, longest, C], zeros behind the shorter ones."""
        return torch.nn.utils.rnn.pad_sequence([x[s.start : s.end] for s in segments], batch_first=True)

    @staticmethod
    def _add_(target: Tensor, padded: Tensor, segments, low: int = 0) -> None:
        for i, s in enumerate(segments):
            target[s.start : s.end, low : low + padded.shape[2]] += padded[i, : s.end - s.start]

    @staticmethod
    def forward(x, y, site: LoraView, segments, scale):
        cls, own = _grouped_bmm, [s.adapter for s in segments]
        h = torch.bmm(cls._padded(x, segments), site.a[own].to(x.dtype))
        r = h.shape[2] // len(site.b)
        for j, (low, _) in enumerate(site.columns):
            cls._add_(y, torch.bmm(h[..., j * r : (j + 1) * r], site.b[j][own].to(x.dtype)) * scale, segments, low)
        return h

    @staticmethod
    def backward(x, h, dy, dx, site: LoraView, grads: LoraView, segments, scale):
        cls, own = _grouped_bmm, [s.adapter for s in segments]
        r = h.shape[2] // len(site.b)
        dh = torch.empty_like(h)
        for j, (low, high) in enumerate(site.columns):
            dy_j, part = cls._padded(dy[:, low:high], segments), slice(j * r, (j + 1) * r)
            dh[..., part] = torch.bmm(dy_j, site.b[j][own].to(x.dtype).mT) * scale
            grads.b[j][own] = (torch.bmm(h[..., part].mT, dy_j) * scale).float()
        grads.a[own] = torch.bmm(cls._padded(x, segments).mT, dh).float()
        if dx is not None:
            cls._add_(dx, torch.bmm(dh, site.a[own].to(x.dtype).mT), segments)
