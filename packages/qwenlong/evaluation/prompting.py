"""Full-context prompts within the input limit: the middle of the context is cut, the question never."""

from __future__ import annotations

from collections.abc import Callable

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.loop import Messages

#: What stands for the part that was cut out.
MARK = "\n...\n"
#: Tokens that a prompt may stay below the limit: a character can be several tokens, and only whole ones are cut.
SPARE = 4
#: Tries to come so close.
_TRIES = 8
#: Characters of a token, generously: longer contexts are first looked at in pieces.
_WIDE = 8
_PIECE = 1 << 16
_PIECES = 8
#: Tokens that one border between pieces may cost.
_BORDER = 16


def fit(name: str, context: str, build: Callable[[str], Messages], tokenizer: Tokenizer, max_tokens: int) -> Messages:
    """Return `build(context)`, with the middle of the context cut until it has at most `max_tokens` tokens.

    Both ends are kept, to the letter, the same number of tokens each, and so much of them that the prompt has at most
    a few tokens to spare. Time grows with the limit and with the context up to where it is known to be too long; the
    rest of a longer context is never encoded. Raises DataError naming the item when the rest alone is longer.
    """

    def count(chat: Messages) -> int:
        return tokenizer.count_batch([tokenizer.render_chat(chat)])[0]

    if not _surely_longer(context, max_tokens, tokenizer):
        chat = build(context)
        if count(chat) <= max_tokens:
            return chat
    chat = build(MARK)
    want = max_tokens - count(chat)
    if want <= 0:
        raise DataError(f"{name}: the question alone exceeds {max_tokens} tokens; raise evaluation.max_input_tokens")
    ends = _Ends(context, want + _BORDER, tokenizer)
    best, most, tries = chat, 0, 0
    while want > 0:
        made = build(ends.cut(want))
        tries += 1
        over = count(made) - max_tokens
        if over <= 0 and want > most:
            best, most = made, want
        if -SPARE <= over <= 0 or (tries >= _TRIES and most):
            break
        # Borders can merge into other tokens, so the count is taken again; what never fits is cut faster.
        want -= over if tries < _TRIES else max(over, 1 << (tries - _TRIES))
        if over <= 0 and want > ends.size:
            break
    return best


def _surely_longer(context: str, max_tokens: int, tokenizer: Tokenizer) -> bool:
    """Tell whether a context exceeds the limit by itself, from its first pieces; False where all must be counted."""
    if len(context) <= _WIDE * max_tokens + _PIECE:
        return False
    tokens = 0
    for start in range(0, len(context), _PIECE * _PIECES):
        block = context[start : start + _PIECE * _PIECES]
        pieces = [block[at : at + _PIECE] for at in range(0, len(block), _PIECE)]
        tokens += sum(max(0, count - _BORDER) for count in tokenizer.count_batch(pieces))
        if tokens > max_tokens:
            return True
    return False


class _Ends:
    """The first and the last `size` tokens of a text, as places in it."""

    def __init__(self, text: str, size: int, tokenizer: Tokenizer) -> None:
        self._text, self.size = text, size
        half = size // 2 + 1
        width = _WIDE // 2 * half
        while True:
            head = tokenizer.spans(text[:width])
            if len(head) > half or width >= len(text):
                break
            width *= 2
        self._head = [end for _, end in head[:half]]
        width = _WIDE // 2 * half
        while True:
            first = max(0, len(text) - width)
            tail = tokenizer.spans(text[first:])
            if len(tail) > half or first == 0:
                break
            width *= 2
        self._tail = [first + start for start, _ in reversed(tail[-half:])]

    def cut(self, tokens: int) -> str:
        """Return the text with about so many tokens left of it."""
        head = (tokens + 1) // 2
        end = self._place(self._head, head, 0)
        start = max(end, self._place(self._tail, tokens - head, len(self._text)))
        return self._text[:end] + MARK + self._text[start:]

    @staticmethod
    def _place(places: list[int], tokens: int, none: int) -> int:
        return places[min(tokens, len(places)) - 1] if tokens > 0 and places else none
