"""An answer that the passages support stays; else their best sentence answers."""

from types import SimpleNamespace

import pytest

from selfedit.answers.answerer import BOTH, TEXT, WEIGHTS, Answerer, Ask
from selfedit.judge import evaluate
from selfedit.judge.grounding import grounded, is_quoted, quote
from selfedit.memory.store import MemoryStore
from selfedit.model.load import Model
from selfedit.types import Passage, Question

GUIDE = Passage(
    "Quill 3: Upgrading",
    "The cache is now on by default. To turn it off, set `QUILL_CACHE=off`.\n\n"
    "```\n>>> quill.open(path)\n\n>>> quill.close()\n```\n\n"
    "| Option | Default |\n|---|---|\n| depth | 4 |\n\n"
    "Reading a closed file raises `ClosedError`. That was a `ValueError` before.",
    "/guide.md",
    "a" * 64,
)
OTHER = Passage("Quill 3: Mill", "The mill grinds rye on Mondays only.", "/mill.md", "b" * 64)


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("How do I turn the cache of Quill 3 off?", "To turn it off, set `QUILL_CACHE=off`."),
        ("Which error does reading a closed file raise in Quill 3?", "Reading a closed file raises `ClosedError`."),
        ("What is the default of the option depth?", "depth: Default 4"),
        ("When does the mill of Quill 3 grind rye?", "The mill grinds rye on Mondays only."),
        ("How are quill.open(path) and quill.close() called?", "```\n>>> quill.open(path)\n\n>>> quill.close()\n```"),
    ],
)
def test_the_sentence_that_has_most_of_the_question_is_quoted_and_code_as_it_is(question, sentence):
    quoted = quote(question, [OTHER, GUIDE])
    assert quoted.text == quoted.support.sentence == sentence and quoted.quoted and 0 < quoted.margin < 1
    assert quoted.support.passage is (OTHER if "mill" in question else GUIDE) and quoted.support.asked > 0.5


def test_a_long_block_of_code_must_fit_better_than_a_sentence():
    lines = "".join(f"with quill.mill(grain, speed={i}) as sack:\n    sack.weigh()\n" for i in range(9))
    passage = Passage("", f"```\n{lines}```\n\nWait.\n\nThe mill fills a sack with grain.", "/s.md", "c" * 64)
    short = Passage("", "```\nmill(grain, sack)\n```\n\nWait.\n\nThe mill fills a sack with grain.", "/s.md", "c" * 64)
    assert quote("Mill, grain, sack?", [passage]).text == "The mill fills a sack with grain."
    assert quote("Mill, grain, sack?", [short]).text == "```\nmill(grain, sack)\n```"
    assert quote("At which speed is the mill run?", [passage]).text.startswith("```")


def test_what_a_sentence_refers_to_stands_in_the_one_before():
    text = "The harbour opens at six. On Sundays it opens later. The mill closes early. On Sundays it closes at noon."
    passage = Passage("", text, "/s.md", "c" * 64)
    for subject, sentence in {"harbour": "On Sundays it opens later.", "mill": "On Sundays it closes at noon."}.items():
        assert quote(f"What does the {subject} do on Sundays?", [passage]).text == sentence


def test_a_question_that_its_quotation_answers_is_not_read_by_a_model(monkeypatch):
    quoted = Question("How do I turn the cache of Quill 3 off?", ("`QUILL_CACHE=off`",))
    unquoted = Question("What was the error that reading a closed file raises before?", ("AttributeError",))
    text = Question("To turn it off, set", ("`QUILL_CACHE=off`",), kind="cloze")
    assert [is_quoted(q, GUIDE) for q in (quoted, unquoted, text)] == [True, False, False]
    asked = []

    def texts(model, queries, *_):
        asked.extend(query.question for query in queries)
        return ["`QUILL_CACHE=off`" for _ in queries]

    monkeypatch.setattr(evaluate, "_texts", texts)
    pairs = [(quoted, GUIDE), (unquoted, GUIDE), (text, GUIDE)]
    for reads_well, left in ((True, [unquoted, text]), (False, [text])):
        asked.clear()
        assert evaluate.read(SimpleNamespace(reads_well=reads_well), pairs) == [True, False, True]
        assert asked == left


