"""`bench arc`, its outer loop and `adapt`, whole, on a model of random weights."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import pytest
from conftest import arc_json, write_tiny_model

from selfedit import adapt as adapt_module
from selfedit.adapt import adapt
from selfedit.bench import arc
from selfedit.bench.arc import _compare, split_tasks, table
from selfedit.cli import main
from selfedit.config import FewshotConfig, RecipeConfig, TrainConfig
from selfedit.edits.recipe import LOSSES, Recipe
from selfedit.errors import SelfeditError
from selfedit.loop.domains import fewshot as domain
from selfedit.loop.domains.fewshot import FewShot, RecipeTrial, load_recipe_editor, reinforced
from selfedit.loop.fewshot import Answer, Tried
from selfedit.loop.journal import Journal
from selfedit.loop.outer import train_editor
from selfedit.model.load import load_model
from selfedit.tasks.arc import ArcTask, Pair

TRAIN = TrainConfig(rank=2, alpha=4.0, first_layer=0.5, epochs=1, batch_size=4, steps_per_epoch=1)
FEWSHOT = FewshotConfig(train=TRAIN)
CONFIG = RecipeConfig(edits=2, trial=FEWSHOT, finetune=replace(TRAIN, epochs=2))


def task(id: str, shift: int) -> ArcTask:
    """Each cell's colour goes up by one."""
    own = [((1 + shift, 2), (3, 4)), ((5, 1), (2 + shift, 0)), ((3, 3), (1, 5))]
    one = [Pair(g, tuple(tuple(c + 1 for c in row) for row in g)) for g in own]
    return ArcTask(id, tuple(one[:2]), (one[2],))


TASKS = [task("a", 0), task("b", 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("roomy") / "model", max_position_embeddings=4096))


@pytest.fixture(scope="module")
def small_recipes():
    """Few items, so that it is quick."""
    patch = pytest.MonkeyPatch()
    few = [Recipe(items=4, epochs=1), Recipe(basic=False, items=3, epochs=1)]
    patch.setattr(arc, "FIXED", few[0])
    patch.setattr(arc, "ORACLE", tuple(few))
    for module in (arc, domain, adapt_module):
        patch.setattr(
            module,
            "write_recipes",
            lambda model, asked, *rest, **options: [replace(few[seed % 2], loss=LOSSES[seed % 3]) for _, seed in asked],
        )
    yield
    patch.undo()


@pytest.fixture(scope="module")
def ran(folder, small_recipes, tmp_path_factory):
    out = tmp_path_factory.mktemp("arc")
    rounds = train_editor(FewShot(load_model(folder, device="cpu"), [task("c", 2)], CONFIG), out / "editor", 2)
    options = dict(conditions=arc.CONDITIONS, samples=2, editor=out / "editor", config=FEWSHOT)
    run = partial(arc.run, folder, TASKS, out / "run", **options, command="selfedit bench arc …")
    return out, rounds, run, run()


def test_every_condition_has_its_row_and_every_task_its_page(ran):
    out, _, _, result = ran
    assert [(r["condition"], r["tasks"], r["samples"]) for r in result["rows"]] == [
        ("in-context", 2, 1),
        ("fixed", 2, 2),
        ("self-edit", 2, 2),
        ("seal", 2, 2),
        ("oracle", 2, 1),
        ("peft", 2, 2),
    ]
    assert result["rows"][0]["tokens"] == 0 < result["rows"][1]["tokens"] and [t["id"] for t in result["tasks"]] == [
        "a",
        "b",
    ]
    assert (
        table(result) == (out / "run/results.md").read_text()
        and json.loads((out / "run/results.json").read_text()) == result
    )
    assert (
        sorted(p.name for p in (out / "run/tasks").iterdir()) == ["a.png", "b.png"]
        and (out / "run/tasks/a.png").stat().st_size > 3000
    )
    records = Journal(out / "run/trials.jsonl").records
    assert {(r["condition"], r["task"]): len(r["answers"]) for r in records}["oracle", "a"] == 2
    assert [r["ci95_samples"] is None for r in result["rows"]] == [True, False, False, False, True, False]
    assert [(c["condition"], c["with"]) for c in result["compared"]] == [
        ("seal", "self-edit"),
        ("seal", "fixed"),
        ("self-edit", "fixed"),
    ]  # and not with in-context, which solves none of these tasks
    assert "in-context solves none of these tasks" in table(result)
    assert all(
        len(a["attempts"]) <= 2 and sum(a["votes"]) <= a["asked"] == 15
        for r in records
        for own in r["answers"]
        for a in own
    )


