"""`qwenlong agent batch`: a list of questions in, a list of results out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.memory_agent import options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qwenlong.memory_agent.answering import Agent
    from qwenlong.memory_agent.batch import Job, Totals
    from qwenlong.memory_agent.batch_items import Item
    from qwenlong.memory_agent.chunks import Chunks

#: Names that a message lists; the rest is counted.
SHOWN = 20


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="lines of id, question, document or text, format")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="results to write, in the order of the list")],
    model: options.Model,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    tokenizer: options.TokenizerName = None,
    chunk_tokens: options.ChunkTokens = None,
    memory_tokens: options.MemoryTokens = None,
    answer_tokens: options.AnswerTokens = None,
    window: options.Window = None,
    mode: options.Mode = "paper",
    skip: options.Skip = None,
    early_exit: options.EarlyExit = None,
    recall_tokens: options.RecallTokens = None,
    recall_chunks: options.RecallChunks = None,
    parallel: options.Parallel = None,
    order: options.Order = None,
    repair: options.Repair = None,
    prompts: options.PromptFolder = None,
    concurrency: Annotated[int, typer.Option(min=1, help="requests in flight")] = 32,
    journal: Annotated[
        Path | None, typer.Option(help="folder of turns and results; default: OUT.jsonl.journal")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="folder for an HTML page of each item")] = None,
    timeout: options.Timeout = 600.0,
    retries: options.Retries = 4,
    deadline: options.Deadline = None,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 0.95,
    seed: options.Seed = 17,
    as_json: options.AsJson = False,
) -> None:
    """Answer a list of questions through the memory agent; the same command goes on where it stopped."""
    given = dict(locals())
    import asyncio
    from dataclasses import asdict

    from qwenlong.core import ownership, provenance
    from qwenlong.core.files import digest_path, digest_value
    from qwenlong.memory_agent.answering import Agent
    from qwenlong.memory_agent.backends import open_backend
    from qwenlong.memory_agent.batch import Batch, allow_files
    from qwenlong.memory_agent.batch_items import read_items
    from qwenlong.memory_agent.trace import Folder

    with reported():
        config = options.agent_config(given)
        items = read_items(source)
        if out.is_dir() or out.resolve() == source.resolve():
            raise UsageError(f"{out} cannot be the output: it is a folder or the list itself; name another file")
        folder = journal if journal is not None else out.with_name(f"{out.name}.journal")
        ownership.lock(folder / "lock", "agent batch", folder)
        for stale in folder.glob("[0-9a-f][0-9a-f]/.*.result.????????.partial"):
            stale.unlink(missing_ok=True)
        allow_files(concurrency)
        backend = open_backend(
            model,
            base_url=base_url,
            tokenizer=tokenizer,
            api_key_env=api_key_env,
            timeout=timeout,
            retries=retries,
            deadline=deadline,
            concurrency=concurrency,
        )
        limit = window if window is not None else backend.window
        agent = Agent(backend, config, temperature, top_p, seed, limit, "" if base_url else digest_path(model))
        jobs = _jobs(items, source.parent, folder, agent)
        pages = None if trace is None else Folder(trace, model)
        work = Batch(agent, _loader(source.parent, agent), concurrency=concurrency, pages=pages)

        async def run() -> Totals:
            try:
                return await work.run(jobs, out)
            finally:
                await backend.close()

        totals = asyncio.run(run())
        provenance.sidecar(
            out,
            inputs={"list": source},
            config=agent.settings | {"model": model, "window": limit},
            packages=("memory_agent", "inference"),
            seed=seed,
            extra={"documents": digest_value([job.document for job in jobs]), "totals": asdict(totals)},
        )
        _report(totals, out, as_json)


def _jobs(items: Sequence[Item], beside: Path, folder: Path, agent: Agent) -> list[Job]:
    from qwenlong.memory_agent.batch import Job
    from qwenlong.memory_agent.journal import place

    known: dict[Path, str] = {}
    jobs = []
    for item in items:
        document = item.digest(beside, known)
        owner = agent.belongs_to(item.question, item.format, document) | {"item": item.id}
        jobs.append(Job(item, document, owner, place(folder, owner)))
    return jobs


def _loader(beside: Path, agent: Agent) -> Callable[[Item], Chunks]:
    def load(item: Item) -> Chunks:
        return agent.sections(item.paths(beside)) if item.text is None else agent.sections_of(item.text)

    return load


def _report(totals: Totals, out: Path, as_json: bool) -> None:
    from dataclasses import asdict

    text = f"{totals.answered} of {totals.items} items answered, {totals.calls} calls now; wrote {out}"
    typer.echo(json.dumps(asdict(totals), sort_keys=True) if as_json else text)
    if totals.unclean:
        typer.echo(f"not from every section: {_names(totals.unclean)}; see chunks and steps in {out}", err=True)
    if totals.failed:
        named = [f"{name} ({error})" for name, error in totals.failed.items()]
        raise QwenlongError(
            f"{len(named)} of {totals.items} items failed: {_names(named)}; {out} says why, "
            "and the same command asks again for what the endpoint did not answer"
        )


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
