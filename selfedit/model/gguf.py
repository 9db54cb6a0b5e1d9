"""A GGUF file → a Hugging Face model folder (config.json, packed.safetensors, tokenizer.json), once.

Weights keep their quantized integers, repacked into the layouts of `packed.quantized`; what has no layout there becomes
fp32. `weights.full_weights` gives them as other libraries want them. Two traps of the format are undone: llama-type
files store q and k with their rotary halves interleaved, and some files carry a separate, differently quantized copy of
a tied output matrix (the finer copy is kept, tied again).
Source: the GGUF specification (ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np

from selfedit import disk
from selfedit.errors import ModelError
from selfedit.model.packed.quantized import LAYOUTS, LAYOUTS_KEY, PACKED_FILE, Weight
from selfedit.model.repack import UNIT_SCALES, repacked
from selfedit.model.shape import FIELDS, REQUIRED, Field, Shape, check_finite, check_weights, one_line, reason, shorten

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor


ARCHITECTURES = {  # GGUF architecture → model_type, does it permute q and k
    "llama": ("llama", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
}

SETTINGS = {  # field of config.json → GGUF key behind the architecture
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
OPTIONAL = ("num_key_value_heads", "head_dim", "rope_theta")
UNSUPPORTED = (  # settings that would change the result; 0 and false are accepted
    "expert_count",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.scale",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.sliding_window_pattern",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_parallel_residual",
)

TENSOR_NAMES = {  # GGUF → Hugging Face, inside a block
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT_PATTERNS = {  # pre-tokenizer → its splitting rule; None: that of GPT-2, which ByteLevel brings along
    "gpt-2": None,
    "smollm": None,
    "qwen2": WORDS + r"\p{N}" + REST,
    "llama-bpe": WORDS + r"\p{N}{1,3}" + REST,
}

MOST_ENTRIES = 2**21
"""Of a metadata list: several times the largest vocabulary. The library takes about 10 µs for each."""
CONVERTED_VALUES = 1 << 24
"""Values that are converted at a time: the library takes many times the memory of a block."""

CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


class Reader(gguf.GGUFReader):
    """A GGUF file whose values are checked when they are read.

    The library returns empty arrays for what lies behind the end of a file, and loops over the lengths that it reads
    there; here that is an error.
    """

    def _get(self, offset, dtype, count=1, override_order=None):
        if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError("the file is truncated")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs, raw_type):
        if (
            raw_type == gguf.GGUFValueType.ARRAY
            and (length := int(self._get(orig_offs + 4, np.uint64)[0])) > MOST_ENTRIES
        ):
            raise ValueError(f"a list of {length} entries")
        return super()._get_field_parts(orig_offs, raw_type)

    def value(self, key: str, kind: Field | type) -> object:
        """The value of a metadata key; the default of the field if the file lacks it. Raises ModelError."""
        field = kind if isinstance(kind, Field) else Field(kind, default=None)
        try:
            value = self.fields[key].contents() if key in self.fields else None
        except ValueError as error:  # a text that is not UTF-8
            raise ModelError(f"{key} is not readable ({reason(error)})") from error
        return field.check(key, value)


def convert(gguf_file: Path, folder: Path) -> None:
    """Write the model folder. Raises ModelError if the file is damaged or holds no model that is supported."""
    try:
        reader = Reader(gguf_file, "c")
    except Exception as error:  # the library raises many kinds on a damaged file
        raise ModelError(
            f"{one_line(gguf_file)}: not a readable GGUF file ({reason(error)}); download it again"
        ) from error
    try:
        config, permuted = _config(reader)
        tokenizer, settings = _tokenizer(reader, config["vocab_size"])
        tensors, layouts = _tensors(reader, config, permuted)
    except ModelError as error:
        raise ModelError(f"{one_line(gguf_file)}: {error}") from error
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    disk.write_tensors(folder / PACKED_FILE, tensors, {LAYOUTS_KEY: json.dumps(layouts)})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False), "utf-8")


def _config(reader: Reader) -> tuple[dict, bool]:
    """config.json, checked; are q and k permuted."""
    kind = reader.value("general.type", Field(str, default="model"))
    if kind != "model":
        raise ModelError(f"general.type is {shorten(kind)}; expected a whole model, not an adapter or another part")
    parts = reader.value("split.count", Field(int, 0, 2**16, default=0))
    if parts > 1:
        raise ModelError(f"split.count is {parts}: this is one part of a model; merge the parts into one file first")
    architecture = reader.value("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"architecture {shorten(architecture)} is not supported; choose a model of {', '.join(ARCHITECTURES)}"
        )
    model_type, permuted = ARCHITECTURES[architecture]
    if not reader.tensors:
        raise ModelError("the file holds no tensors, only a vocabulary; choose a file with a model's weights")

    def setting(key: str, kind: Field | type) -> object:
        return reader.value(f"{architecture}.{key}", kind)

    names = {tensor.name for tensor in reader.tensors}
    config: dict = {"model_type": model_type}
    for name, key in SETTINGS.items():
        default = FIELDS[name].default if name in OPTIONAL else REQUIRED
        config[name] = setting(key, replace(FIELDS[name], default=default))
    config["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")  # stored as fp32
    config["rope_theta"] = config["rope_theta"] or 10000.0
    if scaled := _rope_scaling(reader, setting, config["max_position_embeddings"]):
        config["rope_parameters"] = {"rope_theta": config.pop("rope_theta")} | scaled
    if window := setting("attention.sliding_window", replace(FIELDS["sliding_window"], low=0, default=0)):
        config["sliding_window"] = window
        if model_type == "llama":
            config["model_type"] = "mistral"
        else:
            config |= {"use_sliding_window": True, "max_window_layers": 0}
    if model_type in FIELDS["attention_bias"].models:
        config["attention_bias"] = "blk.0.attn_output.bias" in names
    for key in UNSUPPORTED:
        full = f"{architecture}.{key}"
        if full in reader.fields and (value := reader.fields[full].contents()):
            raise ModelError(f"{full} is {shorten(value)}; models with this setting are not supported")
    embedding = next((tensor.shape for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None:
        raise ModelError("the file lacks the tensor 'token_embd.weight'; download it again")
    config |= {
        "vocab_size": int(embedding[-1]),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in names,
        "torch_dtype": "float32",
        "architectures": [f"{config['model_type'].capitalize()}ForCausalLM"],
        "bos_token_id": reader.value("tokenizer.ggml.bos_token_id", int),
        "eos_token_id": reader.value("tokenizer.ggml.eos_token_id", int),
    }
    config["num_key_value_heads"] = config["num_key_value_heads"] or config["num_attention_heads"]
    shape = Shape.from_config(config)
    config["head_dim"] = shape.head_dim
    for key in ("rope.dimension_count", "attention.value_length"):
        if (size := setting(key, Field(int, 1, 2**16, default=shape.head_dim))) != shape.head_dim:
            raise ModelError(f"{architecture}.{key} is {size}; expected {shape.head_dim}, the size of a head")
    return config, permuted


def _rope_scaling(reader: Reader, setting: Callable, positions: int) -> dict | None:
    """`rope_parameters` of config.json; None: plain positions."""
    factors = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    kind = setting("rope.scaling.type", Field(str, choices=("none", "linear", "yarn"), default="none"))
    number = Field(float, 1e-6, 1e6, default=None)
    if factors is not None:  # Llama 3's, as divisors of the frequencies
        if kind != "none":
            raise ModelError(f"rope.scaling.type is {kind!r} in a file with rope_freqs.weight; expected one of the two")
        values = np.asarray(factors).ravel().tolist() if factors.dtype == np.float32 else []
        return {
            "rope_type": "longrope",
            "factor": 1.0,
            "short_factor": values,
            "long_factor": values,
            "original_max_position_embeddings": positions,
        }
    if kind == "none":
        return None
    rope = {"rope_type": kind, "factor": setting("rope.scaling.factor", replace(number, default=REQUIRED))}
    if kind == "yarn":
        length = setting("rope.scaling.original_context_length", Field(int, 2, 2**27, default=None))
        scale = setting("rope.scaling.attn_factor", number)
        optional = {
            "original_max_position_embeddings": length,
            "beta_fast": setting("rope.scaling.yarn_beta_fast", number),
            "beta_slow": setting("rope.scaling.yarn_beta_slow", number),
            "attention_factor": None if scale is None else scale * (0.1 * math.log(rope["factor"]) + 1),
        }
        rope |= {name: value for name, value in optional.items() if value is not None}
    return rope


def _tensors(reader: Reader, config: dict, permuted: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors as they are stored, and the layouts of those that are packed."""
    named = {_tensor_name(t.name): t for t in reader.tensors if t.name != "rope_freqs.weight"}
    shape = Shape.from_config(config)
    check_weights(shape, {name: ("F32", tuple(t.shape[::-1].tolist())) for name, t in named.items()})
    _retie(named)
    tensors, layouts = {}, {}
    for name, tensor in named.items():
        heads = 0
        if permuted and "self_attn." in name:
            heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(name.split(".")[-2], 0)
        try:
            tensors[name] = _rows(tensor, heads)
        except NotImplementedError as error:
            kind = tensor.tensor_type.name
            raise ModelError(f"tensor {shorten(tensor.name)} is stored as {kind}; such weights are not read") from error
        if tensor.tensor_type.name in UNIT_SCALES:
            layouts[name] = tensor.tensor_type.name
        check_finite(name, Weight(tensors[name], LAYOUTS.get(layouts.get(name))).numbers())
    return tensors, layouts


