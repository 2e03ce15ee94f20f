"""A prompt under construction, and the size at which it fills a number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwenlong.core import templates
from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer

#: Templates of all tasks.
PROMPTS = Path(__file__).parents[1] / "prompts" / templates.VERSION
#: Share of the length that every prompt fills at least.
FILLED = 0.95
#: Share from which the search for a size stops.
_ENOUGH = 0.985
_AIM = 0.995


@dataclass(frozen=True)
class Draft:
    """Lead, context and question of a prompt; `places` are the characters of the context where the evidence starts."""

    lead: str
    context: str
    question: str
    instruction: str
    outputs: tuple[str, ...]
    places: tuple[int, ...]

    def prompt(self) -> tuple[str, int]:
        """Return the whole prompt and where in it the context starts."""
        # No text holds a zero byte.
        values = {"lead": self.lead, "question": self.question, "instruction": self.instruction, "context": "\0"}
        before, _, after = templates.fill("ruler", values, PROMPTS).partition("\0")
        return before + self.context + after, len(before)


#: From size (units of filler) and padding (short sentences behind it) to a draft; the same sizes, the same draft.
Build = Callable[[int, int], Draft]


def counted(tokenizer: Tokenizer) -> Callable[[str], int]:
    """Return what counts a prompt: as a chat of one message, or as text where the tokenizer has no chat template."""
    try:
        tokenizer.chat_template  # noqa: B018
    except DataError:
        return tokenizer.count
    return lambda text: tokenizer.count_chat([{"role": "user", "content": text}])


def filled(name: str, build: Build, pads: bool, count: Callable[[str], int], length: int) -> tuple[Draft, int]:
    """Return the draft that fills `length` tokens, and its tokens: at most `length`, at least 95% of it.

    With `pads` what whole units leave over is padded. Raises DataError when the task does not fit so few tokens.
    """
    draft, tokens, size = _search(lambda n: build(n, 0), count, length)
    if draft is not None and pads and tokens < _ENOUGH * length:
        draft, tokens, _ = _search(lambda n: build(size, n), count, length)
    if draft is None:
        raise DataError(f"{name}: needs {tokens} tokens without any filler, more than {length}; raise the length")
    if tokens < FILLED * length:
        raise DataError(f"{name}: fills {tokens} of {length} tokens; raise the length, or give more text to fill it")
    return draft, tokens


def _search(build: Callable[[int], Draft], count: Callable[[str], int], length: int) -> tuple[Draft | None, int, int]:
    """Return the draft of the largest size found within `length`, its tokens and the size; no draft when none fits.

    Tokens grow with the size almost in line, so each step interpolates between a size that fits and one that does not.
    """
    best = build(0)
    smallest = fits = count(best.prompt()[0])
    if smallest > length:
        return None, smallest, 0
    low, high, over = 0, 0, 0
    guess = 16
    # No unit has less than a fourth of a token; beyond that the filler has come to its end.
    while fits < _ENOUGH * length and (high == 0 or high - low > 1) and guess <= 4 * length:
        draft = build(guess)
        tokens = count(draft.prompt()[0])
        if tokens <= length:
            best, fits, low = draft, tokens, guess
        else:
            high, over = guess, tokens
        wanted = _AIM * length - fits
        if high == 0:
            slope = max((fits - smallest) / low, 0.01)
            guess = min(max(low + 1, int(low + wanted / slope)), 8 * low)
        else:
            guess = min(max(low + 1, low + int(wanted / max(over - fits, 1) * (high - low))), high - 1)
    return best, fits, low
