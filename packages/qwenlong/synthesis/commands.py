"""`qwenlong synthesize`: make samples, check them, show one, export the graph, ask agents for more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.errors import DataError, UsageError
from qwenlong.datacard.commands import card
from qwenlong.synthesis.agent_commands import extract, mase, nl2sql
from qwenlong.synthesis.screen_commands import screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwenlong.core.config import Config
    from qwenlong.synthesis.checker.check import Report

app = typer.Typer(help="Questions whose answers are computed from the documents.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `synthesize run` wrote.")]
Edges = Annotated[
    list[Path] | None,
    typer.Option(help="edges.jsonl of `synthesize extract`, whose triples join the graph; may be given several times."),
]
#: Faults that `check` prints; all of them are in its JSON.
SHOWN_FAULTS = 20


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="Configuration file.")],
    out: Annotated[Path, typer.Option(help="Folder for the samples, their documents and funnel.json.")],
    corpus: Annotated[Path | None, typer.Option(help="Folder with documents.parquet; default: built here.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer folder; default: made here.")] = None,
    edges: Edges = None,
    candidates: Annotated[
        list[Path] | None,
        typer.Option(help="candidates.jsonl of `mase` (or nl2sql) for the training samples; repeat for more."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make samples of all tasks. Without --corpus and --tokenizer both are made under OUT/.work first."""
    from qwenlong.core import config_files, ownership, tracking
    from qwenlong.core.files import read_parquet
    from qwenlong.core.records import Document
    from qwenlong.core.tokens import Tokenizer
    from qwenlong.synthesis.mase.output import read
    from qwenlong.synthesis.output import write
    from qwenlong.synthesis.rewrite import rewrite
    from qwenlong.synthesis.run import synthesize

    settings = config_files.load(config).for_data()
    files = candidates or []
    # Read before anything is made: a broken line should not cost a run.
    extra = [one for path in files for one in read(path)]
    ownership.lock(out / ".lock", "`synthesize run`", out)
    with tracking.stage(settings, "synthesis", settings.synthesis.model_dump(mode="json")) as tracked:
        corpus = corpus or _built_corpus(settings, out / ".work")
        file = corpus / "documents.parquet"
        documents = read_parquet(file, Document)
        folder = tokenizer or _built_tokenizer(settings, documents, out / ".work")
        result = synthesize(
            settings,
            documents,
            Tokenizer(folder),
            edges=_read_edges(edges),
            extra=extra,
            benchmark=_benchmark(settings),
        )
        result = rewrite(settings, result, Tokenizer(folder), out)
        inputs = {"documents": file, "tokenizer": folder}
        inputs |= {f"edges_{number}": path for number, path in enumerate(edges or (), 1)}
        inputs |= {f"candidates_{number}": path for number, path in enumerate(files, 1)}
        write(settings, result, out, inputs)
        counts = _counts(result.funnel)
        tracked.log_metrics({f"{output}/{task}": float(n) for task, row in counts.items() for output, n in row.items()})
    if as_json:
        typer.echo(json.dumps(result.funnel, sort_keys=True))
        return
    _print_funnel(result.funnel)
    if "extra" in result.funnel:
        typer.echo(f"candidates of files: {json.dumps(result.funnel['extra'], sort_keys=True)}")
    typer.echo(f"written to {out}; `qwenlong synthesize check {out}` proves them again")


def _built_corpus(settings: Config, work: Path) -> Path:
    """Fetch and build the corpus under `work`; what is already in the cache is not fetched again."""
    from qwenlong.corpus import judge
    from qwenlong.corpus.build import build, judge_open, write
    from qwenlong.corpus.fetch import fetch_all
    from qwenlong.corpus.sources import packages

    cache = Path(settings.corpus.cache)
    fetch_all(packages(settings.corpus), cache)
    documents, stats = build(settings, cache)
    write(settings, cache, work / "corpus", documents, stats)
    judge.complete(judge_open(stats), judge.folder(settings))
    return work / "corpus"


def _benchmark(settings: Config) -> Callable[[str], object] | None:
    """Return what tells whether a question stands in a benchmark of corpus.decontaminate; none when it names none."""
    if not settings.corpus.decontaminate:
        return None
    from qwenlong.corpus import decontaminate

    return decontaminate.read(settings.corpus.decontaminate).question


def _built_tokenizer(settings: Config, documents: list[Any], work: Path) -> Path:
    from qwenlong.training import tokenizer as made

    made.build(settings, documents, work / "tokenizer")
    return work / "tokenizer"


