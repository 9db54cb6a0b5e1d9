"""OpenAI's chat completions and completions: what is read of a request, and the form of the replies.

What is not supported is refused with a clear message instead of being ignored, where ignoring it would change what the
caller gets: the fields of `NEUTRAL`, and images.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from secrets import randbits, token_hex
from time import time
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from selfedit.serve.engine import Written
from selfedit.types import Message

DEFAULT_TOKENS = 256
MOST_TOKENS = 4096
LONGEST_TEXT = 200_000
"""Characters of all messages together."""
NEUTRAL: dict[str, tuple] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
}
"""Fields that are not supported, and the values of each that change nothing. These and null are accepted."""


class Part(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content or ())


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict | None = None

    @property
    def schema_of_reply(self) -> dict | None:
        """None: any text."""
        if self.type == "json_schema":
            return (self.json_schema or {}).get("schema") or {"type": "object"}
        return {"type": "object"} if self.type == "json_object" else None


class StreamOptions(BaseModel):
    include_usage: bool = False


class Common(BaseModel):
    """What both kinds of requests have."""

    model: str = Field(max_length=300)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    """Greedy by default, other than OpenAI's: an answer from memory should not be a draw."""
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    """Without one, every draw is another."""
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=200)

    @model_validator(mode="before")
    @classmethod
    def _is_supported(cls, fields):
        for name in NEUTRAL.keys() & fields.keys() if isinstance(fields, dict) else ():
            if fields[name] is not None and not any(_same(fields[name], value) for value in NEUTRAL[name]):
                raise ValueError(f"{name} is not supported; leave it out")
        return fields

    @field_validator("stop")
    @classmethod
    def _few(cls, stop):
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > 4 or any(not 0 < len(text) <= 200 for text in stops):
            raise ValueError("at most 4 stop texts of 1 to 200 characters")
        return stops

    @property
    def options(self) -> dict:
        """The fields of an Ask that say how the answer is written."""
        return {
            "max_new_tokens": self.max_tokens or DEFAULT_TOKENS,
            "temperature": self.temperature or 0.0,
            "top_p": self.top_p or 1.0,
            "seed": randbits(63) if self.seed is None else self.seed % 2**63,
        }


class Metadata(BaseModel):
    session: str | None = Field(None, max_length=80)
    """The conversation that the question belongs to: what the user states in it is remembered."""


class ChatRequest(Common):
    messages: list[ChatMessage] = Field(min_length=1, max_length=2000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    response_format: ResponseFormat | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _is_a_question(self):
        self.max_tokens = self.max_completion_tokens or self.max_tokens
        if self.messages[-1].role != "user" or not self.messages[-1].text.strip():
            raise ValueError("the last message must be the user's, with text")
        if sum(len(message.text) for message in self.messages) > LONGEST_TEXT:
            raise ValueError(f"the messages have more than {LONGEST_TEXT:,} characters together")
        return self

    @property
    def question(self) -> str:
        return self.messages[-1].text

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages before; what instructs the model is one message at the start."""
        system = "\n\n".join(m.text for m in self.messages if m.role in ("system", "developer"))
        turns = [Message(m.role, m.text) for m in self.messages[:-1] if m.role in ("user", "assistant")]
        return (*([Message("system", system)] if system else []), *turns)


class CompletionRequest(Common):
    prompt: str = Field(min_length=1, max_length=LONGEST_TEXT)


def _same(value: object, neutral: object) -> bool:
    """Whether they are equal in JSON, where false is not 0: `logprobs` 0 of a completion asks for log-probabilities."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


class Reply:
    """The replies to one request, in the form of chat completions or of completions."""

    def __init__(self, kind: Literal["chat.completion", "text_completion"], model: str):
        self.kind, self.model = kind, model
        self.id, self.created = f"{'chatcmpl' if self._is_chat else 'cmpl'}-{token_hex(12)}", int(time())

    @property
    def _is_chat(self) -> bool:
        return self.kind == "chat.completion"

    def whole(self, written: Written) -> dict:
        content = (
            {"message": {"role": "assistant", "content": written.text}} if self._is_chat else {"text": written.text}
        )
        return self._frame(self.kind, content, _reason(written)) | {"usage": _usage(written)} | _origin(written)

    async def stream(self, items: AsyncGenerator[str | Written], with_usage: bool) -> AsyncGenerator[str]:
        """Server-sent events."""
        kind = f"{self.kind}.chunk" if self._is_chat else self.kind
        if self._is_chat:
            yield _event(self._frame(kind, {"delta": {"role": "assistant", "content": ""}}, None))
        async with aclosing(items):
            async for item in items:
                if isinstance(item, str):
                    content = {"delta": {"content": item}} if self._is_chat else {"text": item}
                    yield _event(self._frame(kind, content, None))
                else:
                    last: dict = {"delta": {}} if self._is_chat else {"text": ""}
                    yield _event(self._frame(kind, last, _reason(item)) | _origin(item))
                    if with_usage:
                        yield _event(self._frame(kind, None, None) | {"usage": _usage(item)})
        yield "data: [DONE]\n\n"

    def _frame(self, kind: str, content: dict | None, reason: str | None) -> dict:
        choices = [] if content is None else [{"index": 0, **content, "finish_reason": reason, "logprobs": None}]
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def _event(value: dict) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _reason(written: Written) -> str:
    return "length" if written.is_cut else "stop"


def _usage(written: Written) -> dict:
    prompt, completion = written.prompt_tokens, written.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _origin(written: Written) -> dict:
    """What stands beside OpenAI's fields: where the answer comes from."""
    answer = written.answer
    source = answer.memory.passage.source if answer.memory else None
    origin = {"from": answer.arm, "memory": answer.memory.id if answer.memory else None, "source": source}
    told = {"library": answer.memory.passage.library if answer.memory else "", "note": answer.note}
    return {"selfedit": origin | {name: text for name, text in told.items() if text}}
