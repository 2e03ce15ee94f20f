"""A small benchmark of the published kind, for the runner: questions on a text, an answer each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation import prompting, reading
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Messages


class Record(reading.Published):
    """One question."""

    id: str
    question: str
    answer: str
    text: str = ""


@dataclass(frozen=True)
class QuizItem(Item):
    """One question; the answer must stand in the response."""

    record: Record
    sample: int = 0

    @property
    def id(self) -> str:  # type: ignore[override]
        """The record's."""
        return self.record.id

    @property
    def group(self) -> str:  # type: ignore[override]
        """All one group."""
        return "all"

    def variant(self, sample: int) -> QuizItem:
        """Say in the prompt which response this is."""
        return QuizItem(self.record, sample)

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return text and question."""

        def build(text: str) -> Messages:
            return [{"role": "user", "content": f"{text}\nTake {self.sample}. <<{self.id}>> {self.record.question}"}]

        return prompting.fit(self.id, self.record.text, build, tokenizer, max_tokens)

    def score(self, response: str) -> dict[str, float]:
        """Return 1 where the answer stands in the response."""
        return {"accuracy": float(self.record.answer in response)}


@dataclass(frozen=True)
class Quiz(Benchmark):
    """The benchmark."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[QuizItem]:
        """Read the records."""
        return reading.distinct([QuizItem(record) for record in reading.read_records(examples, Record)], examples)


def quiz(source: Source | None = None, samples: int = 1) -> Quiz:
    """Return the benchmark, by default with a source that names a file."""
    source = source or Source("owner/items", ("data/items.jsonl",), obtain="Ask its authors")
    return Quiz("quiz", "Quiz", ("accuracy",), "accuracy", official="accuracy", samples=samples, source=source)


def lines(count: int, first: int = 0) -> bytes:
    """Return so many records as JSON lines."""
    rows = [
        {"id": f"q{n}", "question": f"What is {n} and 1?", "answer": str(n + 1)} for n in range(first, first + count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def configuration(folder: Path, **evaluation: Any) -> Path:
    """Write a configuration with its results under a folder, tracking off."""
    values = {
        "run": {"results": str(folder / "results")},
        "tracking": {"enabled": False},
        "evaluation": {"max_input_tokens": 300, "max_output_tokens": 12} | evaluation,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder / "config.yaml"


def right(body: dict[str, Any]) -> str:
    """Answer a request: the sum that is asked for, with the seed."""
    n = int(body["messages"][-1]["content"].partition("What is ")[2].partition(" ")[0])
    return f"It is {n + 1}. ({body['seed']})"
