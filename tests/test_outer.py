"""The outer loop on a tiny model: resuming and early stops change no result, and editors are written completely."""

import json
import math
from dataclasses import asdict, fields, replace

import pytest
import torch
from conftest import write_tiny_model

from selfedit.config import RestemConfig, TrainConfig
from selfedit.edits.propose import write_edits, writing_sequences
from selfedit.errors import AdapterError, RunError, SelfeditError, UnscoredError
from selfedit.loop.domains import knowledge
from selfedit.loop.domains.knowledge import Knowledge, edit_styles
from selfedit.loop.editor import Editor, load_editor, save_editor
from selfedit.loop.journal import Journal
from selfedit.loop.outer import run_round, train_editor
from selfedit.loop.selection import ContextTrial, Outcome
from selfedit.model.backend import Cut, Job, LoraConfig, no_steps
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import load_model
from selfedit.model.packed.backend import PackedBackend
from selfedit.model.packed.lora import LoraBatch
from selfedit.model.packed.train import train
from selfedit.model.peft_folder import WEIGHTS_FILE
from selfedit.types import Example, Passage, Question, SelfEdit, Task

TRIAL = TrainConfig(rank=2, alpha=4.0, first_layer=0.5, learning_rate=1e-3, epochs=2, batch_size=2, steps_per_epoch=1)
CONFIG = RestemConfig(
    styles=("paraphrase", "paraphrase+questions"),
    contexts=6,
    edits=3,
    survivors=1,
    audited=2,
    min_kept=1,
    trial=TRIAL,
    finetune=replace(TRIAL, rank=4, first_layer=0.0),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(
        str(write_tiny_model(tmp_path_factory.mktemp("roomy") / "model", max_position_embeddings=8192)), device="cpu"
    )


@pytest.fixture
def tasks() -> list[Task]:
    towns = ["Marlow", "Vellmar", "Orsk", "Aldmoor", "Tarn", "Quill", "Esk"]
    return [
        Task(
            Passage(town, f"The bridge of {town} was built in {1900 + i}. Its keeper rings a bell at noon.", "", ""),
            (
                Question(f"When was the bridge of {town} built?", (str(1900 + i),)),
                Question("When does its keeper ring?", ("at noon",)),
            ),
            id=f"task-{i}",
        )
        for i, town in enumerate(towns)
    ]


@pytest.fixture
def writes(monkeypatch):
    """A random model writes nothing usable: here it says each sentence back to front."""

    def write(model, asked, editor=None, **rest):
        made = []
        for passage, style, seed in asked:
            lines = [" ".join(s.split()[::-1]) + f" {seed % 7}" for s in passage.text.split(". ")]
            made.append(SelfEdit(style, "\n".join(lines), tuple(Example(line) for line in lines)))
        return made

    monkeypatch.setattr(knowledge, "write_edits", write)


def without_times(summary: dict) -> dict:
    return {key: value for key, value in summary.items() if not key.startswith("seconds")}


def one_round(model, tasks, folder, config, **judge) -> dict:
    return run_round(Knowledge(model, tasks, config, **judge), tasks, folder, 1)


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["propose", "study", "reward"])
def test_a_round_that_is_stopped_goes_on_and_ends_as_one_that_was_not(
    model, tasks, tmp_path, writes, monkeypatch, method
):
    whole = train_editor(Knowledge(model, tasks, CONFIG), tmp_path / "whole", 1)
    sizes, real = [], getattr(Knowledge, method)

    def killed(self, current, block, *rest):
        sizes.append(len(block if method == "propose" else block.tasks))
        if len(sizes) == 2:
            raise Killed
        return real(self, current, block, *rest)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Knowledge, method, killed)
        train_editor(Knowledge(model, tasks, CONFIG), tmp_path / "halves", 1)
    assert len(Journal(tmp_path / "halves/round-1/trials.jsonl").records) == 4  # the first block stands
    assert len(Journal(tmp_path / "halves/round-1/edits.jsonl").records) == (4 if method == "propose" else 6)
    monkeypatch.setattr(Knowledge, method, killed)
    sizes[:] = [0, 0]
    resumed = train_editor(Knowledge(model, tasks, CONFIG), tmp_path / "halves", 1)
    assert sizes == [0, 0, 2]  # only the second
    assert [without_times(s) for s in resumed] == [without_times(s) for s in whole]
    records = [
        [without_times(r) for r in Journal(tmp_path / name / "round-1/trials.jsonl").records]
        for name in ("whole", "halves")
    ]
    assert records[0] == records[1]
    assert train_editor(Knowledge(model, tasks, CONFIG), tmp_path / "halves", 1) == resumed and sizes == [0, 0, 2]