def _rows(tensor: gguf.ReaderTensor, heads: int) -> Tensor:
    """A tensor's rows, repacked, in their own float format, or in fp32. `heads`: of q or k, whose two halves of each
    head are separated again; 0: rows stay in their order."""
    import torch

    def converted(data: np.ndarray) -> np.ndarray:
        if tensor.tensor_type.name in UNIT_SCALES:
            return repacked(data, tensor.tensor_type)
        values = data if tensor.tensor_type.name == "F16" else gguf.dequantize(data, tensor.tensor_type)
        return np.array(values)

    step = max(1, CONVERTED_VALUES // int(tensor.shape[0]))
    rows = np.concatenate([converted(tensor.data[low : low + step]) for low in range(0, len(tensor.data), step)])
    if heads:
        paired = rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:])
        rows = np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows.shape)
    return torch.from_numpy(rows).bfloat16() if tensor.tensor_type.name == "BF16" else torch.from_numpy(rows)


def _tensor_name(name: str) -> str:
    """GGUF → Hugging Face."""
    stem, _, kind = name.rpartition(".")
    outer = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
    if stem in outer:
        return f"{outer[stem]}.{kind}"
    block, number, part = (*stem.split("."), "", "")[:3]
    if block != "blk" or part not in TENSOR_NAMES or stem.count(".") != 2:
        raise ModelError(f"the file holds the tensor {shorten(name)}, which is not supported")
    return f"model.layers.{number}.{TENSOR_NAMES[part]}.{kind}"


