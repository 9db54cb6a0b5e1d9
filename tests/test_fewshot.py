"""Few-shot tasks on a model of random weights: grammars, recipes, what is studied, how votes are taken."""

import json
import math
import random
import re
from dataclasses import replace
from functools import partial

import pytest
from conftest import write_tiny_model

from selfedit.config import FewshotConfig, TrainConfig
from selfedit.edits.recipe import (
    FAMILIES,
    Recipe,
    grammar,
    read_recipe,
    recipe_prompt,
    recipe_tokens,
    write_recipes,
    writing_sequence,
)
from selfedit.errors import ModelError, SelfeditError
from selfedit.loop import fewshot
from selfedit.loop.fewshot import (
    Answer,
    alphabet,
    changed,
    check,
    form_of,
    gold_logprob,
    job,
    joined,
    labelled,
    rated,
    shown,
    solve,
    solved,
    study_items,
)
from selfedit.model.backend import Job, LoraConfig, Request
from selfedit.model.grammar import GridForm, choices
from selfedit.model.load import load_model
from selfedit.model.packed.backend import PackedBackend
from selfedit.model.packed.lora import LoraBatch
from selfedit.model.packed.score import gold_logprobs
from selfedit.model.packed.train import train
from selfedit.tasks.arc import ArcTask, Pair
from selfedit.tasks.augment import IDENTITY, READINGS, TRANSPOSE