def test_a_task_whose_trial_is_on_disk_is_not_tried_again_though_its_block_is_not_finished(
    model, tasks, tmp_path, writes, monkeypatch
):
    whole = one_round(model, tasks[:4], tmp_path / "whole", CONFIG)
    (tmp_path / "cut/round-1").mkdir(parents=True)
    for name, count in (("edits.jsonl", 4), ("trials.jsonl", 3)):
        lines = (tmp_path / "whole/round-1" / name).read_text().splitlines(keepends=True)
        (tmp_path / "cut/round-1" / name).write_text("".join(lines[:count]) + lines[-1][:40])  # and a torn line
    studied, real = [], Knowledge.study
    monkeypatch.setattr(
        Knowledge, "study", lambda self, current, block: studied.append(len(block.tasks)) or real(self, current, block)
    )
    again = one_round(model, tasks[:4], tmp_path / "cut", CONFIG)
    assert studied == [1] and again["contexts"] == 4
    assert again["styles"] == [pytest.approx(row, abs=1e-5) for row in whole["styles"]]


def test_a_trial_is_read_back_as_it_was(model, tasks, tmp_path, writes):
    one_round(model, tasks[:1], tmp_path, CONFIG)
    (record,) = Journal(tmp_path / "round-1/trials.jsonl").records
    trial = ContextTrial.from_json(record)
    assert asdict(trial) == record and isinstance(trial.controls["passage"], Outcome)
    assert {field.name for field in fields(trial)} == record.keys()


def test_two_rounds_hand_on_the_editor_and_the_best_style(model, tasks, tmp_path, writes):
    config = replace(CONFIG, beyond_noise=0.0)
    first, second = train_editor(Knowledge(model, tasks, config), tmp_path, 2)
    assert first["editor"]["round"] == 1 and second["editor"]["round"] == 2
    assert second["editor"]["parent"] == first["editor"]["adapter_hash"]
    records = Journal(tmp_path / "round-2/trials.jsonl").records
    assert [c["style"] for c in records[0]["candidates"]][:2] == [first["styles"][0]["style"]] * 2
    assert records[0]["id"] == "task-6"  # contexts of its own, then from the start again
    editor, _ = load_editor(tmp_path, model)
    assert editor.id == second["editor"]["id"]


def test_an_editor_that_is_not_trained_again_keeps_its_round_and_its_parent(model, tasks, tmp_path, writes):
    config = replace(CONFIG, beyond_noise=0.0)
    first = run_round(Knowledge(model, tasks, config), tasks[:2], tmp_path, 1)["editor"]
    second = run_round(Knowledge(model, tasks, replace(config, min_kept=10**5)), tasks[2:4], tmp_path, 2)["editor"]
    assert second["adapter_hash"] == first["adapter_hash"] and first["adapter_hash"]
    assert (second["round"], second["parent"]) == (1, first["parent"])


def test_another_model_writes_until_an_editor_was_trained_on_what_helped(model, tasks, tmp_path, writes, monkeypatch):
    said, written_by_editor = [], knowledge.write_edits

    class Larger:
        name, fingerprint = "larger", "a" * 64

        def write(self, requests, on_token=no_steps):
            """The last words of each sentence first."""
            sentences = [request.prompt.rpartition("Sentence: ")[2].partition("\n")[0] for request in requests]
            said.extend(" ".join(s.rstrip(".").split()[-3:] + s.split()[:-3]) + "." for s in sentences)
            return said[-len(requests) :]

    def write(model, asked, editor=None, writer=None, **rest):
        if writer:
            return write_edits(model, asked, writer=writer, **rest)
        return written_by_editor(model, asked, editor, **rest)

    monkeypatch.setattr(knowledge, "write_edits", write)
    config = replace(CONFIG, beyond_noise=0.0, styles=("paraphrase",))
    larger = Knowledge(model, tasks, config, writer=Larger())
    assert larger.settings["writer"] == "a" * 64 and "writer" not in Knowledge(model, tasks, config).settings
    first, second = train_editor(larger, tmp_path, 2)
    assert (first["writer"], second["writer"]) == ("larger", "the editor")
    assert first["finetuned"] and first["editor"]["adapter_hash"]
    tried = [c for r in Journal(tmp_path / "round-1/edits.jsonl").records for c in r["edits"]]
    assert any(example["text"] in said for edit in tried for example in edit["examples"])


