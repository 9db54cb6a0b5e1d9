"""What the commands share: options as they were typed → values, a store, a model; or a SelfeditError."""

from __future__ import annotations

import shlex

from selfedit.errors import SelfeditError
from selfedit.types import as_utf8

BAD_INPUT, NOTHING_KEPT, STOPPED = 2, 3, 130
"""Exit codes besides 0."""


def number_settings(items: list[str]) -> dict[str, int | float]:
    values = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise SelfeditError(f"--set takes NAME=VALUE, not {item!r}")
        values[name] = _value(name, value)
    return values


def _value(name: str, text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    raise SelfeditError(f"--set {name}: {text!r} is not a number")


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def whole(name: str, text: str) -> int:
    if not text.isdecimal():
        raise SelfeditError(f"{name}: {text!r} is not a whole number")
    return int(text)


def typed(arguments) -> str:
    """What was typed, to stand beside the result; of a judge's address what may be read by others."""
    argv = ["selfedit", *arguments.argv]
    if getattr(arguments, "judge", None):
        from selfedit.judge.remote import public_url

        argv = [part.replace(arguments.judge, public_url(arguments.judge)) for part in argv]
    return as_utf8(shlex.join(argv))


def open_store(arguments):
    from selfedit.memory.store import MemoryStore, default_home

    return MemoryStore(arguments.home or default_home())


def open_model(arguments, notify):
    from selfedit.model.load import load_model

    return load_model(arguments.model, notify=notify)
