"""Few-shot tasks on a model of random weights: grammars, recipes, what is studied, how votes are taken."""

import json
import random
from dataclasses import replace

import pytest
from conftest import write_tiny_model

from selfedit.edits.recipe import FAMILIES, Recipe, grammar, read_recipe, write_recipes, writing_sequence
from selfedit.errors import SelfeditError
from selfedit.loop import fewshot
from selfedit.loop.fewshot import _answer, changed, check, dense, job, put, read_grid, solve, solved, study_items, text_of
from selfedit.model.generate import Request, generate
from selfedit.model.grammar import choices, grids
from selfedit.model.load import load_model
from selfedit.model.score import mean_logprobs
from selfedit.model.train import train
from selfedit.tasks.arc import ArcTask, Pair
from selfedit.tasks.augment import IDENTITY, READINGS, TRANSPOSE

MIRROR = ArcTask("mirror", tuple(Pair(((a, b), (c, 0)), ((b, a), (0, c))) for a, b, c in ((1, 2, 3), (4, 5, 6), (7, 8, 9))), (Pair(((2, 4), (6, 0)), ((4, 2), (0, 6))),))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(str(write_tiny_model(tmp_path_factory.mktemp("roomy") / "model", max_position_embeddings=4096)), device="cpu")


# grammars


def random_walk(allow, ends, draw: random.Random, most: int = 2000) -> list[int]:
    written = []
    for _ in range(most):
        token = draw.choice(allow(written))
        if token in ends:
            return written
        written.append(token)
    raise AssertionError("never ends")


def test_whatever_the_grammar_lets_through_is_a_recipe_that_it_would_write_again(model):
    allow, draw = choices(model.chat, grammar()), random.Random(0)
    found = {read_recipe(model.chat.decode(random_walk(allow, model.chat.ends, draw))) for _ in range(200)}
    assert len(found) > 150
    for recipe in found:
        assert read_recipe(recipe.to_json()) == recipe
        sequence = writing_sequence(model, "a task", recipe)
        written = list(sequence.tokens[sequence.label_start :])[: -len(model.chat.end_of_turn)]
        assert model.chat.decode(written) == recipe.to_json()
        assert all(token in allow(written[:i]) for i, token in enumerate(written))
        assert set(allow(written)) == set(model.chat.ends)


def test_a_choice_that_begins_another_can_be_written_whole(model):
    allow = choices(model.chat, [("1", "15"), ("5", "!")])
    one, five, mark = (model.chat.encode(c)[0] for c in "15!")
    assert set(allow([])) == {one} and set(allow([one])) == {five, mark}
    assert set(allow([one, five])) == {five, mark, *model.chat.ends}  # 1 and 5, or 15 and what follows
    assert set(allow([one, five, five])) == set(model.chat.ends)


def test_whatever_the_grammar_of_grids_lets_through_is_a_grid(model):
    allow, draw = grids(model.chat, 10, 5), random.Random(0)
    sizes = set()
    for _ in range(200):
        said = read_grid(model.chat.decode(random_walk(allow, model.chat.ends, draw)))
        assert said and len(said) <= 5 and len(said[0]) <= 5
        sizes.add((len(said), len(said[0])))
    assert len(sizes) > 8


def test_decoding_keeps_to_the_grammar_greedy_and_drawn(model):
    prompt = tuple(model.chat.ask("A grid?"))
    allow = grids(model.chat, 10, 3)
    asked = [Request(prompt, None, 13, temperature, seed=i, allow=allow) for i, temperature in enumerate((0.0, 1.0, 1.5))]
    free, *found = generate(model, [Request(prompt, None, 13), *asked])
    assert read_grid(model.chat.decode(free)) is None  # a random model does not by itself
    for tokens in found:
        assert all(token in allow(tokens[:i]) for i, token in enumerate(tokens))
    assert found == generate(model, asked)


def test_only_what_is_a_grid_is_read_as_one():
    assert read_grid("12\n34\n") == read_grid("12\n34") == ((1, 2), (3, 4)) and text_of(((1, 2), (3, 4))) == "12\n34\n"
    for text in ("", "\n", "12\n3\n", "1a\n", "²\n", "1\n" * 31, "1" * 31, "12\n\n34"):
        assert read_grid(text) is None, text


# recipes


def test_recipes_are_written_by_their_seed_and_always_parse(model):
    asked = [("a task", seed) for seed in range(6)]
    recipes = write_recipes(model, asked)
    assert recipes == write_recipes(model, asked) and len(set(recipes)) > 3


