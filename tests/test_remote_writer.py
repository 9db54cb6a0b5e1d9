"""A writer behind an API, with a real server on this machine; and that a local writer gets the same prompts as ever."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import wait_until, write_tiny_model
from endpoint import refused, reply

from selfedit.cli import main
from selfedit.config import LearnConfig, QuizConfig, ReleaseConfig
from selfedit.edits import quiz as quizzes
from selfedit.edits.changes import Change
from selfedit.edits.code import Pair, write_pairs
from selfedit.edits.propose import propose
from selfedit.edits.quiz import check, open_book_prompt, write_quizzes
from selfedit.edits.remote import RemoteWriter
from selfedit.edits.styles import QUESTION_EXAMPLES, STYLES
from selfedit.errors import ModelError, SelfeditError
from selfedit.learn import learn
from selfedit.libraries import Library
from selfedit.memory.store import MemoryStore
from selfedit.memory.transactions import REPLIES
from selfedit.model.backend import Request, has_line
from selfedit.model.load import load_model
from selfedit.model.writer import WriteRequest
from selfedit.types import Passage, Question, stable_seed

ROOT = Path(__file__).parents[1]
TARN = Passage("A lake", "The lake Tarn has 40 boats and 12 piers.", "/lake.txt", "0" * 64)
ORSK = Passage("A valley", "The tea of the Orsk valley is dried on slate roofs.", "/valley.txt", "1" * 64)
QUIZ = [Question("How many boats has the lake?", ("40 boats",)), Question("What is dried on roofs?", ("tea",))]
CONFIG = replace(LearnConfig(), recite=False, spans=2, train=replace(LearnConfig().train, epochs=1))
PARAPHRASE, QUESTION = "Write its line “Same fact in other words:”", "Write its line “Question:”"


def writes(asked: dict) -> tuple[int, dict, bytes]:
    """What a capable chat model would reply."""
    prompt = asked["prompt"]
    if PARAPHRASE in prompt:
        return reply("There are 40 boats and 12 piers on the lake Tarn.")
    if QUESTION in prompt:
        begin = re.search("Begin with “(.+?)”", prompt)[1]
        return reply(f"{begin} has the lake Tarn besides piers?")
    return reply("40 boats" if "boats" in prompt else "ready")


@pytest.fixture(autouse=True)
def no_proxy_and_no_key(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server(endpoint):
    endpoint.rule = writes
    return endpoint


@pytest.fixture(scope="module")
def learner_folder(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("learner") / "tiny", max_position_embeddings=2048)


@pytest.fixture(scope="module")
def learner(learner_folder):
    return load_model(str(learner_folder), device="cpu")


def make_writer(url: str, folder: Path, model: str = "large", **options) -> RemoteWriter:
    return RemoteWriter(url, model, folder / REPLIES, **{"backoff_s": 0.005, "timeout_s": 5.0, "retries": 1} | options)


PAIR = """Task: split a table
Setup: import tablekit as tk
t = tk.Table()
Old: t.cut()
New: t.split()"""


@pytest.mark.parametrize(
    "shown",
    [
        PAIR,
        PAIR.removeprefix("Task:"),
        f"Here is the next one:\n\n```python\n{PAIR}\n```",
        PAIR.replace("Old: t.cut()", "Old:\n```python\nt.cut()\n```"),
        f"**{PAIR}".replace("Task:", "Task:**"),
    ],
)
def test_a_remote_writer_writes_pairs_of_code(server, tmp_path, shown):
    prompts = []
    server.rule = lambda asked: prompts.append(asked["prompt"]) or reply(shown)
    statement = "`Table.cut()` was removed; use `Table.split()`."
    change = Change(Passage("Removed", statement, "/notes.md", "2" * 64), statement)
    (pairs,) = write_pairs(
        make_writer(server.url, tmp_path), [change], Library("tablekit", "==4"), replace(ReleaseConfig(), samples=1)
    )
    assert pairs == [Pair("import tablekit as tk\nt = tk.Table()", "split a table", "t.cut()", "t.split()")]
    assert "Write all of its lines from “Task:” on" in prompts[0]


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# A local writer


def test_a_local_writer_gets_the_same_tokens_and_seeds_as_if_they_were_written_out(learner, monkeypatch):
    sent = []
    generate = learner.backend.generate

    def record(requests, adapters=None, **options):
        sent.append(list(requests))
        return generate(requests, adapters, **options)

    monkeypatch.setattr(learner.backend, "generate", record)
    chat, style = learner.chat, STYLES["paraphrase"]
    propose(learner, [TARN], ["paraphrase", "rewrite"], seed=3)
    write_quizzes(learner, [TARN], spans=1)
    monkeypatch.setattr(quizzes, "_answers", lambda *_: True)
    check(learner, [(TARN, QUIZ)])
    ((sentence, span),) = quizzes.pick_spans(TARN.text, 1, seed=stable_seed(0, TARN.id, "spans"))
    prompt = f"{QUESTION_EXAMPLES}{sentence}\nAnswer: {span}\nQuestion: "
    paraphrase = tuple(chat.continued(style.instruction + TARN.text + style.cue))
    rewrite = tuple(chat.ask(TARN.with_request(STYLES["rewrite"].instruction)))
    seeds = [stable_seed(3, TARN.id, name, i) for i, name in enumerate(["paraphrase"] * 2 + ["rewrite"] * 2)]
    assert sent[0] == [Request(paraphrase, None, 56, 0.7, seed=seed, stop=has_line) for seed in seeds[:2]] + [
        Request(rewrite, None, 160, 0.7, seed=seed) for seed in seeds[2:]
    ]
    assert sent[1] == [
        Request(tuple(chat.continued(f"{prompt}{word}")), None, 24, stop=has_line)
        for word in quizzes._first_words(span)
    ]
    open_book = [Request(tuple(chat.ask(open_book_prompt(TARN, q.question))), None, 24) for q in QUIZ]
    assert sent[-2:] == [open_book, [Request(tuple(chat.ask(q.question)), None, 24) for q in QUIZ]]


def test_a_question_that_only_the_learner_cannot_read_is_dropped(server, learner, tmp_path):
    long = Question("boats " * learner.backend.max_positions, ("40 boats",))
    ((kept, dropped),) = check(learner, [(TARN, [long, QUIZ[0]])], reader=make_writer(server.url, tmp_path))
    assert dropped["too long for the model"] == 1 and [q.question for q in kept] == [QUIZ[0].question]


# What is sent, and how replies are read


def test_worked_examples_become_a_message_that_asks_for_the_last_line(server, tmp_path):
    examples = "Sentence: a\nAnswer: b\nQuestion: c?\n\nSentence: d\nAnswer: e\nQuestion: f?"
    writer = make_writer(server.url, tmp_path, parallel=1)
    requests = [
        WriteRequest(
            f"{examples}\n\nSentence: x = 1\n\ny = 2\nAnswer: 2\nQuestion: ", 24, True, "In what year", one_line=True
        ),
        WriteRequest(
            "Sentence: a\nIn short: b\n\nSentence: c\nIn short:", 56, True, temperature=0.7, seed=7, one_line=True
        ),
        WriteRequest("The gate is red.\n\nWhat is red?", 24),
    ]
    writer.write(requests)
    assert [asked["prompt"] for asked in server.asked] == [
        f"Worked examples:\n\n{examples}\n\nNow the next one:\n\nSentence: x = 1\n\ny = 2\nAnswer: 2\n\n"
        "Write its line “Question:” as in the examples, and nothing else. Begin with “Question: In what year”.",
        "Worked examples:\n\nSentence: a\nIn short: b\n\nNow the next one:\n\nSentence: c\n\n"
        "Write its line “In short:” as in the examples, and nothing else. Begin with “In short:”.",
        "The gate is red.\n\nWhat is red?",
    ]
    bodies = [asked["body"] for asked in server.asked]
    assert [(body["model"], body["temperature"], body["max_tokens"]) for body in bodies] == [
        ("large", 0.0, 56),
        ("large", 0.7, 88),
        ("large", 0.0, 56),
    ]
    assert all(body.keys() == {"model", "messages", "temperature", "max_tokens"} for body in bodies)
    assert {asked["path"] for asked in server.asked} == {"/v1/chat/completions"}


LINE = "Who built the gate of Orsk?"


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        f"\n\n  {LINE}  \n",
        f"Question: {LINE}",
        f"**Question:** {LINE}",
        f"Question:\n{LINE}",
        f'"{LINE}"',
        f'Question: "{LINE}"',
        f'"Question: {LINE}"',
        f"“{LINE}”",
        f"`{LINE}`",
        f"```\n{LINE}\n```",
        f"```text\nQuestion: {LINE}\n```\n",
        f"Here is the line:\n\n```\n{LINE}\n```\nLet me know if you need more.",
        f"Sure! Here is the question:\n{LINE}",
        f"- {LINE}",
        f"Sentence: The gate of Orsk was built by Ada.\nAnswer: Ada\nQuestion: {LINE}",
        f"{LINE}\n\nSentence: Another one.\nAnswer: x",
        f"<think>\nWhat: a question?\n</think>\n\n{LINE}",
    ],
)
def test_the_line_is_found_in_a_reply_with_more_around_it(server, tmp_path, text):
    server.rule = lambda asked: reply(text)
    request = WriteRequest("Sentence: a\nAnswer: Ada\nQuestion: ", 24, True, "Who", one_line=True)
    assert make_writer(server.url, tmp_path).write([request]) == [LINE]


@pytest.mark.parametrize("text", ["```\n```", "<think>\nWho could", "Here is the line:"])
def test_a_reply_without_a_line_is_empty(server, tmp_path, text):
    server.rule = lambda asked: reply(text)
    assert make_writer(server.url, tmp_path).write([WriteRequest("Question: ", 24, True, "Who", one_line=True)]) == [""]


@pytest.mark.parametrize("text", ["", None, " \n\t", ["x"]])
def test_a_reply_without_text_is_named_and_not_stored(server, tmp_path, text):
    request = WriteRequest("Question: ", 24, True, "Who", one_line=True)
    server.rule = lambda asked: reply(text)
    with pytest.raises(ModelError, match="the writer large at .* replied without text") as caught:
        make_writer(server.url, tmp_path).write([request])
    assert one_line(caught) and (tmp_path / REPLIES).read_text() == ""
    server.rule = lambda asked: reply("Who?")
    assert make_writer(server.url, tmp_path).write([request]) == ["Who?"]


def test_a_reply_without_text_that_an_earlier_version_stored_is_requested_again(server, tmp_path):
    request = WriteRequest("Question: ", 24, True, "Who", one_line=True)
    server.rule = lambda asked: reply("Who?")
    make_writer(server.url, tmp_path).write([request])
    record = json.loads((tmp_path / REPLIES).read_text())
    (tmp_path / REPLIES).write_text(json.dumps(record | {"text": ""}) + "\n")
    assert make_writer(server.url, tmp_path).write([request]) == ["Who?"] and len(server.asked) == 2


@pytest.mark.parametrize("part", ["\n", "- ", "**a ", "<think>", "```\n", "1. ", '"'])
def test_a_long_reply_is_read_at_once(server, tmp_path, part):
    server.rule = lambda asked: reply("x\n" + part * (900_000 // len(json.dumps(part))) + "y")
    start = time.process_time()  # not the clock: other processes would count
    make_writer(server.url, tmp_path).write(
        [WriteRequest("How many?", 24), WriteRequest("Line:", 24, True, one_line=True)]
    )
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("One.\nTwo.", "One.\nTwo."),
        ("```\nthe code\n```", "the code"),
        ("Use this:\n```\nx\n```", "Use this:\n```\nx\n```"),
        ("<think></think>\n\n40 boats", "40 boats"),
        ('"a" and "b"', '"a" and "b"'),
    ],
)
def test_an_answer_keeps_its_lines(server, tmp_path, text, read):
    server.rule = lambda asked: reply(text)
    assert make_writer(server.url, tmp_path).write([WriteRequest("How many?", 24)]) == [read]


def test_quotes_inside_a_line_stay(server, tmp_path):
    server.rule = lambda asked: reply('"a" is not "b"')
    assert make_writer(server.url, tmp_path).write([WriteRequest("Line:", 24, True, one_line=True)]) == [
        '"a" is not "b"'
    ]


def test_a_question_may_begin_in_another_way_than_was_asked_for(server, learner, tmp_path):
    server.rule = lambda asked: (
        reply("How many boats has the lake Tarn?") if QUESTION in asked["prompt"] else reply("40 boats")
    )
    config = replace(QuizConfig(), min_agreement=0.0)
    (quiz,) = write_quizzes(learner, [TARN], writer=make_writer(server.url, tmp_path), spans=1, config=config)
    assert [q.question for q in (*quiz.studied, *quiz.judging)] == ["How many boats has the lake Tarn?"]


def test_requests_overlap_and_progress_counts_them(server, tmp_path):
    steps, eight = [], threading.Barrier(8)

    def together(asked):
        eight.wait(60)  # fails unless eight are asked at once
        return writes(asked)

    server.slow_s, server.rule = 0.1, together
    requests = [WriteRequest(f"Say {i}.", 24) for i in range(24)]
    writer = make_writer(server.url, tmp_path, timeout_s=60.0)
    writer.write(requests, lambda *step: steps.append(step))
    assert server.most <= 8 and steps == [(i, 24) for i in range(25)]
    steps.clear()
    writer.write(requests, lambda *step: steps.append(step))
    assert steps == [(24, 24)] and len(server.asked) == 24


# What is kept


def test_draws_lengths_models_and_addresses_have_replies_of_their_own(server, tmp_path):
    server.rule = lambda asked: reply(f"reply {len(server.asked)}")
    request = WriteRequest("Write.", 24, temperature=0.7, seed=1)
    variants = [
        request,
        replace(request, seed=2),
        replace(request, max_new_tokens=9),
        replace(request, temperature=0.1),
    ]
    first = make_writer(server.url, tmp_path, parallel=1).write(variants)
    assert first == [f"reply {i}" for i in (1, 2, 3, 4)]
    assert make_writer(server.url, tmp_path).write(variants + variants) == first + first
    make_writer(server.url, tmp_path, "other").write([request])
    make_writer(server.url.replace("/v1", "/v2"), tmp_path).write([request])
    assert len(server.asked) == 6


def test_one_request_that_fails_loses_no_reply_of_the_others(server, tmp_path):
    server.rule = lambda asked: refused(500, "oops") if "Say 19." in asked["prompt"] else writes(asked)
    requests = [WriteRequest(f"Say {i}.", 24) for i in range(20)]
    with pytest.raises(ModelError, match="the writer 'large' at .* answered 500"):
        make_writer(server.url, tmp_path).write(requests)
    server.asked.clear()
    server.rule = writes
    make_writer(server.url, tmp_path).write(requests)
    assert [asked["prompt"] for asked in server.asked] == ["Say 19."]


def learned(learner, url, folder, passages=(TARN, ORSK), writer=None, **options):
    store, writer = MemoryStore(folder), writer or make_writer(url, folder)
    quiz = [q for q, p in zip(QUIZ, (TARN, ORSK)) if p in passages]
    return learn(learner, passages, store, CONFIG, writer=writer, quiz=quiz, **options)


def records(folder: Path) -> list[str]:
    (file,) = folder.glob("runs/*/trials.jsonl")
    return [json.loads(line)["title"] for line in file.read_text().splitlines()]


def test_a_run_is_bound_to_the_public_address_and_the_model(server, learner, tmp_path):
    url = server.url.replace("//", "//me:secret@") + "?api-key=secret"
    report = learned(learner, url, tmp_path, [TARN])
    assert report.reports[0].edits_tried and report.reports[0].questions
    (file,) = tmp_path.glob("runs/*/config.json")
    assert json.loads(file.read_text())["writer"] == f"large at {server.url}/chat/completions"
    assert server.asked and {asked["path"] for asked in server.asked} == {"/v1/chat/completions?api-key=secret"}
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and b"secret" in f.read_bytes()]
    writers = [make_writer(server.url, tmp_path), make_writer(server.url, tmp_path, "other")]
    assert writers[0].fingerprint == make_writer(url, tmp_path).fingerprint != writers[1].fingerprint
    seen, steps = len(server.asked), []
    learned(learner, server.url, tmp_path, [TARN], progress=lambda *step: steps.append(step))
    assert len(server.asked) == seen and steps == [("passage", 1, 1)]  # it was finished


def test_a_passage_that_the_writer_fails_is_reported_and_tried_again_without_paying_twice(server, learner, tmp_path):
    server.rule = lambda asked: refused(503, "down") if "Orsk" in asked["prompt"] else writes(asked)
    first, second = learned(learner, server.url, tmp_path).reports
    assert not first.failed and first.edits_tried
    assert second.failed and second.reason.startswith("the writer 'large' at ") and "answered 503" in second.reason
    assert records(tmp_path) == ["A lake"]
    answered = {asked["prompt"] for asked in server.asked if "Orsk" not in asked["prompt"]}
    assert answered
    server.asked.clear()
    server.rule = writes
    first, second = learned(learner, server.url, tmp_path).reports
    assert not second.failed and records(tmp_path) == ["A lake", "A valley"]
    assert server.asked and all("Orsk" in asked["prompt"] for asked in server.asked)


def test_replies_that_came_before_a_kill_are_not_paid_for_again(server, learner, tmp_path, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("selfedit.learn.run_trials", killed)
        with pytest.raises(KeyboardInterrupt):
            learned(learner, server.url, tmp_path)
    seen = len(server.asked)
    assert seen > 5 and not list(tmp_path.glob("runs/*/trials.jsonl"))
    assert not any(report.failed for report in learned(learner, server.url, tmp_path).reports)
    assert len(server.asked) == seen


def test_a_refusal_in_the_middle_ends_the_job_and_keeps_what_was_learned(server, learner, tmp_path, monkeypatch):
    monkeypatch.setattr("selfedit.learn.TOGETHER", 1)
    server.rule = lambda asked: refused(402, "no credit") if "Orsk" in asked["prompt"] else writes(asked)
    with pytest.raises(SelfeditError, match=r"refused \(402: no credit\); the account cannot pay") as caught:
        learned(learner, server.url, tmp_path)
    assert one_line(caught) and records(tmp_path) == ["A lake"]


def test_one_passage_that_the_server_does_not_take_does_not_end_the_job(server, learner, tmp_path):
    server.rule = lambda asked: refused(400, "content filter") if "Orsk" in asked["prompt"] else writes(asked)
    writer = make_writer(server.url, tmp_path)
    writer.check()
    first, second = learned(learner, server.url, tmp_path, writer=writer).reports
    assert second.failed and "refused (400: content filter)" in second.reason and not first.failed


def test_if_nothing_could_be_written_the_job_fails_at_once(dead_url, learner, tmp_path):
    start = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached"):
        learned(learner, dead_url, tmp_path)
    assert time.monotonic() - start < 60 and not list(tmp_path.glob("runs/*/trials.jsonl"))


# On the command line


@pytest.fixture
def document(tmp_path) -> str:
    file = tmp_path / "lake.txt"
    file.write_text(TARN.text)
    return str(file)


@pytest.fixture
def command(document, learner_folder, tmp_path) -> list[str]:
    few = ["--set", "spans=2", "--set", "epochs=1"]
    return [
        "learn",
        document,
        "--model",
        str(learner_folder),
        "--home",
        str(tmp_path / "home"),
        "--styles",
        "paraphrase",
        *few,
    ]


def refusal(capsys, command: list[str]) -> str:
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("selfedit: ") and "Traceback" not in err
    return err.removeprefix("selfedit: ").rstrip("\n")


def test_an_unusable_writer_is_one_line_before_any_work(server, dead_url, command, capsys, monkeypatch):
    monkeypatch.setattr("selfedit.documents.read.load_documents", None)  # so nothing is read
    url = [*command, "--writer", server.url, "--writer-model", "large"]
    assert f"the writer 'gpt-4.1' at {dead_url}/chat/completions cannot be reached (" in refusal(
        capsys, [*command, "--writer", dead_url]
    )
    assert "is no address of an API" in refusal(capsys, [*command, "--writer", "ftp://host/v1"])
    for answer, line in (
        (refused(401, "wrong key"), "(401: wrong key); check the key in OPENAI_API_KEY"),
        (refused(404, "no such model"), "(404: no such model); check the model's name"),
        (refused(400, "bad field"), "(400: bad field)"),
        ((200, {}, b"<html>Welcome</html>"), "does not reply like a chat-completions API; give a base address"),
        (reply(""), "replies without text; choose a model that does not reason"),
        (reply("<think>\nThe user wants"), "replies without text"),
    ):
        server.asked.clear()
        server.rule = lambda asked, answer=answer: answer
        assert line in refusal(capsys, url)
        assert len(server.asked) == 1
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1\nsk-2")
    assert refusal(capsys, url) == "the key for the API has invalid characters; check OPENAI_API_KEY"


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    "writer",
    [
        "localhost:8080",
        "localhost:8080/v1",
        "localhost/v1",
        "api.openai.com/v1",
        "127.0.0.1/v1",
        "[::1]:8080/v1",
        "http:/host/v1",
        "me:SECRET@host/v1",
    ],
)
def test_an_address_without_http_is_named(command, capsys, writer, more):
    line = refusal(capsys, [*command, "--writer", writer, *more])
    assert line.endswith("looks like an address; write http:// or https:// before it") and "SECRET" not in line


def test_a_folder_whose_name_looks_like_an_address_is_a_model(command, learner_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.org").mkdir()
    (tmp_path / "models.org" / "tiny").symlink_to(learner_folder)
    for writer in ("models.org/tiny", "./models.org/tiny", "Qwen/Qwen2.5-0.5B", "smollm2-135m"):
        assert main([*command, "--writer", writer, "--dry-run", "--json"]) == 0


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_writer_without_a_name_and_a_name_without_an_address_are_one_line(
    server, command, capsys, learner_folder, more
):
    assert refusal(capsys, [*command, "--writer", "", *more]).startswith(
        "--writer is empty; give a model or an address"
    )
    for options in (
        ["--writer-model", "x"],
        ["--writer-model", "x", "--writer", str(learner_folder)],
        ["--writer-model", "", "--writer", server.url],
    ):
        assert "names the model at an address" in refusal(capsys, [*command, *options, *more])
    assert server.asked == []


def test_a_dry_run_sends_and_writes_nothing(server, command, tmp_path, capsys):
    assert main([*command, "--writer", server.url, "--dry-run", "--json"]) == 0
    assert server.asked == [] and not (tmp_path / "home").exists() and capsys.readouterr().err == ""
    assert "is no address of an API" in refusal(capsys, [*command, "--writer", "ftp://host", "--dry-run"])


def test_the_whole_job_with_a_key(server, command, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert main([*command, "--writer", server.url, "--writer-model", "large", "--json"]) in (0, 3)
    summary = json.loads(capsys.readouterr().out)
    assert summary["passages"] == 1 and summary["edits_tried"] and not summary["failed"]
    assert {(asked["key"], asked["body"]["model"]) for asked in server.asked} == {("Bearer sk-1", "large")}
    assert len([asked for asked in server.asked if "ready" in asked["prompt"]]) == 1
    assert (tmp_path / "home" / REPLIES).read_text().count("\n") == len(server.asked) - 1


def test_ctrl_c_does_not_wait_for_open_requests(server, command, tmp_path):
    def slowly(asked):
        if "ready" not in asked["prompt"]:
            time.sleep(100)
        return writes(asked)

    server.rule = slowly
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "from selfedit.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--writer", server.url],
        cwd=ROOT,
        env=os.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(server.asked) >= 2 or process.poll() is not None)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - start < 45
    assert process.returncode == 130 and "the same command continues from there" in err and "Traceback" not in err
