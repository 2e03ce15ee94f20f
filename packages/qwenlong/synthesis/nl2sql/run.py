"""Write, run, translate back, compare: what is accepted becomes a candidate, all else is counted by its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenlong.core import templates
from qwenlong.core.config import Config, EndpointConfig
from qwenlong.core.llm import Client, Outcome, gather
from qwenlong.core.records import Document
from qwenlong.synthesis import agents
from qwenlong.synthesis.agents import Result, plain
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.decontaminate import Seen
from qwenlong.synthesis.mase.output import holds
from qwenlong.synthesis.nl2sql import requests
from qwenlong.synthesis.nl2sql.reading import Read, read, result
from qwenlong.synthesis.nl2sql.tasks import Task, tasks
from qwenlong.synthesis.splits import split
from qwenlong.synthesis.tabular.sandbox import Sandbox
from qwenlong.synthesis.tabular.statement import SqlRefused
from qwenlong.synthesis.tabular.wording import quoted

GENERATOR = "nl2sql@1"
ROLES = ("writer", "solver")
#: What becomes of a task; the counts add up to "asked".
STEPS = (
    *("malformed", "sql_refused", "leaked", "repeated", "unsolved", "solver_refused", "disagreed", "unavailable"),
    "accepted",
)


@dataclass(frozen=True)
class Posed:
    """A question whose SQL ran, on its way to the solver."""

    task: Task
    question: str
    sql: str
    read: Read

    @property
    def id(self) -> str:
        """Return the name that the journal knows it by."""
        return self.task.id


def endpoints(config: Config) -> dict[str, EndpointConfig]:
    """Return the endpoint of each role. Raises ConfigError when there is none for the writer."""
    settings = config.synthesis.nl2sql
    writer = agents.endpoint(config, "synthesis.nl2sql.endpoint", settings.endpoint)
    return {"writer": writer, "solver": settings.solver or writer}


def journals(folder: Path) -> dict[str, Path]:
    """Return the journal of each role in their folder."""
    return {role: folder / f"{role}.jsonl" for role in ROLES}


async def ask(config: Config, documents: Sequence[Document], folder: Path, clients: Mapping[str, Client]) -> Result:
    """Return the questions on whose SQL result two independent requests agree.

    Documents of the training side only. What was answered before stands in the journals under `folder`; SQL runs
    again, since the same SQL over the same rows gives the same.
    """
    settings, seed = config.synthesis.nl2sql, config.run.seed
    train, _ = split(documents, config.synthesis.heldout_share, config.synthesis.split_seed)
    todo = tasks(train, settings, seed)
    counts: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {role: Counter() for role in ROLES}
    files = journals(folder)
    with ExitStack() as stack:
        opened: dict[tuple[int, ...], Sandbox] = {}

        def sandbox(task: Task) -> Sandbox:
            key = tuple(one.number for one in task.tables)
            if key not in opened:
                opened[key] = stack.enter_context(task.open(config.synthesis.sql))
            return opened[key]

        written = await gather(
            clients["writer"],
            todo,
            lambda task: requests.write(task, settings, seed),
            lambda _, value: value,
            files["writer"],
            key=lambda task: task.id,
            description="write questions",
        )
        posed = _posed(todo, written, sandbox, counts, reasons["writer"])
        translated = await gather(
            clients["solver"],
            posed,
            lambda one: requests.solve(one.task, one.question, settings, seed),
            lambda _, value: value,
            files["solver"],
            key=lambda one: one.id,
            description="translate back",
        )
        accepted = _agreed(posed, translated, sandbox, counts, reasons["solver"])
    funnel = {
        "prompts": templates.digest(requests.FOLDER),
        "documents": len(train),
        "tables": len({task.id.rpartition("/")[0] for task in todo}),
        "asked": len(todo),
        **{step: counts[step] for step in STEPS},
        "reasons": {role: dict(sorted(found.items())) for role, found in reasons.items()},
    }
    texts = {document.id: document.text for document in train}
    return Result([_candidate(one, texts) for one in accepted], funnel, counts["unavailable"])


def _lost(outcome: Outcome[Any], counts: Counter[str], reasons: Counter[str], step: str) -> bool:
    if outcome.ok:
        return False
    counts["unavailable" if outcome.outage else step] += 1
    reasons[str(outcome.error)] += 1
    return True


def _posed(
    todo: Sequence[Task],
    written: Sequence[Outcome[requests.Written]],
    sandbox: Callable[[Task], Sandbox],
    counts: Counter[str],
    reasons: Counter[str],
) -> list[Posed]:
    seen = Seen()
    found = []
    for task, outcome in zip(todo, written, strict=True):
        if _lost(outcome, counts, reasons, "malformed") or outcome.value is None:
            continue
        question = " ".join(outcome.value.question.split())
        try:
            made = read(task, sandbox(task), outcome.value.sql)
        except SqlRefused as error:
            counts["sql_refused"] += 1
            reasons[error.kind] += 1
            continue
        whole = _whole(task, question, made)
        if not _is_number(made.answer) and plain(made.answer) in plain(question):
            counts["leaked"] += 1
        elif seen.repeats(whole):
            counts["repeated"] += 1
        else:
            seen.add(whole)
            found.append(Posed(task, whole, outcome.value.sql, made))
    return found


def _agreed(
    posed: Sequence[Posed],
    translated: Sequence[Outcome[requests.Translated]],
    sandbox: Callable[[Task], Sandbox],
    counts: Counter[str],
    reasons: Counter[str],
) -> list[Posed]:
    found = []
    for one, outcome in zip(posed, translated, strict=True):
        if _lost(outcome, counts, reasons, "unsolved") or outcome.value is None:
            continue
        if not outcome.value.sql.strip():
            counts["unsolved"] += 1
            reasons["no_sql"] += 1
            continue
        try:
            said, _ = result(sandbox(one.task), outcome.value.sql)
        except SqlRefused as error:
            counts["solver_refused"] += 1
            reasons[error.kind] += 1
            continue
        agreed = said == one.read.answer
        counts["accepted" if agreed else "disagreed"] += 1
        if agreed:
            found.append(one)
    return found


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdigit()


def _whole(task: Task, question: str, made: Read) -> str:
    """Return the question with the tables that it is about, the unit of its number and how it is rounded."""
    tables = "table" if len(task.tables) == 1 else "tables"
    parts = [f"According to the {tables} of {quoted([one.title for one in task.tables])}: {question}"]
    if made.unit is not None and plain(made.unit) not in plain(question):
        parts.append(f"Give the number in {made.unit}.")
    elif made.unit == "":
        parts.append("No unit is stated.")
    if made.rounds:
        parts.append("Round to two decimals.")
    return " ".join(parts)


def _candidate(one: Posed, texts: Mapping[str, str]) -> Candidate:
    kind = "calculation" if one.read.calculated else "statistical aggregation"
    made = Candidate(
        task="corpus_numerical",
        question_type="temporal" if one.read.temporal else kind,
        template=GENERATOR,
        question=one.question,
        answers=(one.read.answer,),
        evidence=one.read.evidence,
        reasoning_chain=(f"SQL: {' '.join(one.sql.split())}", f"result: {one.read.answer}"),
        holds=lambda _: False,
        generator=GENERATOR,
        specifics=tuple(table.title for table in one.task.tables),
        quotes=tuple(texts[span.document][span.start : span.end] for span in one.read.evidence),
    )
    return replace(made, holds=holds(made))
