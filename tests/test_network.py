import json
from dataclasses import replace

import pytest
import torch
from conftest import reference_model, write_tiny_model
from test_generate import assert_greedy

from selfedit.config import TrainConfig
from selfedit.errors import ModelError
from selfedit.model.backend import Job, Request
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import load_model
from selfedit.model.packed.frozen import FrozenBelow
from selfedit.model.packed.network import PackedAttention
from selfedit.model.packed.packing import pack
from selfedit.model.packed.rotary import RotaryTable
from selfedit.model.packed.score import gold_logprobs
from selfedit.model.packed.train import train
from selfedit.model.shape import Shape

RAGGED = [7, 1, 33, 16, 17, 2, 40]


def random_sequences(vocab: int, lengths=RAGGED) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(vocab, (n,), generator=generator).tolist() for n in lengths]


@torch.inference_mode()
def packed_logits(network, sequences, attention=None):
    attention = attention or PackedAttention([len(s) for s in sequences])
    tokens = torch.tensor([t for s in sequences for t in s])
    return network.logits(network.run(network.embed(tokens), attention.positions, attention))


@torch.inference_mode()
def one_at_a_time(reference, sequences):
    return torch.cat([reference(torch.tensor([s])).logits[0] for s in sequences])


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_packed_logits_are_those_of_transformers(tmp_path, kind):
    folder = write_tiny_model(tmp_path, kind)
    model, reference = load_model(str(folder), device="cpu"), reference_model(folder)
    sequences = random_sequences(model.backend.network.shape.vocab)
    expected = one_at_a_time(reference, sequences)
    assert expected.std() > 0.5  # the model says something that could be got wrong
    torch.testing.assert_close(packed_logits(model.backend.network, sequences), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_in_mixed_precision_what_is_trained_on_is_near_and_what_is_answered_is_the_same(tmp_path, kind):
    folder = str(write_tiny_model(tmp_path, kind))
    exact, mixed = (load_model(folder, device="cpu", precision=p).backend.network for p in ("fp32", "mixed"))
    assert (exact.precision, mixed.precision) == ("fp32", "mixed")
    sequences = random_sequences(exact.shape.vocab)
    expected = packed_logits(exact, sequences)
    assert torch.equal(packed_logits(mixed, sequences), expected)
    packed = PackedAttention([len(s) for s in sequences])
    x = mixed.embed(torch.tensor([t for s in sequences for t in s])).requires_grad_()
    found = mixed.logits(mixed.run(x, packed.positions, packed))
    assert 0 < (found - expected).std() < 0.02 * expected.std() and found.dtype == torch.float32


@pytest.mark.parametrize("lengths", [RAGGED, [5]])  # of few rows a layer has other forms
def test_seen_in_bf16_answers_are_rounded_and_logits_are_not(tiny_folder, lengths):
    exact, mixed = (load_model(str(tiny_folder), device="cpu", precision=p).backend.network for p in ("fp32", "mixed"))
    sequences = random_sequences(exact.shape.vocab, lengths)
    expected = packed_logits(exact, sequences)
    found = packed_logits(mixed.in_bf16, sequences)
    assert 0 < (found - expected).std() < 0.02 * expected.std() and found.dtype == torch.float32
    assert (found != found.bfloat16()).float().mean() > 0.9
    assert torch.equal(packed_logits(mixed, sequences), expected)  # a view: the network itself stays as it was
    assert (
        exact.in_bf16 is exact
        and load_model(str(tiny_folder), device="cpu", dtype=torch.float64).backend.network.in_bf16.precision == "fp64"
    )


def test_the_precision_is_that_of_the_environment_else_of_the_machine(tiny_folder, monkeypatch):
    def precision() -> str:
        return load_model(str(tiny_folder), device="cpu").backend.network.precision

    monkeypatch.setenv("SELFEDIT_PRECISION", "mixed")
    assert (
        precision() == "mixed"
        and load_model(str(tiny_folder), device="cpu", dtype=torch.float64).backend.network.precision == "fp64"
    )
    for tiles, vectors, expected in ((True, False, "mixed"), (False, True, "mixed"), (False, False, "fp32")):
        monkeypatch.setenv("SELFEDIT_PRECISION", "")
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda vectors=vectors: vectors)
        assert precision() == expected
    monkeypatch.setenv("SELFEDIT_PRECISION", "half")
    with pytest.raises(ModelError, match="SELFEDIT_PRECISION. is 'half'; give fp32 or mixed"):
        precision()
    with pytest.raises(ModelError, match="is 'bf16'; give fp32"):
        load_model(str(tiny_folder), device="cpu", precision="bf16")


