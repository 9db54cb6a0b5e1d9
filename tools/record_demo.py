"""Records `python -m examples.demo` in a fresh memory home as a picture: python tools/record_demo.py docs/demo.svg

Rich draws the picture from the lines that the demo prints. It takes about two minutes, and fails if the demo does.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100


def record(path: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"SELFEDIT_HOME": home, "COLUMNS": str(WIDTH)}
        command, outputs = (
            [sys.executable, "-m", "examples.demo"],
            {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
        )
        shown = subprocess.run(command, **outputs, text=True, env=environment, check=True).stdout
    draw(shown, path, "make demo", {r"^(kept|  right)\b": "green", r"^  wrong\b": "red"})


def draw(shown: str, path: Path, title: str, styles: dict[str, str]) -> None:
    """Draws lines as a terminal shows them. `styles`: by regular expression; commands are bold."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))
    for line in shown.strip().splitlines():
        text = Text(line)
        for pattern, style in ({r"^\$.*": "bold"} | styles).items():
            text.highlight_regex(pattern, style)
        console.print(text)
    console.save_svg(str(path), title=title)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
