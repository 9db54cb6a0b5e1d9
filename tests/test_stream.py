"""`bench stream`: what each method asks of which adapter, the matrix and its means by hand, resume."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import write_tiny_model

from selfedit.bench import knowledge, stream
from selfedit.bench.conditions import jobs, parse
from selfedit.bench.general import General
from selfedit.bench.stream import Setting, _retention, table
from selfedit.config import TrainConfig
from selfedit.edits.propose import Proposal
from selfedit.edits.quiz import Quiz, with_sentences
from selfedit.errors import DocumentError, RunError, SelfeditError
from selfedit.judge.evaluate import Query, answers
from selfedit.judge.general import general_changes, general_texts
from selfedit.loop.journal import Journal
from selfedit.model.backend import LoraConfig
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import load_model
from selfedit.model.packed.lora import LoraBatch, merged
from selfedit.model.packed.score import divergence, gold_logprobs
from selfedit.tasks.load import load_tasks
from selfedit.types import Example, Passage, Question, SelfEdit, Task

TRAIN = TrainConfig(rank=2, alpha=4.0, first_layer=0.5, learning_rate=1e-2, epochs=2, batch_size=2, steps_per_epoch=1)
SETTING = Setting(questions=2, consolidate=(2,), answer_tokens=4)
TOWNS = ["Marlow", "Vellmar", "Orsk"]
TASKS = [
    Task(
        Passage(town, f"The bridge of {town} was built in {1900 + i}. Its keeper rings a bell at noon.", "", ""),
        (
            Question(f"The bridge of {town} was built in", (str(1900 + i),), kind="paraphrase"),
            Question(f"The keeper of {town} rings", ("a bell",), kind="paraphrase"),
            Question(f"When was the bridge of {town} built?", (str(1900 + i),)),
        ),
        id=town.lower(),
    )
    for i, town in enumerate(TOWNS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("roomy") / "model", max_position_embeddings=8192))


@pytest.fixture(scope="module")
def general(tmp_path_factory):
    made = tmp_path_factory.mktemp("general")
    items = [{"query": f"Question {i}?", "choices": ["yes it is", "no", "maybe so"], "gold": i % 3} for i in range(4)]
    (made / "copa.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return made


@pytest.fixture(scope="module")
def ran(folder, general, tmp_path_factory):
    out = tmp_path_factory.mktemp("stream") / "run"
    return out, stream.run(folder, TASKS, out, SETTING, train=TRAIN, general=general, command="selfedit bench stream …")


def test_every_method_has_its_matrix_and_its_row(ran):
    out, result = ran
    assert [row["method"] for row in result["rows"]] == list(stream.METHODS) and result["questions"] == 6
    for method, matrix in result["matrices"].items():
        asked = [[value is not None for value in row] for row in matrix]
        if method == "consolidated":  # after two documents, and at the end
            assert asked == [[True] * 3, [False] * 3, [True, True, False], [True] * 3]
        else:
            assert asked == [[True] * 3, [True, False, False], [True, True, False], [True] * 3]
    assert all(row["general_before"] is not None for row in result["rows"])
    assert [row["method"] for row in result["rows"] if row["general_change"] is not None] == [
        "sequential",
        "merged",
        "consolidated",
    ]  # one adapter
    assert [row["method"] for row in result["rows"] if row["general_always"] is not None] == [
        "sequential",
        "merged",
        "consolidated",
    ]
    assert [(row["documents"], row["tokens"] > 0) for row in result["consolidation"]] == [(2, True), (3, True)]
    assert result["rows"][3]["tokens"] == sum(row["tokens"] for row in result["consolidation"])
    assert table(result) == (out / "results.md").read_text() and all(
        (out / name).stat().st_size > 1000 for name in ("stream.png", "consolidation.png")
    )


def test_questions_are_of_every_kind_in_turn(ran):
    out, _ = ran
    base = [r for r in Journal(out / "trials.jsonl").records if r["method"] == "base"]
    assert [len(r["correct"]) for r in base] == [2, 2, 2]  # a probe and a question of each document


def test_the_sequential_adapter_goes_on_and_the_routed_ones_start_afresh(ran, folder):
    out, _ = ran
    model = load_model(folder, device="cpu")
    sequential, routed = (
        model.backend.load([out / method / str(step) for step in (1, 2, 3)]).flat for method in ("sequential", "routed")
    )
    assert torch.allclose(sequential[0], routed[0], atol=1e-3)  # the first document, learned alike
    start = LoraBatch(model.backend.network.shape, LoraConfig(2, 4.0, TRAIN.modules, (2, 3)), 3)
    assert (sequential[2] - sequential[1]).norm() < (routed[2] - routed[1]).norm() and start.flat.shape == routed.shape


def test_the_epochs_that_are_reported_are_those_that_a_budget_of_tokens_allows(folder, tmp_path):
    setting = replace(SETTING, methods=("routed", "consolidated"), study="passage@2000", questions=1)
    result = stream.run(folder, TASKS[:2], tmp_path / "run", setting, train=TRAIN, together=replace(TRAIN, epochs=3))
    (model, (row,)) = load_model(folder, device="cpu"), result["consolidation"]
    (job,) = jobs(model, parse("passage@2000", TASKS[:2], None), [(TASKS[:2], 0)], TRAIN)
    assert result["consolidate_config"]["epochs"] == row["epochs"] == job.epochs > 3


def test_what_was_answered_is_what_the_adapter_answers(ran, folder):
    out, _ = ran
    model = load_model(folder, device="cpu")
    records = {(r["method"], r["step"], r["id"]): r for r in Journal(out / "trials.jsonl").records}
    stack = model.backend.load([out / "sequential/3"])
    asked = with_sentences(TASKS[0]).questions
    questions = [asked[0], asked[2]]
    expected = answers(model, [Query(q, 0) for q in questions], stack, tokens=4)
    assert records["sequential", 3, "marlow"]["answers"] == [text for text, _ in expected]
    routed = model.backend.load([out / "routed/1"])
    expected = answers(model, [Query(q, 0) for q in questions], routed, tokens=4)
    assert records["routed", 3, "marlow"]["answers"] == [text for text, _ in expected]
    assert records["routed", 3, "marlow"] | {"step": 1} == records["routed", 1, "marlow"]  # nothing of it is forgotten


def test_a_question_is_asked_again_only_where_another_adapter_or_passage_answers(folder, tmp_path, monkeypatch):
    asked, real = [], stream.answers
    monkeypatch.setattr(
        stream,
        "answers",
        lambda model, wanted, *rest, **options: asked.extend(wanted) or real(model, wanted, *rest, **options),
    )
    result = stream.run(folder, TASKS, tmp_path / "run", replace(SETTING, methods=("retrieval",)), train=TRAIN)
    assert (
        len(set(asked)) == len(asked) and 12 <= len(asked) < 6 + 12
    )  # the untouched model's six, then two a step and few of the 2 + 4 + 6
    last = [r for r in Journal(tmp_path / "run/trials.jsonl").records if (r["method"], r["step"]) == ("retrieval", 3)]
    assert [sum(r["correct"]) / 2 for r in last] == result["matrices"]["retrieval"][3]


def test_merged_weights_say_what_the_adapter_says(folder):
    model = load_model(folder, device="cpu")
    stack = LoraBatch(model.backend.network.shape, LoraConfig(2, 4.0, TRAIN.modules, (1, 3)), 2)
    stack.flat.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    sequence = TokenizedExample((1, 5, 9, 13, 17), 1)
    (adapted,) = gold_logprobs(model.backend.network, [(sequence, 1)], stack)
    (untouched,) = gold_logprobs(model.backend.network, [(sequence, None)])
    assert gold_logprobs(merged(model.backend.network, stack, 1), [(sequence, None)]) == pytest.approx(
        [adapted], abs=1e-4
    )
    assert gold_logprobs(model.backend.network, [(sequence, None)]) == [untouched] != [adapted]


def test_a_finished_run_does_nothing_twice_and_one_that_was_stopped_ends_alike(
    ran, folder, general, tmp_path, monkeypatch
):
    out, result = ran
    calls = []
    real = stream._Stream.record

    def stopping(self, method, step, *rest):
        calls.append((method, step))
        if len(calls) in (3, 10):
            raise KeyboardInterrupt
        real(self, method, step, *rest)

    monkeypatch.setattr(stream._Stream, "record", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stream.run(folder, TASKS, tmp_path / "run", SETTING, train=TRAIN, general=general)
    assert calls[2] == ("sequential", 2) and calls[9] == ("routed", 2)
    monkeypatch.setattr(stream._Stream, "record", real)
    again = stream.run(folder, TASKS, tmp_path / "run", SETTING, train=TRAIN, general=general)
    assert again["matrices"] == result["matrices"]
    monkeypatch.setattr(stream, "answers", lambda *_, **options: pytest.fail("asked twice"))
    assert stream.run(folder, TASKS, out, SETTING, train=TRAIN, general=general)["matrices"] == result["matrices"]


def test_documents_without_questions_are_asked_what_the_model_writes_itself(folder, tmp_path, monkeypatch):
    file = tmp_path / "bank.json"
    file.write_text(json.dumps([{"id": t.id, "title": t.passage.title, "content": t.passage.text} for t in TASKS]))
    tasks = load_tasks(file, without_questions=True)
    assert [t.questions for t in tasks] == [()] * 3
    with pytest.raises(DocumentError, match="neither SQuAD"):
        load_tasks(file)
    written = [
        Question("When was the bridge built?", ("1900",)),
        Question("What rings at noon?", ("a bell",)),
        Question("Who?", ("Its keeper",)),
    ]
    monkeypatch.setattr(
        stream,
        "write_quizzes",
        lambda model, passages, **_: [
            Quiz(tuple(written[1:]), tuple(written[:1]) * (p.title != "Orsk"), Counter()) for p in passages
        ],
    )
    proposal = Proposal(
        [SelfEdit("paraphrase", "", (Example("At noon rings a bell"),))], ["In 1900 it was built"], Counter()
    )
    monkeypatch.setattr(stream, "propose", lambda model, passages, styles, **_: [proposal])

    def cloze_questions(model, reworded, progress):
        ((passage, lines),) = reworded
        return [([Question(s, (s[-4:],), kind="cloze") for s in lines if passage.title == "Orsk"], Counter())]

    monkeypatch.setattr(stream, "questions_from_rewordings", cloze_questions)
    setting = replace(SETTING, methods=("routed",))
    result = stream.run(folder, tasks, tmp_path / "run", setting, train=TRAIN)
    assert result["questions"] == 6 and result["rows"][0]["general_before"] is None
    asked = {
        r["id"]: [q["question"] for q in r["questions"]]
        for r in Journal(tmp_path / "run/trials.jsonl").records
        if r["method"] == "quiz"
    }
    assert asked["marlow"] == [q.question for q in written] and len(asked) == 3
    assert asked["orsk"] == [*(q.question for q in written[1:]), "In 1900 it was built", "At noon rings a bell"]
    monkeypatch.setattr(stream, "write_quizzes", lambda *_, **options: pytest.fail("written twice"))
    stream.run(folder, tasks, tmp_path / "run", setting, train=TRAIN)


def test_other_sets_given_later_are_measured_too(ran, folder, tmp_path):
    out, result = ran
    (tmp_path / "piqa.jsonl").write_text(json.dumps({"query": "Q?", "choices": ["a", "b"], "gold": 0}) + "\n")
    again = stream.run(folder, TASKS, out, SETTING, train=TRAIN, general=tmp_path)
    assert {row["general_before"] for row in again["rows"]} <= {0.0, 1.0} and again["matrices"] == result["matrices"]
    assert stream.run(folder, TASKS, out, SETTING, train=TRAIN)["rows"][0]["general_before"] is None


def test_the_divergence_of_merged_weights_is_that_of_the_adapter(folder):
    model = load_model(folder, device="cpu")
    stack = LoraBatch(model.backend.network.shape, LoraConfig(2, 4.0, TRAIN.modules, (1, 3)), 2)
    stack.flat.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    texts = general_texts(model)
    found = [divergence(model.backend.network, merged(model.backend.network, stack, row), texts) for row in (0, 1)]
    assert found == pytest.approx(general_changes(model, stack), rel=1e-3) and min(found) > 0
    assert divergence(model.backend.network, model.backend.network, texts) == 0.0


def test_the_settings_are_those_of_bench_knowledge():
    assert stream.TRAIN is knowledge.TRAIN and stream.ADAPTERS == knowledge.ADAPTERS


def test_retained_over_just_learned_by_hand():
    found = _retention([1.0, 0.5, None], [0.5, 0.5, 0.7])
    assert (found["just_learned"], found["retained"], found["ratio"]) == (0.75, 0.5, pytest.approx(2 / 3))
    assert found["ci95"][0] == pytest.approx(0.5) and found["ci95"][1] == pytest.approx(1.0)
    assert _retention([None], [None])["ratio"] is None and _retention([0.0], [0.0])["ratio"] is None


def test_bad_input_is_one_clear_line(folder, tmp_path, ran):
    for setting, message in (
        (Setting(methods=("magic",)), "unknown method 'magic'; known: sequential"),
        (Setting(methods=()), "give methods of sequential"),
        (Setting(methods=("consolidated",)), "consolidated is compared with routed and needs it"),
        (Setting(consolidate=(1, 3)), "2 documents to consolidate"),
        (Setting(study="in-context"), "cannot be studied as 'in-context'; give passage"),
        (Setting(study="seal"), "cannot be studied as 'seal'"),
        (Setting(study="self-edit:poems"), "unknown style 'poems'"),
    ):
        with pytest.raises(SelfeditError, match=message):
            stream.run(folder, TASKS, tmp_path, setting)
    with pytest.raises(RunError, match="another config"):
        stream.run(folder, TASKS, ran[0], replace(SETTING, questions=3), train=TRAIN)
    assert not (tmp_path / "settings.json").exists()
    with pytest.raises(DocumentError, match="give another --general"):
        General(tmp_path)
    for line, message in (
        ("{", "copa.jsonl line 1: not JSON"),
        ('{"query": "Why?", "choices": ["a", "b"], "gold": 2}', "'gold' is 2; it must be between 0 and 1"),
    ):
        (tmp_path / "copa.jsonl").write_text(line)
        with pytest.raises(DocumentError, match=message):
            General(tmp_path)
