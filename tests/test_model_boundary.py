"""Broken, hostile and unusual model files: each is refused with one line that names the fault, or is read right."""

import json
import math
import random
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_catalog import write_gguf
from test_network import packed_logits, random_sequences

from selfedit.errors import ModelError
from selfedit.model import gguf
from selfedit.model.backend import Request
from selfedit.model.load import load_model
from selfedit.model.shape import FIELDS, ROPE_FIELDS

SECONDS = 20.0
"""Of a refusal, at most, on a busy machine."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SELFEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def assert_refused(path: Path, named: str, **settings) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=named) as error:
        load_model(str(path), device="cpu", **settings).chat.ask("Who?")
    message = str(error.value)
    assert time.monotonic() - start < SECONDS
    assert message.isprintable() and len(message) < 600 and "Traceback" not in message


# config.json


def write_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def scaled(kind: str, **settings) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **settings}}


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
CONFIGS: list[tuple[dict, str]] = [
    *(
        ({name: ...}, f"{name} is missing; expected a whole number from")
        for name, field in FIELDS.items()
        if field.kind is int and field.default.__class__ is object
    ),
    ({"model_type": ...}, "model_type is missing; expected a text"),
    ({"model_type": 3}, "model_type is 3"),
    ({"model_type": ["llama"]}, "model_type is "),
    ({"model_type": "gpt\n2"}, r"model type 'gpt\\n2' is not supported"),
    *(
        ({"num_attention_heads": v}, "num_attention_heads is")
        for v in (0, -4, 1.5, "4", True, [4], {}, 10**30, math.nan)
    ),
    (
        {"num_attention_heads": 5},
        "num_attention_heads is 5; expected a divisor of hidden_size|num_key_value_heads is 2",
    ),
    ({"num_attention_heads": 8, "head_dim": None}, "the sizes|tensor"),
    ({"num_key_value_heads": 3}, "num_key_value_heads is 3; expected a divisor"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    ({"num_key_value_heads": 4}, "[kv]_proj.* has the sizes .32, 64.; the configuration describes .64, 64."),
    ({"head_dim": 15}, "head_dim is 15; expected an even number"),
    ({"head_dim": "16"}, "head_dim is '16'"),
    ({"hidden_size": 0}, "hidden_size is 0"),
    ({"hidden_size": 128}, "the sizes"),
    ({"intermediate_size": 127}, "the sizes"),
    ({"intermediate_size": -1}, "intermediate_size is -1"),
    ({"vocab_size": 10**9}, "vocab_size is 1000000000; expected a whole number from 1 to"),
    ({"vocab_size": 299}, "the sizes"),
    *(
        ({"max_position_embeddings": v}, "max_position_embeddings is")
        for v in ("512", 0, -1, 10**12, 512.0, math.inf, [512])
    ),
    *(({"rms_norm_eps": v}, "rms_norm_eps is") for v in (0, -1e-6, "1e-6", math.nan, True, 2)),
    *(({"rope_theta": v, "rope_parameters": ...}, "rope_theta is") for v in (0, -1, "1e4", math.nan, math.inf, True)),
    (scaled("default", rope_theta=0), "rope_parameters.rope_theta is 0"),
    ({"hidden_act": "gelu"}, 'hidden_act is .gelu.; expected "silu"'),
    ({"hidden_act": 7}, "hidden_act is 7"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; expected true or false"),
    ({"tie_word_embeddings": False}, "lacks the tensor 'lm_head.weight'"),
    ({"attention_bias": True}, "lacks the tensor 'model.layers.0.self_attn.q_proj.bias' and 15 more"),
    ({"mlp_bias": True}, "mlp_bias is True"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantized weights"),
    (
        {"num_hidden_layers": 2},
        "hold the tensor 'model.layers.2.* and 17 more, which the configuration does not describe",
    ),
    ({"num_hidden_layers": 5}, "lacks the tensor 'model.layers.4"),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
    ({"rope_scaling": 4}, "rope_scaling is 4; expected an object"),
    ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
    ({"rope_parameters": [1]}, "rope_parameters is"),
    (scaled("spiral"), "rope_parameters.rope_type is 'spiral'; expected"),
    (scaled(3), "rope_parameters.rope_type is 3"),
    (scaled("linear"), "rope_parameters.factor is missing"),
    *((scaled("linear", factor=v), "rope_parameters.factor is") for v in (0, -2, "2", math.nan, math.inf, [2], True)),
    (scaled("llama3", **LLAMA3 | {"low_freq_factor": 0}), "low_freq_factor is 0"),
    (
        scaled("llama3", **LLAMA3 | {"low_freq_factor": 4.0}),
        "low_freq_factor is 4; expected less than high_freq_factor",
    ),
    (scaled("llama3", factor=8.0), "low_freq_factor is missing"),
    (
        scaled("llama3", **LLAMA3 | {"original_max_position_embeddings": "64"}),
        "original_max_position_embeddings is '64'",
    ),
    (scaled("yarn", factor=4.0, beta_fast="x"), "beta_fast is 'x'"),
    (scaled("yarn", factor=4.0, truncate=1), "truncate is 1"),
    (scaled("longrope", short_factor=[1.0], long_factor=[1.0]), "short_factor has 1 entries; expected 8"),
    (scaled("longrope", short_factor=[0] * 8, long_factor=[1.0] * 8), r"short_factor.0. is 0"),
    (scaled("longrope", short_factor="abcdefgh", long_factor=[1.0] * 8), "short_factor is 'abcdefgh'"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rotary positions per layer"),
    ({"model_type": "mistral", "sliding_window": 0}, "sliding_window is 0"),
    ({"model_type": "mistral", "sliding_window": "64"}, "sliding_window is '64'"),
    ({"model_type": "qwen2"}, "lacks the tensor .*q_proj.bias"),
    ({"model_type": "qwen3"}, "lacks the tensor .*q_norm.weight"),
    ({"model_type": "qwen2", "use_sliding_window": 1}, "use_sliding_window is 1; expected true or false"),
    ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "layer_types has 1 entries"),
    ({"model_type": "qwen2", "layer_types": ["linear_attention"] * 4}, r"layer_types.0. is 'linear_attention'"),
    ({"model_type": "qwen2", "layer_types": [[]] * 4}, r"layer_types.0. is"),
    ({"model_type": "qwen2", "max_window_layers": -1}, "max_window_layers is -1"),
]


@pytest.mark.parametrize("changes, named", CONFIGS, ids=str)
def test_a_wrong_field_of_the_configuration_is_named(folder, changes, named):
    write_config(folder, **changes)
    assert_refused(folder, named)


JSON_TEXTS: list[tuple[bytes, str]] = [
    (b"", "not readable JSON"),
    (b"[]", r"holds \[\]; expected an object"),
    (b"7", "holds 7; expected an object"),
    (b'"text"', "holds 'text'"),
    (b"null", "holds None"),
    (b'{"model_type": "llama', "not readable JSON"),
    (b'{"model_type": "\xff"}', "not readable JSON"),
    (b"\xff\xfe{\x00}\x00", "not readable JSON"),
    (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "not readable JSON"),
    (b'{"num_hidden_layers": ' + b"9" * 5000 + b"}", "not readable JSON"),
    (b'{"model_type": "llama", "num_hidden_layers": ' + b"9" * 4000 + b"}", "num_hidden_layers is 99"),
    (b'{"model_type": "llama", "num_hidden_layers": 1e999}', "num_hidden_layers is inf"),
    (b'{"model_type": "\\ud800\\u001b[31m"}', r"model type '\\ud800\\x1b\[31m'"),
]


@pytest.mark.parametrize("text, named", JSON_TEXTS, ids=lambda value: str(value)[:30])
def test_a_configuration_that_is_no_object_is_refused(folder, text, named):
    (folder / "config.json").write_bytes(text)
    assert_refused(folder, named)


def test_a_folder_with_a_line_break_in_its_name_gives_one_line(folder):
    strange = folder.rename(folder.with_name("mo\n\x1b[31mdel"))
    write_config(strange, num_attention_heads=0)
    assert_refused(strange, r"mo\\n\\x1b\[31mdel: num_attention_heads is 0")


# Weights


def change_weights(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(
            {name: w.clone(memory_format=torch.contiguous_format) for name, w in weights.items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )

    return damage


def convert_to(dtype: torch.dtype, *set_to: float) -> Callable[[Path], None]:
    def change(weights: dict) -> None:
        for name, weight in weights.items():
            weights[name] = weight.to(dtype)
        for value in set_to:
            weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value

    return change_weights(change)


def write_header(header: bytes, length: int | None = None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        size = len(header) if length is None else length
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + header + bytes(64))

    return damage


def split_twice(folder: Path) -> None:
    """Two shards that hold the same tensors."""
    shards = {"a": "part1.safetensors", "b": "part2.safetensors"}
    for shard in shards.values():
        shutil.copy(folder / "model.safetensors", folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


UP = "model.layers.1.mlp.up_proj.weight"
WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tensor is missing": (change_weights(lambda w: w.pop(UP)), f"lacks the tensor '{UP}'"),
    "all tensors are missing": (change_weights(dict.clear), "lacks the tensor 'model.embed_tokens.weight' and"),
    "a tensor is left over": (change_weights(lambda w: w.update(extra=w[UP])), "hold the tensor 'extra'"),
    "a layer is left over": (
        change_weights(lambda w: w.update({UP.replace("1", "9"): w[UP]})),
        "hold the tensor 'model.layers.9.mlp",
    ),
    "a bias is left over": (
        change_weights(lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)})),
        "q_proj.bias'",
    ),
    "a control character in a name": (change_weights(lambda w: w.update({"a\x1b\nb": w[UP]})), r"'a\\x1b\\nb'"),
    "a transposed tensor": (change_weights(lambda w: w.update({UP: w[UP].T})), r"sizes \[64, 128\]"),
    "a vector as a matrix": (change_weights(lambda w: w.update({UP: w[UP].flatten()})), r"sizes \[8192\]"),
    "a number as a norm": (change_weights(lambda w: w.update({"model.norm.weight": torch.tensor(1.0)})), r"sizes \[\]"),
    "an empty tensor": (change_weights(lambda w: w.update({UP: w[UP][:0]})), r"sizes \[0, 64\]"),
    "another head than it is tied to": (
        change_weights(lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 1})),
        "lm_head.weight differs",
    ),
    **{
        f"{value} in {dtype}": (convert_to(dtype, value), f"tensor '{UP}' holds values that are not finite")
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        for value in (math.nan, math.inf, -math.inf)
    },
    "1e38 in torch.float32": (convert_to(torch.float32, 1e38), f"tensor '{UP}' holds values .* beyond 1e.06"),
    "int8": (convert_to(torch.int8), "is stored as I8; only weights in"),
    "bool": (convert_to(torch.bool), "is stored as BOOL"),
    "fp8": (convert_to(torch.float8_e4m3fn), "is stored as F8_E4M3"),
    "fp8 of the other kind": (convert_to(torch.float8_e5m2), "is stored as F8_E5M2"),
    "complex": (convert_to(torch.complex64), "is stored as C64|damaged"),
    "an empty file": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged or half downloaded"),
    "a header of 2^62 bytes": (write_header(b"{}", 2**62), "damaged or half downloaded"),
    "a header that is a list": (write_header(b"[]"), "damaged or half downloaded"),
    "a header that is not UTF-8": (write_header(b'{"\xff": 1}'), "damaged or half downloaded"),
    "a nested header": (write_header(b'{"a":' * 5000 + b"1" + b"}" * 5000), "damaged or half downloaded"),
    "an empty header": (write_header(b"{}"), "damaged or half downloaded|lacks the tensor"),
    "a web page": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"<!DOCTYPE html>" * 99),
        "damaged or half",
    ),
    "a pointer to the weights": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "damaged or half downloaded",
    ),
    "a tensor in two files": (split_twice, "is in two weight files"),
    "an index that leaves the folder": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "../x.safetensors"}}'
        ),
        "index.json",
    ),
    "an index of numbers": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}'),
        "index.json",
    ),
    "an index that is not UTF-8": (
        lambda folder: (folder / "model.safetensors.index.json").write_bytes(b'{"weight_map": {"\xff": "a"}}'),
        "index.json",
    ),
    "a nested index": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"a":' * 9**5 + "1" + "}" * 9**5),
        "index.json",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_wrong_weights_are_named(folder, name):
    damage, named = WEIGHTS[name]
    damage(folder)
    assert_refused(folder, named)


def test_weights_in_half_precision_and_known_superfluous_tensors_are_read(folder):
    expected = load_model(str(folder), device="cpu").backend.network
    extra = {"lm_head.weight": "model.embed_tokens.weight"}

    def change(weights: dict) -> None:
        weights |= {new: weights[old].clone() for new, old in extra.items()}
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        for name in weights:
            weights[name] = weights[name].bfloat16()

    change_weights(change)(folder)
    sequences = random_sequences(expected.shape.vocab)
    logits = packed_logits(load_model(str(folder), device="cpu").backend.network, sequences)
    assert 0 < (logits - packed_logits(expected, sequences)).std() < 0.1


# Tokenizer files


def write_text(name: str, text: str | bytes) -> Callable[[Path], object]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / name).write_bytes(data)


def change_json(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return damage


def change_settings(**settings) -> Callable[[Path], None]:
    return change_json("tokenizer_config.json", lambda value: value.update(settings))


def set_vocabulary(tokens: dict | list) -> Callable[[Path], None]:
    return change_json("tokenizer.json", lambda value: value["model"].update(vocab=tokens, merges=[]))


def begin_with(token: int) -> Callable[[Path], None]:
    """A post-processor that writes a token id before every text."""
    processor = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [token], "tokens": ["<s>"]}},
    }
    return change_json("tokenizer.json", lambda value: value.update(post_processor=processor))


TOKENIZERS: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        f"{name} is {text[:20]!r}": (write_text(name, text), f"{name} .*(expected an object|not readable)")
        for name in ("tokenizer_config.json", "tokenizer.json")
        for text in ("", "[]", "7", '"x"', "null", "{", b"\xff\xfe", '{"a":' * 10**5 + "1" + "}" * 10**5, "9" * 5000)
    },
    "tokenizer.json is an empty object": (write_text("tokenizer.json", "{}"), "tokenizer.json is not readable"),
    "a vocabulary that is a list": (set_vocabulary(["a", "b"]), "tokenizer.json is not readable"),
    "an empty vocabulary": (set_vocabulary({}), "tokenizer|template"),
    "a token id beyond the embedding": (set_vocabulary({"a": 0, "b": 5000}), "ids up to 5000.* embedding has 300 rows"),
    "a negative token id": (set_vocabulary({"a": -1}), "tokenizer.json is not readable"),
    "a first token beyond the embedding": (begin_with(999), "ids up to 999"),
    "a template that is a number": (change_settings(chat_template=7), "chat_template is 7; expected a text"),
    "a template that is an object": (change_settings(chat_template={"a": 1}), "chat_template is"),
    "a template that is true": (change_settings(chat_template=True), "chat_template is True"),
    "templates that are numbers": (change_settings(chat_template=[1, 2]), "chat_template holds 1; expected an object"),
    "templates without a name": (
        change_settings(chat_template=[{"template": "x"}]),
        "no entry with the name 'default'",
    ),
    "templates without a text": (change_settings(chat_template=[{"name": "default"}]), "chat_template holds"),
    "templates of another name": (
        change_settings(chat_template=[{"name": "rag", "template": ""}]),
        "no entry with the name",
    ),
    "no templates": (change_settings(chat_template=[]), "no entry with the name 'default'"),
    "a start token that is a list": (change_settings(bos_token=["<s>"]), "bos_token is .'<s>'.; expected a text"),
    "a start token that is a number": (change_settings(bos_token=1), "bos_token is 1"),
    "an end token with an odd content": (change_settings(eos_token={"content": 3}), "eos_token is 3"),
    "add_bos_token is a text": (change_settings(add_bos_token="yes"), "add_bos_token is 'yes'; expected true or false"),
    "a template that is not UTF-8": (
        write_text("chat_template.jinja", b"\xff{{"),
        "chat_template.jinja is not readable",
    ),
    "a template with a wrong syntax": (
        write_text("chat_template.jinja", "{% for %}"),
        "template cannot be used: Template",
    ),
    "a template that writes nothing": (write_text("chat_template.jinja", "{{ '' }}"), "template writes no text"),
    "a template that raises": (write_text("chat_template.jinja", "{{ 1 / 0 }}"), "cannot be used: ZeroDivisionError"),
    "a template with a message of two lines": (
        write_text("chat_template.jinja", "{{ raise_exception('a\\n\x1b[31mb') }}"),
        r"cannot be used: TemplateError: a\\n\\x1b\[31mb",
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_wrong_tokenizer_is_named(folder, name):
    damage, named = TOKENIZERS[name]
    damage(folder)
    assert_refused(folder, named)


def test_a_tokenizer_that_was_set_to_cut_texts_cuts_none(folder, tiny_model):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    chat = load_model(str(folder), device="cpu").chat
    assert chat.ask("Where does the river rise?") == tiny_model.chat.ask("Where does the river rise?")


def test_an_embedding_with_more_rows_than_tokens_is_read(folder):
    def grow(weights: dict) -> None:
        weights["model.embed_tokens.weight"] = torch.nn.functional.pad(
            weights["model.embed_tokens.weight"], (0, 0, 0, 20)
        )

    change_weights(grow)(folder)
    write_config(folder, vocab_size=320)
    assert load_model(str(folder), device="cpu").backend.network.shape.vocab == 320


REFERENCE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tensor is missing": (change_weights(lambda w: w.pop(UP)), f"tensor '{UP}' is missing"),
    "a tensor is left over": (change_weights(lambda w: w.update({UP.replace("1", "9"): w[UP]})), "is unexpected"),
    "another size": (change_weights(lambda w: w.update({UP: w[UP][:64]})), "transformers cannot load it|is mismatched"),
    "values that are not finite": (convert_to(torch.float32, math.nan), "holds values that are not finite"),
    "no heads": (lambda folder: write_config(folder, num_attention_heads=0), "transformers cannot load it"),
    "no configuration": (write_text("config.json", "[]"), "transformers cannot load it"),
    "damaged weights": (write_text("model.safetensors", b"x" * 99), "transformers cannot load it"),
    "a token id beyond the embedding": (set_vocabulary({"a": 0, "b": 5000}), "ids up to 5000"),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_backend_refuses_a_broken_model_too(folder, name):
    damage, named = REFERENCE[name]
    damage(folder)
    assert_refused(folder, named, backend="reference")


# GGUF files


@pytest.fixture(scope="session")
def source_gguf(tiny_folder, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_folder)


def copy_gguf(source: Path, target: Path, fields: dict, tensors: dict | None = None) -> Path:
    """The file with other metadata (`...`: left out) and other tensors (None: left out; an array, or (bytes, type))."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    own = {
        name: (field.contents(), field.types[0], field.types[-1])
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    kinds = {
        bool: GGUFValueType.BOOL,
        int: GGUFValueType.INT64,
        float: GGUFValueType.FLOAT32,
        str: GGUFValueType.STRING,
    }
    for name, value in fields.items():
        if isinstance(value, list):
            own[name] = value, GGUFValueType.ARRAY, kinds[type(value[0])] if value else GGUFValueType.STRING
        else:
            own[name] = value, kinds.get(type(value)), None
    architecture = own.pop("general.architecture")[0]
    writer = GGUFWriter(target, architecture if isinstance(architecture, str) else "llama")
    if architecture is ...:
        del writer.kv_data[0]["general.architecture"]
    elif not isinstance(architecture, str):
        writer.kv_data[0]["general.architecture"].value = architecture
        writer.kv_data[0]["general.architecture"].type = kinds[type(architecture)]
    for name, (value, kind, entry) in own.items():
        if value is not ...:
            writer.add_key_value(name, value, kind, entry if kind == GGUFValueType.ARRAY else None)
    arrays = {tensor.name: tensor.data for tensor in reader.tensors} | (tensors or {})
    for name, array in arrays.items():
        if isinstance(array, tuple):
            writer.add_tensor(name, array[0], raw_dtype=array[1])
        elif array is not None:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


