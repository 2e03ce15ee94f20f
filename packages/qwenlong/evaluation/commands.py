"""`qwenlong evaluate`: run benchmarks, score stored predictions, compare models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import reported
from qwenlong.core.errors import UsageError

if TYPE_CHECKING:
    from qwenlong.core.config import Config
    from qwenlong.evaluation.interface import Benchmark

app = typer.Typer(help="Run benchmarks, score stored predictions, compare models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="BENCHMARK", help="see `qwenlong evaluate list`")]
Seed = Annotated[int, typer.Option(help="seed of the bootstrap")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command("list")
def show(as_json: AsJson = False) -> None:
    """List the benchmarks."""
    from qwenlong.evaluation.registry import BENCHMARKS

    listed = sorted(BENCHMARKS.items())
    if as_json:
        typer.echo(json.dumps({name: {"agent": b.agent, "groups": list(b.groups)} for name, b in listed}))
        return
    for name, b in listed:
        typer.echo(f"{name:<16}{'memory agent' if b.agent else 'full context':<16}{', '.join(b.groups)}")


@app.command("run")
def run(
    benchmark: Name,
    data: Annotated[Path, typer.Option(help="the benchmark's items: Sample Parquet")],
    documents: Annotated[Path, typer.Option(help="Document Parquet with every document that the items name")],
    model: Annotated[str, typer.Option(help="model name at --base-url; without it a model directory, loaded here")],
    out: Annotated[Path, typer.Option(help="folder for predictions.jsonl, scores.json, run.json")],
    config: Annotated[Path | None, typer.Option(help="configuration file; default: all defaults")] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible address, up to and with /v1")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="environment variable that holds the key")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="directory or id; default: the model's")] = None,
    agent: Annotated[bool, typer.Option("--agent", help="read through the memory agent")] = False,
    concurrency: Annotated[int | None, typer.Option(min=1, help="items under way; default 32")] = None,
    state: Annotated[Path | None, typer.Option(help="folder for resuming; default: <results>/state/evaluation")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model every item, then score; the same command goes on where a killed one stopped."""
    from qwenlong.core.config import Config
    from qwenlong.core.config_files import load
    from qwenlong.evaluation.registry import find

    with reported():
        settings = load(config) if config is not None else Config()
        chosen = find(benchmark).configured(settings.evaluation)
        scores = _run(
            chosen, settings, data, documents, model, out, base_url, api_key_env, tokenizer, agent, concurrency, state
        )
        _print(scores, as_json)


def _run(
    benchmark: Benchmark,
    config: Config,
    data: Path,
    documents: Path,
    model: str,
    out: Path,
    base_url: str | None,
    api_key_env: str | None,
    tokenizer: str | None,
    agent: bool,
    concurrency: int | None,
    state: Path | None,
) -> dict[str, Any]:
    import asyncio
    from dataclasses import asdict

    from qwenlong.core import provenance, templates, tracking
    from qwenlong.core.files import code_digest, digest_path, digest_value, write_json, write_jsonl
    from qwenlong.evaluation import runner, scoring
    from qwenlong.memory_agent.backends import label, open_backend
    from qwenlong.memory_agent.journal import Journal

    e = config.evaluation
    settings = runner.Settings(
        max_input_tokens=e.max_input_tokens,
        max_output_tokens=e.max_output_tokens,
        temperature=e.temperature,
        top_p=e.top_p,
        samples=e.samples,
        seed=config.run.seed,
        agent=config.agent if agent or benchmark.agent else None,
    )
    items = benchmark.load(data, documents)
    name = label(model)
    inputs = {"data": data, "documents": documents} | ({} if base_url else {"model": Path(model)})
    packages = ("evaluation", "inference", "memory_agent", "rewards")
    params: dict[str, Any] = {"benchmark": benchmark.name, "model": name, **settings.values()}
    with tracking.stage(config, f"evaluate {name} {benchmark.name}", params) as tracked:
        backend = open_backend(
            model, base_url=base_url, tokenizer=tokenizer, api_key_env=api_key_env, dtype=config.engine.dtype
        )
        # A journal serves one combination of everything that a response depends on.
        digests = {key: digest_path(path) for key, path in inputs.items()}
        made_of = [digests, model, base_url, backend.tokenizer.digest, settings.values(), templates.digest()]
        key = digest_value([made_of, code_digest(*packages)])[:24]
        folder = state if state is not None else Path(config.run.results) / "state" / "evaluation"
        with Journal(folder / name / benchmark.name / f"{key}.jsonl") as journal:
            work = runner.run(
                benchmark.name, items, backend, settings, journal, concurrency or 32, in_blocks=base_url is None
            )
            predictions, totals = asyncio.run(work)
            scores = scoring.score(benchmark, items, predictions, config.run.seed)
            write_jsonl(out / "predictions.jsonl", predictions)
            details = {"benchmark": benchmark.name, "model": name, "base_url": base_url, "settings": settings.values()}
            details |= {"templates": templates.digest(), "tokenizer": backend.tokenizer.digest, **asdict(totals)}
            write_json(out / "run.json", details)
            write_json(out / "scores.json", scores)
            used = {"evaluation": e.model_dump(mode="json"), "agent": params["agent"]}
            for file in ("predictions.jsonl", "scores.json"):
                provenance.sidecar(out / file, inputs=inputs, config=used, packages=packages, seed=config.run.seed)
            # With errors the journal stays: the same command then asks only for what is missing.
            journal.close(remove=totals.errors == 0)
        values = {k: m["value"] for k, m in scores["metrics"].items() if m["value"] is not None}
        tracked.log_metrics(values | {"prompt_tokens": totals.prompt_tokens, "response_tokens": totals.response_tokens})
    return scores


