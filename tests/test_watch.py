"""watch: which dependencies of a lock file have moved, and what of their release notes is new."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import wait_until, write_tiny_model
from test_packages import Index, index, sdist  # noqa: F401  (a fixture)

from selfedit.cli import main
from selfedit.documents.package import is_release_notes
from selfedit.documents.records import Block, Document
from selfedit.errors import LibraryError
from selfedit.libraries import Library
from selfedit.memory.store import MemoryStore
from selfedit.types import Passage, Unit
from selfedit.watch import Moved, Watch, newer

LOCKS = Path(__file__).with_name("data") / "locks"
NOTES = """# Changelog

Everything that matters.

## 1.33.1

- The method `gather` of a gate was removed. Use `collect` instead.

### Python 3.9 is needed

## [1.31.0] - 2025.06.02

- The default colour of a gate is teal.

## 1.30.0 (2025-05-20)

- Gates are red.
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SELFEDIT_HOME", str(tmp_path / "home"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "home"


@pytest.fixture
def upgrade(tmp_path):
    """Puts the lock file of one side into the project."""

    def put(side: str, name: str = "uv.lock") -> Path:
        return Path(shutil.copy(LOCKS / side / name, tmp_path / "project"))

    return put


def tags(*texts: str) -> list[Library]:
    return [*map(Library.parse, texts)]


def moved(watch: Watch, *known: str, everything: bool = False) -> list[tuple[str, str, str]]:
    return [(one.library, one.before, one.now) for one in watch.moved(tags(*known), everything)]


# What has moved


@pytest.mark.parametrize("name", ["uv.lock", "pylock.toml", "requirements.txt", "Pipfile.lock", "pyproject.toml"])
def test_a_dependency_that_memories_are_about_moves_with_its_lock_file(home, upgrade, name):
    watch = Watch(home, upgrade("before", name))
    assert moved(watch) == moved(watch, "polars@1.30") == moved(watch, "pandas@2.0") == []
    upgrade("after", name)
    for _ in range(2):  # until its release notes are learned
        assert moved(watch, "polars@1.30") == [("polars", "1.30.0", "1.33.1")]
    watch.note({"polars": "1.33.1"})
    assert moved(watch, "polars@1.30") == []
    upgrade("before", name)
    assert moved(watch, "polars@1.20") == [("polars", "1.33.1", "1.30.0")] and moved(watch, "polars@1.30") == []


def test_a_dependency_moves_if_the_memories_are_about_other_versions_only(home, upgrade):
    watch = Watch(home, upgrade("before"))
    assert moved(watch, "polars@0.20", "polars@1.10", "idna@2.0") == [("idna", "2.0", "3.20")]
    assert moved(watch, "polars@0.20", "polars@0.19") == [("polars", "0.20", "1.30.0")]
    assert moved(watch, "polars@2.0") == [("polars", "", "1.30.0")]
    assert moved(watch, "polars@2.0", "polars") == moved(watch, "polars@2.0", "polars==1.30.0") == []


def test_what_is_learned_of_the_pinned_version_has_not_moved(home, upgrade):
    watch = Watch(home, upgrade("before"))
    assert moved(watch, "polars@1.30") == []
    upgrade("after")
    assert moved(watch, "polars@1.30", "polars@1.33.1") == []


def test_with_all_every_dependency_is_watched_from_then_on(home, upgrade):
    watch = Watch(home, upgrade("before"))
    assert moved(watch) == []
    all_of_them = [("idna", "", "3.20"), ("iniconfig", "", "2.0.0"), ("polars", "", "1.30.0")]
    assert moved(watch, everything=True) == all_of_them and moved(watch) == []
    upgrade("after")
    assert moved(watch) == [("iniconfig", "2.0.0", "2.1.0"), ("polars", "1.30.0", "1.33.1")]


def test_the_lock_files_of_two_projects_are_watched_apart(home, upgrade, tmp_path):
    first = Watch(home, upgrade("before"))
    second = Watch(home, LOCKS / "after" / "uv.lock")
    assert moved(first, "polars@1.30") == moved(second, "polars@1.30") == moved(first, "polars@1.30") == []
    assert sorted(json.loads(file.read_bytes())["versions"]["polars"] for file in (home / "watch").iterdir()) == [
        "1.30.0",
        "1.33.1",
    ]


def test_a_package_of_npm_moves(home, upgrade):
    watch = Watch(home, upgrade("before", "package-lock.json"))
    assert moved(watch, "npm/react@18") == []
    upgrade("after", "package-lock.json")
    (one,) = watch.moved(tags("npm/react@18"))
    assert (one.source, one.tag, one.before) == ("package:npm/react@19.0.0", "npm/react@19.0", "18.2.0")


def test_a_damaged_record_is_one_line(home, upgrade):
    watch = Watch(home, upgrade("before"))
    moved(watch, "polars@1.30")
    (file,) = (home / "watch").iterdir()
    for content in ("", "{", "[]", '{"versions": 3}', '{"versions": {"-": "1"}}'):
        file.write_text(content)
        with pytest.raises(LibraryError, match="is damaged .*; delete it"):
            watch.moved([])
    file.unlink()
    assert moved(watch) == []


