"""The records that stages hand to each other. Unknown keys are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Category = Literal["code", "academic", "professional", "general", "dialogue"]
Task = Literal["multiple_choice", "doc_multi_hop", "reading_comprehension", "dialogue_memory", "corpus_numerical"]

CATEGORIES: tuple[Category, ...] = ("code", "academic", "professional", "general", "dialogue")
#: The task labels that the sampler balances, in sorted order.
TASKS: tuple[Task, ...] = (
    "corpus_numerical",
    "dialogue_memory",
    "doc_multi_hop",
    "multiple_choice",
    "reading_comprehension",
)


class Record(BaseModel):
    """Base of all records: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Document(Record):
    """One document of the corpus. `text` is the only thing a model ever sees of it."""

    id: str = Field(min_length=1)
    source: str = Field(min_length=1, description="name in data/sources.csv")
    category: Category
    title: str
    text: str
    n_tokens: int = Field(ge=0, description="tokens of text under the run's tokenizer; 0 before one exists")
    metadata: dict[str, Any] = Field(default_factory=dict)
    licence: str = Field(min_length=1)


class Evidence(Record):
    """A span [start, end) of characters in the text of one document that supports the answer."""

    document: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Evidence:
        if self.end < self.start:
            raise ValueError(f"evidence span end {self.end} lies before its start {self.start}")
        return self


class Difficulty(Record):
    """pass@k of a model on a sample: the mean reward over k rollouts."""

    pass_at_k: float = Field(ge=0, le=1, description="mean reward over the k rollouts")
    k: int = Field(ge=1)
    model: str


class Sample(Record):
    """One training or held-out question with its documents, gold answers and the record of how it was made."""

    id: str = Field(min_length=1)
    task: Task
    question_type: str
    question: str = Field(min_length=1)
    instruction: str = Field(description="format instruction; kept apart so that the memory agent can split it off")
    documents: tuple[str, ...] = Field(description="document ids in the order they are shown")
    evidence: tuple[Evidence, ...] = ()
    answers: tuple[str, ...] = Field(min_length=1)
    choices: tuple[str, ...] = ()
    answer_prefix: str = Field("", description="string a dialogue-needle answer must start with; empty elsewhere")
    n_needles: int = 0
    reasoning_chain: tuple[str, ...] = ()
    n_hops: int = 0
    category: Category
    source: str
    generator: str
    template: str = Field(description="name and version of the question template")
    difficulty: Difficulty | None = None
    checks: dict[str, Any] = Field(default_factory=dict, description="what verification measured")
    n_tokens: int = Field(ge=0, description="tokens of the rendered prompt under `tokenizer`")
    tokenizer: str = Field("", description="digest of the tokenizer that counted n_tokens")


class Prediction(Record):
    """One model response. `finish_reason` is "stop", "length" or "error" (or another word of the server).

    `prompt_digest` is the SHA-256 of the rendered prompt, in UTF-8; of several turns, of their digests in order, one a
    line. Empty where it is not known.
    """

    id: str
    response: str
    finish_reason: str
    n_prompt_tokens: int
    n_response_tokens: int
    model: str
    error: str | None = None
    prompt_digest: str = ""


class Score(Record):
    """The scores of one item of one benchmark; `error` says why an item has none."""

    id: str
    benchmark: str
    values: dict[str, float]
    judge: dict[str, Any] | None = None
    error: str | None = None
