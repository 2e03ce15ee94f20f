"""One completion, as the server's JSON and as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One completion. Token counts are the server's, 0 where it gives none.

    `finish_reason` is the server's word ("stop", "length", "content_filter"), or "refusal" where the message says in
    its own field that the model declines. `cached`: read from disk, not paid for again.
    """

    text: str
    finish_reason: str
    n_prompt_tokens: int
    n_response_tokens: int
    cached: bool = field(default=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return what the cache stores."""
        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "n_prompt_tokens": self.n_prompt_tokens,
            "n_response_tokens": self.n_response_tokens,
        }


def parse(value: Any) -> Reply:
    """Return the first choice of a completion.

    Raises ValueError, KeyError, IndexError, TypeError or AttributeError for a body that is none.
    """
    choice = value["choices"][0]
    message = choice["message"]
    text, declined = message.get("content"), bool(message.get("refusal"))
    if text is None:
        if "content" not in message and not declined:
            raise KeyError("content")
        text = ""  # A reasoning parser on the server that found nothing but reasoning, or a model that declines.
    if not isinstance(text, str):
        raise TypeError("content is not text")
    # JSON can spell half a character, which no file can hold.
    text = text.encode("utf-8", "replace").decode("utf-8")
    usage = value.get("usage") or {}
    return Reply(
        text=text,
        finish_reason="refusal" if declined else str(choice.get("finish_reason") or "stop"),
        n_prompt_tokens=_count(usage, "prompt_tokens"),
        n_response_tokens=_count(usage, "completion_tokens"),
    )


def from_cache(value: Any) -> Reply | None:
    """Return a stored reply; None for anything that is not one."""
    if not isinstance(value, Mapping):
        return None
    text, reason = value.get("text"), value.get("finish_reason")
    if not isinstance(text, str) or not isinstance(reason, str):
        return None
    prompt, response = value.get("n_prompt_tokens"), value.get("n_response_tokens")
    if type(prompt) is not int or type(response) is not int:
        return None
    return Reply(text, reason, prompt, response, cached=True)


def _count(usage: Mapping[str, Any], name: str) -> int:
    return max(0, int(usage.get(name) or 0))
