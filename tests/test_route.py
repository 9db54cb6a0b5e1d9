"""The router: small cases worked by hand, then the figures that its docstring claims, on the shared data."""

import io
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from selfedit.memory import route
from selfedit.memory.route import Router, stem

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data sets in {DATA}")

MEMORIES = {
    "tesla": "Nikola Tesla\nTesla sold his patents to Westinghouse in 1888 and demonstrated alternating current.",
    "oslo": "Oslo trams\nThe tram line to Holmenkollen opened in 1898 and carried skiers out of Oslo.",
}


def test_a_question_goes_to_the_memory_that_shares_its_rare_words():
    router = Router(MEMORIES)
    assert router.route("When did the tram line to Holmenkollen open?")[0] == "oslo"
    assert router.route("Who bought the patents of Nikola Tesla?")[0] == "tesla"


def test_a_question_about_something_else_goes_to_none():
    router = Router(MEMORIES)
    assert router.route("Which planet has the most moons?")[0] is None
    assert router.route("What is the name of the first man who was in the world?")[0] is None


def test_one_memory_alone_does_not_take_every_question():
    router = Router({"oslo": MEMORIES["oslo"]})
    assert router.route("When did the tram line to Holmenkollen open?")[0] == "oslo"
    assert router.route("Who bought the patents of Nikola Tesla?")[0] is None


def test_without_memories_or_without_words_nothing_is_routed():
    assert Router({}).route("Who?") == (None, 0.0)
    assert Router({"empty": ""}).route("Who?") == (None, 0.0)
    assert Router(MEMORIES).route("?!") == (None, 0.0)


def test_the_score_is_the_covered_share_of_the_weight():
    # "zyx" 1, "Qwv" 1.7 (a name), two points never covered: 1.7 / 4.7.
    _, score = Router({"a": "qwv"}).route("zyx Qwv")
    assert score == pytest.approx(1.7 / 4.7)


def test_a_word_that_all_memories_have_decides_nothing_alone():
    texts = {"a": "glorbs are purple", "b": "glorbs are yellow"}
    assert Router(texts).route("yellow glorbs")[0] == "b"
    assert Router(texts).route("purple glorbs")[0] == "a"


def test_the_best_come_in_order_and_are_different_memories():
    texts = MEMORIES | {"long": " ".join(["tram"] * 300), "none": "nothing of it"}
    found = Router(texts).best("Who opened the tram line to Holmenkollen in Oslo?", 3)
    assert [id for id, _ in found] == ["oslo", "long", "tesla"] and found == sorted(found, key=lambda one: -one[1])
    assert (
        Router(texts).best("tram", 9)[0] == Router(texts).best("tram", 1)[0] and len(Router(texts).best("tram", 9)) == 4
    )


def test_an_index_that_was_changed_is_that_of_what_is_there_now():
    draw = random.Random(0)
    texts = {
        str(i): " ".join(draw.choices([f"w{k}" for k in range(400)], k=draw.randrange(500))) for i in range(30)
    } | {"empty": ""}
    router, asked = Router(texts), []
    for _ in range(5):
        texts |= {f"new {len(asked)}": f"zebra {draw.random()} w1 w2"}
        ids = draw.sample(sorted(texts), len(texts) - 3)
        router = router.changed(ids, lambda id: asked.append(id) or texts[id], of="a state")
        assert router.to_bytes() == Router({}).changed(ids, texts.__getitem__, of="a state").to_bytes()
    assert set(asked) <= set(texts) and len(asked) < 40  # not every text again


def test_a_saved_index_routes_alike_and_anything_else_is_none():
    router = Router(MEMORIES)
    again = Router.from_bytes(router.to_bytes())
    assert (
        again.best("the patents of Tesla", 2) == router.best("the patents of Tesla", 2)
        and again.threshold == router.threshold
    )
    for data in (b"", b"PK", router.to_bytes()[:-30]):
        assert Router.from_bytes(data) is None
    with np.load(io.BytesIO(router.to_bytes())) as arrays:
        whole = dict(arrays)
    for name, other in (
        ("format", np.array(route.FORMAT + 1)),
        ("owners", whole["owners"] + 99),
        ("starts", whole["starts"][:-1]),
        ("words", whole["words"][:0]),
    ):
        file = io.BytesIO()
        np.savez(file, **whole | {name: other})
        assert Router.from_bytes(file.getvalue()) is None, name
    assert b"tesla" not in router.to_bytes().replace(
        "tesla".encode("utf-32-le"), b""
    )  # but for the ids there are no words in it


