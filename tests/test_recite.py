"""Memories that recite: what is studied, what the gate asks of them, and how questions are answered from them."""

from dataclasses import asdict, replace

import pytest
import torch
from conftest import ask

from selfedit.answers.answerer import AUTO, BOTH, TEXT, WEIGHTS, Answer, Answerer, Ask
from selfedit.answers.why import why
from selfedit.config import ConsolidateConfig, GateConfig, LearnConfig, TrainConfig
from selfedit.disk import file_hash
from selfedit.edits.quiz import with_passages
from selfedit.edits.recitation import recite, share_recited, to_recite
from selfedit.learn import learn
from selfedit.loop.trial import Candidate, Study, job, run_trials, study_examples, study_sequences
from selfedit.memory.consolidate import consolidate
from selfedit.memory.gate import decide
from selfedit.memory.store import MemoryStore
from selfedit.model.load import Model
from selfedit.retest import retest
from selfedit.types import Example, MemoryEntry, Passage, Question, Score, SelfEdit, Trial, stable_seed

GATE = Passage("Quill", "The gate of Orsk is red. Its keeper rings a bell.", "/q.md", "a" * 64)
BRIDGE = Passage("Quill", "The bridge of Marlow has nine arches and a toll house.", "/q.md", "a" * 64, index=1)
LOUD = TrainConfig(
    rank=16,
    alpha=64.0,
    first_layer=0.0,
    learning_rate=1e-2,
    epochs=200,
    batch_size=1,
    steps_per_epoch=1,
    stop_loss=0.02,
)
ANY = GateConfig(max_general_change=1e9, max_general_lost=1.0, max_captured=1.0)
CONFIG = LearnConfig(recitation=LOUD, gate=ANY)
RED = Question("What colour is the gate of Orsk?", ("red",))


@pytest.fixture(scope="module")
def learned(tiny_model, tmp_path_factory) -> MemoryStore:
    """Two passages under one title that the tiny model can recite."""
    store = MemoryStore(tmp_path_factory.mktemp("recite"))
    report = learn(tiny_model, [GATE, BRIDGE], store, CONFIG)
    assert [one.reason[:27] for one in report.reports] == ["recites 100% of the text (+"] * 2
    return store


def test_what_is_studied_is_the_passage_as_the_answer_to_a_request_for_this_part():
    assert to_recite(BRIDGE) == Example(BRIDGE.text, "What does “Quill” say, part 2?")
    assert replace(GATE, title="").request == "What does the text say, part 1?"
    more = Example("Orsk has a red gate.")
    assert study_examples(GATE, [SelfEdit("paraphrase", "", (more,))], True) == [
        to_recite(GATE),
        replace(more, prompt="What does “Quill” say?"),
    ]


def test_the_share_that_is_recited_counts_words_in_their_order():
    assert share_recited(GATE, GATE) == 1.0
    assert share_recited(GATE, replace(GATE, text="The gate of Orsk is blue. Its keeper rings a bell.")) == 10 / 11
    assert share_recited(GATE, replace(GATE, text=" ".join(reversed(GATE.text.split())))) < 0.2
    assert share_recited(GATE, replace(GATE, text="")) == 0.0
    chinese = replace(GATE, text="奥尔斯克的大门是红色的。守门人敲钟。")  # a script without spaces
    assert share_recited(chinese, replace(chinese, text="奥尔斯克的大门是绿色的。守门人敲钟。")) == 17 / 18


def test_only_what_is_recited_otherwise_is_asked_again(tiny_model, monkeypatch):
    wrong = Question("What colour is the gate of Orsk?", ("blue",))
    studies = [Study(passage, [Candidate("passage")], [wrong]) for passage in (GATE, BRIDGE)]
    said = {GATE: replace(GATE, text=f"{GATE.text} And so on."), BRIDGE: BRIDGE}
    monkeypatch.setattr("selfedit.loop.trial.recite", lambda _, passages, *rest, **options: [said[p] for p in passages])
    _, results = run_trials(tiny_model, studies, replace(LOUD, epochs=1), recites=True)
    assert [trial.score.correct for (trial,), _ in results] == [(False,), (True,)]


