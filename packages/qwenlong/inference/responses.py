"""From token ids to the text of a response."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong.core.templates import opens_thinking
from qwenlong.core.tokens import Tokenizer


def response_text(tokenizer: Tokenizer, token_ids: Sequence[int], prompt: str | Sequence[int] = "") -> str:
    """Return the text of a response: without end tokens, and with "<think>" in front where the prompt opened it.

    `prompt` is the rendered prompt or its token ids (the last ones are enough).
    """
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    rendered = prompt if isinstance(prompt, str) else tokenizer.decode(prompt[-8:])
    # Chat templates of thinking models end inside the block; whoever reads the response must see that it is one.
    return f"<think>\n{text}" if opens_thinking(rendered) else text