def test_peft_studies_and_is_asked_the_same(ran):
    out, _, _, result = ran
    records = {(r["condition"], r["task"]): r for r in Journal(out / "run/trials.jsonl").records}
    for t in TASKS:
        fixed, peft, oracle = (records[condition, t.id] for condition in ("fixed", "peft", "oracle"))
        assert (fixed["recipes"], fixed["tokens"]) == (peft["recipes"], peft["tokens"]) and [
            [a["asked"] for a in own] for own in peft["answers"]
        ] == [[15], [15]]
        assert (
            fixed["recipes"][0] == oracle["recipes"][0] and fixed["gold_logprob"][0] != oracle["gold_logprob"][0]
        )  # whose items are other draws
    assert result["cost"][0] > 0 and "times as long as `fixed`" in (out / "run/results.md").read_text()


def test_peft_trains_as_it_is_told(ran, folder, tmp_path, monkeypatch):
    """What it is given to study: the very items of `fixed`, so many epochs of them, in batches as large."""
    given = []
    from selfedit.bench import baselines

    real = baselines._study
    monkeypatch.setattr(
        baselines, "_study", lambda model, optimizer, *rest: given.append(rest) or real(model, optimizer, *rest)
    )
    train = replace(TRAIN, batch_size=2)
    arc.run(folder, TASKS[:1], tmp_path, conditions=("peft",), samples=2, config=FewshotConfig(train=train))
    bench = load_model(folder, device="cpu")
    for (sequences, seed, epochs, batch, clip, _), k in zip(given, range(2), strict=True):
        own = arc.job(bench, TASKS[0], arc.FIXED, arc.stable_seed(0, "a", k))
        assert (sequences, seed, epochs, batch, clip) == (own.examples, own.seed, arc.FIXED.epochs, 2, train.clip)
    for setting in ({"stop_loss": 1.0}, {"steps_per_epoch": 4}):
        with pytest.raises(SelfeditError, match="keep the defaults of stop_loss and steps_per_epoch"):
            arc.run(
                folder,
                TASKS,
                tmp_path / "other",
                conditions=("peft",),
                samples=1,
                config=FewshotConfig(train=replace(TRAIN, **setting)),
            )


def test_peft_learns_and_answers_the_same(folder, tmp_path, monkeypatch):
    """Compares training, decoding and votes as a whole; the answers have to be learned."""
    seven = ((7, 7), (7, 7))
    one = ArcTask(
        "seven",
        tuple(Pair(((a, 7), (b, a)), seven) for a, b in ((1, 2), (3, 4), (5, 6))),
        (Pair(((2, 8), (9, 2)), seven),),
    )
    monkeypatch.setattr(arc, "FIXED", Recipe(basic=False, items=12, epochs=12, learning_rate=1e-2))
    train = replace(TRAIN, rank=8, alpha=16.0, first_layer=0.0, batch_size=1)
    result = arc.run(
        folder,
        [one],
        tmp_path,
        conditions=("in-context", "fixed", "peft"),
        samples=1,
        config=FewshotConfig(train=train),
    )
    told = {r["condition"]: r["answers"][0][0] for r in Journal(tmp_path / "trials.jsonl").records}
    assert [r["rate"] for r in result["rows"]] == [0.0, 1.0, 1.0]
    assert told["fixed"]["attempts"][0] == told["peft"]["attempts"][0] == [list(row) for row in seven]
    assert min(told["fixed"]["votes"][0], told["peft"]["votes"][0]) > told["fixed"]["asked"] / 2
    assert result["cost"][0] > 0 and result["cost"][1:] == [None, None]  # of one task


