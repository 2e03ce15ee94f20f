"""The benchmarks by name. A new one is a file with this small interface and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.heldout import Heldout
from qwenlong.memory_agent.loop import Messages


class Item(Protocol):
    """One question of a benchmark."""

    @property
    def id(self) -> str:
        """Unique name."""
        ...

    @property
    def group(self) -> str:
        """Task or subset within which scores are averaged first."""
        ...

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the full-context prompt of at most `max_tokens` tokens."""
        ...

    def problem(self) -> tuple[str, str, str]:
        """Return question, format instruction and text, for the memory agent."""
        ...

    def score(self, response: str) -> float:
        """Return the score of a response, thinking included, in [0, 1]."""
        ...


class Benchmark(Protocol):
    """A set of items with the way it is run."""

    @property
    def name(self) -> str:
        """Name on the command line and in results."""
        ...

    @property
    def agent(self) -> bool:
        """Whether it is run through the memory agent."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that "avg" is the unweighted mean of."""
        ...

    def load(self, examples: Path, documents: Path | None) -> Sequence[Item]:
        """Read the items; without `documents` they can be scored but not asked."""
        ...


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (Heldout("heldout", agent=False), Heldout("heldout_long", agent=True))
}


def find(name: str) -> Benchmark:
    """Return a benchmark. Raises UsageError naming the known ones."""
    if name not in BENCHMARKS:
        raise UsageError(f"no benchmark {name!r}; there are {', '.join(sorted(BENCHMARKS))}")
    return BENCHMARKS[name]
