"""What a benchmark is to the runner and to scoring: items that can be asked, and scored from text alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Generate, Messages, Turn

if TYPE_CHECKING:
    from qwenlong.core.config import EvaluationConfig

#: From a name to a resumable `generate`, whose seed comes from the run's seed, the benchmark and the name.
Asking = Callable[[str], Generate]


@dataclass(frozen=True)
class Ask:
    """What a judge decides about one response: whether `answer` holds against `gold`.

    `criterion` names the judge's template (evaluation/prompts/v1); the thinking is no part of `answer`.
    """

    question: str
    gold: tuple[str, ...]
    answer: str
    criterion: str = "equivalence"


class Item(ABC):
    """One question of a benchmark. `id` is unique in it; scores are first averaged within `group`.

    `slices` names further parts of the benchmark that the item belongs to, such as its length: the headline is
    reported over each of them too, and they take no part in "avg".
    """

    id: str
    group: str
    slices: tuple[str, ...] = ()

    @abstractmethod
    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the full-context prompt of at most `max_tokens` tokens, the question whole.

        Raises DataError when the question alone does not fit.
        """

    def problem(self) -> tuple[str, str, str]:
        """Return question, format instruction and text, for the memory agent."""
        raise NotImplementedError(f"{self.id} has no document to read through the memory agent")

    @abstractmethod
    def score(self, response: str) -> dict[str, float]:
        """Return every rule that needs no judge, in [0, 1], from the whole response, thinking included.

        An unfinished thinking block is never an answer. Never raises for any text.
        """

    def asks(self, response: str) -> Mapping[str, Ask]:
        """Return what a judge is to be asked about the response, by name; empty where no rule needs one."""
        return {}

    def judged(self, values: Mapping[str, float], verdicts: Mapping[str, bool | None]) -> dict[str, float]:
        """Return the rules that need the judge, from those that do not and its verdicts (None: no verdict)."""
        return {}

    def variant(self, sample: int) -> Item:
        """Return the item as its response number `sample` (from 0) is asked it, such as another order of options."""
        return self


class Episode(Item):
    """An item that is more than one call: a conversation with tools."""

    @abstractmethod
    async def interact(
        self, generate: Generate, tokenizer: Tokenizer, max_tokens: int, answer_tokens: int
    ) -> list[Turn]:
        """Return all turns, the last of which holds the response; turn k is asked with `turn_index` k."""


@dataclass(frozen=True)
class Benchmark(ABC):
    """A set of items, and how it is run and reported."""

    name: str
    """On the command line and in results."""
    title: str
    """In tables."""
    rules: tuple[str, ...]
    """Keys of Item.score."""
    headline: str
    """The rule of the paper; what "avg" and the groups report."""
    judge_rules: tuple[str, ...] = ()
    """Keys of Item.judged."""
    fallback: str = ""
    """What is reported instead where `headline` is one of judge_rules and no judge was asked."""
    official: str = ""
    """The rule of the benchmark's authors."""
    groups: tuple[str, ...] = ()
    average: Literal["groups", "items"] = "items"
    """Whether "avg" is the unweighted mean over groups or over items."""
    samples: int = 1
    """Responses an item in the paper."""
    agent: bool = False
    """Whether the paper runs it through the memory agent."""
    source: Source | None = None
    """Where its published file is; none: our own samples."""
    needs_documents: bool = False
    """Whether its items cannot be asked without the second file, `documents`."""

    @abstractmethod
    def load(self, examples: Path, documents: Path | None) -> Sequence[Item]:
        """Read the items from a file of the published schema.

        Raises DataError naming the file, the record and what is wrong with it.
        """

    def configured(self, settings: EvaluationConfig) -> Benchmark:
        """Return the benchmark as the configuration wants it run; most depend on nothing in it."""
        return self

    async def prepare(
        self, items: Sequence[Item], asking: Asking, tokenizer: Tokenizer, max_tokens: int, answer_tokens: int
    ) -> Sequence[Item]:
        """Return the items as they are to be asked, after what has to happen once before any of them.

        Called once a run, before the items are asked or shared out; by default nothing happens. The items keep ids and
        order. What goes wrong for some items must not cost the others: those raise QwenlongError when they are asked.
        """
        return items

    def assumptions(self) -> tuple[str, ...]:
        """Return what a result rests on that the paper does not say, a sentence each; a run states them."""
        return ()
