"""`qwenlong checkpoint`: convert, merge and verify checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import print_result

if TYPE_CHECKING:
    from qwenlong.core.config import Config
    from qwenlong.core.tracking import Run

app = typer.Typer(help="Convert, merge and verify checkpoints.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Option(help="Configuration file; with it the work is tracked in MLflow.")]
Stage = Annotated[str, typer.Option("--stage", help="Name of the MLflow run; default: the verb and the output's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="verl's checkpoint, or a Hugging Face directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Hugging Face directory to write.")],
    like: Annotated[
        Path | None, typer.Option(help="The model that was trained: names and shapes are checked against it.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; default: float32 from shards, else as SRC has it."),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(help="split: a tensor per expert; stacked: one per layer. Default: as --like has it, or split."),
    ] = None,
    config: ConfigFile = None,
    stage: Stage = "",
    as_json: Json = False,
) -> None:
    """Convert verl's checkpoints, or a Hugging Face directory between its views of experts."""
    from qwenlong.checkpoints import convert as conversion
    from qwenlong.checkpoints.experts import SPLIT, STACKED
    from qwenlong.checkpoints.weights import float_dtype, read_directory
    from qwenlong.core import provenance
    from qwenlong.core.errors import UsageError

    kind = None if dtype is None else float_dtype(dtype)
    if experts not in (None, SPLIT, STACKED):
        raise UsageError(f"--experts {experts}: choose {SPLIT} or {STACKED}")
    read_directory(source, "SRC")
    inputs = provenance.Digests({"shards": source} | ({"like": read_directory(like, "--like")} if like else {}))
    options = {"dtype": dtype or "default", "experts": experts or "default"}
    with _tracked(config, stage or f"convert_{out.name}", options) as (settings, run):
        with _progress("converting", like) as advance:
            report = conversion.convert(source, out, like=like, dtype=kind, view=experts, on_tensor=advance)
        provenance.sidecar(
            out,
            inputs=inputs,
            config=options,
            packages=["checkpoints"],
            seed=_seed(settings),
            extra=report,
            known=report["files"],
        )
        run.log_metrics({"tensors": report["tensors"], "parameters": report["parameters"]})
        run.log_artifact(out / conversion.REPORT)
    against = {
        "reference": str(like),
        "architecture": "the model that config.json describes",
        "counts": "the counts in config.json alone (give --like)",
    }
    print_result(
        report | {"out": str(out)},
        f"{report['tensors']} tensors, {report['parameters']:,} parameters in {', '.join(report['dtypes'])}, "
        f"held against {against[report['checked_against']]} -> {out}",
        as_json,
    )


