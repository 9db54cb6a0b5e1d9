"""config.json → Shape: the sizes and switches of a decoder, each field checked before anything is computed with it.

In: the config.json of a Llama, Mistral, Qwen2 or Qwen3 model. Out: a `Shape`, which also lists the tensors that such a
model has, so that weights can be compared with it. FIELDS and ROPE_FIELDS are the complete list of what is read.
A field of another type or out of its range raises ModelError with the field, its value and what is expected.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from selfedit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

GROUPS = {  # modules that read the same input → one product
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
MODULES = {module: group for group, modules in GROUPS.items() for module in modules}
PARENTS = {m: "self_attn" if MODULES[m] in ("qkv", "o") else "mlp" for m in MODULES}

REQUIRED = object()
QWEN = ("qwen2", "qwen3")
MODEL_TYPES = ("llama", "mistral", *QWEN)
LONGEST = 2**27
"""Positions and window sizes above this are errors of the file."""
KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Field:
    kind: type
    low: float = -math.inf
    high: float = math.inf
    default: object = REQUIRED
    """The value of a field that is absent or null."""
    choices: tuple = ()
    """If given, the only values that this decoder implements."""
    models: tuple[str, ...] = MODEL_TYPES
    """Architectures that read the field; ROPE_FIELDS: the types of rotary positions."""

    def check(self, name: str, value: object) -> object:
        """Returns the value, or the default in place of None. Raises ModelError that names the field."""
        if value is None and self.default is not REQUIRED:
            return self.default
        numeric = self.kind in (int, float)
        right = isinstance(value, (int, float) if self.kind is float else self.kind) and (
            self.kind is bool or not isinstance(value, bool)
        )
        if (
            not right
            or (numeric and not self.low <= value <= self.high)
            or (self.choices and value not in self.choices)
        ):
            state = "is missing" if value is None else f"is {shorten(value)}"
            raise ModelError(f"{name} {state}; expected {self._expected()}")
        return float(value) if self.kind is float else value

    def _expected(self) -> str:
        if self.choices:
            return " or ".join(json.dumps(choice) for choice in self.choices)
        limits = f" from {self.low:g} to {self.high:.12g}" if self.kind in (int, float) else ""
        return KINDS[self.kind] + limits


FIELDS = {
    "model_type": Field(str),
    "num_hidden_layers": Field(int, 1, 1000),
    "hidden_size": Field(int, 1, 2**20),
    "intermediate_size": Field(int, 1, 2**22),
    "num_attention_heads": Field(int, 1, 2**16),
    "num_key_value_heads": Field(int, 1, 2**16, default=None),
    "head_dim": Field(int, 2, 2**16, default=None),
    "vocab_size": Field(int, 1, 2**24),
    "max_position_embeddings": Field(int, 1, LONGEST),
    "rms_norm_eps": Field(float, 1e-20, 1, default=1e-6),
    "hidden_act": Field(str, choices=("silu",), default="silu"),
    "tie_word_embeddings": Field(bool, default=False),
    "attention_bias": Field(bool, default=False, models=("llama", "qwen3")),
    "mlp_bias": Field(bool, choices=(False,), default=False, models=("llama",)),
    "partial_rotary_factor": Field(float, choices=(1.0,), default=1.0),
    "rope_theta": Field(float, 2, 1e15, default=None),
    "rope_scaling": Field(dict, default=None),
    "rope_parameters": Field(dict, default=None),
    "sliding_window": Field(int, 1, LONGEST, default=4096, models=("mistral", *QWEN)),
    "use_sliding_window": Field(bool, default=False, models=QWEN),
    "max_window_layers": Field(int, 0, 1000, default=28, models=QWEN),
    "layer_types": Field(list, default=None, models=QWEN),
}
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
ROPE_FIELDS = {
    "rope_type": Field(str, default="default", choices=ROPE_TYPES, models=ROPE_TYPES),
    "rope_theta": Field(float, 2, 1e15, default=None, models=ROPE_TYPES),
    "partial_rotary_factor": Field(float, choices=(1.0,), default=1.0, models=ROPE_TYPES),
    "factor": Field(float, 1, 1e6, models=("linear", "dynamic", "llama3", "yarn")),
    "original_max_position_embeddings": Field(int, 2, LONGEST, default=None, models=("llama3", "yarn", "longrope")),
    "low_freq_factor": Field(float, 1e-6, 1e6, models=("llama3",)),
    "high_freq_factor": Field(float, 1e-6, 1e6, models=("llama3",)),
    "beta_fast": Field(float, 1e-6, 1e6, default=32.0, models=("yarn",)),
    "beta_slow": Field(float, 1e-6, 1e6, default=1.0, models=("yarn",)),
    "mscale": Field(float, 0, 1e3, default=0.0, models=("yarn",)),
    "mscale_all_dim": Field(float, 0, 1e3, default=0.0, models=("yarn",)),
    "truncate": Field(bool, default=True, models=("yarn",)),
    "attention_factor": Field(float, 1e-6, 1e3, default=None, models=("yarn", "longrope")),
    "short_factor": Field(list, models=("longrope",)),
    "long_factor": Field(list, models=("longrope",)),
}

UNUSED_TENSORS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
"""Tensors that old checkpoints hold and that config.json determines."""
LARGEST = 1e6
"""Weights beyond this would overflow; those of real models stay below a thousand."""
DTYPES = ("F64", "F32", "BF16", "F16")
"""Weights that are read, by their names in a safetensors header."""


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
    rope: Mapping[str, object] | None = field(default=None, hash=False)
    """Checked ROPE_FIELDS of scaled rotary positions; None: plain ones."""
    windows: tuple[int, ...] = ()
    """For each layer the last tokens that it attends to, itself included; 0: all. Empty: all layers attend to all."""
    biases: frozenset[str] = frozenset()
    """Modules that have a bias."""
    head_norms: bool = False
    """Queries and keys are normalized per head."""

    @classmethod
    def from_config(cls, config: object) -> Shape:
        """Read a parsed config.json. Raises ModelError on a wrong field and on what this decoder does not implement."""
        if not isinstance(config, dict):
            raise ModelError(f"config.json holds {shorten(config)}; expected an object with a model's configuration")
        kind = FIELDS["model_type"].check("model_type", config.get("model_type"))
        if kind not in MODEL_TYPES:
            raise ModelError(
                f"model type {shorten(kind)} is not supported; choose a Llama, Mistral, SmolLM2, Qwen2 or Qwen3 model"
            )
        if config.get("quantization_config"):
            raise ModelError(
                "quantized weights (quantization_config) are not read; "
                "choose the model with its original weights, or a GGUF file"
            )
        get = {n: f.check(n, config.get(n)) for n, f in FIELDS.items() if kind in f.models}
        heads, hidden = get["num_attention_heads"], get["hidden_size"]
        kv_heads = get["num_key_value_heads"] or heads
        if heads % kv_heads:
            raise ModelError(f"num_key_value_heads is {kv_heads}; expected a divisor of num_attention_heads ({heads})")
        if not get["head_dim"] and hidden % heads:
            raise ModelError(f"num_attention_heads is {heads}; expected a divisor of hidden_size ({hidden})")
        head_dim = get["head_dim"] or hidden // heads
        if head_dim % 2 or head_dim < 2:
            raise ModelError(f"head_dim is {head_dim}; expected an even number, since rotary positions turn pairs")
        positions = get["max_position_embeddings"]
        name = "rope_scaling" if get["rope_scaling"] else "rope_parameters"
        rope = _read_rope(name, get[name] or {}, positions, head_dim)
        biases = ("q_proj", "k_proj", "v_proj") if kind == "qwen2" else ()
        if get.get("attention_bias"):
            biases = ("q_proj", "k_proj", "v_proj", "o_proj")
        return cls(
            layers=get["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            ffn=get["intermediate_size"],
            vocab=get["vocab_size"],
            eps=get["rms_norm_eps"],
            rope_theta=rope["rope_theta"] or get["rope_theta"] or 10000.0,
            max_positions=rope["positions"],
            tied=get["tie_word_embeddings"],
            rope=None if rope["rope_type"] in ("default", "dynamic") else rope,
            windows=_read_windows(kind, config, get, rope["positions"]),
            biases=frozenset(biases),
            head_norms=kind == "qwen3",
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

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names (those of `transformers`) and sizes of all tensors of such a model."""
        sizes = {"model.embed_tokens.weight": (self.vocab, self.hidden), "model.norm.weight": (self.hidden,)}
        if not self.tied:
            sizes["lm_head.weight"] = (self.vocab, self.hidden)
        for layer in (f"model.layers.{i}" for i in range(self.layers)):
            for module in MODULES:
                inputs, outputs = self.widths(module)
                sizes[f"{layer}.{PARENTS[module]}.{module}.weight"] = (outputs, inputs)
                if module in self.biases:
                    sizes[f"{layer}.{PARENTS[module]}.{module}.bias"] = (outputs,)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                sizes[f"{layer}.{norm}.weight"] = (self.hidden,)
            for norm in ("q_norm", "k_norm") if self.head_norms else ():
                sizes[f"{layer}.self_attn.{norm}.weight"] = (self.head_dim,)
        return sizes


