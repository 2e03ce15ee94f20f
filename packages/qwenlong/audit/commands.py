"""`qwenlong audit`: report, verification of digests, plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qwenlong.core.console import reported

app = typer.Typer(help="Report, tables and checks of the claims.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Option("--config", help="configuration file of the run")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("report")
def report(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="folder for report.html, tables.json, table10.md")],
    results: Annotated[Path | None, typer.Option(help="results folder; default: run.results")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a results folder; what is missing in it stays blank."""
    from qwenlong.audit import report as reporting
    from qwenlong.core import provenance, tracking
    from qwenlong.core.config_files import load

    with reported():
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


@app.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="results folder of a run")],
    as_json: AsJson = False,
) -> None:
    """Compute the digests of all outputs and inputs again and name what has changed."""
    from qwenlong.audit.verify import verify as check

    with reported():
        count, faults = check(folder)
        if as_json:
            typer.echo(json.dumps({"sidecars": count, "changed": faults}))
        else:
            for line in faults:
                typer.echo(line)
            typer.echo(f"{count} sidecars, {len(faults)} differences")
        if faults:
            raise typer.Exit(1)


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
