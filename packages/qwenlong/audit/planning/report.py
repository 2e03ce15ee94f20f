"""The plan as a value for machines: stages, totals, clusters, what was measured, notes, sources."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from qwenlong.audit.planning import assumed, graph, jobs, measured
from qwenlong.audit.planning.arithmetic import Range, Totals, totals
from qwenlong.audit.planning.assumed import Assumptions, Model
from qwenlong.audit.planning.cluster import SIZES, Cluster
from qwenlong.core.config import Config

#: Share of a GPU's memory that training's weights, gradients and moments may take before something has to be offloaded.
STATE_SHARE = 0.6
#: Bytes a parameter: weights, gradients and two moments in float32 (docs/training.md).
STATE_BYTES = 16
#: Share of a GPU's memory that a served model's weights may take.
SERVED_SHARE = 0.9


def build(
    config: Config,
    cluster: Cluster,
    *,
    assumptions: Path | None = None,
    results: Path | None = None,
) -> dict[str, Any]:
    """Return the plan of a run on a cluster, and beside it the same on 8, 64 and 256 GPUs.

    `results`: a run's folder, whose measured jobs are set against the plan. Raises ConfigError for assumptions that are
    missing or malformed, UsageError for a cluster of the wrong kind, DataError for results that are not there.
    """
    a = assumed.read(assumptions)
    counted = None if results is None else measured.corpus(results)
    planned = jobs.plan(config, _faster(a, cluster.speed), counted)
    n = cluster.processors(planned.unit, planned.default)
    own = _totals(planned, n, a)
    sizes = sorted({n, *(SIZES if planned.unit == "GPU" else ())})
    value: dict[str, Any] = {
        "run": config.run.name,
        "unit": planned.unit,
        "processors": n,
        "cluster": cluster.model_dump(exclude_none=True),
        "card": a.card.name if planned.unit == "GPU" else "CPU core",
        "corpus": {"source": planned.corpus.source, "documents": planned.corpus.documents.values()}
        | {"tokens": planned.corpus.tokens.values()},
        "stages": [{"stage": name, **_cost(cost)} for name, cost in own.stages.items()],
        "total": _cost(own.everything),
        "wall_hours": own.wall.values(),
        "critical_path_hours": own.critical.values(),
        "critical_path": [
            {"job": name, "hours": own.durations[name].typical} for name in own.path if own.durations[name].typical
        ],
        "clusters": [_row(planned, size, a) for size in sizes],
        "models": {
            role: {"match": model.match, "replica": model.replica_gpus, "source": " ".join(model.source.split())}
            for role, model in planned.models.items()
        },
        "sources": _sources(a),
        "notes": _notes(config, a, planned, own, cluster, n),
    }
    if results is not None:
        value["measured"] = _compare(config, a, planned, results, _totals(planned, planned.default, a))
    return value


def _totals(planned: jobs.Planned, n: int, a: Assumptions, spread: tuple[str, ...] = ()) -> Totals:
    reference = a.scaling.reference if planned.unit == "GPU" else 1
    return totals(planned.jobs, n, a.scaling.per_doubling, reference, spread)


def _faster(a: Assumptions, speed: float) -> Assumptions:
    """Return the assumptions with the rates of GPUs multiplied."""
    if speed == 1:
        return a

    def faster(model: Model) -> Model:
        if model.core:
            return model
        names = ("prefill", "decode", "train")
        return model.model_copy(
            update={name: {at: rate * speed for at, rate in getattr(model, name).items()} for name in names}
        )

    return a.model_copy(update={"models": tuple(map(faster, a.models))})


def _cost(cost: Any) -> dict[str, Any]:
    values = {field.name: getattr(cost, field.name) for field in dataclasses.fields(cost)}
    return {key: value.values() if isinstance(value, Range) else value for key, value in values.items()}


def _row(planned: jobs.Planned, n: int, a: Assumptions) -> dict[str, Any]:
    as_set, spread = _totals(planned, n, a), _totals(planned, n, a, planned.spread)
    return {
        "processors": n,
        "processor_hours": as_set.everything.processor_hours.values(),
        "wall_hours": as_set.wall.values(),
        "critical_path_hours": as_set.critical.values(),
        "spread_wall_hours": spread.wall.values(),
    }


def _sources(a: Assumptions) -> dict[str, str]:
    found = {"card": a.card.source, "benchmarks": a.benchmarks_source, "corpus": a.data.tokens_source}
    found |= {name: getattr(a, name).source for name in ("scaling", "lengths", "data", "calls", "overheads", "disk")}
    return {key: " ".join(text.split()) for key, text in found.items()}


def _notes(config: Config, a: Assumptions, planned: jobs.Planned, own: Totals, cluster: Cluster, n: int) -> list[str]:
    """Return what a reader must know before money is spent."""
    found = ["Low and high are sums with every assumption at its end at once: bounds, not an interval of confidence."]
    if planned.corpus.source != "corpus.json" and planned.corpus.documents.low < planned.corpus.documents.high:
        found.append(f"Size of the corpus: {planned.corpus.source}; --results reads it from corpus.json.")
    found += _too_long(config, a, planned, own)
    if planned.unit == "GPU":
        memory = cluster.gpu_memory_gb or a.card.memory_gb
        for size in sorted({n, *SIZES}):
            found += [f"On {size} GPUs: {line}" for line in _memory(planned, size, memory)]
    most = own.everything.disk + own.everything.scratch
    if cluster.disk_gb is not None and most.typical > cluster.disk_gb:
        found.append(f"{most.typical:,.0f} GB of disk are wanted, {cluster.disk_gb:,.0f} are there.")
    return found


def _memory(planned: jobs.Planned, n: int, memory: float) -> list[str]:
    """Return what does not fit into the memory of n GPUs, of `memory` GB each."""
    found = []
    policy, width = planned.models["policy"], min(n, planned.default)
    state = policy.parameters * STATE_BYTES / 1e9 / width
    if state > STATE_SHARE * memory:
        found.append(
            f"weights, gradients and moments take {state:.0f} GB on each of the {width} that train, of {memory:g} GB: "
            "engine.memory has to offload, which no rate here knows of"
        )
    for role, model in planned.models.items():
        needs = math.ceil(model.parameters * model.weight_bytes / (SERVED_SHARE * memory * 1e9))
        if role == "generator" and needs > n:
            found.append(f"{model.match}, the generator, needs {needs}; its endpoint has to be elsewhere")
    return found


def _too_long(config: Config, a: Assumptions, planned: jobs.Planned, own: Totals) -> list[str]:
    """Return jobs that the scheduler would end before they are done, by kind of work."""
    worst: dict[str, tuple[float, str]] = {}
    for node in graph.nodes(config, a):
        kind = _resources(config, node)
        hours = own.durations[node.name].typical
        if hours > worst.get(kind, (0.0, ""))[0]:
            worst[kind] = hours, node.name
    found = []
    for kind, (hours, name) in sorted(worst.items()):
        limit = getattr(config.resources, kind).runtime_minutes / 60
        if hours > limit:
            found.append(
                f"resources.{kind}.runtime_minutes allows {limit:,.0f} h, {name} would take {hours:,.0f} h: more "
                "time, more GPUs, or so many restarts from the last checkpoint."
            )
    return found


def _resources(config: Config, node: graph.Node) -> str:
    """Return the key of `resources` that a job's limits stand under, as in workflow/rules."""
    if node.name in ("mase", "extract", "nl2sql"):
        return "light" if config.resources.ask is None else "ask"
    if node.kind == "generate" and config.evaluation.server is not None:
        return "light"
    if node.kind == "select" and config.resources.select is None:
        return "generate"
    # The base model is made by a rule of its own kind.
    return "generate" if node.name == "base" else node.kind


