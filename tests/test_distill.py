from dataclasses import replace

import pytest
import torch
from test_score import label_logprobs, sequences
from torch.nn.functional import kl_div

from selfedit.config import TrainConfig
from selfedit.errors import SelfeditError
from selfedit.loop.trial import study_sequences
from selfedit.model.backend import Job
from selfedit.model.chat import TokenizedExample
from selfedit.model.packed.distill import WIDTH, soften
from selfedit.model.packed.network import Linear
from selfedit.model.packed.quantized import Weight
from selfedit.model.packed.train import HeadLoss, train
from selfedit.types import Example, Passage


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_soft_labels_are_the_right_token_and_the_odds_of_transformers_on_the_seen_text(
    tiny_model, tiny_reference, share
):
    studied = sequences(tiny_model.backend.network.shape.vocab)
    view = (5, 9, 11, 30, 7)
    studied = [replace(s, teacher_prompt=(*view, *s.tokens[: s.label_start]), distill=share) for s in studied]
    for sequence, own in zip(studied, soften(tiny_model.backend.network, studied)):
        teacher = TokenizedExample((*view, *sequence.tokens), len(view) + sequence.label_start)
        right = torch.tensor(sequence.tokens[sequence.label_start :])
        mixed = label_logprobs(tiny_reference, teacher).exp() * share
        mixed[torch.arange(len(right)), right] += 1 - share
        odds, _ = mixed.topk(WIDTH, 1)
        torch.testing.assert_close(own.soft.odds, odds / odds.sum(1, keepdim=True), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mixed.gather(1, own.soft.tokens), odds, atol=1e-5, rtol=1e-4)
        assert own == sequence, "soft labels do not change what is studied"


@pytest.mark.parametrize("labels", [7, 300])
def test_the_head_loss_of_soft_labels_and_its_gradient_are_those_of_the_divergence(labels):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(labels, 32, generator=generator).requires_grad_()
    head = torch.randn(50, 32, generator=generator)
    weights = torch.rand(labels, generator=generator)
    target = torch.rand(labels, 50, generator=generator).topk(4, 1)
    odds = target.values / target.values.sum(1, keepdim=True)
    odds[0] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # a hard label among them
    full = torch.zeros(labels, 50).scatter_(1, target.indices, odds)
    expected = kl_div((hidden @ head.t()).log_softmax(1), full, reduction="none").sum(1) * weights
    (gradient,) = torch.autograd.grad(expected.sum(), hidden)
    losses = HeadLoss.apply(hidden, Linear([Weight(head)]), target.indices, odds, weights)
    (ours,) = torch.autograd.grad(losses.sum(), hidden)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, gradient, atol=1e-5, rtol=1e-5)


def test_a_model_has_nothing_to_learn_from_its_own_odds(tiny_model):
    studied = sequences(tiny_model.backend.network.shape.vocab)
    config = TrainConfig(rank=4, alpha=8.0, first_layer=0.5, epochs=1, batch_size=8, steps_per_epoch=1)
    taught = [replace(s, teacher_prompt=s.tokens[: s.label_start], distill=1.0) for s in studied]
    soft = soften(tiny_model.backend.network, taught)
    _, (hard_log, soft_log) = train(tiny_model.backend.network, [Job(tuple(studied)), Job(tuple(soft))], config)
    assert soft_log.losses[0] < 0.3 * hard_log.losses[0]  # not 0: a soft label keeps the likeliest tokens only


def test_only_answers_have_a_teacher_and_it_sees_the_passage(tiny_model):
    passage = Passage("The river", "The river rises in the hills.", "", "")
    text, asked = Example("The river rises."), Example("in the hills", prompt="Where?")
    plain = study_sequences(tiny_model, passage, [text, asked])
    assert [s.teacher_prompt for s in plain] == [(), ()]
    taught = study_sequences(tiny_model, passage, [text, asked], distill=0.5)
    assert [replace(s, teacher_prompt=(), distill=0.0) for s in taught] == list(plain) and not taught[0].teacher_prompt
    seen = tiny_model.chat.study(Example("in the hills", prompt="The river\n\nThe river rises in the hills.\n\nWhere?"))
    assert taught[1].teacher == seen
    soft = soften(tiny_model.backend.network, taught)
    assert soft[0].soft is None and soft[1].soft.tokens.shape == (seen.labels, WIDTH)


def test_a_share_is_at_most_one():
    with pytest.raises(SelfeditError, match="give a number from 0 to 1"):
        TrainConfig(distill=1.5)
