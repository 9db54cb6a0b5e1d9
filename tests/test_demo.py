"""The demo teaches something true: each sentence of its document is checked against the program."""

import re
from pathlib import Path

import pytest
from test_docs import leaf_commands

from examples.demo import NOTES, QUESTIONS
from selfedit.cli import DEFAULT_MODEL, _parser
from selfedit.cli.options import BAD_INPUT, NOTHING_KEPT
from selfedit.documents.convert import READABLE
from selfedit.memory.store import MemoryStore, default_home
from selfedit.model.catalog import CATALOG, cache_folder

TEXT = NOTES.read_text()
SENTENCES = re.split(r"(?<=\.)\s+", TEXT.partition("\n")[2].strip())
COMMANDS = {leaf.prog: leaf for leaf in leaf_commands(_parser())}
FORGET = COMMANDS["selfedit memory forget"]._option_string_actions
BACKEND = COMMANDS["selfedit learn"]._option_string_actions["--backend"]
LEARN = COMMANDS["selfedit learn"]._option_string_actions


def says(command: str, words: str) -> bool:
    """Whether the list of memory commands has these words about the command."""
    [group] = [a for a in _parser()._actions if a.dest == "COMMAND" or a.choices and "memory" in a.choices]
    [actions] = [a for a in group.choices["memory"]._actions if a.choices and command in a.choices]
    [line] = [choice.help for choice in actions._choices_actions if choice.dest == command]
    return words in line


FACTS = {  # a phrase that one sentence has → whether the program does so
    "turns a document into a memory": lambda: "selfedit learn" in COMMANDS and "selfedit ask" in COMMANDS,
    "Its default model is SmolLM2-135M": lambda: "SmolLM2-135M" in CATALOG[DEFAULT_MODEL].file,
    "Text, Markdown, HTML and PDF": lambda: {".txt", ".md", ".html", ".pdf"} <= READABLE,
    "Exit code 0 means that a memory was kept": lambda: 0 not in (BAD_INPUT, NOTHING_KEPT),
    "Exit code 2 means that the input was bad": lambda: BAD_INPUT == 2,
    "Exit code 3 means that nothing earned its place": lambda: NOTHING_KEPT == 3,
    "Your own questions": lambda: "own judging questions" in LEARN["--quiz"].help,
    "`--backend packed`": lambda: set(BACKEND.choices) == {"packed", "reference"} and BACKEND.default == "packed",
    "`selfedit memory rollback`": lambda: says("rollback", "undo the last change"),
    "`selfedit memory disable`": lambda: says("disable", "out of force; they stay on disk"),
    "`selfedit memory forget`": lambda: says("forget", "for good") and "without a question" in FORGET["--yes"].help,
    "memory.db": lambda: MemoryStore(Path("home"))._database.path == Path("home/memory.db"),
    "SELFEDIT_HOME": lambda: default_home() == Path("/somewhere/home"),
    "SELFEDIT_CACHE": lambda: Path("/somewhere/cache") in cache_folder().parents,
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_each_sentence_that_the_demo_teaches_is_true(sentence, monkeypatch):
    monkeypatch.setenv("SELFEDIT_HOME", "/somewhere/home")
    monkeypatch.setenv("SELFEDIT_CACHE", "/somewhere/cache")
    [fact] = [phrase for phrase in FACTS if phrase in sentence]
    assert FACTS[fact]()


def test_every_name_in_the_notes_exists():
    names = re.findall(r"`([^`]+)`", TEXT)
    options = {option for leaf in COMMANDS.values() for option in leaf._option_string_actions}
    assert len(names) > 5
    assert [name for name in names if name not in COMMANDS and name.split()[0] not in options] == []


def test_the_notes_are_one_passage_that_answers_the_questions_of_the_demo():
    assert 150 <= len(TEXT.split()) <= 200
    *about_the_notes, general = QUESTIONS
    assert [q for q in about_the_notes if QUESTIONS[q] not in TEXT] == []
    assert QUESTIONS[general] not in TEXT
