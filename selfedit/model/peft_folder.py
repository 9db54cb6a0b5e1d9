"""A LoRA adapter on disk, in the format of the `peft` library: a configuration (JSON) and the weights (safetensors).

In: tensors under PEFT's names, `lora_A` [R, I] and `lora_B` [O, R] of every adapted module. The weights are written in
bf16 or, those of memories, in four bits (four_bits.py); folders in fp16 and fp32 are read as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from selfedit import disk
from selfedit.errors import AdapterError
from selfedit.model import four_bits
from selfedit.model.backend import LoraConfig

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
LARGEST_RANK = 4096
"""As TrainConfig allows."""
_UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
    "alora_invocation_tokens",
)


def write_adapter(
    folder: Path, tensors: dict[str, Tensor], config: LoraConfig, base_model: str, small: bool = False
) -> None:
    """`small`: in four bits instead of bf16."""
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    _write_weights(folder, four_bits.pack(tensors) if small else _in_dtype(tensors, torch.bfloat16))
    record = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(config.modules),
        "layers_to_transform": list(config.layers),
        "layers_pattern": "layers",
    }
    (folder / CONFIG_FILE).write_text(json.dumps(record, indent=1) + "\n")


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder. Raises AdapterError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return four_bits.unpack(load_file(folder / WEIGHTS_FILE))
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"{folder / WEIGHTS_FILE}: not a readable adapter ({error})") from error


def read_config(folder: Path, num_layers: int, modules: Collection[str]) -> LoraConfig:
    """The configuration of a PEFT folder for a model with so many layers and these linear modules.

    Raises AdapterError on anything but plain LoRA on some of the modules.
    """
    try:
        record = json.loads((folder / CONFIG_FILE).read_text())
        targets, layers = record["target_modules"], record.get("layers_to_transform")
        rank, alpha = record["r"], record["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterError(f"{folder / CONFIG_FILE}: not a readable PEFT adapter configuration ({error})") from error
    for key in _UNSUPPORTED:
        if record.get(key):
            raise AdapterError(f"{folder}: an adapter with {key!r} is not supported; only plain LoRA is")
    if record.get("peft_type") != "LORA" or record.get("bias", "none") != "none":
        raise AdapterError(f"{folder}: only plain LoRA adapters without biases are supported")
    if targets == "all-linear":
        targets = list(modules)
    if (
        not isinstance(targets, list)
        or not targets
        or not all(isinstance(name, str) and name in modules for name in targets)
    ):
        raise AdapterError(f"{folder}: target_modules {targets!r} are not among {', '.join(modules)}")
    layers = list(range(num_layers)) if layers is None else [layers] if isinstance(layers, int) else layers
    if not isinstance(layers, list) or not layers or not all(type(i) is int and i >= 0 for i in layers):
        raise AdapterError(f"{folder}: layers_to_transform {layers!r} are not indices of layers")
    if max(layers) >= num_layers:
        raise AdapterError(f"{folder}: adapts layer {max(layers)}, but the model has {num_layers} layers")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK or type(alpha) not in (int, float) or not 0 < alpha < 1e6:
        raise AdapterError(f"{folder}: 'r' {rank!r} and 'lora_alpha' {alpha!r} are not those of a LoRA adapter")
    return LoraConfig(rank, alpha, tuple(m for m in modules if m in targets), tuple(sorted(set(layers))))


def export_adapter(source: Path, folder: Path) -> None:
    """Copies an adapter with its weights in fp16, which every tool reads; it holds them exactly but for values below
    5e-5. Raises AdapterError."""
    _write_weights(folder, _in_dtype(read_adapter(source), torch.float16))
    shutil.copyfile(source / CONFIG_FILE, folder / CONFIG_FILE)


def _in_dtype(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}


def _write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    disk.write_tensors(folder / WEIGHTS_FILE, tensors)


def check_tensors(folder: Path, tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Raises AdapterError unless the tensors have exactly the expected names and shapes, and finite values."""
    if odd := sorted(tensors.keys() ^ expected.keys()):
        raise AdapterError(f"{folder}: the adapter does not fit the model: tensor {odd[0]!r} is on one side only")
    for name, shape in expected.items():
        actual = tuple(tensors[name].shape)
        if actual != shape:
            raise AdapterError(f"{folder}: the adapter does not fit the model: {name} is {actual}, not {shape}")
        if not tensors[name].isfinite().all():
            raise AdapterError(f"{folder}: {name} holds values that are not finite")