def test_only_what_is_not_recited_word_for_word_is_studied_on(tiny_model):
    studies, config = [Study(p, [Candidate("passage")], []) for p in (GATE, BRIDGE)], replace(LOUD, epochs=12, rivals=1)
    jobs = []
    for passage in (GATE, BRIDGE):
        examples = study_examples(passage, recites=True)
        seed = stable_seed(0, passage.id, "passage")
        jobs.append(job(study_sequences(tiny_model, passage, examples), examples, seed))
    first, logs = tiny_model.backend.train(jobs, config)
    first = first.as_stored()
    gate, bridge = recite(tiny_model, [GATE, BRIDGE], [0, 1], first)
    assert share_recited(GATE, gate) < 1.0 and bridge.text == BRIDGE.text
    adapters, [([gate_trial], _), ([bridge_trial], _)] = run_trials(tiny_model, studies, config, recites=True)
    assert gate_trial.share_recited == bridge_trial.share_recited == 1.0
    assert gate_trial.recited.text == GATE.text and gate_trial.tokens > logs[0].tokens
    assert bridge_trial.tokens == logs[1].tokens
    assert all(map(torch.equal, adapters.tensors(1).values(), first.tensors(1).values()))
    assert not all(map(torch.equal, adapters.tensors(0).values(), first.tensors(0).values()))
    assert recite(tiny_model, [GATE], [0], adapters)[0].text == GATE.text  # the adapter is the one that says so


def test_a_model_recites_with_its_own_rate_or_studies_questions():
    recites, studies = LearnConfig().for_rate(5e-4), LearnConfig(recite=False).for_rate(3e-3)
    assert recites.train == replace(LearnConfig().recitation, learning_rate=5e-4)
    assert (recites.styles, recites.spans, recites.questions_per_sentence) == ((), 0, 0)
    assert studies == replace(LearnConfig(), recite=False, train=replace(LearnConfig().train, learning_rate=3e-3))


@pytest.mark.parametrize(
    ("recited", "gain", "correct", "reason"),
    [
        (1.0, 3.0, (True, False), ""),
        (1.0, 3.0, (), ""),
        (0.8, 3.0, (True, True), "recites 80% of the text, needs 90%"),
        (1.0, 0.1, (True, True), "the text was known: the untouched model says it at -0.10 nats per token"),
        (1.0, 3.0, (False, False), "answers none of 2 questions"),
    ],
)
def test_the_gate_asks_that_the_text_is_recited_was_not_known_and_answers_something(recited, gain, correct, reason):
    before = Score(0.0 if correct else None, -gain, (False,) * len(correct))
    after = Score(sum(correct) / len(correct) if correct else None, 0.0, correct)
    trial = Trial("passage", (), after, 0.2, 10, 1.0, None, GATE, recited)
    (decided,), best = decide([trial], before, GateConfig())
    assert (best == 0) is (reason == "")
    answers = f"answers {sum(correct)} of {len(correct)} right, 0 before"
    assert decided.reason == (reason or f"recites 100% of the text (+3.00 nats per token); {answers}")
    (harmful,), best = decide([replace(trial, general_change=9.0, share_recited=1.0)], before, GateConfig())
    assert best is None and (reason or "changes general behaviour" in harmful.reason)


def test_learned_passages_are_recited_word_for_word(learned, tiny_model):
    entries = learned.active()
    assert [entry.recites for entry in entries] == [True, True] and entries[0].record()["share_recited"] == 1.0
    adapters = tiny_model.backend.load([learned.reciting_path(entry.id) for entry in entries])
    assert [p.text for p in recite(tiny_model, [GATE, BRIDGE], [0, 1], adapters)] == [GATE.text, BRIDGE.text]
    swapped = recite(tiny_model, [GATE, BRIDGE], [1, 0], adapters)
    assert swapped[0].text != GATE.text  # it says what its weights say, whatever the draft is


def test_from_the_weights_means_from_what_is_recited_without_a_look_at_the_text(learned, tiny_model, monkeypatch):
    (answer,) = ask(tiny_model, learned, [RED])
    assert answer.arm == WEIGHTS and answer.memory.passage.id == GATE.id and answer.recited[0].text == GATE.text
    assert answer.taken.quoted and answer.answer == "The gate of Orsk is red."  # the tiny model does not read well
    reasons = why(learned, RED.question, answer)
    assert "recited its passage from the weights" in reasons["why"] and reasons["recited"] == GATE.text
    said = replace(GATE, text="The gate of Orsk is green.", units=())
    monkeypatch.setattr("selfedit.answers.answerer.recite", lambda *_, **options: [said])
    (other,) = ask(tiny_model, learned, [RED])
    assert other.recited == (said,) and other.taken.support.passage == said and other.memory.passage.id == GATE.id


