"""`qwenlong ray`: Ray on the machines of a job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Ray on the machines of a job: a command within it, checks, one machine.")
ConfigFile = Annotated[Path, typer.Option(help="Configuration file; engine.nodes and engine.ray are read.")]
_REST = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


@app.command(context_settings=_REST)
def run(
    config: ConfigFile,
    command: Annotated[list[str], typer.Argument(help="Command and its arguments, after --.")],
) -> None:
    """Start Ray on engine.nodes machines of this Slurm job, check them, run COMMAND, end Ray.

    With one machine COMMAND takes this process's place. The exit code is COMMAND's.
    """
    from qwenlong.core import config_files
    from qwenlong.training.ray_cluster import run as work

    raise SystemExit(work.run(config_files.load(config), config, command))


@app.command(context_settings=_REST)
def check(
    config: ConfigFile,
    address: Annotated[str, typer.Option(help="HOST:PORT of a running Ray.")],
    command: Annotated[list[str] | None, typer.Argument(help="Run if all is well, with RAY_ADDRESS set.")] = None,
) -> None:
    """Look whether a Ray has all machines, GPUs, equal versions and ways between them; then run COMMAND."""
    from qwenlong.core import config_files
    from qwenlong.training.ray_cluster import health

    settings = config_files.load(config)
    nodes = health.check(settings.engine, address, Path(settings.run.results))
    for node in nodes:
        typer.echo(f"{node.host} ({node.address}): {node.gpus} GPUs, code {node.versions['code']}", err=True)
    if command:
        os.environ["RAY_ADDRESS"] = address
        os.execvp(command[0], command)


@app.command()
def node(
    config: ConfigFile,
    head: Annotated[str, typer.Option(help="HOST:PORT of the first machine's Ray, by address.")],
    role: Annotated[str, typer.Option(help="head, worker, or auto: head is who has the address.")] = "auto",
    until_stdin_ends: Annotated[bool, typer.Option(help="End with stdin, too.")] = False,
) -> None:
    """Run this machine's Ray in the foreground until SIGTERM; what `ray run` starts on each machine."""
    from qwenlong.core import config_files
    from qwenlong.core.errors import UsageError
    from qwenlong.training.ray_cluster import node as work

    host, _, port = head.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--head {head!r} is no HOST:PORT")
    if role not in ("auto", "head", "worker"):
        raise UsageError(f"--role {role!r}; use auto, head or worker")
    engine = config_files.load(config).engine
    raise SystemExit(work.serve(engine, host, int(port), watch_stdin=until_stdin_ends, role=role))
