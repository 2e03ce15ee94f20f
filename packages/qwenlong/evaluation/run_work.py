"""A benchmark run from its data to its files: what `qwenlong evaluate run` and a Ray task of it do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.core import provenance, templates, tracking
from qwenlong.core.config import AgentConfig, Config, EndpointConfig, EvaluationConfig
from qwenlong.core.config_files import load, validate
from qwenlong.core.errors import QwenlongError, UsageError
from qwenlong.core.files import digest_path, digest_value, write_json, write_jsonl
from qwenlong.core.records import Prediction
from qwenlong.evaluation import fetching, runner, scoring, shards
from qwenlong.evaluation.interface import Benchmark, Item
from qwenlong.evaluation.parts import asking_digest
from qwenlong.evaluation.registry import find
from qwenlong.evaluation.servers import Servers
from qwenlong.evaluation.timings import Timings
from qwenlong.memory_agent.backends import EndpointBackend, label, open_backend
from qwenlong.memory_agent.journal import Journal

#: Packages whose code a response depends on.
PACKAGES = ("evaluation", "inference", "memory_agent", "rewards")
#: Failed items that a message names.
_NAMED = 8


@dataclass(frozen=True)
class Order:
    """What is run: the options of the command, as plain values that travel to other processes."""

    benchmark: str
    model: str
    out: Path
    data: Path | None = None
    documents: Path | None = None
    cache: Path = fetching.CACHE
    config: Path | None = None
    base_urls: tuple[str, ...] = ()
    api_key_env: str | None = None
    tokenizer: str | None = None
    agent: bool = False
    concurrency: int = 32
    timeout: float = 3600.0
    retries: int = 4
    state: Path | None = None
    any_address: bool = False
    limit: int | None = None
    shard: shards.Shard | None = None
    tracked: bool = True
    keep: bool = False
    """Whether the journal stays when all is well: the caller removes it."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `evaluation` in the configuration, and "seed"."""
    score: bool = True
    """Whether scores.json is written, too; without it `qwenlong evaluate score` makes it, with a judge."""

    def settings(self) -> Config:
        """Return the configuration with what the options override."""
        config = load(self.config) if self.config is not None else Config()
        given = {key: value for key, value in self.overrides.items() if key != "seed"}
        evaluation = validate(EvaluationConfig, config.evaluation.model_dump() | given, Path("the command line"))
        run = config.run.model_copy(update={"seed": self.overrides.get("seed", config.run.seed)})
        tracked = config.tracking.model_copy(update={"enabled": config.tracking.enabled and self.tracked})
        return config.model_copy(update={"evaluation": evaluation, "run": run, "tracking": tracked})


@dataclass(frozen=True)
class Done:
    """What a run left: its scores, and the error of each response that failed."""

    scores: dict[str, Any]
    failed: dict[str, str]
    journals: tuple[Path, ...] = ()
    """Files for resuming that were kept."""

    def check(self) -> None:
        """Raise QwenlongError naming responses that failed."""
        if self.failed:
            names = list(self.failed)
            shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            total = self.scores["n_attempted"]
            raise QwenlongError(
                f"{len(names)} of {total} responses failed: {shown}; the first says: {self.failed[names[0]]}. They "
                "count 0 of all attempted; the same command asks for them again, and for nothing else"
            )


def failures(predictions: Sequence[Prediction]) -> dict[str, str]:
    """Return the error of each prediction that has one, by id."""
    return {one.id: one.error for one in predictions if one.error is not None}


def examples(benchmark: Benchmark, data: Path | None, cache: Path) -> tuple[Path, dict[str, Any]]:
    """Return the benchmark's file, given or fetched, and what run.json says of it."""
    if data is not None:
        return data, {"digest": digest_path(data)}
    fetched = fetching.fetch(benchmark, cache)
    return fetched.path, {"digest": digest_path(fetched.path)} | fetched.describe()