def test_a_passage_is_recited_once_for_many_questions(learned, tiny_model, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "selfedit.answers.answerer.recite",
        lambda model, passages, *_, **options: calls.append([p.id for p in passages]) or list(passages),
    )
    answerer = Answerer(tiny_model, learned)
    both = [Ask(RED, WEIGHTS), Ask(Question("How many arches has the bridge of Marlow?", ("nine",)), WEIGHTS)]
    answerer.answer(both)
    answerer.answer(both)
    assert [sorted(ids) for ids in calls] == [sorted([GATE.id, BRIDGE.id])]


def test_a_retest_counts_the_memory_that_the_router_chose_whatever_another_one_recited(tiny_model, monkeypatch):
    gate = MemoryEntry("gate", "tiny", "", "c" * 64, "", 1, GATE, {"questions": [asdict(RED)], "share_recited": 1.0})
    bridge = replace(gate, id="bridge", passage=BRIDGE)
    answer = Answer("red", WEIGHTS, bridge, gate, 0.9)  # the bridge's recitation supports it
    monkeypatch.setattr(Answerer, "answer", lambda *_, **options: [answer])
    (one,) = retest(tiny_model, None, [gate])
    assert (one.questions, one.right_now, one.routed, one.failed) == (1, 1, 1, 0)
    broken = Answer("", "", None, None, 0.0, error="memory gate is corrupt")
    monkeypatch.setattr(Answerer, "answer", lambda *_, **options: [broken])
    (one,) = retest(tiny_model, None, [gate])
    assert (one.questions, one.right_now, one.routed, one.failed) == (1, 0, 0, 1)


def test_why_names_the_adapter_that_recited_whichever_memory_fits_best_by_words(learned):
    gate, bridge = learned.active()
    reasons = why(learned, RED.question, Answer("nine", WEIGHTS, bridge, gate, 0.9, recited=(BRIDGE,)))
    assert reasons["adapter_hash"] == file_hash(learned.reciting_path(bridge.id) / "adapter_model.safetensors")


def test_settings_that_reciting_leaves_out_are_named(tiny_model, tmp_path):
    said = []
    learn(tiny_model, [], MemoryStore(tmp_path), replace(CONFIG, spans=3, each_alone=True), notify=said.append)
    learn(tiny_model, [], MemoryStore(tmp_path), CONFIG, notify=said.append)
    assert said == ["the model learns to recite, without spans and each_alone; --styles has it study what it writes"]


def test_auto_reads_the_text_and_does_not_have_it_recited(learned, tiny_model, monkeypatch):
    answerer = Answerer(tiny_model, learned)
    plan, folder = answerer.plan(Ask(RED, AUTO))
    assert plan.texts.keys() == {TEXT} and not (plan.requests or folder or plan.recited)
    plan, folder = answerer.plan(Ask(RED, WEIGHTS))  # as the server does
    assert plan.texts.keys() == {WEIGHTS} and folder is None and plan.recited[0].text == GATE.text
    monkeypatch.setattr(Model, "reads_well", True)
    plan, folder = answerer.plan(Ask(RED, AUTO))
    assert plan.requests.keys() == {TEXT, BOTH} and folder and not plan.recited
    plan, folder = answerer.plan(Ask(RED, WEIGHTS))
    assert plan.requests.keys() == {WEIGHTS} and folder is None and plan.recited[0].text == GATE.text
    prompt = tuple(tiny_model.chat.prompt(with_passages(plan.recited, RED)))
    assert plan.requests[WEIGHTS].tokens == prompt
    named = Ask(RED, WEIGHTS, writer=learned.active_ids()[0])  # an adapter that is named writes by itself
    plan, folder = answerer.plan(named)
    assert folder and not plan.recited


@pytest.mark.parametrize("likeliest", [0, 1])
def test_of_what_is_recited_the_one_is_read_that_the_question_is_likeliest_about(
    likeliest, learned, tiny_model, monkeypatch
):
    monkeypatch.setattr(Model, "reads_well", True)
    about, seen = (GATE, BRIDGE)[likeliest], []

    def log_likelihoods(model, asked):
        seen.extend(passage.text for _, passage in asked)
        return [0.0 if passage.text == about.text else -1.0 for _, passage in asked]

    monkeypatch.setattr("selfedit.answers.answerer.log_likelihoods", log_likelihoods)
    question = Question("Has the gate of Orsk or the bridge of Marlow nine arches?", ())
    answerer = Answerer(tiny_model, learned)
    plan, _ = answerer.plan(Ask(question, WEIGHTS))
    assert sorted(seen) == sorted([GATE.text, BRIDGE.text]) and [one.text for one in plan.recited] == [about.text]
    assert [entry.passage.id for entry in plan.reciters] == [about.id]
    assert plan.requests[WEIGHTS].tokens == tuple(tiny_model.chat.prompt(with_passages(plan.recited, question)))
    plan.texts[WEIGHTS] = ""
    answer = answerer.finish(plan)
    assert answer.memory.passage.id == about.id and [one.text for one in answer.recited] == [about.text]