def _counts(funnel: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {task: {name: steps["kept"] for name, steps in row.items()} for task, row in funnel["tasks"].items()}


def _print_funnel(funnel: dict[str, Any]) -> None:
    from qwenlong.synthesis.run import STEPS

    columns = [*STEPS, "wanted"]
    typer.echo(f"{'task':<22}{'output':<13}" + "".join(f"{name.replace('_', ' '):>13}" for name in columns))
    for task, row in funnel["tasks"].items():
        for output, steps in row.items():
            typer.echo(f"{task:<22}{output:<13}" + "".join(f"{steps[name]:>13}" for name in columns))


@app.command()
def check(
    folder: Folder,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer folder; default: DIR/.work/tokenizer or DIR/../tokenizer.")
    ] = None,
    max_not_derivable: Annotated[
        float | None,
        typer.Option(metavar="SHARE", min=0, max=1, help="Fail above this share of samples that nothing derives."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Derive every answer again from the documents' text; exit code 1 names the first faults."""
    from qwenlong.core.tokens import Tokenizer
    from qwenlong.synthesis.checker.check import check as verify
    from qwenlong.synthesis.checker.check import load

    sets, documents = load(folder)
    candidates = [tokenizer] if tokenizer else [folder / ".work" / "tokenizer", folder.parent / "tokenizer"]
    found = next((path for path in candidates if (path / "tokenizer.json").is_file()), None)
    if tokenizer is not None and found is None:
        raise DataError(f"--tokenizer {tokenizer} has no tokenizer.json; give the folder that counted the samples")
    report = verify(sets, documents, Tokenizer(found) if found else None)
    if as_json:
        typer.echo(json.dumps(report.summary(), sort_keys=True, ensure_ascii=False))
    else:
        _print_report(report, counted=found is not None)
    if not report.ok:
        first = "\n".join(f"  {fault}" for fault in report.faults[:SHOWN_FAULTS])
        raise DataError(f"{folder}: {len(report.faults)} faults; run synthesis again. The first:\n{first}")
    if max_not_derivable is not None and report.not_derivable_share > max_not_derivable:
        raise DataError(
            f"{folder}: {report.not_derivable} of {report.checked} samples are not derivable "
            f"({report.not_derivable_share:.2%}), above --max-not-derivable {max_not_derivable:.2%}; "
            "leave out candidates that a model proposed, or allow more"
        )


def _print_report(report: Report, counted: bool) -> None:
    typer.echo(f"{'task':<22}{'template':<28}" + "".join(f"{name.replace('_', ' '):>15}" for name in report.columns))
    for row in report.rows():
        cells = "".join(f"{row[name]:>15}" for name in report.columns)
        typer.echo(f"{row['task']:<22}{row['template']:<28}{cells}")
    tokens = f"tokens of {report.tokens_counted} counted" if counted else "tokens not counted (no --tokenizer)"
    typer.echo(
        f"{report.checked} samples: {report.derived} answers derived again, {report.not_derivable} not derivable "
        f"({report.not_derivable_share:.2%}), {tokens}, {len(report.faults)} faults"
    )


@app.command()
def show(
    sample: Annotated[str | None, typer.Argument(metavar="[ID]", help="Id of a sample, or its beginning.")] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder or Parquet file of samples; default: the folder of --config."),
    ] = None,
    documents: Annotated[
        Path | None, typer.Option(help="Parquet file of their documents; default: found near the samples.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration whose results are looked into; default: the laptop's.")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Show whole documents, those without evidence too.")] = False,
    context: Annotated[int, typer.Option(min=0, help="Lines shown around evidence.")] = 2,
    random: Annotated[bool, typer.Option("--random", help="Draw a sample instead of naming one.")] = False,
    task: Annotated[str | None, typer.Option(help="With --random: a sample of this task.")] = None,
    seed: Annotated[int, typer.Option(help="With --random: the seed of the draw.")] = 17,
    as_json: Json = False,
) -> None:
    """Print one sample: evidence highlighted in its surroundings, each reasoning step beside it, checks, answer."""
    from rich.console import Console

    from qwenlong.core.config import Config
    from qwenlong.core.config_files import load as load_config
    from qwenlong.synthesis import find
    from qwenlong.synthesis.show import lines

    if (sample is None) != random:
        raise UsageError("give either the id of a sample or --random, which draws one")
    if task is not None and not random:
        raise UsageError("--task goes with --random; an id names its sample already")
    if data is None:
        data = Path((load_config(config) if config else Config()).run.results) / "synthesis"
    sets, known = find.load(data, documents)
    found = find.by_id(sets, sample, data) if sample is not None else find.drawn(sets, task, seed, data)
    if as_json:
        # ASCII: what a document brings along stays escaped.
        typer.echo(json.dumps(found.model_dump(mode="json")))
        return
    console = Console(highlight=False, markup=False, emoji=False)
    for line in lines(found, known, whole=whole, styled=console.is_terminal, context=context):
        console.print(line, soft_wrap=True)


@app.command()
def graph(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with documents.parquet.")],
    out: Annotated[Path, typer.Option(help="File; its suffix says how: .graphml or .json (node-link).")],
    edges: Edges = None,
    config: Annotated[Path | None, typer.Option(help="Configuration with synthesis.graph; default: defaults.")] = None,
    as_json: Json = False,
) -> None:
    """Export the knowledge graph of a folder's documents, names of extracted triples resolved."""
    from qwenlong.core import config_files
    from qwenlong.core.config import Config
    from qwenlong.core.files import read_parquet
    from qwenlong.core.records import Document
    from qwenlong.synthesis import graph_files
    from qwenlong.synthesis.graph import build
    from qwenlong.synthesis.intake import accept
    from qwenlong.synthesis.merged import merge

    graph_files.check_suffix(out)
    read = _read_edges(edges)
    documents = sorted(read_parquet(folder / "documents.parquet", Document), key=lambda d: d.id)
    settings = (config_files.load(config) if config else Config()).synthesis.graph
    rules = build(documents).edges
    stated, taken = accept(read, documents, rules)
    made = merge(rules, stated, documents, settings, every=True)
    exported = made.knowledge()
    graph_files.write(exported, out, made.resolution)
    sizes = {"nodes": exported.graph.number_of_nodes(), "edges": exported.graph.number_of_edges(), "output": str(out)}
    if edges:
        sizes |= {"intake": taken, "resolved": dict(made.resolution.counts)}
    typer.echo(json.dumps(sizes) if as_json else f"{sizes['nodes']} nodes, {sizes['edges']} edges -> {out}")


def _read_edges(paths: list[Path] | None) -> list[Any]:
    from qwenlong.synthesis.extract.run import read

    return [edge for path in paths or () for edge in read(path)]


app.command()(mase)
app.command()(extract)
app.command()(screen)
app.command()(nl2sql)
app.command()(card)