ROPES = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn with all settings": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "truncate": False,
    },
    "yarn with a given scale": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.3},
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "short_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0],
        "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0],
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("name, kind", [*((name, "llama") for name in ROPES), ("yarn", "qwen3"), ("llama3", "mistral")])
def test_scaled_rotary_positions_give_the_logits_and_the_text_of_transformers(tmp_path, name, kind):
    """Texts beyond the original context of 64 tokens too. Plain positions would give other logits."""
    window = {"sliding_window": None} if kind == "mistral" else {}
    folder = write_tiny_model(tmp_path, kind, rope_parameters={"rope_theta": 1000.0, **ROPES[name]}, **window)
    model, reference = load_model(str(folder), device="cpu"), reference_model(folder)
    sequences = random_sequences(model.backend.network.shape.vocab, [7, 60, 200, 511])
    expected = one_at_a_time(reference, sequences)
    torch.testing.assert_close(packed_logits(model.backend.network, sequences), expected, atol=1e-3, rtol=0)
    if name != "dynamic":
        model.backend.network._rotary = RotaryTable(
            replace(model.backend.network.shape, rope=None), "cpu", torch.float32
        )
        assert (packed_logits(model.backend.network, sequences) - expected).abs().max() > 0.1
        model.backend.network._rotary = RotaryTable(model.backend.network.shape, "cpu", torch.float32)
    assert_greedy_text(model, reference, [sequences[0], sequences[1], sequences[2]])


