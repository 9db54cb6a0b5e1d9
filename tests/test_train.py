"""Training in a stack is training alone: every weight is compared with the `peft` library.

Whole runs are compared in double precision. AdamW divides a gradient by its own size, so a weight whose first gradients
are no more than rounding moves by a full step in a direction that rounding decides: in single precision some weights of
two correct programs end far apart. Single precision is compared where it can be: gradients, and most weights.
"""

import math
from copy import copy
from dataclasses import replace
from threading import get_ident

import pytest
import torch
from conftest import double_reference, reference_model
from torch.nn.functional import cross_entropy

from selfedit.config import TrainConfig
from selfedit.model.backend import Job, lora_config
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import load_model
from selfedit.model.packed import lora as stack_module
from selfedit.model.packed import train as train_module
from selfedit.model.packed.frozen import FrozenBelow
from selfedit.model.packed.lora import Gradients, LoraBatch, TokenRange, _grouped_bmm, _grouped_loop
from selfedit.model.packed.network import Linear, PackedAttention, Vocabulary
from selfedit.model.packed.quantized import Weight
from selfedit.model.packed.train import HeadLoss, _backward, _Run, _Work, train
from selfedit.model.schedule import Schedule

TINY = TrainConfig(rank=4, alpha=8.0, first_layer=0.0, learning_rate=1e-3, epochs=10, batch_size=1)


@pytest.fixture
def in_double():
    """What is made in the test is made in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def double_model(in_double, tiny_folder):
    return load_model(str(tiny_folder), device="cpu", dtype=torch.float64)


def random_sequences(vocab: int, lengths: list[int], seed: int) -> tuple[TokenizedExample, ...]:
    """Every second one has a prompt of a third of its length."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        TokenizedExample(
            tuple(torch.randint(3, vocab, (n,), generator=generator).tolist()), 1 if i % 2 else max(1, n // 3)
        )
        for i, n in enumerate(lengths)
    )


def ragged_jobs(vocab: int) -> list[Job]:
    """Jobs with different sequences, rates, epochs and seeds; each adapter makes at least 40 steps of size 1."""
    return [
        Job(random_sequences(vocab, [9, 21, 5, 14, 30], 1), seed=11, learning_rate=2e-3, epochs=9),
        Job(random_sequences(vocab, [12, 3, 17, 8, 26, 11, 6], 2), seed=12, learning_rate=5e-4, epochs=7),
        Job(random_sequences(vocab, [40, 2, 13], 3), seed=13, learning_rate=1e-3, epochs=14),
        Job(
            (
                *random_sequences(vocab, [19, 7, 10], 4),
                replace(random_sequences(vocab, [19], 5)[0], label_start=3, chosen=(3, 4, 9, 18)),
            ),
            seed=14,
        ),
    ]


