"""The Answerer: what is put before the model, which answer is taken, and what supports it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from selfedit.answers import answerer as answerer_module
from selfedit.answers import choose
from selfedit.answers.about import is_about, log_likelihoods
from selfedit.answers.answerer import BASE, BOTH, TEXT, WEIGHTS, Answerer, Ask, whole_sentences
from selfedit.answers.choose import probability
from selfedit.answers.query import looked_up
from selfedit.bench import api, sessions
from selfedit.edits.quiz import joined, with_passage
from selfedit.errors import MemoryStoreError
from selfedit.judge.grounding import Grounded, support
from selfedit.memory.route import Router
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import LoraConfig
from selfedit.model.load import Model
from selfedit.model.packed.lora import LoraBatch
from selfedit.types import Message, Passage, Question

GATE = Passage("Quill › Packing", "The option --fast was removed in Quill 3. Use --level 1 instead.", "/q.md", "a" * 64)
INDEX = Passage("Quill › Reading", "An archive without an index raises MissingIndexError in Quill.", "/q.md", "a" * 64)
COLOUR = Passage("Quill › Colour", "The progress bar of Quill is teal by default.", "/q.md", "a" * 64)
FAST = Question("Which option of Quill was removed?", ())


@pytest.fixture
def store(tiny_model, tmp_path) -> MemoryStore:
    """The passage on packing has an adapter, the one on reading only its text."""
    store = MemoryStore(tmp_path)
    stack = LoraBatch(tiny_model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj", "down_proj"), (2, 3)), 1)
    stack.flat.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    fields = {"model": "tiny", "model_hash": tiny_model.fingerprint, "edits": [], "scores": {}}
    store.add(lambda folder: stack.save(0, folder, "tiny"), passage=GATE, **fields)
    store.add(None, passage=INDEX, **fields)
    return store


@pytest.mark.parametrize(
    "file, more",
    [
        ("answers/notes.py", ()),
        ("edits/recitation.py", ()),
        ("model/chat.py", ()),
        ("libraries.py", ()),
        ("memory/contradict.py", ()),
        ("conversations.py", sessions.READ_BY),
        ("sessions/values.py", sessions.READ_BY),
        ("sessions/heads/a.safetensors", sessions.READ_BY),
        ("code.py", api.WRITTEN_BY),
    ],
)
def test_the_name_of_the_rule_changes_with_each_file_that_answers_depend_on(file, more, tmp_path, monkeypatch):
    for name in (*choose.ANSWERING, *more):
        path = tmp_path / name.replace("*.py", "notes.py").replace("*", "a.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
        assert list(Path(choose.__file__).parents[1].glob(name))
    (tmp_path / "sessions").mkdir(exist_ok=True)
    (tmp_path / file).write_text("before")
    monkeypatch.setattr(choose, "__file__", str(tmp_path / "answers/choose.py"))
    before = choose.rule_name(*more)
    (tmp_path / file).write_text("after")
    assert choose.rule_name(*more) != before


# Support


def test_the_sentence_that_says_the_answer_supports_it_and_how_much_is_measured():
    found = support(FAST.question, "--fast", [GATE, INDEX])
    assert found.sentence == "The option --fast was removed in Quill 3." and found.passage == GATE
    assert found.share == found.in_sentence == 1.0 and 0.5 < found.asked <= 1.0
    assert support(FAST.question, "--slow, by a dwarf", [GATE]).share < 0.5
    assert support("What replaces --fast?", "--level 1", [GATE]).sentence == "Use --level 1 instead."


def test_an_answer_to_what_asks_for_yes_or_no_is_judged_by_all_its_words():
    question = "Was the option --fast removed in Quill 3?"
    assert support(question, "The option --fast was removed in Quill 3.", [GATE]).share == 1.0
    assert support(question, "", [GATE]).share == 0.0
    assert support(question, "Yes", [replace(GATE, text="")]).sentence == ""


def test_of_several_passages_the_one_that_says_the_answer_supports_it():
    assert support("What is raised without an index?", "MissingIndexError", [GATE, INDEX]).passage == INDEX


# Which answer


def chance(text: str, arm: str = WEIGHTS, max_passages: int = 1) -> float:
    answer = Grounded(text, support(FAST.question, text, [GATE, INDEX]))
    return probability(arm, answer, 0.5, max_passages)


def test_what_is_said_by_a_sentence_about_the_question_is_the_likelier_answer():
    good, bad = "The option --fast was removed in Quill 3.", "A dwarf painted seventeen boats yesterday."
    assert chance(good) > chance(bad) and chance(good, TEXT, max_passages=3) > chance(good, TEXT)
    assert all(0 < chance(text, arm) < 1 for text in (good, bad) for arm in (WEIGHTS, TEXT, BOTH))


@pytest.mark.parametrize("text", ["", "👍", "…"])
def test_an_answer_without_words_is_never_right(text):
    assert chance(text) == 0.0


@pytest.mark.parametrize("text", [FAST.question, "The option of Quill.", "It was removed."])
def test_an_answer_that_only_repeats_the_question_is_no_answer(text):
    assert chance(text) < chance("--fast") and chance(text) < 0.2


def test_yes_is_an_answer_to_what_asks_for_it():
    question, said = "In Quill 3, was the option --fast removed?", "Yes, the option --fast was removed."
    found = support(question, said, [GATE])
    assert found.in_sentence > 0.5 and found.asked > 0.5
    assert support("What was removed in Quill 3?", "It was removed in Quill 3.", [GATE]).asked == 0.0


# The Answerer


@pytest.mark.parametrize(
    "text, shown",
    [
        ("It was removed. Use --level 1 instea", "It was removed."),
        ("It was removed. Use --level 1 instead.", "It was removed. Use --level 1 instead."),
        ("It works. (See the docs.)", "It works. (See the docs.)"),
        ("Is it? Yes", "Is it? Yes"),
        ("Use --level 1 instea", "Use --level 1 instea"),
        ("Use this:\n```\nquill pack --lev", "Use this:\n```\nquill pack --lev\n```"),
        ("", ""),
    ],
)
def test_an_answer_that_is_cut_off_ends_with_its_last_whole_sentence(text, shown):
    assert whole_sentences(text) == shown


def prompts(model, monkeypatch) -> list:
    """What the backend is asked, from now on."""
    seen: list = []
    generate = type(model.backend).generate

    def noted(backend, requests, adapters=None, **options):
        seen.extend(requests)
        return generate(backend, requests, adapters, **options)

    monkeypatch.setattr(type(model.backend), "generate", noted)
    return seen


@pytest.fixture
def reads(monkeypatch):
    """The tiny model counts as one that reads well."""
    monkeypatch.setattr(Model, "reads_well", True)


def test_all_arms_are_asked_at_once_and_the_passage_is_read_once(tiny_model, store, reads, monkeypatch):
    monkeypatch.setattr(Model, "max_passages", 1)
    seen = prompts(tiny_model, monkeypatch)
    (answer,) = Answerer(tiny_model, store).answer([Ask(FAST, max_new_tokens=4)])
    closed = tuple(tiny_model.chat.prompt(FAST))
    in_view = tuple(tiny_model.chat.prompt(with_passage(GATE, FAST)))
    opening = tiny_model.chat.opening(FAST)
    assert [(r.tokens, r.adapter, r.adapter_from) for r in seen] == [
        (closed, 0, 0),
        (in_view, None, 0),
        (in_view, 0, len(in_view) - opening),
    ]
    assert [candidate.arm for candidate in answer.candidates] == [WEIGHTS, TEXT, BOTH]
    assert answer.memory.passage == GATE and answer.taken.text == answer.answer
    written = answer.tokens - len(closed) - len(in_view)
    assert 3 <= written <= 12


def test_a_model_that_reads_more_gets_the_best_passages_the_best_next_to_the_question(
    tiny_model, store, reads, monkeypatch
):
    seen = prompts(tiny_model, monkeypatch)
    question = Question("Which option of Quill was removed, and what does an archive without an index raise?", ())
    (answer,) = Answerer(tiny_model, store).answer([Ask(question, TEXT, max_new_tokens=4)])
    text = tiny_model.chat.decode(list(seen[0].tokens))
    assert text.index("--fast") < text.index("MissingIndexError") < text.index("an archive without an index raise?")
    assert len(seen) == 1 and answer.arm == TEXT
    assert joined([INDEX, GATE]).text.endswith(INDEX.text) and joined([GATE]) == GATE


SETTINGS = Passage(
    "Quill › Settings",
    "Quill reads `.quillrc` in the home folder, and then `quill.toml` in the folder of the project. Where both set an "
    "option, the one of the project is taken. Set `QUILL_NO_CONFIG=1` to have both files ignored.",
    "/q.md",
    "a" * 64,
)
ARCHIVES = Passage(
    "Quill › Archives",
    "Quill packs an archive with level 6 of zlib. An archive without an index raises MissingIndexError; `quill index` "
    "builds one. Archives above 4 GB need the flag --large.",
    "/q.md",
    "a" * 64,
)


@pytest.mark.parametrize(
    ("question", "about"),
    [
        ("Two configuration files of Quill disagree about an option: does my home folder or my project win?", SETTINGS),
        ("How can I stop Quill from looking at its configuration in the project and my home folder?", SETTINGS),
        ("How do I compress a big box in Quill?", ARCHIVES),
        ("Which exception do I get in Quill from a packed file that has no table of contents?", ARCHIVES),
        ("Who won the first world cup in football?", None),
        ("Which option of git shows the last commit of a branch?", None),
    ],
)
def test_reading_tells_what_a_question_in_other_words_is_about(question, about, embedded_model):
    passages = [SETTINGS, ARCHIVES]
    assert is_about(embedded_model, question, passages) == (about is not None)
    likely = log_likelihoods(embedded_model, [(question, passage) for passage in passages])
    assert about is None or passages[likely.index(max(likely))] == about


def test_a_text_of_any_length_is_read_as_far_as_the_model_can(tiny_model):
    endless = replace(SETTINGS, text=SETTINGS.text * 100)
    question = "Which file is read? " * 300
    assert log_likelihoods(tiny_model, [(question, endless)])[0] < 0
    assert not is_about(tiny_model, question, [endless]) and not is_about(tiny_model, question, [])


def test_where_words_do_not_tell_whether_a_memory_fits_it_is_read(tiny_model, store, monkeypatch):
    answerer, asked = Answerer(tiny_model, store), []

    def about(model, question, passages):
        asked.append([question, *passages])
        return question == FAST.question

    monkeypatch.setattr(answerer_module, "is_about", about)
    other = Question("Which option of the theatre was taken?", ())
    foreign = Question("Who was it?", ())
    assert answerer.answer([Ask(FAST, TEXT, max_new_tokens=4)])[0].memory.passage == GATE and not asked
    monkeypatch.setattr(Router, "threshold", 0.75)  # now words are not enough
    answers = answerer.answer([Ask(question, TEXT, max_new_tokens=4) for question in (FAST, other, foreign)])
    assert [answer.memory and answer.memory.passage for answer in answers] == [GATE, None, None]
    assert [answer.arm for answer in answers] == [TEXT, BASE, BASE]
    assert asked[0][:2] == [FAST.question, GATE] and foreign.question not in [question for question, *_ in asked]


@pytest.mark.parametrize("likeliest", [GATE, INDEX])
def test_a_model_that_reads_gets_the_one_passage_that_the_question_is_likeliest_about(
    likeliest, tiny_model, store, reads, monkeypatch
):
    seen = prompts(tiny_model, monkeypatch)
    monkeypatch.setattr(
        answerer_module, "log_likelihoods", lambda model, asked: [-1.0 - (passage != likeliest) for _, passage in asked]
    )
    question = Question("Which option of Quill was removed from an archive without an index?", ())
    (answer,) = Answerer(tiny_model, store).answer([Ask(question, TEXT, max_new_tokens=4)])
    assert [r.tokens for r in seen] == [tuple(tiny_model.chat.prompt(with_passage(likeliest, question)))]
    assert answer.memory.passage == likeliest


def test_what_is_named_is_asked_whatever_fits(tiny_model, store):
    answerer, (gate, index) = Answerer(tiny_model, store), store.active()
    asks = [Ask(FAST, TEXT, memory=index.id), Ask(FAST, WEIGHTS, memory=gate.id), Ask(FAST, TEXT, passages=(COLOUR,))]
    by_text, by_weights, by_passage = answerer.answer([replace(ask, max_new_tokens=4) for ask in asks])
    assert (by_text.memory, by_weights.memory, by_weights.score) == (index, gate, 1.0)
    assert by_passage.candidates[0].support.passage == COLOUR
    with pytest.raises(MemoryStoreError, match="no memory"):
        answerer.answer([Ask(FAST, memory="0" * 12)])


def test_what_was_forgotten_is_not_answered_from_by_an_answerer_that_knew_it(tiny_model, store):
    answerer, (gate, _) = Answerer(tiny_model, store), store.active()
    assert answerer.answer([Ask(FAST, TEXT, max_new_tokens=2)])[0].memory == gate
    store.forget(gate.id)
    (answer,) = answerer.answer([Ask(FAST, TEXT, max_new_tokens=2)])
    assert answer.memory is None or answer.memory.passage == INDEX


def test_many_questions_are_answered_as_each_alone(tiny_model, store):
    questions = [FAST, Question("What is raised without an index of Quill?", ()), Question("Who are you?", ())]
    asks = [Ask(question, arm, max_new_tokens=6) for question in questions for arm in ("auto", WEIGHTS, TEXT, BOTH)]
    answerer = Answerer(tiny_model, store)
    together = answerer.answer(asks)
    assert together == [answerer.answer([ask])[0] for ask in asks]
    assert [answer.arm for answer in together[-4:]] == [BASE] * 4


def test_the_adapter_of_a_memory_that_fits_much_worse_does_not_answer(tiny_model, store):
    question = Question("What does an archive without an index raise?", ())
    asks = [Ask(question, arm, max_new_tokens=4) for arm in ("auto", WEIGHTS, BOTH)]
    auto, weights, both = Answerer(tiny_model, store).answer(asks)
    assert [answer.writer for answer in (auto, weights, both)] == [None] * 3
    assert (auto.arm, both.arm, weights.arm, weights.memory) == (TEXT, TEXT, BASE, None)
    assert "has no adapter: it answers from its text" in weights.note


def test_where_an_adapter_is_damaged_auto_answers_from_the_text_and_says_so(tiny_model, store, monkeypatch):
    gate = store.active()[0]
    next(store.adapter_path(gate.id).glob("*.safetensors")).write_bytes(b"damaged")
    answerer = Answerer(tiny_model, MemoryStore(store.home))
    auto, other = answerer.answer([Ask(q, max_new_tokens=4) for q in (FAST, Question("Who are you?", ()))])
    assert (auto.arm, auto.memory, other.arm) == (TEXT, gate, BASE)
    assert "corrupt" in auto.note and auto.record()["note"] == auto.note
    for arm in (WEIGHTS, BOTH):
        with pytest.raises(MemoryStoreError, match="corrupt"):
            answerer.answer([Ask(FAST, arm)])
        damaged, other = answerer.answer([Ask(FAST, arm), Ask(Question("Who are you?", ()), max_new_tokens=4)])
        assert "corrupt" in damaged.error and not damaged.answer and other.arm == BASE and not other.error
    history = tuple(Message(HISTORY[i % 2].role, "Rain again. " * 9) for i in range(20))
    monkeypatch.setattr("selfedit.answers.answerer.HISTORY_TOKENS", 120)
    (long,) = answerer.answer([Ask(FAST, max_new_tokens=4, history=history)])
    assert "the conversation is long" in long.note and "corrupt" in long.note


def test_a_passage_with_another_hash_of_its_source_is_known_by_its_id(tiny_model, store):
    later = replace(INDEX, source_hash="b" * 64)  # another part of the same source has changed since
    question = Question("What does an archive without an index raise?", ())
    (answer,) = Answerer(tiny_model, store).answer([Ask(question, TEXT, passages=(GATE, later), max_new_tokens=4)])
    assert answer.taken.support.passage == later and answer.memory.passage == INDEX


def test_a_supporting_passage_of_another_memory_is_the_source(tiny_model, store, monkeypatch):
    monkeypatch.setattr(Model, "max_passages", 3)
    says = SimpleNamespace(text="MissingIndexError")
    monkeypatch.setattr(type(tiny_model.chat), "decode", lambda chat, tokens: says.text)
    question = Question("Which option of Quill was removed, and what does an archive without an index raise?", ())
    (answer,) = Answerer(tiny_model, store).answer([Ask(question, TEXT, max_new_tokens=2)])
    assert answer.memory.passage == INDEX and answer.taken.support.sentence == INDEX.text


HISTORY = (
    Message("user", "Thanks. We archive everything with Quill these days."),
    Message("assistant", "Quill is a fine choice."),
)


def test_a_question_is_asked_after_the_conversation_before_it(tiny_model, store, reads, monkeypatch):
    monkeypatch.setattr(Model, "max_passages", 1)
    seen = prompts(tiny_model, monkeypatch)
    (answer,) = Answerer(tiny_model, store).answer([Ask(FAST, TEXT, history=HISTORY, max_new_tokens=4)])
    assert seen[0].tokens == tuple(tiny_model.chat.prompt(with_passage(GATE, FAST), HISTORY))
    assert "Quill is a fine choice." in tiny_model.chat.decode(list(seen[0].tokens)) and not answer.note


def test_the_oldest_turns_of_a_long_conversation_are_left_out_and_it_says_so(tiny_model, store, monkeypatch):
    monkeypatch.setattr("selfedit.answers.answerer.HISTORY_TOKENS", 120)
    seen = prompts(tiny_model, monkeypatch)
    said = [
        Message(("user", "assistant")[i % 2], f"This is turn {i} of a long talk about the weather.") for i in range(30)
    ]
    history = (Message("system", "Be brief."), *said)
    question = Question("Who are you?", ())
    (answer,) = Answerer(tiny_model, store).answer([Ask(question, history=history, max_new_tokens=4)])
    (request,) = seen
    text, alone = tiny_model.chat.decode(list(request.tokens)), tiny_model.chat.prompt(question, history[:1])
    assert "Be brief." in text and "turn 29" in text and "turn 0 " not in text
    assert len(alone) < len(request.tokens) <= len(alone) + 120
    left_out = next(i for i in range(30) if f"turn {i} " in text)
    assert left_out % 2 == 0 and answer.note == f"the conversation is long: its first {left_out} messages are left out"


def test_no_conversation_is_rendered_that_begins_with_the_model(tiny_model, store, monkeypatch):
    """Templates of Llama 2 and Mistral refuse it."""
    prompt = type(tiny_model.chat).prompt

    def strict(chat, question, history=()):
        assert [m.role for m in history if m.role != "system"][:1] != ["assistant"]
        return prompt(chat, question, history)

    monkeypatch.setattr(type(tiny_model.chat), "prompt", strict)
    for length in (1, 2, 3, 4):
        ask = Ask(FAST, history=(Message("system", "Be brief."), *(HISTORY * 2)[:length]), max_new_tokens=4)
        assert not Answerer(tiny_model, store).answer([ask])[0].error


def test_what_is_looked_up_for_a_later_question_is_understood_from_the_turn_before():
    pasted = Message("user", "Line one of a log. Line two of a log. Our proxy is Envoy. Which port does it use?")
    assert looked_up("And its version?", [pasted, Message("assistant", "9901.")]) == (
        "Our proxy is Envoy. Which port does it use? And its version?"
    )
    alone = "Which option of Quill was removed in March?"
    assert looked_up(alone, [pasted]) == alone and looked_up("And its version?", []) == "And its version?"


def test_a_plan_that_another_decoder_writes_ends_in_the_same_answer(tiny_model, store):
    answerer = Answerer(tiny_model, store)
    for ask in (Ask(FAST, max_new_tokens=5), Ask(Question("Who are you?", ()), max_new_tokens=5)):
        plan, folder = answerer.plan(ask)
        adapters = tiny_model.backend.load([folder]) if folder else None
        for arm, request in plan.requests.items():
            row = 0 if folder and arm in (WEIGHTS, BOTH) else None
            (tokens,) = tiny_model.backend.generate([replace(request, adapter=row)], adapters)
            answerer.take(plan, arm, tokens)
        assert [answerer.finish(plan)] == answerer.answer([ask])
