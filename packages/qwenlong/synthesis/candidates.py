"""What question generators hand on: a question with its evidence, before documents are added around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenlong.core.records import Document, Evidence, Task
from qwenlong.core.templates import ANSWER_INSTRUCTION

#: Instruction of multiple choice: the letter alone.
LETTER_INSTRUCTION = 'Write the final answer as "Therefore, the answer is (letter)".'


@dataclass(frozen=True)
class Candidate:
    """A question, its computed answer and its evidence.

    `holds` recomputes the answer over a list of shown documents and tells whether it is still the one answer: what
    keeps a distractor from changing it. `template` names a version: "fact@1". `specifics` are the names and values that
    fill the template's slots: without one of them a run of words is the template's own, not shared content. `checks`
    are what the template measured, for the sample's.
    """

    task: Task
    question_type: str
    template: str
    question: str
    answers: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    reasoning_chain: tuple[str, ...]
    holds: Callable[[Sequence[Document]], bool] = field(repr=False, compare=False)
    instruction: str = ANSWER_INSTRUCTION
    choices: tuple[str, ...] = ()
    answer_prefix: str = ""
    n_needles: int = 0
    n_hops: int = 0
    generator: str = "rules@1"
    specifics: tuple[str, ...] = ()
    checks: tuple[tuple[str, Any], ...] = ()
    #: The text of each span of evidence, where a candidate comes from a file: it must still stand there.
    quotes: tuple[str, ...] = ()

    @property
    def documents(self) -> tuple[str, ...]:
        """Documents that hold the evidence, in the order in which it is first used."""
        return tuple(dict.fromkeys(span.document for span in self.evidence))


def always(_: Sequence[Document]) -> bool:
    """No distractor can change the answer: it is bound to a document by its title."""
    return True