TOKENS = "tokenizer.ggml."
GGUFS: list[tuple[dict, str]] = [
    *(
        ({f"llama.{key}": ...}, f"llama.{key} is missing; expected a")
        for name, key in gguf.SETTINGS.items()
        if name not in gguf.OPTIONAL
    ),
    *(
        ({f"llama.{key}": value}, rf"llama.{key} is {shown}; expected a")
        for key in ("attention.head_count", "block_count", "embedding_length", "context_length", "feed_forward_length")
        for value, shown in ((0, "0"), (-1, "-1"), ("4", "'4'"), (True, "True"), ([4, 4], r"\[4, 4\]"), (2.5, "2.5"))
    ),
    ({"llama.attention.head_count": 3}, "num_attention_heads is 3|num_key_value_heads"),
    ({"llama.attention.head_count_kv": 3}, "num_key_value_heads is 3"),
    ({"llama.block_count": 2}, "hold the tensor 'model.layers.2"),
    ({"llama.block_count": 5}, "lacks the tensor 'model.layers.4"),
    ({"llama.attention.layer_norm_rms_epsilon": math.nan}, "layer_norm_rms_epsilon is nan"),
    ({"llama.rope.freq_base": 0.0}, "llama.rope.freq_base is 0"),
    ({"llama.rope.freq_base": "1e4"}, "llama.rope.freq_base is '1e4'"),
    ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8; expected 16"),
    ({"llama.attention.value_length": 32}, "attention.value_length is 32; expected 16"),
    ({"llama.rope.scaling.type": "spiral"}, "rope.scaling.type is 'spiral'"),
    ({"llama.rope.scaling.type": 4}, "rope.scaling.type is 4"),
    ({"llama.rope.scaling.type": "linear"}, "rope.scaling.factor is missing"),
    ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": -2.0}, "rope.scaling.factor is -2"),
    ({"llama.attention.sliding_window": -5}, "attention.sliding_window is -5"),
    *(({f"llama.{key}": 2.0}, f"llama.{key} is 2.0; models with") for key in gguf.UNSUPPORTED),
    ({"general.type": "adapter"}, "general.type is 'adapter'; expected a whole model"),
    ({"general.type": 3}, "general.type is 3"),
    ({"general.architecture": "gemma"}, "architecture 'gemma' is not supported"),
    ({"general.architecture": ...}, "architecture None is not supported"),
    ({"general.architecture": 7}, "general.architecture is 7"),
    ({"split.count": 3, "split.no": 1}, "split.count is 3: this is one part"),
    ({"split.count": "3"}, "split.count is '3'"),
    ({"general.alignment": 3}, "not a readable GGUF file"),
    ({f"{TOKENS}model": ...}, "tokenizer None/'gpt-2' is not supported"),
    ({f"{TOKENS}model": "llama"}, "tokenizer 'llama'/'gpt-2' is not supported"),
    ({f"{TOKENS}pre": "\x1b[31m"}, r"'\\x1b\[31m' is not supported"),
    ({f"{TOKENS}pre": [1]}, "tokenizer.ggml.pre is"),
    *(({f"{TOKENS}{key}": ...}, f"{key} is missing; expected a list") for key in ("tokens", "token_type", "merges")),
    *(
        ({f"{TOKENS}{key}": value}, f"tokenizer.ggml.{key} ")
        for key in ("tokens", "token_type", "merges")
        for value in ("text", 5, [1.5, 2.5], [True], ["\x1b"], [3])
    ),
    ({f"{TOKENS}merges": ["a b c"]}, "tokenizer.ggml.merges does not fit"),
    ({f"{TOKENS}merges": ["alone"]}, "tokenizer.ggml.merges does not fit"),
    ({f"{TOKENS}merges": ["nobody knows"]}, "tokenizer.ggml.merges does not fit"),
    ({f"{TOKENS}eos_token_id": 10**6}, "eos_token_id is 1000000; expected a whole number from 0 to 2"),
    ({f"{TOKENS}bos_token_id": -1}, "bos_token_id is -1"),
    ({f"{TOKENS}bos_token_id": "1"}, "bos_token_id is '1'"),
    ({f"{TOKENS}add_bos_token": "yes"}, "add_bos_token is 'yes'"),
    ({"tokenizer.chat_template": 3}, "tokenizer.chat_template is 3"),
    ({"tokenizer.chat_template": "{% for %}"}, "template cannot be used"),
]