def _read_rope(name: str, config: dict, positions: int, head_dim: int) -> dict[str, object]:
    """The checked fields of one type of rotary positions, and `positions`: how many tokens the model then reads."""
    config = {"rope_type": config.get("type"), **config}  # `type`: the name of the field in older files
    kind = ROPE_FIELDS["rope_type"].check(f"{name}.rope_type", config["rope_type"])
    if nested := [key for key, value in config.items() if isinstance(value, dict)]:
        raise ModelError(f"{name}.{shorten(nested[0])} is an object; rotary positions per layer are not supported")
    rope = {n: f.check(f"{name}.{n}", config.get(n)) for n, f in ROPE_FIELDS.items() if kind in f.models}
    rope["positions"] = positions
    if kind in ("llama3", "yarn", "longrope"):
        declared = rope["original_max_position_embeddings"]
        rope["original_max_position_embeddings"] = original = declared or positions
        if kind == "yarn" and declared:
            rope["positions"] = min(LONGEST, max(positions, int(original * rope["factor"])))
    if kind == "llama3" and rope["low_freq_factor"] >= rope["high_freq_factor"]:
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        raise ModelError(f"{name}.low_freq_factor is {low:g}; expected less than high_freq_factor ({high:g})")
    if kind == "longrope":
        for key in ("short_factor", "long_factor"):
            if len(rope[key]) != head_dim // 2:
                raise ModelError(
                    f"{name}.{key} has {len(rope[key])} entries; expected {head_dim // 2}, half of head_dim"
                )
            entry = Field(float, 1e-6, 1e6)
            rope[key] = [entry.check(f"{name}.{key}[{i}]", value) for i, value in enumerate(rope[key])]
        rope["factor"] = Field(float, 1e-6, 1e6, default=positions / original).check(
            f"{name}.factor", config.get("factor")
        )
        if (
            rope["short_factor"] != rope["long_factor"]
        ):  # the long factors hold for texts beyond the original context only
            rope["positions"] = min(positions, original)
    return rope


