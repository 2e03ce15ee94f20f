"""Many questions at once: bounded, resumable at the turn, each result durable when it is there, in order at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.files import atomic_file, code_digest, digest_value
from qwenlong.core.llm import LLMError
from qwenlong.core.llm.crew import PATIENCE, denied
from qwenlong.core.progress import Progress
from qwenlong.memory_agent import answering, journal
from qwenlong.memory_agent.answering import Agent, EndpointDown, Patience
from qwenlong.memory_agent.batch_items import Item
from qwenlong.memory_agent.chunks import Chunks
from qwenlong.memory_agent.lockstep import Lockstep
from qwenlong.memory_agent.loop import Generate, Messages, Result, Step, Turn

#: Items under way beyond one for each request in flight: while one is cut or written, another's request runs.
AHEAD = 16


class NotAsked(QwenlongError):
    """An item that was left when a batch gave up."""


@dataclass(frozen=True)
class Job:
    """An item with the digest of what it reads, what its journal belongs to, and where the journal stands."""

    item: Item
    document: str
    belongs_to: dict[str, Any]
    file: Path

    @property
    def result(self) -> Path:
        """Where the finished result stands: beside the journal."""
        return self.file.with_suffix(".result")


@dataclass
class Totals:
    """What became of a batch. Every item counts as answered or stands in `failed` with its error's name.

    `unclean` are answered, but not from every section. `calls` were made by this run, `finished_before` are items that
    an earlier run had finished.
    """

    items: int = 0
    answered: int = 0
    finished_before: int = 0
    calls: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    unclean: list[str] = field(default_factory=list)

    def count(self, record: Mapping[str, Any]) -> None:
        """Count a record of the output."""
        self.items += 1
        if record["error"] is not None:
            self.failed[record["id"]] = record["error"]
        else:
            self.answered += 1
            if not record["clean"]:
                self.unclean.append(record["id"])


class Pages(Protocol):
    """Where results are shown, one page an item."""

    def missing(self, item: Item) -> bool:
        """Tell whether an item has no page yet."""
        ...

    def write(self, item: Item, sections: Sequence[str], result: Result) -> None:
        """Write an item's page."""
        ...


