"""Replies of the server as OpenAI's clients read them: a completion, or the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from qwenlong.core.errors import QwenlongError
from qwenlong.memory_agent.chat_request import ChatRequest

if TYPE_CHECKING:
    import httpx

    from qwenlong.memory_agent.loop import Step
    from qwenlong.memory_agent.service import Reply

DONE = b"data: [DONE]\n\n"
#: A comment keeps a quiet stream open; clients skip it.
BEAT = b": working\n\n"


class Broken(QwenlongError):
    """A stream of the model's server that ended before its reply did."""


def event(value: dict[str, Any]) -> bytes:
    """Return an object as one server-sent event."""
    # In ASCII: some clients take U+2028 and its like for the end of a line.
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class Answer:
    """Identity of one reply: what all its pieces share."""

    def __init__(self, request: ChatRequest) -> None:
        self._steps, self._with_usage = request.qwenlong_steps, request.with_usage
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": request.model}

    def _about(self, reply: Reply) -> dict[str, Any]:
        return reply.about | ({"steps": reply.steps} if self._steps else {})

    def completion(self, reply: Reply) -> dict[str, Any]:
        """Return the whole reply as one object."""
        choices = []
        for index, (text, reasoning, reason) in enumerate(reply.choices):
            message = {"role": "assistant", "content": text}
            if reasoning:
                message["reasoning_content"] = reasoning
            choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": reason})
        own = {"choices": choices, "usage": _usage(reply), "qwenlong": self._about(reply)}
        return {**self._head, "object": "chat.completion", **own}

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice], **more})

    def opening(self) -> bytes:
        """Return the first event of a stream."""
        return self._chunk(0, {"role": "assistant", "content": ""})

    def progress(self, step: Step, total: int) -> bytes:
        """Return an event that tells of a step, as reasoning: numbers only, nothing that was read."""
        done = step.kind if step.chunk is None else f"section {step.chunk + 1} of {total}"
        more: dict[str, Any] = {"qwenlong": {"step": step.summary()}} if self._steps else {}
        return self._chunk(0, {"reasoning_content": f"{done}: {step.status}\n"}, **more)

    def ending(self, reply: Reply) -> Iterator[bytes]:
        """Yield the answer, the finish and the usage of a stream; DONE is left to the caller."""
        for index, (text, reasoning, reason) in enumerate(reply.choices):
            if index:
                yield self._chunk(index, {"role": "assistant", "content": ""})
            if reasoning:
                yield self._chunk(index, {"reasoning_content": reasoning})
            for line in text.splitlines(keepends=True):
                yield self._chunk(index, {"content": line})
            yield self._chunk(index, {}, reason, qwenlong=self._about(reply))
        if self._with_usage:
            yield event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(reply)})


def _usage(reply: Reply) -> dict[str, int]:
    prompt, completion = reply.prompt_tokens, reply.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def passed(value: dict[str, Any], request: ChatRequest) -> dict[str, Any]:
    """Return a completion of the model's server with what this one adds."""
    about: dict[str, Any] = {"mode": "direct"}
    if request.qwenlong_steps:
        usage = value.get("usage") or {}
        about["steps"] = [
            _direct(index, choice.get("finish_reason"), usage) for index, choice in enumerate(value["choices"])
        ]
    return value | {"qwenlong": about}


def _direct(index: int, reason: Any, usage: dict[str, Any]) -> dict[str, Any]:
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {"index": index, "kind": "direct", "status": "ok", "finish_reason": reason, **counts}


async def passed_events(
    response: httpx.Response, request: ChatRequest, without_key: Callable[[str], str]
) -> AsyncGenerator[bytes, None]:
    """Yield the events of the model's server as they come, the one that finishes with what this server adds; not DONE.

    Raises Broken when the stream ends before a finish; an error event of the server is passed on.
    """
    finished = False
    block: list[bytes] = []
    async for line in _lines(response):
        if line.startswith(b"data:"):
            line = without_key(line.decode("utf-8", "replace")).encode()
            if line[5:].strip() == b"[DONE]":
                finished = True
                break
            line, ends = _marked(line, request)
            finished = finished or ends
        block.append(line)
        if not line:
            # The blank line ends the event.
            yield b"\n".join(block) + b"\n"
            block.clear()
    if not finished:
        raise Broken("the model's server ended its stream in the middle of a reply; ask again")
    if block:
        yield b"\n".join(block) + b"\n\n"


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    # Not by httpx: it ends lines at U+2028 and others too, which stand inside JSON as they are.
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


def _marked(line: bytes, request: ChatRequest) -> tuple[bytes, bool]:
    """Return a data line, with what this server adds where a choice ends, and whether it ends a reply."""
    try:
        value = json.loads(line[5:])
        if "error" in value:
            return line, True
        ends = any(choice.get("finish_reason") for choice in value["choices"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return line, False
    return (event(passed(value, request)).strip(), True) if ends else (line, False)