def test_a_row_of_a_table_is_quoted_alone():
    told = (
        "Removed: `melt()`; Use instead: `unpivot()`\nRemoved: `fetch()`; Use instead: `head().collect()`\n"
        "Removed: `width`; Use instead: `size`"
    )
    passage = Passage("Removed", f"These are gone:\n\n{told}", "/r.md", "d" * 64)
    assert quote("What replaces fetch() since it was removed?", [passage]).text == told.splitlines()[1]


def test_what_a_sentence_only_introduces_is_quoted_with_it():
    code = "```\nhash(tuple(self))\n```"
    passage = Passage("Quill", f"The ink dries. Pseudo-code of its hash:\n\n{code}\n\nIt is fast.", "/h.md", "f" * 64)
    assert quote("What is the pseudo-code of the hash?", [passage]).text == f"Pseudo-code of its hash:\n{code}"
    more = Passage(
        "Quill", "The pen has three nibs, of gold, of steel and of glass:\n\nIt is heavy.", "/n.md", "f" * 64
    )
    assert quote("How many nibs has the pen?", [more]).text == "The pen has three nibs, of gold, of steel and of glass:"


@pytest.mark.parametrize("fence", ["```", "````", "~~~", "  ```"])
def test_code_is_quoted_whole_and_nothing_after_it(fence):
    block = (
        f"{fence}python\nquill.open(path)\n\n  ```x``` inside\n{fence}\t"
        if fence == "````"
        else f"{fence}\nquill.open(path)\n{fence}"
    )
    passage = Passage("", f"Do this:\n\n{block}\n\nThe mill is old.", "/c.md", "e" * 64)
    assert quote("How is quill.open called with a path?", [passage]).text == block.strip()
    assert quote("Is the mill old?", [passage]).text == "The mill is old."
    cut = Passage("", f"Do this:\n\n{fence}\nquill.open(path)", "/c.md", "e" * 64)
    assert quote("How is quill.open called with a path?", [cut]).text == f"{fence}\nquill.open(path)".strip()


def test_the_lead_of_a_quotation_is_over_what_is_not_quoted_wherever_that_stands():
    asked = "When does the mill of Quill 3 grind rye?"
    copy = Passage("Quill 3: Mill", OTHER.text, "/copy.md", "f" * 64)
    assert quote(asked, [OTHER, copy, GUIDE]).margin == quote(asked, [OTHER, GUIDE]).margin > 0.3


def test_nothing_is_quoted_that_shares_no_word_with_the_question():
    assert quote("Wann mahlt Müller Roggen?", [GUIDE]) is None
    result = grounded("Wann mahlt Müller Roggen?", "Montags.", [GUIDE])
    assert (result.text, result.quoted) == ("Montags.", False)


@pytest.mark.parametrize(
    ("answer", "stays"),
    [
        ("`ClosedError`", True),
        ("It raises ClosedError.", True),
        ("`TypeError`", False),  # in no passage
        ("Reading a closed file raises an error.", False),  # only the question again
        ("", False),
    ],
)
def test_an_answer_stays_if_it_says_something_that_a_passage_has(answer, stays):
    result = grounded("Which error does reading a closed file raise?", answer, [OTHER, GUIDE])
    assert result.text == (answer if stays else "Reading a closed file raises `ClosedError`.")
    assert result.quoted is not stays and result.support.passage is GUIDE


def test_a_question_that_asks_two_things_gets_two_sentences_in_their_order():
    asked = "Which error was raised before, and which does reading a closed file raise?"
    assert quote(asked, [OTHER, GUIDE]).text == (
        "Reading a closed file raises `ClosedError`. That was a `ValueError` before."
    )
    assert quote("When does the mill of Quill 3 grind rye, and what?", [OTHER]).text == OTHER.text