def part(name: str, **values) -> str:
    return json.dumps({name: values})


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "a recipe is JSON"), ("[]", "a recipe is an object of data_generation and training"), ('{"other": {}}', "a recipe is an object"),
        ('{"training": 3}', "each an object"), (part("training", rate=1), "training has no 'rate'; known: strategy"),
        (part("training", strategy="all"), "strategy is all; known: train_using_all_tokens"), (part("training", num_train_epochs=10**9), "epochs is 1000000000: give a whole number above 0, at most 20"),
        (part("training", num_train_epochs=2.5), "epochs is 2.5: give a whole"), (part("training", learning_rate=0), "learning_rate is 0: give a number above 0"),
        ('{"training": {"learning_rate": NaN}}', "learning_rate is nan"), (part("training", learning_rate=True), "learning_rate is True"),
        (part("data_generation", num_items=0), "items is 0"), (part("data_generation", use_basic_augmentations="yes"), "basic is yes: give true or false"),
        ("[" * 100_000, "a recipe is JSON"), (part("training", strategy=[1]), "strategy is [1]"),
    ],
)  # fmt: skip
def test_a_hostile_recipe_is_refused_in_one_line(text, message):
    with pytest.raises(SelfeditError) as caught:
        read_recipe(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# what is studied


def test_items_are_tasks_with_examples_left_out_in_the_ways_the_recipe_allows(model):
    plain = Recipe(basic=False, items=8)
    items = study_items(model, MIRROR, plain, seed=0)
    texts = {model.chat.decode(list(item.tokens)) for item in items}
    assert len(texts) == len(items) == 8 and all(item.label_start == 1 for item in items)
    assert {text.count("Input:") for text in texts} == {2, 3}  # one or two left out
    assert items == study_items(model, MIRROR, plain, seed=0) != study_items(model, MIRROR, plain, seed=1)
    outputs = study_items(model, MIRROR, replace(plain, output_only=True), seed=0)
    assert [item.tokens for item in outputs] == [item.tokens for item in items]
    ends = model.chat.decode(model.chat.end_of_turn)
    assert all(read_grid(model.chat.decode(list(item.tokens[item.label_start :])).removesuffix(ends)) for item in outputs)
    wide = [model.chat.decode(list(item.tokens)) for item in study_items(model, MIRROR, Recipe(basic=False, size=True, items=40), seed=0)]
    assert any("1122\n" in text or len(text.split("Input:\n")[1].split("\n")[0]) == 4 for text in wide)


def test_the_question_of_the_test_is_never_studied(model):
    secret = replace(MIRROR, test=(Pair(((5, 5), (5, 5)), ((6, 6), (6, 6))),))
    for family in FAMILIES:
        assert study_items(model, secret, Recipe(**{family: True}), 0) == study_items(model, MIRROR, Recipe(**{family: True}), 0)


def test_too_few_items_are_taken_as_they_are(model):
    two = replace(MIRROR, train=tuple(Pair(((0,) * n,), ((0,),) * n) for n in (2, 3)))  # colours make no difference
    assert len(study_items(model, two, Recipe(basic=False, items=512), 0)) == 2
    with pytest.raises(SelfeditError, match="at least 2 are needed"):
        check(model, replace(MIRROR, train=MIRROR.train[:1]))


def test_what_does_not_fit_the_model_is_said_before_any_work(model):
    large = tuple(Pair(((1,) * 30,) * 30, ((2,) * 30,) * 30) for _ in range(4))
    with pytest.raises(SelfeditError, match="take [0-9]+ tokens; .* reads 4096"):
        check(model, ArcTask("large", large, MIRROR.test))
    check(model, MIRROR)


def test_candidates_of_other_rates_and_epochs_train_in_one_stack_as_alone(model):
    config = replace(fewshot.TRAIN, rank=2)
    recipes = [Recipe(basic=False, items=3, epochs=1, learning_rate=1e-2), Recipe(items=5, epochs=2, output_only=True)]
    jobs = [job(model, MIRROR, recipe, 0) for recipe in recipes]
    stack, logs = train(model.network, jobs, config)
    assert [len(log.losses) for log in logs] == [1, 2]
    for row, one in enumerate(jobs):
        alone, _ = train(model.network, [one], config)
        assert (stack.flat[row] - alone.flat[0]).norm() < 1e-2 * alone.flat[0].norm()


# answers


def test_the_question_is_put_in_every_reading_and_with_each_example_left_out(model, monkeypatch):
    asked = []
    monkeypatch.setattr(fewshot, "generate", lambda model, requests, stack=None, **_: asked.extend(requests) or [model.chat.encode("42\n06\n")] * len(requests))
    ((answer,),) = solve(model, [(MIRROR, None)])
    assert len(asked) == answer.asked == len(READINGS) * 4 and len({r.tokens for r in asked}) == len(asked)
    shown = [model.chat.decode(list(r.tokens)) for r in asked[:4]]
    assert put(MIRROR.train, MIRROR.test[0].input) in shown[0] and [text.count("Output:\n") for text in shown] == [4, 3, 3, 3]
    turned = changed(MIRROR, TRANSPOSE)
    assert put(turned.train, turned.test[0].input) in model.chat.decode(list(asked[4].tokens))
    # as it is, and under each reading turned back: 42/06 transposed, flipped down, flipped right, and turned round
    assert answer.votes == (4, 4) and answer.attempts == (((4, 2), (0, 6)), ((4, 0), (2, 6)))
    assert solved(MIRROR, [answer]) == 1.0 and solved(replace(MIRROR, test=MIRROR.test * 2), [answer, _answer([], 1)]) == 0.5


def test_votes_are_counted_and_the_first_said_wins_a_tie():
    a, b, c = (((n,),) for n in (1, 2, 3))
    assert _answer([a, b, b, c], 9) == fewshot.Answer((b, a), (2, 1), 9) and _answer([], 9).attempts == ()


def test_the_dense_score_is_that_of_the_output_with_all_examples_in_view(model):
    two = replace(MIRROR, test=(*MIRROR.test, Pair(((1, 1), (1, 1)), ((1, 1), (1, 1)))))
    golds = [fewshot._labelled(model, two.train, p.input, p.output) for p in two.test]
    assert dense(model, [(two, None)]) == pytest.approx([sum(mean_logprobs(model.network, [(g, None) for g in golds])) / 2], abs=1e-5)


def test_a_changed_task_is_the_same_task_changed_back():
    colours = [0, 2, 1, *range(3, 10)]
    assert changed(changed(MIRROR, TRANSPOSE, colours), TRANSPOSE, colours) == changed(MIRROR, IDENTITY) == MIRROR
