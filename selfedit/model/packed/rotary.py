"""Rotary positions: the angle of each pair of a head at each position, plain or scaled to a longer context.

Reference: `transformers`; tests/test_network.py compares the logits for every type.
Sources: RoFormer (arXiv 2104.09864); YaRN (arXiv 2309.00071, section 3); Llama 3.1 (its published reference code);
LongRoPE (arXiv 2402.13753). The "dynamic" type equals the plain one within the positions that are read here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from selfedit.model.shape import Shape


class RotaryTable:
    """cos and sin by position, each [T, 1, D]; the first half of sin is negated. Rows are computed when first
    needed."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype):
        self.shape, self.device, self.dtype = shape, device, dtype
        empty = torch.empty(0, device=device)
        self._table = empty, empty
        """Replaced as one: another thread may use it meanwhile."""

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        needed = int(positions.max()) + 1 if len(positions) else 0
        cos, sin = self._table
        if needed > len(cos):
            frequencies, scale = rotary_frequencies(self.shape)
            rows = min(self.shape.max_positions, max(2048, 1 << (needed - 1).bit_length()))
            angles = torch.outer(torch.arange(rows, dtype=torch.float32), frequencies)[:, None]
            cos, sin = angles.cos() * scale, angles.sin() * scale
            cos, sin = (torch.cat(pair, -1).to(self.device, self.dtype) for pair in ((cos, cos), (-sin, sin)))
            self._table = cos, sin
        return cos[positions], sin[positions]


def rotary_frequencies(shape: Shape) -> tuple[Tensor, float]:
    """Radians per position [D / 2], and a factor on cos and sin."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    plain, rope = 1.0 / shape.rope_theta**exponents, shape.rope
    match rope and rope["rope_type"]:
        case None:
            return plain, 1.0
        case "linear":
            return plain / rope["factor"], 1.0
        case "longrope":
            return plain / torch.tensor(rope["short_factor"]), _longrope_scale(rope)
        case "llama3":
            turns = rope["original_max_position_embeddings"] * plain / (2 * math.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            kept = ((turns - low) / (high - low)).clamp(0, 1)  # share of the plain frequency
            return torch.lerp(plain / rope["factor"], plain, kept), 1.0
        case "yarn":
            low, high = (_pair_that_turns(rope[key], shape) for key in ("beta_fast", "beta_slow"))
            if rope["truncate"]:
                low, high = math.floor(low), math.ceil(high)
            low, high = max(low, 0), min(high, shape.head_dim - 1)
            pairs = torch.arange(shape.head_dim // 2, dtype=torch.float32)
            kept = 1 - ((pairs - low) / (high - low or 0.001)).clamp(0, 1)
            return torch.lerp(plain / rope["factor"], plain, kept), _yarn_scale(rope)
    raise AssertionError(rope)


def _pair_that_turns(times: float, shape: Shape) -> float:
    """The index of the pair that makes so many turns within the original context."""
    turns = shape.rope["original_max_position_embeddings"] / (times * 2 * math.pi)
    return shape.head_dim * math.log(turns) / (2 * math.log(shape.rope_theta))


def _yarn_scale(rope) -> float:
    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(rope["factor"]) + 1.0

    if rope["attention_factor"] is not None:
        return rope["attention_factor"]
    both = rope["mscale"] and rope["mscale_all_dim"]
    return scale(rope["mscale"]) / scale(rope["mscale_all_dim"]) if both else scale(1.0)


def _longrope_scale(rope) -> float:
    if rope["attention_factor"] is not None:
        return rope["attention_factor"]
    if rope["factor"] <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope["factor"]) / math.log(rope["original_max_position_embeddings"]))