class Batch:
    """One run over a list.

    `load(item)` gives the sections of an item, off the event loop. `pages` sees each result that this run comes to; a
    finished item without its page is read from its journal again. At most `concurrency` requests are in flight.
    """

    def __init__(
        self,
        agent: Agent,
        load: Callable[[Item], Chunks],
        *,
        concurrency: int,
        pages: Pages | None = None,
    ) -> None:
        self._agent, self._load, self._pages = agent, load, pages
        self.totals = Totals()
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._failed: dict[str, dict[str, Any]] = {}
        self._patience = Patience(max(answering.PATIENCE, PATIENCE * concurrency))
        self._gave_up = ""
        # A result that other code, or another window, made of the same turns may be another one.
        self._made_by = digest_value([code_digest("memory_agent"), agent.window])

    async def run(self, jobs: Sequence[Job], out: Path) -> Totals:
        """Ask what no earlier run has finished, then write all results to `out` in the order of the list.

        An item that fails is a record with an error. Raises QwenlongError when a file cannot be written.
        """
        finished = {job.item.id for job in jobs if self._finished(job) is not None}
        pages = self._pages
        todo = [job for job in jobs if job.item.id not in finished or (pages is not None and pages.missing(job.item))]
        self.totals.finished_before = len(finished)
        with Progress("batch", len(jobs), "item") as progress:
            progress.advance(len(jobs) - len(todo))
            await self._ask_all(self._waves(todo), progress)
        with atomic_file(out) as partial, partial.open("wb") as stream:
            for job in jobs:
                record = self._failed.get(job.item.id) or self._finished(job)
                if record is None:
                    raise QwenlongError(f"{job.result} is gone; run the same command again")
                self.totals.count(record)
                stream.write(answering.line(record))
        return self.totals

    def _waves(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Return what starts together: with sections in front, questions over one document; else items one by one."""
        config = self._agent.config
        shared = config.order == "section_first" and config.parallel == 1
        groups: dict[str, list[Job]] = {}
        for job in jobs:
            groups.setdefault(job.document if shared else job.item.id, []).append(job)
        size = self._concurrency
        return [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]

    async def _ask_all(self, waves: Sequence[Sequence[Job]], progress: Progress) -> None:
        room = self._concurrency + min(AHEAD, self._concurrency)
        tasks: dict[asyncio.Task[None], int] = {}
        try:
            for wave in waves:
                while tasks and sum(tasks.values()) + len(wave) > room:
                    await _first(tasks)
                tasks[asyncio.create_task(self._wave(wave, progress))] = len(wave)
            while tasks:
                await _first(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wave(self, wave: Sequence[Job], progress: Progress) -> None:
        sections: Chunks | None = None
        fault: QwenlongError | OSError | None = None
        try:
            if not self._gave_up:
                sections = await asyncio.to_thread(self._load, wave[0].item)
        except (QwenlongError, OSError) as error:
            fault = error
        group = Lockstep(job.item.id for job in wave)

        async def one(job: Job) -> None:
            steps: list[Step] = []
            try:
                if sections is None:
                    raise fault or NotAsked(f"not asked, since {self._gave_up}")
                await self._one(job, sections, group, steps)
            except (QwenlongError, OSError) as error:
                self._failed[job.item.id] = self._record(
                    job, answering.unfinished(steps, len(sections or ())), type(error).__name__, str(error)
                )
                self._saw(error)
            finally:
                group.leave(job.item.id)
            progress.advance(calls=self.totals.calls, failed=len(self._failed))

        try:
            async with asyncio.TaskGroup() as tasks:
                for job in wave:
                    tasks.create_task(one(job))
        finally:
            if sections is not None:
                sections.close()

    async def _one(self, job: Job, sections: Chunks, group: Lockstep, steps: list[Step]) -> None:
        if self._gave_up:
            raise NotAsked(f"not asked, since {self._gave_up}")
        name = job.item.id

        def on_step(step: Step) -> None:
            steps.append(step)
            group.step(name, step)

        with journal.Journal(job.file, job.belongs_to) as book:
            generate = group.wrap(book.wrap(self._generate()), name)
            result = await self._agent.ask(job.item.question, job.item.format, sections, generate, on_step)
            record = self._record(job, answering.summary(result), *_fault(result))
            if self._pages is not None:
                await asyncio.to_thread(self._pages.write, job.item, sections, result)
            if answering.lasting(result):
                with atomic_file(job.result) as partial:
                    partial.write_bytes(journal.encode({"made_by": self._made_by, "record": record}))
            else:
                # What the endpoint did not answer is asked again by the next run.
                self._failed[name] = record

    def _generate(self) -> Generate:
        ask = self._patience.wrap(self._agent.generate())

        async def bounded(messages: Messages, max_tokens: int, turn_index: int) -> Turn:
            async with self._slots:
                if self._gave_up:
                    raise NotAsked(f"not asked to the end, since {self._gave_up}")
                self.totals.calls += 1
                return await ask(messages, max_tokens, turn_index)

        return bounded

    def _saw(self, error: Exception) -> None:
        """Take note of an item that failed: when the endpoint is down or refuses the key, the rest is not asked."""
        turned_away = isinstance(error, LLMError) and denied(error)
        if not self._gave_up and (turned_away or isinstance(error, EndpointDown)):
            self._gave_up = str(error)

    def _record(
        self, job: Job, values: Mapping[str, Any], error: str | None = None, detail: str = ""
    ) -> dict[str, Any]:
        head = {"id": job.item.id, "model": self._agent.backend.name}
        head["settings"] = digest_value([self._agent.settings, self._agent.backend.tokenizer.digest])[:16]
        return {**head, "error": error, "detail": detail, **values}

    def _finished(self, job: Job) -> dict[str, Any] | None:
        """Return the record of a finished item, none where there is none or its file is damaged."""
        if not job.result.is_file():
            return None
        entry = journal.decode(job.result.read_bytes().rstrip(b"\n"))
        whole = entry is not None and entry.get("made_by") == self._made_by
        return entry["record"] if entry is not None and whole else None


def _fault(result: Result) -> tuple[str | None, str]:
    """Return the name of what makes a result a failure, with a sentence on it; none where it is one to keep."""
    lost = [step for step in result.steps if step.status == "failed"]
    if lost:
        return "Unavailable", f"{answering.shortcoming(result)}; the first: {lost[0].error}"
    if not result.answer:
        return "NoAnswer", f"the last turn ended by {result.steps[-1].turn.finish_reason!r} without an answer"
    return None, ""


def allow_files(concurrency: int) -> None:
    """Raise this process's limit of open files to what so many requests in flight need.

    Raises UsageError where the system does not allow it.
    """
    import resource

    # A connection for each request; a journal and the sections for each item; the rest for libraries.
    needed = concurrency + 2 * (concurrency + AHEAD) + 128
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(f"--concurrency {concurrency} needs {needed} open files and {hard} are allowed; lower it")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _first(tasks: dict[asyncio.Task[None], int]) -> None:
    """Wait for one of the tasks and take it out. Raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        del tasks[task]
        task.result()
