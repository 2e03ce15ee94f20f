"""`qwenlong evaluate`: run benchmarks, score stored predictions, compare models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import UsageError
from qwenlong.evaluation import run_command

app = typer.Typer(help="Run benchmarks, score stored predictions, compare models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="BENCHMARK", help="see `qwenlong evaluate list`")]
Seed = Annotated[int, typer.Option(help="seed of the bootstrap")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("list")
def show(as_json: AsJson = False) -> None:
    """List the benchmarks."""
    from qwenlong.evaluation.registry import BENCHMARKS

    listed = sorted(BENCHMARKS.items())
    if as_json:
        typer.echo(json.dumps({name: {"agent": b.agent, "groups": list(b.groups)} for name, b in listed}))
        return
    for name, b in listed:
        typer.echo(f"{name:<16}{'memory agent' if b.agent else 'full context':<16}{', '.join(b.groups)}")


@app.command("score")
def score(
    benchmark: Name,
    examples: Annotated[Path, typer.Option(help="the benchmark's items, as given to run")],
    predictions: Annotated[Path, typer.Option(help="predictions.jsonl")],
    out: Annotated[Path, typer.Option(help="scores.json to write")],
    seed: Seed = 17,
    as_json: AsJson = False,
) -> None:
    """Score stored predictions again, without a model."""
    from qwenlong.core.files import read_jsonl, write_json
    from qwenlong.core.records import Prediction
    from qwenlong.evaluation import scoring
    from qwenlong.evaluation.registry import find

    with reported():
        chosen = find(benchmark)
        scores = scoring.score(chosen, chosen.load(examples, None), read_jsonl(predictions, Prediction), seed)
        write_json(out, scores)
        _print(scores, as_json)


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="scores.json, or the folder that holds it")],
    second: Annotated[Path, typer.Argument(metavar="B", help="scores.json, or the folder that holds it")],
    seed: Seed = 17,
    as_json: AsJson = False,
) -> None:
    """Print B - A in points, paired by item, with 95% bootstrap intervals."""
    from qwenlong.evaluation import compare as comparing

    with reported():
        found = comparing.compare(comparing.read_scores(first), comparing.read_scores(second), seed)
        if as_json:
            typer.echo(json.dumps(found))
            return
        typer.echo(f"{found['benchmark']}: {second} minus {first}, in points")
        _rows(found["difference"], signed=True)
        typer.echo(f"B above A on average in {found['share_of_resamples_above_zero']:.1%} of resamples")


@app.command("tables")
def tables(
    results: Annotated[Path, typer.Option(help="results folder of a run")],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write; default: print")] = None,
) -> None:
    """Print every evaluated model as Markdown tables, in percent with intervals."""
    from qwenlong.core.files import write_text
    from qwenlong.evaluation import compare as comparing

    with reported():
        if not results.is_dir():
            raise UsageError(f"--results {results} is no folder; give the run.results of a configuration")
        text = comparing.tables(results)
        if out is not None:
            write_text(out, text)
        else:
            typer.echo(text)


def _rows(table: dict[str, Any], signed: bool = False) -> None:
    for name, metric in table.items():
        if metric["value"] is None:
            continue
        shown = f"{100 * metric['value']:{'+' if signed else ''}.1f}"
        low_high = "" if metric["ci95"] is None else "[{:.1f}, {:.1f}]".format(*(100 * v for v in metric["ci95"]))
        typer.echo(f"  {name:<32}{shown:>8}  {low_high:<18} n={metric['n']}")


def _print(scores: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({key: value for key, value in scores.items() if key != "items"}))
        return
    typer.echo(f"{scores['benchmark']}: {scores['n_scored']} scored of {scores['n_attempted']} attempted, in percent")
    _rows(scores["metrics"])


for _verb in (run_command.run, run_command.merge, run_command.fetch):
    app.command(_verb.__name__)(_verb)
