"""A model's name → weights in memory, ready to run: fp32 on a CPU, bf16 on a GPU.

A CPU that multiplies in bf16 computes large products twice (AVX-512 BF16) or four times (AMX) as fast (docs/LOG.md,
study 15). There training uses bf16, and so do a few-shot task's answers and their rating, unless SELFEDIT_PRECISION is
fp32.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from selfedit.errors import ModelError
from selfedit.model.catalog import Notify, resolve, weight_files
from selfedit.model.chat import Chat
from selfedit.model.packed.network import Network
from selfedit.model.packed.quantized import FILE
from selfedit.model.shape import Shape, check_values, check_weights, one_line, read_object, reason, tensor_table


@dataclass(frozen=True)
class Model:
    name: str
    folder: Path
    network: Network
    chat: Chat
    fingerprint: str
    """Hex; equal for equal weights, wherever they lie. Adapters are bound to it."""

    def identity(self) -> dict[str, str]:
        """What results depend on, of a model: for a run folder's claim."""
        return {"model": self.name, "weights": self.fingerprint, "precision": self.network.precision}

    @property
    def device(self) -> torch.device:
        return self.network.device


def load_model(
    name: str,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    precision: str | None = None,
    notify: Notify = lambda m: None,
) -> Model:
    """Load a model by any name that `catalog.resolve` knows. Raises ModelError.

    `precision`, of an fp32 model on a CPU: "fp32", "mixed", or as the environment and the machine have it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = resolve(name, notify)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    try:
        shape, files = Shape.from_config(read_object(folder / "config.json")), weight_files(folder)
        check_weights(shape, tensor_table(files))
        chat = Chat(folder)
        chat.check_vocabulary(shape.vocab)
        weights = {}
        for file in files:
            weights |= load_file(file)
        check_values(shape, weights)
        on_cpu = device == "cpu" and dtype == torch.float32
        blocks = load_file(folder / FILE) if on_cpu and (folder / FILE).exists() else {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{one_line(folder)}: damaged ({reason(error)}); delete it and fetch it again") from error
    except ModelError as error:
        raise ModelError(f"{one_line(folder)}: {error}") from error
    fingerprint = _fingerprint(weights)
    weights = {key: value.to(device, dtype) for key, value in weights.items()}
    network = Network(shape, weights, blocks)
    if on_cpu and _checked(precision or default_precision()) == "mixed":
        network.use_bf16()
    return Model(name, folder, network, chat, fingerprint)


def default_precision() -> str:
    """`mixed` where training on the CPU takes its large products in bf16, else `fp32`."""
    multiplies_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return os.environ.get("SELFEDIT_PRECISION") or ("mixed" if multiplies_bf16 else "fp32")


def _checked(precision: str) -> str:
    if precision not in ("fp32", "mixed"):
        raise ModelError(f"precision (SELFEDIT_PRECISION) is {precision!r}; give fp32 or mixed")
    return precision


def _fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, sizes and a few thousand values of every tensor: cheap, and any real difference shows."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        flat = tensor.flatten()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(flat[:: max(1, flat.numel() // 1024)].float().numpy().tobytes())
    return digest.hexdigest()