def with_peft(reference, network, config: TrainConfig, start: dict[str, torch.Tensor]):
    """`reference` as `peft` adapts it, from these weights; `unload()` gives it back."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    adapted = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.modules),
        layers_to_transform=list(lora_config(network.shape.layers, config).layers),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(reference, adapted, autocast_adapter_dtype=False)
    set_peft_model_state_dict(model, start)
    return model


def peft_loss(model, batch: list[TokenizedExample], among: set[int] | None = None):
    """Returns the mean loss of right-padded sequences. `among`: the tokens of the softmax, by default all."""
    longest = max(len(s.tokens) for s in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    labels, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
    for row, s in enumerate(batch):
        tokens[row, : len(s.tokens)] = torch.tensor(s.tokens)
        labels[row, list(s.label_positions)] = torch.tensor(s.targets)
        mask[row, : len(s.tokens)] = 1
    logits = model(input_ids=tokens, attention_mask=mask).logits
    if among is not None:
        logits[..., [token for token in range(logits.shape[-1]) if token not in among]] = -torch.inf
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def trained_alone(
    reference, network, job: Job, config: TrainConfig, among: set[int] | None = None
) -> dict[str, torch.Tensor]:
    """What `peft` and plain PyTorch make of a job."""
    from peft import get_peft_model_state_dict

    start = LoraBatch(network.shape, lora_config(network.shape.layers, config), 1)
    start.init_(0, job.seed)
    model = with_peft(reference, network, config, start.tensors(0))
    parameters = [p for p in model.parameters() if p.requires_grad]
    peak = job.learning_rate or config.learning_rate
    epochs = job.epochs or config.epochs
    total = epochs * math.ceil(len(job.examples) / config.batch_size)
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    generator = torch.Generator().manual_seed(job.seed)
    step = 0
    for _ in range(epochs):
        order = torch.randperm(len(job.examples), generator=generator).tolist()
        for low in range(0, len(order), config.batch_size):
            optimizer.zero_grad()
            peft_loss(model, [job.examples[i] for i in order[low : low + config.batch_size]], among).backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.param_groups[0]["lr"] = peak * (1 - step / total)
            optimizer.step()
            step += 1
    assert step == total >= 40
    tensors = {name: t.detach().clone() for name, t in get_peft_model_state_dict(model).items()}
    model.unload()
    return tensors


def differences(stack: LoraBatch, row: int, expected: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of every weight of an adapter, to what it should be."""
    ours = stack.tensors(row)
    assert ours.keys() == expected.keys()
    assert max(t.abs().max() for name, t in expected.items() if "lora_B" in name) > 5e-3  # it did train
    return torch.cat([(ours[name] - expected[name]).abs().flatten() for name in ours])


def long_jobs(vocab: int, batch_size: int) -> list[Job]:
    """At least 40 steps each, whatever the size of a batch."""
    return [Job(j.examples, j.seed, j.learning_rate, (j.epochs or 10) * batch_size) for j in ragged_jobs(vocab)]


@pytest.mark.parametrize("first_layer", [0.0, 0.5])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_adapter_of_a_stack_ends_where_peft_takes_it_alone(double_model, tiny_folder, first_layer, batch_size):
    config = TrainConfig(rank=4, alpha=8.0, first_layer=first_layer, batch_size=batch_size, steps_per_epoch=1)
    jobs = long_jobs(double_model.backend.network.shape.vocab, batch_size)
    stack, logs = train(double_model.backend.network, jobs, config)
    assert min(log.steps for log in logs) >= 40
    reference = double_reference(tiny_folder)
    for row, job in enumerate(jobs):
        difference = differences(stack, row, trained_alone(reference, double_model.backend.network, job, config)).max()
        print(f"first_layer {first_layer}, batch {batch_size}, adapter {row}: largest difference {difference:.1e}")
        assert (
            difference < 1e-6
        )  # about 1e-15; 3e-8 with a text of two tokens, where q and k get no gradient but rounding


@pytest.mark.parametrize("first_layer", [0.0, 0.5])
def test_a_header_that_a_batch_computes_once_is_trained_as_in_peft(double_model, tiny_folder, first_layer):
    config = TrainConfig(rank=4, alpha=8.0, first_layer=first_layer, batch_size=3, steps_per_epoch=1, epochs=15)
    vocab = double_model.backend.network.shape.vocab
    header = random_sequences(vocab, [8], 5)[0].tokens
    asked = [
        TokenizedExample(header + s.tokens, 8 + s.label_start) for s in random_sequences(vocab, [9, 4, 14, 9, 21, 6], 6)
    ]
    texts = [TokenizedExample(s.tokens, 1) for s in random_sequences(vocab, [12, 30], 9)]
    jobs = [
        Job((*asked, *texts), seed=1),
        Job(tuple(asked[:4]), seed=2, epochs=30),
        Job(tuple(texts), seed=3, epochs=40),
    ]
    stack, logs = train(double_model.backend.network, jobs, config)
    assert logs[0].rows < logs[0].tokens and logs[1].rows < logs[1].tokens and logs[2].rows == logs[2].tokens
    reference = double_reference(tiny_folder)
    for row, job in enumerate(jobs):
        assert differences(stack, row, trained_alone(reference, double_model.backend.network, job, config)).max() < 1e-6


