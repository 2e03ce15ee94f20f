"""Reading the agent's replies: thinking, the <memory> and <plan> of an update, the two halves of a request."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qwenlong.core.tokens import Tokenizer

#: What became of a turn. ok: tags found. malformed: no complete <memory>, the whole reply is the memory unless repairs
#: are on. empty, unfinished (thinking never closed), failed (no reply): nothing usable. skipped: "nothing to add".
#: over_budget: the memory was longer than its limit, and cut. repaired: usable when asked for once more.
Status = Literal["ok", "malformed", "empty", "unfinished", "skipped", "failed", "over_budget", "repaired"]
_TAG = re.compile(r"</?(?:memory|plan)>")
_NOTHING = re.compile(r"<nothing\s*/?>(?:\s*</nothing>)?", re.IGNORECASE)
_DONE = re.compile(r"<done\s*/?>(?:\s*</done>)?", re.IGNORECASE)
#: What servers say of a reply that was withheld: what there is of it is no memory.
_WITHHELD = ("content_filter", "refusal")


@dataclass(frozen=True)
class Update:
    """Memory and plan after an update; where `used` is false they are the old ones. `done`: the model needs no more."""

    memory: str
    plan: str
    status: Status
    used: bool = True
    done: bool = False


def thinking(text: str) -> str:
    """Return what stands in the thinking block, closed or not, stripped; empty where there is none."""
    thought, closed, _ = text.rpartition("</think>")
    return (thought if closed else text if "<think>" in text else "").replace("<think>", "").strip()


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


def _same(text: str) -> str:
    return text


def fit(text: str, tokenizer: Tokenizer, tokens: int, safe: Callable[[str], str] = _same) -> str:
    """Return the longest beginning of `text`, made `safe`, of at most `tokens` tokens."""
    text = safe(text)
    while True:
        cut = truncate(text, tokenizer, tokens)
        # A cut can make a heading of what was the beginning of a line.
        text = safe(cut)
        if text == cut:
            return cut


def update(
    text: str,
    memory: str,
    plan: str,
    tokenizer: Tokenizer,
    memory_tokens: int,
    *,
    finish_reason: str = "stop",
    skip: bool = False,
    early_exit: bool = False,
    safe: Callable[[str], str] = _same,
) -> Update:
    """Read an update's reply; `memory` and `plan` are the old ones, kept where the reply has none to offer.

    Memory and plan together are cut to `memory_tokens` tokens, the plan first: what an update may write is what
    the next prompt has room for. `skip` and `early_exit` tell whether the prompt offered <nothing/> and <done/>;
    `safe` makes harmless what could be taken for the prompt's own, before tokens are counted.
    """
    reply = after_thinking(text)
    if reply is None:
        return Update(memory, plan, "unfinished", used=False)
    if finish_reason in _WITHHELD:
        return Update(memory, plan, "empty", used=False)
    new_plan = _last("plan", reply)
    new = _last("memory", reply)
    outside = reply if new is None else reply.replace(f"<memory>{_raw('memory', reply)}</memory>", "")
    done = early_exit and bool(_DONE.search(outside))
    if skip and _says_nothing(reply, new):
        return Update(memory, plan, "skipped", done=done and bool(memory))
    status: Status = "ok"
    if new is None:
        new, status = _TAG.sub("", _DONE.sub("", reply) if early_exit else reply).strip(), "malformed"
        new_plan = "" if new else None
    if not new:
        # An emptied memory would lose everything read so far, and "nothing new" is its likeliest meaning.
        kept = plan if new_plan is None else new_plan
        room = memory_tokens - tokenizer.count(memory)
        return Update(memory, fit(kept, tokenizer, room, safe), "empty", used=False)
    whole = safe(new)
    new = fit(new, tokenizer, memory_tokens, safe)
    if new != whole and status == "ok":
        status = "over_budget"
    room = memory_tokens - tokenizer.count(new)
    return Update(new, fit(new_plan or "", tokenizer, room, safe), status, done=done and status == "ok")


def _raw(tag: str, text: str) -> str:
    end = text.rfind(f"</{tag}>")
    return text[text.rfind(f"<{tag}>", 0, end) + len(tag) + 2 : end]


def _says_nothing(reply: str, new: str | None) -> bool:
    """Tell whether a reply says that there is nothing to add, and offers no memory beside, not even a broken one."""
    if new:
        return _NOTHING.fullmatch(new) is not None
    return bool(_NOTHING.search(reply)) and (new is not None or "<memory>" not in reply)


@dataclass(frozen=True)
class Request:
    """A request split in two (q_core and q_inst of the paper)."""

    question: str
    instruction: str
    status: Status


def request(text: str, query: str, length: Callable[[str], int] = len) -> Request:
    """Read the reply to the splitting prompt; where it is unusable the whole query is the question.

    `length` measures both halves against the query, in characters or in tokens.
    """
    reply = after_thinking(text)
    if reply is None:
        return Request(query, "", "unfinished")
    question, instruction = _last("question", reply), _last("format", reply) or ""
    # Both halves come from the query; one that is longer was made up.
    if not question or max(map(length, (question, instruction))) > length(query):
        return Request(query, "", "malformed" if reply else "empty")
    return Request(question, instruction, "ok")
