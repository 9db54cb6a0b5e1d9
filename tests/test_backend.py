"""Two implementations of one protocol: on a tiny random model the packed and the reference backend do the same."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import with_exact_norms, write_tiny_model

from selfedit.config import TrainConfig
from selfedit.errors import AdapterError, ModelError
from selfedit.model.backend import Cut, Job, Request, has_line
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import load_model

TRAIN = TrainConfig(rank=4, alpha=8.0, first_layer=0.4, learning_rate=2e-3, epochs=8, batch_size=2, steps_per_epoch=1)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def folder(request, tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture
def in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def both(folder, dtype=None):
    packed, reference = (load_model(str(folder), backend=b, device="cpu", dtype=dtype) for b in ("packed", "reference"))
    if dtype == torch.float64:
        with_exact_norms(reference.backend.model)
    return packed, reference


@pytest.fixture(scope="module")
def models(folder):
    return both(folder)


def examples(vocab: int, lengths, seed: int) -> tuple[TokenizedExample, ...]:
    generator = torch.Generator().manual_seed(seed)
    tokens = [tuple(torch.randint(3, vocab, (n,), generator=generator).tolist()) for n in lengths]
    return tuple(TokenizedExample(t, 1 if i % 2 else max(1, len(t) // 3)) for i, t in enumerate(tokens))


def jobs(vocab: int) -> list[Job]:
    """Unlike in everything; each makes at least 40 steps under TRAIN."""
    return [
        Job(examples(vocab, [9, 21, 5, 14, 30, 7, 12, 9, 16, 11], 1), seed=11),
        Job(
            examples(vocab, [12, 3, 17, 8], 2), seed=12, learning_rate=5e-4, epochs=20, once=examples(vocab, [6] * 9, 3)
        ),
    ]


def state(backend, adapters, row, folder):
    """An adapter's tensors without the rounding of a saved folder."""
    tensors = adapters.tensors[row] if backend.name == "reference" else adapters.tensors(row)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def trained(model, config=TRAIN, **options):
    return model.backend.train(jobs(250), config, **options)


def test_both_backends_read_the_same_weights_and_limits(models):
    packed, reference = (model.backend for model in models)
    assert packed.fingerprint == reference.fingerprint
    assert (packed.num_layers, packed.max_positions) == (reference.num_layers, reference.max_positions) == (4, 512)
    assert models[0].identity() == {k: v for k, v in models[1].identity().items() if k != "backend"}


def test_after_forty_steps_in_double_precision_the_adapters_are_equal(in_double, folder, tmp_path):
    packed, reference = both(folder, torch.float64)
    (ours, our_logs), (theirs, their_logs) = trained(packed), trained(reference)
    assert [log.steps for log in our_logs] == [log.steps for log in their_logs] and our_logs[0].steps >= 40
    assert [log.tokens for log in our_logs] == [log.tokens for log in their_logs]
    for ours_log, theirs_log in zip(our_logs, their_logs):
        assert ours_log.losses == pytest.approx(theirs_log.losses, abs=1e-9)
    for row in range(2):
        a, b = state(packed.backend, ours, row, tmp_path), state(reference.backend, theirs, row, tmp_path)
        assert a.keys() == b.keys()
        assert max((a[name] - b[name]).abs().max() for name in a) < 1e-9
        assert max(a[name].abs().max() for name in a if "lora_B" in name) > 1e-3


