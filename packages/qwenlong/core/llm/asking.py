"""One question to a model until its reply can be used: what goes wrong becomes data, not an exception."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from qwenlong.core.config import EndpointConfig
from qwenlong.core.files import digest_value
from qwenlong.core.llm.client import Client
from qwenlong.core.llm.crew import denied
from qwenlong.core.llm.errors import Rejected, Unavailable
from qwenlong.core.llm.schema import Schema, checked, json_schema, last_object
from qwenlong.core.seeds import derive

T = TypeVar("T")
#: Errors that say nothing about the item: it is asked again the next time. All others are refusals, and kept.
#: "denied" is a key or model that the server does not accept, "not_asked" what was left when a map gave up.
OUTAGES = frozenset({"unavailable", "denied", "not_asked"})
#: Least temperature when a reply is asked for again: at 0 another seed would give the same one.
AGAIN_TEMPERATURE = 0.5


class Refused(Exception):
    """Raised by what reads a reply: `kind` is counted, `again` tells whether another seed may do better."""

    def __init__(self, kind: str, detail: str = "", *, again: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.again = kind, detail, again


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """A value, or the kind of what went wrong with its detail.

    Kinds: "malformed" (no JSON object), "invalid" (not as the schema says), "truncated" (finish_reason length),
    "declined" (the model or a filter refused), "rejected" (the server refused the request), those of `OUTAGES`, and
    whatever `Refused` names. `text` is the reply that was read last, `tries` how many there were.
    """

    value: T | None = None
    error: str | None = None
    detail: str = ""
    text: str = field(default="", repr=False)
    tries: int = 0

    @property
    def ok(self) -> bool:
        """Tell whether there is a value."""
        return self.error is None

    @property
    def outage(self) -> bool:
        """Tell whether the endpoint, not the reply, was at fault: worth asking again later."""
        return self.error in OUTAGES


@dataclass(frozen=True)
class Request:
    """What a model is asked. `tries` replies at most, each with a seed of its own, until one can be read."""

    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    seed: int
    temperature: float = 0.0
    top_p: float = 1.0
    schema: Schema | None = None
    tries: int = 3

    def digest(self, model: str) -> str:
        """Return the digest of all that decides the reply; neither address nor key is part of it."""
        return digest_value(
            {
                "model": model,
                "messages": [dict(message) for message in self.messages],
                "max_tokens": self.max_tokens,
                "seed": self.seed,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "schema": None if self.schema is None else json_schema(self.schema),
                "tries": self.tries,
            }
        )


async def ask(client: Client, request: Request, read: Callable[[Any], T]) -> Outcome[T]:
    """Return what `read` makes of the reply: of its text, or with a schema of the object in it.

    Nothing that an endpoint or a model does raises: it ends as an Outcome with an error.
    """
    outcome: Outcome[T] = Outcome(error="not_asked")
    for number in range(request.tries):
        try:
            reply = await client.chat(
                request.messages,
                max_tokens=request.max_tokens,
                temperature=max(request.temperature, AGAIN_TEMPERATURE) if number else request.temperature,
                top_p=request.top_p,
                seed=derive(request.seed, "again", number) if number else request.seed,
                response_format=_format(client.endpoint, request.schema),
            )
        except Unavailable as error:
            return Outcome(error="unavailable", detail=str(error), tries=number + 1)
        except Rejected as error:
            kind = "denied" if denied(error) else "rejected"
            return Outcome(error=kind, detail=str(error), tries=number + 1)
        outcome, again = interpret(reply.text, reply.finish_reason, request.schema, read, number + 1)
        if not again:
            break
    return outcome


async def structured(
    client: Client,
    messages: Sequence[Mapping[str, Any]],
    schema: Schema,
    *,
    max_tokens: int,
    seed: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    tries: int = 3,
) -> Outcome[Any]:
    """Return the last JSON object of the reply, valid under `schema`: a dict, or an instance where it is a model.

    Asks up to `tries` times, each with another seed. `response_format` is sent as `endpoint.structured_output` says;
    whatever the server promises, the object is validated here.
    """
    request = Request(messages, max_tokens, seed, temperature, top_p, schema, tries)
    return await ask(client, request, lambda value: value)


def interpret(
    text: str, finish_reason: str, schema: Schema | None, read: Callable[[Any], T], tries: int
) -> tuple[Outcome[T], bool]:
    """Return what a reply comes to, and whether asking again may help."""

    def refused(kind: str, detail: str, again: bool = True) -> tuple[Outcome[T], bool]:
        return Outcome(error=kind, detail=detail, text=text, tries=tries), again

    if finish_reason == "length":
        # Even a whole object in it may be a draft that the model was about to replace.
        return refused("truncated", "the reply reached max_tokens")
    if finish_reason in ("refusal", "content_filter"):
        return refused("declined", finish_reason)
    value: Any = text
    if schema is not None:
        found = last_object(text)
        if found is None:
            return refused("malformed", "no JSON object in the reply")
        value, fault = checked(found, schema)
        if fault is not None:
            return refused("invalid", fault)
    try:
        return Outcome(value=read(value), text=text, tries=tries), False
    except Refused as refusal:
        return refused(refusal.kind, refusal.detail, refusal.again)


def _format(endpoint: EndpointConfig, schema: Schema | None) -> Mapping[str, Any] | None:
    if schema is None or endpoint.structured_output == "none":
        return None
    if endpoint.structured_output == "json_object":
        return {"type": "json_object"}
    name = schema.__name__ if isinstance(schema, type) and issubclass(schema, BaseModel) else "reply"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": json_schema(schema), "strict": True}}
