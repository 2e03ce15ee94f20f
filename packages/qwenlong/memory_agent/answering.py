"""One question over one document, from settings to result: what `agent answer` and `agent batch` share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qwenlong.core import templates
from qwenlong.memory_agent import loop
from qwenlong.memory_agent.backends import Backend
from qwenlong.memory_agent.loop import Generate, Result, Step


def settings_of(chunk: int | None, memory: int | None, answer: int | None) -> dict[str, Any]:
    """Return the agent's settings, with the sizes that are given. Raises UsageError for those that are none."""
    from qwenlong.core.config import AgentConfig

    given = {"chunk_tokens": chunk, "memory_tokens": memory, "answer_tokens": answer}
    return AgentConfig(**{name: value for name, value in given.items() if value is not None}).model_dump()


def belongs_to(
    question: str, instruction: str | None, document: str, backend: Backend, weights: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a journal of the question's turns belongs to; `document` is a digest.

    `weights` is the digest of a local model, "" behind an endpoint. The address is no part of it: a server that comes
    back elsewhere is the same model.
    """
    return {
        "question": question,
        "format": instruction,
        "document": document,
        "model": backend.name,
        "weights": weights,
        "tokenizer": backend.tokenizer.digest,
        "settings": dict(settings),
        "prompts": templates.digest(),
    }


async def ask(
    question: str,
    instruction: str | None,
    sections: Sequence[str],
    backend: Backend,
    generate: Generate,
    settings: Mapping[str, Any],
    *,
    window: int | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Result:
    """Fold the sections and answer. Without an `instruction` the question is a request, which one call splits."""
    return await loop.fold(
        question,
        instruction or "",
        sections,
        generate,
        tokenizer=backend.tokenizer,
        memory_tokens=settings["memory_tokens"],
        answer_tokens=settings["answer_tokens"],
        window=window,
        split_request=instruction is None,
        on_step=on_step,
    )


def lasting(result: Result) -> bool:
    """Tell whether asking again would change nothing: no section was lost to an endpoint that gave up."""
    return all(step.turn.finish_reason != "error" for step in result.steps)


def summary(result: Result) -> dict[str, Any]:
    """Return a result as `agent answer --json` prints it."""
    return {
        "answer": result.answer,
        "memory": result.memory,
        "clean": result.chunks()["failed"] == 0,
        "chunks": result.chunks(),
        **_used(result.steps),
    }


def unfinished(steps: Sequence[Step], sections: int) -> dict[str, Any]:
    """Return what is known of a run that failed, in the same form; sections that were never read count as failed."""
    counts = Result("", "", "", tuple(steps)).chunks()
    lost = sections - counts["read"] - counts["skipped"]
    memory = steps[-1].memory if steps else ""
    chunks = counts | {"total": sections, "failed": lost}
    return {"answer": "", "memory": memory, "clean": False, "chunks": chunks, **_used(steps)}


def _used(steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "calls": len(steps),
        "prompt_tokens": sum(step.turn.prompt_tokens for step in steps),
        "completion_tokens": sum(step.turn.completion_tokens for step in steps),
        "steps": [step.summary() for step in steps],
    }


def line(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of the output."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
