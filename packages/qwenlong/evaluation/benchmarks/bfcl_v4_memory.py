"""BFCL-V4's memory category (gorilla, Apache-2.0): questions about earlier conversations, from a memory with tools.

The earlier conversations of a scenario are held first, in order, with the model under test, which decides what it
stores; each question is then asked in a conversation of its own, with the memory as it was left. Three memories make
three benchmarks; "Memory-Sum" in the paper's tables is the plain mean of the three. Conversations are held by the
project's own loop, or by the official harness where `evaluation.bfcl_environment` names its environment.
Rule `official` is that of the authors, which pays for reciting the whole memory; `bounded`, the headline, is the same
for a last message of at most 1,000 characters: see `bfcl.rule`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qwenlong.core.config import EvaluationConfig
from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.llm import LLMError, Unavailable
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.bfcl import dialogue, official, records, rule
from qwenlong.evaluation.bfcl.dialogue import Setting
from qwenlong.evaluation.bfcl.key_value import KeyValue
from qwenlong.evaluation.bfcl.official import Played
from qwenlong.evaluation.bfcl.records import Question
from qwenlong.evaluation.bfcl.store import Store
from qwenlong.evaluation.bfcl.summary import Summary
from qwenlong.evaluation.bfcl.vector import Vector
from qwenlong.evaluation.interface import Asking, Benchmark, Episode, Item
from qwenlong.evaluation.reading import distinct
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Generate, Messages, Turn

MEMORIES: Mapping[str, Callable[[], Store]] = MappingProxyType({"kv": KeyValue, "vector": Vector, "rec_sum": Summary})
SCENARIOS = ("customer", "finance", "healthcare", "notetaker", "student")


@dataclass(frozen=True)
class MemoryItem(Episode):
    """A question with its golds.

    `state` is the memory that earlier conversations left, or `turns` what the official harness made of the question;
    `lost` is why there is neither.
    """

    question: Question
    golds: tuple[str, ...]
    memory: str
    folder: Path = field(repr=False)
    state: Mapping[str, Any] | None = field(default=None, repr=False)
    turns: tuple[Turn, ...] = field(default=(), repr=False)
    lost: DataError | LLMError | None = None

    @property
    def id(self) -> str:  # type: ignore[override]
        """Id of the record."""
        return self.question.id

    @property
    def group(self) -> str:  # type: ignore[override]
        """The scenario."""
        return self.question.scenario

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Raises DataError: the question cannot be answered from one prompt."""
        raise DataError(f"{self.id} is a conversation with tools and has no prompt of its own; ask it as an episode")

    async def interact(
        self, generate: Generate, tokenizer: Tokenizer, max_tokens: int, answer_tokens: int
    ) -> list[Turn]:
        """Return the turns of the question's conversation, which starts from the memory and leaves it as it was.

        Raises Unavailable when the endpoint failed then or now, QwenlongError when the earlier conversations ended in
        another way, DataError when they were not held.
        """
        if self.lost is not None:
            kind = Unavailable if isinstance(self.lost, Unavailable) else QwenlongError
            raise kind(f"{self.id}: this or an earlier conversation failed: {self.lost}")
        if self.turns:
            return list(self.turns)
        if self.state is None:
            raise DataError(f"{self.id}: the earlier conversations of {self.group!r} were not held; prepare first")
        store = MEMORIES[self.memory]()
        store.load(self.state)
        tools = records.read_tools(self.folder, self.memory)
        setting = Setting(self.id, tools, tokenizer, max_tokens, answer_tokens)
        prompt = dialogue.system(self.group, self.memory, store, tools, question=True)
        return await dialogue.converse(self.question.turns(), prompt, store, generate, setting)

    def variant(self, sample: int) -> MemoryItem:
        """Return the item. Raises UsageError for a second response where the official harness gave the one it gives."""
        if sample and (self.turns or self.lost):
            raise UsageError("the official harness of BFCL gives one response; set evaluation.samples = 1")
        return self

    def score(self, response: str) -> dict[str, float]:
        """Return the official rule's value, 1 or 0, and the same for messages of an answer's length."""
        return rule.score(response, self.golds)


