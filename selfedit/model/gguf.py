"""A GGUF file → a Hugging Face model folder (config.json, model.safetensors, tokenizer.json), once.

Weights are dequantized to fp32 by the `gguf` library, bit for bit. The quantized blocks that `quantized` can multiply
with are kept beside them, in a file that nothing else reads. Two traps of the format are undone here:
llama-type files store q and k with their rotary halves interleaved, and some files carry a separate, differently
quantized copy of a tied output matrix (the finer copy is kept, tied again).
Source: the GGUF specification (ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import json
from pathlib import Path

from selfedit.errors import ModelError
from selfedit.model.packed import quantized

ARCHITECTURES = {  # GGUF architecture → model_type, does it permute q and k
    "llama": ("llama", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
}

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

SPLIT_PATTERNS = {  # pre-tokenizer → its splitting rule; None: that of GPT-2, which ByteLevel brings along
    "gpt-2": None,
    "smollm": None,
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


def convert(gguf_file: Path, folder: Path) -> None:
    """Write the model folder. Raises ModelError if the file is damaged or of an architecture not supported."""
    import gguf

    try:
        reader = gguf.GGUFReader(gguf_file)
    except Exception as error:  # the library raises many kinds on a damaged file
        raise ModelError(f"{gguf_file}: not a readable GGUF file ({error}); download it again") from error
    fields = {name: field for name, field in reader.fields.items()}

    def value(key: str, default=None):
        return fields[key].contents() if key in fields else default

    architecture = value("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{gguf_file}: architecture {architecture!r} is not supported; choose a model of {', '.join(ARCHITECTURES)}"
        )
    model_type, permuted = ARCHITECTURES[architecture]

    def setting(key: str, default=None):
        return value(f"{architecture}.{key}", default)

    heads = setting("attention.head_count")
    config = {
        "architectures": [
            {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[model_type]
        ],
        "model_type": model_type,
        "hidden_size": setting("embedding_length"),
        "intermediate_size": setting("feed_forward_length"),
        "num_hidden_layers": setting("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": setting("attention.head_count_kv", heads),
        "head_dim": setting("attention.key_length", setting("embedding_length") // heads),
        "max_position_embeddings": setting("context_length"),
        "rms_norm_eps": float(f"{setting('attention.layer_norm_rms_epsilon'):.6g}"),  # stored as fp32
        "rope_theta": float(setting("rope.freq_base", 10000.0)),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": value("tokenizer.ggml.eos_token_id"),
    }
    if setting("rope.scaling.type") not in (None, "none") or "rope_freqs.weight" in {t.name for t in reader.tensors}:
        raise ModelError(f"{gguf_file}: scaled rotary positions are not supported yet; choose a model without")
    tensors, blocks = _tensors(reader, config, permuted)
    config["vocab_size"] = tensors["model.embed_tokens.weight"].shape[0]
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors

    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if blocks:
        save_file(blocks, folder / quantized.FILE)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    _write_tokenizer(value, gguf_file, folder)


def _tensors(reader, config: dict, permuted: bool) -> tuple[dict, dict]:
    """fp32 weights, and the blocks of those that are in a format of `quantized`."""
    import numpy as np
    from gguf import dequantize

    tensors, blocks, bits = {}, {}, {}
    for tensor in reader.tensors:
        stem, _, kind = tensor.name.rpartition(".")
        if stem == "token_embd":
            name = "model.embed_tokens"
        elif stem == "output":
            name = "lm_head"
        elif stem == "output_norm":
            name = "model.norm"
        else:
            _, block, part = stem.split(".")
            if part not in TENSOR_NAMES:
                raise ModelError(f"the GGUF file holds a tensor {tensor.name!r} that is not supported")
            name = f"model.layers.{block}.{TENSOR_NAMES[part]}"
        array = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        array = array.reshape(tensor.shape[::-1].tolist())
        heads = 0
        if permuted and stem.endswith(("attn_q", "attn_k")):
            heads = config["num_attention_heads" if stem.endswith("q") else "num_key_value_heads"]
        tensors[f"{name}.{kind}"] = _unpaired(array, heads)
        if kind == "weight" and tensor.tensor_type.name in quantized.BLOCK_BYTES.values():
            blocks[f"{name}.weight"] = _unpaired(np.array(tensor.data), heads)
        bits[name] = tensor.n_bytes / tensor.n_elements
    _retie(tensors, blocks, bits)
    return tensors, blocks


def _unpaired(rows, heads: int):
    """Rows of q or k with each head's halves apart again; `heads` 0: as they are."""
    import numpy as np

    if not heads:
        return rows
    paired = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(paired.swapaxes(1, 2)).reshape(rows.shape)


def _retie(tensors: dict, blocks: dict, bits: dict) -> None:
    """Keep one copy of a tied matrix: files may hold two, quantized differently."""
    import numpy as np

    head, embedding = tensors.get("lm_head.weight"), tensors["model.embed_tokens.weight"]
    if head is None or head.shape != embedding.shape:
        return
    rows = slice(None, None, max(1, len(head) // 256))
    if np.corrcoef(head[rows].ravel(), embedding[rows].ravel())[0, 1] > 0.98:
        if bits["lm_head"] > bits["model.embed_tokens"]:
            tensors["model.embed_tokens.weight"] = head
            blocks.pop("model.embed_tokens.weight", None)
            if "lm_head.weight" in blocks:
                blocks["model.embed_tokens.weight"] = blocks["lm_head.weight"]
        del tensors["lm_head.weight"]
        blocks.pop("lm_head.weight", None)


def _write_tokenizer(value, gguf_file: Path, folder: Path) -> None:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    kind, pre = value("tokenizer.ggml.model"), value("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in SPLIT_PATTERNS:
        raise ModelError(
            f"{gguf_file}: tokenizer {kind!r}/{pre!r} is not supported; use the model's safetensors folder instead"
        )
    tokens, types = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, ignore_merges=pre == "llama-bpe")
    )
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
    tokenizer.save(str(folder / "tokenizer.json"))

    def token(key: str) -> str | None:
        index = value(f"tokenizer.ggml.{key}_token_id")
        return None if index is None else tokens[index]

    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding") or token("eos"),
        "add_bos_token": bool(value("tokenizer.ggml.add_bos_token", False)),
        "chat_template": value("tokenizer.chat_template"),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False))
