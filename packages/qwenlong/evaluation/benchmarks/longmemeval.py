"""LongMemEval: a question to an assistant about its earlier conversations with one user (500 questions).

The files `oracle` (only the sessions with the evidence), `s` (about 115,000 tokens) and `m` (about 500 sessions) hold
the same questions in one schema: any of them is loaded, and predictions of one can be scored with the smallest.

The benchmark's own rule is a judge that goes by the question's type, or by abstention where the id holds "_abs". It is
the headline, `judge`, and under the name `official` the same value again; only the form of the verdict is ours (the
last line, where the authors look for "yes" anywhere in the reply). No rule takes its place: without a judge cover-EM is
reported, which knows nothing of rubrics and abstention (it gives them 0) and says less the longer the gold is.

History [assumed]: sessions in order of date, turns as JSON, as the authors recommend; what marks the evidence is left
out. The answer sentence is asked for as in any open question. The judge reads all that follows the thinking; where that
is more than 4,000 characters, the final answer alone, so that reciting the conversations does not pay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from qwenlong.core.errors import DataError
from qwenlong.core.templates import ANSWER_INSTRUCTION, fill
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.interface import Ask, Benchmark, Item
from qwenlong.evaluation.open_question import FOLDER, RULES
from qwenlong.evaluation.prompting import fit
from qwenlong.evaluation.reading import Published, distinct, read_records
from qwenlong.evaluation.rules import cover_em
from qwenlong.evaluation.sources import Source
from qwenlong.memory_agent.loop import Messages
from qwenlong.rewards.extract import after_thinking, final_answer, marked

#: Template of the judge by the question's type.
CRITERIA = {
    "single-session-user": "longmemeval_answer",
    "single-session-assistant": "longmemeval_answer",
    "single-session-preference": "longmemeval_preference",
    "multi-session": "longmemeval_answer",
    "temporal-reasoning": "longmemeval_temporal",
    "knowledge-update": "longmemeval_update",
}
ABSTENTION = "longmemeval_abstention"
#: Of a longer response the judge sees the final answer alone, and nothing where that is as long.
MAX_ANSWER_CHARACTERS = 4000
_INSTRUCTION = f"First name what the conversations say about it, then conclude.\n{ANSWER_INSTRUCTION}"


class TurnRecord(Published):
    """One message; `has_answer`, which marks the evidence, is never read."""

    role: Literal["user", "assistant"]
    content: str


class Record(Published):
    """What is read of a published record; some answers are whole numbers."""

    question_id: str
    question_type: Literal[
        "single-session-user",
        "single-session-assistant",
        "single-session-preference",
        "multi-session",
        "temporal-reasoning",
        "knowledge-update",
    ]
    question: Annotated[str, Field(min_length=1)]
    answer: str | int | float
    question_date: str
    haystack_dates: tuple[str, ...]
    haystack_sessions: tuple[tuple[TurnRecord, ...], ...]


@dataclass(frozen=True)
class LongMemEvalItem(Item):
    """One question with the sessions before it."""

    record: Record = field(repr=False)

    @property
    def id(self) -> str:  # type: ignore[override]
        """The record's own id."""
        return self.record.question_id

    @property
    def group(self) -> str:  # type: ignore[override]
        """Type of the question."""
        return self.record.question_type

    @property
    def slices(self) -> tuple[str, ...]:  # type: ignore[override]
        """Whether the question cannot be answered from the sessions."""
        return ("abstention",) if "_abs" in self.id else ()

    def history(self) -> str:
        """Return the sessions by date; equal dates keep the record's order."""
        dated = sorted(zip(self.record.haystack_dates, self.record.haystack_sessions, strict=True), key=lambda x: x[0])
        return "\n\n".join(
            f"Conversation {number}, {date}:\n{json.dumps([turn.model_dump() for turn in turns], ensure_ascii=False)}"
            for number, (date, turns) in enumerate(dated, 1)
        )

    def messages(self, tokenizer: Tokenizer, max_tokens: int) -> Messages:
        """Return sessions, then date and question; the middle of the sessions is cut above `max_tokens`."""
        record = self.record
        values = {"date": record.question_date, "question": record.question, "instruction": _INSTRUCTION}

        def build(context: str) -> Messages:
            return [{"role": "user", "content": fill("longmemeval", values | {"context": context}, FOLDER)}]

        return fit(self.id, self.history(), build, tokenizer, max_tokens)

    def problem(self) -> tuple[str, str, str]:
        """Return the question with its date, the format and the sessions, for the memory agent."""
        asked = f"{self.record.question} (asked on {self.record.question_date})"
        return asked, _INSTRUCTION, self.history()

    def score(self, response: str) -> dict[str, float]:
        """Return cover-EM on the final answer."""
        return cover_em.score(response, (str(self.record.answer),))

    def asks(self, response: str) -> Mapping[str, Ask]:
        """Return the judge's question; none where nothing follows the thinking, or more than an answer has."""
        answer = after_thinking(response)
        if answer and len(answer) > MAX_ANSWER_CHARACTERS:
            answer = marked(answer) or final_answer(answer)
        if not answer or len(answer) > MAX_ANSWER_CHARACTERS:
            return {}
        criterion = ABSTENTION if "abstention" in self.slices else CRITERIA[self.record.question_type]
        return {cover_em.JUDGE: Ask(self.record.question, (str(self.record.answer),), answer, criterion)}

    def judged(self, values: Mapping[str, float], verdicts: Mapping[str, bool | None]) -> dict[str, float]:
        """Return 1 for a verdict in favour; no verdict, and no answer to judge, are 0."""
        value = float(verdicts.get(cover_em.JUDGE) is True)
        return {cover_em.JUDGE: value, "official": value}


@dataclass(frozen=True)
class LongMemEval(Benchmark):
    """The benchmark, in any of its three lengths."""

    def load(self, examples: Path, documents: Path | None) -> Sequence[LongMemEvalItem]:
        """Read the records of a file.

        Raises DataError naming the file, the record and what is wrong with it.
        """
        records = read_records(examples, Record)
        for record in records:
            dates, sessions = len(record.haystack_dates), len(record.haystack_sessions)
            if dates != sessions:
                raise DataError(
                    f"{examples}: {record.question_id} has {dates} haystack_dates for {sessions} haystack_sessions; "
                    "give the published file"
                )
        return distinct([LongMemEvalItem(record) for record in records], examples)


BENCHMARKS = (
    LongMemEval(
        "longmemeval",
        "LongMemEval",
        rules=RULES,
        headline=cover_em.JUDGE,
        judge_rules=(cover_em.JUDGE, "official"),
        fallback=cover_em.STRICT,
        official="official",
        groups=tuple(CRITERIA),
        source=Source(
            "xiaowu0162/longmemeval-cleaned",
            ("longmemeval_s_cleaned.json",),
            revision="98d7416c24c778c2fee6e6f3006e7a073259d48f",
            sha256=("d6f21ea9d60a0d56f34a05b609c79c88a451d2ae03597821ea3d5a9678c3a442",),
            obtain="the other lengths are longmemeval_oracle.json and longmemeval_m_cleaned.json of the same revision",
            licence="MIT",
            records=500,
        ),
    ),
)