def test_losers_stop_early_but_in_audited_contexts_nobody_does(model, tasks, tmp_path, writes):
    summary = one_round(model, tasks[:6], tmp_path, replace(CONFIG, survivors=2))
    trials = Journal(tmp_path / "round-1/trials.jsonl").records
    assert [t["audited"] for t in trials] == [True] * 4 + [False] * 2  # a block is audited whole
    for t in trials:
        best, *others = sorted((c for c in t["candidates"] if c["gold_logprob"]), key=lambda c: -sum(c["first"]))
        assert len(others) == (2 if t["audited"] else 1)
        assert {len(c["gold_logprob"]) for c in (*t["controls"].values(), best, *others)} == {2}
        assert {len(c["accuracy"]) for c in (*t["controls"].values(), best)} == {
            2 if t["audited"] else 1
        }  # one seed answers, else all
        assert {len(c["accuracy"]) for c in others} == {2 if t["audited"] else 0}
        if not t["audited"]:
            assert sum(best["first"]) == max(sum(c["first"]) for c in t["candidates"])
            assert all((c["spared"] > 0) == (not c["gold_logprob"]) for c in t["candidates"])
    assert 0 < summary["tokens_spared"] < 1 and summary["stopping"]["contexts"] == 4


def test_an_edit_whose_training_diverged_is_as_one_that_did_not_reach_the_end(
    model, tasks, tmp_path, writes, monkeypatch
):
    real = Knowledge.gold_logprob

    def diverged(self, pairs, adapters=None):
        first_edit = 4  # after the two controls with two seeds each
        return [math.nan if row == first_edit else value for (_, row), value in zip(pairs, real(self, pairs, adapters))]

    monkeypatch.setattr(Knowledge, "gold_logprob", diverged)
    summary = one_round(model, tasks[:2], tmp_path, replace(CONFIG, survivors=2))
    first, *others = Journal(tmp_path / "round-1/trials.jsonl").records[0]["candidates"]
    assert (first["first"], first["gold_logprob"]) == ([], []) and all(len(c["gold_logprob"]) == 2 for c in others)
    json.dumps(summary, allow_nan=False)


def test_trials_that_end_when_they_have_settled_are_refused():
    with pytest.raises(SelfeditError, match="stop_loss"):
        replace(CONFIG, trial=replace(TRIAL, stop_loss=0.1))


def test_an_editor_is_finetuned_on_what_is_kept_unless_it_comes_out_worse(model, tasks, tmp_path, writes, monkeypatch):
    monkeypatch.setattr(
        knowledge.selection, "reinforced", lambda trial, error, beyond: [1]
    )  # the edit with lines of its own
    taken = one_round(model, tasks[:4], tmp_path / "a", CONFIG)
    assert taken["finetuned"] and taken["guard"]["sequences"] == 8
    _, stack = load_editor(tmp_path / "a/round-1/editor", model)
    assert stack.flat.abs().sum() > 0
    monkeypatch.setattr(
        Knowledge,
        "writing_quality",
        lambda self, current, style, adapters: {"diversity": 0.6 if adapters else 1.0, "usable lines": 1.0},
    )
    refused = one_round(model, tasks[:4], tmp_path / "b", CONFIG)
    assert not refused["finetuned"] and refused["guard"]["why"] == "much less diversity than before"
    assert load_editor(tmp_path / "b/round-1/editor", model)[1] is None


def test_lines_that_nearly_copy_the_passage_are_not_what_an_editor_studies(model, tasks, tmp_path, monkeypatch):
    def write(model, asked, editor=None, **rest):
        """The first sentence almost as it is, the second in other words."""
        lines = [[p.text.split(". ")[0] + " now.", "At noon you can hear a bell."] for p, _, _ in asked]
        return [SelfEdit(s, "\n".join(own), tuple(map(Example, own))) for (_, s, _), own in zip(asked, lines)]

    studied = []
    monkeypatch.setattr(knowledge, "write_edits", write)
    monkeypatch.setattr(
        knowledge,
        "writing_sequences",
        lambda m, p, edit: studied.extend(e.text for e in edit.examples) or writing_sequences(m, p, edit),
    )
    monkeypatch.setattr(knowledge.selection, "reinforced", lambda trial, error, beyond: [1])
    summary = one_round(model, tasks[:4], tmp_path, CONFIG)
    assert studied == ["At noon you can hear a bell."] * 4
    assert (
        summary["guard"]["after"]["own words"] == pytest.approx(0.5, abs=0.1)
        and summary["guard"]["after"]["usable lines"] == 2
    )
    monkeypatch.setattr(
        Knowledge, "writing_quality", lambda self, current, style, adapters: {"own words": 0.3 if adapters else 0.5}
    )
    assert one_round(model, tasks[:4], tmp_path / "other", CONFIG)["guard"]["why"] == "much less own words than before"