# What is new in the release notes


def document(*headings: str, title: str = "Changelog", source: str = "package:gate@1.33.1/CHANGES.md") -> Document:
    blocks = [Block((text,), (Unit("sentence", text),), tuple(filter(None, text.split(" › ")))) for text in headings]
    return Document(source, title, tuple(blocks))


def sections(one: Document, before: str, now: str) -> list[str]:
    return [block.parts[0] for block in newer(one, Moved("gate", before, now)).blocks]


def test_the_sections_newer_than_the_version_before_are_new():
    new = ("2.1.0", "2.1.0 › Python 3.9", "v2.0.1", "[2.0.0] - 2025.01.02")
    one = document("", "Unreleased", *new, "Version 1.9.5", "1.9")
    assert sections(one, "2.0.0", "2.1.0") == list(new[:3])
    assert sections(one, "1.9.5", "2.0.1") == list(new[2:])
    assert sections(one, "2.1.0", "2.1.0") == sections(one, "", "2.1.0") == list(new)  # of the major version
    assert sections(one, "3.0", "1.9.5") == ["Version 1.9.5", "1.9"]  # a downgrade


def test_of_0_x_the_minor_version_counts_and_prereleases_as_their_release():
    one = document("0.21.0", "0.20.2", "0.20.0rc1", "0.19")
    assert sections(one, "", "0.20.2") == ["0.20.2", "0.20.0rc1"]
    assert sections(one, "0.20.0rc1", "0.21.0") == ["0.21.0", "0.20.2"]


def test_a_file_of_one_version_is_known_by_its_title_or_name():
    assert sections(document("New", title="Gate 2.0 is out"), "1.0", "2.1") == ["New"]
    assert sections(document("New", title="Gate 0.9 is out"), "1.0", "2.1") == []
    assert sections(document("New", title="News", source="package:gate@2/docs/v2.0.0rc1.md"), "1.0", "2.1") == ["New"]
    assert sections(document("From 1.0 to 2.0"), "1.0", "2.1") == ["From 1.0 to 2.0"]
    assert sections(document("Rename", "Delete"), "1.0", "2.1") == ["Rename", "Delete"]  # nothing names a version


def test_release_notes_are_known_by_their_names():
    yes = "CHANGELOG.md HISTORY NEWS.rst docs/release-notes/v2.md doc/whatsnew/index.rst UPGRADING.md docs/migration.md"
    no = "README.md docs/guide.md changelog/README.rst changelog/123.bugfix.rst docs/api.md"
    assert all(is_release_notes(f"package:gate@1.0/{path}") for path in yes.split())
    assert not any(is_release_notes(f"package:gate@1.0/{path}") for path in no.split())
    assert not is_release_notes("/home/CHANGELOG.md") and is_release_notes("package:npm/@a/gate@1/CHANGELOG.md")


# The command


@pytest.fixture
def gate(index):  # noqa: F811
    """A package with release notes in the index, in the place of polars; iniconfig has none."""
    for name, version, files in (
        ("polars", "1.33.1", {"README.md": "A gate.", "CHANGELOG.md": NOTES, "doc/changelog.md": NOTES}),
        ("iniconfig", "2.1.0", {"README.md": "Settings."}),
    ):
        Index.pages[f"/f/{name}-{version}.tar.gz"] = ("", sdist(files, top=f"{name}-{version}/"))
        link = f'<a href="/f/{name}-{version}.tar.gz">{name}-{version}.tar.gz</a>'
        Index.pages[f"/simple/{name}/"] = ("text/html", link.encode())


@pytest.fixture
def run(capsys):
    def run(*arguments: object, code: int = 0):
        assert main(["watch", *map(str, arguments)]) == code
        return capsys.readouterr()

    return run


def known(home: Path, *libraries: str) -> None:
    for library in libraries:
        passage = Passage("Gate", f"About {library}.", f"/{library}.md", "a" * 64, library=library)
        MemoryStore(home).add(None, model="x", model_hash="m" * 64, passage=passage, edits=[], scores={})


def test_what_would_be_learned_is_shown_without_learning_it(home, upgrade, gate, run):
    known(home, "polars@1.30", "iniconfig@2.0")
    upgrade("before")
    assert run().out.startswith("nothing has moved in ") and json.loads(run("--json").out)["moved"] == []
    upgrade("after")
    out, err = run()
    assert re.fullmatch(r"polars 1.30.0 → 1.33.1: \d+ words of CHANGELOG.md, about \d+ \w+ to learn\n", out)
    assert "iniconfig 2.0.0 → 2.1.0: the package ships no release notes" in err and "--for iniconfig@2.1" in err
    first, second = json.loads(run("uv.lock", "--json").out)["moved"]
    assert second["source"] == "package:polars@1.33.1" and second["files"] == ["package:polars@1.33.1/CHANGELOG.md"]
    assert first["library"] == "iniconfig" and "error" in first and second["seconds_expected"] > 0
    assert len(MemoryStore(home).active()) == 2