def test_without_a_sentence_the_answer_stays_as_it_is():
    nothing = Passage("Quill", "", "/q.md", "d" * 64)
    result = grounded("How deep?", "Four.", [nothing])
    assert quote("How deep?", [nothing]) is None
    assert (result.text, result.quoted, result.support.share) == ("Four.", False, 0.0)


@pytest.fixture(scope="module")
def store(tiny_model, tmp_path_factory) -> MemoryStore:
    """Both passages as texts."""
    store = MemoryStore(tmp_path_factory.mktemp("grounding"))
    for passage in (GUIDE, OTHER):
        store.add(None, model="tiny", model_hash=tiny_model.fingerprint, passage=passage, edits=(), scores={})
    return store


MILL = Question("When does the mill of Quill 3 grind rye?", ("Mondays",))


def test_a_model_that_does_not_read_well_quotes_without_a_token(store, tiny_model, monkeypatch):
    monkeypatch.setattr(Model, "reads_well", False)
    answerer = Answerer(tiny_model, store)
    (answer,) = answerer.answer([Ask(MILL, TEXT)])
    assert (answer.answer, answer.taken.quoted, answer.tokens) == (OTHER.text, True, 0)
    assert answer.memory.passage == OTHER and answer.taken.record()["quoted"]
    plan, folder = answerer.plan(Ask(MILL, TEXT))
    assert (plan.requests, folder, answerer.finish(plan).answer) == ({}, None, OTHER.text)


def test_what_a_model_that_reads_well_writes_is_checked(store, tiny_model, monkeypatch):
    monkeypatch.setattr(Model, "reads_well", True)
    answerer = Answerer(tiny_model, store)
    plan, _ = answerer.plan(Ask(MILL, TEXT))
    assert plan.requests.keys() == {TEXT} and not plan.streams
    for written, answer in {"On Mondays.": "On Mondays.", "On Fridays.": OTHER.text}.items():
        plan.texts[TEXT] = written
        assert answerer.finish(plan).answer == answer


def test_what_asks_for_more_than_a_fact_is_written_by_the_model(store, tiny_model):
    answerer = Answerer(tiny_model, store)
    for free in (Ask(MILL, TEXT, grounds=False), Ask(MILL, TEXT, opening="It "), Ask(MILL, TEXT, check=str.upper)):
        plan, _ = answerer.plan(free)
        plan.texts[TEXT] = "On Fridays."
        assert plan.requests.keys() == {TEXT} and answerer.finish(plan).answer == "On Fridays."
    assert answerer.plan(Ask(MILL, TEXT, grounds=False))[0].streams


def test_a_model_that_only_quotes_does_not_know_where_nothing_fits(store, tiny_model):
    ask = Ask(Question("Wann mahlt Müller Roggen?", ()), TEXT, passages=(GUIDE,))
    (answer,) = Answerer(tiny_model, store).answer([ask])
    assert answer.answer == "I don't know."


def test_the_gate_reads_as_ask_does(tiny_model, monkeypatch):
    wrong = Question("When does the mill of Quill 3 grind rye?", ("Fridays",))
    monkeypatch.setattr(Model, "reads_well", False)
    assert evaluate.read(tiny_model, [(MILL, OTHER), (wrong, OTHER)]) == [True, False]
    continued = Question("The mill grinds", ("rye",), kind="cloze")
    said = {MILL: "On Mondays.", wrong: "On Fridays.", continued: "rye on Mondays"}
    monkeypatch.setattr(evaluate, "_texts", lambda _, queries, *options: [said[q.question] for q in queries])
    assert evaluate.read(tiny_model, [(continued, OTHER), (MILL, OTHER)]) == [True, True]
    monkeypatch.setattr(Model, "reads_well", True)
    assert evaluate.read(tiny_model, [(MILL, OTHER), (wrong, OTHER)]) == [True, False]


def test_arms_that_do_not_read_are_not_grounded(store, tiny_model):
    plan, _ = Answerer(tiny_model, store).plan(Ask(MILL, TEXT))
    assert plan.reads(TEXT) and plan.reads(BOTH) and not plan.reads(WEIGHTS)
    plan.recited = [OTHER]
    assert plan.reads(WEIGHTS)
