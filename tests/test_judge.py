"""A judge behind an API, with a real server on this machine; and the agreement of a judge with trusted verdicts."""

import gzip
import itertools
import json
import socketserver
import threading
import time
from argparse import Namespace
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_until
from endpoint import by_rule, refused, reply

from selfedit.cli import main
from selfedit.cli.options import typed
from selfedit.errors import SelfeditError, UnscoredError
from selfedit.judge import calibrate as calibration
from selfedit.judge import grading
from selfedit.judge.calibrate import Verdict, calibrate, kappa, read_verdicts
from selfedit.judge.evaluate import offline
from selfedit.judge.remote import FILE, RemoteJudge
from selfedit.remote import CHECK_WAIT_S, MAX_WAIT_S, Stored
from selfedit.types import Question

VERDICTS = Path(__file__).parents[2] / "shared" / "data" / "squad" / "gpt41_verdicts.jsonl.gz"
CAPITAL = Question("What is the capital of Norway?", ("Oslo", "the city of Oslo"))
NOW = {"retry-after": "0"}


@pytest.fixture(autouse=True)
def no_proxy_and_no_key(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def judge(endpoint, tmp_path):
    return make_judge(endpoint.url, tmp_path)


def make_judge(url: str, folder: Path, **options) -> RemoteJudge:
    return RemoteJudge(url, "gpt-4.1", folder / "cache", **{"backoff_s": 0.005, "timeout_s": 5.0} | options)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long was to be waited before each further attempt; in fact nothing waits."""
    waits = []

    class Stop(threading.Event):
        def wait(self, timeout):
            waits.append(timeout)

    monkeypatch.setattr("selfedit.remote.Event", Stop)
    return waits


def said(*texts: str) -> list[tuple[Question, str]]:
    return [(CAPITAL, text) for text in texts]


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# What is asked, and how replies are read


def test_each_pair_gets_its_own_verdict_in_order(judge, endpoint):
    texts = [f"{'Oslo' if i % 3 else 'Bergen'}, number {i}" for i in range(30)]
    assert judge(said(*texts)) == [bool(i % 3) for i in range(30)]
    assert len(endpoint.asked) == 30 and judge([]) == []


def test_the_judge_sees_the_rule_the_question_all_answers_and_what_was_said(judge, endpoint, monkeypatch):
    judge(said("  Oslo, I think.\n"))
    (asked,) = endpoint.asked
    (message,) = asked["body"]["messages"]
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["body"]["model"], asked["body"]["temperature"], message["role"]) == ("gpt-4.1", 0, "user")
    assert message["content"].endswith(
        "Question: What is the capital of Norway?\n\nAccepted answers:\n- Oslo\n- the city of Oslo\n\nWhat was "
        "said:\nOslo, I think."
    )
    assert "yes or no" in message["content"] and asked["key"] is None


def test_the_key_is_that_given_or_that_of_the_environment(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    make_judge(endpoint.url, tmp_path)(said("Oslo"))
    make_judge(endpoint.url, tmp_path, key="given")(said("Bergen"))
    assert [asked["key"] for asked in endpoint.asked] == ["Bearer from-environment", "Bearer given"]


@pytest.mark.parametrize("end", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_base_address_and_the_whole_one_are_the_same(endpoint, tmp_path, end):
    assert make_judge(endpoint.url + end, tmp_path)(said("Oslo")) == [True]
    assert endpoint.asked[0]["path"] == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("yes", True),
        ("No", False),
        (" YES.\n", True),
        ("**Yes**", True),
        ('"no"', False),
        ("Yes, it says so.", True),
        ("No\nIt is wrong.", False),
        ("No - it is Oslo", False),
        ("yes (Oslo)", True),
        ("maybe", None),
        ("", None),
        ("No idea", None),
        ("yes and no", None),
        ("yes/no", None),
        ("No-one knows", None),
        ("Yesterday", None),
        ("nothing", None),
        (None, None),
        (["yes"], None),
    ],
)
def test_a_reply_is_yes_or_no_or_unscored(judge, endpoint, text, verdict):
    endpoint.script = [reply(text)]
    assert judge(said("Oslo")) == [verdict]
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "body", [b"<html>Welcome</html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [null]}', b"[" * 5000, b"\xff"]
)
def test_a_reply_of_another_form_is_unscored_and_no_judge_when_checked(judge, endpoint, body):
    endpoint.rule = lambda asked: (200, {}, body)
    assert judge(said("Oslo")) == [None]
    with pytest.raises(SelfeditError, match="does not reply like a chat-completions API"):
        judge.check()


@pytest.mark.parametrize("blank", ["", "  \n\t"])
def test_a_blank_answer_is_wrong_without_asking(judge, endpoint, blank):
    assert judge(said(blank, "Oslo", blank)) == [False, True, False]
    assert len(endpoint.asked) == 1


def test_a_text_to_be_continued_is_graded_here(judge, endpoint):
    probe = Question("The capital of Norway is", ("Oslo",), kind="cloze")
    pairs = [(probe, " Oslo."), (probe, " Bergen."), (probe, "")]
    assert judge(pairs) == [True, False, False] == offline(pairs)
    assert endpoint.asked == []


def test_half_a_character_can_be_asked_about(judge, endpoint):
    assert judge(said("Oslo \ud83d")) == [True]


# Attempts


@pytest.mark.parametrize(
    "first",
    [
        refused(500, "oops"),
        refused(503, "loading"),
        refused(429, "slow down", headers=NOW),
        refused(408, "late"),
        refused(529, "overloaded"),
    ],
    ids=lambda first: str(first[0]),
)
def test_what_passes_is_asked_again(judge, endpoint, first):
    endpoint.script = [first, first]
    assert judge(said("Oslo")) == [True]
    assert len(endpoint.asked) == 3


def test_what_does_not_pass_is_unscored_after_all_attempts_and_the_next_run_asks_again(endpoint, tmp_path):
    endpoint.script = [refused(500, "oops")] * 3
    judge = make_judge(endpoint.url, tmp_path, retries=2)
    assert judge(said("Bergen")) == [None]
    assert len(endpoint.asked) == 3
    assert judge(said("Bergen")) == [False]
    assert (tmp_path / "cache" / FILE).read_text().count("\n") == 1


def test_the_server_says_how_long_to_wait(endpoint, tmp_path, waits):
    judge = make_judge(endpoint.url, tmp_path, backoff_s=30.0)
    date = format_datetime(datetime.now(UTC) - timedelta(minutes=1), usegmt=True)
    after = [NOW, {"retry-after": date}, {"retry-after": "0.3"}]
    endpoint.script = [refused(429, "wait", headers=headers) for headers in after]
    assert judge(said("Oslo")) == [True]
    assert waits == [0.0, 0.0, 0.3]


def test_waits_grow_and_differ(endpoint, tmp_path, waits):
    endpoint.script = [refused(500, "oops", headers={"retry-after": "soon"})] * 4
    assert make_judge(endpoint.url, tmp_path, backoff_s=1.0, parallel=1)(said("Oslo")) == [True]
    assert [low / 2 <= wait <= low for low, wait in zip((1, 2, 4, 8), waits)] == [True] * 4 and len(set(waits)) == 4


def test_a_server_that_takes_too_long_is_asked_again_and_then_given_up(endpoint, tmp_path):
    endpoint.slow_s = 0.5
    assert make_judge(endpoint.url, tmp_path, timeout_s=0.1, retries=1)(said("Oslo")) == [None]
    wait_until(lambda: len(endpoint.asked) >= 2)  # what was sent may be read late
    assert len(endpoint.asked) == 2


def test_where_nobody_answers_every_verdict_is_missing_and_a_check_says_so(dead_url, tmp_path):
    judge = make_judge(dead_url, tmp_path)
    assert judge(said("Oslo", "Bergen", "")) == [None, None, False]
    with pytest.raises(SelfeditError) as caught:
        judge.check()
    assert one_line(caught).startswith(f"the judge 'gpt-4.1' at {dead_url}/chat/completions cannot be reached (")


def test_once_nobody_answers_the_others_do_not_wait(dead_url, tmp_path, waits):
    judge = make_judge(dead_url, tmp_path, parallel=1, retries=3)
    assert judge(said(*map(str, range(40)))) == [None] * 40
    assert len(waits) == 3


def test_a_check_of_a_dead_address_does_not_wait(dead_url, tmp_path, waits):
    with pytest.raises(SelfeditError):
        make_judge(dead_url, tmp_path).check()
    assert waits == []


def test_a_check_is_one_small_request_that_leaves_no_verdict(judge, endpoint, tmp_path):
    endpoint.script = [reply("maybe")]
    judge.check()
    assert len(endpoint.asked) == 1 and (tmp_path / "cache" / FILE).read_text() == ""


# What asking again cannot mend


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            refused(401, "Incorrect API key\nprovided"),
            "(401: Incorrect API key provided); check the key in OPENAI_API_KEY",
        ),
        (refused(403, "not yours"), "(403: not yours); this key may not use the model"),
        (
            refused(404, "The model does not exist"),
            "(404: The model does not exist); check the model's name, and give a base address",
        ),
        (refused(400, "temperature"), "(400: temperature)"),
        (
            refused(429, "You exceeded your quota", code="insufficient_quota"),
            "(429: You exceeded your quota); the account cannot pay",
        ),
        ((404, {}, b"404 page not found"), "(404: 404 page not found)"),
        ((401, {}, b'{"error": "no key"}'), "(401: no key)"),
        ((401, {}, b'{"detail": "no key"}'), "(401: no key)"),
        ((401, {}, b"[1]"), "(401: [1])"),
        ((302, {"location": "/login"}, b""), "(302: Found)"),
    ],
)
def test_a_refusal_is_one_clear_line_at_first_sight(judge, endpoint, answer, reason):
    endpoint.rule = lambda asked: answer
    for action in (judge.check, lambda: judge(said("Oslo"))):
        endpoint.asked.clear()
        with pytest.raises(SelfeditError) as caught:
            action()
        assert f"the judge 'gpt-4.1' at {endpoint.url}/chat/completions refused {reason}" in one_line(caught)
        assert len(endpoint.asked) == 1


def test_after_a_refusal_nothing_more_is_asked(endpoint, tmp_path):
    endpoint.rule, endpoint.slow_s = lambda asked: refused(401, "no"), 0.02
    with pytest.raises(SelfeditError):
        make_judge(endpoint.url, tmp_path, parallel=2)(said(*map(str, range(200))))
    asked = len(endpoint.asked)
    time.sleep(0.1)
    assert len(endpoint.asked) == asked < 50


def test_one_question_that_the_judge_cannot_take_does_not_stop_the_others(judge, endpoint):
    endpoint.rule = lambda asked: refused(400, "content filter") if "bomb" in asked["said"] else by_rule(asked)
    judge.check()
    assert judge(said("Oslo", "a bomb", "Bergen")) == [True, None, False]


def test_a_refusal_ends_the_waiting_of_others(endpoint, tmp_path):
    endpoint.rule = lambda asked: refused(500, "oops") if asked["said"] == "Oslo" else refused(401, "no")
    endpoint.slow_s = 0.05
    start = time.monotonic()
    with pytest.raises(SelfeditError, match="401"):
        make_judge(endpoint.url, tmp_path, parallel=2, backoff_s=1000.0)(said("Oslo", "Bergen"))
    assert time.monotonic() - start < 0.9 * MAX_WAIT_S


@pytest.mark.parametrize(
    "url", ["", "localhost:8000/v1", "ftp://host/v1", "http://", "http://[::1", "http://host:port/v1", "file:///v1"]
)
def test_what_is_no_address_is_named(tmp_path, url):
    with pytest.raises(SelfeditError) as caught:
        make_judge(url, tmp_path)
    assert one_line(caught).startswith(f"{url!r} is no address of an API")


@pytest.mark.parametrize("host", ["api..openai.com", ".openai.com", "a" * 64 + ".com", "bü..de", "a.b..c:80"])
def test_a_host_that_no_name_server_can_look_up_is_no_address(tmp_path, host):
    with pytest.raises(SelfeditError) as caught:
        make_judge(f"http://{host}/v1", tmp_path)
    assert one_line(caught).startswith(f"'http://{host}/v1' is no address of an API")


@pytest.mark.parametrize(
    "url", ["http://me:SECRET@host:port/v1", "ftp://me:SECRET@host/v1", "me:SECRET@host/v1", "http://me:a/SECRET@host"]
)
def test_the_password_of_an_address_that_is_refused_is_not_shown(tmp_path, url):
    with pytest.raises(SelfeditError, match="host.* is no address of an API") as caught:
        make_judge(f"{url}?key=SECRET", tmp_path)
    assert "SECRET" not in one_line(caught)


def test_the_key_in_the_error_of_a_server_is_not_shown(endpoint, tmp_path):
    endpoint.rule = lambda asked: refused(401, f"{'wrong ' * 30}key {asked['key']} is unknown")
    with pytest.raises(SelfeditError, match="key Bearer …") as caught:
        make_judge(endpoint.url, tmp_path, key="sk-SECRET-0123456789").check()
    assert "sk-" not in one_line(caught)


@pytest.mark.parametrize("status", [200, 401, 429])
@pytest.mark.parametrize("charset", ["rot13", "base64", "hex", "zip", "idna", "undefined", "utf-7", "no-such"])
def test_a_reply_in_a_codec_that_is_none_of_text_is_one_line(endpoint, tmp_path, status, charset):
    endpoint.rule = lambda asked: (status, {"content-type": f"text/html; charset={charset}"}, b"<html>\xff+AG8</html>")
    with pytest.raises(SelfeditError) as caught:
        make_judge(endpoint.url, tmp_path).check()
    assert one_line(caught)


@pytest.mark.parametrize(
    "after",
    [
        "Mon, 01 Jan 2024 00:00:00 +99999999999999",
        "Mon, 01 Jan 20240000000000000000 00:00:00 GMT",
        "Mon, 99 Jan 2024 00:00:00 GMT",
        ",",
        "-1",
    ],
)
def test_a_wait_that_cannot_be_read_is_none(judge, endpoint, after):
    endpoint.script = [refused(429, "wait", headers={"retry-after": after})]
    assert judge(said("Oslo")) == [True]


@pytest.mark.parametrize(
    "answer", [refused(429, "wait", headers={"retry-after": "9" * 400}), refused(500, "oops"), refused(503, "down")]
)
def test_a_check_waits_for_a_few_seconds_at_most(endpoint, tmp_path, answer, waits):
    endpoint.rule = lambda asked: answer
    with pytest.raises(SelfeditError, match="; try again later"):
        make_judge(endpoint.url, tmp_path, backoff_s=1.0, retries=9).check()
    assert sum(waits) <= CHECK_WAIT_S and len(waits) == len(endpoint.asked) - 1


class Raw(socketserver.ThreadingTCPServer):
    """Sends the parts, one per `pause_s`, until the client has gone."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, parts, pause_s: float):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.recv(65536)
                with suppress(OSError):
                    for part in parts:
                        self.request.sendall(part)
                        time.sleep(pause_s)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def server_close(self):
        self.shutdown()
        super().server_close()


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPPED = {
    "body": (HEAD + b"content-length: 9999\r\n\r\n", b" "),
    "compressed": (HEAD + b"content-encoding: gzip\r\ncontent-length: 9999\r\n\r\n\x1f\x8b\x08\x08" + b"\0" * 6, b"a"),
    "headers": (HEAD, b"a"),
}


@pytest.mark.parametrize("what", DRIPPED)
def test_a_reply_that_never_ends_is_given_up(tmp_path, what):
    head, drop = DRIPPED[what]
    with Raw(itertools.chain([head], itertools.repeat(drop, 400)), 0.05) as server:
        judge = make_judge(server.url, tmp_path, timeout_s=30.0)  # for each part
        judge._remote._total_s = 0.8
        start = time.monotonic()
        with pytest.raises(SelfeditError, match=r"cannot be reached \(the reply takes too long\)"):
            judge.check()
        assert time.monotonic() - start < 15  # the whole reply: 20 s


@pytest.mark.parametrize(
    ("status", "line"), [(b"200 OK", "sent a reply of more than"), (b"401 No", "refused (401: xxx")]
)
def test_a_reply_without_end_is_not_read_to_its_end(tmp_path, status, line):
    sent = []

    def parts():
        yield b"HTTP/1.1 " + status + b"\r\n\r\n"
        for _ in range(3000):
            sent.append(10_000)
            yield b"x" * 10_000

    with Raw(parts(), 0) as server, pytest.raises(SelfeditError) as caught:
        make_judge(server.url, tmp_path).check()
    assert line in one_line(caught) and sum(sent) < 20_000_000


def test_a_port_that_cannot_be_is_an_address_that_cannot_be_reached(tmp_path):
    with pytest.raises(SelfeditError):
        make_judge("http://127.0.0.1:99999/v1", tmp_path).check()


def test_a_password_in_the_address_is_not_shown(endpoint, tmp_path):
    endpoint.rule = lambda asked: refused(401, "no")
    judge = make_judge(endpoint.url.replace("//", "//me:secret@") + "?api-key=secret", tmp_path)
    with pytest.raises(SelfeditError) as caught:
        judge.check()
    assert "secret" not in str(caught.value)
    assert endpoint.asked[0]["path"] == "/v1/chat/completions?api-key=secret"


def test_what_was_typed_is_kept_without_the_password_of_the_judge():
    url = "https://me:secret@host/v1?api-key=secret"
    argv = ["bench", "knowledge", "--judge", url, f"--judge={url}", "--out", "runs/a"]
    assert (
        typed(Namespace(judge=url, argv=argv))
        == "selfedit bench knowledge --judge https://host/v1 --judge=https://host/v1 --out runs/a"
    )
    assert typed(Namespace(judge=None, argv=["judge", "calibrate"])) == "selfedit judge calibrate"


def test_a_key_with_a_line_in_it_is_named_but_not_shown(endpoint, tmp_path):
    with pytest.raises(SelfeditError, match="invalid characters") as caught:
        make_judge(endpoint.url, tmp_path, key="sk-1\nsk-2")
    assert "sk-1" not in str(caught.value)


# What is kept


def test_a_second_run_asks_nothing_again(endpoint, tmp_path):
    pairs = said("Oslo", "Bergen", "Oslo")
    assert make_judge(endpoint.url, tmp_path)(pairs) == [True, False, True]
    assert len(endpoint.asked) == 2  # the same answer is asked about once
    again = make_judge(endpoint.url, tmp_path)
    assert again(pairs) == again(pairs[::-1])[::-1] == [True, False, True]
    assert len(endpoint.asked) == 2


def test_another_model_address_question_or_answer_is_another_verdict(endpoint, tmp_path):
    make_judge(endpoint.url, tmp_path)(said("Oslo"))
    RemoteJudge(endpoint.url, "gpt-5", tmp_path / "cache")(said("Oslo"))
    make_judge(endpoint.url.replace("/v1", "/v2"), tmp_path)(said("Oslo"))
    make_judge(endpoint.url, tmp_path)([(Question(CAPITAL.question, ("Oslo",)), "Oslo")])
    assert len(endpoint.asked) == 4
    assert len((tmp_path / "cache" / FILE).read_text().splitlines()) == 4


@pytest.mark.parametrize("torn", [1, 30, 90])
def test_a_torn_last_line_costs_one_verdict_and_no_other(endpoint, tmp_path, torn):
    make_judge(endpoint.url, tmp_path, parallel=1)(said("Oslo", "Bergen"))
    file = tmp_path / "cache" / FILE
    file.write_bytes(file.read_bytes()[:-torn])
    assert make_judge(endpoint.url, tmp_path)(said("Oslo", "Bergen", "Stavanger")) == [True, False, False]
    assert len(endpoint.asked) == (3 if torn == 1 else 4)  # without its newline alone, the line is whole
    assert make_judge(endpoint.url, tmp_path)(said("Oslo", "Bergen", "Stavanger")) == [True, False, False]
    assert len(endpoint.asked) == (3 if torn == 1 else 4)


def test_lines_of_another_kind_are_left_alone(endpoint, tmp_path):
    file = tmp_path / "cache" / FILE
    file.parent.mkdir()
    foreign = b'\xff\xfe\n[1]\n{"key": "a"}\n{"key": "a", "verdict": 1}\n{"key": ["a"], "verdict": true}\n\n'
    file.write_bytes(foreign)
    assert make_judge(endpoint.url, tmp_path)(said("Oslo")) == [True]
    assert file.read_bytes().startswith(foreign)


def test_runs_at_the_same_time_keep_all_their_verdicts(endpoint, tmp_path):
    judges = [make_judge(endpoint.url, tmp_path) for _ in range(3)]
    threads = [
        threading.Thread(target=judge, args=(said(*(f"Oslo {i} {j}" for i in range(20))),))
        for j, judge in enumerate(judges)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in (tmp_path / "cache" / FILE).read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 60


def test_a_file_just_begun_by_another_run_is_not_taken_for_torn(tmp_path):
    for attempt in range(50):
        kept = [Stored(tmp_path / str(attempt) / FILE, "verdict", "judge") for _ in range(3)]
        start = threading.Barrier(3)

        def write(verdicts, name, start=start):
            start.wait()
            for i in range(3):
                verdicts.add(f"{name} {i}", True)

        threads = [threading.Thread(target=write, args=(verdicts, name)) for name, verdicts in enumerate(kept)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = (tmp_path / str(attempt) / FILE).read_bytes().splitlines()
        assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 9


def test_a_cache_that_cannot_be_written_is_found_before_anything_is_asked(endpoint, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SelfeditError, match="cannot store the replies of the judge in .*cache") as caught:
        make_judge(endpoint.url, tmp_path)
    assert one_line(caught) and endpoint.asked == []


def test_requests_overlap_as_many_as_was_said(endpoint, tmp_path):
    endpoint.slow_s, five = 0.1, threading.Barrier(5)

    def together(asked):
        five.wait(60)  # fails unless five are asked at once
        return by_rule(asked)

    endpoint.rule = together
    judge = make_judge(endpoint.url, tmp_path, parallel=5, timeout_s=60.0)
    assert judge(said(*(f"Oslo {i}" for i in range(20)))) == [True] * 20
    assert endpoint.most <= 5 and len(endpoint.asked) == 20


# How far a judge agrees


def verdict(title: str, prediction: str, correct: bool) -> Verdict:
    return Verdict(title, CAPITAL, prediction, correct)


# Of 10 answers: 4 both yes, 1 only the judge, 2 only the verdict, 3 both no.
# The agreement is .7, by chance .5 × .6 + .5 × .4 = .5, so kappa is .4.
TEN = (
    [verdict("Norway", "Oslo", True)] * 4
    + [verdict("Norway", "Oslo", False)]
    + [verdict("Sweden", "Bergen", True)] * 2
    + [verdict("Sweden", "Bergen", False)] * 3
)


def test_agreement_is_as_worked_out_by_hand():
    result = calibrate(TEN, offline)
    assert result["kappa"] == pytest.approx(0.4) and result["accuracy"] == pytest.approx(0.7)
    assert result["confusion"] == {"true_positive": 4, "false_positive": 1, "false_negative": 2, "true_negative": 3}
    assert (result["n"], result["titles"], result["unscored"]) == (10, 2, 0)
    # Two titles are drawn twice, so half of all draws have the same title twice. Kappa is 0 there, since either title
    # alone has one constant side.
    assert result["ci95"] == pytest.approx([0.0, 0.4])


def test_kappa_is_1_for_equals_0_for_chance_and_undefined_where_nothing_differs():
    found = kappa(np.array([[5, 0, 0, 5], [0, 5, 5, 0], [4, 4, 4, 4], [7, 3, 0, 0], [9, 0, 0, 0]]))
    assert found[:4] == pytest.approx([1, -1, 0, 0]) and np.isnan(found[4])
    result = calibrate([verdict("Norway", "Oslo", True)], offline)
    assert (result["kappa"], result["ci95"], result["accuracy"]) == (None, None, 1.0)


def test_a_single_title_has_no_interval():
    result = calibrate(TEN[:5], offline)
    assert (result["kappa"], result["ci95"]) == (0.0, None)


def test_what_is_unscored_is_counted_and_not_compared():
    result = calibrate(TEN + TEN, lambda pairs: [None] * 10 + offline(pairs[10:]))
    assert (result["n"], result["unscored"], result["kappa"]) == (10, 10, pytest.approx(0.4))
    with pytest.raises(UnscoredError, match="no verdict on any of 10 answers"):
        calibrate(TEN, lambda pairs: [None] * len(pairs))


def test_the_same_verdicts_give_the_same_interval_and_progress_ends_at_all():
    many = [verdict(f"title {i % 40}", "Oslo" if i % 7 else "Bergen", bool(i % 5)) for i in range(600)]
    steps = []
    first, second = (calibrate(many, offline, lambda *step: steps.append(step)) for _ in range(2))
    assert first["ci95"] == second["ci95"] and first["ci95"][0] < first["kappa"] < first["ci95"][1]
    assert steps[:3] == [("judge", 256, 600), ("judge", 512, 600), ("judge", 600, 600)]


# On the command line


RECORDS = [
    {"title": v.title, "question": CAPITAL.question, "gold": "Oslo", "prediction": v.prediction, "correct": v.correct}
    for v in TEN
]
LINES = "\n".join(map(json.dumps, RECORDS)) + "\n"


@pytest.fixture
def data(tmp_path) -> Path:
    file = tmp_path / "verdicts.jsonl"
    file.write_text(LINES)
    return file


@pytest.fixture(autouse=True)
def own_grader(monkeypatch, tmp_path) -> Path:
    """No record of titles, except where a test writes one."""
    monkeypatch.setattr(calibration, "GRADER", tmp_path / "grader.json")
    return tmp_path / "grader.json"


def calibrated(capsys, *arguments) -> dict:
    assert main(["judge", "calibrate", *map(str, arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def refusal(capsys, *arguments) -> str:
    assert main(["judge", "calibrate", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("selfedit: ") and "Traceback" not in err
    return err.removeprefix("selfedit: ").rstrip("\n")


def test_json_has_every_figure_and_the_same_from_a_zipped_file(data, capsys):
    result = calibrated(capsys, "--data", data)
    assert list(result) == ["n", "titles", "kappa", "ci95", "accuracy", "confusion", "unscored", "seconds", "left_out"]
    assert (result["n"], result["left_out"], result["kappa"]) == (10, 0, pytest.approx(0.4))
    zipped = data.with_name("verdicts.jsonl.gz")
    zipped.write_bytes(gzip.compress(data.read_bytes()))
    assert calibrated(capsys, "--data", zipped) | {"seconds": 0} == result | {"seconds": 0}


def test_people_see_a_table_and_the_confusion_matrix(data, capsys):
    assert main(["judge", "calibrate", "--data", str(data)]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "0.400  [0.000, 0.400]" in out and "10 on 2 titles" in out and "left out" not in out
    rows = [line.split() for line in out.splitlines() if "judge: " in line]
    assert [[cell for cell in row if cell.isdigit()] for row in rows] == [["4", "1"], ["2", "3"]]
    assert max(map(len, out.splitlines())) <= 80


def test_only_the_first_answers_if_a_limit_is_given(data, capsys):
    assert calibrated(capsys, "--data", data, "--limit", 6)["n"] == 6
    assert calibrated(capsys, "--data", data, "--limit", 99)["n"] == 10
    assert refusal(capsys, "--data", data, "--limit", 0).startswith("--limit: give a whole number from 1 to ")


def test_titles_that_the_grader_was_fitted_on_are_left_out_unless_all_are_asked_for(data, capsys, own_grader):
    short = [sha256(title.encode()).hexdigest()[:8] for title in ("Norway", "Sweden")]
    own_grader.write_text(json.dumps({"fitted_titles": short[:1], "weights": []}))
    result = calibrated(capsys, "--data", data)
    assert (result["n"], result["titles"], result["left_out"]) == (5, 1, 5)
    assert (
        calibrated(capsys, "--data", data, "--all")["n"],
        calibrated(capsys, "--data", data, "--all")["left_out"],
    ) == (10, 0)
    assert main(["judge", "calibrate", "--data", str(data)]) == 0
    assert "5, on titles that the grader was fitted on" in " ".join(capsys.readouterr().out.split())
    own_grader.write_text(json.dumps({"fitted_titles": short}))
    assert (
        refusal(capsys, "--data", data)
        == f"{data}: the grader was fitted on every title in it; --all compares them all the same"
    )
    own_grader.write_text("{}")
    assert calibrated(capsys, "--data", data)["left_out"] == 0


def test_a_judge_at_an_address_is_compared_on_all_titles(data, capsys, endpoint, own_grader, monkeypatch, tmp_path):
    monkeypatch.setenv("SELFEDIT_CACHE", str(tmp_path / "home"))
    own_grader.write_text(json.dumps({"fitted_titles": [sha256(b"Norway").hexdigest()[:8]]}))
    endpoint.rule = lambda asked: reply("no idea") if "Bergen" in asked["said"] else by_rule(asked)
    result = calibrated(capsys, "--data", data, "--judge", endpoint.url, "--judge-model", "tiny")
    assert (result["n"], result["unscored"], result["left_out"]) == (5, 5, 0)
    assert [asked["body"]["model"] for asked in endpoint.asked] == ["tiny"] * 3  # the check, and each answer once
    assert (tmp_path / "home" / "judge" / FILE).read_text().count("\n") == 1


def test_a_judge_that_cannot_be_used_is_one_line(data, capsys, endpoint, dead_url, monkeypatch, tmp_path):
    monkeypatch.setenv("SELFEDIT_CACHE", str(tmp_path / "home"))
    assert "cannot be reached" in refusal(capsys, "--data", data, "--judge", dead_url)
    assert "is no address of an API" in refusal(capsys, "--data", data, "--judge", "")
    endpoint.rule = lambda asked: refused(401, "wrong key")
    assert "(401: wrong key); check the key" in refusal(capsys, "--data", data, "--judge", endpoint.url)
    endpoint.rule = lambda asked: reply("well")
    assert refusal(capsys, "--data", data, "--judge", endpoint.url).startswith(
        "the judge gave no verdict on any of 10 answers"
    )


def changed(**fields) -> str:
    return json.dumps({name: value for name, value in (RECORDS[0] | fields).items() if value is not ...})


BAD = {
    "empty; give one JSON object per line": "",
    "line 1: not JSON": "{",
    "line 2: not JSON": f"{changed()}\nnull,",
    "line 1: should be an object, is a list": "[]",
    "line 1: 'gold' is missing": changed(gold=...),
    "line 1: 'correct': should be true or false, is text": changed(correct="yes"),
    "line 1: 'correct': should be true or false, is a number": changed(correct=1),
    "line 1: 'correct': should be true or false, is null": changed(correct=None),
    "line 1: 'prediction': should be text, is null": changed(prediction=None),
    "line 1: 'gold': is empty": changed(gold=" "),
    "line 1: 'question': should be text, is a list": changed(question=["Who?"]),
    "line 1: 'title' is missing": changed(title=...),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_file_that_is_none_of_verdicts_is_one_line(tmp_path, capsys, reason):
    file = tmp_path / "bad.jsonl"
    file.write_text(BAD[reason])
    line = refusal(capsys, "--data", file)
    assert line.startswith(str(file)) and reason in line


def test_a_file_that_is_not_there_or_not_zipped_as_it_says_is_one_line(tmp_path, capsys, monkeypatch):
    assert "no such file" in refusal(capsys, "--data", tmp_path / "none.jsonl")
    assert "a folder; name a file in it" in refusal(capsys, "--data", tmp_path)
    file, whole = tmp_path / "verdicts.jsonl.gz", gzip.compress(LINES.encode())
    for content in (LINES.encode(), whole[:-20], whole[:5], whole[:15] + b"\0\0\0\0" + whole[19:]):
        file.write_bytes(content)
        assert refusal(capsys, "--data", file).startswith(f"{file}: not a complete gzip file (")
    file.write_bytes(b"")
    assert refusal(capsys, "--data", file).startswith(f"{file}: empty")
    file.write_bytes(gzip.compress(b"\n" * 3_000))
    monkeypatch.setattr("selfedit.tasks.records.MAX_BYTES", 2_000)
    assert "over the limit of 0.002 MB when unzipped" in refusal(capsys, "--data", file)


def test_a_blank_answer_is_no_mistake_of_the_file(tmp_path, capsys):
    file = tmp_path / "verdicts.jsonl"
    file.write_text(f"{changed(prediction='', correct=False)}\n{changed()}\n")
    assert calibrated(capsys, "--data", file)["confusion"] == {
        "true_positive": 1,
        "false_positive": 0,
        "false_negative": 0,
        "true_negative": 1,
    }


def test_the_real_verdicts_are_read_and_agreed_with(capsys):
    if not VERDICTS.is_file():
        pytest.skip(f"needs the shared data set {VERDICTS}")
    assert len(read_verdicts(VERDICTS)) == 27_669
    result = calibrated(capsys, "--data", VERDICTS, "--all", "--limit", 3000)
    assert (result["n"], sum(result["confusion"].values()), result["left_out"]) == (3000, 3000, 0)
    assert result["kappa"] > 0.7 and result["ci95"][0] < result["kappa"] < result["ci95"][1]


def test_titles_that_the_shipped_grader_was_fitted_on_are_left_out_of_the_real_verdicts(capsys, monkeypatch):
    monkeypatch.setattr(calibration, "GRADER", Path(grading.__file__).with_name("grader.json"))
    if not VERDICTS.is_file():
        pytest.skip(f"needs the shared data set {VERDICTS}")
    result = calibrated(capsys, "--data", VERDICTS)
    assert (result["n"], result["titles"], result["left_out"]) == (4782, 17, 27_669 - 4782)
    assert result["kappa"] > 0.74