def test_nothing_is_said_of_the_cost_where_the_threads_were_others(ran):
    out, _, _, _ = ran
    bench = object.__new__(arc._Arc)
    bench.tasks, record = TASKS, dict(seconds=2.0, threads=2)
    bench.done = {
        ("fixed", "a"): record,
        ("fixed", "b"): record,
        ("peft", "a"): record | {"seconds": 8.0},
        ("peft", "b"): record | {"seconds": 4.0},
    }
    assert bench.cost() == [3.0, 2.0, 4.0]
    bench.done["peft", "b"] = record | {"threads": 1}
    assert bench.cost() is None


def test_an_editor_is_not_judged_on_what_trained_it(ran, folder):
    out, _, _, _ = ran
    with pytest.raises(SelfeditError, match="the editor was trained on 1 of these tasks"):
        arc.run(
            folder,
            [*TASKS, task("c", 2)],
            out / "leak",
            conditions=("seal",),
            samples=1,
            editor=out / "editor",
            config=FEWSHOT,
        )
    assert not (out / "leak").exists()


def test_what_the_model_cannot_read_is_left_out_and_said(ran, folder, tmp_path):
    wide = ((1,) * 30,) * 30
    long = ArcTask("long", (Pair(wide, wide),) * 4, (Pair(wide, wide),))
    said = []
    result = arc.run(
        folder, [long, *TASKS], tmp_path, conditions=("in-context",), samples=1, config=FEWSHOT, notify=said.append
    )
    assert (
        [t["id"] for t in result["tasks"]] == ["a", "b"]
        and list(result["left_out"]) == ["long"]
        and "1 of the given tasks are left out" in table(result)
    )
    assert said[-1].startswith("1 of 3 tasks exceed the context length")
    with pytest.raises(SelfeditError, match="task long: .* reads 4096"):
        arc.run(folder, [long], tmp_path / "none", conditions=("in-context",), samples=1, config=FEWSHOT)


def test_whole_outputs_are_within_reach_or_not():
    small, large = TASKS[0], ArcTask("large", (), (Pair(((1,),), ((1,) * 9,) * 10), Pair(((1,),), ((1,),))))
    assert arc._whole(small, -0.2) == pytest.approx(-1.2) and arc._whole(large, -0.2) == pytest.approx(
        -0.2 * (100 + 2) / 2
    )
    assert (
        arc._within_reach(small, -0.2)
        and not arc._within_reach(large, -0.2)
        and not arc._within_reach(small, -0.5)
        and not arc._within_reach(small, None)
    )


def test_what_is_there_is_not_done_again_but_other_tasks_are(ran, folder, monkeypatch):
    out, _, run, result = ran
    asked = []
    real = arc._Arc.do
    monkeypatch.setattr(
        arc._Arc, "do", lambda self, condition, task: asked.append(task.id) or real(self, condition, task)
    )
    assert run()["rows"] == result["rows"] and asked == []
    other = [*TASKS, replace(TASKS[0], id="d")]
    with pytest.raises(SelfeditError, match="task a is there twice"):
        arc.run(folder, [*TASKS, TASKS[0]], out / "run", conditions=("in-context",), samples=2, config=FEWSHOT)
    arc.run(folder, other, out / "run", conditions=("in-context",), samples=2, config=FEWSHOT)
    assert asked == ["d"]


def test_a_search_of_several_tasks_at_once_finds_what_each_finds_alone(folder, small_recipes, tmp_path, monkeypatch):
    found = []
    for searched in (1, 4):
        monkeypatch.setattr(arc, "SEARCHED", searched)
        monkeypatch.setattr(
            arc, "_within_reach", lambda task, gold_logprob: task.id == "a"
        )  # b is tried with the first recipe alone
        out = tmp_path / str(searched)
        arc.run(
            folder, [*TASKS, task("c", 2)], out, conditions=("in-context", "oracle"), samples=1, find=9, config=FEWSHOT
        )
        records = [r for r in Journal(out / "trials.jsonl").records if r["condition"] == "oracle"]
        found.append([r | {"seconds": None, "gold_logprob": [round(v, 3) for v in r["gold_logprob"]]} for r in records])
    assert found[0] == found[1] and {r["task"]: len(r["solved"]) for r in found[0]} == {"a": 2, "b": 1, "c": 1}
    arc.run(
        folder, [task("c", 2)], out, conditions=("oracle",), samples=1, config=FEWSHOT
    )  # no search: with every recipe
    assert [
        len(r["solved"])
        for r in Journal(out / "trials.jsonl").records
        if r["task"] == "c" and r["condition"] == "oracle"
    ] == [1, 2]


