"""`qwenlong train`: RL stages, base model, selection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.core.config import RL_STAGES
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
    dry_run: Annotated[bool, typer.Option(help="Print the settings that differ from verl's and stop.")] = False,
    expanded: Annotated[bool, typer.Option(help="With --dry-run: print verl's whole configuration as YAML.")] = False,
    as_json: Json = False,
) -> None:
    """Train one RL stage with verl; run again, it goes on at its last whole checkpoint."""
    import json

    from qwenlong.core import config_files, processes, provenance, tracking
    from qwenlong.core.errors import UsageError
    from qwenlong.training.verl_plugin import launch

    if expanded and not dry_run:
        raise UsageError("--expanded prints what --dry-run would train with; give both")
    settings = config_files.load(config)
    try:
        resolved = settings.ablation(name) if ablation else settings.stage(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if expanded:
        from omegaconf import OmegaConf

        from qwenlong.training.verl_plugin.expand import expand as whole

        inputs = {"samples": samples, "documents": documents, "model": model, "state": out}
        typer.echo(OmegaConf.to_yaml(whole(settings, name, resolved, inputs), sort_keys=True), nl=False)
        return
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
            config={
                "stage": resolved.model_dump(mode="json"),
                "engine": settings.engine.model_dump(mode="json", exclude={"ray"}),
            },
            packages=["training", "rewards", "inference", "memory_agent"],
            seed=settings.run.seed,
            extra=summary,
        )
        run.set_tags({"attempts": str(len(summary["attempts"]))})
    typer.echo(json.dumps(summary) if as_json else f"{label}: {resolved.steps} steps, policy in {out}")


@app.command()
def expand(
    config: Annotated[Path, typer.Option(help="Configuration file.")],
    out: Annotated[Path, typer.Option(help="Folder for <stage>.yaml.")],
    shape: Annotated[Path | None, typer.Option(help="The model's config.json: estimate memory per GPU too.")] = None,
    check: Annotated[bool, typer.Option(help="Let verl's own validator read what is written.")] = True,
    as_json: Json = False,
) -> None:
    """Write verl's whole configuration of each RL stage; needs neither GPU nor model nor data."""
    import json

    from qwenlong.core import config_files
    from qwenlong.core.config.fit import model_faults
    from qwenlong.core.errors import ConfigError
    from qwenlong.core.files import read_json
    from qwenlong.training import memory
    from qwenlong.training.verl_plugin import expand as work

    settings = config_files.load(config)
    result: dict[str, Any] = {}
    if shape is not None:
        model = read_json(shape)
        for name in RL_STAGES:
            row = sum(settings.stage(name).row_limits)
            if faults := model_faults(settings.engine, row, model, str(shape)):
                raise ConfigError("\n".join(faults))
            parts = {"row_tokens": row, "training": memory.training_bytes(model, settings.engine, row)}
            result[name] = parts | {"rollout": memory.rollout_bytes(model, settings.engine, row)}
    files = work.write(settings, str(config), out, check=check)
    if as_json:
        typer.echo(json.dumps({"files": [str(file) for file in files], "bytes_per_gpu": result}))
        return
    for name, parts in result.items():
        for kind in ("training", "rollout"):
            terms = ", ".join(f"{key} {value / 1e9:.1f}" for key, value in parts[kind].items())
            typer.echo(f"{name}, {kind}, GB per GPU at rows of {parts['row_tokens']} tokens: {terms}")
    typer.echo(f"{len(files)} configurations in {out}" + (", accepted by verl" if check else ""))