@app.command()
def merge(
    base: Annotated[Path, typer.Option(help="Hugging Face directory that the deltas are taken from.")],
    expert: Annotated[list[Path], typer.Option(help="Hugging Face directory of an expert; give two or more.")],
    out: Annotated[Path, typer.Option(help="Hugging Face directory to write.")],
    method: Annotated[
        str | None, typer.Option(help="sce, linear, task_arithmetic, ties or dare_ties; default: the config's, or sce.")
    ] = None,
    select_top: Annotated[float | None, typer.Option(help="sce: share of elements selected. Without: 1.")] = None,
    select_mode: Annotated[str | None, typer.Option(help="sce: reference or mergekit. Without: reference.")] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="linear, task_arithmetic: weight of each expert, in their order. Without: equal, or 1 each."),
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="linear: divide the weights by their sum (or not)."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            help="ties: share of deltas kept, without: 0.2. dare_ties: probability to keep one, without: 0.1."
        ),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="ties, dare_ties: factor of what is added. Without: 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="dare_ties: seed. Without: run.seed of the config, or 0.")] = None,
    ablation: Annotated[
        str, typer.Option(help="Method and settings of this row of ablations.merges, instead of the section merge.")
    ] = "",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: that of the base.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for finished weight files: a killed merge goes on after them.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Threads; default: as many as this process may use.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")] = "cpu",
    max_shard_size: Annotated[
        str, typer.Option(help="Largest weight file, such as 500MB or 4GB; a kill costs at most one of them.")
    ] = "4GB",
    config: ConfigFile = None,
    stage: Stage = "",
    as_json: Json = False,
) -> None:
    """Merge checkpoints. Settings not given are those of the configuration, where it names the same method."""
    from qwenlong.core import provenance

    # Begun before the imports, which take seconds on one core.
    inputs = provenance.Digests({"base": base} | {f"expert_{number}": path for number, path in enumerate(expert, 1)})

    from qwenlong.checkpoints import merge as merging
    from qwenlong.checkpoints import preflight
    from qwenlong.checkpoints.weights import float_dtype, read_directory, shard_bytes

    kind = None if dtype is None else float_dtype(dtype)
    size = shard_bytes(max_shard_size)
    for path in (base, *expert):
        read_directory(path, "--base" if path is base else "--expert")
    given = {"select_top": select_top, "select_mode": select_mode, "weights": weight or None, "normalize": normalize}
    given |= {"density": density, "scale": scale, "seed": seed}
    method, values = _merge_settings(config, ablation, method, given, len(expert))
    preflight.check_out(out, {"--base": base} | {f"--expert {n}": path for n, path in enumerate(expert, 1)})
    preflight.check_state(state)
    preflight.check_architectures(base, expert)
    parameters = values | {"method": method, "dtype": dtype or "base"}
    with _tracked(config, stage or f"merge_{out.name}", parameters) as (settings, run):
        with _progress("merging", base) as advance:
            report = merging.merge_directories(
                base,
                expert,
                out,
                method=method,
                **values,
                dtype=kind,
                state=state,
                max_file_bytes=size,
                cores=cores,
                device=device,
                on_tensor=advance,
            )
        total = report["total"]
        provenance.sidecar(
            out,
            inputs=inputs,
            config=parameters,
            packages=["checkpoints"],
            seed=values.get("seed", _seed(settings)),
            extra=total,
            known=report["files"],
        )
        metrics = {name: total[name] for name in ("parameters", "selected", "erased", "reverted")}
        run.log_metrics(
            metrics | {f"coefficient_{number}": value for number, value in enumerate(total["coefficients"], 1)}
        )
        run.log_artifact(out / merging.REPORT)
    coefficients = ", ".join(f"{value:.4f}" for value in total["coefficients"])
    print_result(
        report | {"out": str(out)},
        f"{method}: {total['tensors']} tensors, {total['parameters']:,} parameters; mean coefficients {coefficients}, "
        f"erased {total['erased']:.2%}, reverted {total['reverted']:.2%} -> {out}",
        as_json,
    )


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Hugging Face directory.")],
    like: Annotated[Path | None, typer.Option(help="Directory to compare with, such as the base model.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Dtype that the weights must have.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the report, with faults or without.")] = None,
    config: ConfigFile = None,
    stage: Stage = "",
    as_json: Json = False,
) -> None:
    """Check names, shapes, dtypes and values; exit code 1 when something is wrong."""
    from qwenlong.checkpoints import verify as verification
    from qwenlong.checkpoints.weights import float_dtype, read_directory
    from qwenlong.core import provenance
    from qwenlong.core.errors import UsageError
    from qwenlong.core.files import write_json

    read_directory(directory, "DIR")
    if like is not None:
        read_directory(like, "--like")
    if out is not None and out.resolve().is_relative_to(directory.resolve()):
        raise UsageError(f"--out {out} is inside {directory}, whose digest it would change; write it elsewhere")
    kind = None if dtype is None else float_dtype(dtype)
    parameters = {"dtype": dtype or "config.json's"}
    with _tracked(config, stage or f"verify_{directory.name}", parameters) as (settings, run):
        with _progress("verifying", None) as advance:
            report = verification.verify(directory, like, dtype=kind, on_tensor=advance)
        run.log_metrics(_verify_metrics(report))
        if out is not None:
            write_json(out, report)
            inputs = {"checkpoint": directory} | ({"like": like} if like else {})
            provenance.sidecar(out, inputs=inputs, config=parameters, packages=["checkpoints"], seed=_seed(settings))
            run.log_artifact(out)
        _print_verified(report, like, as_json)
        if report["faults"]:
            # Within the run, which so ends as failed.
            raise SystemExit(1)