def test_labels_that_are_told_apart_from_some_tokens_alone_train_as_in_peft(double_model, tiny_folder):
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.5, batch_size=1)
    jobs = ragged_jobs(double_model.backend.network.shape.vocab)[:2]
    among = {token for job in jobs for s in job.examples for token in s.targets}
    assert len(among) < double_model.backend.network.shape.vocab / 2
    stack, _ = train(double_model.backend.network, jobs, config, vocabulary=among)
    of_all, _ = train(double_model.backend.network, jobs, config)
    reference = double_reference(tiny_folder)
    for row, job in enumerate(jobs):
        expected = trained_alone(reference, double_model.backend.network, job, config, among)
        assert differences(stack, row, expected).max() < 1e-6 and differences(of_all, row, expected).max() > 1e-3
    with pytest.raises(RuntimeError, match="out of bounds"):
        train(double_model.backend.network, jobs, config, vocabulary=among - {jobs[0].examples[0].targets[0]})


@pytest.mark.parametrize("modules", [("q_proj", "v_proj"), ("k_proj", "o_proj", "up_proj"), ("down_proj",)])
def test_any_choice_of_modules_trains_as_in_peft(double_model, tiny_folder, modules):
    config = TrainConfig(
        rank=2, alpha=4.0, modules=modules, first_layer=0.25, epochs=20, batch_size=2, steps_per_epoch=1
    )
    jobs = [Job(j.examples[:4], j.seed) for j in ragged_jobs(double_model.backend.network.shape.vocab)[:2]]
    stack, _ = train(double_model.backend.network, jobs, config)
    reference = double_reference(tiny_folder)
    for row, job in enumerate(jobs):
        assert differences(stack, row, trained_alone(reference, double_model.backend.network, job, config)).max() < 1e-6


@pytest.mark.parametrize("lengths", [[40, 9, 12, 7], [30, 6]])
def test_threads_that_share_a_step_end_where_one_thread_ends(double_model, monkeypatch, lengths):
    """The middle of a step falls inside an adapter: its gradient comes in two parts."""
    vocab = double_model.backend.network.shape.vocab
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.25, epochs=8, batch_size=4, steps_per_epoch=1)
    jobs = [Job(random_sequences(vocab, lengths, seed), seed) for seed in (1, 2, 3)]
    stacks, own = [], get_ident()
    for tokens in (10**9, 1):
        monkeypatch.setattr(train_module, "TOKENS_PER_WORKER", tokens)
        used = set()

        def backward(network, adapters, gradients, *rest, used=used):
            used.add((id(gradients), get_ident() == own))
            return _backward(network, adapters, gradients, *rest)

        monkeypatch.setattr(train_module, "_backward", backward)
        stack, logs = train(double_model.backend.network, jobs, config)
        assert len(used) == (1 if tokens > 1 else 2) and {is_own for _, is_own in used} == {tokens > 1}
        assert torch.get_num_threads() == 2
        stacks.append((stack.flat.detach(), [log.losses for log in logs], [log.tokens for log in logs]))
    (alone, losses, counts), (shared, other_losses, other_counts) = stacks
    torch.testing.assert_close(shared, alone, atol=1e-9, rtol=0)
    torch.testing.assert_close(torch.tensor(other_losses), torch.tensor(losses))
    assert other_counts == counts


def test_a_step_of_whole_sequences_is_divided_evenly(double_model):
    """An adapter has one sequence: the larger half of a step has at most one sequence more; one is not divided."""
    vocab = double_model.backend.network.shape.vocab
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.25, epochs=3, batch_size=1, steps_per_epoch=1)
    jobs = [Job(random_sequences(vocab, [length], length), length) for length in (90, 80, 70, 100)]
    jobs.append(replace(jobs[0], epochs=6, seed=7))
    shares, divided = [], train_module._shares

    def counted(*arguments):
        shares.append(divided(*arguments))
        return shares[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "_shares", counted)
        together, _ = train(double_model.backend.network, jobs, config)
    sizes = [[sum(len(s.tokens) for work in share for s in work.sequences) for share in step] for step in shares]
    assert [sorted(step) for step in sizes] == 3 * [[180, 250]] + 3 * [[90]]
    for row, job in enumerate(jobs):
        alone, _ = train(double_model.backend.network, [job], config)
        torch.testing.assert_close(together.flat[row], alone.flat[0], atol=1e-9, rtol=0)


