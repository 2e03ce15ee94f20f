"""`qwenlong synthesize mase`, `nl2sql` and `extract`: what asks language models, resumable after any kill or outage."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.errors import QwenlongError, UsageError

if TYPE_CHECKING:
    from qwenlong.core.config import Config, EndpointConfig
    from qwenlong.synthesis.agents import Result

ConfigFile = Annotated[Path, typer.Option(help="Configuration file.")]
Corpus = Annotated[Path, typer.Option(help="Folder with documents.parquet.")]
Journal = Annotated[
    Path | None, typer.Option(help="Folder for journals and replies, where a run goes on; default: OUT/journal.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def mase(
    config: ConfigFile,
    corpus: Corpus,
    out: Annotated[Path, typer.Option(help="Folder for candidates.jsonl, funnel.json and usage.json.")],
    journal: Journal = None,
    as_json: Json = False,
) -> None:
    """Let agents propose, solve and verify questions. The same command goes on where it was stopped."""
    from qwenlong.synthesis.mase.run import endpoints, evolve, journals

    made = _proposed("mase", endpoints, evolve, journals, config, corpus, out, journal)
    _told(made, made.funnel["all"], "questions", out, journal, as_json)


def nl2sql(
    config: ConfigFile,
    corpus: Corpus,
    out: Annotated[Path, typer.Option(help="Folder for candidates.jsonl, funnel.json and usage.json.")],
    journal: Journal = None,
    as_json: Json = False,
) -> None:
    """Let a model write questions with SQL over documents' tables. The same command goes on where it was stopped."""
    from qwenlong.synthesis.nl2sql.run import ask, endpoints, journals

    made = _proposed("nl2sql", endpoints, ask, journals, config, corpus, out, journal)
    counts = {name: value for name, value in made.funnel.items() if isinstance(value, int)}
    _told(made, counts, "tables' questions", out, journal, as_json)


def extract(
    config: ConfigFile,
    corpus: Corpus,
    out: Annotated[Path, typer.Option(help="Folder for edges.jsonl, graph.graphml, funnel.json, usage.json.")],
    extractor: Annotated[
        str, typer.Option(help="rules, llm, or both: rules first, a model for documents in which they find nothing.")
    ] = "both",
    journal: Journal = None,
    as_json: Json = False,
) -> None:
    """Read triples for the knowledge graph out of documents. The same command goes on where it was stopped."""
    import asyncio

    from qwenlong.core.files import all_or_none
    from qwenlong.core.provenance import path_of
    from qwenlong.synthesis.extract import run

    if extractor not in ("rules", "llm", "both"):
        raise UsageError(f"--extractor {extractor} is unknown; use rules, llm or both")
    settings, documents = _load(config, corpus)
    state = _alone("extract", out, journal)
    made = asyncio.run(run.extract(settings, documents, out, extractor, state))  # type: ignore[arg-type]
    files = tuple(out / name for name in ("edges.jsonl", "graph.graphml", "funnel.json"))
    with all_or_none(*(path for file in files for path in (file, path_of(file)))):
        run.write(out, made)
        _sidecars(settings, corpus, files, "extract")
    if as_json:
        typer.echo(json.dumps(made.funnel, sort_keys=True))
    else:
        typer.echo(f"{len(made.edges)} triples from {len(documents)} documents -> {out}")
    _complete(made.unavailable, "passages", state)


def _proposed(
    verb: str,
    endpoints: Callable[[Config], dict[str, EndpointConfig]],
    ask: Callable[..., Coroutine[Any, Any, Result]],
    journals: Callable[[Path], dict[str, Path]],
    config: Path,
    corpus: Path,
    out: Path,
    journal: Path | None,
) -> Result:
    """Run agents that propose candidates, and write what they gave."""
    import asyncio

    from qwenlong.core.files import all_or_none, write_json
    from qwenlong.core.provenance import path_of
    from qwenlong.synthesis import agents
    from qwenlong.synthesis.mase import output

    settings, documents = _load(config, corpus)
    roles = endpoints(settings)
    state = _alone(verb, out, journal)

    async def go() -> Result:
        async with agents.clients(roles, state / "cache") as clients:
            try:
                return await ask(settings, documents, state, clients)
            finally:
                # A run that fails has cost something too.
                write_json(out / "usage.json", agents.usage(clients, journals(state)))

    made = asyncio.run(go())
    files = (out / "candidates.jsonl", out / "funnel.json")
    with all_or_none(*(path for file in files for path in (file, path_of(file)))):
        output.write(files[0], made.candidates)
        write_json(files[1], made.funnel)
        _sidecars(settings, corpus, files, verb)
    return made


def _told(made: Result, counts: dict[str, Any], what: str, out: Path, journal: Path | None, as_json: bool) -> None:
    """Print the counts; raise QwenlongError when an outage left something open."""
    lines = "\n".join(f"  {name:<16}{value:>8}" for name, value in counts.items())
    typer.echo(json.dumps(made.funnel, sort_keys=True) if as_json else f"{lines}\nwritten to {out}")
    _complete(made.unavailable, what, journal or out / "journal")


def _alone(verb: str, out: Path, journal: Path | None) -> Path:
    """Return the folder of the journals, for this process alone until it ends.

    Raises QwenlongError naming the process that works on the same output or the same journals.
    """
    from qwenlong.core import ownership

    state = journal or out / "journal"
    for folder in (out, state):
        ownership.lock(folder / ".lock", f"`synthesize {verb}`", folder)
    return state


def _load(config: Path, corpus: Path) -> tuple[Config, list[Any]]:
    from qwenlong.core import config_files
    from qwenlong.core.files import read_parquet
    from qwenlong.core.records import Document

    return config_files.load(config).for_data(), read_parquet(corpus / "documents.parquet", Document)


def _sidecars(settings: Config, corpus: Path, files: tuple[Path, ...], section: str) -> None:
    from qwenlong.core.provenance import sidecar

    for file in files:
        sidecar(
            file,
            inputs={"documents": corpus / "documents.parquet"},
            config=settings.synthesis.model_dump(mode="json")[section],
            packages=["synthesis", "rewards"],
            seed=settings.run.seed,
        )


def _complete(unavailable: int, what: str, state: Path) -> None:
    """Raise QwenlongError (exit code 1) when an outage left something open; what there is has been written."""
    if unavailable:
        raise QwenlongError(
            f"{unavailable} {what} without a reply from the endpoint; what was answered is kept in {state}: "
            "run the same command again when the endpoint answers"
        )