@pytest.mark.parametrize(
    "changes, options",
    [
        ({"distill": 0.5}, {}),
        ({"clip": 0.1, "weight_decay": 0.1}, {"vocabulary": range(3, 250)}),
        ({"stop_loss": 5.0}, {}),
        ({"stop_loss": 5.0, "stop_largest": 6.0}, {}),
        ({"beta1": 0.5, "beta2": 0.9}, {}),
        ({"rivals": 4}, {}),
        ({"rivals": 4, "distill": 0.5}, {}),
        ({"rivals": 1000}, {}),
    ],
    ids=[
        "distilled",
        "clipped, decayed, with few tokens",
        "stopped early",
        "stopped when all is known",
        "short memory of the optimizer",
        "among likely tokens",
        "among likely tokens, distilled",
        "among more tokens than there are",
    ],
)
def test_every_setting_of_training_means_the_same(in_double, folder, tmp_path, changes, options):
    packed, reference = both(folder, torch.float64)
    config = replace(TRAIN, epochs=3, **changes)
    work = [replace(job, epochs=3) for job in jobs(250)]
    if "distill" in changes:
        work = [
            replace(
                j,
                examples=tuple(
                    replace(e, teacher_prompt=(7, *e.tokens[: e.label_start]), distill=0.5) for e in j.examples
                ),
            )
            for j in work
        ]
    (ours, our_logs), (theirs, their_logs) = (m.backend.train(work, config, **options) for m in (packed, reference))
    assert [log.steps for log in our_logs] == [log.steps for log in their_logs]
    for row in range(2):
        a, b = state(packed.backend, ours, row, tmp_path), state(reference.backend, theirs, row, tmp_path)
        # the packed backend computes soft labels in single precision
        assert max((a[name] - b[name]).abs().max() for name in a) < (1e-4 if "distill" in changes else 1e-9)


def test_a_cut_stops_the_same_adapters_and_training_goes_on_from_adapters(in_double, folder, tmp_path):
    found = []
    for model in both(folder, torch.float64):
        adapters, logs = trained(model, cut=Cut(3, lambda adapters: [1]))
        again, more = model.backend.train([replace(jobs(250)[0], epochs=2)], TRAIN, start=adapters.subset([0]))
        assert [len(log.losses) for log in logs] == [8, 3] and len(more[0].losses) == 2
        found.append([state(model.backend, adapters, 1, tmp_path), state(model.backend, again, 0, tmp_path)])
    for a, b in zip(*found):
        assert max((a[name] - b[name]).abs().max() for name in a) < 1e-9


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    """Two adapters trained by the packed backend, as folders."""
    adapters, _ = trained(models[0])
    folders = [tmp_path_factory.mktemp("saved") / str(row) for row in range(2)]
    for row, folder in enumerate(folders):
        models[0].backend.save(adapters, row, folder, "tiny")
    return folders


def test_a_folder_of_one_backend_is_loaded_by_the_other_and_saved_again_byte_for_byte(models, saved, tmp_path):
    for model in models:
        loaded = model.backend.load(saved)
        model.backend.save(loaded, 1, tmp_path / model.backend.name, "tiny")
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            assert (tmp_path / model.backend.name / file).read_bytes() == (saved[1] / file).read_bytes()


def test_log_probabilities_and_divergences_agree(models, saved):
    items = [(e, row) for e in examples(250, [5, 19, 40, 11], 6) for row in (None, 0, 1)]
    items.append((TokenizedExample(items[3][0].tokens, 4, chosen=(4, 9, 12)), 1))
    packed, reference = (model.backend for model in models)
    ours, theirs = packed.load(saved), reference.load(saved)
    for vocabulary in (None, range(3, 250)):
        expected = reference.gold_logprobs(items, theirs, vocabulary=vocabulary)
        assert packed.gold_logprobs(items, ours, vocabulary=vocabulary) == pytest.approx(expected, abs=1e-4)
    texts = examples(250, [12, 30], 7)
    assert packed.divergences(texts, ours) == pytest.approx(reference.divergences(texts, theirs), abs=1e-4)
    assert min(packed.divergences(texts, ours)) > 5e-4


def test_mean_states_agree_and_shared_beginnings_change_nothing(models):
    header = (7, 8, 9, 10, 11)
    texts = [TokenizedExample((*header, *e.tokens), n) for e in examples(250, [3, 9, 14], 3) for n in (1, 5, 7)]
    packed, reference = (model.backend for model in models)
    for layers in (1, 2):
        ours = packed.mean_states(texts, layers)
        assert torch.allclose(ours, reference.mean_states(texts, layers), atol=1e-4)
        alone = torch.cat([packed.mean_states([text], layers) for text in texts])
        assert torch.allclose(ours, alone, atol=1e-5) and ours.shape == (9, packed.hidden_size)


