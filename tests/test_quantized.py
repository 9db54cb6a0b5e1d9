import gc
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import write_tiny_model
from gguf import GGMLQuantizationType
from test_catalog import write_gguf
from test_network import packed_logits, random_sequences

from selfedit.config import TrainConfig
from selfedit.model.backend import Job, Request
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import load_model
from selfedit.model.packed import quantized
from selfedit.model.packed.quantized import LAYOUTS, Weight, back, joined, product
from selfedit.model.repack import UNIT_SCALES, repacked
from selfedit.model.weights import full_weights

SCALES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where in a block fp16 numbers stand, if not only at its start."""
ROWS = [1, 2, 3, 4, 8, 9, 16, 17, 40, 300]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random_rows(kind: str, outputs: int, inputs: int) -> np.ndarray:
    """Rows of a GGUF tensor: random integers and scales of either sign."""
    size, block_bytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    generator = np.random.default_rng(outputs)
    rows = generator.integers(0, 256, (outputs, inputs // size * block_bytes), dtype=np.uint8)
    blocks = rows.reshape(-1, block_bytes)
    for place in SCALES.get(kind, (0,)):
        numbers = (0.1 * generator.standard_normal(len(blocks))).astype(np.float16)
        blocks[:, place : place + 2] = numbers.view(np.uint8).reshape(-1, 2)
    return rows


def packed_weight(kind: str, outputs: int = 101, inputs: int = 512) -> tuple[Weight, torch.Tensor]:
    """A matrix and its values by the `gguf` library."""
    rows, number = random_rows(kind, outputs, inputs), GGMLQuantizationType[kind]
    values = torch.from_numpy(gguf.dequantize(rows, number))
    return Weight(torch.from_numpy(repacked(rows, number)), LAYOUTS[kind]), values


def plain_weight(dtype: torch.dtype) -> tuple[Weight, torch.Tensor]:
    data = torch.randn(101, 512, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Weight(data, dtype=torch.float32), data.float()


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def test_every_layout_is_tested():
    assert set(UNIT_SCALES) == set(LAYOUTS)


@pytest.mark.parametrize("kernels", ["1", "0"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_repacked_matrix_has_the_values_of_the_gguf_library_bit_for_bit(kind, kernels, monkeypatch):
    monkeypatch.setenv("SELFEDIT_KERNELS", kernels)
    weight, expected = packed_weight(kind)
    assert weight.kernels is (kernels == "1")
    assert same_bits(weight.values(), expected)
    assert same_bits(weight.values(torch.tensor([7, 100, 7])), expected[[7, 100, 7]])
    assert same_bits(torch.cat([values.clone() for _, _, values in weight.tiles()]), expected)
    assert torch.equal(weight.bfloat16(), expected.bfloat16())
    step = expected.numel() // 1024
    assert same_bits(weight.sample(), expected.flatten()[::step])


def test_values_are_fp32_whatever_the_default_dtype_of_the_process_is():
    weight, expected = packed_weight("Q4_1")
    torch.set_default_dtype(torch.float64)
    try:
        assert same_bits(weight.values(), expected)
        x = torch.ones(20, 512, dtype=torch.float32)
        torch.testing.assert_close(product([weight], x), x @ expected.T, atol=1e-3, rtol=1e-4)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", [*LAYOUTS, *DTYPES], ids=str)
def test_kernels_give_the_fp32_product_and_so_does_torch(case, monkeypatch):
    for kernels in "10":
        monkeypatch.setenv("SELFEDIT_KERNELS", kernels)
        weight, values = packed_weight(case) if isinstance(case, str) else plain_weight(case)
        assert weight.kernels is (kernels == "1")
        for rows in ROWS:
            generator = torch.Generator().manual_seed(rows)
            x, dy = torch.randn(rows, 512, generator=generator), torch.randn(rows, 202, generator=generator)
            expected = (x.double() @ values.double().T).float().repeat(1, 2)
            found = product([weight, weight], x)
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
            expected = (dy.double() @ values.double().repeat(2, 1)).float()
            assert (back([weight, weight], dy) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("by_tiles", [True, False])
@pytest.mark.parametrize("most_values", [1 << 10, 1 << 13])
def test_large_products_are_those_of_parts_of_any_size(most_values, by_tiles, monkeypatch):
    weight, values = packed_weight("Q4_K")
    x = torch.randn(900, 512, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(quantized, "SCRATCH_VALUES", most_values)
    monkeypatch.setattr(quantized, "CACHED_VALUES", most_values)
    monkeypatch.setattr(quantized, "_kernel_rows", lambda: 0 if by_tiles else 10**6)
    expected = (x.double() @ values.double().T).float()
    assert (product([weight], x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_product_reads_rows_that_are_not_side_by_side_in_memory():
    weight, _ = packed_weight("Q8_0", 64, 32)
    wide = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    for rows in (1, 3, 20):
        torch.testing.assert_close(
            product([weight], wide[:rows, 16:48]), product([weight], wide[:rows, 16:48].contiguous())
        )


def test_only_neighbours_of_one_layout_become_one_matrix():
    a, b, c = (packed_weight(kind, 32, 256)[0] for kind in ("Q5_0", "Q8_0", "Q6_K"))
    assert [w.outputs for w in joined([a, b, c])] == [64, 32], "Q5_0 and Q8_0 share a layout"
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        product(joined([a, b, c]), x), torch.cat([product([w], x) for w in (a, b, c)], 1), atol=1e-5, rtol=1e-5
    )


@pytest.fixture(scope="module")
def wide_gguf(tmp_path_factory) -> Path:
    """A GGUF file whose matrices outweigh all else."""
    folder = write_tiny_model(
        tmp_path_factory.mktemp("wide") / "model", hidden_size=128, intermediate_size=256, num_hidden_layers=6
    )
    return write_gguf(folder.parent / "wide.gguf", folder, quantized=True)


def a_job(model) -> tuple:
    """Train, score, answer; returns what came out."""
    examples = [TokenizedExample(tuple(s), 3) for s in random_sequences(model.backend.shape.vocab, [40, 70])]
    config = TrainConfig(rank=2, first_layer=0.5, epochs=2)
    adapters, logs = model.backend.train([Job(tuple(examples), 0)], config)
    requests = [Request(examples[0].tokens, 0, 8), Request(examples[1].tokens, None, 8)]
    scores = model.backend.gold_logprobs([(e, 0) for e in examples], adapters)
    return adapters.flat.detach(), logs[0].losses, scores, model.backend.generate(requests, adapters)


def tensor_bytes(root) -> int:
    """Of all tensors that an object reaches; those that share memory count once."""
    seen, found, left = set(), {}, [root]
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, type | type(sys)) or callable(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            found[thing.untyped_storage().data_ptr()] = max(
                found.get(thing.untyped_storage().data_ptr(), 0), thing.numel() * thing.itemsize
            )
        else:
            left.extend(gc.get_referents(thing))
    return sum(found.values())


@pytest.mark.parametrize("precision, copies", [("fp32", 0), ("mixed", 1)])
def test_a_model_stands_in_memory_once_and_its_trained_layers_in_bf16_where_that_pays(
    cache, wide_gguf, precision, copies
):
    model = load_model(str(wide_gguf), device="cpu", precision=precision)
    stored = sum(file.stat().st_size for file in model.folder.glob("*.safetensors"))
    rotary = tensor_bytes(model.backend.network._rotary)
    assert tensor_bytes(model.backend.network) - rotary < 1.05 * stored
    a_job(model)
    network, shape = model.backend.network, model.backend.network.shape
    trained = sum(i * o for m in ("q_proj", "o_proj", "k_proj", "v_proj") for i, o in [shape.widths(m)])
    trained = 3 * (trained + 3 * shape.hidden * shape.ffn) + shape.hidden * shape.vocab
    assert tensor_bytes(network) - rotary < 1.05 * stored + 2.05 * trained * copies


def test_without_kernels_all_results_are_the_same_up_to_rounding(cache, wide_gguf, monkeypatch):
    results = []
    for kernels in "10":
        monkeypatch.setenv("SELFEDIT_KERNELS", kernels)
        model = load_model(str(wide_gguf), device="cpu")
        assert model.backend.network.head.weights[0].kernels is (kernels == "1")
        results.append((a_job(model), model.backend.fingerprint))
    ((weights, losses, scores, answers), name), ((plain, plain_losses, plain_scores, plain_answers), plain_name) = (
        results
    )
    torch.testing.assert_close(weights, plain, atol=1e-4, rtol=1e-2)
    torch.testing.assert_close(
        torch.tensor(losses + scores), torch.tensor(plain_losses + plain_scores), atol=1e-3, rtol=0
    )
    assert (answers, name) == (plain_answers, plain_name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_16_bits_is_held_so_and_gives_the_logits_of_its_fp32_copy(tmp_path, tiny_folder, dtype):
    from shutil import copytree

    from safetensors.torch import load_file, save_file

    copytree(tiny_folder, tmp_path / "short")
    copytree(tiny_folder, tmp_path / "long")
    weights = {n: w.to(dtype) for n, w in load_file(tiny_folder / "model.safetensors").items()}
    save_file(weights, tmp_path / "short/model.safetensors", metadata={"format": "pt"})
    save_file(
        {n: w.float() for n, w in weights.items()}, tmp_path / "long/model.safetensors", metadata={"format": "pt"}
    )
    short, long = (load_model(str(tmp_path / name), device="cpu") for name in ("short", "long"))
    assert short.backend.fingerprint == long.backend.fingerprint and short.backend.network.precision == "fp32"
    assert short.backend.network.layers[0].linears["down"].weights[0].data.dtype == dtype
    sequences = random_sequences(short.backend.network.shape.vocab)
    torch.testing.assert_close(
        packed_logits(short.backend.network, sequences),
        packed_logits(long.backend.network, sequences),
        atol=1e-5,
        rtol=0,
    )


def test_a_conversion_of_an_earlier_version_is_ignored(cache, wide_gguf):
    model = load_model(str(wide_gguf), device="cpu")
    earlier = model.folder.with_name(model.folder.name.removesuffix("-packed"))
    earlier.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "model.quantized"):
        (earlier / name).write_bytes(b"of another version")
    assert earlier != model.folder
    assert load_model(str(wide_gguf), device="cpu").backend.fingerprint == model.backend.fingerprint


def test_full_weights_are_those_of_the_gguf_library(cache, wide_gguf):
    weights = full_weights(load_model(str(wide_gguf), device="cpu").folder)
    for tensor in gguf.GGUFReader(wide_gguf).tensors:
        if tensor.name == "blk.3.ffn_down.weight":
            expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
            assert same_bits(weights["model.layers.3.mlp.down_proj.weight"], expected)
            return
    raise AssertionError("the tensor is missing")


@pytest.mark.embedded
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process itself")
def test_answers_of_the_embedded_model_take_less_than_its_fp32_weights(embedded_model):
    """fp32 weights take 538 MB, and Python with torch 220 MB."""
    code = (
        "from selfedit.model.load import load_model; from selfedit.model.backend import Request\n"
        "model = load_model('smollm2-135m', device='cpu')\n"
        "model.backend.generate([Request(tuple(model.chat.ask('Who are you?')), max_new_tokens=4)])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 538_000, "kilobytes, all of the process"
