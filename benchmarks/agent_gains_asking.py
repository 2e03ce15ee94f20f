"""Asking the memory agent the questions of many documents, through any backend."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import agent_items
from agent_gains_tables import SEED

from qwenlong.core import templates
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import backends, chunking, loop
from qwenlong.memory_agent.gains import Gains


class Sections(list[str]):
    """Chunks of a document with the tokens of each, which the loop then need not count for every question."""

    tokens: list[int]


def sections(document: agent_items.Document, tokenizer: Tokenizer, chunk: int) -> Sections:
    """Return a document's chunks."""
    cut = Sections(chunking.split(document.text, tokenizer, chunk))
    cut.tokens = tokenizer.count_batch(cut)
    return cut


async def answer_all(
    backend: backends.Backend,
    gains: Mapping[str, Any],
    documents: Sequence[agent_items.Document],
    chunks: Mapping[str, Sequence[str]],
    at_once: int,
    sizes: tuple[int, int, int],
) -> tuple[dict[str, dict[str, float]], dict[str, int], float]:
    """Ask all questions of documents in order, `at_once` at a time.

    Returns item → right by kind, chunks by what became of them, and the seconds of the event loop's clock.
    """
    generate = backends.generator(backend, temperature=0.0, top_p=1.0, seed=SEED)
    slots = asyncio.Semaphore(at_once)
    right: dict[str, dict[str, float]] = {kind: {} for kind in agent_items.KINDS}
    counts: dict[str, int] = {}

    async def one(document: agent_items.Document, question: agent_items.Question) -> None:
        async with slots:
            result = await loop.fold(
                question.text,
                templates.ANSWER_INSTRUCTION,
                chunks[document.id],
                generate,
                tokenizer=backend.tokenizer,
                memory_tokens=sizes[0],
                answer_tokens=sizes[1],
                window=sizes[2],
                gains=Gains(**gains),
            )
        right[question.kind][question.id] = float(scored(result.answer, question.answer))
        for name, count in result.chunks().items():
            counts[name] = counts.get(name, 0) + count

    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(one(d, q) for d in documents for q in d.questions))
    seconds = asyncio.get_running_loop().time() - began
    await backend.close()
    return right, counts, seconds


def scored(said: str, answer: str) -> bool:
    """Tell whether the answer in brackets is the right one, to the letter."""
    found = re.findall(r"the answer is \(([^()]*)\)", said)
    return bool(found) and found[-1].strip().lower() == answer
