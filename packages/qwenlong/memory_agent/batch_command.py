"""`qwenlong agent batch`: a list of questions in, a list of results out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import QwenlongError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qwenlong.memory_agent.backends import Backend
    from qwenlong.memory_agent.batch import Job, Totals
    from qwenlong.memory_agent.batch_items import Item
    from qwenlong.memory_agent.loop import Result

#: Names that a message lists; the rest is counted.
SHOWN = 20


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="lines of id, question, document or text, format")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="results to write, in the order of the list")],
    model: Annotated[str, typer.Option(help="model name at --base-url; without it a model directory, loaded here")],
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible address, up to and with /v1")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="environment variable that holds the key")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="directory or id; default: the model's")] = None,
    chunk_tokens: Annotated[int | None, typer.Option(min=16, help="document tokens per turn [32000]")] = None,
    memory_tokens: Annotated[int | None, typer.Option(min=8, help="output limit of an update [15000]")] = None,
    answer_tokens: Annotated[int | None, typer.Option(min=8, help="output limit of the answer [12000]")] = None,
    window: Annotated[int | None, typer.Option(help="window in tokens; default: a local model's own")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="requests in flight")] = 32,
    journal: Annotated[
        Path | None, typer.Option(help="folder of turns and results; default: OUT.jsonl.journal")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="folder for an HTML page of each item that this run asks")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="seconds for one try of a request")] = 600.0,
    retries: Annotated[int, typer.Option(min=0, help="tries of a request after the first")] = 4,
    temperature: Annotated[float, typer.Option(help="sampling temperature; 0 is greedy")] = 0.7,
    top_p: Annotated[float, typer.Option(help="nucleus sampling")] = 0.95,
    seed: Annotated[int, typer.Option(help="seed of the sampling")] = 17,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Answer a list of questions through the memory agent; the same command goes on where it stopped."""
    import asyncio

    from qwenlong.core import ownership
    from qwenlong.memory_agent.answering import settings_of
    from qwenlong.memory_agent.backends import open_backend
    from qwenlong.memory_agent.batch import Batch
    from qwenlong.memory_agent.batch_items import read_items

    with reported():
        items = read_items(source)
        if out.is_dir() or out.resolve() == source.resolve():
            raise UsageError(f"{out} cannot be the output: it is a folder or the list itself; name another file")
        settings = settings_of(chunk_tokens, memory_tokens, answer_tokens)
        settings |= {"temperature": temperature, "top_p": top_p, "seed": seed}
        folder = journal if journal is not None else out.with_name(f"{out.name}.journal")
        ownership.lock(folder / "lock", "agent batch", folder)
        backend = open_backend(
            model,
            base_url=base_url,
            tokenizer=tokenizer,
            api_key_env=api_key_env,
            timeout=timeout,
            retries=retries,
            concurrency=concurrency,
        )
        jobs = _jobs(items, source.parent, folder, backend, "" if base_url else model, settings)
        work = Batch(
            backend,
            settings,
            _loader(source.parent, backend, settings["chunk_tokens"]),
            concurrency=concurrency,
            window=window if window is not None else backend.window,
            keep=None if trace is None else _tracer(trace, model),
        )

        async def run() -> Totals:
            try:
                return await work.run(jobs, out)
            finally:
                await backend.close()

        _report(asyncio.run(run()), out, as_json)


def _jobs(
    items: Sequence[Item], beside: Path, folder: Path, backend: Backend, weights: str, settings: dict[str, Any]
) -> list[Job]:
    from qwenlong.core.files import digest_path
    from qwenlong.memory_agent.answering import belongs_to
    from qwenlong.memory_agent.batch import Job
    from qwenlong.memory_agent.journal import place

    known: dict[Path, str] = {}
    bytes_of = digest_path(weights) if weights else ""
    jobs = []
    for item in items:
        document = item.digest(beside, known)
        owner = belongs_to(item.question, item.format, document, backend, bytes_of, settings) | {"item": item.id}
        jobs.append(Job(item, document, owner, place(folder, owner)))
    return jobs


def _loader(beside: Path, backend: Backend, chunk_tokens: int) -> Callable[[Item], Sequence[str]]:
    from qwenlong.memory_agent.chunking import split
    from qwenlong.memory_agent.documents import render

    def load(item: Item) -> Sequence[str]:
        text = render(item.paths(beside)) if item.text is None else item.text
        return split(text, backend.tokenizer, chunk_tokens)

    return load


def _tracer(folder: Path, model: str) -> Callable[[Item, Sequence[str], Result], None]:
    from qwenlong.memory_agent.trace import file_name, write_trace

    def keep(item: Item, sections: Sequence[str], result: Result) -> None:
        write_trace(folder / file_name(item.id), item.question, result, sections, model)

    return keep


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
