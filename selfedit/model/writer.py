"""What the stages need of a model that writes about passages: a local Model, or one behind an API (edits/remote.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from selfedit.model.backend import OnStep, no_steps


@dataclass(frozen=True)
class WriteRequest:
    prompt: str
    """A message to answer, or a text to continue."""
    max_new_tokens: int
    continues: bool = False
    """Whether the prompt is a text to continue: worked examples, and the beginning of one more."""
    opening: str = ""
    """How the line that continues the prompt begins. The returned text is the whole line."""
    temperature: float = 0.0
    """0: greedy."""
    seed: int = 0
    one_line: bool = False
    """Only the first line that has text is used."""
    stop: Callable[[str], bool] | None = None
    """The text so far → whether the rest is not needed; a writer may ignore it."""


class Writer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal; run folders are bound to it."""

    def write(self, requests: Sequence[WriteRequest], on_token: OnStep = no_steps) -> list[str]:
        """Returns the text of each request. `on_token(done, total)`: as in Backend.generate, or requests. Raises
        ModelError if there is no text for one of them."""

    def fits(self, request: WriteRequest, answers: Sequence[str] = ()) -> bool:
        """Returns whether the writer can read the request together with any of the answers."""
