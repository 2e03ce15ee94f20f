"""A benchmark through the memory agent whose endpoint gives up on one chunk: no score is made of half a document."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_helpers import endpoint, make_tokenizer

from qwenlong.core.config import AgentConfig, EndpointConfig
from qwenlong.core.llm import Client
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Item
from qwenlong.evaluation.runner import Settings, Totals, run
from qwenlong.memory_agent.backends import EndpointBackend
from qwenlong.memory_agent.journal import Journal
from qwenlong.memory_agent.loop import Messages

TEXT = "".join(f"Paragraph {n} says a thing about Rome.\n\n" for n in range(12))


@dataclass(frozen=True)
class Question(Item):
    """One item."""

    id: str
    group: str = "all"

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the plain prompt."""
        return [{"role": "user", "content": self.id}]

    def problem(self) -> tuple[str, str, str]:
        """Return question, format and text."""
        return f"What of {self.id}?", "Short.", TEXT

    def score(self, response: str) -> dict[str, float]:
        """Return 1."""
        return {"accuracy": 1.0}


def test_an_item_with_a_lost_chunk_is_an_error_and_is_healed(tmp_path: Path) -> None:
    """The error names the endpoint's; the next run asks what is missing and takes the rest from the journal."""
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    config = AgentConfig(chunk_tokens=64, memory_tokens=24, answer_tokens=12)
    settings = Settings(100, 20, 0.7, 0.95, 1, 17, config)
    healthy = False

    def flaky(request: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
        prompt = request["messages"][0]["content"]
        lost = not healthy and "What of B?" in prompt and "Section 2 of" in prompt
        return (503, {"error": "overloaded"}) if lost else (200, "<memory>Rome</memory><plan>on</plan>")

    async def once(url: str) -> tuple[list[Any], Totals]:
        client = Client(EndpointConfig(base_url=url, model="m", retries=0))
        backend = EndpointBackend(client, "m", tokenizer)
        with Journal(tmp_path / "journal.jsonl") as journal:
            return await run("b", [Question("A"), Question("B")], backend, settings, journal, 1, False)

    with endpoint(flaky) as (url, requests):
        predictions, totals = asyncio.run(once(url))
        assert totals.errors == 1 and predictions[0].error is None
        assert "1 turns without a reply" in predictions[1].error and "503" in predictions[1].error
        asked = len(requests)
        assert totals.calls == asked / 2
        healthy = True
        predictions, totals = asyncio.run(once(url))
        assert totals.errors == 0 and all(prediction.error is None for prediction in predictions)
        # Replies do not depend on what was lost, so every other turn of B was in the journal.
        assert len(requests) == asked + 1 and totals.replayed_turns == asked - 1
    assert set(totals.updates) == {"ok"}