@dataclass(frozen=True)
class Memory(Benchmark):
    """One of the three memories."""

    memory: str = ""
    """Kind of the memory, as in the published file names."""
    environment: Path | None = None
    """That of the official harness; none: the project's own loop."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[MemoryItem]:
        """Read the questions with their golds; `documents` is the folder with the other files (default: the file's).

        Raises DataError naming a file, a record, a question without a gold.
        """
        folder = documents if documents is not None else examples.parent
        found = records.read_questions(examples, folder)
        return distinct([MemoryItem(question, golds, self.memory, folder) for question, golds in found], examples)

    def assumptions(self) -> tuple[str, ...]:
        """Return which prompts and memories a result comes from, which the paper leaves open."""
        if self.environment is not None:
            return ("the official harness in prompted mode, with the sampling of the other benchmarks",)
        similar = "; similarities by core.embeddings, not by a sentence transformer" if self.memory == "vector" else ""
        return (f"the project's own prompts and loop, not those of the official harness{similar}",)

    def configured(self, settings: EvaluationConfig) -> Memory:
        """Return the benchmark with the harness that is wanted. Raises UsageError where it is not."""
        if not settings.bfcl_environment:
            return self
        environment = Path(settings.bfcl_environment)
        official.interpreter(environment)
        return replace(self, environment=environment)

    async def prepare(
        self, items: Sequence[Item], asking: Asking, tokenizer: Tokenizer, max_tokens: int, answer_tokens: int
    ) -> Sequence[Item]:
        """Hold the earlier conversations of the items' scenarios, and return the items with what is remembered.

        Scenarios go side by side, the conversations of one in order. Questions whose scenario failed say so when they
        are asked. The official harness holds the questions' conversations too, from the records of its own package.
        Raises DataError for files that are missing or wrong, and any error that is not of one scenario.
        """
        mine = [item for item in items if isinstance(item, MemoryItem)]
        if self.environment is not None:
            limits = max_tokens, answer_tokens
            ids = [item.id for item in mine]
            played = await official.play(self.environment, self.memory, ids, asking, tokenizer, *limits)
            return [_played(item, played) for item in mine]
        folders = {item.group: item.folder for item in mine}
        plans = {name: records.read_conversations(folder, name) for name, folder in sorted(folders.items())}
        documents = {name: records.read_tools(folder, self.memory) for name, folder in folders.items()}

        async def hold(scenario: str) -> dict[str, Any]:
            store = MEMORIES[self.memory]()
            tools = documents[scenario]
            for conversation in plans[scenario]:
                prompt = dialogue.system(scenario, self.memory, store, tools, question=False)
                setting = Setting(conversation.id, tools, tokenizer, max_tokens, answer_tokens)
                generate = asking(f"earlier/{conversation.id}")
                await dialogue.converse(conversation.turns(), prompt, store, generate, setting)
            return store.state()

        ends = await asyncio.gather(*map(hold, plans), return_exceptions=True)
        known: dict[str, dict[str, Any]] = {}
        for scenario, end in zip(plans, ends, strict=True):
            if isinstance(end, DataError | LLMError):
                known[scenario] = {"lost": end}
            elif isinstance(end, BaseException):
                raise end
            else:
                known[scenario] = {"state": end}
        return [replace(item, **known[item.group]) for item in mine]


def _played(item: MemoryItem, played: Mapping[str, Played]) -> MemoryItem:
    """Return the item with its turns, or with the error of its conversation or of an earlier one."""
    mine = official.official_id(item.id, item.memory)
    earlier = [name for name in played if "_prereq_" in name and name.split("-")[1] == item.group]
    errors = [one.error for name in (*earlier, mine) if (one := played.get(name)) is not None and one.error is not None]
    if errors:
        return replace(item, lost=errors[0])
    if mine not in played or not played[mine].turns:
        return replace(item, lost=DataError("the official harness never asked it"))
    return replace(item, turns=tuple(played[mine].turns))


_SOURCE = Source(
    hub="gorilla-llm/Berkeley-Function-Calling-Leaderboard",
    obtain=(
        "version 4 lies in the package bfcl-eval on PyPI: `pip download --no-deps bfcl-eval==2026.3.23`, unpack it, "
        "and give bfcl_eval/data/BFCL_v4_memory.json"
    ),
    licence="Apache-2.0",
    records=155,
)


def _memory(memory: str, title: str) -> Memory:
    return Memory(
        f"bfcl_v4_memory_{memory}",
        title,
        ("bounded", "official"),
        "bounded",
        official="official",
        groups=SCENARIOS,
        source=_SOURCE,
        memory=memory,
    )


BENCHMARKS = (
    _memory("kv", "BFCL-V4 Memory-KV"),
    _memory("vector", "BFCL-V4 Memory-Vector"),
    _memory("rec_sum", "BFCL-V4 Memory-RecSum"),
)