@pytest.mark.parametrize("fields, named", GGUFS, ids=str)
def test_wrong_metadata_of_a_gguf_file_is_named(tmp_path, source_gguf, cache, fields, named):
    assert_refused(copy_gguf(source_gguf, tmp_path / "odd.gguf", fields), named)
    if "template" not in named:
        assert not [path for path in (cache / "models").iterdir() if not path.name.startswith(".")]


def ggml_bytes(rows: int, columns: int):
    import numpy as np

    return np.zeros((rows, columns), np.int8)


def gguf_tensors() -> dict[str, tuple[dict, str]]:
    import numpy as np
    from gguf import GGMLQuantizationType as Type

    nan = np.full((128, 64), np.nan, np.float32)
    return {
        "a tensor of another model": (
            {"blk.0.ssm_a.weight": nan},
            "the tensor 'blk.0.ssm_a.weight', which is not supported",
        ),
        "a LoRA tensor": ({"blk.0.attn_q.weight.lora_a": nan}, "which is not supported"),
        "a name without parts": ({"odd": nan}, "the tensor 'odd', which is not supported"),
        "a name with too many parts": ({"blk.0.attn_q.more.weight": nan}, "which is not supported"),
        "a layer that is no number": ({"blk.x.attn_q.weight": nan}, "hold the tensor 'model.layers.x"),
        "a tensor too few": ({"blk.1.ffn_up.weight": None}, "lacks the tensor 'model.layers.1.mlp.up_proj"),
        "no embedding": ({"token_embd.weight": None}, "lacks the tensor 'token_embd.weight'"),
        "a layer too many": ({"blk.9.ffn_up.weight": nan}, "hold the tensor 'model.layers.9"),
        "other sizes": ({"blk.1.ffn_up.weight": nan[:64]}, r"sizes \[64, 64\]"),
        "values that are not finite": (
            {"blk.1.ffn_up.weight": nan},
            "up_proj.weight' holds values that are not finite",
        ),
        "whole numbers": ({"blk.1.ffn_up.weight": (ggml_bytes(128, 64), Type.I8)}, "is stored as I8|not a readable"),
        "an embedding smaller than the vocabulary": (
            {"token_embd.weight": nan[:100]},
            "300 entries, but the embedding has 100",
        ),
        "too few rotary factors": (
            {"rope_freqs.weight": np.ones(3, np.float32)},
            "short_factor has 3 entries; expected 8",
        ),
        "rotary factors of 0": ({"rope_freqs.weight": np.zeros(8, np.float32)}, r"short_factor.0. is 0"),
        "rotary factors in fp16": ({"rope_freqs.weight": np.ones(8, np.float16)}, "short_factor"),
    }


