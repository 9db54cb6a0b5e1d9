"""`make demo`: learns this project's release notes with the embedded model, then asks about them.

Everything goes through the command line, in a memory home of its own: SELFEDIT_HOME, or .demo in this repository. The
first run fetches the model (98 MB) and learns for less than a minute; later runs find the memory and only ask.

Each answer is compared with what the notes say, and wrong ones are shown as such: a model of 135M parameters does not
get all of them right. The exit code is 0 if at least half of the answers are right, 1 if not, or that of a command
that failed.
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


def run(*arguments: str) -> int:
    """Runs a command as a person would type it; returns its exit code."""
    print("\n$ selfedit " + " ".join(f'"{a}"' if " " in a else a for a in arguments), flush=True)
    return main(list(arguments))


class Tee(io.StringIO):
    """Keeps what is printed, and prints it."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        sys.__stdout__.flush()  # --why explains on stderr, after the answer
        return super().write(text)


def ask(question: str, expected: str) -> tuple[int, bool]:
    """Returns the exit code, and whether the answer is right."""
    with redirect_stdout(Tee()) as shown:
        code = run("ask", "--from", "weights", "--why", question)
    right = expected in shown.getvalue().partition(question)[2]
    print(f"  {'right' if right else 'wrong'}: expected “{expected}”", flush=True)
    return code, right


def demo() -> int:
    notes = NOTES.relative_to(Path.cwd()) if NOTES.is_relative_to(Path.cwd()) else NOTES
    if code := run("learn", str(notes)):
        return code
    run("memory", "list")
    rights = []
    for question, expected in QUESTIONS.items():
        code, right = ask(question, expected)
        if code:
            return code
        rights.append(right)
    print(f"\n{sum(rights)} of {len(rights)} answers are right.")
    return 0 if 2 * sum(rights) >= len(rights) else 1


if __name__ == "__main__":
    sys.exit(demo())