MIRROR = ArcTask(
    "mirror",
    tuple(Pair(((a, b), (c, 0)), ((b, a), (0, c))) for a, b, c in ((1, 2, 3), (4, 5, 6), (7, 8, 9))),
    (Pair(((2, 4), (6, 0)), ((4, 2), (0, 6))),),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(
        str(write_tiny_model(tmp_path_factory.mktemp("roomy") / "model", max_position_embeddings=4096)), device="cpu"
    )


# grammars


@pytest.fixture(scope="module")
def form(model):
    return form_of(model)


class Joining:
    """A tokenizer that joins up to three digits that stand side by side, as Llama 3's does."""

    ends = {9999}

    def encode(self, text: str) -> list[int]:
        return [self.id(part) for part in re.findall(r"\d{1,3}|\s|\D", text)]

    def id(self, part: str) -> int:
        return int(part) + 1000 * len(part) if part.isdigit() else ord(part)

    def decode(self, tokens) -> str:
        return "".join(str(t % 1000).zfill(t // 1000) if t >= 1000 else chr(t) for t in tokens)


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
    found = {read_recipe(model.chat.decode(random_walk(allow, model.chat.ends, draw))) for _ in range(60)}
    assert len(found) > 40
    for recipe in found:
        assert read_recipe(recipe.to_json()) == recipe
        sequence = writing_sequence(model, "a task", recipe)
        start = len(recipe_prompt(model, "a task"))
        written = list(sequence.tokens[start:])
        assert model.chat.decode(written) == recipe.to_json()
        assert all(token in allow(written[:i]) for i, token in enumerate(written))
        assert set(allow(written)) == set(model.chat.ends)
        free = [start + i for i in range(len(written)) if len(allow(written[:i])) > 1]
        assert (
            list(sequence.label_positions) == free and len(free) < len(written) / 3
        )  # what the grammar forces needs no learning


def test_a_choice_that_begins_another_can_be_written_whole(model):
    allow = choices(model.chat, [("1", "15"), ("5", "!")])
    one, five, mark = (model.chat.encode(c)[0] for c in "15!")
    assert set(allow([])) == {one} and set(allow([one])) == {five, mark}
    assert set(allow([one, five])) == {five, mark, *model.chat.ends}  # 1 and 5, or 15 and what follows
    assert set(allow([one, five, five])) == set(model.chat.ends)


@pytest.mark.parametrize("joins", [False, True], ids=["a token a digit", "digits are joined"])
def test_whatever_the_grammar_of_grids_lets_through_is_a_grid_and_every_grid_is_let_through(model, joins):
    chat, draw = Joining() if joins else model.chat, random.Random(0)
    form = GridForm(chat, 5)
    assert form.between == (" " if joins else "")
    sizes = set()
    for _ in range(300):
        written = random_walk(form.allow, chat.ends, draw)
        said = form.read(chat.decode(written))
        assert said and len(said) <= 5 and len(said[0]) <= 5 and [*form.tokens(said), *form.line] == written
        sizes.add((len(said), len(said[0])))
    assert len(sizes) > 8
    for rows, columns in ((1, 1), (5, 5), (2, 5), (5, 1)):
        tokens = chat.encode(form.text([[draw.randrange(10) for _ in range(columns)] for _ in range(rows)]))
        assert all(token in form.allow(tokens[:i]) for i, token in enumerate(tokens)) and form.line[0] in form.allow(
            tokens
        )
        assert set(form.allow([*tokens, *form.line])) == set(chat.ends)
        sized = partial(form.allow, size=(rows, columns), colours=(2, 7))
        said = form.read(chat.decode(random_walk(sized, chat.ends, draw)))
        assert (len(said), len(said[0])) == (rows, columns) and {cell for row in said for cell in row} <= {2, 7}


def test_a_tokenizer_that_has_no_token_for_a_cell_is_refused(model, monkeypatch):
    split = type("Split", (), {"ends": {0}, "encode": lambda self, text: [c for one in text for c in (7, ord(one))]})
    with pytest.raises(ModelError, match="does not have a token for each cell"):
        GridForm(split(), 30)


def test_decoding_keeps_to_the_grammar_greedy_and_drawn(model):
    prompt = tuple(model.chat.ask("A grid?"))
    form = GridForm(model.chat, 3)
    allow = form.allow
    asked = [
        Request(prompt, None, 13, temperature, seed=i, allow=allow) for i, temperature in enumerate((0.0, 1.0, 1.5))
    ]
    free, *found = model.backend.generate([Request(prompt, None, 13), *asked])
    assert form.read(model.chat.decode(free)) is None  # a random model does not by itself
    for tokens in found:
        assert all(token in allow(tokens[:i]) for i, token in enumerate(tokens))
    assert found == model.backend.generate(asked)


def test_only_what_is_a_grid_is_read_as_one(form):
    assert (
        form.read("12\n34\n") == form.read("12\n34") == ((1, 2), (3, 4)) and form.text(((1, 2), (3, 4))) == "12\n34\n"
    )
    assert form.read("12\n34\n\n") == ((1, 2), (3, 4))
    for text in ("", "\n", "12\n3\n", "12\n34\n\n\n", "1a\n", "²\n", "1\n" * 31, "1" * 31, "12\n\n34"):
        assert form.read(text) is None, text


# recipes


def test_recipes_are_written_by_their_seed_and_always_parse(model):
    asked = [("a task", seed) for seed in range(6)]
    recipes = write_recipes(model, asked)
    assert recipes == write_recipes(model, asked) and len(set(recipes)) > 3


def test_an_editor_writes_what_it_has_learned_to_write(model):
    wanted = Recipe(basic=False, repeat=True, learning_rate=3e-5, epochs=5, items=16)
    sequence = writing_sequence(model, "a task", wanted)
    editor, _ = train(
        model.backend.network,
        [Job((sequence,) * 4)],
        TrainConfig(rank=8, alpha=16.0, learning_rate=1e-2, epochs=150, batch_size=4, steps_per_epoch=1),
    )
    assert (
        write_recipes(model, [("a task", 0)], editor, temperature=0.0)
        == [wanted]
        != write_recipes(model, [("a task", 0)], temperature=0.0)
    )
    assert len(sequence.tokens) - len(recipe_prompt(model, "a task")) < recipe_tokens(model)


def part(name: str, **values) -> str:
    return json.dumps({name: values})


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "a recipe is JSON"),
        ("[]", "a recipe is an object of data_generation and training"),
        ('{"other": {}}', "a recipe is an object"),
        ('{"training": 3}', "each an object"),
        (part("training", rate=1), "training has no 'rate'; known: strategy"),
        (part("training", strategy="all"), "strategy is all; known: train_using_all_tokens"),
        (part("training", num_train_epochs=10**9), "epochs is 1000000000: give a whole number above 0, at most 20"),
        (part("training", num_train_epochs=2.5), "epochs is 2.5: give a whole"),
        (part("training", learning_rate=0), "learning_rate is 0: give a number above 0"),
        ('{"training": {"learning_rate": NaN}}', "learning_rate is nan"),
        (part("training", learning_rate=True), "learning_rate is True"),
        (part("training", strategy=None), "strategy is None"),
        (part("data_generation", num_items=0), "items is 0"),
        (part("data_generation", use_basic_augmentations="yes"), "basic is yes: give true or false"),
        ("[" * 100_000, "a recipe is JSON"),
        (part("training", strategy=[1]), "strategy is [1]"),
    ],
)
def test_a_hostile_recipe_is_refused_in_one_line(text, message):
    with pytest.raises(SelfeditError) as caught:
        read_recipe(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# what is studied


def test_whoever_chooses_a_recipe_does_not_see_the_output(model):
    assert shown(model, MIRROR) == shown(model, replace(MIRROR, test=(Pair(MIRROR.test[0].input, None),)))


def test_items_are_tasks_with_examples_left_out_in_the_ways_the_recipe_allows(model, form):
    plain = Recipe(basic=False, items=8, loss="all_tokens")
    items = study_items(model, MIRROR, plain, seed=0)
    texts = {model.chat.decode(list(item.tokens)) for item in items}
    assert len(texts) == len(items) == 8 and all(item.label_start == 1 for item in items)
    assert {text.count("Input:") for text in texts} == {2, 3}  # one or two left out
    assert items == study_items(model, MIRROR, plain, seed=0) != study_items(model, MIRROR, plain, seed=1)
    outputs = study_items(model, MIRROR, replace(plain, loss="output_tokens"), seed=0)
    assert [item.tokens for item in outputs] == [item.tokens for item in items]
    assert all(form.read(model.chat.decode(item.targets)) for item in outputs)
    every = study_items(model, MIRROR, replace(plain, loss="all_outputs"), seed=0)
    for one, last, text in zip(every, outputs, (model.chat.decode(list(item.tokens)) for item in items)):
        assert model.chat.decode(one.targets) == "".join(
            part.split("Input:")[0] for part in text.split("Output:\n")[1:]
        )
        assert one.targets[-last.labels :] == last.targets and one.tokens == last.tokens
    wide = [
        model.chat.decode(list(item.tokens))
        for item in study_items(model, MIRROR, Recipe(basic=False, size=True, items=40), seed=0)
    ]
    assert any("1122\n" in text or len(text.split("Input:\n")[1].split("\n")[0]) == 4 for text in wide)


def test_the_question_of_the_test_is_never_studied(model):
    secret = replace(MIRROR, test=(Pair(((5, 5), (5, 5)), ((6, 6), (6, 6))),))
    for family in FAMILIES:
        assert study_items(model, secret, Recipe(**{family: True}), 0) == study_items(
            model, MIRROR, Recipe(**{family: True}), 0
        )


def test_too_few_items_are_taken_as_they_are(model):
    two = replace(MIRROR, train=tuple(Pair(((0,) * n,), ((0,),) * n) for n in (2, 3)))  # colours make no difference
    assert len(study_items(model, two, Recipe(basic=False, items=512), 0)) == 2
    with pytest.raises(SelfeditError, match="at least 2 are needed"):
        check(model, [replace(MIRROR, train=MIRROR.train[:1])])
    with pytest.raises(SelfeditError, match="task mirror is there twice"):
        check(model, [MIRROR, MIRROR])


def test_what_does_not_fit_the_model_is_said_before_any_work(model):
    large = tuple(Pair(((1,) * 30,) * 30, ((2,) * 30,) * 30) for _ in range(4))
    with pytest.raises(SelfeditError, match="take [0-9]+ tokens; .* reads 4096"):
        check(model, [MIRROR, ArcTask("large", large, MIRROR.test)])
    long = replace(MIRROR, test=(Pair(MIRROR.test[0].input, ((0,) * 500,) * 9),))  # whose output alone is too long
    with pytest.raises(SelfeditError, match="reads 4096"):
        check(model, [long])
    check(model, [MIRROR])


def test_candidates_of_other_rates_and_epochs_train_in_one_stack_as_alone(model):
    config = replace(FewshotConfig().train, rank=2)
    recipes = [
        Recipe(basic=False, items=3, epochs=1, learning_rate=1e-2),
        Recipe(items=5, epochs=2, loss="output_tokens"),
    ]
    jobs = [job(model, MIRROR, recipe, 0) for recipe in recipes]
    stack, logs = train(model.backend.network, jobs, config)
    assert [len(log.losses) for log in logs] == [1, 2]
    for row, one in enumerate(jobs):
        alone, _ = train(model.backend.network, [one], config)
        start = LoraBatch(model.backend.network.shape, stack.config, 1)
        start.init_(0, one.seed)
        assert (stack.flat[row] - alone.flat[0]).norm() < 0.1 * (alone.flat[0] - start.flat[0]).norm()


def test_studying_a_rule_makes_its_answer_likelier(model):
    recipe = Recipe(basic=False, items=32, epochs=6, learning_rate=1e-2, loss="output_tokens")
    (tried,), (before,) = (
        fewshot.try_recipes(model, [(MIRROR, recipe, 0)], FewshotConfig(train=replace(FewshotConfig().train, rank=8))),
        gold_logprob(model, [(MIRROR, None)]),
    )
    assert tried.gold_logprob > before + 0.5 and tried.tokens > 0


# answers


def test_the_question_is_put_in_every_reading_and_with_each_example_left_out(model, form, monkeypatch):
    asked = []
    monkeypatch.setattr(
        PackedBackend,
        "generate",
        lambda self, requests, adapters=None, **_: (
            asked.extend(requests) or [model.chat.encode("42\n06\n")] * len(requests)
        ),
    )
    monkeypatch.setattr(fewshot, "rated", lambda model, rows, adapters=None: [()] * len(rows))
    ((answer,),) = solve(model, [(MIRROR, None)])
    assert len(asked) == answer.num_asked == len(READINGS) * 4 and len({r.tokens for r in asked}) == len(asked)
    seen = [model.chat.decode(list(r.tokens)) for r in asked[:4]]
    assert seen[0] == f"{shown(model, MIRROR)}\n" and [text.count("Output:\n") for text in seen] == [4, 3, 3, 3]
    assert model.chat.decode(list(asked[4].tokens)) == f"{shown(model, changed(MIRROR, TRANSPOSE))}\n"
    # as it is, and under each reading turned back: 42/06 transposed, flipped down, flipped right, and turned round
    assert answer.votes == [4, 4] and answer.attempts == [((4, 2), (0, 6)), ((4, 0), (2, 6))]
    assert (
        solved(MIRROR, [answer]) == 1.0
        and solved(replace(MIRROR, test=MIRROR.test * 2), [answer, Answer((), 1)]) == 0.5
    )


def test_an_answer_that_was_cut_off_has_no_vote(model, form, monkeypatch):
    cut = model.chat.encode("42\n" * 100)
    monkeypatch.setattr(
        PackedBackend,
        "generate",
        lambda self, requests, adapters=None, **_: [cut[: r.max_new_tokens] for r in requests],
    )
    ((answer,),) = solve(model, [(MIRROR, None)])
    assert answer.grids == () and answer.num_asked == 20


def test_an_adapter_that_diverged_has_no_score(model):
    stack = LoraBatch(model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj",), (3,)), 1)
    stack.flat.fill_(float("nan"))
    assert gold_logprob(model, [(MIRROR, 0)], stack) == [None]


def test_the_likeliest_then_the_most_frequent_then_the_first_said_is_the_best():
    a, b, c = (((n,),) for n in (1, 2, 3))
    assert Answer((a, b, b, c), 9).best == [(b, 2), (a, 1)] and Answer((), 9).attempts == []
    assert Answer((a, b, b, c), 9, ((b, 0.1), (a, 0.3), (c, 0.6))).best == [(c, 1), (a, 1)]
    both = joined([Answer((a, b), 2, ((a, 0.9), (b, 0.1))), Answer((b, c), 2, ((b, 1.0), (c, 0.0)))])
    assert both.best == [(b, 2), (a, 1)] and both.num_asked == 4 and dict(both.odds) == {a: 0.45, b: 0.55, c: 0.0}


def test_answers_are_rated_by_their_likelihood_in_all_readings(model, form):
    grids = [((4, 2), (0, 6)), ((2, 4), (6, 0)), ((0, 0), (0, 0))]
    ((odds, none),) = [rated(model, [(replace(MIRROR, test=MIRROR.test * 2), None, [grids, []])])]
    values = []
    for grid in grids:
        turned = [changed(replace(MIRROR, test=(Pair(MIRROR.test[0].input, grid),)), reading) for reading in READINGS]
        golds = [labelled(form, [*t.train, *t.test], "output_tokens") for t in turned]
        values.append(
            sum(
                m * g.labels
                for m, g in zip(
                    gold_logprobs(model.backend.network, [(g, None) for g in golds], vocabulary=alphabet(form)), golds
                )
            )
            / len(READINGS)
        )
    assert none == () and [grid for grid, _ in odds] == grids
    assert [share for _, share in odds] == pytest.approx(
        [math.exp(v) / sum(map(math.exp, values)) for v in values], abs=1e-4
    )
    broken = LoraBatch(model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj",), (3,)), 1)
    broken.flat.fill_(float("nan"))
    assert rated(model, [(MIRROR, 0, [grids])], broken) == [()]


def test_the_dense_score_is_that_of_the_output_with_all_examples_in_view(model, form):
    two = replace(MIRROR, test=(*MIRROR.test, Pair(((1, 1), (1, 1)), ((1, 1), (1, 1)))))
    golds = [labelled(form, [*two.train, p], "output_tokens") for p in two.test]
    assert gold_logprob(model, [(two, None)]) == pytest.approx(
        [sum(gold_logprobs(model.backend.network, [(g, None) for g in golds], vocabulary=alphabet(form))) / 2], abs=1e-5
    )


def test_where_training_is_in_bf16_so_is_all_of_a_task(model, monkeypatch):
    mixed = load_model(str(model.folder), device="cpu", precision="mixed")
    seen = []
    for name in ("train", "generate", "gold_logprobs"):
        method = getattr(PackedBackend, name)
        monkeypatch.setattr(
            PackedBackend,
            name,
            lambda self, *rest, method=method, **named: seen.append(self.network) or method(self, *rest, **named),
        )
    fewshot.try_recipes(mixed, [(MIRROR, Recipe(items=2, epochs=1), 0)])
    assert len(seen) == 2 + len(READINGS) + 1 and all(network.layers[0].linears["down"].always_bf16 for network in seen)
    assert not mixed.backend.network.layers[0].linears["down"].always_bf16
    assert gold_logprob(mixed, [(MIRROR, None)]) != gold_logprob(model, [(MIRROR, None)])


def test_a_changed_task_is_the_same_task_changed_back():
    colours = [0, 2, 1, *range(3, 10)]
    assert changed(changed(MIRROR, TRANSPOSE, colours), TRANSPOSE, colours) == changed(MIRROR, IDENTITY) == MIRROR