def test_a_judge_that_is_out_stops_the_run_and_the_same_command_goes_on(model, tasks, tmp_path, writes):
    with pytest.raises(UnscoredError, match="unscored; the same command goes on"):
        one_round(model, tasks[:4], tmp_path, CONFIG, judge=lambda pairs: [None] * len(pairs))
    assert Journal(tmp_path / "round-1/trials.jsonl").records == []
    summary = one_round(model, tasks[:4], tmp_path, CONFIG, judge=lambda pairs: [False] * len(pairs))
    assert summary["contexts"] == 4 and summary["best"]["accuracy"] == 0.0


def test_answers_that_a_judge_will_not_score_are_in_no_mean_and_stop_nothing(model, tasks, tmp_path, writes):
    """A filter that refuses one question does so every time: a run that waited for it would never end."""
    summary = one_round(
        model,
        tasks[:4],
        tmp_path,
        CONFIG,
        judge=lambda pairs: [None if i % 3 == 0 else True for i in range(len(pairs))],
    )
    trials = Journal(tmp_path / "round-1/trials.jsonl").records
    told = [a for t in trials for side in (*t["controls"].values(), *t["candidates"]) for a in side["accuracy"]]
    assert (
        set(told) <= {1.0, None}
        and 1.0 in told
        and summary["reliability"]["accuracy"]["candidates"] <= summary["usable"]
    )


def test_questions_alone_are_a_control_of_edits_that_have_them_and_cannot_be_stopped(model, tasks, tmp_path, writes):
    one_round(model, tasks[:6], tmp_path / "a", CONFIG)
    for t in Journal(tmp_path / "a/round-1/trials.jsonl").records:
        assert list(t["controls"]) == ["passage", "questions"] and all(
            len(side["gold_logprob"]) == 2 for side in t["controls"].values()
        )
        assert t["controls"]["questions"]["tokens"] > t["controls"]["passage"]["tokens"]
    summary = one_round(model, tasks[:2], tmp_path / "b", replace(CONFIG, styles=("paraphrase",)))
    assert list(summary["controls"]) == ["passage"]
    with pytest.raises(SelfeditError, match="give styles to write in"):
        replace(CONFIG, styles=("questions",))


def test_an_editor_knows_the_passages_that_chose_what_it_studied(model, tasks, tmp_path, writes):
    first, second = train_editor(Knowledge(model, tasks, replace(CONFIG, contexts=2)), tmp_path, 2)
    editor, _ = load_editor(tmp_path, model)
    assert set(editor.contexts) == {t.passage.words_id for t in tasks[:4]}


def test_another_setting_is_another_run(model, tasks, tmp_path, writes):
    train_editor(Knowledge(model, tasks[:2], CONFIG), tmp_path, 1)
    with pytest.raises(RunError, match="another config"):
        train_editor(Knowledge(model, tasks[:2], replace(CONFIG, seed=1)), tmp_path, 1)
    with pytest.raises(RunError, match="another data"):
        train_editor(Knowledge(model, tasks[:3], CONFIG), tmp_path, 1)
    asked = replace(tasks[1], questions=(replace(tasks[1].questions[0], answers=("2001",)),))
    with pytest.raises(RunError, match="another data"):
        train_editor(Knowledge(model, [tasks[0], asked], CONFIG), tmp_path, 1)


def test_both_backends_run_the_same_round(model, tasks, tmp_path, writes):
    reference = load_model(str(model.folder), backend="reference", device="cpu")
    config, trials = replace(CONFIG, edits=2, audited=0, beyond_noise=0.0), []
    for one in (model, reference):
        (summary,) = train_editor(Knowledge(one, tasks[:1], config), tmp_path / one.backend.name, 1)
        trials += Journal(tmp_path / one.backend.name / "round-1/trials.jsonl").records
        assert load_editor(tmp_path / one.backend.name, one)[0].id == summary["editor"]["id"]
    packed, other = (
        [o for t in trials[i : i + 1] for o in (t["untouched"], *t["controls"].values(), *t["candidates"])]
        for i in (0, 1)
    )
    for ours, theirs in zip(packed, other, strict=True):
        assert theirs["first"] == pytest.approx(ours["first"], abs=1e-3)
        assert theirs["gold_logprob"] == pytest.approx(ours["gold_logprob"], abs=1e-3)
        assert theirs["tokens"] == ours["tokens"]


def test_styles_take_turns_then_the_best_has_half():
    config = replace(CONFIG, styles=("a", "b", "c"), edits=5)
    assert edit_styles(config, None) == ["a", "b", "c", "a", "b"]
    assert edit_styles(config, ["b", "c", "a"]) == ["b", "b", "b", "c", "a"]


