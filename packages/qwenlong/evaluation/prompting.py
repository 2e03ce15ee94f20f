"""Full-context prompts within the input limit: the middle of the context is cut, the question never."""

from __future__ import annotations

from collections.abc import Callable

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.loop import Messages


def fit(name: str, context: str, build: Callable[[str], Messages], tokenizer: Tokenizer, max_tokens: int) -> Messages:
    """Return `build(context)`, with the middle of the context cut until it has at most `max_tokens` tokens.

    Both ends are kept, the same number of tokens each. Raises DataError naming the item when the rest alone is longer.
    """
    chat = build(context)
    excess = tokenizer.count_chat(chat) - max_tokens
    ids = tokenizer.encode(context) if excess > 0 else []
    while excess > 0:
        keep = len(ids) - excess
        if keep <= 0:
            raise DataError(
                f"{name}: the question alone exceeds {max_tokens} tokens; raise evaluation.max_input_tokens"
            )
        head = (keep + 1) // 2
        chat = build(tokenizer.decode(ids[:head]) + "\n...\n" + tokenizer.decode(ids[len(ids) - (keep - head) :]))
        # Borders can merge into other tokens, so the count is taken again.
        over = tokenizer.count_chat(chat) - max_tokens
        if over <= 0:
            break
        excess += over
    return chat