def test_a_search_ends_once_enough_is_found_and_looks_at_the_likeliest_first(
    folder, small_recipes, tmp_path, monkeypatch
):
    tasks, model = [*TASKS, task("c", 2)], load_model(folder, device="cpu")
    whole = {
        t.id: 6 * mean for t, mean in zip(tasks, arc.gold_logprob(model, [(t, None) for t in tasks]))
    }  # two rows of two cells and an end
    order = sorted(whole, key=whole.get, reverse=True)
    done, real = [], arc._Arc.do
    monkeypatch.setattr(
        arc._Arc, "do", lambda self, condition, task: done.append(condition) or real(self, condition, task)
    )
    monkeypatch.setattr(arc, "solved", lambda task, answers: float(done[-1] == "oracle" and task.id != order[0]))

    def run(find: int) -> dict:
        conditions = ("in-context", "oracle")
        return arc.run(folder, tasks, tmp_path, conditions=conditions, samples=1, find=find, config=FEWSHOT)

    result = run(1)
    assert (
        [t["id"] for t in result["tasks"]] == order[:2]
        and result["solvable"] == order[1:2]
        and result["rows"][0]["tasks"] == 2
    )
    assert run(1)["tasks"] == result["tasks"] and len(done) == 4
    assert run(2)["solvable"] == order[1:] and len(done) == 6
    assert run(9)["solvable"] == order[1:]
    with pytest.raises(SelfeditError, match="at least 1 task to find and the conditions in-context and oracle"):
        arc.run(folder, tasks, tmp_path, conditions=("oracle",), samples=1, find=1, config=FEWSHOT)


def test_rates_and_intervals_by_hand(ran):
    out, _, _, _ = ran
    bench = object.__new__(arc._Arc)
    bench.__dict__ |= dict(
        tasks=TASKS,
        conditions=["in-context", "fixed", "oracle"],
        samples=2,
        name="m",
        editor=None,
        config=FEWSHOT,
        left_out={},
        model=load_model_stub(),
    )
    record = dict(gold_logprob=[-1.0, -2.0], tokens=[3, 4], seconds=1.0)
    bench.done = {
        (c, t): record | {"solved": s}
        for c, t, s in (
            ("in-context", "a", [False]),
            ("in-context", "b", [False]),
            ("fixed", "a", [True, True]),
            ("fixed", "b", [True, False]),
            ("oracle", "a", [False, True]),
            ("oracle", "b", [False, False]),
        )
    }
    _, fixed, oracle = bench.result()["rows"]
    assert fixed["rate"] == 0.75 and fixed["ci95"] == [0.5, 1.0] and fixed["ci95_samples"] == [0.5, 1.0]
    assert oracle["rate"] == 0.5 and oracle["samples"] == 1 and bench.result()["solvable"] == ["a"]
    assert (oracle["tokens"], oracle["seconds"], oracle["gold_logprob"]) == (
        7,
        1.0,
        -1.0,
    )  # its recipes are one sample, together
    assert (
        [t["oracle"] for t in bench.result()["tasks"]] == [1.0, 0.0]
        and fixed["gold_logprob"] == -1.5
        and fixed["tokens"] == 4
        and fixed["seconds"] == 0.5
    )
    assert bench.result()["compared"] == []
    bench.done["in-context", "b"] = record | {"solved": [True]}
    assert [(c["condition"], c["with"]) for c in bench.result()["compared"]] == [("fixed", "in-context")]
    assert "in-context solves none" not in table(bench.result() | {"command": "", "software": ""})
    bench.tasks = TASKS[:1]
    assert bench.result()["rows"][1]["ci95"] is None and "| fixed | 1 | 2 | 1.000 | – |" in table(
        bench.result() | {"command": "", "software": ""}
    )


