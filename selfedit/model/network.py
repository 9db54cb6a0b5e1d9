"""The frozen language model: a decoder of the Llama family (Llama, Mistral, SmolLM2, Qwen2, Qwen3) over packed tokens.

In: token ids of many sequences laid end to end, no padding. Out: hidden states, one row a token; logits only for the
rows that are asked for. Everything but attention works on the packed rows [T, hidden], so no product is ever spent on
padding; attention sees sequences of similar length side by side. Linear layers that read the same input are one
product (q, k, v; gate, up). Adapters come in through `lora(layer, group, x)`, so this file knows nothing of them.
The reference is `transformers`: tests/test_network.py compares logits.

Axes: T packed tokens, S sequences, H heads, K key-value heads, D head size, I in, O out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads on shared cores slow a step up to 20 times

import torch
import torch.nn.functional as F
from torch import Tensor

from selfedit.errors import ModelError
from selfedit.model.quantized import QuantizedWeight, joined

GROUPS = {  # modules that read the same input → one product
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
MODULES = {module: group for group, modules in GROUPS.items() for module in modules}
PARENTS = {m: "self_attn" if MODULES[m] in ("qkv", "o") else "mlp" for m in MODULES}

FEW_ROWS = 48
"""Up to this many rows a product on a CPU is bound by memory, and a packed weight layout (oneDNN) wins."""

AttentionFn = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [T, H, D], k [T, K, D], v [T, K, D]) → [T, H·D]"""
LinearFn = Callable[[int, str, Tensor], Tensor]
"""(layer, group, x [T, I]) → [T, O]"""


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    eps: float
    rope_theta: float
    max_positions: int
    tied: bool

    @classmethod
    def from_config(cls, config: dict) -> Shape:
        """Read a Hugging Face config.json. Raises ModelError on what this decoder does not do."""
        kind = config.get("model_type")
        if kind not in ("llama", "mistral", "qwen2", "qwen3"):
            raise ModelError(f"model type {kind!r} is not supported; choose a Llama, Mistral, SmolLM2, Qwen2 or Qwen3 model")
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ModelError("scaled rotary positions (rope_scaling) are not supported yet; choose a model without")
        if config.get("hidden_act", "silu") != "silu" or config.get("mlp_bias"):
            raise ModelError("only models with SiLU and no MLP bias are supported")
        window = config.get("sliding_window")
        positions = config.get("max_position_embeddings", 4096)
        if window and config.get("use_sliding_window", kind == "mistral"):
            positions = min(positions, window)  # within one window, sliding attention is full attention
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            ffn=config["intermediate_size"],
            vocab=config["vocab_size"],
            eps=config.get("rms_norm_eps", 1e-6),
            rope_theta=config.get("rope_theta") or rope.get("rope_theta") or 10000.0,
            max_positions=positions,
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    def widths(self, module: str) -> tuple[int, int]:
        """(in, out) of a linear module."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, q),
            "k_proj": (self.hidden, kv),
            "v_proj": (self.hidden, kv),
            "o_proj": (q, self.hidden),
            "gate_proj": (self.hidden, self.ffn),
            "up_proj": (self.hidden, self.ffn),
            "down_proj": (self.ffn, self.hidden),
        }[module]


class Linear:
    """A frozen linear layer, [O, I], with a second form for products of few rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, quantized: QuantizedWeight | None = None):
        self.weight, self.bias, self.quantized = weight, bias, quantized
        self._packed = None

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if x.requires_grad and torch.is_grad_enabled():  # the forms for few rows have no gradient
            return F.linear(x, self.weight, self.bias)
        if self.quantized is not None and rows <= FEW_ROWS:
            y = self.quantized(x)
            return y if self.bias is None else y.add_(self.bias)
        if rows > FEW_ROWS or x.is_cuda or x.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return F.linear(x, self.weight, self.bias)
        if rows == 1 and self.weight.shape[0] < 16384:  # a matrix-vector product reads the plain layout as fast
            return F.linear(x, self.weight, self.bias)
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, 16)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


@dataclass
class Layer:
    attention_norm: Tensor
    mlp_norm: Tensor
    linears: dict[str, Linear]
    """By group name."""
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


