"""The LLM judge of the reward: asked whether two answers say the same, believed only on its own last line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from qwenlong.core.llm.material import fence, last_verdict, unspelled
from qwenlong.core.templates import fill
from qwenlong.rewards.extract import after_thinking

FOLDER = Path(__file__).parent / "prompts" / "v1"
#: Longer answers are cut before the judge sees them, in characters.
MAX_ANSWER_CHARACTERS = 2000


class ChatClient(Protocol):
    """What the judge needs of `core.llm.Client`."""

    async def chat(
        self, messages: list[dict[str, str]], *, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> Any:
        """Return a reply with `.text`."""


def parse_verdict(text: str) -> bool | None:
    """Return the verdict on the judge's last non-empty line, None when that line is anything else.

    The line must hold one verdict and nothing else: a quoted "[[YES]]" inside a sentence is no verdict.
    """
    return last_verdict(after_thinking(text) or "")


def prompt(question: str, gold: str | Sequence[str], answer: str) -> list[dict[str, str]]:
    """Return the judge's messages; values are fenced and cannot spell a verdict or the fence."""
    golds = gold if isinstance(gold, str) else " | ".join(gold)
    values = {"question": question, "gold": golds, "answer": answer[:MAX_ANSWER_CHARACTERS]}
    values = {key: unspelled(value) for key, value in values.items()}
    return [{"role": "user", "content": fill("equivalence", values | {"fence": fence(list(values.values()))}, FOLDER)}]


async def equivalent(
    client: ChatClient, question: str, gold: str | Sequence[str], answer: str, *, max_tokens: int = 2048, seed: int = 0
) -> bool | None:
    """Ask the judge whether `answer` says the same as `gold`; None when its reply has no verdict.

    Raises core.llm.Unavailable when the judge cannot be reached after the client's retries.
    """
    reply = await client.chat(
        prompt(question, gold, answer), max_tokens=max_tokens, temperature=0.0, top_p=1.0, seed=seed
    )
    return parse_verdict(reply.text)
