"""Consolidation of many memories in one adapter: its training data, its members, and its failures, on a tiny model."""

from dataclasses import asdict, replace

import pytest
import torch
from conftest import ask

from selfedit.config import ConsolidateConfig, TrainConfig
from selfedit.errors import MemoryStoreError
from selfedit.memory import consolidate as module
from selfedit.memory.consolidate import _left_out, _rehearsal, consolidate
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import LoraConfig, Request
from selfedit.model.packed.lora import LoraBatch, TokenRange
from selfedit.model.packed.network import PackedAttention
from selfedit.types import Example, Passage, Question, Score, SelfEdit

CONFIG = ConsolidateConfig(
    max_general_change=50.0,
    max_general_lost=1.0,
    train=TrainConfig(rank=2, alpha=4.0, first_layer=0.5, epochs=2, batch_size=2, steps_per_epoch=1),
)
TOWNS = ["Marlow", "Vellmar", "Orsk"]


@pytest.fixture
def store(tiny_model, tmp_path) -> MemoryStore:
    """A memory of each town, two questions each, both answered right when it was kept."""
    return filled(tiny_model, tmp_path / "home", TOWNS)


def filled(tiny_model, home, towns) -> MemoryStore:
    store = MemoryStore(home)
    for town in towns:
        i = TOWNS.index(town)
        passage = Passage(
            town,
            f"The bridge of {town} was built in {1900 + i}. Its keeper rings a bell.",
            f"/docs/{town}.txt",
            "5" * 64,
        )
        drawn = tuple(Example(passage.text, f"bridge {k}?", once=True) for k in range(6))
        asked = [
            Question(f"When was the bridge of {town} built?", (str(1900 + i),)),
            Question(f"Who rings in {town}?", ("its keeper",)),
        ]
        store.add(
            lambda folder: LoraBatch(tiny_model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj",), (3,)), 1).save(
                0, folder, "tiny"
            ),
            model="tiny",
            model_hash=tiny_model.fingerprint,
            passage=passage,
            edits=[SelfEdit("questions", "", drawn)],
            scores={"questions": [asdict(q) for q in asked], "after": {"correct": [True, True]}},
        )
    return store


def verdicts(monkeypatch, *correct: bool) -> None:
    def evaluate_groups(model, groups, *_, **options):
        left = iter(correct)
        parts = [tuple(next(left) for _ in group.questions) for group in groups]
        return [[Score(0.0, -1.0, part, (-1.0,) * len(part))] for part in parts]

    monkeypatch.setattr(module, "evaluate_groups", evaluate_groups)


def test_those_that_hold_share_it_and_the_others_stay_apart(store, tiny_model, monkeypatch):
    verdicts(monkeypatch, True, True, True, False, True, True)
    report = consolidate(tiny_model, store, store.active(), CONFIG)
    first, second, third = store.active_ids()
    assert store.history()[-1]["adapters"] == {first: report.shared, third: report.shared}
    assert [(one.memory, one.right_then, one.right_now, one.holds) for one in report.rehearsed] == [
        (first, 2, 2, True),
        (second, 2, 1, False),
        (third, 2, 2, True),
    ]
    assert report.reason == "2 of 3 memories hold and share it"
    questions = [q for entry in store.active() for q in entry.questions]
    answered = ask(tiny_model, store, questions, max_new_tokens=3)
    assert {a.memory.id for a in answered} == {first, second, third}
    shared = tiny_model.backend.load([store.answering_path(first)])
    own = tiny_model.backend.load([store.adapter_path(second)])
    for answer, question in zip(answered, questions):
        prompt = tuple(tiny_model.chat.prompt(question))
        (tokens,) = tiny_model.backend.generate([Request(prompt, 0, 3)], own if answer.memory.id == second else shared)
        assert answer.answer == tiny_model.chat.decode(tokens).strip()


def test_what_does_not_hold_or_moves_behaviour_too_far_is_not_shared(store, tiny_model, monkeypatch):
    verdicts(monkeypatch, True, True, *[False] * 4)
    report = consolidate(tiny_model, store, store.active(), CONFIG)
    assert report.shared is None and report.reason == "1 of 3 memories hold; two at least are needed"
    verdicts(monkeypatch, *[True] * 6)
    report = consolidate(tiny_model, store, store.active(), replace(CONFIG, max_general_change=0.0))
    assert report.shared is None and "changes general behaviour by" in report.reason
    monkeypatch.setattr(module, "general_harm", lambda model, stack: ([0.6], [0.9 - 0.7]))
    report = consolidate(tiny_model, store, store.active(), replace(CONFIG, max_general_lost=0.15))
    assert report.shared is None and report.reason == "ends 20% fewer everyday sentences right, over 15%"
    assert store.history()[-1]["action"] == "keep" and not any(map(store.shared_adapter, store.active_ids()))


