"""`qwenlong doctor`, `qwenlong config`, `qwenlong pipeline`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

doctor_app = typer.Typer()
config_app = typer.Typer(no_args_is_help=True, help="Check, print and describe configurations.")
pipeline_app = typer.Typer(no_args_is_help=True, help="Begin and end the MLflow run of a pipeline.")

_Config = Annotated[Path, typer.Option("--config", help="Configuration file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Status(StrEnum):
    """How a pipeline ended."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"


@doctor_app.command()
def doctor(
    results: Annotated[Path, typer.Option(help="Folder whose file system is looked at.")] = Path("."),
    json: _Json = False,
) -> None:
    """Tell what is installed, what the machine has, and which stages can run here."""
    from qwenlong.core.doctor import examine, render
    from qwenlong.core.files import dump_json

    found = examine(results)
    typer.echo(dump_json(found).rstrip() if json else render(found))


@config_app.command()
def check(file: Annotated[Path, typer.Argument(help="Configuration file.")], json: _Json = False) -> None:
    """Check a configuration: exit code 2 and every fault, one a line, when it cannot be accepted."""
    from qwenlong.core.config_files import digest, load
    from qwenlong.core.files import dump_json

    config = load(file)
    found = {"file": str(file), "run": config.run.name, "results": config.run.results, "digest": digest(config)}
    typer.echo(
        dump_json(found).rstrip() if json else f"{file} is fine: run {config.run.name}, digest {found['digest']}"
    )


@config_app.command()
def dump(
    file: Annotated[Path | None, typer.Argument(help="Configuration file; none: the defaults.")] = None,
    json: _Json = False,
) -> None:
    """Print a configuration with every default filled in."""
    import yaml

    from qwenlong.core.config import Config
    from qwenlong.core.config_files import dump as render
    from qwenlong.core.config_files import load
    from qwenlong.core.files import dump_json

    text = render(load(file) if file else Config())
    typer.echo((dump_json(yaml.safe_load(text)) if json else text).rstrip())


@config_app.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    from qwenlong.core.config_files import schema as render

    typer.echo(render().rstrip())


@pipeline_app.command()
def begin(config: _Config, json: _Json = False) -> None:
    """Begin the pipeline's MLflow run, mark runs of dead processes as failed, and print its id."""
    from qwenlong.core.config_files import load
    from qwenlong.core.files import dump_json
    from qwenlong.core.tracking import begin_pipeline

    run_id = begin_pipeline(load(config), short_lived=True)
    typer.echo(dump_json({"run_id": run_id}).rstrip() if json else run_id or "tracking is off")


@pipeline_app.command()
def end(
    config: _Config,
    status: Annotated[Status, typer.Option(help="How it ended.")] = Status.FINISHED,
) -> None:
    """End the pipeline's MLflow run."""
    from qwenlong.core.config_files import load
    from qwenlong.core.tracking import end_pipeline

    end_pipeline(load(config), status.value)
