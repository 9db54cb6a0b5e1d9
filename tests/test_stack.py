import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfedit.errors import AdapterError
from selfedit.model import four_bits
from selfedit.model.backend import LoraConfig
from selfedit.model.packed.lora import LoraBatch, TokenRange
from selfedit.model.packed.network import PackedAttention
from selfedit.model.peft_folder import CONFIG_FILE, WEIGHTS_FILE, export_adapter

ALL = LoraConfig(4, 8.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), (0, 1, 2, 3))
SOME = LoraConfig(2, 16.0, ("q_proj", "v_proj", "down_proj"), (1, 3))
TOKENS = [5, 200, 31, 7, 90, 12, 250, 44, 8, 19]


def random_stack(model, config=ALL, count=2, seed=0) -> LoraBatch:
    """Adapters as after training: B is not zero. They are rounded as in a folder, so that saving changes nothing."""
    stack = LoraBatch(model.backend.network.shape, config, count)
    stack.flat.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    return stack.as_stored()


@torch.inference_mode()
def logits_under(model, stack=None, adapter=None, tokens=TOKENS):
    attention = PackedAttention([len(tokens)])
    linear = None if stack is None else stack.linear(model.backend.network, [TokenRange(adapter, 0, len(tokens))])
    network = model.backend.network
    return network.logits(network.run(network.embed(torch.tensor(tokens)), attention.positions, attention, linear))


@torch.inference_mode()
def reference_logits(reference, tokens=TOKENS):
    return reference(torch.tensor([tokens])).logits[0]


def saved(model, folder, config=ALL):
    random_stack(model, config).save(0, folder, "tiny", small=True)
    return folder


def edit_config(folder, **changes):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(model, folders) -> str:
    with pytest.raises(AdapterError) as error:
        model.backend.load(folders)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("config", [ALL, SOME])
def test_an_exported_adapter_does_the_same_in_peft(tiny_model, tiny_reference, tmp_path, config):
    from peft import PeftModel

    stack = random_stack(tiny_model, config)
    stack.save(1, tmp_path / "kept", "tiny", small=True)
    export_adapter(tmp_path / "kept", tmp_path / "exported")
    theirs = reference_logits(PeftModel.from_pretrained(copy.deepcopy(tiny_reference), tmp_path / "exported").eval())
    assert (theirs - logits_under(tiny_model)).abs().max() > 0.1
    torch.testing.assert_close(logits_under(tiny_model, stack, 1), theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "modules, layers",
    [
        *((modules, layers) for modules in (["q_proj", "v_proj"], list(ALL.modules)) for layers in (None, [1, 3], 2)),
        ("all-linear", None),  # peft takes no layers with this name
    ],
)
def test_an_adapter_made_by_peft_does_the_same_here(tiny_model, tiny_reference, tmp_path, layers, modules):
    import peft

    torch.manual_seed(3)
    made = peft.get_peft_model(
        copy.deepcopy(tiny_reference),
        peft.LoraConfig(
            r=3,
            lora_alpha=5,
            target_modules=modules,
            layers_to_transform=layers,
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        ),
    ).eval()
    made.save_pretrained(tmp_path)
    stack = tiny_model.backend.load([tmp_path])
    assert (reference_logits(made) - logits_under(tiny_model)).abs().max() > 0.1
    torch.testing.assert_close(logits_under(tiny_model, stack, 0), reference_logits(made), atol=1e-4, rtol=1e-5)


def test_an_untrained_adapter_changes_nothing(tiny_model):
    stack = LoraBatch(tiny_model.backend.network.shape, ALL, 1)
    stack.init_(0, 7)
    assert stack.flat.abs().max() > 0.1  # A is not zero, B is
    assert torch.equal(logits_under(tiny_model, stack, 0), logits_under(tiny_model))