def test_an_adapter_with_few_sequences_takes_smaller_batches(tiny_model):
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.5, epochs=1, batch_size=4, steps_per_epoch=5)
    jobs = [Job(random_sequences(tiny_model.backend.network.shape.vocab, [6] * n, n)) for n in (3, 12, 40)]
    _, logs = train(tiny_model.backend.network, jobs, config)
    assert [log.steps for log in logs] == [3, 6, 10], "batches of 1, 2 and 4"


def test_in_single_precision_all_but_a_few_weights_end_where_peft_takes_them(tiny_model, tiny_folder):
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.0, batch_size=1)
    jobs = ragged_jobs(tiny_model.backend.network.shape.vocab)[:2]
    stack, _ = train(tiny_model.backend.network, jobs, config)
    reference = reference_model(tiny_folder)
    for row, job in enumerate(jobs):
        apart = differences(stack, row, trained_alone(reference, tiny_model.backend.network, job, config))
        print(
            f"single precision, adapter {row}: largest difference {apart.max():.1e}, "
            f"above 1e-5: {(apart >= 1e-5).sum()} of {len(apart)}"
        )
        assert (apart < 1e-5).float().mean() > 0.98


def test_gradients_of_a_stack_are_those_of_peft_in_single_precision(tiny_model, tiny_folder):
    """The first gradients, from weights that are as after training, several sequences an adapter."""
    network, config = tiny_model.backend.network, TrainConfig(rank=4, alpha=8.0, first_layer=0.0)
    jobs = ragged_jobs(network.shape.vocab)
    stack = LoraBatch(network.shape, lora_config(network.shape.layers, config), len(jobs))
    stack.flat.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    runs = [_Run(i, Schedule(job, config), stack) for i, job in enumerate(jobs)]
    frozen = FrozenBelow(network, 0, (s.tokens for job in jobs for s in job.examples))
    found = Gradients(stack)
    _backward(
        network,
        stack,
        found,
        frozen,
        [Vocabulary(network)] * len(jobs),
        [_Work(r, list(j.examples[:3]), 1 / sum(s.labels for s in j.examples[:3])) for r, j in zip(runs, jobs)],
    )
    gradients = LoraBatch(network.shape, stack.config, len(jobs))
    gradients.flat.copy_(found.flat)
    reference = reference_model(tiny_folder)
    for row, job in enumerate(jobs):
        model = with_peft(reference, network, config, {k: v.detach() for k, v in stack.tensors(row).items()})
        peft_loss(model, list(job.examples[:3])).backward()
        theirs = {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.requires_grad}
        for name, ours in gradients.tensors(row).items():
            assert (ours - theirs[name]).norm() < 1e-5 * theirs[name].norm(), name
        model.unload()


def test_in_mixed_precision_every_adapter_ends_near_where_fp32_takes_it(tiny_folder):
    exact, mixed = (load_model(str(tiny_folder), device="cpu", precision=p).backend.network for p in ("fp32", "mixed"))
    jobs = ragged_jobs(exact.shape.vocab)
    (expected, logs), (found, own) = (train(network, jobs, TINY) for network in (exact, mixed))
    start = LoraBatch(exact.shape, expected.config, len(jobs))
    for i, job in enumerate(jobs):
        start.init_(i, job.seed)
    moved, off = expected.flat - start.flat, found.flat - expected.flat
    assert ((off.norm(dim=1) / moved.norm(dim=1)) < 0.1).all() and off.norm() > 0
    assert [log.losses[-1] for log in own] == pytest.approx([log.losses[-1] for log in logs], rel=0.02)


