"""What multiple-choice benchmarks share: how an item is asked without a document, and its rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.rules import choices
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking

PROMPTS = Path(__file__).parents[1] / "prompts" / "v1"
RULES = ("accuracy", "official", "lenient", "unextracted")


def render(options: Sequence[str], mark: str = "({})") -> str:
    """Return the options, one a line, each behind its letter."""
    return "\n".join(
        f"{mark.format(letter)} {option.strip()}" for letter, option in zip(choices.LETTERS, options, strict=False)
    )


def whole(name: str, prompt: str, tokenizer: Tokenizer, max_tokens: int) -> Messages:
    """Return a prompt that is all question. Raises DataError naming the item when it has more than `max_tokens`."""
    chat = [{"role": "user", "content": prompt}]
    tokens = tokenizer.count_chat(chat)
    if tokens > max_tokens:
        raise DataError(
            f"{name}: the question has {tokens} tokens, {max_tokens} are allowed; raise evaluation.max_input_tokens"
        )
    return chat


def values(letter: str | None, gold: str, response: str, options: int) -> dict[str, float]:
    r"""Return RULES for the letter that the official rule found in a response.

    `accuracy` and `official`: that letter is `gold`. `lenient`: the same in either case, and where the rule found none,
    the letter that the final answer names in another form (\boxed{B}, "option b"); what it has above `accuracy` was
    lost to the format. `unextracted`: the official rule found none.
    """
    right = float(letter == gold)
    text = after_thinking(response) if letter is None else None
    meant = letter if text is None else choices.named(text, options)
    lenient = float(meant is not None and meant.upper() == gold)
    return {"accuracy": right, "official": right, "lenient": lenient, "unextracted": float(letter is None)}
