"""JSON that follows a schema, as a grammar for `Request.allow`; `llguidance` knows which tokens may follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from selfedit.errors import ModelError
from selfedit.model.chat import Chat


def json_grammar(chat: Chat, schema: dict) -> Callable[[Sequence[int]], Sequence[int] | np.ndarray]:
    """A grammar for any number of texts that are written at the same time. `schema`: a JSON Schema. Raises ModelError
    on one that is wrong or not supported."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        start = LLMatcher(_tokenizer(chat), grammar)
    except ValueError as error:
        raise ModelError(f"the JSON schema cannot be used: {error}") from None
    if fault := start.get_error():
        raise ModelError(f"the JSON schema cannot be used: {fault}")
    ends = sorted(chat.ends)
    reached: dict[tuple[int, ...], LLMatcher] = {}
    """By what was written."""

    def allow(written: Sequence[int]) -> Sequence[int] | np.ndarray:
        text = tuple(written)
        matcher = reached.pop(text[:-1], None) if text else None
        left = text if matcher is None else text[-1:]
        matcher = matcher or start.deep_copy()
        for token in left:
            matcher.consume_token(token)
        reached[text] = matcher
        if matcher.is_stopped():
            return ends
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = bits.nonzero()[0]  # inside a string nearly the whole vocabulary: no list of it
        return allowed if len(allowed) else ends

    return allow


@lru_cache(maxsize=2)  # it takes a second
def _tokenizer(chat: Chat) -> LLTokenizer:
    return LLTokenizer(chat.tokenizer.to_str(), eos_token=sorted(chat.ends))