def test_a_ratio_to_nothing_is_none_and_others_have_an_interval():
    found = _compare([1.0, 0.5, 0.75, 1.0], [0.5, 0.25, 0.25, 0.25])
    assert found["ratio"] == pytest.approx(2.6) and found["ratio_ci95"][0] >= 2.0 and found["difference"][0] == 0.5
    assert _compare([1.0, 0.0], [0.0, 0.0])["ratio"] is None
    assert _compare([1.0, 0.0], [1.0, 0.0])["ratio_ci95"] is None  # a draw of the second task alone has no ratio


def test_the_solvable_tasks_are_parted_once_and_whole():
    parts = split_tasks({"solvable": list("abcdefg")})
    assert sorted(parts["train"] + parts["test"]) == list("abcdefg") and len(parts["train"]) == 3
    assert split_tasks({"solvable": list("gfedcba")}) == parts != split_tasks({"solvable": list("abcdefg")}, seed=1)


def load_model_stub():
    class Stub:
        class backend:
            precision = "fp32"

    return Stub


@contextmanager
def another_process_in(run: Path):
    holds = (
        "import sys; from pathlib import Path; from selfedit.loop.journal import lock_run_folder; _ = "
        "lock_run_folder(Path(sys.argv[1]), {}); print(flush=True); sys.stdin.read()"
    )
    (run / "settings.json").rename(run / "aside.json")
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        (run / "aside.json").replace(run / "settings.json")
        yield
        other.kill()


def test_fewer_rounds_than_there_are_take_none_away(ran, folder):
    out, rounds, _, _ = ran
    assert (
        train_editor(FewShot(load_model(folder, device="cpu"), [task("c", 2)], CONFIG), out / "editor", 1) == rounds[:1]
    )
    assert json.loads((out / "editor/rounds.json").read_text()) == rounds