@pytest.mark.parametrize("name", gguf_tensors())
def test_wrong_tensors_of_a_gguf_file_are_named(tmp_path, source_gguf, name):
    tensors, named = gguf_tensors()[name]
    assert_refused(copy_gguf(source_gguf, tmp_path / "odd.gguf", {}, tensors), named)


def test_a_gguf_file_that_holds_only_a_vocabulary_is_refused(tmp_path, source_gguf):
    from gguf import GGUFReader

    none = {tensor.name: None for tensor in GGUFReader(source_gguf).tensors}
    assert_refused(copy_gguf(source_gguf, tmp_path / "vocab.gguf", {}, none), "only a vocabulary")


def test_a_weight_type_that_is_unknown_is_refused(tmp_path, source_gguf):
    data = source_gguf.read_bytes()
    name = b"blk.1.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8  # dimensions, sizes
    (tmp_path / "odd.gguf").write_bytes(data[:at] + struct.pack("<I", 9999) + data[at + 4 :])
    assert_refused(tmp_path / "odd.gguf", "not a readable GGUF file .*9999")


@pytest.mark.parametrize("count", [2**31, 2**62, 2**64 - 1])
@pytest.mark.parametrize(
    "where", ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "the number of fields", "of tensors"]
)
def test_a_length_that_is_larger_than_the_file_is_refused_at_once(tmp_path, source_gguf, where, count):
    data = source_gguf.read_bytes()
    at = {"of tensors": 8, "the number of fields": 16}.get(where)
    if at is None:
        at = data.index(where.encode()) + len(where) + 4 + 4  # type, type of the entries
    (tmp_path / "odd.gguf").write_bytes(data[:at] + struct.pack("<Q", count) + data[at + 8 :])
    assert_refused(tmp_path / "odd.gguf", "not a readable GGUF file")