def _retie(named: dict[str, gguf.ReaderTensor]) -> None:
    """Keep one copy of a tied matrix, the finer one: files may hold two, quantized differently."""
    head, embedding = named.get("lm_head.weight"), named["model.embed_tokens.weight"]
    if head is None:
        return
    rows = slice(None, None, max(1, len(head.data) // 256))
    a, b = (gguf.dequantize(np.ascontiguousarray(t.data[rows]), t.tensor_type).ravel() for t in (head, embedding))
    if np.corrcoef(a, b)[0, 1] > 0.98:
        named["model.embed_tokens.weight"] = max(embedding, named.pop("lm_head.weight"), key=lambda t: t.n_bytes)


def _tokenizer(reader: Reader, rows: int) -> tuple[Tokenizer, dict]:
    """The tokenizer, and tokenizer_config.json. `rows`: of the embedding."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    kind = reader.value("tokenizer.ggml.model", str)
    pre = reader.value("tokenizer.ggml.pre", Field(str, default="gpt-2"))
    if kind != "gpt2" or pre not in SPLIT_PATTERNS:
        raise ModelError(
            f"tokenizer {shorten(kind)}/{shorten(pre)} is not supported; use the model's safetensors folder instead"
        )
    tokens = _list(reader, "tokenizer.ggml.tokens", str)
    types = _list(reader, "tokenizer.ggml.token_type", int)
    merges = [tuple(merge.split(" ")) for merge in _list(reader, "tokenizer.ggml.merges", str)]
    if not len(tokens) == len(types) == len(set(tokens)):
        raise ModelError(
            f"tokenizer.ggml.tokens has {len(tokens)} entries, {len(set(tokens))} of them distinct, and "
            f"tokenizer.ggml.token_type has {len(types)}; expected equal numbers"
        )
    if len(tokens) > rows:
        raise ModelError(f"tokenizer.ggml.tokens has {len(tokens)} entries, but the embedding has {rows} rows")
    try:
        model = models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=pre == "llama-bpe")
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"tokenizer.ggml.merges does not fit the tokens ({reason(error)})") from error
    tokenizer = Tokenizer(model)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    if pre == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    elif SPLIT_PATTERNS[pre] is None:
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        steps = [
            pre_tokenizers.Split(Regex(SPLIT_PATTERNS[pre]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, types) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    extra = [t for t, kind in zip(tokens, types) if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in extra])

    def token(key: str) -> str | None:
        index = reader.value(f"tokenizer.ggml.{key}_token_id", Field(int, 0, len(tokens) - 1, default=None))
        return None if index is None else tokens[index]

    return tokenizer, {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding") or token("eos"),
        "add_bos_token": reader.value("tokenizer.ggml.add_bos_token", Field(bool, default=False)),
        "chat_template": reader.value("tokenizer.chat_template", str),
    }


def _list(reader: Reader, key: str, kind: type) -> list:
    """A metadata array that is not empty, with entries of one type."""
    values = reader.value(key, Field(list))
    if wrong := [value for value in values if type(value) is not kind] or (not values and [values]):
        raise ModelError(
            f"{key} holds {shorten(wrong[0])}; expected a list of {'texts' if kind is str else 'whole numbers'}"
        )
    return values
