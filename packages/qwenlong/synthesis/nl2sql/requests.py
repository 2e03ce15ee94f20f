"""The two requests: to the writer, and to the solver who sees the question alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from qwenlong.core.config.generation import Nl2SqlConfig
from qwenlong.core.llm import Request
from qwenlong.core.seeds import derive
from qwenlong.core.templates import fill
from qwenlong.synthesis.agents import fence
from qwenlong.synthesis.nl2sql.tasks import Task

FOLDER = Path(__file__).parent / "prompts" / "v1"


class Written(BaseModel):
    """What the writer writes."""

    model_config = ConfigDict(extra="forbid")
    question: Annotated[str, Field(min_length=12, max_length=500)]
    sql: Annotated[str, Field(min_length=8, max_length=2000)]


class Translated(BaseModel):
    """What the solver writes; empty where it finds no query or two."""

    model_config = ConfigDict(extra="forbid")
    sql: Annotated[str, Field(max_length=2000)]


def _values(task: Task, config: Nl2SqlConfig, *others: str) -> dict[str, Any]:
    columns, sample = task.shown(config.sample_rows)
    return {
        "rows": len(task.rows),
        "documents": len(task.tables),
        "columns": columns,
        "sample": sample,
        "fence": fence([columns, sample, *others]),
    }


def write(task: Task, config: Nl2SqlConfig, seed: int) -> Request:
    """Return the request for one question with its SQL."""
    prompt = fill("writer", _values(task, config) | {"number": task.number}, FOLDER)
    return Request(
        [{"role": "user", "content": prompt}],
        config.max_tokens,
        derive(seed, "nl2sql", "write", task.id),
        temperature=config.temperature,
        schema=Written,
        tries=config.tries,
    )


def solve(task: Task, question: str, config: Nl2SqlConfig, seed: int) -> Request:
    """Return the request for the SQL of a question; it shows neither the writer's SQL nor its result."""
    prompt = fill("solver", _values(task, config, question) | {"question": question}, FOLDER)
    return Request(
        [{"role": "user", "content": prompt}],
        config.max_tokens,
        derive(seed, "nl2sql", "solve", task.id),
        schema=Translated,
        tries=config.tries,
    )
