"""`make demo`: learns this project's release notes with the embedded model, then asks about them without the document.

Everything goes through the command line, in a memory home of its own (SELFEDIT_HOME, or .demo in this repository). The
first run fetches the model (93 MB) and learns for about two minutes; later runs find the memory and only ask. Each answer
is compared with what the notes say, and wrong ones are shown as such: a model of 135M parameters does not get all of
them right. The exit code is 0 if more than half of the answers are right, 1 if not, and that of the command that failed if
one did.
"""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

HERE = Path(__file__).parent
os.environ.setdefault("SELFEDIT_HOME", str(HERE.parent / ".demo"))

from selfedit.cli import main  # noqa: E402  # SELFEDIT_HOME is set before

NOTES = HERE / "release-notes.md"
QUESTIONS = {
    "Which exit code does selfedit learn use when nothing earned its place?": "3",
    "Which command undoes the last change?": "selfedit memory rollback",
    "Which command deletes a memory for good?": "selfedit memory forget",
    "What is the capital of France?": "Paris",
}
"""What is asked, and what a right answer contains. The last is not about the notes: the untouched model answers it."""


def run(*arguments: str) -> tuple[int, str]:
    """Runs a command as a person would type it; returns its exit code and what it printed."""
    print("\n$ selfedit " + " ".join(f'"{a}"' if " " in a else a for a in arguments), flush=True)
    with redirect_stdout(io.StringIO()) as output:
        code = main(list(arguments))
    print(output.getvalue(), end="", flush=True)
    return code, output.getvalue()


def demo() -> int:
    notes = NOTES.relative_to(Path.cwd()) if NOTES.is_relative_to(Path.cwd()) else NOTES
    code, _ = run("learn", str(notes))
    if code:
        return code
    run("memory", "list")
    right = 0
    for question, expected in QUESTIONS.items():
        code, answer = run("ask", "--why", question)
        if code:
            return code
        right += expected in answer
        print(f"  {'right' if expected in answer else 'wrong'}: expected “{expected}”", flush=True)
    print(f"\n{right} of {len(QUESTIONS)} answers are right.")
    return 0 if 2 * right > len(QUESTIONS) else 1


if __name__ == "__main__":
    sys.exit(demo())