class Network:
    def __init__(self, shape: Shape, weights: dict[str, Tensor], blocks: dict[str, Tensor] | None = None):
        """`weights`: tensors under their Hugging Face names, of one dtype on one device; consumed.

        `blocks`: what a GGUF file holds for some of them, for an fp32 model on a CPU.
        """
        self.shape, blocks = shape, blocks or {}
        try:
            self.embedding = weights.pop("model.embed_tokens.weight")
            self.norm = weights.pop("model.norm.weight")
            head = weights.pop("lm_head.weight", None)
            tied = shape.tied or head is None
            self.head = Linear(self.embedding if tied else head)
            self.head.quantized = joined([self.head.weight], [blocks.get("model.embed_tokens.weight" if tied else "lm_head.weight")])
            self.layers = [self._layer(f"model.layers.{i}", weights, blocks) for i in range(shape.layers)]
        except KeyError as error:
            raise ModelError(f"the model lacks the tensor {error}; it is incomplete, download it again") from error
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        self._rotary = _rotary_table(shape, self.device, self.dtype)

    def _layer(self, prefix: str, weights: dict[str, Tensor], blocks: dict[str, Tensor]) -> Layer:
        linears = {}
        for group, modules in GROUPS.items():
            names = [f"{prefix}.{PARENTS[m]}.{m}" for m in modules]
            parts = [weights.pop(f"{n}.weight") for n in names]
            biases = [weights.pop(f"{n}.bias", None) for n in names]
            linears[group] = Linear(
                torch.cat(parts) if len(parts) > 1 else parts[0],
                torch.cat(biases) if biases[0] is not None else None,
                joined(parts, [blocks.get(f"{n}.weight") for n in names]),
            )
        return Layer(
            attention_norm=weights.pop(f"{prefix}.input_layernorm.weight"),
            mlp_norm=weights.pop(f"{prefix}.post_attention_layernorm.weight"),
            linears=linears,
            q_norm=weights.pop(f"{prefix}.self_attn.q_norm.weight", None),
            k_norm=weights.pop(f"{prefix}.self_attn.k_norm.weight", None),
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [T] → [T, hidden]."""
        return F.embedding(tokens, self.embedding)

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
        """Hidden states [T, hidden] before layer `layers.start` → those after its last layer (before the final norm)."""
        s, linear = self.shape, linear or self.base_linear
        cos, sin = (table[positions] for table in self._rotary)
        q_width, kv_width = s.heads * s.head_dim, s.kv_heads * s.head_dim
        for i in layers if layers is not None else range(s.layers):
            layer = self.layers[i]
            qkv = linear(i, "qkv", rms_norm(x, layer.attention_norm, s.eps))
            qk = qkv[:, : q_width + kv_width].unflatten(1, (-1, s.head_dim))
            if layer.q_norm is not None:
                qk = torch.cat(
                    (rms_norm(qk[:, : s.heads], layer.q_norm, s.eps), rms_norm(qk[:, s.heads :], layer.k_norm, s.eps)), 1
                )
            qk = Rotate.apply(qk, cos, sin) if torch.is_grad_enabled() else _turn(qk, cos, sin)
            v = qkv[:, q_width + kv_width :].unflatten(1, (-1, s.head_dim))
            x = x + linear(i, "o", attention(i, qk[:, : s.heads], qk[:, s.heads :], v))
            gate_up = linear(i, "gate_up", rms_norm(x, layer.mlp_norm, s.eps))
            x = x + linear(i, "down", F.silu(gate_up[:, : s.ffn]) * gate_up[:, s.ffn :])
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Hidden states [T, hidden] of the last layer → [T, vocab]."""
        return self.head(rms_norm(x, self.norm, self.shape.eps))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if not torch.is_inference_mode_enabled() or x.dtype != torch.float32 or x.shape[0] > FEW_ROWS:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # for few rows the number of calls is the cost
    return torch.addcmul(_constant(eps, x.device), length, length, value=1 / x.shape[-1]).rsqrt_().mul(x).mul_(weight)


@cache
def _constant(value: float, device: torch.device) -> Tensor:
    return torch.tensor(value, device=device)


def _rotary_table(shape: Shape, device, dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, [positions, 1, D]; the first half of sin has its sign turned."""
    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32)
    frequencies = 1.0 / shape.rope_theta ** (half / shape.head_dim)
    angles = torch.outer(torch.arange(shape.max_positions, dtype=torch.float32), frequencies)[:, None]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(device, dtype), torch.cat((-sin, sin), -1).to(device, dtype)


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
    bucket: a causal mask alone then hides the padding, since it lies after every real token.
    """

    def __init__(self, lengths: list[int], device="cpu"):
        self.lengths = lengths
        self.positions = torch.cat([torch.arange(n) for n in lengths]).to(device)
        starts = [0]
        for n in lengths:
            starts.append(starts[-1] + n)
        buckets: dict[int, list[int]] = {}
        for s, n in enumerate(lengths):
            buckets.setdefault(max(16, 1 << (n - 1).bit_length()), []).append(s)
        self.buckets = []
        for members in buckets.values():
            longest = max(lengths[s] for s in members)
            rows = torch.cat([torch.arange(starts[s], starts[s + 1]) for s in members])
            slots = torch.cat([torch.arange(lengths[s]) + j * longest for j, s in enumerate(members)])
            dense = all(lengths[s] == longest for s in members) and len(members) == len(lengths)
            self.buckets.append((len(members), longest, None if dense else (rows.to(device), slots.to(device))))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens, heads, size = q.shape
        out = None
        for count, longest, index in self.buckets:
            padded = (self._pad(x, count, longest, index) for x in (q, k, v))
            o = causal_attention(*padded).transpose(1, 2).reshape(count * longest, heads * size)
            if index is None:
                return o
            rows, slots = index
            moved = Move.apply(o, slots, rows, tokens)
            out = moved if out is None else out + moved
        return out

    def _pad(self, x: Tensor, count: int, longest: int, index) -> Tensor:
        """[T, H, D] → [count, H, longest, D]."""
        if index is not None:
            x = Move.apply(x, *index, count * longest)
        return x.view(count, longest, *x.shape[1:]).transpose(1, 2)


class Move(torch.autograd.Function):
    """Rows `source` of x become rows `target` of a matrix of `size` rows, zeros elsewhere; no row is named twice.

    That is why the gradient is the same move back; autograd's own would add up row by row, many times slower.
    """

    @staticmethod
    def forward(ctx, x: Tensor, source: Tensor, target: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(source, target)
        ctx.size = x.shape[0]
        return _moved(x, source, target, size)

    @staticmethod
    def backward(ctx, grad: Tensor):
        source, target = ctx.saved_tensors
        return _moved(grad, target, source, ctx.size), None, None, None


def _moved(x: Tensor, source: Tensor, target: Tensor, size: int) -> Tensor:
    picked = x.index_select(0, source)
    return x.new_zeros(size, *x.shape[1:]).index_copy_(0, target, picked)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[S, H, L, D] with [S, K, L, D] → [S, H, L, D]."""
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)

