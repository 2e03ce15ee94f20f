"""Our own held-out samples of the five tasks: full context (`heldout`), and beyond the window (`heldout_long`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwenlong.core import templates
from qwenlong.core.files import read_parquet
from qwenlong.core.records import TASKS, Document, Sample
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards import rules


@dataclass(frozen=True)
class HeldoutItem(Item):
    """One sample with the documents that it names (empty when only scores are wanted)."""

    sample: Sample
    corpus: Mapping[str, Document] = field(repr=False)

    @property
    def id(self) -> str:  # type: ignore[override]
        """Id of the sample."""
        return self.sample.id

    @property
    def group(self) -> str:  # type: ignore[override]
        """Task of the sample: scores are averaged within it first."""
        return self.sample.task

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the full-context prompt, its middle cut above `max_tokens`. Raises DataError when nothing fits."""
        return templates.messages(self.sample, self.corpus, tokenizer, max_tokens)

    def problem(self) -> tuple[str, str, str]:
        """Return question, format instruction and the whole text, for the memory agent."""
        documents = templates.select_documents(self.sample, self.corpus)
        return templates.full_question(self.sample), self.sample.instruction, templates.render_documents(documents)

    def score(self, response: str) -> dict[str, float]:
        """Return the reward rule's value in [0, 1]; unfinished thinking is never an answer."""
        sample = self.sample
        return {"reward": rules.score(sample.task, response, sample.answers, answer_prefix=sample.answer_prefix)}


@dataclass(frozen=True)
class Heldout(Benchmark):
    """The benchmark over samples that this project made."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[HeldoutItem]:
        """Read Sample and Document Parquet. Raises DataError naming a file, row or missing document."""
        corpus = {} if documents is None else {d.id: d for d in read_parquet(documents, Document)}
        items = [HeldoutItem(sample, corpus) for sample in read_parquet(examples, Sample)]
        if documents is not None:
            for item in items:
                templates.select_documents(item.sample, corpus)
        return items


def _heldout(name: str, title: str, agent: bool) -> Heldout:
    rules = ("reward",)
    return Heldout(
        name,
        title,
        rules,
        "reward",
        official="reward",
        groups=TASKS,
        average="groups",
        agent=agent,
        needs_documents=True,
    )


BENCHMARKS = (_heldout("heldout", "Held-out samples", False), _heldout("heldout_long", "Beyond the window", True))
