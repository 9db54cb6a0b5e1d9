"""What a small model reads in turns that no rule of English knows."""

import pytest
import torch

from selfedit.answers.answerer import UNKNOWN
from selfedit.answers.notes import likeliest
from selfedit.conversations import Conversations
from selfedit.errors import ModelError
from selfedit.memory.store import MemoryStore
from selfedit.sessions import Statement, reader, reader_of, updated
from selfedit.types import Message

KNOWN = [
    "My sister Ilse lives in Ghent.",
    "The alarm in the shop goes off with 4417.",
    "We meet on Tuesdays at the library.",
    "I take my coffee black.",
]


def statements(texts=KNOWN):
    return [Statement(text, "2026-01-05", f"s{i}", 0, group=i) for i, text in enumerate(texts)]


def said(*turns):
    return [Message(role, text) for text in turns for role, text in (("user", text), ("assistant", "I see."))]


@pytest.fixture(scope="module")
def embedded_reader(embedded_model):
    return reader.Reader(embedded_model, reader._heads(reader._file(embedded_model)))


def test_a_regression_finds_the_direction_that_tells_labels_apart():
    torch.manual_seed(0)
    features = torch.randn(400, 12) * 3 + 5
    labels = features[:, 2] - features[:, 7] > 0.5
    odds = torch.tensor(reader.regression(features, labels)(features))
    assert ((odds > 0.5) == labels).float().mean() > 0.97


def test_a_piece_is_read_behind_the_message_up_to_it():
    message = "My boss says it is 5. It is 6, and it stays so."
    pieces = ["My boss says it is 5.", "It is 6, and it stays so.", "it stays so."]
    assert [before for before, _ in reader._in_message(message, pieces)] == [
        "Now:",
        "Now: My boss says it is 5.",
        "Now: My boss says it is 5. It is 6, and",
    ]


def test_of_many_notes_the_nearest_and_the_latest_are_read():
    notes = ["The boat is called Heron.", *(f"On day {i} it rained." for i in range(200))]
    chosen = reader.nearest("what is the boat called?", notes)
    assert len(chosen) == reader.MOST_NOTES and chosen == sorted(chosen) and {0, 200} <= set(chosen)
    assert reader.nearest("what is the boat called?", notes[:10]) == list(range(10))


def test_without_the_reader_s_model_rules_read_alone(tiny_model, monkeypatch):
    monkeypatch.setenv("SELFEDIT_READER", "rules")
    assert reader_of(tiny_model) is None
    monkeypatch.delenv("SELFEDIT_READER")

    def unreachable(name):
        raise ModelError("no network")

    monkeypatch.setattr(reader, "load_model", unreachable)
    reader._shared_reader.cache_clear()
    told = []
    assert reader_of(tiny_model, told.append) is None and "by rules alone" in told[-1]
    reader._shared_reader.cache_clear()


@pytest.mark.embedded
def test_every_text_is_read_once(embedded_reader, monkeypatch):
    first = embedded_reader.turn("The library is closed, we sit at Ada's on Fridays.", KNOWN)
    monkeypatch.setattr(embedded_reader.model.backend, "mean_states", None)
    assert embedded_reader.turn("The library is closed, we sit at Ada's on Fridays.", KNOWN) == first


@pytest.mark.embedded
@pytest.mark.parametrize(
    "text, gone",
    [
        ("Actually the digits for the shop alarm should not be lying around in your head. Lose them, will you?", 1),
        ("My sister would not like it that I told you where she lives. You never heard it from me.", 0),
        ("I forgot my umbrella at the library again.", None),
        ("Please keep your answers short from now on, I read them on the bus.", None),
    ],
)
def test_a_request_to_forget_is_understood_in_any_words(text, gone, embedded_reader):
    changes = updated(statements(), said(text), "now", "2026-03-01", reader=embedded_reader)
    assert [s.text for s in changes.forgotten] == ([] if gone is None else [KNOWN[gone]])


@pytest.mark.embedded
def test_news_ends_what_it_contradicts(embedded_reader):
    turns = said("The library threw us out, so our evening is a Friday thing at Ada's kitchen table.")
    changes = updated(statements(), turns, "now", "2026-03-01", reader=embedded_reader)
    assert [old.text for old, _ in changes.replaced] == [KNOWN[2]]
    (new,) = changes.added
    assert "Friday" in new.text and new.instead == (KNOWN[2],)


def test_what_replaced_a_statement_answers_what_that_one_answered():
    class Stub:
        def answering(self, question, texts):
            return [0.9 if "Tuesdays" in text else 0.1 for text in texts]

    new = Statement("So it is Fridays at Ada's.", "2026-03-01", "now", 0, instead=(KNOWN[2],))
    likely = likeliest([*statements(["It rains."] * 8), new], "when do we meet?", Stub())
    assert likely.best == new and new in likely.statements and likely.probability == 0.9


@pytest.mark.embedded
def test_the_statement_that_answers_a_question_is_found_without_its_words(embedded_reader):
    for question, note in (("what do I press to get that siren quiet?", 1), ("which town is my sibling in?", 0)):
        odds = embedded_reader.answering(question, KNOWN)
        assert max(range(4), key=odds.__getitem__) == note


@pytest.mark.embedded
def test_the_heads_know_their_own_examples(embedded_reader):
    lines = reader._lines("users.jsonl")[::12]
    texts = [(turn["turn"], bool(turn["forgets"])) for line in lines for turn in line["turns"]]
    right = [(p > 0.5) == asks for p, (_, asks) in zip(embedded_reader.asking([t for t, _ in texts]), texts)]
    assert sum(right) / len(right) > 0.9


@pytest.mark.embedded
def test_a_conversation_is_read_by_the_embedded_model_whatever_model_answers(
    tiny_model, embedded_model, tmp_path, monkeypatch
):
    monkeypatch.delenv("SELFEDIT_READER")
    reader._shared_reader.cache_clear()
    shared = reader_of(tiny_model)
    assert shared.model.fingerprint == embedded_model.fingerprint and reader_of(tiny_model) is shared
    conversations = Conversations(tmp_path, shared)
    conversations.add("a", said("The alarm in the shop goes off with 4417."), "2026-01-05")
    conversations.accept("a", tiny_model, MemoryStore(tmp_path))
    conversations.add(
        "b", said("Those digits for the alarm, wipe them off your slate, my boss went mad."), "2026-02-05"
    )
    conversations.accept("b", tiny_model, MemoryStore(tmp_path))
    assert not conversations.statements and "4417" not in str(conversations.turns("a"))


@pytest.mark.embedded
def test_a_question_about_the_user_needs_no_pronoun_and_what_nobody_told_is_not_known(
    tiny_model, embedded_reader, tmp_path
):
    conversations = Conversations(tmp_path, embedded_reader)
    for text in (*KNOWN, "The fair is on 27 June, at the cricket club.", "Priti does the face painting."):
        conversations.add("a", said(text), "2026-01-05")
    conversations.accept("a", tiny_model, MemoryStore(tmp_path))
    asked = conversations.ask("which day is the fair, the printer is on the phone")
    assert asked.arm == "text" and "27 June" in asked.view([], asked.question).question
    assert conversations.ask("What is the capital of Finland?").arm == "auto"
    unknown = conversations.ask("How much do I earn per month?")
    assert unknown.check("You earn 2,000 a month.") == UNKNOWN
