"""`qwenlong train`: RL stages, base model, selection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwenlong.training.rollout_commands import app

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="rl_1, rl_2, rl_3, memory_rl, rl_4, naive_grpo, or a row of ablations")],
    config: Annotated[Path, typer.Option(help="Configuration file.")],
    samples: Annotated[Path, typer.Option(help="Training samples (Parquet of Sample).")],
    documents: Annotated[Path, typer.Option(help="Their documents (Parquet of Document).")],
    model: Annotated[Path, typer.Option(help="Hugging Face directory of the model the stage starts from.")],
    out: Annotated[Path, typer.Option(help="Folder for the policy's shards, stage.json and metrics.jsonl.")],
    ablation: Annotated[bool, typer.Option(help="NAME is a row of ablations.rows.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print verl's settings and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train one RL stage with verl; run again, it goes on at its last whole checkpoint."""
    import json

    from qwenlong.core import config_files, processes, provenance, tracking
    from qwenlong.core.errors import UsageError
    from qwenlong.training.verl_plugin import launch

    settings = config_files.load(config)
    try:
        resolved = settings.ablation(name) if ablation else settings.stage(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if dry_run:
        values = launch.overrides(
            settings, resolved, samples=samples, documents=documents, model=model, state=out, resume=None
        )
        typer.echo(json.dumps(values, indent=2, sort_keys=True))
        return
    label = f"ablation_{name}" if ablation else name
    with (
        processes.register(Path(settings.run.results), label),
        tracking.stage(settings, label, resolved.model_dump(mode="json")) as run,
    ):
        work = launch.Stage(label, settings, resolved, samples=samples, documents=documents, model=model, out=out)
        summary = launch.train(work, run)
        provenance.sidecar(
            out,
            inputs={"samples": samples, "documents": documents, "model": model},
            config={"stage": resolved.model_dump(mode="json"), "engine": settings.engine.model_dump(mode="json")},
            packages=["training", "rewards", "inference", "memory_agent"],
            seed=settings.run.seed,
            extra=summary,
        )
        run.set_tags({"attempts": str(len(summary["attempts"]))})
    typer.echo(json.dumps(summary) if as_json else f"{label}: {resolved.steps} steps, policy in {out}")
