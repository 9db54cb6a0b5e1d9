"""The demo teaches something true: each sentence of its document is checked against the program."""

import re
from pathlib import Path

import pytest
from test_docs import leaf_commands

from examples import demo
from selfedit.cli import DEFAULT_MODEL, _parser
from selfedit.cli.options import BAD_INPUT, NOTHING_KEPT
from selfedit.memory.store import MemoryStore, default_home
from selfedit.model.catalog import CATALOG, cache_folder
from selfedit.tasks.documents import read_documents

NOTES = demo.NOTES.read_text()
SENTENCES = re.split(r"(?<=\.)\s+", NOTES.partition("\n")[2].strip())
COMMANDS = {leaf.prog: leaf for leaf in leaf_commands(_parser())}


def option(command: str, name: str):
    """The argparse action of an option, or None."""
    return COMMANDS[f"selfedit {command}"]._option_string_actions.get(name)


def description(command: str) -> str:
    return " ".join(COMMANDS[f"selfedit {command}"].format_help().split())
