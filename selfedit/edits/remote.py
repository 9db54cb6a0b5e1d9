"""A writer behind an OpenAI-compatible API: WriteRequests → texts, for models that do not run here.

A text to continue becomes a message: the worked examples, what is to be completed, and the instruction to write only
its last line, or only what is missing (docs/LOG.md, "A writer behind an address"). Chat models wrap that in labels,
quotes or code fences, which are removed. Replies are stored, so that a run that was stopped does not pay for them
again. The seed of a request only tells draws apart: some servers refuse to be sent one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfedit.edits.parse import is_frame, plain_line
from selfedit.errors import SelfeditError
from selfedit.model.backend import OnStep, no_steps
from selfedit.model.writer import WriteRequest
from selfedit.remote import ChatRequest, NoReplyError, RemoteModel
from selfedit.types import text_hash

SPARE_TOKENS = 32
"""For the labels, quotes and fences around a reply."""
MAX_CHARACTERS = 10_000
"""More than any requested text has: the search for Markdown takes time in proportion to the square of the length."""

_COMPLETE = """\
Worked examples:

{examples}

Now the next one:

{begun}

Write {what} as in the examples, and nothing else. Begin with “{begin}”."""
_REASONING = re.compile(r"\A\s*<think>.*?(?:</think>|$)", re.DOTALL)
_FENCED = re.compile(r"\s*(```|~~~)[^\n]*\n(.*?)\n?\1\s*", re.DOTALL)
_FENCES = ("```", "~~~")
_QUOTED = re.compile(r"""["“]([^"“”]+)["”]|'([^']+)'|`([^`]+)`""")


class RemoteWriter:
    """A Writer (model/writer.py)."""

    def __init__(self, url: str, model: str, file: Path, **options: Any):
        """`url`, `options`: as in RemoteModel. `file`: stores the replies. Raises SelfeditError."""
        self._remote = RemoteModel("writer", url, model, file, "text", **{"retries": 6} | options)
        self.name = f"{model} at {self._remote.url}"
        self.fingerprint = text_hash(self._remote.url, model)

    def check(self) -> None:
        """Sends one small request, so that an unusable writer is reported before any work. Raises SelfeditError."""
        if not _plain(self._remote.check(ChatRequest("Reply with the single word: ready", SPARE_TOKENS))):
            raise SelfeditError(
                f"the writer {self.name} replies without text; choose a model that does not reason before it answers"
            )

    def write(self, requests: Sequence[WriteRequest], on_token: OnStep = no_steps) -> list[str]:
        replies = self._remote.results([_chat(r) for r in requests], self._text, required=True, on_step=on_token)
        return [_read(reply, request) for request, reply in zip(requests, replies)]

    def _text(self, reply: str) -> str:
        if not reply.strip():  # if it was stored, no later run would ask again
            raise NoReplyError(f"the writer {self.name} replied without text", retry=False)
        return reply

    def fits(self, request: WriteRequest, answers: Sequence[str] = ()) -> bool:
        return True  # a request that is too long is refused


def _chat(request: WriteRequest) -> ChatRequest:
    prompt, tokens = request.prompt, request.max_new_tokens + SPARE_TOKENS
    if request.continues:
        body, label = _last_line(prompt)
        cut = max(0, body.rfind(f"\n\n{body.partition(':')[0]}:"))  # all examples begin with the same label
        begin = f"{label} {request.opening}".rstrip()
        what = f"its line “{label}”" if request.one_line else f"all of its lines from “{label}” on,"
        prompt = _COMPLETE.format(examples=body[:cut], begun=body[cut:].strip(), what=what, begin=begin)
    return ChatRequest(prompt, tokens, request.temperature, f"{tokens} {request.temperature} {request.seed}")


def _last_line(prompt: str) -> tuple[str, str]:
    """A text to continue, without its last line, and that line: the label of what is to be written."""
    body, _, label = prompt.rstrip().rpartition("\n")
    return body, label


def _read(reply: str, request: WriteRequest) -> str:
    text = _plain(reply)
    if not request.continues:
        return text
    _, label = _last_line(request.prompt)
    lines = [line for line in text.splitlines() if not line.strip().startswith(_FENCES)]
    return _line(lines, label) if request.one_line else _lines(lines, label)


def _plain(reply: str) -> str:
    """Returns the reply without reasoning, without the fences of a reply that is a single block of code, and cut."""
    text = _REASONING.sub("", reply)
    return (fenced[2] if (fenced := _FENCED.fullmatch(text)) else text).strip()[:MAX_CHARACTERS]


def _lines(lines: list[str], label: str) -> str:
    """Returns all lines behind the label; the whole reply if it does not repeat the label."""
    start = next((i for i, line in enumerate(lines) if line.lstrip("*# ").startswith(label)), None)
    if start is not None:
        lines = [lines[start].lstrip("*# ").removeprefix(label).removeprefix("**"), *lines[start + 1 :]]
    return "\n".join(lines).strip()


def _line(lines: list[str], label: str) -> str:
    """Returns the line that continues the prompt: the one that repeats the label with which the prompt ends, else the
    first one that is no introduction ("Here is the line:")."""
    lines = list(map(_bare, lines))
    labelled = [_bare(line.removeprefix(label)) for line in lines if line.startswith(label)]
    return next(filter(None, labelled), next((line for line in lines if not is_frame(line, "")), ""))


def _bare(line: str) -> str:
    """Returns the line without Markdown, and without quotes around it."""
    line = plain_line(line)
    return next(filter(None, quoted.groups())) if (quoted := _QUOTED.fullmatch(line)) else line
