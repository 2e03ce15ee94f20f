"""`qwenlong evaluate run`, `merge` and `fetch`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.core.console import print_result, reported
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.evaluation.printing import print_scores

if TYPE_CHECKING:
    from qwenlong.core.config import Config

Name = Annotated[str, typer.Argument(metavar="BENCHMARK", help="see `qwenlong evaluate list`")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
CacheFolder = Annotated[Path | None, typer.Option(help="folder of published files; default: data/cache/benchmarks")]


def run(
    benchmark: Name,
    model: Annotated[str, typer.Option(help="model name at --base-url; without it a model directory, loaded here")],
    out: Annotated[Path, typer.Option(help="folder for predictions.jsonl, scores.json, run.json, timings.jsonl")],
    data: Annotated[
        Path | None, typer.Option(help="the benchmark's file, or folder of files; default: fetched from the hub")
    ] = None,
    documents: Annotated[
        Path | None, typer.Option(help="second file, where a benchmark has one; heldout: Document Parquet")
    ] = None,
    cache: CacheFolder = None,
    config: Annotated[Path | None, typer.Option(help="configuration file; default: all defaults")] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option(help="OpenAI-compatible address, up to and with /v1; repeated for servers of the same model"),
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="environment variable that holds the key")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="directory or id; default: the model's")] = None,
    agent: Annotated[bool, typer.Option("--agent", help="read through the memory agent")] = False,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="items under way, for each server; default: evaluation.concurrency")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="seconds for one reply")] = 3600.0,
    retries: Annotated[int, typer.Option(min=0, help="tries after the first, with growing pauses")] = 4,
    samples: Annotated[int | None, typer.Option(min=1, help="responses an item; default: configuration, paper")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="ask only so many items, drawn by the seed")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of sampling and of --limit; default: run.seed")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="default: evaluation.temperature")] = None,
    top_p: Annotated[float | None, typer.Option(max=1.0, help="default: evaluation.top_p")] = None,
    max_input_tokens: Annotated[int | None, typer.Option(help="longer prompts lose their middle")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="limit of a response")] = None,
    shard: Annotated[str | None, typer.Option(help="I/N: ask only part I of N, for `evaluate merge`")] = None,
    ray_shards: Annotated[int | None, typer.Option(min=1, help="run so many shards as Ray tasks, and merge")] = None,
    state: Annotated[Path | None, typer.Option(help="folder for resuming; default: <results>/state/evaluation")] = None,
    any_address: Annotated[
        bool, typer.Option("--any-address", help="resume what was asked at other addresses, of the same model")
    ] = False,
    no_score: Annotated[
        bool, typer.Option("--no-score", help="leave scores.json to `evaluate score`, which can ask a judge")
    ] = False,
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="exit code 0 though responses failed, unless all did")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model every item, then score; the same command goes on where a killed one stopped."""
    from qwenlong.evaluation import shards
    from qwenlong.evaluation.fetching import CACHE
    from qwenlong.evaluation.registry import find
    from qwenlong.evaluation.run_work import Order, perform

    with reported():
        find(benchmark)
        if shard is not None and ray_shards is not None:
            raise UsageError("--shard and --ray-shards exclude each other; --ray-shards makes the shards itself")
        overrides: dict[str, Any] = {
            "samples": samples,
            "seed": seed,
            "temperature": temperature,
            "top_p": top_p,
            "max_input_tokens": max_input_tokens,
            "max_output_tokens": max_output_tokens,
        }
        order = Order(
            benchmark=benchmark,
            model=model,
            out=out,
            data=data,
            documents=documents,
            cache=cache or CACHE,
            config=config,
            base_urls=_addresses(base_url or [], config),
            api_key_env=api_key_env,
            tokenizer=tokenizer,
            agent=agent,
            concurrency=concurrency or _settings(config).evaluation.concurrency,
            timeout=timeout,
            retries=retries,
            state=state,
            any_address=any_address,
            limit=limit,
            shard=None if shard is None else shards.parse(shard),
            overrides={key: value for key, value in overrides.items() if value is not None},
            score=not no_score,
        )
        if ray_shards is not None:
            from qwenlong.evaluation import ray_shards as driver

            if data is None:
                # Once, here: the tasks find the files.
                from qwenlong.evaluation.fetching import fetch as fetch_files

                order = replace(order, data=fetch_files(find(benchmark), order.cache).path)
            done = driver.run(order, ray_shards)
        else:
            done = perform(order)
        if no_score:
            said = f"{benchmark}: {done.scores['n_scored']} of {done.scores['n_attempted']} answered"
            print_result(done.scores, said, as_json)
        else:
            print_scores(done.scores, as_json)
        try:
            done.check()
        except QwenlongError as error:
            if not allow_failed:
                raise
            typer.echo(f"note: {error}", err=True)


def _settings(config: Path | None) -> Config:
    from qwenlong.core.config import Config
    from qwenlong.core.config_files import load

    return load(config) if config is not None else Config()


def _addresses(given: list[str], config: Path | None) -> tuple[str, ...]:
    """Return the addresses asked, each once; `service:NAME` is one of the configuration's run."""
    from qwenlong.core.config.services import PREFIX, full_address

    if any(url.startswith(PREFIX) for url in given):
        results = _settings(config).run.results
        given = [full_address(url, results) for url in given]
    return tuple(dict.fromkeys(url.rstrip("/") for url in given))


def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="DIR...", help="folders of all shards of one run")],
    out: Annotated[Path, typer.Option(help="folder for the files of the whole run")],
    data: Annotated[Path | None, typer.Option(help="the benchmark's file; default: where the shards read it")] = None,
    config: Annotated[Path | None, typer.Option(help="configuration file of the shards")] = None,
    as_json: AsJson = False,
) -> None:
    """Put the shards of `evaluate run --shard` together, and score the whole."""
    from qwenlong.core.config_files import load
    from qwenlong.evaluation.merging import merge as merged

    with reported():
        done = merged(shards, out, data, load(config) if config is not None else None)
        print_scores(done.scores, as_json)
        done.check()


def fetch(
    benchmark: Name,
    to: Annotated[Path | None, typer.Option(help="folder for the files; default: in the cache")] = None,
    cache: CacheFolder = None,
    as_json: AsJson = False,
) -> None:
    """Get a benchmark's published files from the hub, checked by SHA-256; HF_ENDPOINT names a mirror."""
    from qwenlong.evaluation import fetching
    from qwenlong.evaluation.registry import find

    with reported():
        got = fetching.fetch(find(benchmark), cache or fetching.CACHE, to)
        result = {"path": str(got.path), "downloaded": list(got.downloaded), **got.describe()}
        lines = [f"{digest}  {name}" for name, digest in sorted(got.sha256.items())]
        print_result(result, "\n".join([*lines, str(got.path)]), as_json)
