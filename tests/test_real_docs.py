"""`bench documents`: the questions, the passage that answers each, and a whole run with a memory made by hand."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from selfedit.bench import answers, documents
from selfedit.bench.documents import table
from selfedit.bench.learned import Learned
from selfedit.cli import main
from selfedit.documents.read import split_documents
from selfedit.errors import DocumentError, ModelError, RunError, SelfeditError
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import LoraConfig
from selfedit.model.packed.lora import LoraBatch
from selfedit.tasks.real_docs import gold_passage, load_document, load_document_questions
from selfedit.types import MemoryEntry, Passage, Question, no_progress

GUIDE = """# Quill 3

## Packing

The option --fast was removed from `quill pack`; use `--level 1` instead. It broke old archives.

## Reading

An archive without an index raises MissingIndexError. Older versions raised ValueError here.
"""
PROPOSAL = """PEP: 9001
Title: Ink Support
Created: 05-Nov-2031

Abstract
========

This PEP adds ink. The default colour is teal.
"""
QUESTIONS = [
    ("q-1", "guide.md", "Packing", "What replaces --fast of quill pack in Quill 3?", ["--level 1"], "replacement"),
    ("q-2", "guide.md", "Quill 3 > Reading", "What is raised without an index?", ["MissingIndexError"], "error"),
    ("q-3", "peps.json#pep-9001", "(header)", "When was PEP 9001 created?", ["5 November 2031"], "lookup"),
    ("q-4", "peps.json#pep-9001", "Abstract", "Which colour is the default of PEP 9001?", ["teal"], "lookup"),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "guide.md").write_text(GUIDE)
    (tmp_path / "peps.json").write_text(json.dumps([{"id": "pep-9001", "text": PROPOSAL}]))
    names = ("id", "document", "section", "question", "answers", "kind")
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(dict(zip(names, q))) for q in QUESTIONS))
    return tmp_path


def test_each_question_finds_the_passage_with_its_answer(folder):
    questions = load_document_questions(folder / "q.jsonl")
    assert [q.kind for q in questions] == ["replacement", "error", "lookup", "lookup"]
    found = [
        gold_passage(q, split_documents([load_document(q.document, folder)], 20)).text
        if q.document == "guide.md"
        else gold_passage(q, split_documents([load_document(q.document, folder)], 220)).text
        for q in questions
    ]
    assert "--level 1" in found[0] and "MissingIndexError" not in found[0] and "MissingIndexError" in found[1]
    assert "5 November 2031" in found[2] and "teal" in found[3]


@pytest.mark.parametrize(
    "name, reason",
    [("nosuch.md", "no such file"), ("peps.json#pep-1", "no entry with the id 'pep-1'"), ("guide.md#x", "not JSON")],
)
def test_a_document_that_is_not_there_is_named(folder, name, reason):
    with pytest.raises(DocumentError, match=reason):
        load_document(name, folder)


@pytest.fixture
def without_training(monkeypatch):
    """The passage on packing gets an adapter made by hand, of the others only the text is kept."""

    def learned(model, passages, store, config, **options):
        from selfedit.learn import PassageReport

        reports = []
        for passage in passages:
            entry = None
            if "--level" in passage.text:
                lora = LoraConfig(2, 4.0, ("q_proj", "down_proj"), (2, 3))
                stack = LoraBatch(model.backend.network.shape, lora, 1)
                stack.flat.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
                scores = {"questions": [], "after": {"accuracy": 0.8, "gold_logprob": -0.3}}
                names = {"model": "tiny", "model_hash": model.fingerprint, "passage": passage, "edits": []}
                entry = store.add(lambda folder, s=stack: s.save(0, folder, "tiny"), scores=scores, **names)
            else:
                names = {"model": "tiny", "model_hash": model.fingerprint, "passage": passage, "edits": []}
                text = store.add(None, scores={}, **names)
            counts = dict.fromkeys(("edits_tried", "edits_kept", "questions", "correct_before", "correct_after"), 0)
            reports.append(
                PassageReport(
                    passage.id,
                    passage.title,
                    entry.id if entry else None,
                    "so",
                    general_change=None,
                    seconds=2.0,
                    size_bytes=entry.size_bytes if entry else 0,
                    words=10,
                    stages={"train": 1.5},
                    text=None if entry else text.id,
                    **counts,
                )
            )
        return reports

    monkeypatch.setattr("selfedit.learn.learn_passages", learned)


@pytest.fixture
def run(folder, tiny_folder, without_training):
    questions = load_document_questions(folder / "q.jsonl")
    return partial(documents.run, str(tiny_folder), questions, folder, folder / "out", command="selfedit bench …")


def test_a_run_reports_every_condition_and_resumes(run, folder, monkeypatch):
    result = run()
    assert [r["condition"] for r in result["rows"]] == list(documents.CONDITIONS)
    assert all(r["questions"] == 4 and r["by_kind"]["lookup"]["questions"] == 2 for r in result["rows"])
    assert result["rows"][0]["by_document"].keys() == {"guide.md", "peps.json#pep-9001"}
    assert (result["passages"], result["passages_kept"]) == (2, 0.5) and result["words_per_second"] == 5.0
    assert result["judging"] == {"memories": 1, "accuracy": None, "gold_logprob": None}  # one has no rank
    assert result["seconds"] == {"train": 3.0} and result["mb_per_memory"] > 0 and result["peak_gb"] > 0
    assert table(result) == (folder / "out/results.md").read_text() and (folder / "out/accuracy.png").exists()
    lines = (folder / "out/answers.jsonl").read_text().splitlines()
    assert len(lines) == 4 * len(documents.CONDITIONS)
    assert [entry.has_adapter for entry in MemoryStore(folder / "out/home").active()] == [True, False]
    given = {(r["condition"], r["question"]): r["answer"] for r in map(json.loads, lines)}
    # The adapter answers the questions of its passage, and only those.
    assert given["right-memory", "q-1"] != given["base", "q-1"]
    assert given["right-memory", "q-3"] == given["base", "q-3"]
    assert given["memory-and-text", "q-1"] != given["in-context", "q-1"]
    monkeypatch.setattr(Learned, "_texts", lambda *_: pytest.fail("answered twice"))
    monkeypatch.setattr("selfedit.bench.learned.peak_gb", lambda: 0.01)  # of a process that has little to do
    again = run()
    assert (again["rows"], again["peak_gb"]) == (result["rows"], result["peak_gb"])


def test_a_stopped_run_keeps_the_questions_that_were_answered(run, folder, monkeypatch):
    monkeypatch.setattr("selfedit.bench.learned.TOGETHER", 2)
    asked, texts = [], Learned._texts

    def stopped(self, requests, *rest):
        asked.append(len(requests))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return texts(self, requests, *rest)

    monkeypatch.setattr(Learned, "_texts", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(conditions=["base"])
    assert run(conditions=["base"])["rows"][0]["questions"] == 4
    assert asked == [2, 2, 2] and len((folder / "out/answers.jsonl").read_text().splitlines()) == 4


def test_progress_counts_the_questions_of_a_condition_over_all_batches(run, monkeypatch):
    monkeypatch.setattr("selfedit.bench.learned.TOGETHER", 2)
    steps = []
    run(conditions=["base"], progress=lambda *step: steps.append(step))
    assert {(stage, total) for stage, _, total in steps} == {("base", 4)}
    counts = [done for _, done, _ in steps]
    assert counts == sorted(counts) and set(counts) >= {2, 4}


def test_a_memory_on_which_no_question_was_found_is_left_out_of_the_ranks():
    entries, side = [], {}
    for id, measured, right in [("a", 0.5, 1), ("b", 1.0, 2), ("c", None, 0)]:
        after = {"accuracy": measured, "gold_logprob": -0.1 * right}
        entries.append(MemoryEntry(id, "tiny", "h", "adapter", "", 1, Passage("T", id, "t", "h"), {"after": after}))
        side[entries[-1].passage.id] = {"kinds": {"": [right, 2, 0.0, 2]}}
    assert documents._judging(entries, side) == pytest.approx({"memories": 2, "accuracy": 1, "gold_logprob": -1})


def test_the_arms_are_compared_with_text_and_what_is_unknown_is_left_out(
    folder, tiny_folder, without_training, monkeypatch, capsys
):
    tasks = [
        {"title": f"Town {i}", "context": f"Town {i} lies on the river Orsk{i}.", "questions": questions}
        for i in range(8)
        if (questions := [{"question": f"On which river does Town {i} lie?", "answer": f"Orsk{i}"}])
    ]
    (folder / "towns.json").write_text(json.dumps(tasks))
    out = folder / "out"
    command = ["bench", "answers", "--data", folder / "q.jsonl", folder / "towns.json", "--out", out]
    command = list(map(str, [*command, "--model", tiny_folder, "--unknown", "0.5", "--json"]))
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((out / "results.json").read_text())
    rows = {row["condition"]: row for row in result["rows"]}
    assert rows.keys() == {*answers.CONDITIONS}
    known = result["passages"]
    assert known + result["unknown_passages"] == 10 and 0 < result["unknown_passages"] < 10
    assert len(MemoryStore(out / "home").active()) == known
    records = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(records) == 12 * len(answers.CONDITIONS)
    said = {(r["condition"], r["question"]): r for r in records}
    assert all(row["questions"] < 12 and row["seconds"] > 0 for row in rows.values())
    quoted = {name for name, row in rows.items() if not row["tokens"]}  # by a model that does not read well
    assert quoted == {"text", "both", "auto"}
    assert rows["text@gold"]["tokens"] > rows["base"]["tokens"] and rows["text@3"]["tokens"] > rows["text@1"]["tokens"]
    # Where nothing was learned, the weights are those of the untouched model, and the text is in view all the same.
    town = next(item for item in records if item["condition"] == "text" and "towns.json" in (item["source"] or ""))
    assert said["weights", town["question"]]["from"] == "base" and town["from"] == "text"
    auto = result["auto"]
    assert sum(part["answers"] for part in auto["calibration"]) == rows["auto"]["questions"]
    shares = [at["answered"] for at in auto["thresholds"]]
    assert shares[0] == 1.0 and shares == sorted(shares, reverse=True)
    assert "| text@gold |" in (out / "results.md").read_text() and (out / "calibration.png").exists()
    monkeypatch.setattr(Learned, "_texts", lambda *_: pytest.fail("answered twice"))
    assert main(command) == 0


def test_a_share_is_less_than_one(folder, capsys):
    assert main(["bench", "answers", "--data", str(folder / "q.jsonl"), "--out", "x", "--unknown", "1"]) == 2
    assert "give a number from 0 to less than 1, not '1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "conditions, message",
    [(["oracle"], "unknown condition 'oracle'; known: base"), ([], "give at least one condition of base,")],
)
def test_conditions_that_cannot_be_run_are_refused_before_any_work(run, folder, conditions, message):
    with pytest.raises(SelfeditError, match=message):
        run(conditions=conditions)
    with pytest.raises(SelfeditError, match=message):
        answers.run("nosuch", [], folder / "out", conditions=conditions)
    assert not (folder / "out").exists()


def test_a_folder_with_memories_of_other_passages_is_refused(run, folder, tiny_model):
    names = {"model": "tiny", "model_hash": tiny_model.fingerprint, "edits": [], "scores": {}}
    MemoryStore(folder / "out/home").add(None, passage=Passage("Ulm", "Ulm lies on the Danube.", "u", "h"), **names)
    with pytest.raises(RunError, match="holds a memory of another passage, 'Ulm'"):
        run(conditions=["base"])


def test_two_questions_with_one_id_are_refused(folder, tiny_model):
    line = (folder / "q.jsonl").read_text().split("\n")[0]
    questions = load_document_questions(folder / "q.jsonl")
    (folder / "q.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(DocumentError, match="two questions have the id 'q-1'"):
        load_document_questions(folder / "q.jsonl")
    texts = {name: load_document(name, folder) for name in {q.document for q in questions}}
    passages, items = documents.read(tiny_model, questions, texts, documents.LEARN)
    with pytest.raises(SelfeditError, match="two questions have the id 'q-1'"):  # of two files
        Learned(tiny_model, passages, items * 2, folder / "out", documents.LEARN, no_progress)


def test_a_question_that_fails_is_counted_not_judged_and_asked_again(run, folder, monkeypatch):
    conditions = ["base", "learned", "in-context", "memory-and-text"]

    def too_long(*_, **options):
        raise ModelError("a question is too long")

    with monkeypatch.context() as patch:
        patch.setattr("selfedit.answers.answerer.Answerer.answer", too_long)
        patch.setattr(
            "selfedit.bench.learned.ANSWER_TOKENS", 280
        )  # with the longer passage in view, no prompt fits then
        result = run(conditions=conditions)
    rows = {row["condition"]: row for row in result["rows"]}
    assert {name: row["failed"] for name, row in rows.items()} == dict(zip(conditions, (0, 4, 2, 2)))
    assert rows["learned"]["accuracy"] is None and rows["learned"]["vs_base"] is None
    assert "a question is too long" in (folder / "out/answers.jsonl").read_text()
    assert "| learned | 4 | 4 | – |" in (folder / "out/results.md").read_text()
    again = run(conditions=conditions)["rows"]
    assert [row["failed"] for row in again] == [0, 0, 0, 0] and None not in [row["accuracy"] for row in again]


def test_the_peak_of_a_process_that_learned_is_in_the_results_of_a_later_one(run, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("selfedit.bench.learned.peak_gb", lambda: 99.0)
        run(conditions=["learned"])
    (folder / "out/answers.jsonl").unlink()
    assert run(conditions=["learned"])["peak_gb"] == 99.0


@pytest.mark.parametrize("condition", ["base", "text@1", "text@gold"])
def test_nothing_is_learned_for_conditions_without_memories(run, folder, tiny_folder, condition, monkeypatch):
    monkeypatch.setattr("selfedit.bench.learned.learn", lambda *a, **k: pytest.fail("learned"))
    questions = load_document_questions(folder / "q.jsonl")
    texts = {name: load_document(name, folder) for name in {q.document for q in questions}}
    read = partial(documents.read, questions=questions, documents=texts, config=documents.LEARN)
    options = {"conditions": [condition], "unknown": 0.0}
    assert "seconds" not in answers.run(str(tiny_folder), [read], folder / "out", **options)


def test_the_bins_of_the_calibration_do_not_depend_on_the_order_and_all_right_answers_count():
    known = Passage("T", "t", "t", "h")
    items = [answers.Item(str(i), Question("Who?", ("Ann",)), "question", "d", known) for i in range(10)]
    records = [{"answer": "x", "probability": 0.5 if i < 6 else 0.9, "sentence": ""} for i in range(10)]
    records[0]["sentence"] = "It is Ann."
    bench = SimpleNamespace(items=items, answers={"auto": records}, right=lambda condition: [i < 2 for i in range(10)])
    judged = answers._judged(bench, {known.id})
    assert [(part["answers"], part["accuracy"]) for part in judged["calibration"]] == [
        (6, pytest.approx(1 / 3)),
        (4, 0),
    ]
    assert judged["sentences"] == 0.5
