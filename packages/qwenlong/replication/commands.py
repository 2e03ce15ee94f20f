"""`qwenlong replicate check | run | status | pack | unpack`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import print_result, reported

if TYPE_CHECKING:
    from qwenlong.replication.plan import Run

app = typer.Typer(
    no_args_is_help=True, help="Experiments in pieces on a lent machine: run a plan, pack results, unpack them."
)
PlanOption = Annotated[Path, typer.Argument(metavar="PLAN", help="List of runs; configs/plans/h200.yaml.")]
Only = Annotated[list[str] | None, typer.Option(help="Only runs whose name begins so; repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Weights = Annotated[bool, typer.Option(help="Pack weights while there is room.")]
Pieces = Annotated[int, typer.Option(min=1, help="Parts of 16 MiB at most; they may be carried one after the other.")]


@app.command()
def check(plan: PlanOption, only: Only = None, as_json: Json = False) -> None:
    """Say what each run of a plan would do now, and which targets nobody makes; nothing is made.

    Exit code 1 when a run is impossible. Before a machine is lent, where its results lie.
    """
    from dataclasses import asdict

    from qwenlong.replication.foresight import foresee

    with reported():
        found = foresee(_chosen(plan, only))
    print_result({"runs": [asdict(one) for one in found]}, "\n".join(one.said() for one in found), as_json)
    raise typer.Exit(int(any(one.state == "impossible" for one in found)))


@app.command()
def run(
    plan: PlanOption,
    minutes: Annotated[float, typer.Option(min=0.1, help="All in all: runs, their end, and packing.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the packed results; none: nothing is packed.")] = None,
    only: Only = None,
    cores: Annotated[int, typer.Option(min=1, help="Cores for all runs together.")] = 16,
    at_once: Annotated[int, typer.Option(min=1, help="Runs at a time; they share the cores and the GPU.")] = 1,
    pack_seconds: Annotated[float, typer.Option(min=0, help="Of the minutes, kept for packing.")] = 30.0,
    ray: Annotated[bool, typer.Option("--ray", help="One Ray for all stages; trainings then go one by one.")] = False,
    weights: Weights = True,
    pieces: Pieces = 4,
    as_json: Json = False,
) -> None:
    """Run a plan within a time limit and pack what it left; run again, it goes on.

    Exit code 0 when all runs are complete, 75 when some wait for more time, 1 when one failed.
    """
    import contextlib
    import signal
    from dataclasses import asdict

    from qwenlong.replication import drive, packing

    began = time.monotonic()
    told: list[int] = []
    with reported():
        runs = _chosen(plan, only)
        signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        drive.keep(runs)
        left = 60 * minutes - (pack_seconds if out is not None else 0)
        one: contextlib.AbstractContextManager[dict[str, str]]
        one = drive.shared_ray(Path(runs[0].file)) if ray else contextlib.nullcontext({})
        with one as variables:
            outcomes = drive.drive(
                runs, seconds=left - (time.monotonic() - began), cores=cores, at_once=at_once, variables=variables,
                told=lambda: bool(told),
            )  # fmt: skip
        listed = packing.pack(runs, out, weights=weights, pieces=pieces) if out is not None else None
    result = {
        "runs": [asdict(outcome) for outcome in outcomes],
        "seconds": round(time.monotonic() - began, 1),
        "packed": None if listed is None else {key: listed[key] for key in ("parts", "bytes", "omitted")},
    }
    lines = [outcome.said() for outcome in outcomes]
    if listed is not None:
        lines.append(_said(listed, out))
    print_result(result, "\n".join(lines), as_json)
    states = {outcome.state for outcome in outcomes}
    raise typer.Exit(1 if "failed" in states else 0 if states <= {"complete"} else 75)


@app.command()
def status(plan: PlanOption, only: Only = None, as_json: Json = False) -> None:
    """Say which runs of a plan are complete."""
    with reported():
        runs = _chosen(plan, only)
        found = {run.name: run.complete() for run in runs}
    lines = [f"{run.name}: {'complete' if found[run.name] else 'open'} ({run.results})" for run in runs]
    print_result(found, "\n".join(lines), as_json)


@app.command()
def pack(
    plan: PlanOption,
    out: Annotated[Path, typer.Option(help="Folder for part-*.tar and pack.json.")],
    only: Only = None,
    everything: Annotated[bool, typer.Option("--all", help="What was unpacked here, too.")] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Of complete runs only that they are.")] = False,
    weights: Weights = True,
    pieces: Pieces = 4,
    as_json: Json = False,
) -> None:
    """Pack results of a plan's runs: parts of 16 MiB, and the list of what is in them."""
    from qwenlong.replication import packing

    with reported():
        listed = packing.pack(
            _chosen(plan, only), out, everything=everything, unfinished=unfinished, weights=weights, pieces=pieces
        )
    print_result(listed, _said(listed, out), as_json)


@app.command()
def unpack(
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Parts, or folders of parts, of one pack.")],
    remember: Annotated[bool, typer.Option(help="Leave these files out of the next pack made here.")] = True,
    partial: Annotated[bool, typer.Option("--partial", help="Last parts are missing: take what is whole.")] = False,
    as_json: Json = False,
) -> None:
    """Put packed results in their places below the working directory, checked first."""
    from qwenlong.replication import packing

    with reported():
        result = packing.unpack(sources, remember=remember, partial=partial)
    text = f"{result['files']} files written, {len(result['weights'])} of them weights"
    if result["cut"]:
        text += f"; cut off: {', '.join(result['cut'])}"
    print_result(result, text, as_json)


def _chosen(plan: Path, only: list[str] | None) -> list[Run]:
    from qwenlong.core.errors import UsageError
    from qwenlong.replication.plan import load

    runs = load(plan)
    chosen = [run for run in runs if not only or run.name.startswith(tuple(only))]
    if not chosen:
        raise UsageError(f"--only {', '.join(only or [])}: no such run; {plan} has {', '.join(r.name for r in runs)}")
    return chosen


def _said(listed: dict[str, Any], out: Path | None) -> str:
    left = f"; left out for want of room: {', '.join(listed['omitted'])}" if listed["omitted"] else ""
    return f"{len(listed['files'])} files, {listed['bytes'] / 2**20:.1f} MiB in {listed['parts']} parts, in {out}{left}"
