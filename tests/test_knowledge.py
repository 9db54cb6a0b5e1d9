"""`bench knowledge`: what each condition studies or has in view, intervals worked out by hand, resume."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_tiny_model

from selfedit import __version__
from selfedit.bench import baselines, knowledge
from selfedit.bench.conditions import Retriever, given_edit, jobs, parse, prompt_override
from selfedit.bench.knowledge import table
from selfedit.bench.tables import with_interval
from selfedit.bench.tallies import difference, interval, ratio
from selfedit.config import TrainConfig
from selfedit.errors import RunError, SelfeditError, UnscoredError
from selfedit.judge.evaluate import offline
from selfedit.loop.editor import Editor, save_editor
from selfedit.loop.journal import Journal, lock_run_folder, software
from selfedit.loop.trial import joint_job
from selfedit.model.chat import TokenizedExample
from selfedit.model.load import load_model
from selfedit.types import Example, Passage, Question, Task

TRAIN = TrainConfig(rank=2, alpha=4.0, first_layer=0.5, learning_rate=1e-3, epochs=2, batch_size=2, steps_per_epoch=1)
TOWNS = ["Marlow", "Vellmar", "Orsk"]
TASKS = [
    Task(
        Passage(town, f"The bridge of {town} was built in {1900 + i}. Its keeper rings a bell at noon.", "", ""),
        (
            Question(f"When was the bridge of {town} built?", (str(1900 + i),)),
            Question("When does its keeper ring?", ("at noon",)),
        ),
        id=town.lower(),
        edits={"wise/implications": (f"1. {town} has a bridge.\n2. Somebody keeps it.", f"{town} is old.")},
    )
    for i, town in enumerate(TOWNS)
]
EDITOR = Editor("m", "h", "paraphrase+questions", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("roomy") / "model", max_position_embeddings=8192))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder, device="cpu")


@pytest.fixture
def bench(folder, tmp_path):
    def run(conditions: str, tasks=TASKS, out=tmp_path / "run", **options) -> dict:
        return knowledge.run(
            folder, tasks, out, knowledge.Setting([c for c in conditions.split(",") if c], train=TRAIN, **options)
        )

    return run


def texts(model, job) -> list[str]:
    return [model.chat.tokenizer.decode(list(s.tokens), skip_special_tokens=True) for s in job.examples]


# conditions


def test_the_passage_is_studied_under_its_title_and_edits_line_by_line_before_it(model):
    (alone,) = jobs(model, parse("passage", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    whole = f"Marlow\n{TASKS[0].passage.text}"
    assert texts(model, alone) == [whole]
    (given,) = jobs(model, parse("edits:wise/implications", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    assert texts(model, given) == ["Marlow\nMarlow has a bridge.", "Marlow\nSomebody keeps it.", whole]
    assert given_edit(TASKS[0], "wise/implications", 3).examples[0].text == "Marlow is old."  # the seed picks, in turn


def test_questions_by_rule_stand_beside_an_edit_new_in_each_epoch(model):
    (asked,) = jobs(model, parse("edits:wise/implications+questions", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    assert len(asked.examples) == 3 and len(asked.once) == 2 * TRAIN.epochs  # two sentences
    (only,) = jobs(model, parse("self-edit:questions", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    assert len(only.examples) == 1 and len(only.once) == 4


def test_several_passages_are_one_job(model):
    (together,) = jobs(model, parse("passage", TASKS, None), [(TASKS, 0)], TRAIN)
    assert len(together.examples) == 3


def test_several_passages_are_asked_about_in_every_epoch(model):
    alone = [jobs(model, parse("self-edit:questions", TASKS, None), [([task], 0)], TRAIN)[0].once for task in TASKS]
    (together,) = jobs(model, parse("self-edit:questions", TASKS, None), [(TASKS, 0)], TRAIN)
    assert sorted(s.tokens for s in together.once) == sorted(s.tokens for own in alone for s in own)
    for epoch in range(TRAIN.epochs):
        low, high = (len(together.once) * e // TRAIN.epochs for e in (epoch, epoch + 1))
        studied = {s.tokens for s in together.once[low:high]}
        assert all(studied & {s.tokens for s in own} for own in alone)


def test_each_epoch_of_a_joint_job_has_its_share_of_every_passage():
    parts = []
    for passage, count in enumerate((5, 5, 5, 5, 2)):
        examples = [Example("", once=True) for _ in range(count)]
        parts.append(([TokenizedExample((passage, i), 1) for i in range(count)], examples))
    shared = joint_job(parts, 0)
    for epochs in (1, 2, 3, 4, 5):
        of_epochs = [[s.tokens[0] for s in shared.studied_in(epoch, epochs)] for epoch in range(epochs)]
        assert sorted(sum(of_epochs, [])) == 5 * [0] + 5 * [1] + 5 * [2] + 5 * [3] + 2 * [4]
        for studied in of_epochs:
            assert all(abs(studied.count(passage) - 5 / epochs) < 2 for passage in range(4))
            assert max(map(studied.count, range(4))) - min(map(studied.count, range(4))) <= 1


def test_a_budget_of_tokens_is_met_by_epochs(model):
    (job,) = jobs(model, parse("passage", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    tokens = len(job.examples[0].tokens)
    (longer,) = jobs(model, parse(f"passage@{7 * tokens}", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    assert longer.epochs == 7
    (two,) = jobs(model, parse(f"passage@{3 * tokens}", TASKS, None), [(TASKS[:2], 0)], TRAIN)
    assert two.epochs == 3  # of each passage
    (asked,) = jobs(model, parse("self-edit:questions", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    (more,) = jobs(model, parse(f"self-edit:questions@{3 * _tokens(asked)}", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    assert more.epochs == 3 * TRAIN.epochs and len(more.once) == 3 * len(asked.once)  # questions go on being new


def _tokens(job) -> int:
    return TRAIN.epochs * sum(len(s.tokens) for s in job.examples) + sum(len(s.tokens) for s in job.once)


def test_what_the_model_says_with_the_passage_in_view_is_distilled_as_soft_labels(model):
    (job,) = jobs(model, parse("distill", TASKS, None), [(TASKS[:1], 0)], TRAIN)
    *answered, whole = job.examples
    assert (
        answered
        and all(s.distill == 1.0 and s.teacher_prompt and s.label_start > 1 for s in answered)
        and whole.distill == 0
    )


def test_seal_writes_in_the_style_its_editor_chose():
    assert parse("seal", TASKS, EDITOR).detail == "paraphrase+questions"
    assert parse("seal:rewrite", TASKS, EDITOR).detail == "rewrite"
    assert parse("self-edit", TASKS, None).detail == "implications"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sael", "unknown condition 'sael'; known: base"),
        ("seal", "needs a trained editor"),
        ("base@100", "@TOKENS is a whole number, for conditions that train"),
        ("passage@-1", "@TOKENS is a whole number"),
        ("passage:rewrite", "takes no detail"),
        ("self-edit:poem", "unknown style 'poem'"),
        ("edits:gpt4.1/rewrite", "the data has no such edits for 'marlow'; known: wise/implications"),
    ],
)
def test_a_condition_that_cannot_be_run_is_one_clear_line(text, message):
    with pytest.raises(SelfeditError) as caught:
        parse(text, TASKS, None)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_in_context_has_the_passage_in_view_and_retrieval_the_likeliest_last():
    question = TASKS[2].questions[0]
    seen = prompt_override(parse("in-context", TASKS, None), TASKS[2], question, None)
    assert (
        TASKS[2].passage.text in seen.question
        and seen.question.endswith(question.question)
        and seen.answers == question.answers
    )
    found = prompt_override(parse("retrieval", TASKS, None), TASKS[2], question, Retriever(TASKS))
    places = [found.question.index(t.passage.text) for t in TASKS]
    assert max(places) == places[2]
    probe = replace(question, kind="composition")
    assert prompt_override(parse("in-context", TASKS, None), TASKS[2], probe, None).question.endswith(
        f"noon.\n\n{question.question}"
    )


# the run


def test_every_condition_runs_and_a_finished_run_takes_more_without_doing_anything_twice(
    bench, tmp_path, model, monkeypatch
):
    save_editor(
        tmp_path / "editor",
        replace(EDITOR, model=model.name, model_hash=model.fingerprint, style="questions"),
        model,
        None,
    )
    options = dict(editor=tmp_path / "editor", together=[3])
    first = bench("base,passage,in-context", **options)
    lines = Journal(tmp_path / "run/trials.jsonl").records
    everything = "base,passage,self-edit,seal,edits:wise/implications,in-context,retrieval,finetune,distill,passage@200"
    second = bench(everything, seeds=2, **options)
    assert Journal(tmp_path / "run/trials.jsonl").records[: len(lines)] == lines  # none of them done again
    rows = {(r["condition"], r["together"]): r for r in second["rows"]}
    assert set(rows) == {(c, 1) for c in everything.split(",")} | {
        (c, 3) for c in ("passage", "self-edit", "seal", "edits:wise/implications", "distill", "passage@200")
    }
    for row in rows.values():
        assert row["passages"] == 3 and row["questions"] == 6
        assert row["ci95"][0] <= row["accuracy"] <= row["ci95"][1] and row["gold_logprob"] < 0
        assert (row["train_tokens"] > 0) == (row["condition"] not in ("base", "in-context", "retrieval"))
        assert (row["vs_base"] is None) == (row["condition"] == "base")
        assert (row["vs_passage"] is None) == (row["condition"] == "passage")
    less = {(d["minus"], d["together"]): d["difference"] for d in second["seal_minus"]}
    assert set(less) == {key for key in rows if key[0] != "seal"}
    assert less["passage", 3][0] == pytest.approx(rows["seal", 3]["accuracy"] - rows["passage", 3]["accuracy"])
    before = Journal(tmp_path / "run/trials.jsonl").records
    monkeypatch.setattr(knowledge._Bench, "do", lambda self, units: pytest.fail("done twice"))
    again = bench(everything, seeds=2, **options)
    assert again == second and Journal(tmp_path / "run/trials.jsonl").records == before
    assert json.loads((tmp_path / "run/results.json").read_text()) == second
    assert (tmp_path / "run/accuracy.png").read_bytes()[:4] == b"\x89PNG" and (tmp_path / "run/budget.png").exists()
    assert table(second) == (tmp_path / "run/results.md").read_text()
    assert first["rows"][0] == rows["base", 1]


def test_a_run_stopped_between_passages_ends_as_one_that_was_not(bench, tmp_path, monkeypatch):
    whole = bench("base,passage", out=tmp_path / "whole", seeds=2)
    monkeypatch.setattr(knowledge, "ADAPTERS", 1)  # also: one at a time is the same as three at once

    done, real = [], knowledge._Bench.do

    def do(self, units):
        done.append(units)
        if len(done) == 3:
            raise KeyboardInterrupt
        real(self, units)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(knowledge._Bench, "do", do)
        bench("base,passage", out=tmp_path / "halves", seeds=2)
    resumed = bench("base,passage", out=tmp_path / "halves", seeds=2)
    for a, b in zip(resumed["rows"], whole["rows"], strict=True):
        assert (
            a["accuracy"] == b["accuracy"]
            and a["gold_logprob"] == pytest.approx(b["gold_logprob"], abs=1e-3)
            and a["train_tokens"] == b["train_tokens"]
        )


def test_the_run_of_other_settings_is_refused(bench, folder, tmp_path):
    bench("base")
    with pytest.raises(RunError, match="another config"):
        knowledge.run(folder, TASKS, tmp_path / "run", knowledge.Setting(["base"]))


def test_a_run_says_with_which_software_it_was_made_and_goes_on_with_another(tmp_path):
    lock_run_folder(tmp_path, {"model": "a"})
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings == {"model": "a", "software": [software()]} and software().startswith(__version__)
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"software": "an older one"}))
    for _ in range(2):
        lock_run_folder(tmp_path, {"model": "a"})
    assert json.loads((tmp_path / "settings.json").read_text())["software"] == ["an older one", software()]
    assert software(tmp_path) == f"an older one, {software()}"


def test_a_judge_that_is_out_fails_the_run_and_is_asked_again_with_the_same_answers(bench, tmp_path, monkeypatch):
    with pytest.raises(UnscoredError, match="6 of 6 answers unscored"):
        bench("base", judge=lambda pairs: [None] * len(pairs), judge_name="far")
    assert not (tmp_path / "run/results.json").exists()
    monkeypatch.setattr(knowledge._Bench, "do", lambda self, units: pytest.fail("answered twice"))
    asked = []
    result = bench("base", judge=lambda pairs: asked.extend(pairs) or [True] * len(pairs), judge_name="far")
    assert result["rows"][0]["accuracy"] == 1.0 and result["judge"] == "far" and len(asked) == 6
    assert bench("base")["rows"][0]["accuracy"] == sum(offline(asked)) / 6  # another judge, the same answers


def test_a_judge_that_refuses_loses_no_answer(bench, tmp_path, monkeypatch):
    def refuses(pairs):
        raise SelfeditError("the account cannot pay")

    with pytest.raises(SelfeditError, match="cannot pay"):
        bench("base,passage", judge=refuses, judge_name="far")
    assert len(Journal(tmp_path / "run/trials.jsonl").records) == 6
    monkeypatch.setattr(knowledge._Bench, "do", lambda self, units: pytest.fail("answered twice"))
    assert (
        bench("base,passage", judge=lambda pairs: [True] * len(pairs), judge_name="far")["rows"][1]["accuracy"] == 1.0
    )
    with pytest.raises(SelfeditError, match="give the judge a name that differs"):
        bench("base", judge=refuses)
    with pytest.raises(SelfeditError, match="give conditions"):
        bench("")


def test_one_unscored_answer_in_many_is_in_no_mean(bench):
    tasks = [replace(TASKS[0], questions=TASKS[0].questions * 15)]
    seen = []
    result = bench(
        "base",
        tasks,
        judge=lambda pairs: seen.append(len(pairs)) or [None, *[True] * (len(pairs) - 1)],
        judge_name="far",
    )
    assert result["unscored"] == 1 and result["rows"][0]["accuracy"] == 1.0


def test_what_the_answers_depend_on_is_done_again_when_it_changes(bench, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        knowledge._Bench, "do", lambda self, units, own=knowledge._Bench.do: done.extend(units) or own(self, units)
    )

    def redone(tasks) -> set[tuple[str, str]]:
        done.clear()
        bench("base,retrieval,edits:wise/implications", tasks)
        return {(unit.condition.name, task.id) for unit in done for task in unit.tasks}

    assert len(redone(TASKS[:2])) == 6
    more = redone(TASKS)
    assert more == {
        ("base", "orsk"),
        ("edits", "orsk"),
        *(("retrieval", town.lower()) for town in TOWNS),
    }  # it may find another passage now
    asked = replace(TASKS[0], questions=TASKS[0].questions[:1])
    assert redone([asked, *TASKS[1:]]) == {("base", "marlow"), ("edits", "marlow"), ("retrieval", "marlow")}
    assert redone([replace(asked, edits={"wise/implications": ("Marlow is new.",)}), *TASKS[1:]]) == {
        ("edits", "marlow")
    }


def test_passages_that_chose_what_the_editor_studied_are_refused(bench, tmp_path, model):
    editor = replace(
        EDITOR, model=model.name, model_hash=model.fingerprint, style="questions", contexts=(TASKS[1].passage.words_id,)
    )
    save_editor(tmp_path / "editor", editor, model, None)
    other = [
        replace(
            t,
            passage=replace(t.passage, title=f"Bridge_of_{t.passage.title}", text=t.passage.text.replace(". ", ".\n")),
        )
        for t in TASKS
    ]
    for tasks in (TASKS, other):  # however the title is written, and the lines broken
        with pytest.raises(SelfeditError, match="trained on 1 of these passages"):
            bench("seal", tasks, editor=tmp_path / "editor")


def test_so_many_together_are_so_many(bench, tmp_path):
    with pytest.raises(SelfeditError, match="--together 4: there are 3 passages"):
        bench("passage", together=[4])
    rows = {r["together"]: r for r in bench("base,passage", together=[2])["rows"] if r["condition"] == "passage"}
    assert rows[1]["passages"] == 3 and rows[2]["passages"] == 2  # the third does not fill an adapter
    assert rows[2]["vs_base"] is not None
    assert "too narrow" in (tmp_path / "run/results.md").read_text()


def test_the_seconds_of_finetuning_are_without_those_of_reading_the_model(bench, tmp_path, monkeypatch):
    clock, load_base, skipped = time.perf_counter, baselines.load_base, [0.0]

    def slow(*arguments):
        skipped[0] += 1000
        return load_base(*arguments)

    monkeypatch.setattr(knowledge.time, "perf_counter", lambda: clock() + skipped[0])
    monkeypatch.setattr(baselines, "load_base", slow)
    (row,) = bench("finetune", TASKS[:1])["rows"]
    assert skipped == [1000] and row["seconds"] < 1000
    assert "too narrow" not in (tmp_path / "run/results.md").read_text()


def test_a_budget_is_compared_with_the_passage_at_the_same_budget(bench):
    rows = {r["condition"]: r for r in bench("passage,passage@300,self-edit:questions@300")["rows"]}
    ours, alone = rows["self-edit:questions@300"], rows["passage@300"]
    assert ours["vs_passage"][0] == pytest.approx(ours["accuracy"] - alone["accuracy"])


def test_probes_are_also_told_apart_by_kind(bench):
    probes = (
        Question("The bridge of Marlow was built in", ("1900",), "memorization"),
        Question("Its keeper rings a", ("bell",), "paraphrase"),
    )
    result = bench("base,passage", [replace(TASKS[0], questions=probes)])
    assert set(result["rows"][1]["by_kind"]) == {"memorization", "paraphrase"}
    assert "memorization | paraphrase" in table(result)


# intervals


def tallies(*passages) -> dict:
    return {str(i): {"kinds": {"": [right, asked, -1.0, asked]}} for i, (right, asked) in enumerate(passages)}


def test_a_difference_is_of_shares_and_its_interval_draws_passages_in_pairs():
    ours, theirs = tallies((3, 4), (1, 2)), tallies((2, 4), (0, 2))
    mean, low, high = difference(ours, theirs)
    assert mean == pytest.approx(4 / 6 - 2 / 6)
    # both the first passage: 1/4; both the second: 1/2; one each: 1/3
    assert low == pytest.approx(1 / 4) and high == pytest.approx(1 / 2)
    assert difference(ours, ours) is None and difference(ours, None) is None
    assert difference(ours, tallies((1, 4))) == [0.5, None, None]  # the one passage that both have has no interval


def test_a_share_of_the_ceiling_is_drawn_in_pairs_and_of_nothing_is_none():
    assert ratio(tallies((1, 4), (1, 4)), tallies((2, 4), (2, 4))) == [0.5] * 3
    assert ratio(tallies((1, 4)), tallies((0, 4))) is None


def test_a_draw_in_which_nothing_was_scored_counts_for_nothing_and_there_may_not_be_many():
    scored, unscored = [[1.0, 1.0, 0.0, 1.0]], [[0.0, 0.0, 0.0, 1.0]]
    assert interval(np.array(scored * 9 + unscored)) == [1.0, 1.0]
    assert interval(np.array(scored + unscored)) is None  # a quarter of the draws


def test_a_ratio_to_a_ceiling_that_many_draws_do_not_have_is_without_an_interval():
    assert ratio(tallies((1, 2), (1, 2)), tallies((1, 2), (0, 2))) == [2.0, None, None]
    assert "2.00 |" in f"{with_interval([2.0, None, None], '.2f')} |" and with_interval([None, None, None]) == "–"


def test_an_interval_is_none_where_nothing_was_scored():
    assert interval(np.array([[0.0, 0.0, -1.0, 2.0]])) is None
    low, high = interval(np.array([[1.0, 2.0, 0.0, 2.0]] * 3))
    assert low == high == 0.5
