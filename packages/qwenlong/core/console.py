"""What commands share on a terminal: errors as one line with their exit code, results as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from qwenlong.core.errors import QwenlongError


@contextmanager
def reported() -> Iterator[None]:
    """Turn a QwenlongError into its message on stderr and its exit code."""
    try:
        yield
    except QwenlongError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


def print_result(result: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print `text`, or with --json the result on one line."""
    typer.echo(json.dumps(result, sort_keys=True) if as_json else text)
