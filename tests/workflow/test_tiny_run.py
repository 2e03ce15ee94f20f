"""One run of the tiny configuration through every node and the real engines; all tests here look at that run.

Minutes, most of them verl's start-up, six times.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from qwenlong.core import config_files
from qwenlong.core.config import MODELS, PARENTS, RL_STAGES, SCORED_STAGES
from qwenlong.core.files import digest_path, read_jsonl, read_parquet
from qwenlong.core.provenance import path_of
from qwenlong.core.records import TASKS, Prediction, Sample

pytestmark = pytest.mark.timeout(2400)


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    folder: Path
    results: Path
    words: tuple[str, ...]


@pytest.fixture(scope="module")
def words(root):
    """Options of every call: the tiny configuration on this project's sources, in a working directory of its own."""
    sources = f"corpus={{registry: {root}/data/sources.csv, cache: {root}/data/cache}}"
    return ("--snakefile", root / "Snakefile", "--configfile", root / "configs/tiny.yaml", "--config", sources)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, snakemake, words):
    folder = tmp_path_factory.mktemp("tiny")
    snakemake("--cores", 2, *words, cwd=folder)
    return Finished(folder, folder / "results/tiny", words)


def test_every_model_and_evaluation_is_there(finished):
    for model in MODELS:
        path = finished.results / "models" / model
        assert (path / "config.json").is_file() and list(path.glob("*.safetensors")), model
        benchmarks = ("heldout",) if model == "naive_grpo" else ("heldout", "heldout_long")
        for benchmark in benchmarks:
            predictions = read_jsonl(finished.results / f"evaluation/{model}/{benchmark}/predictions.jsonl", Prediction)
            scores = json.loads((finished.results / f"evaluation/{model}/{benchmark}/scores.json").read_text())
            assert predictions and all(p.error is None for p in predictions)
            assert scores["n_attempted"] == scores["n_scored"] == len(predictions)


def weights(path):
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def test_a_stage_changes_its_model_exactly_when_it_had_something_to_learn_from(finished):
    import torch

    for stage in RL_STAGES:
        lines = (finished.results / "stages" / stage / "policy" / "metrics.jsonl").read_text().splitlines()
        learned = any(json.loads(line)["actor/grad_norm"] > 0 for line in lines)
        before = weights(finished.results / "models" / PARENTS[stage])
        after = weights(finished.results / "models" / stage)
        assert set(before) == set(after), stage
        changed = any(not torch.equal(before[name].float(), after[name].float()) for name in before)
        assert changed == learned, stage


def test_all_five_tasks_are_in_training_and_held_out_data(finished):
    for name in ("samples", "heldout", "heldout_long"):
        found = read_parquet(finished.results / f"synthesis/{name}.parquet", Sample)
        assert {sample.task for sample in found} == set(TASKS), name
    train = {s.id for s in read_parquet(finished.results / "synthesis/samples.parquet", Sample)}
    assert not train & {s.id for s in read_parquet(finished.results / "synthesis/heldout.parquet", Sample)}


def test_stages_trained_all_their_steps_on_what_was_selected_for_them(finished, root):
    config = config_files.load(root / "configs/tiny.yaml")
    for stage in RL_STAGES:
        policy = finished.results / "stages" / stage / "policy"
        steps = [json.loads(line)["step"] for line in (policy / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, config.stage(stage).steps + 1)), stage
    for stage in SCORED_STAGES:
        limit = config.stage(stage).max_input_tokens
        chosen = read_parquet(finished.results / f"stages/{stage}/score/train.parquet", Sample)
        assert chosen and all(sample.n_tokens <= limit for sample in chosen)


def test_every_output_has_its_provenance_log_and_benchmark(finished, snakemake):
    shown = snakemake("-n", "--forceall", *finished.words, cwd=finished.folder).stdout
    lines = [line.strip().split(": ", 1) for line in shown.splitlines()]
    counts = {"output": 0, "log": 0, "benchmark": 0}
    for key, *rest in lines:
        if key not in counts or not rest:
            continue
        for name in rest[0].split(", "):
            path = finished.folder / name
            if "data/cache" in name or "/fetch/" in name:
                continue  # sources are shared by all runs, and checked by the registry's digests
            assert path.exists(), f"{key} {name}"
            # run.json is itself a record of how scores were made.
            if key == "output" and path.name != "run.json":
                assert json.loads(path_of(path).read_text())["output"]["digest"] == digest_path(path), name
            counts[key] += 1
    assert counts["output"] > 80 and counts["log"] == counts["benchmark"] >= 40


def test_nothing_is_left_half_written(finished):
    assert [path for path in finished.results.rglob("*.partial")] == []
    assert list((finished.results / "state/processes").glob("*.json")) == []


def test_the_report_has_table_10_and_names_every_model(finished):
    page = (finished.results / "audit/report.html").read_text(encoding="utf-8")
    tables = json.loads((finished.results / "audit/tables.json").read_text())
    assert [row["model"] for row in tables["table10"]["rows"]] == list(MODELS)
    for row in tables["table10"]["rows"]:
        assert row["cells"]["avg"]["value"] is not None
    assert page.startswith("<!") and len(page) > 10_000
    metrics = json.loads((finished.results / "audit/metrics.json").read_text())
    assert set(metrics) == set(MODELS)
    curves = (finished.results / "audit/curves.csv").read_text().splitlines()
    assert curves[0].startswith("step,stage,stage_step,reward_mean")
    assert {line.split(",")[1] for line in curves[1:]} == {"rl_1", "rl_2", "rl_3", "memory_rl", "rl_4"}


def test_mlflow_has_one_pipeline_and_a_child_for_every_stage_with_its_metrics(finished):
    with sqlite3.connect(finished.results / "mlflow.db") as store:
        runs = store.execute("select run_uuid, name, status from runs").fetchall()
        parents = dict(store.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'").fetchall())
        steps = dict(store.execute("select run_uuid, max(step) from metrics group by run_uuid").fetchall())
    pipelines = [run for run, _, _ in runs if run not in parents]
    assert len(pipelines) == 1
    assert {status for _, _, status in runs} == {"FINISHED"}
    children = {name: run for run, name, _ in runs if parents.get(run) == pipelines[0]}
    assert set(RL_STAGES) <= set(children)
    for stage in ("rl_2", "memory_rl"):
        assert steps[children[stage]] >= 1, f"{stage}: verl's metrics are not in its run"


def test_a_second_run_has_nothing_to_do(finished, snakemake):
    started = time.monotonic()
    done = snakemake("--cores", 2, *finished.words, cwd=finished.folder)
    assert "Nothing to be done" in done.stdout + done.stderr
    assert time.monotonic() - started < 60
    started = time.monotonic()
    snakemake("-n", *finished.words, cwd=finished.folder)
    assert time.monotonic() - started < 60


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(finished, snakemake, tmp_path):
    names = ("documents", "samples", "heldout", "heldout_long", "memory")

    def made(*overrides):
        folder = tmp_path / str(len(overrides))
        folder.mkdir()
        snakemake("--cores", 2, *finished.words, *overrides, "--", "synthesis", cwd=folder)
        return {name: (folder / f"results/tiny/synthesis/{name}.parquet").read_bytes() for name in names}

    first = {name: (finished.results / f"synthesis/{name}.parquet").read_bytes() for name in names}
    assert made() == first
    other = made("run={seed: 18}")
    assert other["samples"] != first["samples"] and other["heldout"] != first["heldout"]