@pytest.mark.parametrize(
    "fields, tensors, rope",
    [
        ({}, {"rope_freqs.weight": [1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0]}, "longrope"),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, {}, "linear"),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 64,
            },
            {},
            "yarn",
        ),
        ({"llama.attention.sliding_window": 24}, {}, None),
    ],
)
def test_scaled_positions_and_windows_of_a_gguf_file_are_those_of_transformers(
    tmp_path, source_gguf, fields, tensors, rope
):
    import numpy as np
    from conftest import reference_model

    arrays = {name: np.array(values, np.float32) for name, values in tensors.items()}
    model = load_model(str(copy_gguf(source_gguf, tmp_path / "scaled.gguf", fields, arrays)), device="cpu")
    assert (model.backend.network.shape.rope or {"rope_type": None})["rope_type"] == rope
    assert set(model.backend.network.shape.windows) == (set() if rope else {24})
    sequences = random_sequences(model.backend.network.shape.vocab, [7, 70, 300])
    logits = packed_logits(model.backend.network, sequences, model.backend.network.attention([*map(len, sequences)]))
    reference = reference_model(model.folder)
    with torch.inference_mode():
        expected = torch.cat([reference(torch.tensor([s])).logits[0] for s in sequences])
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
    plain = packed_logits(load_model(str(source_gguf), device="cpu").backend.network, sequences)
    assert (plain - expected).abs().max() > 0.1


