"""Asking a model every item of a benchmark, resumable at the item (and, for the memory agent, at the turn)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qwenlong.core import seeds
from qwenlong.core.config import AgentConfig
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.progress import Progress
from qwenlong.core.records import Prediction
from qwenlong.evaluation.interface import Item
from qwenlong.evaluation.scoring import prediction_id
from qwenlong.memory_agent import backends, loop
from qwenlong.memory_agent.backends import Backend
from qwenlong.memory_agent.chunking import split
from qwenlong.memory_agent.journal import Journal
from qwenlong.memory_agent.loop import Generate
from qwenlong.memory_agent.prompting import Prompts


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


def check_window(settings: Settings, window: int | None) -> None:
    """Refuse lengths that the window cannot hold. Raises UsageError naming keys and numbers."""
    needed = settings.max_input_tokens + settings.max_output_tokens
    if settings.agent is None and window is not None and needed > window:
        raise UsageError(
            f"evaluation.max_input_tokens = {settings.max_input_tokens} plus evaluation.max_output_tokens = "
            f"{settings.max_output_tokens} exceed the model's window of {window}; lower one of them"
        )


async def run(
    benchmark: str,
    items: Sequence[Item],
    backend: Backend,
    settings: Settings,
    journal: Journal,
    concurrency: int,
    in_blocks: bool,
) -> tuple[list[Prediction], Totals]:
    """Return a prediction per item and sample, in order, and the totals.

    Each response has a seed of its own, from the run's seed and the names of benchmark, item, sample and turn.
    `in_blocks` asks `concurrency` at a time and waits for all of them, which a model in this process batches best;
    otherwise as many are under way at any time. An item that cannot be asked (too long a question, a silent endpoint)
    becomes a prediction with an error. Raises UsageError when sizes do not fit, QwenlongError when every item failed.
    """
    check_window(settings, backend.window)
    totals = Totals()
    jobs = [(item, number) for item in items for number in range(settings.samples)]
    start = time.monotonic()
    gate = asyncio.Semaphore(concurrency)
    with Progress(benchmark, len(jobs), "item") as progress:

        async def one(item: Item, number: int) -> Prediction:
            async with gate:
                prediction = await _ask(benchmark, item, number, backend, settings, journal, totals)
            progress.advance()
            return prediction

        size = concurrency if in_blocks else max(len(jobs), 1)
        predictions: list[Prediction] = []
        try:
            for first in range(0, len(jobs), size):
                predictions += await asyncio.gather(*(one(item, number) for item, number in jobs[first : first + size]))
        finally:
            await backend.close()
    totals.seconds = round(time.monotonic() - start, 3)
    totals.replayed_turns = journal.replayed
    if jobs and totals.errors == len(jobs):
        raise QwenlongError(f"{benchmark}: no item could be asked; the first says: {predictions[0].error}")
    return predictions, totals


async def _ask(
    benchmark: str, item: Item, number: int, backend: Backend, settings: Settings, journal: Journal, totals: Totals
) -> Prediction:
    name = prediction_id(item.id, number, settings.samples)
    seed = seeds.derive(settings.seed, "evaluation", benchmark, item.id, number)
    asked = backends.generator(backend, temperature=settings.temperature, top_p=settings.top_p, seed=seed)
    generate = journal.wrap(asked, name)
    try:
        if settings.agent is None:
            messages = item.messages(backend.tokenizer, settings.max_input_tokens)
            turns = [await generate(messages, settings.max_output_tokens, 0)]
        else:
            turns = await _fold(item, backend, settings.agent, generate, totals)
    except UsageError:
        raise
    except QwenlongError as error:
        totals.errors += 1
        return Prediction(
            id=name,
            response="",
            finish_reason="error",
            n_prompt_tokens=0,
            n_response_tokens=0,
            model=backend.name,
            error=str(error),
        )
    read, written = sum(turn.prompt_tokens for turn in turns), sum(turn.completion_tokens for turn in turns)
    totals.prompt_tokens += read
    totals.response_tokens += written
    totals.calls += len(turns)
    return Prediction(
        id=name,
        response=turns[-1].text,
        finish_reason=turns[-1].finish_reason,
        n_prompt_tokens=read,
        n_response_tokens=written,
        model=backend.name,
    )


async def _fold(
    item: Item, backend: Backend, sizes: AgentConfig, generate: Generate, totals: Totals
) -> list[loop.Turn]:
    question, instruction, text = item.problem()
    prompts = Prompts(sizes.prompts, backend.tokenizer)
    result = await loop.fold(
        question,
        instruction,
        # Made harmless first: the tokens of a chunk are those that the prompt shows.
        split(prompts.safe(text), backend.tokenizer, sizes.chunk_tokens),
        generate,
        tokenizer=backend.tokenizer,
        memory_tokens=sizes.memory_tokens,
        answer_tokens=sizes.answer_tokens,
        window=backend.window,
        gains=loop.Gains.of(sizes),
        prompts=prompts,
    )
    lost = [step for step in result.steps if step.status == "failed"]
    if lost:
        # A score must not depend on an outage: the item is asked again, and finished turns are read from the journal.
        raise QwenlongError(f"{len(lost)} turns without a reply, the first: {lost[0].error}")
    for step in result.steps:
        if step.chunk is not None:
            totals.updates[step.status] = totals.updates.get(step.status, 0) + 1
    return [step.turn for step in result.steps]
