"""`qwenlong audit`: report, bundle, verification, plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.core.console import reported

app = typer.Typer(help="Report, tables and checks of the claims.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", help="configuration file of the run")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("report")
def report(
    config: Annotated[Path | None, typer.Option(help="configuration file of the run")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the report; of a bundle: its own report/")] = None,
    results: Annotated[Path | None, typer.Option(help="results folder; default: run.results")] = None,
    bundle: Annotated[Path | None, typer.Option(help="bundle of several runs: write its site again")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a results folder, or the site of a bundle; what is missing in it stays blank."""
    from qwenlong.audit.bundles import layout
    from qwenlong.core.errors import UsageError

    with reported():
        if bundle is not None:
            if config is not None or results is not None:
                raise UsageError("--bundle holds its configurations and results; leave out --config and --results")
            _site(bundle, out or bundle / layout.REPORT, as_json)
            return
        if config is None or out is None:
            raise UsageError(f"--{'config' if config is None else 'out'} is missing; or name a bundle with --bundle")
        _report(config, out, results, as_json)


def _site(bundle: Path, out: Path, as_json: bool) -> None:
    from qwenlong.audit.bundles import layout
    from qwenlong.audit.site.build import build
    from qwenlong.core.files import atomic_directory

    layout.expect_bundle(bundle)
    with atomic_directory(out) as fresh:
        build(bundle, fresh)
    if out.resolve() == (bundle / layout.REPORT).resolve():
        # Only of what was written: a page made anew vouches for no prediction.
        layout.write_manifest(bundle, only=layout.REPORT)
    typer.echo(json.dumps({"index": str(out / "index.html")}) if as_json else f"site: {out / 'index.html'}")


def _report(config: Path, out: Path, results: Path | None, as_json: bool) -> None:
    from qwenlong.audit import report as reporting
    from qwenlong.core import provenance, tracking
    from qwenlong.core.config_files import load

    settings = load(config)
    folder = results if results is not None else Path(settings.run.results)
    with tracking.stage(settings, "audit", {"results": str(folder)}) as tracked:
        files = reporting.build(folder, settings, str(config), out)
        read = [*sorted(folder.glob("evaluation/*/*/scores.json")), *folder.glob("data_card/card.json")]
        read += [*folder.glob("models/*/MERGE.json"), *sorted(folder.glob("ablations/*/model/MERGE.json"))]
        inputs = {file.relative_to(folder).as_posix(): file for file in read}
        for file in files:
            provenance.sidecar(
                file,
                inputs=inputs,
                config=settings.model_dump(mode="json"),
                packages=("audit", "datacard"),
                seed=settings.run.seed,
            )
            tracked.log_artifact(file)
    if as_json:
        typer.echo(json.dumps({file.name: str(file) for file in files}))
    else:
        typer.echo(f"report: {files[0]}")


@app.command("bundle")
def bundle(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="results folders: runs, seeds, scales; bundles: their runs"),
    ],
    out: Annotated[Path, typer.Option(help="folder of the bundle; an older bundle there is replaced as a whole")],
    config: Annotated[
        list[Path] | None,
        typer.Option(help="a run's configuration, one for each folder in order; default: what the workflow left there"),
    ] = None,
    planned: Annotated[
        list[Path] | None, typer.Option(help="configuration of a run that has not run: its cells are blank")
    ] = None,
    environment: Annotated[
        Path | None, typer.Option(help='JSON of the machine: {"device": …, "devices": N, …}, for runs that say nothing')
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Collect what the numbers of several runs rest on, small enough to commit, with their site and all digests."""
    from qwenlong.audit.bundles import collect
    from qwenlong.core.errors import UsageError
    from qwenlong.core.files import read_json

    with reported():
        machine = read_json(environment) if environment is not None else {}
        if not isinstance(machine, dict):
            raise UsageError(f'{environment} holds no JSON object; write {{"device": …, "devices": N}}')
        chosen = collect.runs(results, config or [], planned or [])
        index = collect.bundle(chosen, out, machine)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        if as_json:
            typer.echo(json.dumps({"bytes": size} | index))
            return
        for name, lines in index["left_out"].items():
            for line in lines:
                typer.echo(f"left out of {name}: {line}", err=True)
        typer.echo(f"{len(index['runs'])} runs, {size / 1e6:.1f} MB: {out}/report/index.html")


@app.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="results folder of a run, or a bundle")],
    as_json: AsJson = False,
) -> None:
    """Compute digests again and name what has changed; of a bundle also every score, table and page."""
    from qwenlong.audit.bundles import layout

    with reported():
        counts, faults = _bundle(folder) if layout.is_bundle(folder) else _sidecars(folder)
        if as_json:
            typer.echo(json.dumps(counts | {"changed": faults}))
        else:
            for line in faults:
                typer.echo(line)
            said = ", ".join(f"{n} {what}" for what, n in counts.items() if isinstance(n, int))
            typer.echo(f"{said}, {len(faults)} differences")
        if faults:
            raise typer.Exit(1)


def _bundle(folder: Path) -> tuple[dict[str, Any], list[str]]:
    from qwenlong.audit.bundles.checking import verify as check

    checked = check(folder)
    for note in checked.notes:
        typer.echo(f"note: {note}", err=True)
    return {**checked.counts}, checked.faults


def _sidecars(folder: Path) -> tuple[dict[str, Any], list[str]]:
    from qwenlong.audit.verify import verify as check

    count, faults = check(folder)
    return {"sidecars": count}, faults


@app.command("plan")
def plan(
    config: ConfigFile,
    cluster: Annotated[Path | None, typer.Option(help="YAML: gpus, cores, speed, gpu_memory_gb, disk_gb")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="GPUs; default: those of training")] = None,
    results: Annotated[Path | None, typer.Option(help="results folder: what was measured beside the plan")] = None,
    assumptions: Annotated[Path | None, typer.Option(help="YAML that replaces or adds assumptions")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a run costs before it is paid for: GPU-hours, tokens, calls, disk and wall time, with sources."""
    from qwenlong.audit.planning import printing, report
    from qwenlong.audit.planning.cluster import Cluster, read
    from qwenlong.core.config_files import load
    from qwenlong.core.errors import UsageError

    with reported():
        if cluster is not None and gpus is not None:
            raise UsageError("--cluster and --gpus both name a number of GPUs; give one of them")
        wanted = read(cluster) if cluster is not None else Cluster(gpus=gpus)
        value = report.build(load(config), wanted, assumptions=assumptions, results=results)
        typer.echo(json.dumps(value, ensure_ascii=False) if as_json else printing.render(value))
