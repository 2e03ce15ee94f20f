"""What a run took: MLflow's runs, Snakemake's benchmark files, tokens of evaluations and of RL steps. Reads only."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.audit.planning.graph import CONVERT, Node
from qwenlong.audit.results import read_metrics
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json
from qwenlong.core.logs import redact_text

_STAGES = {rule: stage for stage, rule in CONVERT.items()}


@dataclass(frozen=True)
class Measured:
    """A job as it ran. `source`: MLflow, or Snakemake's benchmark file."""

    hours: float
    source: str
    response: float | None = None
    """Tokens written, where they were counted."""


def corpus(results: Path) -> Mapping[str, int] | None:
    """Return documents and characters of the corpus that was made; none when there is none."""
    file = results / "corpus" / "corpus.json"
    if not file.is_file():
        return None
    value = read_json(file)
    try:
        return {"documents": int(value["documents"]), "characters": int(value["characters"])}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} has no counts ({error!r}); run the corpus stage again") from error


def read(results: Path, config: Config, nodes: list[Node]) -> tuple[dict[str, Measured], list[str]]:
    """Return what was measured, by job, and what could not be read, a line each.

    MLflow's run of a job goes before Snakemake's file. Raises DataError for a folder that is not there.
    """
    if not results.is_dir():
        raise DataError(f"no folder {results}; give the results of a run, or leave --results out")
    faults: list[str] = []
    runs = _mlflow(results, config, faults)
    found = {}
    for node in nodes:
        hours, source = runs.get(_run_name(node)), "MLflow"
        if hours is None:
            hours, source = _seconds(results / "benchmarks" / _benchmark_file(node), faults), "benchmark file"
        if hours is not None:
            found[node.name] = Measured(hours, source, _response(results, config, node))
    return found, faults


def _run_name(node: Node) -> str:
    """Return the name of a job's MLflow run."""
    if node.rule.startswith("evaluate_"):
        return f"evaluate {node.model} {node.benchmark}"
    if node.name in _STAGES:
        return f"convert_{_STAGES[node.name]}"
    if node.name == "sce_merge":
        return "merge_sce_merge"
    return f"{node.rule}_{node.model}" if node.rule in ("convert_ablation", "merge_ablation") else node.name


def _benchmark_file(node: Node) -> str:
    """Return the name of the file that Snakemake writes a job's wall time to."""
    row = node.stage.startswith("ablations")
    if node.benchmark:
        end = "-score" if node.rule.startswith("score") else ""
        return f"{'ablations' if row else 'evaluate'}/{node.model}-{node.benchmark}{end}.tsv"
    if row:
        kind = {"convert_ablation": "convert", "merge_ablation": "merge"}.get(node.rule, "train")
        return f"ablations/{node.model}-{kind}.tsv"
    if node.rule == "paper_table":
        return f"tables/{node.name.split()[1]}.tsv"
    return f"convert/{_STAGES[node.name]}.tsv" if node.name in _STAGES else f"{node.name}.tsv"


def _seconds(file: Path, faults: list[str]) -> float | None:
    if not file.is_file():
        return None
    try:
        with file.open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        seconds = float(rows[-1]["s"])
        if not 0 <= seconds < math.inf:
            raise ValueError(seconds)
    except (OSError, ValueError, KeyError, IndexError, TypeError, UnicodeDecodeError):
        faults.append(f"{file} is no benchmark file of Snakemake; its job is left out")
        return None
    return seconds / 3600


def _response(results: Path, config: Config, node: Node) -> float | None:
    """Return the tokens that a job wrote: of an evaluation as counted, of an RL stage mean length times rollouts."""
    if node.benchmark and node.kind == "generate":
        folder = "ablations" if node.stage.startswith("ablations") else "evaluation"
        parts = (node.model, "evaluation", node.benchmark) if folder == "ablations" else (node.model, node.benchmark)
        file = results.joinpath(folder, *parts, "run.json")
        value: Any = read_json(file) if file.is_file() else {}
        tokens = value.get("response_tokens") if isinstance(value, dict) else None
        return float(tokens) if isinstance(tokens, int | float) else None
    if node.kind == "train" and node.model:
        row = node.name.startswith("ablation_")
        stage = config.ablation(node.model) if row else config.stage(node.model)
        policy = results / ("ablations" if row else "stages") / node.model / "policy"
        lengths = [
            m["response_length/mean"] for m in read_metrics(policy / "metrics.jsonl") if "response_length/mean" in m
        ]
        return sum(lengths) * stage.batch_prompts * stage.group_size if lengths else None
    return None


def _mlflow(results: Path, config: Config, faults: list[str]) -> dict[str, float]:
    """Return the hours of the last run of each name that ended well; nothing where there is no store."""
    store = results / "mlflow.db"
    if config.tracking.uri is None and not store.is_file():
        return {}
    uri = config.tracking.uri or f"sqlite:///{store.resolve()}"
    # A plan does not wait for a server that is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    found: dict[str, float] = {}
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(config.run.name)
        if experiment is None:
            return {}
        query = "attributes.status = 'FINISHED' and tags.`qwenlong.kind` = 'stage'"
        token: str | None = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id],
                query,
                max_results=1000,
                order_by=["attributes.end_time ASC"],
                page_token=token,
            )
            for run in page:
                if run.info.end_time is not None:
                    name = run.data.tags.get("qwenlong.stage", run.info.run_name)
                    found[name] = (run.info.end_time - run.info.start_time) / 3.6e6
            token = page.token
            if not token:
                return found
    except Exception as error:  # whatever a driver or a server raises
        faults.append(f"MLflow at {redact_text(uri)} cannot be read: {redact_text(str(error))[:200]}")
        return found