def test_the_outer_loop_goes_on_where_it_was_stopped(ran, folder, small_recipes, tmp_path, monkeypatch):
    _, rounds, _, _ = ran
    assert [s["round"] for s in rounds] == [1, 2] and rounds[0]["recipes"] == 2 and rounds[1]["editor"]["round"] == 2
    model, tasks, real = load_model(folder, device="cpu"), [task("c", 2), task("d", 3)], domain.study_recipes

    def stopping(model, asked, *rest):
        if asked[0][0].id == "d":
            raise KeyboardInterrupt
        return real(model, asked, *rest)

    monkeypatch.setattr(domain, "study_recipes", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_editor(FewShot(model, tasks, CONFIG), tmp_path / "run", 1)
    tried = []
    monkeypatch.setattr(
        domain, "study_recipes", lambda model, asked, *rest: tried.append(asked[0][0].id) or real(model, asked, *rest)
    )
    (summary,) = train_editor(FewShot(model, tasks, CONFIG), tmp_path / "run", 1)
    assert (
        tried == ["d"] and summary["tasks"] == 2 and json.loads((tmp_path / "run/rounds.json").read_text()) == [summary]
    )
    with (
        another_process_in(tmp_path / "run"),
        pytest.raises(SelfeditError, match="another process is at work in .*run; wait for it, or give another --out"),
    ):
        train_editor(FewShot(model, tasks, CONFIG), tmp_path / "run", 1)
    (whole,) = train_editor(FewShot(model, tasks, CONFIG), tmp_path / "whole", 1)
    assert {k: v for k, v in whole.items() if "seconds" not in k} == {
        k: v for k, v in summary.items() if "seconds" not in k
    }
    (tmp_path / "run/round-1/round.json").write_text("{")
    with pytest.raises(SelfeditError, match="round.json is damaged"):
        train_editor(FewShot(model, tasks, CONFIG), tmp_path / "run", 1)
    (tmp_path / "run/round-1/round.json").unlink()
    (again,) = train_editor(FewShot(model, tasks, CONFIG), tmp_path / "run", 1)
    assert (again["solved"], again["tasks"]) == (summary["solved"], 2) and tried == [
        "d",
        "c",
        "d",
    ]  # the last by the whole run above
    with pytest.raises(SelfeditError, match="another config"):
        train_editor(FewShot(model, tasks, replace(CONFIG, edits=3)), tmp_path / "run", 1)
    with pytest.raises(SelfeditError, match="at least 1 task"):
        train_editor(FewShot(model, [], CONFIG), tmp_path / "none", 1)


def trial(solved: list[float], gold_logprob: list[float | None]) -> RecipeTrial:
    return RecipeTrial("key", "id", -2.0, [{}] * len(solved), solved, gold_logprob, [1] * len(solved))


def test_recipes_that_solve_are_reinforced_and_the_best_of_other_tasks_make_up_the_number():
    trials = [
        trial([0, 1, 1], [-1, -1, -1]),
        trial([0, 0.5, 0], [-3, -1.5, -1.8]),
        trial([0, 0, 0], [-2.5, -3, -4]),
        trial([0, 0, 0], [-1, -3, -4]),
    ]
    assert reinforced(trials, 1) == [(0, 1), (0, 2)]
    assert reinforced(trials, 3) == [(0, 1), (0, 2), (3, 0)]
    assert reinforced(trials, 9) == [(0, 1), (0, 2), (3, 0), (1, 1)]  # the third task's recipes all lose
    assert reinforced([trial([0, 0], [None, -1.5]), trial([0, 0], [None, None])], 9) == [
        (0, 1)
    ]  # one that diverged is none


def test_every_task_and_sample_draws_with_a_seed_of_its_own(small_recipes, folder, tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        domain,
        "write_recipes",
        lambda model, asked, *rest, **options: (
            seeds.extend(s for _, s in asked) or [Recipe(items=2, epochs=1)] * len(asked)
        ),
    )
    train_editor(FewShot(load_model(folder, device="cpu"), [task("c", 2), task("d", 3)], CONFIG), tmp_path, 1)
    assert len(set(seeds)) == len(seeds) == 4


def test_every_vote_of_every_recipe_counts(folder, small_recipes, monkeypatch):
    a, b, c, d, third = (((n,),) for n in range(1, 6))
    said = [(a, a, b, b, third), (c, c, d, d, third), (a, third)]
    monkeypatch.setattr(
        adapt_module, "try_recipes", lambda model, asked, *rest: [Tried([Answer(own, 15)], None, 1) for own in said]
    )
    (answer,) = adapt(load_model(folder, device="cpu"), TASKS[0], num_written=2).answers
    assert answer.attempts == [a, third] and answer.votes == [3, 3] and answer.num_asked == 45


def test_an_adapted_task_is_answered_without_its_output(folder, small_recipes):
    model = load_model(folder, device="cpu")
    asked = replace(TASKS[0], test=(Pair(TASKS[0].test[0].input, None),))
    found = adapt(model, asked, [Recipe(items=4, epochs=1)], num_written=1, config=FEWSHOT)
    assert len(found.recipes) == 2 and found.answers[0].num_asked == 30 and found.tokens > 0
    assert (
        adapt(model, TASKS[0], [Recipe(items=4, epochs=1)], num_written=1, config=FEWSHOT).answers == found.answers
    )  # what is right is not looked at


def test_the_reference_backend_trains_an_editor_of_recipes_and_adapts(folder, small_recipes, tmp_path):
    packed, reference = (load_model(folder, backend=name, device="cpu") for name in ("packed", "reference"))
    trials = []
    for model in (packed, reference):
        train_editor(FewShot(model, [task("c", 2)], CONFIG), tmp_path / model.backend.name, 1)
        trials += Journal(tmp_path / model.backend.name / "round-1/trials.jsonl").records
    ours, theirs = trials
    assert theirs["recipes"] == ours["recipes"] and theirs["tokens"] == ours["tokens"]
    assert theirs["gold_logprob"] == pytest.approx(ours["gold_logprob"], abs=2e-3)
    editor = load_recipe_editor(tmp_path / "reference", reference)[1]
    found = adapt(reference, TASKS[0], [Recipe(items=2, epochs=1)], num_written=1, editor=editor, config=FEWSHOT)
    assert len(found.recipes) == 2 and found.answers[0].num_asked == 30


# the command line


@pytest.fixture
def files(tmp_path) -> Path:
    (tmp_path / "tasks.json").write_text(
        json.dumps({"train": {t.id: arc_json(t) for t in TASKS}, "test": {"c": arc_json(task("c", 2))}})
    )
    (tmp_path / "twice.json").write_text(
        json.dumps({name: {t.id: arc_json(t) for t in TASKS} for name in ("train", "test")})
    )
    (tmp_path / "empty.json").write_text(json.dumps({"train": {}}))
    (tmp_path / "ids.json").write_text(json.dumps({"first": ["b"], "odd": ["nope"], "bad": [3]}))
    (tmp_path / "one.json").write_text(json.dumps(arc_json(TASKS[0])))
    (tmp_path / "recipe.json").write_text(Recipe(items=3, epochs=1).to_json())
    return tmp_path


def test_the_command_line_adapts_and_answers_programs_and_people(files, folder, small_recipes, capsys):
    given = [
        "adapt",
        str(files / "one.json"),
        "--model",
        folder,
        "--recipe",
        str(files / "recipe.json"),
        "--edits",
        "1",
    ]
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["recipes"]) == 2 and found["answers"][0]["asked"] == 30
    (files / "ask.json").write_text(json.dumps({"test": [{"input": [[1, 2], [3, 4]]}, {"input": [[5]]}]}))
    assert main([*given[:4], "--ask", str(files / "ask.json"), "--recipe", str(files / "recipe.json")]) == 0
    out = capsys.readouterr().out
    assert (
        out.count("question") == 2
        and "1 recipe, " in out
        and "studied 3 items with basic copies, all outputs, rate 0.001, 1 epoch\n" in out
    )


