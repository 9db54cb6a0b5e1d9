"""Text ↔ tokens: prompts, and what is trained on. The only place that says which tokens carry a label.

In: an Example, a question or a prompt. Out: a Sequence (tokens, and which of them are labels).
A document's text is trained on whole, behind the token that separates documents; of a question and its answer only the
answer is a label, in the very chat form in which questions are later asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from selfedit.errors import ModelError
from selfedit.types import Example, Question

if TYPE_CHECKING:
    from torch import Tensor


TODAY = date(2024, 7, 26)
"""For a chat template that asks: what Llama's own says where nobody tells it, so that a memory knows no other day."""


@dataclass(frozen=True)
class SoftLabels:
    """For each label the tokens that may stand there, and how likely each is."""

    tokens: Tensor
    """[labels, K]"""
    odds: Tensor
    """[labels, K]; each row sums to 1."""


@dataclass(frozen=True)
class TokenizedExample:
    tokens: tuple[int, ...]
    label_start: int
    """The first label; at least 1, since the first token has nothing before it to predict it from."""
    soft: SoftLabels | None = field(default=None, compare=False)
    """What to learn instead of the labels' own tokens alone (`distill.soften`)."""
    chosen: tuple[int, ...] = ()
    """Where the labels are, if not all tokens from `label_start` on."""

    @property
    def label_positions(self) -> Sequence[int]:
        """Of the labels, rising."""
        return self.chosen or range(self.label_start, len(self.tokens))

    @property
    def labels(self) -> int:
        return len(self.label_positions)

    @property
    def targets(self) -> list[int]:
        return [self.tokens[place] for place in self.label_positions]


class Chat:
    def __init__(self, folder: Path):
        """Read tokenizer.json and tokenizer_config.json of a model folder."""
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            settings = json.loads((folder / "tokenizer_config.json").read_text())
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{folder}: no readable tokenizer.json and tokenizer_config.json ({error})") from error
        template = settings.get("chat_template")
        if template is None and (folder / "chat_template.jinja").exists():
            template = (folder / "chat_template.jinja").read_text()
        if isinstance(template, list):  # several named templates
            template = next((t["template"] for t in template if t["name"] == "default"), None)
        self._template = template
        self._names = {key: _token_text(settings.get(key)) for key in ("bos_token", "eos_token")}
        self._specials = re.compile(
            "|".join(re.escape(t.content) for t in self.tokenizer.get_added_tokens_decoder().values() if t.special)
            or "(?!)"
        )
        first, plain = (self.tokenizer.encode("x", add_special_tokens=special).ids[:1] for special in (True, False))
        separator = self._names["bos_token"] if settings.get("add_bos_token") else "<|endoftext|>"
        self.separator: int | None = (
            first[0] if first != plain else self.tokenizer.token_to_id(separator or "<|endoftext|>")
        )
        """Stands before a text: what the model saw between documents, where it has such a token."""
        ends = [self._names["eos_token"], "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>"]
        ids = [self.tokenizer.token_to_id(end) for end in ends if end]
        self.ends: frozenset[int] = frozenset(i for i in ids if i is not None)
        """Tokens after which nothing follows."""

    def check_vocabulary(self, size: int) -> None:
        """Raises ModelError if a token has no row in an embedding of this size."""
        tokens = self.tokenizer.get_vocab()
        last = max(tokens, key=tokens.get, default=None)
        if last is None:
            raise ModelError("tokenizer.json has no tokens; download the model again")
        if max(tokens[last], self.separator or 0) >= size:
            raise ModelError(
                f"the tokenizer has token ids up to {max(tokens[last], self.separator or 0)}, "
                f"but the model's embedding has {size} rows; the two belong to different models"
            )

    @cached_property
    def _render(self):
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self._template is None:  # a base model: the plainest form that works
            return lambda messages: "".join(f"{m['content']}\n" for m in messages if m["content"])
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals |= {"raise_exception": _raise, "strftime_now": TODAY.strftime}
        names = {key: name or "" for key, name in self._names.items()}
        try:
            template = environment.from_string(self._template)
        except TemplateError as error:
            raise ModelError(f"the model's chat template cannot be read: {error}") from error

        def render(messages: list[dict]) -> str:
            try:
                return template.render(messages=messages, add_generation_prompt=True, enable_thinking=False, **names)
            except (TemplateError, ValueError, TypeError) as error:
                raise ModelError(f"the model's chat template cannot be used: {error}") from error

        return render

    def plain(self, text: str) -> str:
        """The text with a space in what would be read as a control token: a document does not end a turn."""
        return self._specials.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def ask(self, question: str) -> list[int]:
        """The tokens of a question in the model's own chat form, up to where the answer begins."""
        return self.encode(self._render([{"role": "user", "content": self.plain(question)}]))

    def continued(self, text: str) -> list[int]:
        """The tokens of a text that is to be continued."""
        return ([] if self.separator is None else [self.separator]) + self.encode(self.plain(text))

    def prompt(self, question: Question) -> list[int]:
        return self.ask(question.question) if question.kind == "question" else self.continued(question.question)

    def study(self, example: Example) -> TokenizedExample:
        """What is trained on."""
        if not example.prompt:
            tokens = self.continued(example.text)
            return TokenizedExample(tuple(tokens), 1)
        prompt = self.ask(example.prompt)
        return TokenizedExample((*prompt, *self.encode(self.plain(example.text)), *self.end_of_turn), len(prompt))

    def gold(self, question: Question, answer: str) -> TokenizedExample:
        """A question with its answer as the labels: what the dense score reads."""
        prompt = self.prompt(question)
        if question.kind == "question":
            return TokenizedExample((*prompt, *self.encode(self.plain(answer)), *self.end_of_turn), len(prompt))
        return TokenizedExample((*prompt, *self.encode(self.plain(" " + answer))), len(prompt))

    @cached_property
    def breaks(self) -> frozenset[int]:
        """Tokens with the end of a line in them."""
        texts = self.tokenizer.decode_batch([[i] for i in range(self.tokenizer.get_vocab_size())])
        return frozenset(i for i, text in enumerate(texts) if "\n" in text)

    @cached_property
    def end_of_turn(self) -> list[int]:
        """What the template writes after an answer, up to the end token."""
        if self._template is None and self.separator in self.ends:
            return [self.separator]
        end = next(
            (
                e
                for e in ("<|im_end|>", "<|eot_id|>", self._names["eos_token"])
                if e and self.tokenizer.token_to_id(e) is not None
            ),
            None,
        )
        return [] if end is None else [self.tokenizer.token_to_id(end)]


def _token_text(token) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _raise(message: str):
    raise ValueError(message)