def test_stopping_some_early_changes_no_weight_of_the_others(model):
    chance = torch.Generator().manual_seed(0)

    def sequence(n):
        return TokenizedExample(tuple(torch.randint(3, 250, (n,), generator=chance).tolist()), 1)

    jobs = [Job(tuple(sequence(5 + i + j) for j in range(2 + i)), seed=i) for i in range(3)]
    seen = []

    def losers(stack):
        seen.append(stack.flat.clone())
        return [1]

    whole, logs = train(model.backend.network, jobs, TRIAL)
    cut, cut_logs = train(model.backend.network, jobs, TRIAL, cut=Cut(1, losers))
    assert len(seen) == 1  # all three had one epoch behind them
    assert [len(log.losses) for log in cut_logs] == [2, 1, 2]
    assert (cut.flat[[0, 2]] - whole.flat[[0, 2]]).abs().max() < 1e-6
    assert torch.equal(cut.flat[1], seen[0][1]) and (whole.flat[1] - cut.flat[1]).abs().max() > 1e-6
    assert cut_logs[1].tokens * 2 == logs[1].tokens


def test_an_editor_is_read_back_as_it_was_and_refused_if_touched(model, tmp_path):
    stack = LoraBatch(model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj",), (0,)), 1)
    stack.flat.normal_(generator=torch.Generator().manual_seed(0))
    stack.flat.copy_(stack.flat.bfloat16())  # what a folder holds
    saved = save_editor(tmp_path / "e", Editor(model.name, model.fingerprint, "rewrite", 3), model, stack)
    editor, read = load_editor(tmp_path / "e", model)
    assert editor == saved and torch.equal(read.flat, stack.flat)
    data = bytearray((tmp_path / "e" / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (tmp_path / "e" / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(AdapterError, match="not those it was kept with"):
        load_editor(tmp_path / "e", model)


def test_what_is_no_editor_is_one_clear_line(model, tmp_path):
    with pytest.raises(AdapterError, match="no editor there"):
        load_editor(tmp_path, model)
    (tmp_path / "editor.json").write_text("[]")
    with pytest.raises(AdapterError, match="not an editor's record"):
        load_editor(tmp_path, model)
    save_editor(tmp_path, Editor("other", "x", "rewrite"), model, None)
    with pytest.raises(AdapterError, match="an editor for other"):
        load_editor(tmp_path, model)


@pytest.mark.embedded
def test_the_embedded_model_writes_an_edit_and_would_study_to_write_it_again(embedded_model):
    text = "Marlow Bridge was designed by the engineer Ada Quill. It was opened in 1931 and carries two rails."
    passage = Passage("Marlow Bridge", text, "", "")
    edits = write_edits(
        embedded_model, [(passage, "paraphrase", 1), (passage, "key-points", 1), (passage, "paraphrase", 1)]
    )
    assert edits[0] == edits[2] and edits[0].examples
    sequences = writing_sequences(embedded_model, passage, edits[0])
    said = [embedded_model.chat.decode(list(s.tokens[s.label_start :])) for s in sequences]
    assert said == [f" {line}\n" for line in edits[0].text.split("\n") if line in {e.text for e in edits[0].examples}]
    (listed,) = writing_sequences(embedded_model, passage, edits[1])
    assert listed.tokens[-1] in embedded_model.chat.ends


def test_an_editor_studies_a_line_without_the_marks_it_was_written_with(model, monkeypatch):
    said = "**In 1931** the bridge of Marlow was opened.\nMore of it."
    monkeypatch.setattr(
        PackedBackend, "generate", lambda self, requests, *rest, **options: [model.chat.encode(said) for _ in requests]
    )
    passage = Passage("Marlow", "The bridge of Marlow was built and opened in 1931.", "", "")
    (edit,) = write_edits(model, [(passage, "paraphrase", 0)])
    (sequence,) = writing_sequences(model, passage, edit)
    assert (
        model.chat.decode(list(sequence.tokens[sequence.label_start :]))
        == " In 1931 the bridge of Marlow was opened.\n"
    )


def test_a_torn_line_is_as_if_it_had_never_been(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.add({"a": 1})
    with (tmp_path / "j.jsonl").open("a") as file:
        file.write('{"a": 2')
    again = Journal(tmp_path / "j.jsonl")
    assert again.records == [{"a": 1}]
    again.add({"a": 3})
    assert Journal(tmp_path / "j.jsonl").records == [{"a": 1}, {"a": 3}]
    assert json.loads((tmp_path / "j.jsonl").read_text().split("\n")[2]) == {"a": 3}
