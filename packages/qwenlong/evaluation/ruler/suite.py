"""The suite: items of every task at every length, each from the seed and its own name alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Protocol

from pydantic import Field

from qwenlong.core import seeds
from qwenlong.core.errors import UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.reading import Published
from qwenlong.evaluation.ruler import draft, niah, qa
from qwenlong.evaluation.ruler.common_words import CommonWords
from qwenlong.evaluation.ruler.frequent_words import FrequentWords
from qwenlong.evaluation.ruler.sources import Sources
from qwenlong.evaluation.ruler.tracking import Tracking


class RulerRecord(Published):
    """One item: RULER's `input` and `outputs`, and what a report and the memory agent need beside them."""

    id: str = Field(min_length=1)
    task: str
    length: int = Field(ge=1, description="tokens that the prompt was to fill")
    n_tokens: int = Field(ge=0, description="tokens that it has, with its chat template")
    input: str
    outputs: tuple[str, ...] = Field(min_length=1)
    context: tuple[int, int] = Field(description="characters of the input that are the context")
    question: str
    instruction: str
    depths: tuple[float, ...] = Field((), description="where the evidence starts, as shares of the context")
    tokenizer: str = Field("", description="digest of the tokenizer that counted")


class Task(Protocol):
    """A task: its settings, and how an item is built."""

    def builder(self, rng: Callable[[str], Random], sources: Sources, length: int) -> draft.Build:
        """Return what builds one item, from named generators. Raises DataError when a source is missing."""
        ...


TASKS: dict[str, Task] = {
    **niah.TASKS,
    "vt": Tracking(),
    "cwe": CommonWords(),
    "fwe": FrequentWords(),
    "qa_1": qa.Questions("squad"),
    "qa_2": qa.Questions("hotpotqa"),
}
#: Tasks whose unit of filler is long: what it leaves over is padded.
PADDED = ("niah_multikey_2", "niah_multikey_3", "qa_1", "qa_2")


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks of these names, all for none. Raises UsageError naming an unknown one."""
    for name in names:
        if name not in TASKS:
            raise UsageError(f"no RULER task {name!r}; there are {', '.join(TASKS)}")
    return tuple(dict.fromkeys(names)) or tuple(TASKS)


def generate(
    tasks: Sequence[str],
    lengths: Sequence[int],
    n: int,
    seed: int,
    tokenizer: Tokenizer,
    sources: Sources | None = None,
) -> Iterator[RulerRecord]:
    """Yield `n` items a task and length, tasks first, then lengths.

    Each prompt has at most its length in tokens, chat template included, and at least 95% of it. The same names, seed,
    filler and tokenizer give the same item, whatever else is generated. Raises DataError naming an item that does not
    fit, UsageError for an unknown task.
    """
    count = draft.counted(tokenizer)
    for task in choose(tasks):
        for length in lengths:
            for number in range(n):
                yield _item(task, length, number, seed, tokenizer, count, sources or Sources())


def _item(
    task: str,
    length: int,
    number: int,
    seed: int,
    tokenizer: Tokenizer,
    count: Callable[[str], int],
    sources: Sources,
) -> RulerRecord:
    name = f"{task}-{length}-{number}"
    build = TASKS[task].builder(partial(seeds.rng, seed, "ruler", name), sources, length)
    made, tokens = draft.filled(name, build, task in PADDED, count, length)
    text, start = made.prompt()
    size = max(len(made.context), 1)
    return RulerRecord(
        id=name,
        task=task,
        length=length,
        n_tokens=tokens,
        input=text,
        outputs=made.outputs,
        context=(start, start + len(made.context)),
        question=made.question,
        instruction=made.instruction,
        depths=tuple(round(place / size, 4) for place in made.places),
        tokenizer=tokenizer.digest if count != tokenizer.count else "",
    )