@pytest.mark.slow  # the tiny models above are compared in every run
@pytest.mark.embedded
def test_each_adapter_of_the_embedded_model_ends_where_peft_takes_it_alone(in_double, embedded_model):
    network = load_model(embedded_model.name, device="cpu", dtype=torch.float64).backend.network
    reference = double_reference(embedded_model.folder)
    texts = [
        "The archive of Tellin opens at nine on every market day.",
        "Copper from Orrin is sold in the green hall.",
        "Mara keeps the old keys.",
    ]
    sequences = tuple(TokenizedExample(tuple(embedded_model.chat.continued(text)), 1) for text in texts)
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.5, epochs=20, batch_size=1)
    jobs = [Job(sequences[:2], seed=1, learning_rate=5e-4), Job(sequences[1:], seed=2, learning_rate=1e-3)]
    stack, logs = train(network, jobs, config)
    assert [log.steps for log in logs] == [40, 40]
    for row, job in enumerate(jobs):
        difference = differences(stack, row, trained_alone(reference, network, job, config)).max()
        print(f"embedded, adapter {row}: largest difference {difference:.1e}")
        assert difference < 1e-6


def test_training_with_and_without_neighbours_is_the_same(double_model):
    jobs = ragged_jobs(double_model.backend.network.shape.vocab)
    together, logs = train(double_model.backend.network, jobs, TINY)
    for row, job in enumerate(jobs):
        alone, (log,) = train(double_model.backend.network, [job], TINY)
        assert (together.flat[row] - alone.flat[0]).abs().max() < 1e-6
        assert logs[row].losses == pytest.approx(log.losses, abs=1e-6)
        assert (logs[row].steps, logs[row].tokens) == (log.steps, log.tokens)


def test_one_seed_gives_one_adapter_and_another_seed_another(tiny_model):
    jobs = ragged_jobs(tiny_model.backend.network.shape.vocab)
    first, second = (train(tiny_model.backend.network, jobs, TINY)[0] for _ in range(2))
    assert torch.equal(first.flat, second.flat)
    reseeded, _ = train(
        tiny_model.backend.network, [Job(jobs[0].examples, seed=99, learning_rate=2e-3, epochs=9), *jobs[1:]], TINY
    )
    assert (reseeded.flat[0] - first.flat[0]).abs().max() > 0.01


def test_an_adapter_that_settled_leaves_and_the_others_go_on_as_before(double_model):
    jobs = ragged_jobs(double_model.backend.network.shape.vocab)
    easy = Job(tuple(TokenizedExample((5,) * 12, 1) for _ in range(3)), seed=5, learning_rate=1e-2, epochs=30)
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.0, epochs=10, batch_size=1, stop_loss=1.0)
    stack, logs = train(double_model.backend.network, [easy, *jobs], config)
    assert len(logs[0].losses) < 30 and logs[0].losses[-1] < 1.0 <= min(logs[0].losses[:-1])
    assert [len(log.losses) for log in logs[1:]] == [9, 7, 14, 10]
    others, _ = train(double_model.backend.network, jobs, config)
    assert (stack.flat[1:] - others.flat).abs().max() < 1e-6


def test_what_was_measured_is_what_is_kept(double_model):
    """An adapter that stops has the losses that its last epoch says: no update follows."""
    easy = Job((TokenizedExample((5,) * 12, 1),), seed=5, learning_rate=2e-2, epochs=60)
    config = TrainConfig(rank=4, alpha=8.0, batch_size=1, steps_per_epoch=1, stop_loss=1.0)
    backend = double_model.backend
    adapters, (log,) = backend.train([easy], config)
    assert 1 < len(log.losses) < 60 and log.steps == len(log.losses) - 1
    assert log.losses[-1] == pytest.approx(-backend.gold_logprobs([(easy.examples[0], 0)], adapters)[0], abs=1e-6)


def test_progress_ends_at_its_total_also_when_an_adapter_stops_early(tiny_model):
    easy = Job(tuple(TokenizedExample((5,) * 12, 1) for _ in range(3)), seed=5, learning_rate=1e-2, epochs=30)
    hard = ragged_jobs(tiny_model.backend.network.shape.vocab)[0]
    seen = []
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.0, batch_size=2, steps_per_epoch=1, stop_loss=1.0)
    _, (log, _) = train(
        tiny_model.backend.network, [easy, hard], config, on_step=lambda done, total: seen.append((done, total))
    )
    assert len(log.losses) < 30
    assert seen == sorted(seen) and seen[-1] == (3 * 30 + 5 * 9, 3 * 30 + 5 * 9)


