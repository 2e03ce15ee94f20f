"""Rewards of rollouts of a model that the run serves: asked one by one, kept as soon as they are there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong import rewards as rules
from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import digest_value, sha256_file
from qwenlong.core.llm import Client, Journal, LLMError
from qwenlong.core.llm.crew import Outages, crew, denied
from qwenlong.core.progress import Progress
from qwenlong.core.records import Sample
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.backends import EndpointBackend
from qwenlong.training.prompting import Chat

if TYPE_CHECKING:
    from qwenlong.inference.engine import Sampling


class Served:
    """A model behind an endpoint. `state`: the journal, a line a rollout with its reward; `belongs_to`: what the
    replies depend on besides the request (the model's files), as a digest.
    """

    def __init__(self, endpoint: EndpointConfig, tokenizer: Tokenizer, state: Path, belongs_to: str) -> None:
        self._endpoint, self._tokenizer, self._state = endpoint, tokenizer, state
        # A reward is of a reply and of the rules; of nothing else in the code, which may change between two tries.
        code = [sha256_file(file) for file in sorted(Path(rules.__file__).parent.glob("*.py"))]
        self._owner = digest_value([endpoint.model, belongs_to, tokenizer.digest, code])

    def rewards(
        self,
        samples: Sequence[Sample],
        chats: Sequence[Chat],
        sampling: Sampling,
        k: int,
        seed: int,
        description: str,
        reward: Callable[[Sample, str], float],
    ) -> list[list[float]]:
        """Return the rewards [samples][k] of k responses to each sample's chat, of which those in the journal stand.

        Raises QwenlongError naming what got no response: the same call asks for that alone.
        """
        found: list[list[float | None]] = [[None] * k for _ in samples]
        faults: list[str] = []
        with Journal(self._state) as journal:
            todo: deque[tuple[int, int, str]] = deque()
            for n, (sample, chat) in enumerate(zip(samples, chats, strict=True)):
                request = self._digest(chat, sampling, seed)
                for i in range(k):
                    known = journal.get(_name(description, sample, i), request)
                    if known is None:
                        todo.append((n, i, request))
                    else:
                        found[n][i] = known["reward"]
            if todo:
                asyncio.run(
                    self._ask(todo, samples, chats, sampling, seed, description, reward, journal, found, faults)
                )
        missing = sum(value is None for values in found for value in values)
        if missing:
            raise QwenlongError(
                f"{description}: {missing} of {k * len(samples)} responses are missing, the first fault: "
                f"{faults[0]}. The same command asks for them alone"
            )
        return [[float(value or 0.0) for value in values] for values in found]

    def _digest(self, chat: Chat, sampling: Sampling, seed: int) -> str:
        limits = [sampling.max_new_tokens, sampling.temperature, sampling.top_p]
        return digest_value([self._owner, chat, limits, seed])[:24]

    async def _ask(
        self,
        todo: deque[tuple[int, int, str]],
        samples: Sequence[Sample],
        chats: Sequence[Chat],
        sampling: Sampling,
        seed: int,
        description: str,
        reward: Callable[[Sample, str], float],
        journal: Journal,
        found: list[list[float | None]],
        faults: list[str],
    ) -> None:
        backend = EndpointBackend(Client(self._endpoint), self._endpoint.model, self._tokenizer)
        outages = Outages(self._endpoint.concurrency)
        with Progress(description, total=len(todo), unit="responses") as progress:

            async def work() -> None:
                while todo and not outages.given_up:
                    n, i, request = todo.popleft()
                    sample = samples[n]
                    try:
                        turn = await backend.complete(
                            chats[n],
                            max_tokens=sampling.max_new_tokens,
                            temperature=sampling.temperature,
                            top_p=sampling.top_p,
                            seed=derive(seed, "rollout", sample.id, i),
                        )
                    except LLMError as error:
                        faults.append(f"{sample.id}, response {i}: {error}")
                        outages.failed(str(error), denied(error))
                        continue
                    outages.answered()
                    value = reward(sample, turn.text)
                    entry: dict[str, Any] = {"id": _name(description, sample, i), "request": request, "reward": value}
                    journal.add(entry | {"tokens": turn.completion_tokens, "finish": turn.finish_reason})
                    found[n][i] = value
                    progress.advance(reward=value)

            try:
                await crew(work, min(self._endpoint.concurrency, len(todo)))
            finally:
                await backend.close()


def _name(description: str, sample: Sample, number: int) -> str:
    return f"{description}/{sample.id}/{number}"
