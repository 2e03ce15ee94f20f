"""A small benchmark with a judge: the capital of a country, by whole words, else by the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Ask, Benchmark, Item
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import final_answer
from qwenlong.rewards.rules import covers


class Record(Published):
    """One line of the file."""

    id: str
    country: str
    capital: str
    continent: str = "Europe"
    size: str = "large"


@dataclass(frozen=True)
class Capital(Item):
    """One question."""

    record: Record

    @property
    def id(self) -> str:  # type: ignore[override]
        return self.record.id

    @property
    def group(self) -> str:  # type: ignore[override]
        return self.record.continent

    @property
    def slices(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.record.size,)

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        return [{"role": "user", "content": f"What is the capital of {self.record.country}?"}]

    def score(self, response: str) -> dict[str, float]:
        answer = final_answer(response)
        return {"official": float(answer is not None and covers(answer, self.record.capital))}

    def asks(self, response: str) -> Mapping[str, Ask]:
        answer = final_answer(response)
        if answer is None or covers(answer, self.record.capital):
            return {}
        return {"judge": Ask(f"Capital of {self.record.country}?", (self.record.capital,), answer)}

    def judged(self, values: Mapping[str, float], verdicts: Mapping[str, bool | None]) -> dict[str, float]:
        judge = float(bool(verdicts.get("judge")))
        return {"judge": judge, "paper": max(values["official"], judge)}


@dataclass(frozen=True)
class Capitals(Benchmark):
    """The benchmark."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[Capital]:
        return distinct([Capital(record) for record in read_records(examples, Record)], examples)


CAPITALS = Capitals(
    "capitals", "Capitals", ("official",), "paper", ("judge", "paper"), "official", "official", ("Europe", "Asia")
)