def test_activations_computed_once_are_those_of_a_full_pass(double_model):
    """Layers below the first adapted one: the same gradients whether they are reused or run each time."""
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.5, epochs=6, batch_size=2, steps_per_epoch=1)
    jobs = ragged_jobs(double_model.backend.network.shape.vocab)[:2]
    reused, _ = train(double_model.backend.network, [Job(j.examples, j.seed) for j in jobs], config)
    recomputed = recomputing_every_layer(double_model.backend.network, [Job(j.examples, j.seed) for j in jobs], config)
    assert (reused.flat - recomputed.flat).abs().max() < 1e-6


def test_activations_that_do_not_fit_are_computed_anew(double_model, monkeypatch):
    network, config = (
        double_model.backend.network,
        TrainConfig(rank=4, alpha=8.0, first_layer=0.5, epochs=2, batch_size=2, steps_per_epoch=1),
    )
    jobs = ragged_jobs(network.shape.vocab)[:2]
    kept, _ = train(network, [Job(j.examples, j.seed) for j in jobs], config)
    sequences = sorted({s.tokens for job in jobs for s in job.examples}, key=len)
    monkeypatch.setattr(type(network), "working_bytes", sum(map(len, sequences[:3])) * network.shape.hidden * 8)
    frozen = FrozenBelow(network, 2, sequences)
    assert set(frozen.states) == set(sequences[:3]) and frozen[sequences[-1]].shape == (
        len(sequences[-1]),
        network.shape.hidden,
    )
    some, _ = train(network, [Job(j.examples, j.seed) for j in jobs], config)
    assert (kept.flat - some.flat).abs().max() < 1e-6


def test_the_states_of_recent_texts_are_not_computed_again(tiny_model, monkeypatch):
    network, computed = copy(tiny_model.backend.network), []
    run = type(network).run
    monkeypatch.setattr(
        type(network), "run", lambda self, x, *rest, **o: computed.append(len(x)) or run(self, x, *rest, **o)
    )
    texts = [tuple(range(first, first + 20)) for first in (3, 30, 60)]
    with torch.inference_mode():
        first = FrozenBelow(network, 2, texts[:2])
    again = FrozenBelow(network, 2, texts)
    assert computed == [40, 20] and all(again[text] is first[text] for text in texts[:2])
    again[texts[0]].mul(torch.ones(1, requires_grad=True)).sum().backward()  # made without gradients, usable with them
    FrozenBelow(network, 1, texts[:1]), FrozenBelow(copy(network), 2, texts[:1])  # other states
    assert computed == [40, 20, 20, 20]
    monkeypatch.setattr("selfedit.model.packed.frozen.RECENT_TOKENS", 45)
    FrozenBelow(network, 2, [texts[1]]), FrozenBelow(network, 2, [tuple(range(90, 110))])
    assert FrozenBelow(network, 2, [texts[1]])[texts[1]] is first[texts[1]]
    FrozenBelow(network, 2, texts[:1])
    assert computed == [40, 20, 20, 20, 20, 20]  # the first text was used longer ago


def recomputing_every_layer(network, jobs, config) -> LoraBatch:
    """`train`, with layers below the first adapted one run anew for every step."""
    from selfedit.model.packed import train as train_module

    class Anew:
        def __init__(self, network, first_layer, sequences, each, workers):
            self.first_layer = first_layer

        def __getitem__(self, tokens):
            attention = PackedAttention([len(tokens)])
            x = network.embed(torch.tensor(tokens))
            with torch.no_grad():
                return network.run(x, attention.positions, attention, layers=range(self.first_layer))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "FrozenBelow", Anew)
        return train(network, jobs, config)[0]