WINDOWS = {
    "mistral": {"sliding_window": 24},
    "qwen2": {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {
        "sliding_window": 24,
        "use_sliding_window": True,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    },
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_sliding_windows_give_the_logits_and_the_text_of_transformers(tmp_path, monkeypatch, kind):
    folder = write_tiny_model(tmp_path, kind, **WINDOWS[kind])
    model, reference = load_model(str(folder), device="cpu"), reference_model(folder)
    shape = model.backend.network.shape
    assert shape.max_positions == 512 and set(shape.windows) == ({24} if kind == "mistral" else {0, 24})
    sequences = random_sequences(shape.vocab, [7, 24, 25, 60, 200])
    expected = one_at_a_time(reference, sequences)
    torch.testing.assert_close(
        packed_logits(model.backend.network, sequences, model.backend.network.attention([*map(len, sequences)])),
        expected,
        atol=1e-4,
        rtol=0,
    )
    without = packed_logits(model.backend.network, sequences)  # attends to everything
    assert (without - expected)[:31].abs().max() < 1e-4 < 0.1 < (without - expected).abs().max()
    shared = random_sequences(shape.vocab, [40])[0]
    prompts = [[1, 2, 3], *sequences[2:], shared + [5, 6], shared + [7], shared + [8, 9, 10]]
    assert_greedy_text(model, reference, prompts)
    monkeypatch.setattr("selfedit.model.packed.generate.QUERIES", 16)
    assert_greedy_text(model, reference, prompts)


def assert_greedy_text(model, reference, prompts) -> None:
    """The answers of all prompts at once, and of one alone, are the likeliest tokens of the reference."""
    answers = model.backend.generate([Request(tuple(p), max_new_tokens=40) for p in prompts])
    for prompt, answer in zip(prompts, answers):
        assert_greedy(reference, model.chat.ends, prompt, answer, 40, 1e-3)
    alone = model.backend.generate([Request(tuple(prompts[-1]), max_new_tokens=40)])[0]
    assert_greedy(reference, model.chat.ends, prompts[-1], alone, 40, 1e-3)


@pytest.mark.parametrize("starts", [(64, 64, 64, 64), (150, 70, 20, 135)])
def test_within_windows_shared_rows_change_no_state_and_no_gradient(tmp_path, starts):
    folder = write_tiny_model(tmp_path, "qwen2", **WINDOWS["qwen2"])
    check_shared_rows(load_model(str(folder), device="cpu", dtype=torch.float64).backend.network, starts)


@pytest.mark.parametrize(
    "settings", [{"tie_word_embeddings": False}, {"head_dim": 32}, {"num_key_value_heads": 4}, {"rope_theta": 500.0}]
)
def test_variants_of_the_llama_shape_give_the_logits_of_transformers(tmp_path, settings):
    folder = write_tiny_model(tmp_path, "llama", **settings)
    model, reference = load_model(str(folder), device="cpu"), reference_model(folder)
    sequences = random_sequences(model.backend.network.shape.vocab)
    torch.testing.assert_close(
        packed_logits(model.backend.network, sequences), one_at_a_time(reference, sequences), atol=1e-4, rtol=0
    )


def test_qwen_tensors_that_a_plain_llama_lacks_are_there_and_matter(tmp_path):
    biased = load_model(str(write_tiny_model(tmp_path / "a", "qwen2")), device="cpu").backend.network
    normed = load_model(str(write_tiny_model(tmp_path / "b", "qwen3")), device="cpu").backend.network
    assert biased.layers[0].linears["qkv"].bias.abs().max() > 0.1
    assert normed.layers[0].q_norm.std() > 0.1 and normed.layers[0].k_norm.std() > 0.1


@pytest.mark.embedded
def test_the_embedded_model_gives_the_logits_of_transformers(embedded_model):
    sequences = random_sequences(embedded_model.backend.network.shape.vocab, [5, 1, 19])
    expected = one_at_a_time(reference_model(embedded_model.folder), sequences)
    torch.testing.assert_close(packed_logits(embedded_model.backend.network, sequences), expected, atol=2e-3, rtol=0)


def test_many_buckets_are_one_bucket(tiny_model):
    sequences = random_sequences(tiny_model.backend.network.shape.vocab, [20, 25, 32, 17])
    apart = [packed_logits(tiny_model.backend.network, [s]) for s in sequences]
    together = packed_logits(tiny_model.backend.network, sequences)
    mixed = packed_logits(
        tiny_model.backend.network, [*sequences, *random_sequences(tiny_model.backend.network.shape.vocab, [3, 100])]
    )
    assert (
        len(PackedAttention([20, 25, 32, 17]).buckets) == 1
        and len(PackedAttention([20, 25, 32, 17, 3, 100]).buckets) == 3
    )
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[: len(together)], together, atol=1e-5, rtol=0)


def test_a_sequence_does_not_see_its_neighbours(tiny_model):
    first, second = random_sequences(tiny_model.backend.network.shape.vocab, [12, 12])
    other = [(t + 1) % tiny_model.backend.network.shape.vocab for t in first]
    network = tiny_model.backend.network
    assert torch.equal(packed_logits(network, [first, second])[12:], packed_logits(network, [other, second])[12:])


def test_few_rows_and_many_rows_give_the_same_product(tiny_model):
    linear = tiny_model.backend.network.layers[0].linears["qkv"]
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(3))
    many = linear(x)
    for rows in (1, 2, 48, 49):
        torch.testing.assert_close(linear(x[:rows]), many[:rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model_type": "gpt2"}, "gpt2"),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "mrope", "factor": 2.0}},
            "rope_scaling.rope_type is 'mrope'",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "per layer are not supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected \"silu\""),
        ({"mlp_bias": True}, "mlp_bias is True; expected false"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
    ],
)
def test_a_model_that_would_be_run_wrongly_is_refused(tiny_folder, change, named):
    config = json.loads((tiny_folder / "config.json").read_text()) | change
    with pytest.raises(ModelError, match=named) as refusal:
        Shape.from_config(config)
    assert "\n" not in str(refusal.value)


