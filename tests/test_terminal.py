"""What reaches the terminal: text without anything that a terminal obeys, on any output, or a quiet end."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from selfedit import terminal
from selfedit.terminal import UNSAFE, Progress, one_line, plain, show_json
from selfedit.types import MemoryEntry, Passage

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a plain line, ×, 中文, ü, \t tab\n", "a plain line, ×, 中文, ü, \t tab\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;a window title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice control\x1b\\text", "text"),
        ("\x9b2Jcleared \x9d0;title\x9c.", "cleared ."),
        ("\x1b(0lines \x1bcreset", "lines reset"),
        ("\x1b\x1b[31m[31m", "�[31m"),
        ("\x1b]0;no end", "0;no end"),
        ("ends in \x1b", "ends in �"),
        ("over\rwritten", "over\nwritten"),
        ("two\r\nlines", "two\nlines"),
        ("back\b\x7f\x00", "back���"),
        ("left \u202eto right\u2066", "left �to right�"),
        ("half \udce9 pair", "half � pair"),
    ],
)
def test_nothing_that_a_terminal_obeys_is_left(text, shown):
    assert plain(text) == shown and not UNSAFE.search(shown)


def test_a_name_is_one_line():
    assert one_line("a\nselfedit: b\r\u2028c\td") == "a selfedit: b c d"


def test_json_is_exact_and_has_no_raw_control_characters(monkeypatch):
    value = {"title": "\x1b[31m ü \x9b \u202e \x7f \udce9 中"}
    for encoding, raw in (("utf-8", "ü"), ("cp1252", "\\u00fc"), ("ascii", "\\u00fc")):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        show_json(value)
        sys.stdout.flush()
        printed = sys.stdout.buffer.getvalue().decode(encoding)
        assert json.loads(printed) == value and not UNSAFE.search(printed) and raw in printed


def test_a_question_is_answered_no_unless_the_answer_is_yes(monkeypatch, capsys):
    for typed, answer in (("y\n", True), (" YES \n", True), ("n\n", False), ("", False), ("yess\n", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert terminal.confirmed("delete \x1b[31mit?") is answer
        assert capsys.readouterr() == ("", "delete it? [y/N] ")


# Tables


def test_every_table_fits_a_terminal_of_80_columns_and_no_id_is_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    id, model, why = "0123456789ab", "qwen2.5-coder-0.5b", "distinct triples fell below the guard"
    scores = [{"gold_logprob": value} for value in (-4.5, -3.5, -2.5)]
    outer = {
        "round": 10,
        "usable": 24000,
        "edits": 25000,
        "kept": 1200,
        "untouched": scores[0],
        "best": scores[2],
        "controls": {"passage": scores[1]},
        "reliability": {"first": {"one_run": 0.5, "mean_of_seeds": None}},
        "styles": [{"style": "implications+questions", "gain": 0.5}],
        "finetuned": True,
        "editor": {"id": id},
        "guard": {"why": why},
        "seconds": 60000,
    }
    recipes = {
        "round": 10,
        "tasks_solved": 300,
        "tasks": 400,
        "solved": 1500,
        "recipes": 6000,
        "gain": None,
        "kept": 1500,
        "editor": {"id": id},
        "seconds": 60000,
    }
    passage = Passage("灯台の歴史 " * 20, "", "/home/someone/documents/" * 5, "")
    entry = MemoryEntry(id, model, "", "", "2026-11-28T13:18:48", 13_000_000, passage)
    tested = SimpleNamespace(memory=entry, questions=1000, routed=1000, right_then=1000, right_now=1000, failed=10)
    held = SimpleNamespace(memory=id, questions=7, right_then=6, right_now=5, holds=True)
    figures = {"general_change": 1.5, "tokens": 123_456, "seconds": 99}
    left_out = {"b" * 16: "a newer version is among them"}
    shared = SimpleNamespace(rehearsed=[held], left_out=left_out, shared=id, reason="1 of 1 memories hold", **figures)
    terminal.rounds_table([outer, outer | {"finetuned": False}])
    terminal.recipe_rounds_table([recipes])
    terminal.retest_table([tested])
    terminal.consolidation_table(shared)
    terminal.model_table(
        [
            {
                "name": model,
                "megabytes": 1000,
                "licence": "Apache-2.0",
                "from": f"hub: Qwen/{model}",
                "here": None,
                "about": "better writer; needs a hub",
            }
        ]
    )
    out = capsys.readouterr().out
    tables = [line for line in out.splitlines() if ": " not in line]
    assert len(tables) > 20 and max(cell_len(line) for line in tables) <= 80
    assert f"{'b' * 16} is left out: a newer version is among them" in out
    assert out.count(id) == 5 and model in out and f"the editor stays as before: {why}" in out
    terminal.memory_table([entry, entry], {id: None}, [])
    head, *lines = capsys.readouterr().out.splitlines()
    assert cell_len(head) <= 80 and len(lines) == 5 and lines[0].endswith(passage.source)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Lamps\n are lit.", "Lamps are lit."),
        ("word " * 20, "word " * 12 + "…"),
        ("w" * 80, "w" * 64 + " …"),
        ("灯" * 40, "灯" * 32 + " …"),
    ],
)
def test_the_list_of_memories_has_the_first_words_of_each(text, shown, capsys):
    entry = MemoryEntry("0123456789ab", "m", "", "", "2026-11-28T13:18:48", 1, Passage("t", text, "/docs", ""))
    terminal.memory_table([entry], {}, [])
    assert capsys.readouterr().out.splitlines()[-1].strip() == shown


# The streams of a process


def shell(command: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs `command`, in which SELFEDIT is this interpreter's `selfedit`, in bash."""
    script = command.replace("SELFEDIT", f"'{sys.executable}' -m selfedit.cli")
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=ROOT,
        capture_output=True,
        env=os.environ | environment,
        timeout=120,
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16", "shift_jis"])
@pytest.mark.parametrize(
    "command", ["models list", "models list --json", "--help", "bench knowledge --help", "memory list"]
)
def test_an_output_in_another_encoding_is_no_fault(tmp_path, encoding, command):
    done = shell(f"SELFEDIT {command}", PYTHONIOENCODING=encoding, SELFEDIT_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding)


