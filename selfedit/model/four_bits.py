"""The tensors of an adapter ↔ small integers: 4 bits per weight and a scale per group of weights.

In: tensors under their names. Out: for each, its integers two to a byte and its scales; a tensor that does not divide
into groups stays in bf16. An adapter takes little more than a quarter of its size in bf16 (docs/LOG.md, "Small
adapters"). What was read back is written again as the same bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 32
"""Weights that share a scale, neighbours in a row of the tensor."""
LARGEST = 7
"""Integers from -7 to 7: 0 is exact, and rounding has no bias."""
SCALE = ".scale"
"""Ends the name of a tensor's scales."""


def pack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors [rows, columns] → uint8 [rows, columns / 2] under the same name, bf16 scales under it with SCALE."""
    packed = {}
    for name, tensor in tensors.items():
        if tensor.numel() % GROUP or tensor.shape[-1] % 2:
            packed[name] = tensor.to(torch.bfloat16).contiguous()
            continue
        groups = tensor.float().reshape(-1, GROUP)
        scales = (groups.abs().amax(1, keepdim=True) / LARGEST).bfloat16()
        steps = groups / torch.where(scales == 0, 1.0, scales.float())
        integers = (steps.round().clamp(-LARGEST, LARGEST) + LARGEST + 1).to(torch.uint8).flatten()
        packed[name] = (integers[0::2] | integers[1::2] << 4).reshape(*tensor.shape[:-1], -1)
        packed[name + SCALE] = scales.flatten()
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they were, but for rounding: fp32, or as they are if they were not packed. Raises ValueError on
    integers and scales that do not belong together."""
    tensors = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE):
            continue
        scales = packed.get(name + SCALE)
        if scales is None:
            tensors[name] = tensor
            continue
        if (
            tensor.dtype != torch.uint8
            or not scales.is_floating_point()
            or 2 * tensor.numel() != GROUP * scales.numel()
        ):
            raise ValueError(f"{name} does not fit its scales")
        integers = torch.stack((tensor & 15, tensor >> 4), -1).float() - (LARGEST + 1)
        groups = integers.reshape(-1, GROUP) * scales.float().reshape(-1, 1)
        tensors[name] = groups.reshape(*tensor.shape[:-1], -1)
    return tensors


def rounded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are read back."""
    return {name: tensor.to(tensors[name].dtype) for name, tensor in unpack(pack(tensors)).items()}
