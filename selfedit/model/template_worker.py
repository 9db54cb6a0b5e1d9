"""Renders chat templates in a child process (`selfedit.worker`), started by `template.py`.

A template is code from outside: a sandbox limits what it reaches, but neither its time nor its memory.
The environment is the one that `transformers` documents for chat templates; tests/test_chat.py compares the two.
"""

import json
from datetime import date
from functools import lru_cache

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from selfedit.worker import serve

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


def answer(template: str, today: str, variables: dict) -> dict:
    try:
        return {"text": render(template, today, variables)}
    except MemoryError:
        raise
    except Exception as error:  # a template may raise anything
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}


def main() -> None:
    serve(answer)
