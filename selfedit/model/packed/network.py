"""The frozen language model: a decoder of the Llama family (Llama, Mistral, SmolLM2, Qwen2, Qwen3) over packed tokens.

In: token ids of many sequences laid end to end, no padding. Out: hidden states, one row per token; logits only for the
rows that are asked for. Everything but attention works on the packed rows [T, hidden], so no product is ever spent on
padding; attention sees sequences of similar length side by side. Linear layers that read the same input are one
product (q, k, v; gate, up). Adapters come in through `linear`, so this file knows nothing of them.
The reference is `transformers`: tests/test_network.py compares logits.

Axes: T packed tokens, S sequences, H heads, K key-value heads, D head size, I in, O out.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from selfedit.model.packed.quantized import Weight, back, joined, product
from selfedit.model.packed.rotary import RotaryTable
from selfedit.model.shape import GROUPS, PARENTS, Shape

FEW_ROWS = 48
"""Up to this many rows a norm costs its number of calls."""

AttentionFn = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [T, H, D], k [T, K, D], v [T, K, D]) → [T, H·D]"""
LinearFn = Callable[[int, str, Tensor], Tensor]
"""(layer, group, x [T, I]) → [T, O]"""


class Linear:
    """Frozen linear layers that read the same input, [O, I]; their weights stay in the precision of their file."""

    def __init__(self, weights: list[Weight], bias: Tensor | None = None):
        self.weights, self.bias = joined(weights), bias
        self.trains_in_bf16 = False
        """Training rounds what goes into a product, and its result, to bf16; sums are in fp32."""
        self.always_bf16 = False
        """Answers and scores do so too."""
        self._bf16: list[Tensor] = []

    @property
    def bf16(self) -> Tensor:
        """A bf16 copy of the weights, made when first needed: where a processor multiplies bf16, training takes half
        the time of fp32 products (docs/LOG.md, study 15), and widening the file's integers anew for each product would
        cost half of that gain."""
        with _making_a_copy:
            if not self._bf16:
                copies = [w.bfloat16() for w in self.weights]
                with torch.inference_mode(False):
                    self._bf16.append(torch.cat(copies) if len(copies) > 1 else copies[0])
        return self._bf16[0]

    def subset(self, outputs: Tensor) -> Linear:
        """These outputs alone."""
        (weight,) = self.weights
        some = Linear([weight.part(outputs)], None if self.bias is None else self.bias[outputs])
        some.trains_in_bf16 = self.trains_in_bf16
        return some

    def in_bf16(self) -> Linear:
        """This layer in bf16 for every use; the copy of the weights is shared."""
        other = copy(self)
        other.always_bf16 = True
        return other

    def full(self) -> Tensor:
        """A copy of the weights [O, I] in the dtype of the products."""
        return torch.cat([w.values() for w in self.weights])

    def back(self, dy: Tensor) -> Tensor:
        """The gradient [T, I] of the input, from that of the output [T, O]."""
        if self.trains_in_bf16:
            return (dy.bfloat16() @ self.bf16).to(dy.dtype)
        return back(self.weights, dy)

    def trained(self, x: Tensor) -> Tensor:
        """The product where adapters are trained on it; without a gradient."""
        return self._product_in_bf16(x) if self.trains_in_bf16 else self.product(x)

    def _product_in_bf16(self, x: Tensor) -> Tensor:
        y = F.linear(x.bfloat16(), self.bf16).to(x.dtype)
        return y if self.bias is None else y.add_(self.bias)

    def product(self, x: Tensor) -> Tensor:
        y = product(self.weights, x)
        return y if self.bias is None else y.add_(self.bias)

    def __call__(self, x: Tensor) -> Tensor:
        if _needs_gradient(x):
            return FrozenProduct.apply(x, self)
        return self._product_in_bf16(x) if self.always_bf16 else self.product(x)


_making_a_copy = threading.Lock()


