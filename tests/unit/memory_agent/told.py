"""A model that is told what to say to which prompt, and remembers what it read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from qwenlong.memory_agent.loop import Messages, Turn

Reply = str | tuple[str, str] | Exception


class Told:
    """`say` maps prompt and turn number to a text, a text with its finish reason, or an error to raise.

    `delay` gives the seconds that a turn takes, so that replies can arrive in any order.
    """

    def __init__(self, say: Callable[[str, int], Reply], delay: Callable[[int], float] | None = None) -> None:
        self.say, self.delay = say, delay
        self.calls: list[tuple[str, int, int]] = []
        self.open = self.most = 0

    async def __call__(self, messages: Messages, max_tokens: int, turn_index: int) -> Turn:
        prompt = messages[-1]["content"]
        self.calls.append((prompt, max_tokens, turn_index))
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(self.delay(turn_index) if self.delay else 0)
        finally:
            self.open -= 1
        reply = self.say(prompt, turn_index)
        if isinstance(reply, Exception):
            raise reply
        text, reason = (reply, "stop") if isinstance(reply, str) else reply
        return Turn(text, reason, n_prompt_tokens=len(prompt), n_response_tokens=len(text))

    @property
    def prompts(self) -> list[str]:
        """The prompts, in the order of asking."""
        return [prompt for prompt, _, _ in self.calls]


FACT = re.compile(r"FACT[0-9]+")


def keeper(prompt: str, turn: int) -> str:
    """Keep every FACTn of the prompt; say "nothing to add" where that is offered and the section has none."""
    facts = sorted(set(FACT.findall(prompt)), key=lambda fact: int(fact[4:]))
    if prompt.startswith("You have read"):
        return f"found {' '.join(facts)}"
    section = re.split(r"Section \d+ of \d+:\n", prompt)[-1].split("\n\nProblem:")[0]
    if "<nothing/>" in prompt and not FACT.search(section):
        return "<nothing/>"
    return f"<memory>{' '.join(facts) or 'none'}</memory><plan>go on</plan>"
