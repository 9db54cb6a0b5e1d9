import copy

import pytest
import torch
from test_stack import ALL, random_stack

from selfedit.config import ALL_LINEAR
from selfedit.judge.general import (
    LITTLE_CHANGE,
    general_abilities,
    general_changes,
    general_harm,
    general_texts,
    grade_choices,
)
from selfedit.model.backend import LoraConfig
from selfedit.model.chat import TokenizedExample
from selfedit.model.packed import packing, score
from selfedit.model.packed.lora import LoraBatch
from selfedit.model.packed.score import divergences, gold_logprobs
from selfedit.model.peft_folder import export_adapter
from selfedit.types import Question


def sequences(vocab: int, shapes=((12, 1), (30, 9), (5, 4), (18, 17), (44, 2))) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(2)
    return [
        TokenizedExample(tuple(torch.randint(vocab, (n,), generator=generator).tolist()), start) for n, start in shapes
    ]


@torch.inference_mode()
def label_logprobs(reference, sequence: TokenizedExample) -> torch.Tensor:
    """Log-probabilities [labels, vocab] that transformers gives where labels are predicted."""
    logits = reference(torch.tensor([sequence.tokens])).logits[0]
    return logits[[place - 1 for place in sequence.label_positions]].log_softmax(1)


def by_hand(reference, sequence: TokenizedExample) -> float:
    targets = torch.tensor(sequence.targets)
    return label_logprobs(reference, sequence).gather(1, targets[:, None]).mean().item()


@pytest.fixture
def adapted(tiny_model, tiny_reference, tmp_path):
    """Two adapters, and `transformers` with each of them through `peft`."""
    from peft import PeftModel

    stack = random_stack(tiny_model)
    references = []
    for i in range(2):
        stack.save(i, tmp_path / f"kept{i}", "tiny", small=True)
        export_adapter(tmp_path / f"kept{i}", tmp_path / str(i))
        references.append(PeftModel.from_pretrained(copy.deepcopy(tiny_reference), tmp_path / str(i)).eval())
    return stack, references


def test_the_mean_logprob_of_the_labels_is_the_one_worked_out_by_hand(tiny_model, tiny_reference):
    items = sequences(tiny_model.backend.network.shape.vocab)
    items.append(TokenizedExample(items[1].tokens, 4, chosen=(4, 5, 11, 28)))  # labels here and there
    assert items[-1].labels == 4 and items[-1].targets == [items[1].tokens[i] for i in (4, 5, 11, 28)]
    scores = gold_logprobs(tiny_model.backend.network, [(s, None) for s in items])
    assert scores == pytest.approx([by_hand(tiny_reference, s) for s in items], abs=1e-4)
    assert max(scores) < -1


def test_labels_are_told_apart_from_some_tokens_alone(tiny_model, tiny_reference, adapted):
    stack, references = adapted
    items = [(s, adapter) for s in sequences(tiny_model.backend.network.shape.vocab) for adapter in (None, 1)]
    among = {token for s, _ in items for token in s.targets}
    expected = []
    for s, adapter in items:
        odds = label_logprobs(references[1] if adapter else tiny_reference, s)
        own = odds[range(s.labels), s.targets] - odds[:, sorted(among)].logsumexp(1)
        expected.append(own.mean().item())
    assert gold_logprobs(tiny_model.backend.network, items, stack, vocabulary=among) == pytest.approx(
        expected, abs=1e-4
    )
    assert len(among) < tiny_model.backend.network.shape.vocab and max(expected) > max(
        gold_logprobs(tiny_model.backend.network, items, stack)
    )


def test_adapters_and_the_untouched_model_are_scored_side_by_side(tiny_model, tiny_reference, adapted):
    stack, references = adapted
    under = {None: tiny_reference, 0: references[0], 1: references[1]}
    items = [(s, adapter) for s in sequences(tiny_model.backend.network.shape.vocab) for adapter in (1, None, 0)]
    expected = [by_hand(under[adapter], s) for s, adapter in items]
    assert gold_logprobs(tiny_model.backend.network, items, stack) == pytest.approx(expected, abs=1e-4)
    assert abs(expected[0] - expected[1]) > 0.01


def test_layers_below_the_adapters_run_once_for_all_who_are_asked_the_same(tiny_model, monkeypatch):
    """The fast path, one call for all, is the reference, one call each, in which every layer runs."""
    stack = LoraBatch(tiny_model.backend.network.shape, LoraConfig(2, 4.0, ALL_LINEAR, (2, 3)), 3)
    stack.flat.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    own = sequences(tiny_model.backend.network.shape.vocab)
    items = [(s, adapter) for s in own for adapter in (None, 0, 1, 2)]
    each = [gold_logprobs(tiny_model.backend.network, [item], stack)[0] for item in items]
    ran = []
    run = type(tiny_model.backend.network).run
    monkeypatch.setattr(
        type(tiny_model.backend.network),
        "run",
        lambda self, x, *rest, **named: ran.append(len(x)) or run(self, x, *rest, **named),
    )
    assert gold_logprobs(tiny_model.backend.network, items, stack) == pytest.approx(each, abs=1e-5)
    tokens = sum(len(s.tokens) for s in own)
    assert ran[0] == tokens and sum(ran) <= 5 * tokens  # below once, above for each of the four


def test_scores_do_not_depend_on_how_much_goes_into_a_pass(tiny_model, adapted, monkeypatch):
    stack, _ = adapted
    items = [(s, i % 2) for i, s in enumerate(sequences(tiny_model.backend.network.shape.vocab))]
    whole = (
        gold_logprobs(tiny_model.backend.network, items, stack),
        divergences(tiny_model.backend.network, [s for s, _ in items], stack),
    )
    monkeypatch.setattr(packing, "TOKENS_PER_PASS", 20)
    monkeypatch.setattr(score, "LABELS_PER_PASS", 3)
    parts = (
        gold_logprobs(tiny_model.backend.network, items, stack),
        divergences(tiny_model.backend.network, [s for s, _ in items], stack),
    )
    assert parts[0] == pytest.approx(whole[0], abs=1e-5) and parts[1] == pytest.approx(whole[1], abs=1e-5)