def test_going_on_with_a_stack_starts_from_its_weights(double_model):
    jobs = ragged_jobs(double_model.backend.network.shape.vocab)[:2]
    once, _ = train(double_model.backend.network, jobs, TINY)
    kept = once.flat.detach().clone()
    again, _ = train(
        double_model.backend.network,
        [Job(j.examples, j.seed, learning_rate=1e-9) for j in jobs],
        TINY,
        start=once.subset([0, 1]),
    )
    assert (again.flat - kept).abs().max() < 1e-6


def test_what_stands_in_the_prompt_is_not_trained_on(tiny_model):
    """Only labels carry loss: with a prompt of random tokens and one label, the loss is that label's alone."""
    network = tiny_model.backend.network
    tokens = random_sequences(network.shape.vocab, [20], 7)[0].tokens
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.0, epochs=1, batch_size=1)
    _, (last,) = train(network, [Job((TokenizedExample(tokens, 19),))], config)
    _, (whole,) = train(network, [Job((TokenizedExample(tokens, 1),))], config)
    attention = PackedAttention([20])
    with torch.no_grad():
        logits = network.logits(network.run(network.embed(torch.tensor(tokens)), attention.positions, attention))
    each = cross_entropy(logits[:-1], torch.tensor(tokens[1:]), reduction="none")
    assert last.losses == pytest.approx([each[-1].item()], abs=1e-5)
    assert whole.losses == pytest.approx([each.mean().item()], abs=1e-5)


# The two ways to multiply by groups, and the loss


def _one_pass(tiny_model, grouped, monkeypatch):
    """Returns outputs and gradients of one pass with unequal ranges, a gap without adapter, and nonzero B."""
    network = tiny_model.backend.network
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.0)
    stack = LoraBatch(network.shape, lora_config(network.shape.layers, config), 3)
    stack.flat.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    gradients = Gradients(stack)
    monkeypatch.setattr(stack_module, "_grouped_loop", grouped)
    linear = stack.linear(network, [TokenRange(2, 0, 9), TokenRange(0, 9, 11), TokenRange(1, 16, 30)], gradients)
    attention = PackedAttention([9, 2, 5, 14])
    tokens = random_sequences(network.shape.vocab, [30], 3)[0].tokens
    x = network.embed(torch.tensor(tokens)).clone().requires_grad_()
    logits = network.logits(network.run(x, attention.positions, attention, linear))
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    return logits.detach(), gradients.flat, x.grad, stack


