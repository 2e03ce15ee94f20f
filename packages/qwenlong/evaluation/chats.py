"""Chats of many turns within the input limit: whole turns of the middle are left out, the last message never."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.loop import Messages

#: What stands before the first message behind a gap.
GAP = "[{number} earlier messages are left out here.]\n\n"


def fit_chat(name: str, messages: Messages, tokenizer: Tokenizer, max_tokens: int) -> Messages:
    """Return the chat in at most `max_tokens` tokens: whole turns of its middle left out, both ends kept alike.

    A turn is a user's message with the answers to it, so roles go on alternating; a system message and the last
    user's message always stay. The message behind the gap says how many are missing. Raises DataError naming the item
    when the last message alone does not fit.
    """
    if tokenizer.count_chat(messages) <= max_tokens:
        return messages
    system, turns, last = _turns(messages)
    sizes = [sum(counts) for counts in _sizes(turns, tokenizer)]
    budget = max_tokens - tokenizer.count_chat([*system, *last])
    while budget >= 0:
        head, tail = _ends(sizes, budget)
        chat = _without(system, turns, last, head, tail)
        over = tokenizer.count_chat(chat) - max_tokens
        if over <= 0:
            return chat
        if head + tail == 0:
            break
        # The chat template's own tokens and the note are not in the sizes.
        budget -= max(over, 1)
    raise DataError(f"{name}: the last message alone exceeds {max_tokens} tokens; raise evaluation.max_input_tokens")


def _turns(messages: Messages) -> tuple[Messages, list[Messages], Messages]:
    """Return the messages before the first user's one, the turns, and the last one."""
    starts = [number for number, message in enumerate(messages) if message["role"] == "user"]
    bounds = zip(starts, [*starts[1:], len(messages)], strict=True)
    turns = [messages[start:stop] for start, stop in bounds]
    return messages[: starts[0]], turns[:-1], turns[-1]


def _sizes(turns: Sequence[Messages], tokenizer: Tokenizer) -> list[list[int]]:
    counts = iter(tokenizer.count_batch([message["content"] for turn in turns for message in turn]))
    return [[next(counts) for _ in turn] for turn in turns]


def _ends(sizes: Sequence[int], budget: int) -> tuple[int, int]:
    """Return how many turns stay at the head and at the tail: the end that has fewer tokens so far gets the next."""
    head = tail = used_head = used_tail = 0
    while head + tail < len(sizes):
        at_head = used_head <= used_tail
        size = sizes[head] if at_head else sizes[len(sizes) - 1 - tail]
        if used_head + used_tail + size > budget:
            break
        if at_head:
            head, used_head = head + 1, used_head + size
        else:
            tail, used_tail = tail + 1, used_tail + size
    return head, tail


def _without(system: Messages, turns: Sequence[Messages], last: Messages, head: int, tail: int) -> Messages:
    first, dropped, rest = turns[:head], turns[head : len(turns) - tail], turns[len(turns) - tail :]
    behind = [message for turn in [*rest, last] for message in turn]
    note = GAP.format(number=sum(len(turn) for turn in dropped))
    behind[0] = behind[0] | {"content": note + behind[0]["content"]}
    return [*system, *(message for turn in first for message in turn), *behind]


def flat(messages: Messages) -> str:
    """Return messages as one text, each under its role."""
    return "\n\n".join(f"{message['role'].capitalize()}:\n{message['content']}" for message in messages)