def test_answers_to_a_long_prompt_read_it_once_an_adapter_and_are_scored_as_alone(tiny_model, adapted, monkeypatch):
    stack, _ = adapted
    prompt, *answers = (
        s.tokens for s in sequences(tiny_model.backend.network.shape.vocab, [(200, 1), *[(n, 1) for n in range(3, 19)]])
    )
    items = [(TokenizedExample((*prompt, *answer), 200), i % 2) for i, answer in enumerate(answers)]
    each = [gold_logprobs(tiny_model.backend.network, [item], stack)[0] for item in items]
    ran = []
    run = type(tiny_model.backend.network).run
    monkeypatch.setattr(
        type(tiny_model.backend.network),
        "run",
        lambda self, x, *rest, **named: ran.append(len(x)) or run(self, x, *rest, **named),
    )
    monkeypatch.setattr(packing, "TOKENS_PER_PASS", 150)
    assert gold_logprobs(tiny_model.backend.network, items, stack) == pytest.approx(each, abs=1e-5)
    assert ran == [
        199 + sum(len(answer) + 1 for answer in answers[i::2]) for i in (0, 1)
    ]  # the row that predicts a first label is each one's own


def test_a_pass_counts_what_is_laid_with_its_own_first(monkeypatch):
    def passes(order, own, owners):
        return list(packing.passes(order, [len(s.tokens) for s in own], packing.sharing(own, owners)))

    monkeypatch.setattr(packing, "TOKENS_PER_PASS", 100)
    asked = [TokenizedExample((*range(80), 100 + i, 200 + i), 81) for i in range(6)]
    other = [TokenizedExample((*range(300, 380), 100 + i), 81) for i in range(2)]
    texts = [TokenizedExample(tuple(range(82)), 1) for _ in range(2)]
    assert passes(range(6), asked, "aaaaaa") == [[0, 1, 2, 3, 4, 5]]
    assert passes(range(6), asked, "aaabbb") == [[0, 1, 2], [3, 4, 5]]
    assert passes([0, 6, 1, 7], asked + other, "aaaaaaaa") == [[0], [6], [1], [7]]
    assert passes(range(2), texts, "aa") == [[0], [1]]
    many = [asked[0]] * 100
    sizes = [len(part) for part in passes(range(100), many, "a" * 100)]
    assert sizes == [27, 27, 27, 19]  # 82, and 3 + 9 for each other, of 400


def test_nothing_to_score_is_nothing_scored(tiny_model):
    assert gold_logprobs(tiny_model.backend.network, []) == []


def test_an_untrained_adapter_diverges_by_nothing(tiny_model):
    stack = LoraBatch(tiny_model.backend.network.shape, ALL, 2)
    stack.init_(0, 1)
    stack.init_(1, 2)
    assert divergences(
        tiny_model.backend.network, sequences(tiny_model.backend.network.shape.vocab), stack
    ) == pytest.approx([0, 0], abs=1e-6)


def test_divergence_is_the_mean_kl_of_the_labels_worked_out_by_hand(tiny_model, tiny_reference, adapted):
    stack, references = adapted
    items = sequences(tiny_model.backend.network.shape.vocab)
    before = torch.cat([label_logprobs(tiny_reference, s) for s in items])
    expected = []
    for reference in references:
        after = torch.cat([label_logprobs(reference, s) for s in items])
        expected.append((before.exp() * (before - after)).sum(1).mean().item())
    assert min(expected) > 0.01 and abs(expected[0] - expected[1]) > 1e-3
    assert divergences(tiny_model.backend.network, items, stack) == pytest.approx(expected, abs=1e-4)


def test_the_choice_is_the_likeliest_ending_and_abilities_are_shares_of_right_ones(tiny_model):
    stack = LoraBatch(tiny_model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj", "down_proj"), (2, 3)), 2)
    stack.flat[1].normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    items = [
        {"query": "The river rises in the", "choices": ["hills", "sea and the hills", "x"], "gold": gold}
        for gold in range(3)
    ]
    values = gold_logprobs(
        tiny_model.backend.network,
        [(tiny_model.chat.gold(Question(items[0]["query"], (), kind="choice"), c), None) for c in items[0]["choices"]],
    )
    assert grade_choices(tiny_model, [(item, None) for item in items]) == [
        gold == values.index(max(values)) for gold in range(3)
    ]
    untouched, same, other = general_abilities(tiny_model, stack)
    assert untouched == same and 0 <= other <= 1  # the first adapter changes nothing


def test_an_adapter_that_changes_little_is_tested_on_a_third_of_the_texts_and_another_one_in_full(tiny_model):
    config = LoraConfig(2, 4.0, ("q_proj", "down_proj"), (2, 3))
    stack = LoraBatch(tiny_model.backend.network.shape, config, 2)
    stack.flat.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    stack.flat *= torch.tensor([0.1, 2.0])[:, None]
    little, much = general_changes(tiny_model, stack)
    assert little < LITTLE_CHANGE < much
    untouched, _, ability = general_abilities(tiny_model, stack)
    changes, lost = general_harm(tiny_model, stack)
    assert changes[1] == pytest.approx(much) and lost == [None, pytest.approx(untouched - ability)]
    third = tiny_model.backend.divergences(general_texts(tiny_model)[::3], stack.subset([0]))
    assert changes[0] == pytest.approx(third[0]) != little