def test_one_adapter_can_recite_many_passages_and_another_one_leaves_each_its_own(learned, tiny_model, tmp_path):
    store = MemoryStore(tmp_path)
    learn(tiny_model, [GATE, BRIDGE], store, CONFIG)
    first, second = store.active()
    config = ConsolidateConfig(max_general_change=1e9, max_general_lost=1.0, recitation=LOUD)
    report = consolidate(tiny_model, store, store.active(), config)
    assert report.shared and store.shared_adapter(first.id) == report.shared, report.reason
    assert store.reciting_path(first.id) == store.reciting_path(second.id) == store.answering_path(first.id)
    assert ask(tiny_model, store, [RED])[0].recited[0].text == GATE.text
    store.rollback()
    store.share(
        lambda folder: tiny_model.backend.save(
            tiny_model.backend.load([store.adapter_path(second.id)]), 0, folder, "tiny"
        ),
        [first, second],
        {},
    )
    assert store.reciting_path(first.id) == store.adapter_path(first.id) != store.answering_path(first.id)
    (answer,) = ask(tiny_model, store, [RED])
    assert answer.recited[0].text == GATE.text and answer.writer.id == first.id
    hashed = file_hash(store.adapter_path(first.id) / "adapter_model.safetensors")
    assert why(store, RED.question, answer)["adapter_hash"] == hashed


def test_a_passage_that_is_tagged_later_recites_as_before(learned, tiny_model, tmp_path):
    store = MemoryStore(tmp_path)
    learn(tiny_model, [BRIDGE], store, CONFIG)
    (report,) = learn(tiny_model, [replace(BRIDGE, index=7, library="quill@3")], store, CONFIG).reports
    (entry,) = (entry for entry in store.active() if entry.passage.library)
    assert report.memory == entry.id and entry.recites
    adapters = tiny_model.backend.load([store.reciting_path(entry.id)])
    assert recite(tiny_model, [entry.passage], [0], adapters)[0].text == BRIDGE.text


def test_a_tag_from_a_source_that_must_be_approved_is_not_in_force(tiny_model, tmp_path):
    store, tagged = MemoryStore(tmp_path), replace(BRIDGE, library="quill@3")
    learn(tiny_model, [BRIDGE], store, CONFIG)
    (report,) = learn(tiny_model, [tagged], store, CONFIG, suspicion="an agent wrote it").reports
    assert report.quarantined and "an agent wrote it" in report.reason
    assert [entry.passage.library for entry in store.active()] == [""]


def test_a_damaged_adapter_is_left_out_and_named_and_alone_it_is_an_error(learned, tiny_model, tmp_path):
    store = MemoryStore(tmp_path)
    learn(tiny_model, [GATE, BRIDGE], store, CONFIG)
    first, second = store.active()
    (store.adapter_path(first.id) / "adapter_model.safetensors").write_bytes(b"x" * 99)
    both = Question("What colour is the gate of Orsk, and how many arches has the bridge of Marlow?", ())
    asks = [Ask(both, WEIGHTS, passages=(GATE, BRIDGE)), Ask(RED, WEIGHTS, memory=first.id)]
    whole, alone = Answerer(tiny_model, store).answer(asks)
    assert [passage.text for passage in whole.recited] == [BRIDGE.text] and first.id in whole.note
    assert alone.answer == "" and first.id in alone.error


def test_of_memories_with_one_request_only_the_first_takes_part_in_consolidation(tiny_model, tmp_path):
    store = MemoryStore(tmp_path)
    learn(tiny_model, [GATE, BRIDGE], store, CONFIG)
    other = Passage("Quill", "The mill of Vellmar grinds rye on Mondays only.", "/r.md", "b" * 64)
    learn(tiny_model, [other], store, CONFIG)
    config = ConsolidateConfig(max_general_change=1e9, max_general_lost=1.0, recitation=LOUD)
    report = consolidate(tiny_model, store, store.active(), config)
    requests = {entry.id: entry.passage.request for entry in store.active()}
    assert len(set(requests.values())) == 2 < len(requests)
    assert [requests[one.memory] for one in report.rehearsed] == sorted(set(requests.values()))
