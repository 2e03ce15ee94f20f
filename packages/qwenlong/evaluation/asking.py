"""One response to one item: the prompt, the model's turns, what became of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qwenlong.core import seeds
from qwenlong.core.config import AgentConfig
from qwenlong.core.errors import QwenlongError, StorageError, UsageError
from qwenlong.core.llm import Unavailable
from qwenlong.core.llm.usage import counted
from qwenlong.core.logs import get
from qwenlong.core.records import Prediction
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Asking, Episode, Item
from qwenlong.evaluation.predictions import prediction_id
from qwenlong.evaluation.servers import Servers
from qwenlong.memory_agent import backends, loop
from qwenlong.memory_agent.chunking import split
from qwenlong.memory_agent.journal import Journal
from qwenlong.memory_agent.loop import Generate, Messages, Turn
from qwenlong.memory_agent.prompting import Prompts

_LOG = get(__name__)
#: Characters that a token of a response may have on average before its server is said to have ignored the limit.
_WIDEST = 32


@dataclass(frozen=True)
class Settings:
    """How items are asked; limits in tokens. With `agent` they go through the memory agent."""

    max_input_tokens: int
    max_output_tokens: int
    temperature: float
    top_p: float
    samples: int
    seed: int
    agent: AgentConfig | None = None

    def values(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self) | {"agent": None if self.agent is None else self.agent.model_dump()}


@dataclass
class Totals:
    """What a run used. `seconds` is wall time and belongs into no file that is compared."""

    prompt_tokens: int = 0
    response_tokens: int = 0
    calls: int = 0
    errors: int = 0
    replayed_turns: int = 0
    seconds: float = 0.0
    updates: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A prediction with what is no part of it: time, tries, server; and whether the endpoint was at fault."""

    prediction: Prediction
    timing: dict[str, Any]
    outage: bool = False