def test_endings_do_not_matter():
    assert stem("invades") == stem("invaded") == stem("Invading") == "invad"
    assert stem("1990s") == "1990s"


def test_single_texts_that_are_about_it_have_no_floor():
    said = {"a": "Membership is 20 dollars. Membership is 25 dollars."}
    asked = "What does membership cost a student?"
    assert Router(said, least=0).route(asked)[0] == "a" and Router(said).route(asked)[0] is None


def test_the_threshold_grows_with_the_number_of_stretches():
    long_text = " ".join(f"word{i}" for i in range(1200))  # ten stretches of 120
    assert Router({"a": "short"}).threshold == Router({"a": "short", "b": "short"}).threshold == 0.19
    assert Router({"a": long_text}).threshold == pytest.approx(0.13 + 0.032 * 2.302585)


def test_a_thousand_memories_answer_a_thousand_queries_in_seconds():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    texts = {str(i): " ".join(draw.choices(words, k=300)) for i in range(1000)}
    router = Router(texts)
    start = time.perf_counter()
    for _ in range(1000):
        router.route(" ".join(draw.choices(words, k=12)))
    assert time.perf_counter() - start < 5


def _rows(name):
    with open(DATA / "general" / name) as file:
        return [json.loads(line) for line in file]


def _stores():
    squad = json.loads((DATA / "squad" / "seal_train199.json").read_text())
    fictional = json.loads((DATA / "fictional_knowledge" / "public65.json").read_text())
    return {
        "squad": {
            row["id"]: (f"{row['title']}\n{row['context']}", [q["question"] for q in row["questions"]]) for row in squad
        },
        "fictional": {row["id"]: (row["context"], [p["prompt"] for p in row["probes"]]) for row in fictional},
    }


def _foreign_questions():
    dev = json.loads((DATA / "squad" / "dev_public1867.json").read_text())  # shares no title with seal_train199
    draw = random.Random(0)
    return {
        "TriviaQA": draw.sample([r["context"].split("\nAnswer")[0][10:] for r in _rows("triviaqa_sm_sub.jsonl")], 200),
        "NQ": draw.sample([r["question"] for r in _rows("nq_open_dev.jsonl")], 200),
        "SQuAD": draw.sample([q["question"] for row in dev for q in row["questions"]], 200),
        "GSM8K": draw.sample([r["context"] for r in _rows("gsm8k.jsonl")], 100),
        "CommonsenseQA": draw.sample(
            [r["query"].split("\nChoices")[0][10:] for r in _rows("commonsense_qa.jsonl")], 100
        ),
    }


@needs_data
@pytest.mark.parametrize(
    ("memories", "repeats", "least_recall"), [(1, 30, 0.98), (5, 10, 0.97), (20, 4, 0.95), (60, 3, 0.93)]
)
def test_recall_and_false_accepts_are_as_claimed(memories, repeats, least_recall):
    foreign = [question for questions in _foreign_questions().values() for question in questions]
    draw = random.Random(memories)
    recalls, false_accepts = [], []
    for name, store in _stores().items():
        right, accepted = [], []
        for _ in range(repeats):
            picked = draw.sample(sorted(store), memories)
            router = Router({key: store[key][0] for key in picked})
            right += [router.route(question)[0] == key for key in picked for question in store[key][1]]
            accepted += [router.route(question)[0] is not None for question in foreign]
        recalls.append(sum(right) / len(right))
        false_accepts.append(sum(accepted) / len(accepted))
        print(f"{name}, {memories} memories: recall {recalls[-1]:.3f} (n={len(right)}), ", end="")
        print(f"false accepts {false_accepts[-1]:.3f} (n={len(accepted)})")
    assert sum(recalls) / 2 >= least_recall
    assert max(false_accepts) <= 0.05
