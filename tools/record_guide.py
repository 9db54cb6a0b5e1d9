"""Records a whole guide being learned, and people's questions about it being asked, as a picture:
python tools/record_guide.py docs/guide.svg DATA [MODEL]

DATA: the folder that the documents of `real_docs/questions.jsonl` are relative to. The first 20 questions about the
Polars 2 upgrade guide are asked closed book, each by a command of its own, and the offline judge marks the answers.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record_demo import WIDTH, draw

from selfedit.judge.evaluate import grade
from selfedit.tasks.real_docs import load_document_questions
from selfedit.terminal import plain

GUIDE = "api_changes/polars2/upgrade_2.md"
ASKED = 20
MODEL = "qwen2.5-coder-0.5b"
STYLES = {r"^kept\b.*": "green", r"^# right.*": "green", r"^# wrong.*": "red", r"^#.*": "italic"}


def record(path: Path, data: Path, model: str) -> None:
    about = [q for q in load_document_questions(data / "real_docs/questions.jsonl") if q.document == GUIDE][:ASKED]
    with tempfile.TemporaryDirectory() as folder:
        guide = Path(folder) / "upgrade_2.md"
        guide.write_bytes((data / GUIDE).read_bytes())
        start = time.perf_counter()
        shown = run(folder, "learn", guide.name, "--model", model)
        shown += f"\n# {(time.perf_counter() - start) / 60:.0f} minutes on {os.cpu_count()} cores\n"
        guide.unlink()
        right = 0
        for one in about:
            answer = run(folder, "ask", "--from", "weights", "--model", model, one.question.question)
            correct = grade(one.question, answer.partition("\n")[2].strip())
            right += correct
            shown += f"\n{answer}# {'right' if correct else f'wrong: {one.question.answers[0]}'}\n"
            print(answer, "right" if correct else "wrong", flush=True)
        shown += f"\n# {right} of {len(about)} right, without the document"
    draw(shown, path, f"selfedit learn and ask ({model})", STYLES)


def run(folder: str, *command: str) -> str:
    """What a command shows, below the command itself."""
    environment = os.environ | {"SELFEDIT_HOME": f"{folder}/home", "COLUMNS": str(WIDTH)}
    call = [sys.executable, "-m", "selfedit.cli", *command]
    done = subprocess.run(call, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=sys.stderr)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}")
    return f"$ selfedit {shlex.join(command)}\n{plain(done.stdout)}"


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]), *(sys.argv[3:] or [MODEL]))
