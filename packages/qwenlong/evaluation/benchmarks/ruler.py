"""RULER: needles, variables, counted words and questions at growing lengths; items from `qwenlong evaluate ruler`.

Rule `official`: the share of the outputs that stand anywhere in the response, in any case; for questions (qa_1, qa_2)
1 when any of them does. Only what follows the thinking counts. A response that copies the whole text scores 1: RULER's
only guard is that it generates few tokens. Rule `bounded`, the headline, is that guard where more may be generated:
the official rule on the first 8 characters for each token that RULER generates for the task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qwenlong.core.errors import DataError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.prompting import fit
from qwenlong.evaluation.reading import distinct, read_records
from qwenlong.evaluation.ruler.suite import TASKS, RulerRecord
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking

#: Tasks where one of the outputs is enough.
ANY = ("qa_1", "qa_2")
#: Tokens that RULER generates, by the first part of a task's name.
GENERATED = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
#: Characters a token that `bounded` reads.
CHARACTERS = 8
_CONTROL = re.compile(r"[\x00-\x1f]")


@dataclass(frozen=True)
class RulerItem(Item):
    """One item; `group` is its task, `slices` its length and the depth of a single needle."""

    id: str
    group: str
    record: RulerRecord = field(repr=False)
    slices: tuple[str, ...] = ()

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the prompt; above `max_tokens` the middle of its context is cut. Raises DataError as `fit` does."""
        start, stop = self.record.context
        before, context, after = self.record.input[:start], self.record.input[start:stop], self.record.input[stop:]
        return fit(
            f"ruler {self.id}",
            context,
            lambda text: [{"role": "user", "content": before + text + after}],
            tokenizer,
            max_tokens,
        )

    def problem(self) -> tuple[str, str, str]:
        """Return question, format instruction and context, for the memory agent."""
        start, stop = self.record.context
        return self.record.question, self.record.instruction, self.record.input[start:stop]

    def score(self, response: str) -> dict[str, float]:
        """Return the share of outputs that the response holds, and that its first characters hold."""
        text = _CONTROL.sub("\n", after_thinking(response) or "")
        limit = CHARACTERS * GENERATED[self.record.task.partition("_")[0]]
        return {"official": self._share(text), "bounded": self._share(text[:limit])}

    def _share(self, text: str) -> float:
        text = text.lower()
        found = [output.lower() in text for output in self.record.outputs]
        return float(any(found)) if self.record.task in ANY else sum(found) / len(found)


def depth(record: RulerRecord) -> str:
    """Return the fifth of the context in which a single needle lies; "" where there are several or none."""
    if len(record.depths) != 1:
        return ""
    fifth = min(int(record.depths[0] * 5), 4)
    return f"depth {20 * fifth}-{20 * fifth + 20}%"


@dataclass(frozen=True)
class Ruler(Benchmark):
    """The items of a file that `qwenlong evaluate ruler` wrote."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[RulerItem]:
        """Read the items. Raises DataError naming the file and a record that is none."""
        found = []
        for number, record in enumerate(read_records(examples, RulerRecord), 1):
            start, stop = record.context
            if record.task not in TASKS or not 0 <= start <= stop <= len(record.input):
                raise DataError(
                    f"{examples}, record {number}: task {record.task!r} with context {record.context} is no item of "
                    "the suite; make the file with `qwenlong evaluate ruler`"
                )
            names = (f"length {record.length}", f"{record.task} at {record.length}", depth(record))
            found.append(RulerItem(record.id, record.task, record, tuple(name for name in names if name)))
        return distinct(found, examples)


BENCHMARKS = (
    Ruler(
        "ruler",
        "RULER",
        ("bounded", "official"),
        "bounded",
        official="official",
        groups=tuple(TASKS),
        average="groups",
    ),
)
