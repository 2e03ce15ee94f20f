"""Scores and differences on a terminal, in percent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import typer


def rows(table: Mapping[str, Any], signed: bool = False, notes: Mapping[str, str] | None = None) -> None:
    """Print a line a metric that has a value, with its interval, the number of items and its note."""
    for name, metric in table.items():
        if metric["value"] is None:
            continue
        shown = f"{100 * metric['value']:{'+' if signed else ''}.1f}"
        low_high = "" if metric["ci95"] is None else "[{:.1f}, {:.1f}]".format(*(100 * v for v in metric["ci95"]))
        line = f"  {name:<32}{shown:>8}  {low_high:<18} n={metric['n']}"
        typer.echo(f"{line:<72}{(notes or {}).get(name, '')}".rstrip())


def print_scores(scores: Mapping[str, Any], as_json: bool) -> None:
    """Print what scores.json holds but its items and their ids; with `as_json` on one line."""
    if as_json:
        shown = {key: value for key, value in scores.items() if key != "items"}
        for name in ("groups", "slices"):
            shown[name] = {group: len(ids) for group, ids in shown[name].items()}
        typer.echo(json.dumps(shown))
        return
    judge = "" if scores["judge"] is None else f", judge {scores['judge']['model']}"
    typer.echo(
        f"{scores['benchmark']} by {scores['headline']}{judge}: {scores['n_scored']} scored of "
        f"{scores['n_attempted']} attempted, in percent"
    )
    # Where everything has a score both denominators are one.
    whole = scores["n_scored"] == scores["n_attempted"]
    rows({name: m for name, m in scores["metrics"].items() if not (whole and name.endswith("_scored"))})