def test_the_command_line_runs_the_benchmark_and_the_outer_loop(files, folder, small_recipes, capsys, monkeypatch):
    of = ["--model", folder, "--json"]
    assert (
        main(
            [
                "train-editor",
                "--domain",
                "arc",
                "--data",
                f"{files}/tasks.json:test",
                "--rounds",
                "1",
                "--edits",
                "2",
                "--out",
                str(files / "editor"),
                *of,
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["rounds"][0]["tasks"] == 1
    bench = [
        "bench",
        "arc",
        "--tasks",
        f"{files}/tasks.json:train",
        "--ids",
        f"{files}/ids.json:first",
        "--samples",
        "1",
        "--out",
    ]
    with monkeypatch.context() as patch:
        verdicts = chain([0.0], repeat(1.0))  # not in context, but by oracle
        patch.setattr(arc, "solved", lambda task, answers: next(verdicts))
        assert (
            main(
                [
                    *bench,
                    str(files / "search"),
                    "--conditions",
                    "in-context,oracle",
                    "--split",
                    str(files / "new/split.json"),
                    *of,
                ]
            )
            == 0
        )
    assert json.loads(capsys.readouterr().out)["solvable"] == ["b"] and json.loads(
        (files / "new/split.json").read_text()
    ) == {"train": [], "test": ["b"]}
    assert (
        main(
            [
                *bench,
                str(files / "run"),
                "--editor",
                str(files / "editor"),
                "--conditions",
                "in-context,seal",
                "--set",
                "rank=2",
                *of,
            ]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert [(r["condition"], r["tasks"]) for r in result["rows"]] == [("in-context", 1), ("seal", 1)] and result[
        "command"
    ].startswith("selfedit bench arc --tasks")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bench", "arc", "--tasks", "{}/tasks.json:nope"], "has no set 'nope'; there: train, test"),
        (["bench", "arc", "--max-side", "1"], "leave no task"),
        (["bench", "arc", "--ids", "{}/ids.json:none"], "has no list 'none'; there: first"),
        (["bench", "arc", "--tasks", "{}/empty.json"], "empty.json has no tasks"),
        (["bench", "arc", "--ids", "{}/ids.json:odd"], "has no task 'nope'"),
        (["bench", "arc", "--ids", "{}/ids.json:bad"], "should be text, is a number"),
        (["bench", "arc", "--tasks", "{}/tasks.json", "--conditions", "magic"], "unknown condition 'magic'"),
        (["bench", "arc", "--tasks", "{}/tasks.json", "--conditions", "seal"], "seal needs a trained editor"),
        (
            ["bench", "arc", "--tasks", "{}/tasks.json", "--limit", "0"],
            "--limit: give a whole number from 1 to 1,000,000, not '0'",
        ),
        (["bench", "arc", "--tasks", "{}/tasks.json", "--set", "epochs=3"], "--set epochs: a recipe says that"),
        (
            ["bench", "arc", "--tasks", "{}/tasks.json", "--conditions", "oracle", "--split", "x"],
            "--split needs the conditions in-context and oracle",
        ),
        (
            [
                "bench",
                "arc",
                "--tasks",
                "{}/tasks.json",
                "--conditions",
                "in-context,oracle",
                "--split",
                "{}/one.json/x.json",
            ],
            "cannot use --split",
        ),
        (
            ["bench", "arc", "--tasks", "{}/tasks.json", "--conditions", "in-context,oracle", "--split", "/"],
            "--split / is a folder; give a file",
        ),
        (["bench", "arc", "--tasks", "{}/tasks.json", "--editor", "{}"], "only the condition seal uses an editor"),
        (["bench", "arc", "--tasks", "{}/twice.json"], "has tasks of one name; name one of its sets: train, test"),
        (["bench", "arc", "--tasks", "{}/twice.json", "--ids", "{}/ids.json:first"], "has tasks of one name"),
        (
            ["bench", "arc", "--tasks", "{}/tasks.json", "--samples", "1000000"],
            "--samples: give a whole number from 1 to 64",
        ),
        (
            ["bench", "arc", "--tasks", "{}/tasks.json", "--set", "first_layer=1e308"],
            "first_layer is out of range: give a number from 0 to 1",
        ),
        (
            ["bench", "arc", "--tasks", "{}/tasks.json", "--set", "rank=1000000000"],
            "rank is 1,000,000,000: give a whole number from 1 to 4,096",
        ),
        (
            ["train-editor", "--domain", "arc", "--data", "{}/tasks.json", "--edits", "1"],
            "edits is 1: give a whole number from 2 to 1,000",
        ),
        (
            ["train-editor", "--domain", "arc", "--data", "{}/tasks.json", "--contexts", "0"],
            "--contexts: give a whole number from 1 to 100,000, not '0'",
        ),
        (["train-editor", "--data", "{}/tasks.json", "--set", "rate=3"], "unknown setting 'rate'"),
        (["adapt", "{}/one.json", "--editor", "{}", "--edits", "0"], "--edits is 0: the editor needs at least 1"),
        (["bench", "arc", "--tasks", "{}/tasks.json", "--samples", "0"], "--samples: give a whole number from 1 to 64"),
        (["bench", "arc", "--tasks", "{}/tasks.json", "--conditions", ","], "give at least 1 condition"),
        (
            ["train-editor", "--domain", "arc", "--data", "{}/tasks.json", "--seeds", "3"],
            "--seeds is for --domain text",
        ),
        (["train-editor", "--data", "{}/tasks.json", "--max-side", "3"], "--max-side is for --domain arc"),
        (["adapt", "{}/nope.json"], "nope.json"),
        (["adapt", "{}/ids.json"], "'train' is missing"),
        (["adapt", "{}/one.json", "--ask", "{}/ids.json"], "'test' is missing"),
        (["adapt", "{}/one.json", "--recipe", "{}/ids.json"], "a recipe is an object"),
        (["adapt", "{}/one.json", "--edits", "-1"], "--edits: give a whole number from 0"),
        (["adapt", "{}/one.json", "--editor", "{}"], "no editor there"),
    ],
)
def test_what_cannot_be_run_is_one_line(files, folder, capsys, arguments, message):
    given = [argument.replace("{}", str(files)) for argument in arguments]
    given += ["--model", folder] + (["--out", str(files / "out")] if given[0] != "adapt" else [])
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error
