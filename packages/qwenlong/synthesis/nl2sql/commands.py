"""`qwenlong synthesize nl2sql`: questions with SQL from a model, resumable after any kill or outage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qwenlong.synthesis.agent_commands import ConfigFile, Corpus, Journal, Json, _alone, _complete, _load, _sidecars


def nl2sql(
    config: ConfigFile,
    corpus: Corpus,
    out: Annotated[Path, typer.Option(help="Folder for candidates.jsonl, funnel.json and usage.json.")],
    journal: Journal = None,
    as_json: Json = False,
) -> None:
    """Let a model write questions with SQL over documents' tables. The same command goes on where it was stopped."""
    import asyncio

    from qwenlong.core.files import all_or_none, write_json
    from qwenlong.core.provenance import path_of
    from qwenlong.synthesis import agents
    from qwenlong.synthesis.mase import output
    from qwenlong.synthesis.nl2sql.run import Result, ask, endpoints, journals

    settings, documents = _load(config, corpus)
    roles = endpoints(settings)
    state = _alone("nl2sql", out, journal)

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
        _sidecars(settings, corpus, files, "nl2sql")
    counts = {name: value for name, value in made.funnel.items() if isinstance(value, int)}
    lines = "\n".join(f"  {name:<16}{value:>8}" for name, value in counts.items())
    typer.echo(json.dumps(made.funnel, sort_keys=True) if as_json else f"{lines}\nwritten to {out}")
    _complete(made.unavailable, "tables' questions", state)
