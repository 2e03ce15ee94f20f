"""What the server does with a request: straight to the model where it fits the window, else through the agent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qwenlong.core import seeds
from qwenlong.core.config import AgentConfig
from qwenlong.core.errors import UsageError
from qwenlong.memory_agent import asked, documents, loop
from qwenlong.memory_agent.answering import Agent, Patience, summary
from qwenlong.memory_agent.backends import Backend
from qwenlong.memory_agent.budget import SLACK_TOKENS
from qwenlong.memory_agent.chat_request import ChatRequest, cut_at_stops, refuse
from qwenlong.memory_agent.chunks import Chunks
from qwenlong.memory_agent.fitting import fitted
from qwenlong.memory_agent.parsing import thinking
from qwenlong.memory_agent.prompting import Prompts

#: Characters per token above which a chat is long without being counted: reading all of it would be for nothing.
SURELY_LONG = 64
#: Characters that are cut between two looks whether the client is still there.
_PIECE = 2**18


@dataclass(frozen=True)
class Sampling:
    """What holds where a request does not say."""

    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 17


@dataclass(frozen=True)
class Reply:
    """One finished reply: texts of the choices with their finish reasons, tokens spent, and how it came about.

    `about` is the response's `qwenlong` object, without the steps; `steps` are listed on request only.
    """

    choices: tuple[tuple[str, str, str], ...]
    """Text, reasoning, finish reason."""
    prompt_tokens: int
    completion_tokens: int
    about: dict[str, Any]
    steps: list[dict[str, object]] = field(default_factory=list)


class Service:
    """A model with its window, and the agent's settings.

    The sizes in `config` are upper limits: where window and question leave less room, they shrink in proportion.
    Raises UsageError when the window is too small for any reading.
    """

    def __init__(self, backend: Backend, config: AgentConfig, window: int, sampling: Sampling | None = None) -> None:
        self.backend, self.config, self.window = backend, config, window
        self.sampling = sampling or Sampling()
        #: Most tokens of a question.
        self.question_tokens = window // asked.QUESTION_SHARE
        self.prompts = Prompts(config.prompts, backend.tokenizer)
        fitted(config, "", self.prompts, backend.tokenizer, window)

    async def room(self, request: ChatRequest) -> int | None:
        """Return how many tokens the reply may have in one pass, none when the chat does not fit.

        It fits when prompt and reply do; of a reply's limit, no more is asked to fit than the agent's own answer has.
        """
        if request.qwenlong is not None:
            return None
        chat = request.chat()
        if sum(len(message["content"]) for message in chat) > SURELY_LONG * self.window:
            return None
        prompt = await asyncio.to_thread(self.backend.tokenizer.count_chat, chat)
        extra = request.model_extra or {}
        if extra.get("tools"):
            prompt += await asyncio.to_thread(self.backend.tokenizer.count, str(extra["tools"]))
        left = self.window - prompt - SLACK_TOKENS
        wanted = min(request.limit or self.config.answer_tokens, self.config.answer_tokens)
        return left if left >= min(wanted, self.window // 4) else None

    async def direct(self, request: ChatRequest, room: int) -> Reply:
        """Answer in one pass on a model of this process."""
        request.refuse_others("is not known to a model directory", several=True)
        limit = min(request.limit or room, room)

        async def one(number: int) -> loop.Turn:
            chosen = self._chosen(request)
            seed = seeds.derive(chosen.seed, "choice", number) if number else chosen.seed
            return await self.backend.complete(
                request.chat(), max_tokens=limit, temperature=chosen.temperature, top_p=chosen.top_p, seed=seed
            )

        turns = await asyncio.gather(*(one(number) for number in range(request.n or 1)))
        choices = []
        for turn in turns:
            thought, closed, text = turn.text.rpartition("</think>")
            if not closed and "<think>" in text:
                text = ""
            shown, stopped = cut_at_stops(text.strip() if thought else text, request.stops)
            choices.append((shown, thinking(turn.text), "stop" if stopped else turn.finish_reason))
        steps: list[dict[str, object]] = [
            {
                "index": number,
                "kind": "direct",
                "status": "ok" if shown else "empty",
                "finish_reason": turn.finish_reason,
                "prompt_tokens": turn.prompt_tokens,
                "completion_tokens": turn.completion_tokens,
            }
            for number, (turn, (shown, _, _)) in enumerate(zip(turns, choices, strict=True))
        ]
        completion = sum(turn.completion_tokens for turn in turns)
        return Reply(tuple(choices), turns[0].prompt_tokens, completion, {"mode": "direct"}, steps)

    async def read(self, request: ChatRequest, on_step: Callable[[loop.Step, int], None]) -> Reply:
        """Answer through the agent; `on_step` hears of each step and of how many chunks there are.

        Raises Refusal for parameters that a read document cannot honour, and for chats without a question.
        """
        request.refuse_others("cannot be honoured for a document that is longer than the window")
        tokenizer = self.backend.tokenizer
        explicit = request.qwenlong
        try:
            found = await asyncio.to_thread(
                asked.find,
                request.chat(),
                tokenizer.count,
                self.question_tokens,
                document=explicit.document if explicit else None,
                question=explicit.question if explicit else None,
            )
            sizes = await asyncio.to_thread(fitted, self.config, found.question, self.prompts, tokenizer, self.window)
        except UsageError as error:
            refuse("messages", f"messages: {error}")
        if request.limit is not None:
            sizes = sizes.model_copy(update={"answer_tokens": min(request.limit, sizes.answer_tokens)})
        chosen = self._chosen(request)
        agent = Agent(self.backend, sizes, chosen.temperature, chosen.top_p, chosen.seed, self.window)
        generate = Patience().wrap(agent.generate())
        with await _cut(agent, found.document) as chunks:
            result = await agent.ask(found.question, None, chunks, generate, lambda step: on_step(step, len(chunks)))
        answer, stopped = cut_at_stops(result.answer, request.stops)
        about = {
            "mode": "agent",
            "rule": found.rule,
            "chunks": result.chunks(),
            "clean": result.clean,
            "chunk_tokens": sizes.chunk_tokens,
            "memory_tokens": sizes.memory_tokens,
        }
        reason = "stop" if stopped else result.steps[-1].turn.finish_reason
        reason = "content_filter" if reason == "refusal" else reason
        whole = summary(result)
        about["calls"] = whole["calls"]
        return Reply(((answer, "", reason),), whole["prompt_tokens"], whole["completion_tokens"], about, whole["steps"])

    def _chosen(self, request: ChatRequest) -> Sampling:
        own = self.sampling
        return Sampling(
            own.temperature if request.temperature is None else request.temperature,
            own.top_p if request.top_p is None else request.top_p,
            own.seed if request.seed is None else request.seed % 2**63,
        )


async def _cut(agent: Agent, text: str) -> Chunks:
    """Return the chunks of a text, cut in a thread that ends when nobody waits for it any more."""
    left = threading.Event()

    def pieces() -> Iterator[str]:
        for start in range(0, len(text), _PIECE):
            if left.is_set():
                return
            yield text[start : start + _PIECE]

    def cut() -> Chunks:
        safe = documents.made_safe(pieces(), agent.prompts.safe)
        return Chunks.cut(safe, agent.backend.tokenizer, agent.config.chunk_tokens)

    try:
        return await asyncio.to_thread(cut)
    except asyncio.CancelledError:
        left.set()
        raise
