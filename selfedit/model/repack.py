"""Blocks of a GGUF file → the layouts of `packed.quantized`; the values equal those of the `gguf` library bit for bit.

The integers of a block are what the library itself reads from it once its scales are replaced by ones (UNIT_SCALES), so
only the scales are read here.
"""

from __future__ import annotations

import numpy as np

from selfedit.model.packed.quantized import BLOCK, LAYOUTS, Layout

ONE = [0, 0x3C]
"""1 in fp16, little-endian."""
UNIT_SCALES = {  # (start, bytes) within a block that set every scale to 1 and every offset to 0
    "Q4_0": (0, ONE),
    "Q4_1": (0, ONE + [0, 0]),
    "Q5_0": (0, ONE),
    "Q5_1": (0, ONE + [0, 0]),
    "Q8_0": (0, ONE),
    "Q4_K": (0, ONE + [0, 0] + [1] * 4 + [0] * 4 + [1] * 4),
    "Q5_K": (0, ONE + [0, 0] + [1] * 4 + [0] * 4 + [1] * 4),
    "Q6_K": (192, [1] * 16 + ONE),
}


def repacked(data: np.ndarray, kind) -> np.ndarray:
    """Rows of a tensor as the file holds them, of a `gguf.GGMLQuantizationType` → rows of `LAYOUTS[kind.name]`."""
    from gguf import GGML_QUANT_SIZES, dequantize

    layout: Layout = LAYOUTS[kind.name]
    raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1, GGML_QUANT_SIZES[kind][1])
    unit = raw.copy()
    start, ones = UNIT_SCALES[kind.name]
    unit[:, start : start + len(ones)] = ones
    ints = dequantize(unit, kind).astype(np.int8).reshape(-1, BLOCK)
    if layout.bits == 4:
        low, high = np.split((ints + layout.center).astype(np.uint8), 2, 1)
        ints = low | high << 4
    head = np.ascontiguousarray(_scales(raw, kind.name)).view(np.uint8).reshape(len(ints), layout.head_bytes)
    return np.concatenate((head, ints.view(np.uint8)), 1).reshape(len(data), -1)


def _scales(raw: np.ndarray, kind: str) -> np.ndarray:
    """Scales and offset of every 32 values, in the layout's precision."""
    from gguf.quants import Q4_K

    if kind in ("Q4_K", "Q5_K"):
        scale, least = Q4_K.get_scale_min(raw[:, 4:16])
        halves = np.ascontiguousarray(raw[:, :4]).view(np.float16).astype(np.float32)
        return np.stack((halves[:, :1] * scale, -(halves[:, 1:] * least)), -1)
    if kind == "Q6_K":
        return np.ascontiguousarray(raw[:, 208:]).view(np.float16).astype(np.float32) * raw[:, 192:208].view(np.int8)
    return raw[:, : LAYOUTS[kind].head_bytes]