# Random changes


def odd_value(chance: random.Random, old: object) -> object:
    """A value of any type and size, or one near to the old one."""
    odd = [
        *(
            None,
            True,
            False,
            0,
            1,
            2,
            3,
            -1,
            7,
            64,
            2**31,
            2**63,
            -(2**63),
            10**30,
            0.0,
            -0.0,
            0.5,
            1e-30,
            1e300,
            math.nan,
        ),
        *(
            math.inf,
            -math.inf,
            "",
            "8",
            "nan",
            "default",
            "yarn",
            "linear",
            "\x00",
            "\x1b[0m\n",
            "é" * 300,
            [],
            [1],
            ["a"],
        ),
        *([[]], [None], {}, {"a": 1}, {"content": 3}, {"rope_type": "yarn", "factor": 2}, ["full_attention"] * 4),
    ]
    if isinstance(old, (int, float)) and not isinstance(old, bool) and chance.random() < 0.4:
        return chance.choice([old * 2, old + 1, old - 1, -old, old / 2, str(old), [old], float(old)])
    return chance.choice(odd)


def assert_refused_or_finite(path: Path) -> bool:
    """Whether it was read."""
    start = time.monotonic()
    try:
        model = load_model(str(path), device="cpu")
        tokens = tuple(model.chat.ask("Who?"))[-model.backend.network.shape.max_positions + 3 :]
        answer = model.backend.generate([Request(tokens, max_new_tokens=2)])[0]
        assert packed_logits(model.backend.network, [[*tokens, *answer]]).isfinite().all()
    except ModelError as error:
        assert str(error).isprintable() and len(str(error)) < 600
        return False
    finally:
        assert time.monotonic() - start < SECONDS
    return True


