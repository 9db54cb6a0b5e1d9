"""Text ↔ tokens: prompts, and what is trained on. The only place that says which tokens carry a label.

In: an Example, a question or a prompt. Out: a TokenizedExample (tokens, and which of them are
labels).
A document's text is trained on whole, behind the token that separates documents; of a question and its answer only the
answer is a label, in the very chat form in which questions are later asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from selfedit.errors import ModelError
from selfedit.model.shape import Field, read_object, reason, shorten
from selfedit.model.template import render
from selfedit.types import Example, Message, Question

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor


@dataclass(frozen=True)
class SoftLabels:
    """For each label the tokens that may stand there, and how likely each is."""

    tokens: Tensor
    """[labels, K]"""
    odds: Tensor
    """[labels, K]; each row sums to 1."""


@dataclass(frozen=True)
class TokenizedExample:
    """Token ids, and which of them are labels."""

    tokens: tuple[int, ...]
    label_start: int
    """Position of the first label; at least 1, since nothing precedes the first token from which to predict it."""
    chosen: tuple[int, ...] = ()
    """Positions of the labels, ascending, if not all tokens from `label_start` on are labels."""
    teacher_prompt: tuple[int, ...] = ()
    """For distillation: what the teacher reads in place of the tokens before `label_start`."""
    distill: float = 0.0
    """Share of the labels, in [0, 1], that is the teacher's distribution; the rest is the label's own token."""
    soft: SoftLabels | None = field(default=None, compare=False)
    """What to learn instead of the labels' own tokens; filled in by a backend that distils."""

    @property
    def label_positions(self) -> Sequence[int]:
        return self.chosen or range(self.label_start, len(self.tokens))

    @property
    def labels(self) -> int:
        return len(self.label_positions)

    @property
    def targets(self) -> list[int]:
        """The tokens of the labels."""
        return [self.tokens[position] for position in self.label_positions]

    @property
    def teacher(self) -> TokenizedExample:
        """The same labels behind the teacher's prompt."""
        return TokenizedExample(self.teacher_prompt + self.tokens[self.label_start :], len(self.teacher_prompt))


class Chat:
    def __init__(self, folder: Path):
        """Read tokenizer.json and tokenizer_config.json of a model folder."""
        self.tokenizer = _read_tokenizer(folder / "tokenizer.json")
        settings = read_object(folder / "tokenizer_config.json")
        self._template = _read_template(folder, settings.get("chat_template"))
        self._names = {key: _token_text(key, settings.get(key)) for key in ("bos_token", "eos_token")}
        begins = Field(bool, default=False).check("tokenizer_config.json: add_bos_token", settings.get("add_bos_token"))
        added = self.tokenizer.get_added_tokens_decoder().values()
        self._specials = re.compile("|".join(re.escape(t.content) for t in added if t.special and t.content) or "(?!)")
        first, plain = (self.encode("x", special)[:1] for special in (True, False))
        separator = self._names["bos_token"] if begins else "<|endoftext|>"
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

    def _render(self, messages: Sequence[Message]) -> str:
        turns = [{"role": m.role, "content": self.plain(m.content)} for m in messages]
        if self._template is None:  # a base model: the plainest form that works
            return "".join(f"{turn['content']}\n" for turn in turns if turn["content"])
        names = {key: name or "" for key, name in self._names.items()}
        return render(self._template, messages=turns, add_generation_prompt=True, enable_thinking=False, **names)

    def plain(self, text: str) -> str:
        """The text with a space in what would be read as a control token: a document does not end a turn."""
        return self._specials.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """`special`: with the tokens that the tokenizer itself adds."""
        try:
            return self.tokenizer.encode(text, add_special_tokens=special).ids
        except Exception as error:  # the library raises bare Exception: an unknown character without a token for it
            raise ModelError(f"the tokenizer cannot encode {shorten(text, 40)} ({reason(error)})") from error

    def decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def ask(self, question: str, history: Sequence[Message] = ()) -> list[int]:
        """The tokens of a question in the model's own chat form, up to where the answer begins. `history`: the messages
        before it. Raises ModelError if the model's template cannot have them."""
        tokens = self.encode(self._render([*history, Message("user", question)]))
        if not tokens:
            raise ModelError("the model's chat template writes no text; choose another model")
        return tokens

    def continued(self, text: str) -> list[int]:
        """The tokens of a text that is to be continued."""
        return ([] if self.separator is None else [self.separator]) + self.encode(self.plain(text))

    def opening(self, question: Question) -> int:
        """How many of the last tokens of a prompt open the answer: in chat form, all behind the person's text."""
        return self._opening if question.kind == "question" else 1

    @cached_property
    def _opening(self) -> int:
        a, b = (self.ask(text)[::-1] for text in ("Which", "When"))
        return max(1, next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), 1))

    def prompt(self, question: Question, history: Sequence[Message] = ()) -> list[int]:
        if question.kind == "question":
            return self.ask(question.question, history)
        return self.continued(question.question)

    def study(self, example: Example) -> TokenizedExample:
        """What is trained on."""
        if not example.prompt:
            tokens = self.continued(example.text)
            return TokenizedExample(tuple(tokens), 1)
        prompt = self.ask(example.prompt) + self.encode(self.plain(example.opening))
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


def _read_tokenizer(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and a panic of its native code is not even that
        raise ModelError(f"{file.name} is not readable ({reason(error)}); download it again") from error
    tokenizer.no_truncation()  # settings of somebody's training run
    tokenizer.no_padding()
    return tokenizer


def _read_template(folder: Path, value: object) -> str | None:
    """The chat template: that of the file made for it, else the one in tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.exists():
        try:
            return file.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{file.name} is not readable ({reason(error)}); download it again") from error
    name = "tokenizer_config.json: chat_template"
    if not isinstance(value, list):
        return Field(str, default=None).check(name, value)
    for entry in value:  # several named templates
        if not isinstance(entry, dict) or not isinstance(entry.get("template"), str):
            raise ModelError(f"{name} holds {shorten(entry)}; expected an object with a name and a template")
        if entry.get("name") == "default":
            return entry["template"]
    raise ModelError(f"{name} has no entry with the name 'default'")


def _token_text(key: str, token: object) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return Field(str, default=None).check(f"tokenizer_config.json: {key}", text)