def test_a_text_that_is_longer_than_the_model_reads_is_refused(tiny_model):
    most = tiny_model.backend.network.shape.max_positions
    long = TokenizedExample((5,) * (most + 1), 1)
    for act in (
        lambda: train(tiny_model.backend.network, [Job((long,), 0)], TrainConfig(rank=2)),
        lambda: gold_logprobs(tiny_model.backend.network, [(long, None)]),
        lambda: FrozenBelow(tiny_model.backend.network, 2, [long.tokens]),
    ):
        with pytest.raises(
            ModelError, match=f"a text of {most + 1} tokens does not fit the model's {most} positions; split it"
        ):
            act()


def test_a_model_that_lacks_a_tensor_is_refused_by_name(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_tiny_model(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="model.layers.2.mlp.up_proj.weight"):
        load_model(str(folder), device="cpu")


def test_the_fingerprint_follows_the_weights_and_not_the_place(tmp_path, tiny_folder, tiny_model):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_folder, tmp_path / "copy")
    assert load_model(str(tmp_path / "copy"), device="cpu").fingerprint == tiny_model.fingerprint
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    weights["model.norm.weight"] *= 1.01
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(tmp_path / "copy"), device="cpu").fingerprint != tiny_model.fingerprint


def test_what_prompts_begin_with_alike_is_laid_once():
    header = (5, 6, 7, 8)
    sequences = [
        TokenizedExample((*header, 9, 10, 11), 5),
        TokenizedExample((*header, 12, 13), 5),
        TokenizedExample((*header, 9), 1),
    ]
    packing = pack(sequences, [0, 0, 0])
    assert [common for _, common in packing.shared] == [0, 4, 0]  # the third is a text: all of it is labels
    assert packing.rows == [(0, 7), (7, 9), (9, 14)]
    assert packing.label_rows == [4, 5, 7, 9, 10, 11, 12]
    assert [common for _, common in pack(sequences, [0, 1, 0]).shared] == [0, 0, 0]  # each owner has its own


@pytest.mark.parametrize(
    "starts, silent",
    [
        ((6, 6, 6, 6), {0}),
        ((64, 64, 64, 64), {0, 64}),
        ((150, 70, 20, 135), {0, 64, 128}),
        ((150, 100, 100, 100), {0, 64}),
    ],
)
def test_shared_rows_change_no_state_and_no_gradient(tiny_folder, starts, silent):
    """Sequences that begin with so many tokens of one header; of some only the first asks with its queries."""
    network = load_model(str(tiny_folder), device="cpu", dtype=torch.float64).backend.network
    attentions = check_shared_rows(network, starts)
    assert [{start for *_, start in attention.buckets} for attention in attentions] == [silent, {0}]


def check_shared_rows(network, starts) -> list[PackedAttention]:
    """In double precision: in fp32 rounding is 2e-4 of a gradient on some processors."""
    header, *rest = random_sequences(network.shape.vocab, [150, 9, 3, 20, 12])
    sequences = [TokenizedExample((*header[:n], *own), n + 2) for n, own in zip(starts, rest)]
    results, attentions = [], []
    for owners in ([0, 0, 0, 0], [0, 1, 2, 3]):
        packing = pack(sequences, owners)
        parts = network.embed(torch.tensor([*header, *(t for own in rest for t in own)])).requires_grad_()
        begin, *own = parts.split([150, 9, 3, 20, 12])
        laid = [torch.cat((begin[:n], o))[common:] for n, o, (_, common) in zip(starts, own, packing.shared)]
        attention = network.attention(packing.lengths, packing.shared)
        attentions.append(attention)
        out = network.run(torch.cat(laid), attention.positions, attention)[torch.tensor(packing.label_rows)]
        out.square().sum().backward()
        results.append((out.detach(), parts.grad))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-10, rtol=1e-10)
    return attentions