def _read_windows(kind: str, config: dict, get: dict, positions: int) -> tuple[int, ...]:
    layers = get["num_hidden_layers"]
    types = get.get("layer_types")
    if types is not None:
        entry = Field(str, choices=("full_attention", "sliding_attention"))
        if len(types) != layers:
            raise ModelError(f"layer_types has {len(types)} entries; expected one for each of {layers} layers")
        types = [entry.check(f"layer_types[{i}]", value) for i, value in enumerate(types)]
    explicit_null = "sliding_window" in config and config["sliding_window"] is None
    if kind == "llama" or explicit_null or not get.get("use_sliding_window", True):
        return ()
    first = get["max_window_layers"] if kind in QWEN else 0
    types = types or ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    windows = tuple(get["sliding_window"] if entry == "sliding_attention" else 0 for entry in types)
    return windows if any(0 < window < positions for window in windows) else ()


def check_weights(shape: Shape, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Compare a model's tensors, as name → (dtype, sizes), with those that its configuration describes.

    `dtype`: as in a safetensors header. Raises ModelError if one is missing, superfluous, of another size or dtype.
    """
    expected = shape.tensors()
    if missing := [name for name in expected if name not in tensors]:
        raise ModelError(
            f"the model lacks the tensor {shorten(missing[0])}{_others(missing)}; it is incomplete, download it again"
        )
    if shape.tied:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]  # a copy does no harm
    extra = [name for name in tensors if name not in expected and not UNUSED_TENSORS.fullmatch(name)]
    if extra:
        raise ModelError(
            f"the weights hold the tensor {shorten(extra[0])}{_others(extra)}, "
            "which the configuration does not describe; they belong to another model"
        )
    for name in filter(tensors.__contains__, expected):
        dtype, sizes = tensors[name]
        if tuple(sizes) != expected[name]:
            described = f"the configuration describes {list(expected[name])}"
            raise ModelError(f"tensor {shorten(name)} has the sizes {list(sizes)}; {described}")
        if dtype not in DTYPES:
            raise ModelError(
                f"tensor {shorten(name)} is stored as {dtype}; only weights in {', '.join(DTYPES)} are read"
            )


def check_finite(name: str, numbers: Tensor) -> None:
    """Raises ModelError if a tensor holds numbers that are not finite, or so large that only damage explains them.

    One pass over the memory: `aminmax` hands on whatever is not a number, 4 to 70 times faster than `isfinite`.
    """
    if not all(abs(float(extreme)) <= LARGEST for extreme in numbers.detach().aminmax()):
        problem = f"holds values that are not finite or beyond {LARGEST:g}"
        raise ModelError(f"tensor {shorten(name)} {problem}; download the model again")


def tensor_table(files: Iterable[Path]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → (dtype, sizes) of all tensors in these safetensors files. Raises ModelError on a damaged header."""
    from safetensors import SafetensorError, safe_open

    table = {}
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                part = {n: (t.get_dtype(), tuple(t.get_shape())) for n in file.keys() for t in [file.get_slice(n)]}
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path.name} is damaged or half downloaded ({reason(error)}); download it again"
            ) from error
        if twice := table.keys() & part.keys():
            raise ModelError(f"tensor {shorten(min(twice))} is in two weight files; download the model again")
        table |= part
    return table


def read_object(path: Path) -> dict:
    """A JSON file that holds an object. Raises ModelError with the file's name."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: also not UTF-8, and numbers of 5,000 digits
        raise ModelError(f"{path.name} is not readable JSON ({reason(error)}); download it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} holds {shorten(value)}; expected an object")
    return value


def one_line(text: object) -> str:
    """Text from outside for a message: control characters and line breaks escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def shorten(value: object, most: int = 80) -> str:
    """A value from outside for a message, in quotes if it is a text."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def reason(error: BaseException, most: int = 160) -> str:
    """The first line of an error of a library."""
    text = one_line((str(getattr(error, "strerror", None) or error).strip().splitlines() or [type(error).__name__])[0])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
