"""`qwenlong synthesize screen`: blind and robustness checks over an endpoint, resumable after any kill or outage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenlong.core.errors import QwenlongError, UsageError

if TYPE_CHECKING:
    from qwenlong.core.config import Config
    from qwenlong.core.records import Document, Sample
    from qwenlong.synthesis.screen import Screened


def screen(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `synthesize run` wrote.")],
    config: Annotated[Path, typer.Option(help="Configuration file.")],
    out: Annotated[Path, typer.Option(help="Folder for what stays, funnel.json, usage.json and the journals.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Set to screen, repeatable; the others are copied. Default: all.")
    ] = None,
    model: Annotated[
        bool, typer.Option("--model/--no-model", help="Ask the endpoint, or apply the rules alone.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Drop what is answered without documents or lost among more of them. The same command goes on where it stopped."""
    import asyncio

    from qwenlong.core import config_files
    from qwenlong.core.files import all_or_none, write_json, write_parquet
    from qwenlong.core.provenance import path_of, sidecar
    from qwenlong.core.records import Document, Sample
    from qwenlong.synthesis.checker.check import load

    settings = config_files.load(config).for_data()
    if out.resolve() == folder.resolve():
        raise UsageError(
            f"--out {out} is the folder that is read; give another one, or a resumed run reads its own output"
        )
    made, documents = load(folder)
    chosen = list(made) if not sets else sorted(set(sets))
    for name in chosen:
        if name not in made:
            raise UsageError(f"--set {name} is unknown; there are {', '.join(made)}")
    work = {name: made[name] for name in chosen}
    results = asyncio.run(_asked(settings, work, documents, out)) if model else _ruled(settings, work)
    names = [f"{name}.parquet" for name in made] + [f"{name}_open.parquet" for name in chosen]
    names += ["documents.parquet", "funnel.json"]
    funnel = {name: result.funnel for name, result in results.items()}
    with all_or_none(*(path for name in names for path in (out / name, path_of(out / name)))):
        for name, samples in made.items():
            result = results.get(name)
            write_parquet(out / f"{name}.parquet", samples if result is None else result.kept, Sample)
            if result is not None:
                write_parquet(out / f"{name}_open.parquet", result.open, Sample)
        write_parquet(out / "documents.parquet", list(documents.values()), Document)
        write_json(out / "funnel.json", funnel)
        for name in names:
            sidecar(
                out / name,
                inputs={file: folder / f"{file}.parquet" for file in (*made, "documents")},
                config=settings.synthesis.model_dump(mode="json")["screen"] | {"model": model},
                packages=["synthesis", "rewards"],
                seed=settings.run.seed,
            )
    if as_json:
        typer.echo(json.dumps(funnel, sort_keys=True))
    else:
        _print(results)
        typer.echo(f"written to {out}")
    left = sum(len(result.open) for result in results.values())
    if left:
        raise QwenlongError(
            f"{left} samples have questions that the endpoint did not answer; they stand in *_open.parquet, neither "
            f"kept nor dropped, and what was answered is kept in {out / 'journal'}: run the same command again"
        )


async def _asked(
    settings: Config, work: dict[str, list[Sample]], documents: dict[str, Document], out: Path
) -> dict[str, Screened]:
    from qwenlong.core.files import write_json
    from qwenlong.synthesis import agents
    from qwenlong.synthesis.screen import journals, screen

    endpoint = agents.endpoint(settings, "synthesis.screen.endpoint", settings.synthesis.screen.endpoint)
    async with agents.clients({"screen": endpoint}, out / "journal" / "cache") as clients:
        try:
            return {
                name: await screen(settings, name, samples, documents, out, clients["screen"])
                for name, samples in work.items()
            }
        finally:
            # A run that fails has cost something too.
            usage = agents.usage(clients, {part: file for part, file in journals(out).items() if file.is_file()})
            write_json(out / "usage.json", usage)


def _ruled(settings: Config, work: dict[str, list[Sample]]) -> dict[str, Screened]:
    from qwenlong.synthesis.screen import Screened, by_rules, counted

    results = {}
    for name, samples in work.items():
        kept, ruled = by_rules(samples, settings.synthesis.screen)
        results[name] = Screened(kept, [], counted(samples, dict.fromkeys(ruled, "blind_rule"), ruled))
    return results


def _print(results: dict[str, Screened]) -> None:
    from qwenlong.synthesis.screen import STEPS

    columns = ("samples", *STEPS)
    typer.echo(f"{'set':<14}" + "".join(f"{column.replace('_', ' '):>16}" for column in columns))
    for name, result in results.items():
        typer.echo(f"{name:<14}" + "".join(f"{result.funnel[column]:>16}" for column in columns))
