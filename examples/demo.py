"""`make demo`: the main job on the embedded model, through the command line, in a home of its own (.demo).

The first run fetches the model (93 MB) and learns a real document, this project's release notes; the second finds the
memories there and answers at once.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
os.environ.setdefault("SELFEDIT_HOME", str(HERE.parent / ".demo"))

from selfedit.cli import main  # noqa: E402

QUESTIONS = [
    "Which exit code does selfedit learn use when nothing earned its place?",
    "Which command undoes the last change?",
    "Which option deletes a memory from the disk for good?",
    "What is the capital of France?",
]


def show(*arguments: str) -> int:
    print("\n$ selfedit " + " ".join(f'"{a}"' if " " in a else a for a in arguments), flush=True)
    return main(list(arguments))


if __name__ == "__main__":
    code = show(
        "learn",
        str(
            (HERE / "release-notes.md").relative_to(Path.cwd())
            if HERE.is_relative_to(Path.cwd())
            else HERE / "release-notes.md"
        ),
    )
    if code not in (0, 3):
        sys.exit(code)
    show("memory", "list")
    for question in QUESTIONS:
        show("ask", "--why", question)