class FrozenProduct(torch.autograd.Function):
    """A frozen linear layer in training."""

    @staticmethod
    def forward(ctx, x: Tensor, linear: Linear) -> Tensor:
        ctx.linear = linear
        return linear.trained(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ctx.linear.back(grad), None


class Weights(Protocol):
    """Tensors by name that are taken one by one: a dict, or the files of a model."""

    def pop(self, name: str, *default: None) -> Tensor | Weight | None: ...


@dataclass
class Layer:
    attention_norm: Tensor
    mlp_norm: Tensor
    linears: dict[str, Linear]
    """By group name."""
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


class Network:
    def __init__(self, shape: Shape, weights: Weights):
        """`weights`: the tensors of `shape.tensors()`, for products of one dtype on one device; consumed."""
        self.shape = shape
        self.embedding = _weight(weights.pop("model.embed_tokens.weight"))
        self.norm = weights.pop("model.norm.weight")
        self.head = Linear([self.embedding if shape.tied else _weight(weights.pop("lm_head.weight"))])
        self.layers = [self._layer(f"model.layers.{i}", weights) for i in range(shape.layers)]
        self.device, self.dtype = self.norm.device, self.norm.dtype
        self._rotary = RotaryTable(shape, self.device, self.dtype)

    def attention(self, lengths: list[int], shared: list[tuple[int, int]] | None = None) -> PackedAttention:
        """Attention of this model for packed sequences; the arguments are those of `PackedAttention`."""
        return PackedAttention(lengths, self.device, shared, self.shape.windows)

    def _layer(self, prefix: str, weights: Weights) -> Layer:
        linears = {}
        for group, modules in GROUPS.items():
            names = [f"{prefix}.{PARENTS[m]}.{m}" for m in modules]
            biases = [weights.pop(f"{n}.bias", None) for n in names]
            linears[group] = Linear(
                [_weight(weights.pop(f"{n}.weight")) for n in names],
                torch.cat(biases) if biases[0] is not None else None,
            )
        return Layer(
            attention_norm=weights.pop(f"{prefix}.input_layernorm.weight"),
            mlp_norm=weights.pop(f"{prefix}.post_attention_layernorm.weight"),
            linears=linears,
            q_norm=weights.pop(f"{prefix}.self_attn.q_norm.weight", None),
            k_norm=weights.pop(f"{prefix}.self_attn.k_norm.weight", None),
        )

    def use_bf16(self) -> None:
        """From now on training takes products with frozen weights in bf16, for a processor that multiplies it.

        The adapters, the logits and what stands between the products stay as they are, and so does all that is answered
        and scored (but see `in_bf16`)."""
        for linear in (self.head, *(linear for layer in self.layers for linear in layer.linears.values())):
            linear.trains_in_bf16 = True

    @property
    def in_bf16(self) -> Network:
        """After `use_bf16` a view of this network with the products of answers and scores in bf16 too; else itself. The
        logits stay in fp32: rounding would tie near equals."""
        if not self.head.trains_in_bf16:
            return self
        other = copy(self)
        other.layers = [
            replace(layer, linears={group: linear.in_bf16() for group, linear in layer.linears.items()})
            for layer in self.layers
        ]
        return other

    @property
    def precision(self) -> str:
        """`fp32`, `mixed` (after `use_bf16`), or another dtype of the weights."""
        if self.head.trains_in_bf16:
            return "mixed"
        return {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}.get(self.dtype, str(self.dtype))

    @property
    def working_bytes(self) -> int:
        """Memory for what could be computed again: keys and values of answers, kept hidden states. Two bytes per
        weight, but 1 to 2 GiB; longer texts are then computed fewer at a time or more often, with the same results."""
        weights = sum(math.prod(sizes) for sizes in self.shape.tensors().values())
        return min(max(2 * weights, 2**30), 2**31)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [T] → [T, hidden]."""
        return self.embedding.values(tokens)

    def base_linear(self, layer: int, group: str, x: Tensor) -> Tensor:
        """The frozen layer alone: the `linear` of the untouched model."""
        return self.layers[layer].linears[group](x)

    def run(
        self,
        x: Tensor,
        positions: Tensor,
        attention: AttentionFn,
        linear: LinearFn | None = None,
        layers: range | None = None,
    ) -> Tensor:
        """Hidden states [T, hidden] before layer `layers.start` → those after its last layer (before the final
        norm)."""
        s, linear = self.shape, linear or self.base_linear
        cos, sin = self._rotary(positions)
        q_width, kv_width = s.heads * s.head_dim, s.kv_heads * s.head_dim
        for i in layers if layers is not None else range(s.layers):
            layer = self.layers[i]
            qkv = linear(i, "qkv", rms_norm(x, layer.attention_norm, s.eps))
            qk, v = (part.unflatten(1, (-1, s.head_dim)) for part in qkv.split((q_width + kv_width, kv_width), 1))
            if layer.q_norm is not None:
                qk = torch.cat(
                    (rms_norm(qk[:, : s.heads], layer.q_norm, s.eps), rms_norm(qk[:, s.heads :], layer.k_norm, s.eps)),
                    1,
                )
            qk = Rotate.apply(qk, cos, sin) if torch.is_grad_enabled() else _turn(qk, cos, sin)
            q, k = qk.split((s.heads, s.kv_heads), 1)
            x = x + linear(i, "o", attention(i, q, k, v))
            gate_up = linear(i, "gate_up", rms_norm(x, layer.mlp_norm, s.eps))
            x = x + linear(i, "down", Gated.apply(gate_up) if torch.is_grad_enabled() else _gated(gate_up))
        return x

    def logits(self, x: Tensor, head: Linear | None = None) -> Tensor:
        """Hidden states [T, hidden] of the last layer → [T, vocab]. `head`: that of a Vocabulary."""
        return (head or self.head)(rms_norm(x, self.norm, self.shape.eps))


class Vocabulary:
    """What a label is told apart from: all tokens of the model, or these alone (the cells of a grid, which a grammar
    would keep to anyway). Of few tokens the logits cost next to nothing."""

    def __init__(self, network: Network, tokens: Iterable[int] | None = None):
        self.head, self._index_of = network.head, None
        if tokens is not None:
            some = torch.tensor(sorted(set(tokens)), device=network.device)
            self.head = network.head.subset(some)
            self._index_of = torch.full(
                (network.shape.vocab,), -1, device=network.device
            )  # of a token that is not among them: out of bounds
            self._index_of[some] = torch.arange(len(some), device=network.device)

    def label_indices(self, tokens: Tensor) -> Tensor:
        """Of these tokens, among the logits."""
        return tokens if self._index_of is None else self._index_of[tokens]


def _weight(tensor: Tensor | Weight) -> Weight:
    return tensor if isinstance(tensor, Weight) else Weight(tensor)


def _needs_gradient(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if _needs_gradient(x) and not x.is_cuda:
        return RMSNorm.apply(x, weight, eps)
    if not torch.is_inference_mode_enabled() or x.dtype != torch.float32 or x.shape[0] > FEW_ROWS:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # for few rows the number of calls is the cost
    return torch.addcmul(_constant(eps, x.device), length, length, value=1 / x.shape[-1]).rsqrt_().mul(x).mul_(weight)


class RMSNorm(torch.autograd.Function):
    """x / rms(x) · weight of a frozen norm; on a CPU every pass over memory that is saved counts."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, scale = ctx.saved_tensors
        dx = grad * weight
        along = (dx * x).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(x.shape[-1])
        return dx.mul_(scale).addcmul_(x, along, value=-1), None, None


class Gated(torch.autograd.Function):
    """silu(gate) · up, of [gate | up] side by side; the gradient is written side by side too."""

    @staticmethod
    def forward(ctx, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    def backward(ctx, grad: Tensor):
        gate, up = ctx.saved_tensors[0].chunk(2, 1)
        out = torch.empty_like(ctx.saved_tensors[0])
        d_gate, d_up = out.chunk(2, 1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=d_gate)
        torch.mul(grad, F.silu(gate), out=d_up)
        return out


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, 1)
    return F.silu(gate).mul_(up)


@cache
def _constant(value: float, device: torch.device) -> Tensor:
    return torch.tensor(value, device=device)


class Rotate(torch.autograd.Function):
    """Rotary positions: turn the pairs (x_i, x_{i + D/2}) by an angle; the gradient turns them back."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


class PackedAttention:
    """Causal attention of packed sequences, each within itself.

    Sequences are handled in buckets of similar length (up to the next power of two), padded on the right inside the
    bucket: a causal mask alone then hides the padding, since it lies after every real token. What stands in a padding
    slot does not matter, so it is a copy of some row: nothing has to be cleared. What sequences share at their start (a
    chat header) has its rows once, for every product but attention itself. Where such a start is long and most of a
    sequence (the examples of a task), its queries are computed only in the first sequence that has it.
    """

    LONG = 64
    """Tokens; sequences that share about as many of these lengths leave the queries of these out, in a bucket of their
    own."""

    def __init__(
        self,
        lengths: list[int],
        device="cpu",
        shared: list[tuple[int, int]] | None = None,
        windows: tuple[int, ...] = (),
    ):
        """`shared[s]` = (leader, n): the first n tokens of s are those of an earlier sequence and have no rows of their
        own.

        `windows`: those of a Shape."""
        shared = shared or [(0, 0)] * len(lengths)
        self.rows: list[Tensor] = []
        """Of each sequence the rows of its tokens, shared ones first."""
        count = 0
        for length, (leader, common) in zip(lengths, shared):
            new_rows = torch.arange(count, count + length - common)
            self.rows.append(torch.cat((self.rows[leader][:common], new_rows)) if common else new_rows)
            count += len(new_rows)
        self.positions = torch.cat([torch.arange(common, n) for n, (_, common) in zip(lengths, shared)]).to(device)
        members: dict[tuple[int, int], list[int]] = {}
        for s, (n, (_, common)) in enumerate(zip(lengths, shared)):
            silent = common // self.LONG * self.LONG if 2 * common >= n else 0
            members.setdefault((max(16, 1 << (n - 1).bit_length()), silent), []).append(s)
        self.buckets: list[tuple[int, int, int]] = []
        """(sequences, slots for each, slots at the start that ask nothing)"""
        queries, keys = _Slots(), _Slots()
        for (_, silent), bucket in members.items():
            longest = max(lengths[s] for s in bucket)
            self.buckets.append((len(bucket), longest, silent))
            for s in bucket:
                keys.add(self.rows[s], range(longest), shared[s][1])
                queries.add(self.rows[s], range(silent, longest), shared[s][1])
        self._dense = keys.count == count and len(members) == 1
        self._queries, self._keys = queries.indices(device), keys.indices(device)
        self._windows = windows
        self._masks = {
            window: [_mask(longest, silent, window, device) for _, longest, silent in self.buckets]
            for window in {0, *windows}
        }

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self._dense:
            q, k, v = (
                GatherPadded.apply(q, *self._queries[:4]),
                GatherPadded.apply(k, *self._keys[:4]),
                GatherPadded.apply(v, *self._keys[:4]),
            )
        asking, sizes = (
            [n * (longest - silent) for n, longest, silent in self.buckets],
            [n * longest for n, longest, _ in self.buckets],
        )
        parts, masks = [], self._masks[self._windows[layer] if self._windows else 0]
        for (n, _, _), mask, *qkv in zip(self.buckets, masks, q.split(asking), k.split(sizes), v.split(sizes)):
            o = causal_attention(*(x.unflatten(0, (n, -1)).transpose(1, 2) for x in qkv), mask)
            parts.append(o.transpose(1, 2).flatten(2).flatten(0, 1))
        o = torch.cat(parts) if len(parts) > 1 else parts[0]
        return o if self._dense else ScatterPacked.apply(o, self._queries[0], self._queries[1], self._queries[4])


def _mask(length: int, silent: int, window: int, device) -> Tensor | None:
    """0 where a query attends to a key, else −inf: [length - silent, length]; None: where causality alone decides."""
    windowed = 0 < window < length
    if not silent and not windowed:
        return None
    mask = torch.full((length - silent, length), float("-inf"), device=device)
    return mask.triu(silent + 1) + mask.tril(silent - window) if windowed else mask.triu(silent + 1)


class _Slots:
    """The places of rows in padded sequences. Each row has one primary place; places of the same row in other sequences
    are copies. The rest is padding; what attention computes there, and for copies, is dropped."""

    def __init__(self):
        self.rows, self.homes, self.copies = [], [], []

    def add(self, rows: Tensor, places: range, common: int) -> None:
        """Of a sequence's rows, of which the first `common` are shared, those at these places; beyond its end the last,
        as padding."""
        place = torch.arange(places.start, places.stop)
        self.rows.append(rows[place.clamp(max=len(rows) - 1)])
        self.copies.append(place < common)
        self.homes.append((place >= common) & (place < len(rows)))

    @property
    def count(self) -> int:
        return sum(map(len, self.rows))

    def indices(self, device) -> tuple[Tensor, ...]:
        """Of each slot its row; of each row its slot; the copies, and the row of each; the slots that are no home."""
        row, home, copy = (torch.cat(parts) for parts in (self.rows, self.homes, self.copies))
        slots = home.nonzero()[:, 0]
        slot_of_row = torch.empty(len(slots), dtype=torch.long)
        slot_of_row[row[slots]] = slots
        copies = copy.nonzero()[:, 0]
        return tuple(index.to(device) for index in (row, slot_of_row, copies, row[copies], (~home).nonzero()[:, 0]))


class GatherPadded(torch.autograd.Function):
    """Packed rows → slots. A row's gradient is its home slot's, and its copies' where sequences share it; that of a
    padding slot is 0, since nothing attends to it and its output is dropped.

    Autograd's own gradient of the same choice of rows would add up row by row, many times slower.
    """

    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor, slots: Tensor, copies: Tensor, copied: Tensor) -> Tensor:
        ctx.save_for_backward(slots, copies, copied)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx, grad: Tensor):
        slots, copies, copied = ctx.saved_tensors
        dx = grad.index_select(0, slots)
        if len(copies):
            dx.index_add_(0, copied, grad.index_select(0, copies))
        return dx, None, None, None, None


class ScatterPacked(torch.autograd.Function):
    """Slots → packed rows, each from its home slot; the `other` slots are padding and copies."""

    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor, slots: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(rows, other)
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, other = ctx.saved_tensors
        return grad.index_select(0, rows).index_fill_(0, other, 0), None, None, None


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """[S, H, Q, D] with [S, K, L, D] → [S, H, Q, D]. `mask` [Q, L], where there are fewer queries than keys: 0 where
    one sees the other, else −inf."""
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    return F.scaled_dot_product_attention(q, k, v, None if mask is None else mask.to(q.dtype), is_causal=mask is None)