def test_greedy_and_drawn_texts_are_equal(models, saved):
    prompts = [e.tokens for e in examples(250, [4, 17, 33, 9], 8)]
    requests = [Request(p, row, max_new_tokens=12) for p in prompts for row in (None, 0, 1)]
    requests += [Request(prompts[0], 1, 12, temperature=0.8, seed=3), Request(prompts[1], None, 9, stop=has_line)]
    requests.append(Request(prompts[2], 0, 6, allow=lambda written: [40, 41] if len(written) < 3 else [50]))
    requests += [Request(prompts[2], row, 12, adapter_from=n) for row, n in ((0, 1), (1, 20), (0, 33))]
    texts = [model.backend.generate(requests, model.backend.load(saved)) for model in models]
    assert texts[0] == texts[1]
    assert any(texts[0]) and all(token in (40, 41, 50) for token in texts[0][-4])


def test_the_labels_that_greedy_decoding_would_write_are_counted_alike(models, saved):
    packed, reference = (model.backend for model in models)
    prompts = [e.tokens for e in examples(250, [4, 17, 33], 8)]
    written = packed.generate([Request(p, row, 12) for p in prompts for row in (0, 1)], packed.load(saved))
    items, expected = [], []
    for i, text in enumerate(written):
        prompt, row = prompts[i // 2], i % 2
        other = (text[i] + 1) % 250
        for labels, right in ((text, 12), ([*text[:i], other, *text[i + 1 :]], i)):
            items.append((TokenizedExample((*prompt, *labels), len(prompt)), row))
            expected.append(right)
    for backend in (packed, reference):
        assert backend.greedy_labels(items, backend.load(saved)) == expected


def test_what_does_not_fit_is_refused_alike(models, tmp_path):
    long = TokenizedExample(tuple([5] * 513), 1)
    for model in models:
        for call in (
            lambda b: b.gold_logprobs([(long, None)]),
            lambda b: b.mean_states([long], 1),
            lambda b: b.generate([Request(long.tokens)]),
            lambda b: b.train([Job((long,))], TRAIN),
        ):
            with pytest.raises(ModelError, match="512 positions"):
                call(model.backend)
        with pytest.raises(AdapterError, match="not a readable PEFT adapter"):
            model.backend.load([tmp_path])


def test_progress_of_the_reference_counts_up_to_the_end(models):
    seen = []
    models[1].backend.train(jobs(250), replace(TRAIN, epochs=1), on_step=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] and seen == sorted(seen)
    seen.clear()
    models[1].backend.generate([Request((5, 6), max_new_tokens=4)] * 2, on_token=lambda *s: seen.append(s))
    assert seen[-1] == (8, 8) and seen == sorted(seen)


def test_a_model_of_another_family_runs_on_the_reference_and_is_refused_by_the_packed_backend(tmp_path):
    import transformers
    from conftest import write_tokenizer

    vocab = write_tokenizer(tmp_path)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=vocab, n_embd=32, n_layer=3, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="gpt2.*not supported"):
        load_model(str(tmp_path), device="cpu")
    model = load_model(str(tmp_path), backend="reference", device="cpu")
    work = [Job(examples(vocab, [9, 12], 1), seed=seed, epochs=12, learning_rate=1e-2) for seed in (1, 2)]
    adapters, logs = model.backend.train(work, replace(TRAIN, first_layer=0.0))
    assert all(log.losses[-1] < log.losses[0] - 0.1 for log in logs)
    model.backend.save(adapters, 1, tmp_path / "adapter", "tiny")
    loaded = model.backend.load([tmp_path / "adapter"])
    items = [(work[0].examples[0], 0)]
    (kept,), (now,) = (
        model.backend.gold_logprobs(items, loaded),
        model.backend.gold_logprobs(items, adapters.subset([1])),
    )
    assert kept == pytest.approx(now, abs=1e-2) and math.isfinite(kept)
    assert model.backend.gold_logprobs([(work[0].examples[0], None)])[0] < kept


def test_an_unknown_backend_is_one_clear_line(tmp_path):
    with pytest.raises(ModelError, match="unknown backend 'fast'; give packed or reference"):
        load_model(str(tmp_path), backend="fast")