@app.command("score")
def score(
    benchmark: Name,
    examples: Annotated[Path, typer.Option(help="the benchmark's items, as given to run")],
    predictions: Annotated[Path, typer.Option(help="predictions.jsonl")],
    out: Annotated[Path, typer.Option(help="scores.json to write")],
    seed: Seed = 17,
    as_json: AsJson = False,
) -> None:
    """Score stored predictions again, without a model."""
    from qwenlong.core.files import read_jsonl, write_json
    from qwenlong.core.records import Prediction
    from qwenlong.evaluation import scoring
    from qwenlong.evaluation.registry import find

    with reported():
        chosen = find(benchmark)
        scores = scoring.score(chosen, chosen.load(examples, None), read_jsonl(predictions, Prediction), seed)
        write_json(out, scores)
        _print(scores, as_json)


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="scores.json, or the folder that holds it")],
    second: Annotated[Path, typer.Argument(metavar="B", help="scores.json, or the folder that holds it")],
    seed: Seed = 17,
    as_json: AsJson = False,
) -> None:
    """Print B - A in points, paired by item, with 95% bootstrap intervals."""
    from qwenlong.evaluation import compare as comparing

    with reported():
        found = comparing.compare(comparing.read_scores(first), comparing.read_scores(second), seed)
        if as_json:
            typer.echo(json.dumps(found))
            return
        typer.echo(f"{found['benchmark']}: {second} minus {first}, in points")
        _rows(found["difference"], signed=True)
        typer.echo(f"B above A on average in {found['share_of_resamples_above_zero']:.1%} of resamples")


@app.command("tables")
def tables(
    results: Annotated[Path, typer.Option(help="results folder of a run")],
    out: Annotated[Path | None, typer.Option(help="Markdown file to write; default: print")] = None,
) -> None:
    """Print every evaluated model as Markdown tables, in percent with intervals."""
    from qwenlong.core.files import write_text
    from qwenlong.evaluation import compare as comparing

    with reported():
        if not results.is_dir():
            raise UsageError(f"--results {results} is no folder; give the run.results of a configuration")
        text = comparing.tables(results)
        if out is not None:
            write_text(out, text)
        else:
            typer.echo(text)


def _rows(table: dict[str, Any], signed: bool = False) -> None:
    for name, metric in table.items():
        if metric["value"] is None:
            continue
        shown = f"{100 * metric['value']:{'+' if signed else ''}.1f}"
        low_high = "" if metric["ci95"] is None else "[{:.1f}, {:.1f}]".format(*(100 * v for v in metric["ci95"]))
        typer.echo(f"  {name:<32}{shown:>8}  {low_high:<18} n={metric['n']}")


def _print(scores: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({key: value for key, value in scores.items() if key != "items"}))
        return
    typer.echo(f"{scores['benchmark']}: {scores['n_scored']} scored of {scores['n_attempted']} attempted, in percent")
    _rows(scores["metrics"])
