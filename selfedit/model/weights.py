"""The weight files of a model folder: tensors that are read one by one, and what tells two models apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from selfedit.errors import ModelError
from selfedit.model.catalog import weight_files
from selfedit.model.packed.quantized import LAYOUTS, LAYOUTS_KEY, PACKED_FILE, Layout, Weight
from selfedit.model.shape import check_finite, reason, shorten, tensor_table


class WeightFiles:
    """The tensors of a model folder, each read when it is taken, so that a second copy of all of them never exists."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        """`device`, `dtype`: of the products. Raises ModelError on damaged files."""
        self.device, self.dtype = torch.device(device), dtype
        self.files: dict[str, Path] = {}
        self._layouts: dict[str, Layout] = {}
        self._samples: dict[str, bytes] = {}
        files = weight_files(folder)
        self.table = tensor_table(files)
        """Name → (dtype, sizes), those of packed tensors as if in fp32."""
        for file in files:
            with safe_open(file, "pt") as tensors:
                self.files |= dict.fromkeys(tensors.keys(), file)
                packed = json.loads((tensors.metadata() or {}).get(LAYOUTS_KEY, "{}"))
            self._layouts |= {name: LAYOUTS[kind] for name, kind in packed.items()}
        for name, layout in self._layouts.items():
            outputs, row_bytes = self.table[name][1]
            self.table[name] = ("F32", (outputs, layout.inputs(row_bytes)))

    def pop(self, name: str, *default: None) -> Tensor | Weight | None:
        """A matrix for products in fp32 on a CPU as a Weight, all else as a tensor. Raises KeyError if it is missing
        and no default is given, ModelError if its values are not finite."""
        if name not in self.files and default:
            return default[0]
        tensor, layout = self._read(name)
        stays = tensor.dim() == 2 and self.device.type == "cpu" and self.dtype == torch.float32
        if not (stays or layout):
            check_finite(name, tensor)
            return tensor.to(self.device, self.dtype)
        weight = Weight(tensor, layout, torch.float32)
        check_finite(name, weight.numbers())
        return weight if stays else weight.values().to(self.device, self.dtype)

    def _read(self, name: str) -> tuple[Tensor, Layout | None]:
        with safe_open(self.files[name], "pt") as tensors:
            tensor = tensors.get_tensor(name)  # a view of the file: memory that the system shares and can take back
        layout = self._layouts.get(name)
        step = max(1, tensor.numel() // 1024)
        sample = Weight(tensor, layout).sample() if layout else tensor.flatten()[::step].float()
        self._samples[name] = sample.numpy().tobytes()
        return tensor, layout

    def fingerprint(self) -> str:
        """SHA-256 over the names, the sizes and about a thousand values of every tensor: cheap, and any real difference
        shows. Adapters are bound to it."""
        for name in self.files.keys() - self._samples.keys():
            self._read(name)
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name} {self.table[name][1]}".encode())
            digest.update(self._samples[name])
        return digest.hexdigest()


def full_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a model folder in fp32 under their Hugging Face names, for libraries that read no packed ones."""
    files = WeightFiles(folder)
    taken = ((name, files.pop(name)) for name in files.files)
    return {name: weight.values() if isinstance(weight, Weight) else weight for name, weight in taken}


def transformers_model(folder: Path, device: torch.device | str, dtype: torch.dtype):
    """The model of a folder as `transformers` runs it. Raises ModelError."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    options: dict = {"dtype": dtype, "output_loading_info": True}
    try:
        if (folder / PACKED_FILE).exists():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            model, info = kind.from_pretrained(None, config=config, state_dict=full_weights(folder), **options)
            model.name_or_path = model.config.name_or_path = str(folder)  # peft writes it into adapters
        else:
            load = transformers.AutoModelForCausalLM.from_pretrained
            model, info = load(folder, local_files_only=True, **options)
    except ModelError:
        raise
    except Exception as error:  # of many kinds
        raise ModelError(f"transformers cannot load it ({reason(error)})") from error
    for state in ("missing", "unexpected", "mismatched"):
        if names := sorted(map(str, info[f"{state}_keys"])):  # transformers would start with random values
            raise ModelError(f"the tensor {shorten(names[0])} is {state}; download the model again")
    for name, parameter in model.named_parameters():
        check_finite(name, parameter)
    return model.to(device).eval()