def test_the_judging_questions_are_asked_under_the_new_adapter(store, tiny_model):
    report = consolidate(tiny_model, store, store.active(), replace(CONFIG, max_lost=1.0))
    assert report.shared and all(one.questions == 2 and 0 <= one.right_now <= 2 for one in report.rehearsed)
    assert (
        consolidate(tiny_model, store, store.active(), replace(CONFIG, max_lost=1.0)).shared == report.shared
    )  # the same again


@torch.inference_mode()
def logits(model, store: MemoryStore, town: str) -> torch.Tensor:
    """Of a question about the town, under what answers for its memory."""
    (id,) = store.find(f"{town}.txt")
    tokens = model.chat.prompt(store.get(id).questions[0])
    linear = model.backend.load([store.answering_path(id)]).linear(
        model.backend.network, [TokenRange(0, 0, len(tokens))]
    )
    packed = PackedAttention([len(tokens)])
    return model.backend.network.logits(
        model.backend.network.run(model.backend.network.embed(torch.tensor(tokens)), packed.positions, packed, linear)
    )


@pytest.mark.parametrize("shares", [True, False], ids=["one that shares", "one that was only rehearsed"])
def test_after_forgetting_everything_is_as_in_a_store_that_never_learned_it(
    store, tiny_model, tmp_path, monkeypatch, shares
):
    def all_hold(store, but=()):
        verdicts(monkeypatch, *(e.passage.title not in but for e in store.active() for _ in e.questions))
        return consolidate(tiny_model, store, store.active(), CONFIG)

    forgotten, *towns = TOWNS
    never = filled(tiny_model, tmp_path / "never", towns)
    with_it = all_hold(store, but=() if shares else [forgotten])
    together = [logits(tiny_model, store, town) for town in towns]
    store.forget(f"{forgotten}.txt")
    assert with_it.shared and not any(map(store.shared_adapter, store.active_ids()))
    apart = [logits(tiny_model, store, town) for town in towns]
    assert all(map(torch.equal, apart, [logits(tiny_model, never, town) for town in towns]))
    assert all_hold(store).shared == all_hold(never).shared
    again = [logits(tiny_model, store, town) for town in towns]
    assert all(map(torch.equal, again, [logits(tiny_model, never, town) for town in towns]))
    assert not any(map(torch.equal, again, together)) and not any(map(torch.equal, again, apart))
    questions = [q for entry in never.active() for q in entry.questions] + [
        Question("When was the bridge of Marlow built?", ())
    ]
    assert [a.record() for a in ask(tiny_model, store, questions, max_new_tokens=3)] == [
        a.record() for a in ask(tiny_model, never, questions, max_new_tokens=3)
    ]


def test_everything_is_rehearsed_and_what_was_drawn_once_has_a_share_in_every_epoch(store, tiny_model):
    entries = store.active()
    job = _rehearsal(tiny_model, store, entries, CONFIG.seed)
    assert (len(job.examples), len(job.once)) == (3, 3 * 6)  # the passages; six questions about the sentences of each
    (first, second) = job.once[:9], job.once[9:]
    for entry in entries:
        own = {tiny_model.chat.study(e).tokens for edit in store.edits(entry.id) for e in edit.examples}
        assert [sum(s.tokens in own for s in half) for half in (first, second)] == [3, 3]


def test_what_cannot_share_an_adapter_is_left_out_and_said(store, tiny_model):
    first, second, *_ = store.active()
    tagged = [replace(e, passage=replace(e.passage, library=f"gate@{i}.0")) for i, e in enumerate((first, second), 1)]
    with pytest.raises(MemoryStoreError, match=f"{first.id} is left out: a newer version than gate@1.0"):
        consolidate(tiny_model, store, tagged, CONFIG)
    recites = {"scores": first.scores | {"share_recited": 1.0}}
    same = [replace(first, **recites), replace(second, passage=replace(first.passage, text="Other."), **recites)]
    assert all(entry.recites for entry in same) and [*_left_out(same)] == [second.id]


def test_one_memory_is_too_few(store, tiny_model):
    with pytest.raises(MemoryStoreError, match="at least two memories"):
        consolidate(tiny_model, store, store.active()[:1], CONFIG)
