"""Items whose answer is text: cover-EM by rule, a judge where it fails, the larger of both as the paper has it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qwenlong.core.templates import ANSWER_INSTRUCTION, fill
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Ask, Item
from qwenlong.evaluation.prompting import fit
from qwenlong.evaluation.rules import cover_em
from qwenlong.memory_agent.loop import Messages

FOLDER = Path(__file__).parent / "prompts" / "v1"
RULES = (cover_em.STRICT, cover_em.LOOSE)
JUDGE_RULES = (cover_em.JUDGE, cover_em.PAPER)


@dataclass(frozen=True)
class OpenQuestion(Item):
    """A question with golds, any of which counts."""

    id: str
    group: str
    question: str
    golds: tuple[str, ...]

    def score(self, response: str) -> dict[str, float]:
        """Return cover-EM, strict and loose."""
        return cover_em.score(response, self.golds)

    def asks(self, response: str) -> Mapping[str, Ask]:
        """Return the judge's question where cover-EM is 0 and an answer is there."""
        return cover_em.asks(response, self.question, self.golds)

    def judged(self, values: Mapping[str, float], verdicts: Mapping[str, bool | None]) -> dict[str, float]:
        """Return what the judge adds, and the paper's rule."""
        return cover_em.judged(values, verdicts)


@dataclass(frozen=True)
class ContextQuestion(OpenQuestion):
    """An open question about a text."""

    extra: str = ""
    """What else is said about the form of the answer."""

    @abstractmethod
    def text(self) -> str:
        """Return the text. Raises DataError when it is not there."""

    def instruction(self) -> str:
        """Return how the answer is to be given."""
        return f"{self.extra}\n{ANSWER_INSTRUCTION}".strip()

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return the text, then the question; the middle of the text is cut above `max_tokens`."""
        values = {"question": self.question, "instruction": self.instruction()}

        def build(context: str) -> Messages:
            return [{"role": "user", "content": fill("open_question", values | {"context": context}, FOLDER)}]

        return fit(self.id, self.text(), build, tokenizer, max_tokens)

    def problem(self) -> tuple[str, str, str]:
        """Return question, format and text, for the memory agent."""
        return self.question, self.instruction(), self.text()


@dataclass(frozen=True)
class WithText(ContextQuestion):
    """An open question whose text stands in its record."""

    context: str = field(default="", repr=False)

    def text(self) -> str:
        """Return the text."""
        return self.context
