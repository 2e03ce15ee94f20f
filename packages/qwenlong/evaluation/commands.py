"""`qwenlong evaluate`: run benchmarks, score stored predictions, compare models."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from qwenlong.evaluation import ruler_command
from qwenlong.evaluation.compare_command import compare
from qwenlong.evaluation.rescore_command import rescore
from qwenlong.evaluation.run_command import fetch, merge, run
from qwenlong.evaluation.score_command import score
from qwenlong.evaluation.tables.command import tables

app = typer.Typer(help="Run benchmarks, score stored predictions, compare models.", no_args_is_help=True)

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
        typer.echo(f"{name:<24}{'memory agent' if b.agent else 'full context':<16}{', '.join(b.groups)}")


app.command("run")(run)
app.command("merge")(merge)
app.command("fetch")(fetch)
app.command("score")(score)
app.command("rescore")(rescore)
app.command("ruler")(ruler_command.ruler)
app.command("ruler-report")(ruler_command.report)
app.command("compare")(compare)
app.command("tables")(tables)