def test_a_package_that_cannot_be_read_leaves_the_others(home, upgrade, gate, run):
    del Index.pages["/simple/polars/"]
    known(home, "polars@1.30", "iniconfig@2.0")
    upgrade("before")
    run()
    upgrade("after")
    moved = json.loads(run("--json").out)["moved"]
    assert [one["library"] for one in moved] == ["iniconfig", "polars"]
    assert "has no package 'polars'" in moved[1]["error"]


def test_bad_input_is_one_line(run, tmp_path):
    for arguments, reason in (
        ([], "has no lock file"),
        (["nowhere.lock"], "no such file"),
        (["--every", "0"], "--every: give a whole number"),
    ):
        err = run(*arguments, code=2).err
        assert reason in err and err.count("\n") == 1
    (tmp_path / "project/requirements.txt").write_text("polars==")
    assert "is no requirement" in run(code=2).err


@contextmanager
def watching(tmp_path):
    """`watch --every` in a process that waits .2 s instead of minutes; its log."""
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "from selfedit.cli import main\nreal = time.sleep\n"
        "time.sleep = lambda seconds: real(min(seconds, 0.2))\nsys.exit(main(sys.argv[1:]))"
    )
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", script, "watch", "--every", "1"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
    try:
        yield log
        time.sleep(1.0)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
    assert process.returncode == 130 and log.read_text().splitlines()[-1].startswith("stopped")


def test_watching_goes_on_until_it_is_stopped_and_tells_news_once(home, upgrade, gate, tmp_path):
    known(home, "polars@1.30")
    upgrade("before")
    with watching(tmp_path) as log:
        wait_until(lambda: (home / "watch").exists())
        (tmp_path / "project/uv.lock").write_text("[[[")  # as if it were being written
        wait_until(lambda: b"no lock file that is known" in log.read_bytes())
        upgrade("after")
        wait_until(lambda: b"polars 1.30.0" in log.read_bytes())
    text = log.read_text()
    assert text.count("polars 1.30.0 → 1.33.1: ") == 1 and "nothing has moved" not in text


def test_what_could_not_be_read_is_tried_again(home, upgrade, gate, tmp_path):
    page = Index.pages.pop("/simple/polars/")
    known(home, "polars@1.30")
    upgrade("before")
    with watching(tmp_path) as log:
        wait_until(lambda: (home / "watch").exists())
        upgrade("after")
        wait_until(lambda: b"has no package 'polars'" in log.read_bytes())
        time.sleep(0.5)
        Index.pages["/simple/polars/"] = page
        wait_until(lambda: b"words of CHANGELOG.md" in log.read_bytes())
    text = log.read_text()
    assert text.count("has no package 'polars'") == text.count("words of CHANGELOG.md") == 1


@pytest.mark.parametrize("study", ["auto", "facts"])
def test_what_moved_is_learned_as_code_or_as_facts_in_one_way(home, upgrade, gate, run, tmp_path, monkeypatch, study):
    from selfedit import learn, release

    model = write_tiny_model(tmp_path / "model", max_position_embeddings=2048)
    known(home, "polars@1.30")
    upgrade("before")
    run()
    upgrade("after")
    calls = []

    def learn_release(model, passages, store, config, library, environment, **options):
        calls.append(("code", str(library), [passage.text for passage in passages]))
        return release.ReleaseReport(str(library), len(passages), 1, 0, {}, "", reason="no pair")

    def learn_facts(model, passages, store, config, **options):
        calls.append(("facts", passages[0].library, [passage.text for passage in passages]))
        return learn.LearnReport([])

    monkeypatch.setattr(release, "learn_release", learn_release)
    monkeypatch.setattr(learn, "learn", learn_facts)
    err = run("--learn", "--model", model, "--no-run", "--study", study, code=3).err
    assert [kind for kind, *_ in calls] == (["code", "facts"] if study == "auto" else ["facts"])
    assert len({str(rest) for _, *rest in calls}) == 1 and calls[0][1] == "polars@1.33.1"
    assert ("nothing was learned as code (no pair)" in err) == (study == "auto")


@pytest.mark.embedded
def test_what_moved_is_learned_and_answers_for_its_version_only(home, upgrade, gate, run, capsys):
    known(home, "polars@1.30")
    upgrade("before")
    run()
    upgrade("after")
    out = json.loads(run("--learn", "--json", code=0).out)
    (one,) = out["moved"]
    assert one["learned"]["passages"] == 1 and one["learned"]["memories"]
    (entry,) = [entry for entry in MemoryStore(home).active() if entry.passage.library == "polars@1.33.1"]
    assert "collect" in entry.passage.text and "red" not in entry.passage.text
    assert run().out.startswith("nothing has moved in ")

    def ask(version: str) -> dict:
        question = "Which method of a gate was removed in favour of collect?"
        assert main(["ask", question, "--for", f"polars@{version}", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    now, before, later = map(ask, ("1.33.1", "1.31", "2"))
    assert (now["memory"], now["library"]) == (entry.id, "polars@1.33.1")
    assert before["memory"] is None and later["from"] == "base"
    assert "nothing is known of polars 2" in later["note"]
