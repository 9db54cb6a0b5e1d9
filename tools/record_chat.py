"""Records two chats with one memory home as a picture: python tools/record_chat.py docs/chat.svg [MODEL]

The chats run at a real terminal (a pty): what is typed is typed, and what is shown is what they print. They
remember texts only (--no-learn), since learning them takes minutes. The second chat is another process.
"""

import os
import pty
import select
import struct
import sys
import tempfile
import termios
from fcntl import ioctl
from pathlib import Path

from record_demo import WIDTH, draw

from selfedit.terminal import plain

MODEL = "qwen2.5-coder-0.5b"
PATIENCE_S = 900
PROMPTS = ("\n> ", "[y/N] ")
MONDAY = (
    "Our gateway is called Kestrel, and it listens on port 8443.",
    "My cat is called Mostarda.",
    "/learn",
    "y",
    "/quit",
)
TUESDAY = (
    "Which port does our gateway listen on?",
    "What is my cat called?",
    "/why",
    "Small correction: Kestrel listens on port 8444 now.",
    "Which port does our gateway listen on?",
    "/quit",
)
STYLES = {
    r"^> .*": "bold cyan",
    r"^#.*": "italic",
    r"^ *(I would remember|replaces|learned).*": "green",
    r"^  \(.*": "dim",
}


def record(path: Path, model: str) -> None:
    options = ("--model", model, "--no-learn")
    with tempfile.TemporaryDirectory() as home:
        shown = "# Monday\n" + typed(home, MONDAY, "chat", "--session", "monday", *options)
        shown += "\n# Tuesday: another process, and an empty context\n"
        shown += typed(home, TUESDAY, "chat", "--session", "tuesday", *options)
        shown += "\n" + typed(home, (), "memory", "list", "--session", "tuesday")
        shown += "\n" + typed(home, (), "memory", "diff")
    draw(shown, path, "selfedit chat", STYLES)


def typed(home: str, lines: tuple[str, ...], *command: str) -> str:
    """What a terminal shows while a command runs and these lines are typed, one at each prompt."""
    process, terminal = pty.fork()
    if not process:
        environment = os.environ | {"SELFEDIT_HOME": home, "TERM": "dumb", "COLUMNS": str(WIDTH)}
        os.execve(sys.executable, [sys.executable, "-m", "selfedit.cli", *command], environment)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    shown, left = "", list(lines)
    while part := _read(terminal, 1.0 if shown.endswith(PROMPTS) and left else PATIENCE_S):
        if part is not WAITS:
            shown += part.replace("\r", "")
        elif left:
            os.write(terminal, left.pop(0).encode() + b"\n")
        else:
            raise TimeoutError(f"the command waits after: {shown[-200:]}")
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise RuntimeError(shown)
    return f"$ selfedit {' '.join(command)}\n{plain(shown)}"


WAITS = "(nothing)"


def _read(terminal: int, seconds: float) -> str:
    """What is printed next, WAITS if nothing comes for so long, or nothing at the end."""
    if not select.select([terminal], [], [], seconds)[0]:
        return WAITS
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # the program has ended
        return ""


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else MODEL)
