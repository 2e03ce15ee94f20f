"""`qwenlong audit`: report, verification of digests, plan."""

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
def plan(config: ConfigFile, as_json: AsJson = False) -> None:
    """List the RL stages of a configuration with their sizes; rollout tokens are upper bounds, not estimates."""
    from qwenlong.core.config_files import load

    with reported():
        rows = _plan(load(config))
        if as_json:
            typer.echo(json.dumps(rows))
            return
        lines = [list(rows[0]), *([f"{v:,}" if isinstance(v, int) else v for v in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
            typer.echo("  ".join([line[0].ljust(widths[0]), line[1].ljust(widths[1]), *padded[2:]]))


def _plan(config: Any) -> list[dict[str, Any]]:
    from qwenlong.core.config import PARENTS, RL_STAGES, AblationRow

    def row(name: str, parent: str, stage: Any) -> dict[str, Any]:
        rollouts = stage.steps * stage.batch_prompts * stage.group_size
        output = stage.max_output_tokens
        if stage.memory is not None:
            # Every chunk costs an update, the last turn the answer.
            chunks = -(-min(stage.memory.max_document_tokens, stage.max_input_tokens) // stage.memory.chunk_tokens)
            output = chunks * stage.memory.memory_tokens + stage.memory.answer_tokens
        return {
            "stage": name,
            "from": parent,
            "max input": stage.max_input_tokens,
            "max output": output,
            "steps": stage.steps,
            "prompts": stage.batch_prompts,
            "group": stage.group_size,
            "rollouts": rollouts,
            "rollout tokens at most": rollouts * output,
        }

    rows = [row(name, PARENTS[name], config.stage(name)) for name in RL_STAGES]
    named = [entry.name for entry in config.ablations.rows if isinstance(entry, AblationRow)]
    return rows + [row(f"ablation {name}", "base", config.ablation(name)) for name in named]
