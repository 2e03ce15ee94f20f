"""`qwenlong serve`: a service of the configuration, alone, around a command, or for a job of the workflow."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import UsageError

if TYPE_CHECKING:
    from qwenlong.serving.run import Order

#: Seconds between two looks at the services of a command.
_LOOK = 10.0


def serve(
    names: Annotated[
        str, typer.Argument(metavar="NAME[,NAME]", help="service of the configuration; several before a COMMAND")
    ],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="run this while the services are up")
    ] = None,
    config: Annotated[Path, typer.Option(help="configuration file")] = Path("configs/laptop.yaml"),
    model: Annotated[str | None, typer.Option(help="serve this model with the service's settings")] = None,
    lease: Annotated[
        Path | None,
        typer.Option(
            help="start it if need be, write this lease when it answers, and end; it serves until the file is removed"
        ),
    ] = None,
    leased: Annotated[bool, typer.Option("--leased", help="end when no consumer holds a lease any more")] = False,
    stay: Annotated[bool, typer.Option("--stay", help="outlive the shell or program that started it")] = False,
    show: Annotated[
        bool, typer.Option("--print", help="print the command lines of the replicas, and start nothing")
    ] = False,
) -> None:
    """Serve a model: replicas behind one address, restarted when they crash, found by `service:NAME`."""
    with reported():
        if sum([command is not None, lease is not None, leased, show]) > 1:
            raise UsageError("a COMMAND, --lease, --leased and --print exclude each other; give one of them")
        wanted = [name for name in names.split(",") if name]
        if not wanted or (len(wanted) > 1 and not (command or show)):
            raise UsageError(f"{names!r}: name one service; several go before a COMMAND or with --print")
        try:
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise UsageError(f"{error.name} is not installed; pip install 'qwenlong[agent]'") from error
        from qwenlong.core.logs import setup

        setup()
        orders = [_order(config, name, model, leased=leased, stay=stay) for name in wanted]
        if show:
            for order in orders:
                _print(order)
        elif command:
            code = _around(orders, config, model, command)
            raise typer.Exit(code)
        elif lease is not None:
            _lease(orders[0], config, model, lease)
        else:
            from qwenlong.core.processes import join
            from qwenlong.serving import run

            join(orders[0].folder.parents[2])
            run.run(orders[0], lambda url: typer.echo(f"{orders[0].name} ({orders[0].service.served_name}) at {url}"))


def _order(config: Path, name: str, model: str | None, **how: bool) -> Order:
    from qwenlong.core.config.services import instance
    from qwenlong.core.config_files import load
    from qwenlong.serving import run

    settings = load(config)
    service = run.chosen(dict(settings.services), name, model)
    own = instance(name, model)
    results = Path(settings.run.results).resolve()
    return run.Order(own, service, results / "state" / "services" / own, results / "logs" / "services" / own, **how)


def _words(order: Order, config: Path, model: str | None) -> list[str]:
    """Return the command that serves an order for its consumers."""
    name = order.name if model is None else order.name.rsplit("-", 1)[0]
    return ["serve", name, "--config", str(config.resolve()), "--leased", *(["--model", model] if model else [])]


def _around(orders: list[Order], config: Path, model: str | None, command: list[str]) -> int:
    """Run a command while the services are up; return its exit code."""
    from qwenlong.core.processes import terminate_as_exit
    from qwenlong.serving import leases, start

    with ExitStack() as stack:
        stack.enter_context(terminate_as_exit())
        for order in orders:
            stack.callback(start.withdraw, order)
            stack.enter_context(leases.held(order.folder))
        for order in orders:
            start.ensure(order, _words(order, config, model))

        def look() -> None:
            for order in orders:
                start.revive(order, _words(order, config, model))

        child = _started(command)
        try:
            code = _waited(child, look)
        except BaseException:
            # Told to end: so is the command, which has its own way of ending.
            child.send_signal(signal.SIGTERM)
            child.wait()
            raise
        return 128 - code if code < 0 else code


def _waited(child: subprocess.Popen[Any], look: Callable[[], object]) -> int:
    """Return a command's exit code; look after its services while it runs."""
    while True:
        try:
            return child.wait(timeout=_LOOK)
        except subprocess.TimeoutExpired:
            look()


def _started(command: list[str]) -> subprocess.Popen[Any]:
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise UsageError(f"cannot run {command[0]!r}: {error.strerror}") from error


def _lease(order: Order, config: Path, model: str | None, file: Path) -> None:
    from qwenlong.core.ownership import VARIABLE, Identity
    from qwenlong.serving import leases, start

    if file.resolve().parent != leases.folder(order.folder) or file.suffix != ".json":
        raise UsageError(f"--lease {file}: a lease of this service is a file {leases.folder(order.folder)}/NAME.json")
    owner = leases.owner(os.environ.get(VARIABLE))
    if owner is None:
        # Nobody else outlives this command: the shell that called it does.
        owner = Identity.of(os.getppid()) or Identity.own()
    with leases.held(order.folder):
        start.ensure(order, _words(order, config, model))
        leases.write(file, owner)


def _print(order: Order) -> None:
    from qwenlong.serving import argv

    service = order.service
    several = service.nodes > 1
    for rank in range(service.nodes):
        line = shlex.join(argv.words(service, "HOST", 8000, rank, "HOST0" if several else "", 29500 if several else 0))
        where = f", machine {rank + 1} of {service.nodes}" if several else ""
        typer.echo(f"# {order.name}: {service.replicas} replicas of {service.gpus_each} GPUs{where}")
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(service.environment.items()))
        typer.echo(f"{variables} {line}".strip())
    if service.where == "slurm":
        from qwenlong.serving.start import sbatch

        typer.echo(shlex.join(sbatch(order, ["serve", order.name, "--config", "CONFIG", "--leased"])))
