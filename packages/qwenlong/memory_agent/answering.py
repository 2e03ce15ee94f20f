"""One question over one document, from settings to result: what `agent answer` and `agent batch` share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qwenlong.core.config import AgentConfig
from qwenlong.core.errors import QwenlongError
from qwenlong.core.llm import Unavailable
from qwenlong.memory_agent import documents, loop
from qwenlong.memory_agent.backends import Backend, generator
from qwenlong.memory_agent.chunks import Chunks
from qwenlong.memory_agent.loop import Gains, Generate, Messages, Result, Step, Turn
from qwenlong.memory_agent.prompting import Prompts

#: Requests in a row that the endpoint gave up on, each after all its tries, until it counts as down.
PATIENCE = 8


class EndpointDown(QwenlongError):
    """An endpoint that gave up on one request after the other: going on would only lose the rest of the document."""


@dataclass(frozen=True)
class Agent:
    """A model and the settings of a run, which all its questions share.

    `weights` is the digest of a local model, "" behind an endpoint; `window` in tokens, none where it is not known.
    """

    backend: Backend
    config: AgentConfig
    temperature: float
    top_p: float
    seed: int
    window: int | None = None
    weights: str = ""

    @cached_property
    def prompts(self) -> Prompts:
        """The templates, filled for this model's tokenizer."""
        return Prompts(self.config.prompts, self.backend.tokenizer)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides a result beside question, document and model; templates by their digest."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        return self.config.model_dump() | sampling | {"prompts": self.prompts.digest}

    def belongs_to(self, question: str, instruction: str | None, document: str) -> dict[str, Any]:
        """Return what a journal of the question's turns belongs to; `document` is a digest.

        The address is no part of it: a server that comes back elsewhere is the same model.
        """
        return {
            "question": question,
            "format": instruction,
            "document": document,
            "model": self.backend.name,
            "weights": self.weights,
            "tokenizer": self.backend.tokenizer.digest,
            "settings": self.settings,
        }

    def sections(self, paths: Sequence[Path]) -> Chunks:
        """Return documents in chunks, on disk until they are closed. Raises DataError naming a bad document."""
        made, _ = documents.chunks(paths, self.backend.tokenizer, self.config.chunk_tokens, self.prompts.safe)
        return made

    def sections_of(self, text: str) -> Chunks:
        """Return a text in chunks."""
        safe = documents.made_safe([text], self.prompts.safe)
        return Chunks.cut(safe, self.backend.tokenizer, self.config.chunk_tokens)

    def generate(self) -> Generate:
        """Return the model as the loop asks it."""
        return generator(self.backend, temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    async def ask(
        self,
        question: str,
        instruction: str | None,
        sections: Sequence[str],
        generate: Generate,
        on_step: Callable[[Step], None] | None = None,
    ) -> Result:
        """Fold the sections and answer. Without an `instruction` the question is a request, which one call splits."""
        return await loop.fold(
            question,
            instruction or "",
            sections,
            generate,
            tokenizer=self.backend.tokenizer,
            memory_tokens=self.config.memory_tokens,
            answer_tokens=self.config.answer_tokens,
            window=self.window,
            split_request=instruction is None,
            gains=Gains.of(self.config),
            prompts=self.prompts,
            on_step=on_step,
        )


class Patience:
    """Counts requests in a row that came to nothing, over all questions that share it."""

    def __init__(self, limit: int = PATIENCE) -> None:
        self.limit, self.lost = limit, 0

    def wrap(self, generate: Generate) -> Generate:
        """Return `generate` that raises EndpointDown where the last `limit` requests came to nothing."""

        async def patient(messages: Messages, max_tokens: int, turn_index: int) -> Turn:
            try:
                turn = await generate(messages, max_tokens, turn_index)
            except Unavailable as error:
                self.lost += 1
                if self.lost >= self.limit:
                    raise EndpointDown(
                        f"the endpoint gave up on {self.lost} requests in a row: {error}; with --journal the same "
                        "command goes on where this one stopped"
                    ) from error
                raise
            self.lost = 0
            return turn

        return patient


def lasting(result: Result) -> bool:
    """Tell whether asking again would change nothing: nothing was lost to an endpoint that gave up."""
    return all(step.status != "failed" for step in result.steps)


def shortcoming(result: Result) -> str:
    """Return why a result is not clean, for people."""
    counts = result.chunks()
    if counts["failed"]:
        return f"{counts['failed']} of {counts['total']} sections left no trace in the memory"
    if not result.answer:
        return "there is no answer"
    return "the answer, or a memory that others were merged into, was cut off or lost"


def summary(result: Result) -> dict[str, Any]:
    """Return a result as `agent answer --json` prints it."""
    return {
        "answer": result.answer,
        "memory": result.memory,
        "clean": result.clean,
        "chunks": result.chunks(),
        **_used(result.steps),
    }


def unfinished(steps: Sequence[Step], sections: int) -> dict[str, Any]:
    """Return what is known of a run that broke off, in the same form; what it never came to counts as unread."""
    chunks = Result("", "", "", tuple(steps), sections).chunks()
    memory = steps[-1].memory if steps else ""
    return {"answer": "", "memory": memory, "clean": False, "chunks": chunks, **_used(steps)}


def _used(steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "calls": len(steps),
        "prompt_tokens": sum(step.turn.prompt_tokens for step in steps),
        "completion_tokens": sum(step.turn.completion_tokens for step in steps),
        "steps": [step.summary() for step in steps],
    }


def line(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of an output."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