def test_one_product_a_segment_is_one_padded_product_for_all(tiny_model, monkeypatch):
    logits, gradients, dx, _ = _one_pass(tiny_model, _grouped_loop, monkeypatch)
    other_logits, other_gradients, other_dx, _ = _one_pass(tiny_model, _grouped_bmm, monkeypatch)
    assert gradients.abs().amax(1).min() > 1  # every adapter has a gradient to compare
    torch.testing.assert_close(logits, other_logits, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradients, other_gradients, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(dx, other_dx, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("grouped", [_grouped_loop, _grouped_bmm])
def test_gradients_written_by_hand_are_those_of_autograd(tiny_model, grouped):
    """One site in double precision against y = x·Wᵀ + scale·(x·A)·B, differentiated by torch."""
    network = tiny_model.backend.network
    stack = LoraBatch(
        network.shape, lora_config(network.shape.layers, TrainConfig(rank=4, alpha=8.0, first_layer=0.0)), 2
    )
    generator = torch.Generator().manual_seed(0)
    stack.flat.normal_(0, 0.3, generator=generator)
    site, grads = stack.views[1, "qkv"], Gradients(stack).views[1, "qkv"]
    segments = [TokenRange(1, 0, 5), TokenRange(0, 5, 12)]
    x, dy = torch.randn(12, 64, generator=generator), torch.randn(12, 128, generator=generator)
    a, b = site.a.double().requires_grad_(), [part.double().requires_grad_() for part in site.b]
    expected_x = x.double().requires_grad_()
    rows = []
    for s in segments:
        h = expected_x[s.start : s.end] @ a[s.adapter]
        rows.append(torch.cat([h[:, j * 4 : j * 4 + 4] @ b[j][s.adapter] for j in range(3)], 1) * 2.0)
    expected = torch.cat(rows)
    (expected * dy.double()).sum().backward()

    y, dx = torch.zeros(12, 128), torch.zeros(12, 64)
    h = grouped.forward(x, y, site, segments, 2.0)
    grouped.backward(x, h, dy, dx, site, grads, segments, 2.0)
    torch.testing.assert_close(y.double(), expected.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dx.double(), expected_x.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(grads.a.double(), a.grad, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(grads.b, b):
        torch.testing.assert_close(ours.double(), theirs.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("labels", [7, 512, 700])
def test_the_head_loss_and_its_gradient_are_those_of_cross_entropy(labels):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(labels, 32, generator=generator).requires_grad_()
    head = torch.randn(50, 32, generator=generator)
    targets = torch.randint(50, (labels,), generator=generator)
    weights = torch.rand(labels, generator=generator)
    expected = cross_entropy(hidden @ head.t(), targets, reduction="none") * weights
    (gradient,) = torch.autograd.grad(expected.sum(), hidden)
    losses = HeadLoss.apply(hidden, Linear([Weight(head)]), targets[:, None], torch.ones(labels, 1), weights)
    (ours,) = torch.autograd.grad(losses.sum(), hidden)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, gradient, atol=1e-5, rtol=1e-5)


def test_what_is_studied_once_has_its_place_in_one_epoch(double_model):
    """One epoch with a share of it after the other is what a run with that share among its own sequences does."""
    own, once = ragged_jobs(double_model.backend.network.shape.vocab)[:2]
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.5, epochs=2, batch_size=1, learning_rate=0.0)
    seen = []
    _, (log,) = train(
        double_model.backend.network,
        [Job(own.examples, seed=1, once=once.examples)],
        config,
        on_step=lambda *at: seen.append(at),
    )
    _, (first,) = train(
        double_model.backend.network, [Job(own.examples + once.examples[:3], seed=1)], replace(config, epochs=1)
    )
    _, (second,) = train(
        double_model.backend.network, [Job(own.examples + once.examples[3:], seed=2)], replace(config, epochs=1)
    )
    assert log.losses == pytest.approx(
        [first.losses[0], second.losses[0]], abs=1e-9
    )  # at rate 0 the order does not matter
    assert log.steps == 2 * 5 + 7 and log.tokens == first.tokens + second.tokens and seen[-1] == (17, 17)


def test_with_all_of_it_once_an_epoch_is_a_longer_list(double_model):
    own, once = ragged_jobs(double_model.backend.network.shape.vocab)[:2]
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.5, epochs=1, batch_size=2, steps_per_epoch=1)
    stack, _ = train(double_model.backend.network, [Job(own.examples, seed=1, once=once.examples)], config)
    listed, _ = train(double_model.backend.network, [Job(own.examples + once.examples, seed=1)], config)
    assert torch.equal(stack.flat, listed.flat)


def test_an_answer_that_is_known_is_studied_once_in_the_next_epoch_and_the_rate_still_falls_to_0():
    known, unknown = (tuple(TokenizedExample((1, cue, answer), 2) for cue in range(6)) for answer in (7, 8))
    job = Job((TokenizedExample((1, 2, 3), 1),), once=tuple(e for pair in zip(known, unknown) for e in pair))
    schedule = Schedule(job, TrainConfig(epochs=3, batch_size=1, steps_per_epoch=1, learning_rate=1.0, known_loss=0.2))
    rates = []
    for epoch, later in enumerate((10, 5, 0)):
        batches = schedule.batches(epoch)
        targets = [example.targets for batch in batches for example in batch]
        counts = (len(targets) - targets.count([7]) - targets.count([8]), targets.count([8]), targets.count([7]))
        assert (counts, schedule.left_after(epoch)) == ((1, 2, 1) if epoch else (1, 2, 2), later)
        for batch in batches:
            rates.append(schedule.next_rate())
            for example in batch:
                schedule.study(example, 0.1 if example.targets == [7] else 0.9)
    assert rates[0] == 1.0 and rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1 / (3 * 4))  # the last of four steps of the last of three epochs
