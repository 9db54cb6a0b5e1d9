"""The router: small cases worked by hand, the index against the reference, and the study's figures on shared data."""

import json
import random
import sqlite3
import time
from pathlib import Path

import pytest

from selfedit.memory import route
from selfedit.memory.route import Router

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data sets in {DATA}")

MODEL = "m" * 64
MEMORIES = {
    "tesla": "Nikola Tesla\nTesla sold his patents to Westinghouse in 1888 and demonstrated alternating current.",
    "oslo": "Oslo trams\nThe tram line to Holmenkollen opened in 1898 and carried skiers out of Oslo.",
}


def index_of(texts, path=":memory:"):
    """A database with an index of these memories, all active."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute(
        "CREATE TABLE active(memory_id TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE) WITHOUT ROWID"
    )
    route.create(connection)
    connection.execute("BEGIN")
    for position, (id, text) in enumerate(texts.items()):
        route.add(connection, id, MODEL, text)
        activate(connection, id, position)
    connection.execute("COMMIT")
    return connection


def activate(connection, id, position):
    connection.execute("INSERT INTO active VALUES (?, ?)", (id, position))


def deactivate(connection, id):
    connection.execute("DELETE FROM active WHERE memory_id = ?", (id,))


@pytest.fixture(params=["texts", "index"])
def router_of(request):
    """Both implementations: the reference, which scores every stretch, and the index."""
    return Router.of_texts if request.param == "texts" else lambda texts: Router(index_of(texts), MODEL)


def test_a_question_goes_to_the_memory_that_shares_its_rare_words(router_of):
    router = router_of(MEMORIES)
    assert router.route("When did the tram line to Holmenkollen open?")[0] == "oslo"
    assert router.route("Who bought the patents of Nikola Tesla?")[0] == "tesla"
    assert router.ids == ["tesla", "oslo"]


def test_a_question_about_something_else_goes_to_none(router_of):
    router = router_of(MEMORIES)
    assert router.route("Which planet has the most moons?")[0] is None
    assert router.route("What is the name of the first man who was in the world?")[0] is None


def test_one_memory_alone_does_not_take_every_question(router_of):
    router = router_of({"oslo": MEMORIES["oslo"]})
    assert router.route("When did the tram line to Holmenkollen open?")[0] == "oslo"
    assert router.route("Who bought the patents of Nikola Tesla?")[0] is None


def test_without_memories_or_without_words_nothing_is_routed(router_of):
    assert router_of({}).route("Who?") == (None, 0.0)
    assert router_of({"empty": ""}).route("Who?") == (None, 0.0)
    assert router_of(MEMORIES).route("?!") == (None, 0.0)


def test_the_score_is_the_covered_share_of_the_weight(router_of):
    # "zyx" 1, "Qwv" 1.7 (a name), two points never covered: 1.7 / 4.7.
    _, score = router_of({"a": "qwv"}).route("zyx Qwv")
    assert score == pytest.approx(1.7 / 4.7)


def test_a_word_that_all_memories_have_decides_nothing_alone(router_of):
    texts = {"a": "glorbs are purple", "b": "glorbs are yellow"}
    assert router_of(texts).route("yellow glorbs")[0] == "b"
    assert router_of(texts).route("purple glorbs")[0] == "a"


def test_the_best_come_in_order_and_are_different_memories(router_of):
    texts = MEMORIES | {"long": " ".join(["tram"] * 300), "none": "nothing of it"}
    router = router_of(texts)
    found = router.best("Who opened the tram line to Holmenkollen in Oslo?", 3)
    assert [id for id, _ in found] == ["oslo", "long", "tesla"] and found == sorted(found, key=lambda one: -one[1])
    assert router.best("tram", 9)[:1] == router.best("tram", 1)
    assert [id for id, _ in router.best("tram", 9)] == ["oslo", "long"]  # whatever shares no word is not among them


def test_among_memories_that_have_the_words_their_number_order_and_length_decide(router_of):
    often = "The option strict is new. With strict, the option checks types. Without strict it is lax."
    once = "The option lax is new. With lax, the option skips types. It replaces strict of the older release, at last."
    pair = "Quill reads a batched csv in one go and quill scans the rest of a file."
    turned = "Quill reads the rest of a file in one go and quill scans a csv batched."
    router = router_of({"once": once, "often": often, "pair": pair, "turned": turned})
    assert router.route("What does the option strict do?")[0] == "often"
    assert router.route("What does quill do with a csv batched?")[0] == "turned"
    assert router.route("What does quill do with a batched csv?")[0] == "pair"
    ranked = router.ranked("What does quill do with a batched csv?")
    assert [id for id, _ in ranked] == ["pair", "turned"]
    assert router.ranked("Which river is longest?") == []


def test_any_text_may_be_an_id():
    assert Router.of_texts({"": "The gate of Orsk is red."}, 0).route("Which gate is red?")[0] == ""


def test_of_equal_memories_the_one_that_became_active_first_is_chosen():
    connection = index_of({"b": "the zebra", "a": "the zebra", "c": "the zebra"})
    assert [id for id, _ in Router(connection, MODEL).best("zebra", 2)] == ["b", "a"]
    deactivate(connection, "b")
    activate(connection, "b", 9)
    assert [id for id, _ in Router(connection, MODEL).best("zebra", 3)] == ["a", "c", "b"]


def test_one_more_text_is_routed_to_as_if_it_were_a_memory():
    texts, extra = dict(list(MEMORIES.items())[:1]), MEMORIES["oslo"]
    for router in (Router(index_of(texts), MODEL), Router.of_texts(texts)):
        both, reference = router.with_text("new", extra), Router.of_texts(texts | {"new": extra})
        for query in (
            "When did the tram to Holmenkollen open?",
            "What did Tesla sell to Westinghouse?",
            "the patents in Oslo",
        ):
            assert both.best(query, 3) == reference.best(query, 3)
        assert both.threshold == reference.threshold and both.ids == ["tesla", "new"] and router.ids == ["tesla"]


def test_the_index_finds_what_the_reference_finds_whatever_is_active():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(400)] + ["the", "of", "which", "game", "Holmenkollen"] * 20
    texts = {str(i): " ".join(draw.choices(words, k=draw.randrange(500))) for i in range(80)} | {"empty": ""}
    connection, active, above = index_of(texts), list(texts), 0
    for step in range(4):
        for id in draw.sample(active, 10):
            deactivate(connection, id)
            active.remove(id)
            if step % 2:
                route.remove(connection, id)
                del texts[id]
        for id in [id for id in texts if id not in active][:5]:  # active again, at the end
            activate(connection, id, 1000 + len(texts) * step + len(active))
            active.append(id)
        router, reference = Router(connection, MODEL), Router.of_texts({id: texts[id] for id in active})
        assert router.ids == active and router.threshold == reference.threshold
        for _ in range(25):
            query = " ".join(draw.choices(words, k=draw.randrange(1, 12)))
            assert router.best(query, 4) == reference.best(query, 4)
            expected = reference.route(query)
            if expected[0] is not None:
                assert router.route(query) == expected
                above += 1
            else:
                assert router.route(query)[0] is None and router.route(query)[1] <= expected[1]
    assert above > 10
    connection.execute("INSERT INTO index_words(index_words) VALUES ('integrity-check')")


def test_memories_of_another_model_count_for_nothing():
    connection = index_of(MEMORIES)
    route.add(connection, "other", "n" * 64, f"{MEMORIES['oslo']} " * 40)
    activate(connection, "other", 10)
    router, reference = Router(connection, MODEL), Router.of_texts(MEMORIES)
    assert router.ids == list(MEMORIES) and router.threshold == reference.threshold
    assert router.best("the tram to Holmenkollen", 3) == reference.best("the tram to Holmenkollen", 3)
    assert Router(connection, "n" * 64).ids == ["other"]


def test_what_is_removed_leaves_no_trace_of_its_words(tmp_path):
    texts = {f"m{i}": f"memory {i} of the zebra" for i in range(50)} | {"secret": "the xylophone quagmire"}
    connection = index_of(texts, tmp_path / "memory.db")
    traces = [route._hash(term, MODEL, "en").encode() for term in ("xylophon", "quagmir")]
    assert all(trace in (tmp_path / "memory.db").read_bytes() for trace in traces)
    deactivate(connection, "secret")
    assert Router(connection, MODEL).route("xylophone quagmire") == (None, 0.0)
    route.remove(connection, "secret")
    route.remove(connection, "never there")
    assert not any(trace in (tmp_path / "memory.db").read_bytes() for trace in traces)
    assert b"xylophon" not in (tmp_path / "memory.db").read_bytes()
    assert Router(connection, MODEL).best("zebra", 1) == Router.of_texts(texts).best("zebra", 1)


def test_an_aborted_change_leaves_the_index_as_it_was():
    connection = index_of(MEMORIES)
    before = Router(connection, MODEL).best("the tram to Holmenkollen", 3)
    connection.execute("BEGIN")
    deactivate(connection, "oslo")
    route.remove(connection, "oslo")
    route.add(connection, "new", MODEL, "the tram to Holmenkollen")
    connection.execute("ROLLBACK")
    assert Router(connection, MODEL).best("the tram to Holmenkollen", 3) == before


def test_single_texts_that_are_about_it_have_no_floor():
    texts = {"a": "Membership is 20 dollars. Membership is 25 dollars."}
    question = "What does membership cost a student?"
    assert Router.of_texts(texts, least=0).route(question)[0] == "a"
    assert Router.of_texts(texts).route(question)[0] is None


def test_the_threshold_grows_with_the_number_of_stretches(router_of):
    long_text = " ".join(f"word{i}" for i in range(1200))  # ten stretches of 120
    assert router_of({"a": "short"}).threshold == router_of({"a": "short", "b": "short"}).threshold == 0.19
    assert router_of({"a": long_text}).threshold == pytest.approx(0.13 + 0.032 * 2.302585)


def test_a_thousand_memories_answer_a_thousand_queries_in_seconds():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    texts = {str(i): " ".join(draw.choices(words, k=300)) for i in range(1000)}
    router = Router(index_of(texts), MODEL)
    start = time.process_time()  # not the clock: other processes would count
    for _ in range(1000):
        router.route(" ".join(draw.choices(words, k=12)))
    assert time.process_time() - start < 10  # the worst case: every word is as rare as any other


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
            router = Router.of_texts({key: store[key][0] for key in picked})
            right += [router.route(question)[0] == key for key in picked for question in store[key][1]]
            accepted += [router.route(question)[0] is not None for question in foreign]
        recalls.append(sum(right) / len(right))
        false_accepts.append(sum(accepted) / len(accepted))
        print(f"{name}, {memories} memories: recall {recalls[-1]:.3f} (n={len(right)}), ", end="")
        print(f"false accepts {false_accepts[-1]:.3f} (n={len(accepted)})")
    assert sum(recalls) / 2 >= least_recall
    assert max(false_accepts) <= 0.05
