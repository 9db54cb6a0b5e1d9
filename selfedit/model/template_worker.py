"""Renders chat templates, one JSON request per line of standard input, one JSON reply per line of standard output.

A process of its own, started by `template.py` and independent of the rest of the package: a template is code from
outside, and a sandbox limits what it reaches, but neither its time nor its memory. The process ends itself when a
template takes too long, even inside a single operation of the interpreter.
The environment is the one that `transformers` documents for chat templates; tests/test_chat.py compares the two.
"""

import faulthandler
import json
import os
import signal
import sys
from datetime import date
from functools import lru_cache

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 2**30
LONGEST = 2**22
"""Characters of a rendered text."""


class GenerationBlock(Extension):
    """`{% generation %}` marks what the assistant wrote; the text is that of the block."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Unlike Jinja's filter this does not escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise TemplateError(message)


@lru_cache(maxsize=8)
def compiled(template: str, today: str):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": date.fromisoformat(today).strftime}
    return environment.from_string(template)


def render(template: str, today: str, variables: dict) -> str:
    parts, length = [], 0
    for part in compiled(template, today).generate(**variables):
        parts.append(part)
        length += len(part)
        if length > LONGEST:
            raise TemplateError(f"it writes more than {LONGEST} characters")
    return "".join(parts)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process that started this one
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    nowhere = open(os.devnull, "w")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        faulthandler.dump_traceback_later(request.pop("seconds"), exit=True, file=nowhere)
        try:
            reply = {"text": render(**request)}
        except Exception as error:  # a template may raise anything
            reply = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
