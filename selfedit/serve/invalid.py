"""What is wrong with a request, as pydantic reports it → one line in plain words."""

from __future__ import annotations

import re

_KINDS = {
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
}
"""How the types of errors begin, and what is expected there."""
_BRANCH = re.compile(r"[a-z]+\[.*\]|str|int|float|bool|function-.*")
"""Parts of a place that name a branch of a type and nothing in the request."""


def in_plain_words(error: dict) -> str:
    """`error`: one of `ValidationError.errors()`."""
    kind, context = error["type"], error.get("ctx", {})
    parts = [str(part) for part in error["loc"] if part not in ("body", "query", "header", "path")]
    place = ".".join(part for part in parts if not _BRANCH.fullmatch(part)) or "the body"
    match kind:
        case "json_invalid":
            return f"the body is no JSON ({context.get('error', 'it cannot be read').lower()})"
        case "missing":
            return f"{place} is missing"
        case "literal_error":
            return f"{place} must be {context['expected']}"
        case "value_error":
            return f"{place}: {context['error']}" if parts else str(context["error"])
        case "too_long" | "string_too_long":
            return f"{place} is longer than {context['max_length']:,}"
        case "too_short" | "string_too_short":
            return f"{place} is shorter than {context['min_length']:,}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            signs = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
            limits = [f"{signs[name]} {value:g}" for name, value in context.items() if name in signs]
            return f"{place} must be {' and '.join(limits)}"
        case "string_pattern_mismatch":
            return f"{place} does not have the right form"
        case "string_unicode":
            return f"{place} is not in UTF-8"
    expected = next((text for name, text in _KINDS.items() if kind.startswith(name)), "")
    return f"{place} must be {expected}" if expected else f"{place} cannot be used"