def test_an_error_in_another_encoding_is_one_line(tmp_path):
    done = shell("SELFEDIT learn Größe-中.txt", PYTHONIOENCODING="ascii", SELFEDIT_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"selfedit: Gr??e-?.txt: no such file") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", ["models list", "models list --json", "--help", "--version"])
def test_an_output_that_nobody_reads_is_no_fault(tmp_path, command):
    for redirected in (">&-", "2>&-", "<&- >&- 2>&-", "| true"):
        done = shell(f"SELFEDIT {command} {redirected}", SELFEDIT_HOME=str(tmp_path))
        assert (done.returncode, done.stderr) == (0, b""), redirected
    for unbuffered in ("", "1"):
        full = shell(f"SELFEDIT {command} >/dev/full", SELFEDIT_HOME=str(tmp_path), PYTHONUNBUFFERED=unbuffered)
        assert (full.returncode, full.stderr) == (2, b"selfedit: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "2>/dev/full", "2> >(true)", "<&- >&- 2>&-", ">/dev/full"])
def test_an_error_keeps_its_code_wherever_it_goes(tmp_path, redirected):
    done = shell(f"SELFEDIT memory show abcd {redirected}", SELFEDIT_HOME=str(tmp_path))
    assert done.returncode == 2 and b"Traceback" not in done.stderr and done.stderr.count(b"\n") <= 1


def test_where_there_is_no_terminal_progress_is_a_line_per_minute(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("selfedit.terminal.monotonic", lambda: clock[0])
    with Progress(quiet=False) as progress:
        for clock[0], done in ((1.0, 5), (61.0, 1200), (62.0, 1300), (122.0, 1400)):
            progress.stage("train", done, 2000)
    with Progress(quiet=True) as progress:
        clock[0] = 1e6
        progress.stage("train", 1, 2)
    assert [line.split() for line in capsys.readouterr().err.splitlines()] == [
        ["training", "candidates", "1,200/2,000"],
        ["training", "candidates", "1,400/2,000"],
    ]