def perform(order: Order) -> Done:
    """Ask, score if that is ordered, write predictions.jsonl, scores.json, run.json and timings.jsonl.

    A killed run goes on where it stopped. Raises QwenlongError when no item could be asked, UsageError for options
    that do not fit.
    """
    config = order.settings()
    e = config.evaluation
    benchmark = find(order.benchmark).configured(e)
    settings = runner.Settings(
        max_input_tokens=e.max_input_tokens,
        max_output_tokens=e.max_output_tokens,
        temperature=e.temperature,
        top_p=e.top_p,
        samples=e.samples or benchmark.samples,
        seed=config.run.seed,
        agent=config.agent if order.agent or benchmark.agent else None,
    )
    if benchmark.needs_documents and order.documents is None:
        raise UsageError(f"{benchmark.name} needs --documents: the file with every document that its items name")
    data, described = examples(benchmark, order.data, order.cache)
    every = shards.drawn(benchmark.load(data, order.documents), order.limit, settings.seed, benchmark.name)
    items = every if order.shard is None else order.shard.part(every)
    name = label(order.model)
    params: dict[str, Any] = {"benchmark": benchmark.name, "model": name, **settings.values()}
    # A shard of few items may hold none: there is nothing to ask, and that is no fault.
    with tracking.stage(config, f"evaluate {name} {benchmark.name}", params) as tracked:
        servers = open_servers(order, config)
        inputs = {"data": data} | ({"documents": order.documents} if order.documents is not None else {})
        inputs |= {} if order.base_urls else {"model": Path(order.model)}
        details = {
            "benchmark": benchmark.name,
            "model": name,
            "settings": settings.values(),
            "templates": templates.digest(),
            "tokenizer": servers.tokenizer.digest,
            "data": described,
            "documents": digest_path(order.documents) if order.documents is not None else None,
            "limit": order.limit,
            "items": len(every),
        }
        place = _place(order, config, details, {key: digest_path(path) for key, path in inputs.items()}, name)
        with Journal(place) as journal, Timings(place.with_suffix(".timings.jsonl")) as timings:
            work = runner.run(
                benchmark.name,
                items,
                servers,
                settings,
                journal,
                order.concurrency * len(servers),
                in_blocks=not order.base_urls,
                prepare=benchmark.prepare,
                timings=timings,
            )
            predictions, totals = asyncio.run(work)
            details |= asdict(totals) | {
                "base_url": list(order.base_urls),
                "data_path": str(data),
                "documents_path": None if order.documents is None else str(order.documents),
                "shard": None if order.shard is None else str(order.shard),
                "failed": failures(predictions),
                "assumptions": list(benchmark.assumptions()),
            }
            scores = write(
                order.out,
                benchmark,
                items,
                predictions,
                timings.rows(predictions),
                details,
                config,
                inputs,
                settings.agent,
                order.score,
            )
            # With errors the journal stays: the same command then asks only for what is missing.
            clean = totals.errors == 0 and not order.keep
            journal.close(remove=clean)
            timings.close(remove=clean)
        values = {k: m["value"] for k, m in scores.get("metrics", {}).items() if m["value"] is not None}
        tracked.log_metrics(values | {"prompt_tokens": totals.prompt_tokens, "response_tokens": totals.response_tokens})
    return Done(scores, failures(predictions), () if clean else (journal.path, timings.path))


def open_servers(order: Order, config: Config) -> Servers:
    """Return the model at its addresses, or loaded here. Raises UsageError naming what is missing."""
    first = open_backend(
        order.model,
        base_url=order.base_urls[0] if order.base_urls else None,
        tokenizer=order.tokenizer,
        api_key_env=order.api_key_env,
        dtype=config.engine.dtype,
        timeout=order.timeout,
        retries=order.retries,
        concurrency=order.concurrency,
    )
    backends = [first]
    for url in order.base_urls[1:]:
        from qwenlong.core.llm import Client

        endpoint = EndpointConfig(
            base_url=url,
            model=order.model,
            api_key_env=order.api_key_env,
            timeout_seconds=order.timeout,
            retries=order.retries,
            concurrency=order.concurrency,
        )
        # The tokenizer once: a large one takes seconds to read.
        backends.append(EndpointBackend(Client(endpoint), order.model, first.tokenizer, first.window))
    return Servers(backends, order.base_urls or ("",))


def _place(order: Order, config: Config, details: Mapping[str, Any], inputs: Mapping[str, str], name: str) -> Path:
    """Return where the journal stands: it serves one combination of everything that a response depends on."""
    addresses = None if order.any_address else sorted(order.base_urls)
    made_of = [dict(details), dict(inputs), order.model, addresses, asking_digest()]
    part = "" if order.shard is None else f"-{order.shard.number}-of-{order.shard.of}"
    folder = order.state if order.state is not None else Path(config.run.results) / "state" / "evaluation"
    return folder / name / order.benchmark / f"{digest_value(made_of)[:24]}{part}.jsonl"


def write(
    out: Path,
    benchmark: Benchmark,
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    timings: Sequence[dict[str, Any]],
    details: Mapping[str, Any],
    config: Config,
    inputs: Mapping[str, Path],
    agent: AgentConfig | None,
    score: bool = True,
) -> dict[str, Any]:
    """Write a run's files with their sidecars; return the scores, or what there is of them without scoring.

    Scores of other predictions do not stay beside these.
    """
    files = ("predictions.jsonl", "scores.json") if score else ("predictions.jsonl",)
    write_jsonl(out / "predictions.jsonl", predictions)
    write_jsonl(out / "timings.jsonl", timings)
    write_json(out / "run.json", dict(details))
    if score:
        scores = scoring.score(benchmark, items, predictions, config.run.seed)
        write_json(out / "scores.json", scores)
    else:
        answered = sum(one.error is None for one in predictions)
        scores = {"benchmark": benchmark.name, "n_attempted": len(predictions), "n_scored": answered}
        for stale in (out / "scores.json", provenance.path_of(out / "scores.json")):
            stale.unlink(missing_ok=True)
    used = {
        "evaluation": config.evaluation.model_dump(mode="json"),
        "agent": None if agent is None else agent.model_dump(),
    }
    for file in files:
        provenance.sidecar(out / file, inputs=inputs, config=used, packages=PACKAGES, seed=config.run.seed)
    return scores
