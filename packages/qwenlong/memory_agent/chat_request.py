"""A chat completion request as the server reads it, and errors and replies in OpenAI's shape."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qwenlong.core.errors import QwenlongError

Strict = ConfigDict(extra="forbid", strict=True)
#: Parameters that say nothing about the reply.
_IDLE = frozenset(("user", "metadata", "store", "safety_identifier", "service_tier", "prompt_cache_key"))
#: Values that ask for nothing, whatever the parameter.
_NEUTRAL: tuple[Any, ...] = (None, False, 0, [], {}, "auto", "none", {"type": "text"})


class Refusal(QwenlongError):
    """A request that is answered with an error: HTTP status, OpenAI's type and code, and the parameter at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI's clients read it."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refuse(param: str, message: str, status: int = 400) -> NoReturn:
    """Raise a Refusal that names a parameter."""
    raise Refusal(status, message, param=param, code="unsupported_value" if status == 400 else None)


class Message(BaseModel):
    """One message; whatever else it holds is passed on."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Return the message's text, its text parts joined. Raises Refusal for a part that is no text."""
        if not isinstance(self.content, list):
            return self.content or ""
        parts = []
        for part in self.content:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                refuse("messages", f"messages: a part of type {part.get('type')!r} cannot be read; send text only")
            parts.append(part["text"])
        return "\n".join(parts)


class StreamOptions(BaseModel):
    """What a stream carries beside the reply."""

    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool = False


class Explicit(BaseModel):
    """The extension field `qwenlong`: the document and the question, told apart by the client."""

    model_config = Strict
    document: Annotated[str, Field(min_length=1)]
    question: str | None = None
    """Default: the last user message."""


class ChatRequest(BaseModel):
    """A request; parameters that are not read here are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", strict=True)
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    qwenlong: Explicit | None = None
    qwenlong_steps: bool = False

    @property
    def limit(self) -> int | None:
        """Most tokens of the reply, by the newer of the two names first."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """Strings at which the reply ends."""
        return [self.stop] if isinstance(self.stop, str) else [text for text in self.stop or [] if text]

    @property
    def with_usage(self) -> bool:
        """Tell whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def chat(self) -> list[dict[str, str]]:
        """Return roles and texts, tool calls as JSON: what counts tokens."""
        said = []
        for message in self.messages:
            extra = message.model_extra or {}
            calls = json.dumps(extra["tool_calls"], ensure_ascii=False) if extra.get("tool_calls") else ""
            role = "system" if message.role == "developer" else message.role
            said.append({"role": role, "content": message.text() + calls})
        return said

    def refuse_others(self, why: str, *, several: bool = False) -> None:
        """Raise Refusal naming the first parameter that has an effect and is not read here.

        `why` says who cannot honour it; `several` tells whether more than one choice can be given.
        """
        for name, value in {**(self.model_extra or {}), "n": None if several else self.n}.items():
            neutral = value in _NEUTRAL or (name in ("n", "repetition_penalty") and value == 1)
            if name not in _IDLE and not neutral:
                refuse(name, f"{name} = {json.dumps(value)[:80]} {why}; leave it out")


def parse(body: bytes) -> ChatRequest:
    """Read a request's body. Raises Refusal (400) naming what is wrong and where, without repeating values."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {_fault(error)}; send an object as OpenAI describes it") from None
    if not isinstance(value, dict):
        raise Refusal(400, "the body is no JSON object; send an object as OpenAI describes it")
    try:
        # JSON can spell half a character, which no tokenizer and no wire can carry.
        json.dumps(value, ensure_ascii=False).encode()
        return ChatRequest.model_validate(value)
    except UnicodeEncodeError:
        raise Refusal(400, "the body holds half of a surrogate pair; send whole characters") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply; send an object as OpenAI describes it") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # What follows the name of a type is pydantic's own way into a union.
        named = itertools.takewhile(lambda part: part != "str" and "[" not in str(part), first["loc"])
        place = ".".join(str(part) for part in named)
        raise Refusal(400, f"{place}: {first['msg']}", param=place, code="invalid_value") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _fault(error: Exception) -> str:
    # The message of a decoding error can hold a piece of the body.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else "nested too deeply or not a number"


def to_pass_on(body: bytes) -> dict[str, Any]:
    """Return a valid request's object without what only this server understands."""
    value = json.loads(body)
    return {name: held for name, held in value.items() if name not in ("qwenlong", "qwenlong_steps")}


def cut_at_stops(text: str, stops: list[str]) -> tuple[str, bool]:
    """Return `text` up to the first of `stops`, and whether one was there."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(found)], True) if found else (text, False)
