"""The published files: questions, golds, earlier conversations, tool documents.

They lie as in the package `bfcl-eval` (bfcl_eval/data): beside the file of questions, the folders `possible_answer`
(golds, under the questions' file name), `memory_prereq_conversation` and `multi_turn_func_doc`. Questions that hold
their own `ground_truth` need no golds beside them, and scoring needs no other file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from qwenlong.core.errors import DataError
from qwenlong.evaluation.bfcl.rule import normalise
from qwenlong.evaluation.reading import Published, read_records

ANSWERS, CONVERSATIONS, TOOLS = "possible_answer", "memory_prereq_conversation", "multi_turn_func_doc"
#: A scenario becomes part of a file's name.
Scenario = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,40}$")]
Golds = Annotated[tuple[str, ...], Field(min_length=1)]


class Message(Published):
    """One message of a user."""

    role: str
    content: str


class Conversation(Published):
    """What users said, turn by turn: an earlier conversation, or (one turn) a question."""

    id: Annotated[str, Field(min_length=1)]
    question: Annotated[tuple[tuple[Message, ...], ...], Field(min_length=1)]
    scenario: Scenario

    def turns(self) -> list[str]:
        """Return the user's text of each turn."""
        return ["\n\n".join(message.content for message in turn) for turn in self.question]


class Question(Conversation):
    """A question; `ground_truth` where the record itself holds the golds."""

    ground_truth: Golds | None = None


class Gold(Published):
    """The answers that count for a question."""

    id: str
    ground_truth: Golds


class Tool(Published):
    """A function that the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def shown(self) -> dict[str, Any]:
        """Return what the prompt shows of it."""
        return {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}


def read_questions(path: Path, folder: Path) -> list[tuple[Question, tuple[str, ...]]]:
    """Return the questions with their golds. Raises DataError naming the file, and the question without a gold."""
    questions = read_records(path, Question)
    for question in questions:
        if len(question.question) != 1:
            raise DataError(f"{path}: {question.id} has {len(question.question)} turns; a question has one")
    golds: dict[str, tuple[str, ...]] = {}
    if any(question.ground_truth is None for question in questions):
        golds = {gold.id: gold.ground_truth for gold in read_records(folder / ANSWERS / path.name, Gold)}
    found = []
    for question in questions:
        answers = question.ground_truth or golds.get(question.id)
        if answers is None:
            raise DataError(
                f"{path}: {question.id} has no gold in {folder / ANSWERS / path.name}; take them from one release"
            )
        if not all(normalise(answer).strip() for answer in answers):
            raise DataError(f"{path}: {question.id} has a gold of nothing but marks, which any answer would hold")
        found.append((question, answers))
    return found


def read_conversations(folder: Path, scenario: str) -> list[Conversation]:
    """Return the earlier conversations of a scenario, in order. Raises DataError naming the file."""
    return read_records(folder / CONVERSATIONS / f"memory_{scenario}.json", Conversation)


def read_tools(folder: Path, memory: str) -> Sequence[Tool]:
    """Return the documents of a memory's tools. Raises DataError naming the file."""
    return read_records(folder / TOOLS / f"memory_{memory}.json", Tool)