def test_the_start_is_that_of_peft_in_range_and_spread(tiny_model):
    """A uniform in ±1/sqrt(in), B zero."""
    stack = LoraBatch(tiny_model.backend.network.shape, ALL, 1)
    stack.init_(0, 7)
    for name, tensor in stack.tensors(0).items():
        if "lora_B" in name:
            assert not tensor.any()
        else:
            bound = tensor.shape[1] ** -0.5
            assert 0.9 * bound < tensor.abs().max() <= bound
            assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_rows_without_an_adapter_see_the_untouched_model(tiny_model):
    stack = random_stack(tiny_model)
    attention = PackedAttention([10, 10, 10])
    tokens = torch.tensor(TOKENS * 3)
    network = tiny_model.backend.network
    with torch.inference_mode():
        linear = stack.linear(network, [TokenRange(1, 0, 10), TokenRange(0, 20, 30)])
        first, middle, last = network.logits(
            network.run(network.embed(tokens), attention.positions, attention, linear)
        ).split(10)
    torch.testing.assert_close(first, logits_under(tiny_model, stack, 1), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(middle, logits_under(tiny_model), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(last, logits_under(tiny_model, stack, 0), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("config", [ALL, SOME])
def test_saved_loaded_and_saved_again_are_the_same_bytes(tiny_model, tmp_path, config, small):
    stack = random_stack(tiny_model, config)
    if not small:
        stack.flat.copy_(stack.flat.bfloat16())
    for i in range(2):
        stack.save(i, tmp_path / f"first{i}", "tiny", small=small)
    loaded = tiny_model.backend.load([tmp_path / "first0", tmp_path / "first1"])
    assert loaded.config == config and torch.equal(loaded.flat, stack.flat)
    for i in range(2):
        loaded.save(i, tmp_path / f"second{i}", "tiny", small=small)
        for file in (WEIGHTS_FILE, CONFIG_FILE):
            assert (tmp_path / f"first{i}" / file).read_bytes() == (tmp_path / f"second{i}" / file).read_bytes()


def test_an_adapter_is_stored_in_four_bits_and_read_back_to_half_a_step(tiny_model, tmp_path):
    stack = LoraBatch(tiny_model.backend.network.shape, ALL, 1)
    stack.flat.normal_(0, 0.1, generator=torch.Generator().manual_seed(4))
    stack.save(0, tmp_path, "tiny", small=True)
    read = tiny_model.backend.load([tmp_path]).tensors(0)
    for name, tensor in stack.tensors(0).items():
        groups, error = tensor.reshape(-1, four_bits.GROUP), (read[name] - tensor).reshape(-1, four_bits.GROUP)
        step = groups.abs().amax(1, keepdim=True) / four_bits.LARGEST
        assert (error.abs() <= 0.51 * step).all() and error.any()
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 0.3 * 2 * stack.flat.numel() + 30_000  # of bf16, and the names
    assert torch.equal(tiny_model.backend.load([tmp_path]).flat, stack.as_stored().flat)


def test_integers_hold_zeros_small_and_odd_tensors():
    tensors = {"zero": torch.zeros(4, 8), "small": torch.full((2, 32), 1e-9), "odd": torch.full((3, 5), 0.5)}
    read = four_bits.rounded(tensors)
    assert not read["zero"].any() and torch.equal(read["odd"], tensors["odd"])
    torch.testing.assert_close(read["small"], tensors["small"], atol=0, rtol=0.01)


def test_scales_that_do_not_fit_are_refused(tiny_model, tmp_path):
    folder = saved(tiny_model, tmp_path)
    tensors = load_file(folder / WEIGHTS_FILE)
    name = "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight"
    for damaged in (tensors[name + ".scale"][:-1], tensors[name + ".scale"].to(torch.int16)):
        save_file(tensors | {name + ".scale": damaged.contiguous()}, folder / WEIGHTS_FILE)
        assert "not a readable adapter" in refusal(tiny_model, [folder])


def test_a_subset_holds_copies_in_the_order_asked_for(tiny_model):
    stack = random_stack(tiny_model, count=3)
    picked = stack.subset([2, 0])
    assert torch.equal(picked.flat, stack.flat[[2, 0]])
    picked.flat.zero_()
    assert stack.flat.abs().sum(1).min() > 0


def test_corrupt_weights_are_refused(tiny_model, tmp_path):
    folder = saved(tiny_model, tmp_path)
    whole = (folder / WEIGHTS_FILE).read_bytes()
    for damaged in (b"", whole[:50], whole[:-100], b"\xff" * 200):
        (folder / WEIGHTS_FILE).write_bytes(damaged)
        assert str(folder) in refusal(tiny_model, [folder])


@pytest.mark.parametrize("file", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_missing_file_is_named(tiny_model, tmp_path, file):
    folder = saved(tiny_model, tmp_path)
    (folder / file).unlink()
    assert file in refusal(tiny_model, [folder])


def test_a_folder_that_is_not_there_is_refused(tiny_model, tmp_path):
    assert str(tmp_path / "nowhere") in refusal(tiny_model, [tmp_path / "nowhere"])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"r": 4}'])
def test_an_unreadable_configuration_is_refused(tiny_model, tmp_path, text):
    folder = saved(tiny_model, tmp_path)
    (folder / CONFIG_FILE).write_text(text)
    assert CONFIG_FILE in refusal(tiny_model, [folder])


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "LoRA"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
        ({"target_modules": "q_.*"}, "q_"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": [["q_proj"]]}, "target_modules"),
        ({"r": 10_000_000}, "'r' 10000000"),
        ({"r": 0}, "'r'"),
        ({"r": "4"}, "'r'"),
        ({"lora_alpha": None}, "'lora_alpha'"),
        ({"layers_to_transform": []}, "layers_to_transform"),
        ({"layers_to_transform": "0"}, "layers_to_transform"),
        ({"layers_to_transform": [-1]}, "layers_to_transform"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(tiny_model, tmp_path, changes, named):
    folder = saved(tiny_model, tmp_path)
    edit_config(folder, **changes)
    assert named in refusal(tiny_model, [folder])


def test_tensors_of_wrong_sizes_are_refused_by_name(tiny_model, tmp_path):
    folder = saved(tiny_model, tmp_path)
    tensors = load_file(folder / WEIGHTS_FILE)
    name = "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight"
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, folder / WEIGHTS_FILE)
    assert "layers.2.mlp.down_proj" in refusal(tiny_model, [folder])


def test_an_adapter_whose_rank_is_not_the_one_it_claims_is_refused(tiny_model, tmp_path):
    folder = saved(tiny_model, tmp_path)
    edit_config(folder, r=8)
    assert "does not fit" in refusal(tiny_model, [folder])


def test_tensors_on_one_side_only_are_refused_by_name(tiny_model, tmp_path):
    folder = saved(tiny_model, tmp_path)
    tensors = load_file(folder / WEIGHTS_FILE)
    name = "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, folder / WEIGHTS_FILE)
    assert name in refusal(tiny_model, [folder])
    save_file(tensors | {"extra": torch.ones(1)}, folder / WEIGHTS_FILE)
    assert "extra" in refusal(tiny_model, [folder])


def test_an_adapter_of_a_deeper_model_is_refused(tiny_model, tmp_path):
    folder = saved(tiny_model, tmp_path)
    edit_config(folder, layers_to_transform=[0, 1, 2, 7])
    assert "layer 7" in refusal(tiny_model, [folder]) and "4 layers" in refusal(tiny_model, [folder])


def test_adapters_of_different_rank_do_not_share_a_stack(tiny_model, tmp_path):
    folders = [saved(tiny_model, tmp_path / "a"), saved(tiny_model, tmp_path / "b", SOME)]
    assert "different rank" in refusal(tiny_model, folders)