def _compare(config: Config, a: Assumptions, planned: jobs.Planned, results: Path, own: Totals) -> dict[str, Any]:
    """Return measured against planned hours by stage, of jobs that were measured, on the configuration's processors."""
    found, faults = measured.read(results, config, graph.nodes(config, a))
    rows: dict[str, dict[str, Any]] = {}
    for job in planned.jobs:
        one = found.get(job.name)
        if one is None:
            continue
        row = rows.setdefault(
            job.stage,
            {"stage": job.stage, "jobs": 0, "measured_hours": 0.0, "planned_hours": Range(0, 0, 0), "sources": {}}
            | {"measured_response": 0.0, "planned_response": 0.0},
        )
        row["jobs"] += 1
        row["measured_hours"] += one.hours
        row["planned_hours"] += own.durations[job.name]
        row["sources"][one.source] = row["sources"].get(one.source, 0) + 1
        if one.response is not None:
            row["measured_response"] += one.response
            row["planned_response"] += job.response.typical
    for row in rows.values():
        low, typical, high = row["planned_hours"].values()
        row["planned_hours"] = (low, typical, high)
        row["ratio"] = row["measured_hours"] / typical if typical else None
        row["within"] = low <= row["measured_hours"] <= high
        row["response_ratio"] = row["measured_response"] / row["planned_response"] if row["planned_response"] else None
    return {"results": str(results), "stages": list(rows.values()), "faults": faults}