@pytest.mark.parametrize("seed", range(4))
def test_randomly_changed_configurations_are_refused_or_give_finite_logits(folder, seed):
    chance = random.Random(seed)
    originals = {name: json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json")}
    keys = {
        "config.json": [*FIELDS, "rope_parameters", "rope_scaling", *originals["config.json"]],
        "tokenizer_config.json": [*originals["tokenizer_config.json"], "add_bos_token", "chat_template"],
    }
    read = 0
    for _ in range(60):
        for name, original in originals.items():
            changed = dict(original)
            for key in chance.sample(keys[name], chance.choice([0, 1, 1, 2])):
                if key in ("rope_parameters", "rope_scaling") and chance.random() < 0.8:
                    kind = chance.choice(["linear", "dynamic", "llama3", "yarn", "longrope"])
                    rope = {"rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
                    for inner in chance.sample([*ROPE_FIELDS], 2):
                        rope[inner] = odd_value(chance, rope.get(inner, 1.0))
                    changed[key] = rope
                else:
                    changed[key] = odd_value(chance, changed.get(key))
            (folder / name).write_text(json.dumps(changed))
        read += assert_refused_or_finite(folder)
    assert 5 < read < 55


@pytest.mark.parametrize("seed", range(3))
def test_randomly_changed_metadata_of_a_gguf_file_is_refused_or_gives_finite_logits(tmp_path, source_gguf, seed, cache):
    from gguf import GGUFReader

    chance = random.Random(seed)
    original = {name: field.contents() for name, field in GGUFReader(source_gguf).fields.items() if name[:4] != "GGUF"}
    keys = [*original, "llama.rope.scaling.type", "llama.rope.scaling.factor", "general.type", "split.count"]
    read = 0
    for number in range(30):
        fields = {}
        for key in chance.sample(keys, chance.choice([0, 1, 1, 2])):
            value = odd_value(chance, original.get(key))
            simple = isinstance(value, (bool, str)) or (isinstance(value, int) and abs(value) < 2**62)
            simple |= isinstance(value, float) and not 1e38 < abs(value) < math.inf
            fields[key] = value if simple or value in ([1], ["a"]) else ...
        read += assert_refused_or_finite(copy_gguf(source_gguf, tmp_path / f"{number}.gguf", fields))
    assert 2 < read < 28


@pytest.mark.parametrize("seed", range(3))
def test_randomly_flipped_bytes_of_a_gguf_header_are_refused_or_give_finite_logits(tmp_path, source_gguf, seed):
    chance, data = random.Random(seed), source_gguf.read_bytes()
    end = data.index(b"blk.0.attn_q.weight") + 4000
    for number in range(30):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 2, 8])):
            changed[chance.randrange(end)] = chance.randrange(256)
        (tmp_path / f"{number}.gguf").write_bytes(changed)
        assert_refused_or_finite(tmp_path / f"{number}.gguf")
