"""`qwenlong evaluate compare`: two models on the same items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import DataError


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="scores.json, or the folder that holds it")],
    second: Annotated[Path, typer.Argument(metavar="B", help="scores.json, or the folder that holds it")],
    seed: Annotated[int, typer.Option(help="seed of the bootstrap")] = 17,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print B - A in points, paired by item: 95% bootstrap intervals, and McNemar's test of right and wrong answers."""
    from qwenlong.evaluation import compare as comparing
    from qwenlong.evaluation.printing import rows

    with reported():
        a, b = comparing.read_scores(first), comparing.read_scores(second)
        try:
            found = comparing.compare(a, b, seed)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{first} or {second} is no scores.json ({error!r}); score both again") from error
        if as_json:
            typer.echo(json.dumps(found))
            return
        typer.echo(f"{found['benchmark']} by {found['headline']}: {second} minus {first}, in points")
        tests = {
            name: f"only A {test['only_first']}, only B {test['only_second']}, McNemar p = {test['p']:.3g}"
            for name, test in found["mcnemar"].items()
        }
        rows(found["difference"], signed=True, notes=tests)
        typer.echo(f"B above A on average in {found['share_of_resamples_above_zero']:.1%} of resamples")
        typer.echo(
            f"{found['n_common']} items in both, {found['n_only_first']} only in A, {found['n_only_second']} only in B"
        )
        if found["n_left_out"]:
            typer.echo(f"{found['n_left_out']} of the items in both are left out: their judge gave no reply in A or B")
