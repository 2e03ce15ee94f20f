"""The LLM judge of the reward: asked whether two answers say the same, believed only on its own last line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from qwenlong.core.llm.asking import AGAIN_TEMPERATURE
from qwenlong.core.llm.material import fence, last_verdict, unspelled
from qwenlong.core.templates import fill
from qwenlong.rewards.extract import after_thinking

FOLDER = Path(__file__).parent / "prompts" / "v1"
#: Longer answers are cut before the judge sees them, in characters.
MAX_ANSWER_CHARACTERS = 2000
#: What servers read as the end of a turn or of the thinking wherever it stands: <|end|>, <｜User｜>, </think>.
_CONTROL = re.compile(r"<(?=[|｜]|\s*/?\s*think\b)", re.IGNORECASE)


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


def prompt(
    question: str,
    gold: str | Sequence[str],
    answer: str,
    *,
    template: str = "equivalence",
    folder: Path = FOLDER,
    longest: int = MAX_ANSWER_CHARACTERS,
) -> list[dict[str, str]]:
    """Return the judge's messages; values are fenced and cannot spell a verdict, the fence or the end of a turn.

    The template may use {question}, {gold}, {answer} and {fence}; `longest` bounds the answer, in characters.
    """
    golds = gold if isinstance(gold, str) else " | ".join(gold)
    values = {"question": question, "gold": golds, "answer": answer[:longest]}
    values = {key: unspelled(_CONTROL.sub("< ", value)) for key, value in values.items()}
    return [{"role": "user", "content": fill(template, values | {"fence": fence(list(values.values()))}, folder)}]


async def equivalent(
    client: ChatClient,
    question: str,
    gold: str | Sequence[str],
    answer: str,
    *,
    max_tokens: int = 2048,
    attempt: int = 0,
) -> bool | None:
    """Ask the judge whether `answer` says the same as `gold`; None when its reply has no verdict.

    The first try is greedy; another `attempt` at temperature 0 would give the same reply, so it is not.
    Raises core.llm.Unavailable when the judge cannot be reached after the client's retries.
    """
    reply = await client.chat(
        prompt(question, gold, answer),
        max_tokens=max_tokens,
        temperature=AGAIN_TEMPERATURE if attempt else 0.0,
        top_p=1.0,
        seed=attempt,
    )
    # A reply that was cut off, or that a filter ended, may be a draft of another verdict.
    if getattr(reply, "finish_reason", "stop") in ("length", "content_filter", "refusal"):
        return None
    return parse_verdict(reply.text)