def _verify_metrics(report: dict[str, Any]) -> dict[str, float]:
    distance = {f"distance_{name}": value for name, value in report.get("distance", {}).items()}
    numbers = {name: value for name, value in (report | distance).items() if isinstance(value, int | float)}
    return numbers | {"faults": len(report["faults"])}


def _print_verified(report: dict[str, Any], like: Path | None, as_json: bool) -> None:
    lines = [f"{report['tensors']} tensors, {report['parameters']:,} parameters, {', '.join(report['dtypes'])}"]
    if report["checked_against"]:
        against = {
            "reference": str(like),
            "architecture": "the model of config.json",
            "counts": "counts in config.json",
        }
        digests = f"{report['digests']} digests checked" if report["digests"] else "no digests beside them"
        lines = [f"{lines[0]}; held against {against[report['checked_against']]}; {digests}"]
    if "distance" in report:
        distance = report["distance"]
        relative = "undefined" if distance["relative"] is None else f"{distance['relative']:.3e}"
        lines.append(
            f"distance to {like}: relative {relative}, largest {distance['largest']:.3e}, "
            f"{distance['unchanged_tensors']} of {distance['compared_tensors']} tensors unchanged"
        )
    lines += [f"fault: {fault}" for fault in report["faults"]] or ["no faults"]
    print_result(report, "\n".join(lines), as_json)


def _merge_settings(
    config: Path | None, ablation: str, method: str | None, given: dict[str, Any], n_experts: int
) -> tuple[str, dict[str, Any]]:
    """Return the method and all its settings: the options given, then the configuration's, then the method's own."""
    from qwenlong.checkpoints import methods
    from qwenlong.core.config import MergeConfig
    from qwenlong.core.errors import UsageError

    if ablation and config is None:
        raise UsageError(f"--ablation {ablation}: name the configuration that has the row with --config")
    settings = None if config is None else _load(config)
    section = MergeConfig() if settings is None else settings.merge
    if settings is not None and ablation:
        try:
            section = settings.merge_row(ablation)
        except ValueError as error:
            raise UsageError(f"--ablation {ablation}: {error}") from error
    chosen = method or section.method
    values = section.settings() if chosen == section.method else {}
    if chosen in methods.METHODS and "seed" in methods.METHODS[chosen].settings:
        values["seed"] = _seed(settings)
    values |= {name: value for name, value in given.items() if value is not None}
    return chosen, methods.resolve(chosen, values, n_experts)


def _load(config: Path) -> Config:
    from qwenlong.core import config_files

    return config_files.load(config)


@contextmanager
def _tracked(config: Path | None, name: str, params: dict[str, Any]) -> Iterator[tuple[Config | None, Run]]:
    """Track the work as a stage of the configured run; without a configuration, do nothing around it."""
    from qwenlong.core import processes, tracking

    if config is None:
        with processes.terminate_as_exit():
            yield None, tracking.Run()
        return
    settings = _load(config)
    with processes.register(settings.run.results, name), tracking.stage(settings, name, params) as run:
        yield settings, run


@contextmanager
def _progress(description: str, counted: Path | None) -> Iterator[Callable[[str], None]]:
    """Show progress over as many tensors as the directory `counted` has; without it, over an unknown number."""
    from qwenlong.checkpoints.weights import Weights
    from qwenlong.core.progress import Progress

    total = None
    if counted is not None:
        with Weights(counted) as weights:
            total = len(weights.entries)
    with Progress(description, total, unit="tensors") as bar:
        yield lambda name: bar.advance()


def _seed(settings: Config | None) -> int:
    # Only DARE-TIES draws numbers; the sidecar records the run's seed all the same.
    return 0 if settings is None else settings.run.seed