class Room:
    """Where items are asked: one benchmark, one model, one journal."""

    def __init__(
        self,
        benchmark: str,
        servers: Servers,
        settings: Settings,
        journal: Journal,
        totals: Totals,
        in_blocks: bool = False,
    ) -> None:
        self.benchmark, self.servers, self.settings = benchmark, servers, settings
        self.journal, self.totals, self._in_blocks = journal, totals, in_blocks

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.servers.tokenizer

    def asking(self) -> Asking:
        """Return what a benchmark prepares with: turns of a name of their own, resumable like those of items."""

        def named(name: str) -> Generate:
            seed = seeds.derive(self.settings.seed, "evaluation", self.benchmark, "prepare", name)
            return self._counted(self.journal.wrap(self._generator(self.servers.for_item(), seed), f"prepare/{name}"))

        return named

    def _generator(self, backend: backends.Backend, seed: int) -> Generate:
        return backends.generator(backend, temperature=self.settings.temperature, top_p=self.settings.top_p, seed=seed)

    def _counted(self, generate: Generate) -> Generate:
        async def counting(messages: Messages, max_tokens: int, turn_index: int) -> Turn:
            turn = await generate(messages, max_tokens, turn_index)
            self._add([turn])
            return turn

        return counting

    def _add(self, turns: Sequence[Turn]) -> None:
        self.totals.prompt_tokens += sum(turn.prompt_tokens for turn in turns)
        self.totals.response_tokens += sum(turn.completion_tokens for turn in turns)
        self.totals.calls += len(turns)

    async def ask(self, item: Item, number: int) -> Asked:
        """Return response number `number` (from 0) to an item; a failure of it is a prediction with an error.

        Raises UsageError for settings that no item could be asked with, StorageError when the disk is full.
        """
        settings = self.settings
        name = prediction_id(item.id, number, settings.samples)
        seed = seeds.derive(settings.seed, "evaluation", self.benchmark, item.id, number)
        backend = self.servers.for_item()
        prompts: dict[int, str] = {}
        generate = _noted(self.journal.wrap(self._generator(backend, seed), name), prompts, self.tokenizer)
        error: QwenlongError | None = None
        turns: Sequence[Turn] = ()
        with counted() as usage:
            try:
                turns = await self._turns(item.variant(number), generate)
                if not turns:
                    raise QwenlongError(f"{name}: there was no turn of the model")
            except (UsageError, StorageError):
                raise
            except QwenlongError as failure:
                error = failure
        timing = {
            "id": name,
            "seconds": round(sum(turn.seconds for turn in turns), 3),
            "turns": len(turns),
            "requests": usage.requests,
            "retries": usage.retries,
            "failures": dict(sorted(usage.failures.items())),
            "server": backend.answered,
        }
        if error is not None:
            self.totals.errors += 1
            return Asked(self._failed(name, error), timing, isinstance(error, Unavailable | LostTurns))
        self._add(turns)
        last = turns[-1]
        if len(last.text) > _WIDEST * max(settings.max_output_tokens, 2048):
            _LOG.warning(
                "%s: a response of %d characters, more than %d tokens can hold: the server ignores max_tokens. It is "
                "kept and scored as it is",
                *(name, len(last.text), settings.max_output_tokens),
            )
        prediction = Prediction(
            id=name,
            response=last.text,
            finish_reason=last.finish_reason,
            n_prompt_tokens=sum(turn.prompt_tokens for turn in turns),
            n_response_tokens=sum(turn.completion_tokens for turn in turns),
            model=self.servers.name,
            prompt_digest=_joined(prompts),
        )
        return Asked(prediction, timing)

    def _failed(self, name: str, error: QwenlongError) -> Prediction:
        return Prediction(
            id=name,
            response="",
            finish_reason="error",
            n_prompt_tokens=0,
            n_response_tokens=0,
            model=self.servers.name,
            error=str(error),
        )

    async def _turns(self, item: Item, generate: Generate) -> Sequence[Turn]:
        settings = self.settings
        if isinstance(item, Episode):
            return await item.interact(generate, self.tokenizer, settings.max_input_tokens, settings.max_output_tokens)
        if settings.agent is not None:
            return await self._fold(item, settings.agent, generate)
        if self._in_blocks:
            # All at once, or the first to come would be a batch of its own.
            messages = item.messages(self.tokenizer, settings.max_input_tokens)
        else:
            # A prompt of a million tokens takes a second to count: requests and replies go on meanwhile.
            messages = await asyncio.to_thread(item.messages, self.tokenizer, settings.max_input_tokens)
        return [await generate(messages, settings.max_output_tokens, 0)]

    async def _fold(self, item: Item, sizes: AgentConfig, generate: Generate) -> Sequence[Turn]:
        question, instruction, text = item.problem()
        prompts = Prompts(sizes.prompts, self.tokenizer)
        result = await loop.fold(
            question,
            instruction,
            # Made harmless first: the tokens of a chunk are those that the prompt shows.
            split(prompts.safe(text), self.tokenizer, sizes.chunk_tokens),
            generate,
            tokenizer=self.tokenizer,
            memory_tokens=sizes.memory_tokens,
            answer_tokens=sizes.answer_tokens,
            window=self.servers.window,
            gains=loop.Gains.of(sizes),
            prompts=prompts,
        )
        lost = [step for step in result.steps if step.status == "failed"]
        if lost:
            # A score must not depend on an outage: the item is asked again, finished turns come from the journal.
            raise LostTurns(f"{len(lost)} turns without a reply, the first: {lost[0].error}")
        for step in result.steps:
            if step.chunk is not None:
                self.totals.updates[step.status] = self.totals.updates.get(step.status, 0) + 1
        return [step.turn for step in result.steps]


class LostTurns(QwenlongError):
    """A run of the memory agent some turns of which got no reply."""


def _noted(generate: Generate, prompts: dict[int, str], tokenizer: Tokenizer) -> Generate:
    """Return `generate`, which notes the digest of each prompt under its turn's index."""

    async def noting(messages: Messages, max_tokens: int, turn_index: int) -> Turn:
        prompts[turn_index] = prompt_digest(tokenizer, messages)
        return await generate(messages, max_tokens, turn_index)

    return noting


def prompt_digest(tokenizer: Tokenizer, messages: Messages) -> str:
    """Return the SHA-256 of a prompt as the model's chat template renders it."""
    return hashlib.sha256(tokenizer.render_chat(messages).encode("utf-8", "surrogatepass")).hexdigest()


def _joined(prompts: dict[int, str]) -> str:
    digests = [digest for _, digest in sorted(prompts.items())]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
