"""Reading the agent's replies: thinking, the <memory> and <plan> of an update, the two halves of a request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from qwenlong.core.tokens import Tokenizer

#: ok: tags found. malformed: no complete <memory>, the whole reply is the memory. empty, unfinished: nothing usable.
Status = Literal["ok", "malformed", "empty", "unfinished"]
_TAG = re.compile(r"</?(?:memory|plan)>")


@dataclass(frozen=True)
class Update:
    """Memory and plan after an update; with status "empty" or "unfinished" the memory is the old one."""

    memory: str
    plan: str
    status: Status


def after_thinking(text: str) -> str | None:
    """Return what follows the thinking block, stripped; none when the block was never closed."""
    tail = text.rpartition("</think>")[2]
    return None if "<think>" in tail else tail.strip()


def _last(tag: str, text: str) -> str | None:
    """Return the content of the last complete <tag>…</tag>, stripped; none when there is none."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, end) if end >= 0 else -1
    return text[start + len(tag) + 2 : end].strip() if start >= 0 else None


def truncate(text: str, tokenizer: Tokenizer, tokens: int) -> str:
    """Return the longest beginning of `text` of at most `tokens` tokens, cut at a token."""
    ids = tokenizer.encode(text)
    keep = tokens
    while len(ids) > tokens:
        # A cut inside a character decodes to a replacement mark, and a cut text can encode to more tokens.
        text = tokenizer.decode(ids[:keep]).rstrip("\ufffd")
        keep -= 1
        ids = tokenizer.encode(text) if keep > 0 else []
    return text if ids else ""


def update(text: str, memory: str, plan: str, tokenizer: Tokenizer, memory_tokens: int) -> Update:
    """Read an update's reply; `memory` and `plan` are the old ones, kept where the reply has none to offer.

    Memory and plan together are cut to `memory_tokens` tokens, the plan first: what an update may write is what
    the next prompt has room for.
    """
    reply = after_thinking(text)
    if reply is None:
        return Update(memory, plan, "unfinished")
    new_plan = _last("plan", reply)
    new = _last("memory", reply)
    status: Status = "ok"
    if new is None:
        new, status = _TAG.sub("", reply).strip(), "malformed"
        new_plan = "" if new else None
    if not new:
        # An emptied memory would lose everything read so far, and "nothing new" is its likeliest meaning.
        new, status = memory, "empty"
        new_plan = plan if new_plan is None else new_plan
    new = truncate(new, tokenizer, memory_tokens)
    room = memory_tokens - tokenizer.count(new)
    return Update(new, truncate(new_plan or "", tokenizer, room), status)


@dataclass(frozen=True)
class Request:
    """A request split in two (q_core and q_inst of the paper)."""

    question: str
    instruction: str
    status: Status


def request(text: str, query: str) -> Request:
    """Read the reply to the splitting prompt; where it is unusable the whole query is the question."""
    reply = after_thinking(text)
    if reply is None:
        return Request(query, "", "unfinished")
    question, instruction = _last("question", reply), _last("format", reply) or ""
    # Both halves come from the query; one that is longer was made up.
    if not question or len(question) > len(query) or len(instruction) > len(query):
        return Request(query, "", "malformed" if reply else "empty")
    return Request(question, instruction, "ok")
