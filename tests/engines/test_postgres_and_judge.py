"""One run with everything real around it: MLflow on PostgreSQL, and a vLLM that judges rewards and benchmark answers.

The workflow itself makes what RL needs, starts the judge (vLLM on CPUs, in an environment of its own), trains, and
scores a benchmark; all tests here look at that run. Questions are FRAMES' own, the articles beside them made up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from qwenlong.core import config_files, provenance
from qwenlong.core.config import Config
from qwenlong.core.files import code_digest
from qwenlong.core.tracking import flatten
from qwenlong.training import rollout_log

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "benchmarks")]

import llm_paths  # noqa: E402
from mlflow_server import PASSWORD, Postgres, Server  # noqa: E402

# The first start makes vLLM's environment.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(3000)]
FRAMES = ROOT / "tests/data/benchmarks/frames/frames_824_question_answer.jsonl"
ITEMS = 4
STAGE, SCORES = "rl_1", "evaluation/base/frames/scores.json"
#: The server asks for no password, the run sends one all the same.
SENT = "sent-to-the-tracking-server-0815"


def _judge(model: Path) -> dict[str, Any]:
    template = str(Path(__file__).with_name("judge.jinja"))
    words = ["serve", "{model}", "{port}", "--max-model-len", "4096", "--chat-template", template]
    return {
        "model": str(model),
        "name": "local",  # as scripts/vllm_cpu.sh calls it
        "command": [str(ROOT / "scripts/vllm_cpu.sh"), *words],
        "environment": {
            "QWENLONG_VLLM": os.environ.get("QWENLONG_VLLM", str(ROOT / ".venv-vllm")),
            "QWENLONG_VLLM_GB": "1",
            "PYTHON": sys.executable,
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        "linger_seconds": 2,
        "start_minutes": 25,
    }


def _config(folder: Path, model: Path, uri: str) -> Path:
    """Write the tiny configuration with a policy that answers, a server for MLflow, and a judge."""
    questions = [json.loads(line) for line in FRAMES.read_text().splitlines()[:ITEMS]]
    articles = [{"title": "A made-up article", "text": "The answer is not in this text. It names Vell and 1801."}]
    rows = [{"Prompt": q["question"], "Answer": q["answer"], "wiki_items": articles} for q in questions]
    (folder / "frames.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    endpoint = {"base_url": "service:judge", "model": "local", "concurrency": 4, "max_tokens": 16}
    values = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text()) | {
        "run": {"name": "judged", "results": "results/judged", "seed": 17},
        "tracking": {"uri": uri},
        "base": {"kind": "nano", "window": 2048, "path": str(ROOT / "models/nano")},
        "llm": {"reward_judge": endpoint, "evaluation_judge": endpoint},
        "services": {"judge": _judge(model)},
    }
    values["corpus"] |= {"registry": str(ROOT / "data/sources.csv"), "cache": str(ROOT / "data/cache")}
    values["synthesis"] |= {"long_length_target": 2200, "samples_per_task": 6, "heldout_per_task": 1}
    values["ablations"] = {"in_report": False}
    values["stages"][STAGE] = {"steps": 2, "group_size": 4}
    values["evaluation"] |= {"benchmarks": ["frames"], "data": {"frames": str(folder / "frames.jsonl")}}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@dataclass(frozen=True)
class Finished:
    """The finished run, and where it left what."""

    folder: Path
    config: Config
    postgres: Postgres
    server: Server
    model: Path
    said: str

    @property
    def results(self) -> Path:
        return self.folder / "results/judged"

    @property
    def policy(self) -> Path:
        return self.results / "stages" / STAGE / "policy"

    @property
    def service(self) -> Path:
        return self.results / "state/services/judge"

    @cached_property
    def runs(self) -> dict[str, str]:
        """MLflow's runs by name, as PostgreSQL has them."""
        found = self.postgres.rows("select name, run_uuid from runs")
        assert len({name for name, _ in found}) == len(found)
        return {name: run for name, run in found}

    def pairs(self, table: str, name: str) -> dict[str, str]:
        """Keys and values of a run in a table."""
        return dict(self.postgres.rows(f"select key, value from {table} where run_uuid = '{self.runs[name]}'"))

    def steps(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.policy / "metrics.jsonl").read_text().splitlines()]

    def judgements(self) -> list[dict[str, Any]]:
        file = (self.results / SCORES).with_name("judgements.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    def log(self, name: str) -> str:
        return (self.results / "logs/services/judge" / name).read_text(errors="replace")

    def score(self, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
        """Score the benchmark's answers again, into a folder of its own."""
        words = ["evaluate", "score", "frames", "--examples", self.folder / "frames.jsonl", "--config",
                 self.folder / "config.yaml", "--predictions", (self.results / SCORES).with_name("predictions.jsonl"),
                 "--out", out / "scores.json", "--state", out / "state", *more]  # fmt: skip
        command = [sys.executable, "-m", "qwenlong", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, snakemake: Callable[..., Any]) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("judged")
    postgres = Postgres(folder / "postgres")
    server = Server(folder / "server", postgres.uri)
    environment = {"MLFLOW_TRACKING_USERNAME": "runner", "MLFLOW_TRACKING_PASSWORD": SENT}
    environment["PYTHONPATH"] = str(ROOT / "packages")
    try:
        server.begin()
        with llm_paths.model_folder(ROOT / "data/cache") as model:
            server.wait()
            config = _config(folder, model, server.uri)
            words = ("--snakefile", ROOT / "Snakefile", "--cores", 2, "--configfile", config, "--")
            targets = ("rl_stage_1", f"results/judged/{SCORES}")
            done = snakemake(*words, *targets, cwd=folder, env=environment)
            loaded = config_files.load(next((folder / "results/judged/state/configs").glob("*.yaml")))
            yield Finished(folder, loaded, postgres, server, model, done.stdout + done.stderr)
    finally:
        server.kill()
        postgres.stop()


def test_rewards_asked_the_judge_and_its_verdicts_are_kept(finished: Finished) -> None:
    steps = finished.steps()
    calls, failed = (sum(step[f"judge/{name}"] for step in steps) for name in ("calls", "failed"))
    assert len(steps) == 2 and calls > failed >= 0
    records = list(rollout_log.read(finished.policy))
    judged = [record for record in records if record.judged]
    assert (len(judged), sum(record.dropped for record in judged)) == (calls, failed)
    # Its word is the reward: by the rule these answers were all wrong.
    assert {record.reward for record in judged if not record.dropped} <= {0.0, 1.0}


def test_benchmark_answers_were_judged_and_are_scored_again_without_a_judge(finished: Finished, tmp_path: Path) -> None:
    judgements = finished.judgements()
    assert any(one["verdict"] is not None for one in judgements)
    assert {one["error"] for one in judgements} <= {None, "unparsed", "truncated"}
    scores = json.loads((finished.results / SCORES).read_text())
    assert scores["n_scored"] == ITEMS and scores["judge"]["asked"] == len(judgements)
    bare = finished.score(tmp_path)
    assert bare.returncode == 1 and "'judge' does not run" in bare.stderr
    again = finished.score(tmp_path, "--judgements", (finished.results / SCORES).with_name("judgements.jsonl"))
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "scores.json").read_text()) == scores


def test_the_server_saw_every_request_and_was_started_once_for_all(finished: Finished) -> None:
    """What the run counted, against vLLM's own log: each try of each question, and the service's own first one."""
    counted = sum(step["judge/requests"] for step in finished.steps()) + sum(j["tries"] for j in finished.judgements())
    served = finished.log("replica-0.log").count('"POST /v1/chat/completions HTTP/1.1" 200')
    assert served == counted + 1
    assert finished.log("service.log").count("replica 0: started") == 1


def test_runs_parameters_and_metrics_stand_in_postgresql(finished: Finished) -> None:
    stages = {"corpus", "synthesis", "verification", "difficulty", "score_1", STAGE, "evaluate base frames"}
    assert {"judged pipeline", *stages} <= set(finished.runs)
    assert finished.postgres.rows("select distinct status, lifecycle_stage from runs") == [["FINISHED", "active"]]
    stage = finished.config.stage(STAGE)
    params = finished.pairs("params", STAGE)
    # Beside what the stage was told, what verl was told.
    assert {key: params[key] for key in params if not key.startswith("verl.")} == flatten(stage.model_dump(mode="json"))
    assert params["verl.trainer.total_training_steps"] == "2" and "verl.data.qwenlong.judge.base_url" in params
    assert finished.pairs("params", "judged pipeline") == flatten(finished.config.model_dump(mode="json"))
    sql = f"select step, key, value from metrics where run_uuid = '{finished.runs[STAGE]}'"
    stored = {(int(step), key): float(value) for step, key, value in finished.postgres.rows(sql)}
    for step in finished.steps():
        for name in ("judge/calls", "judge/failed", "judge/requests", "reward/mean"):
            assert stored[step["step"], name] == pytest.approx(step[name]), name


def test_files_are_in_the_store_of_the_server(finished: Finished) -> None:
    artifacts = finished.server.folder / "artifacts"
    (config,) = artifacts.glob(f"*/{finished.runs['judged pipeline']}/artifacts/config.yaml")
    assert config.read_text() == config_files.dump(finished.config)
    tables = sorted(artifacts.glob(f"*/{finished.runs[STAGE]}/artifacts/rollouts/step_*.json"))
    assert [table.stem for table in tables] == ["step_000001", "step_000002"]
    columns = json.loads(tables[0].read_text())["columns"]
    assert {"judged", "reward", "response"} <= set(columns)
    assert not (finished.results / "mlflow.db").exists() and not (finished.results / "mlartifacts").exists()


def test_tags_and_sidecars_say_what_it_was_made_from(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {
        "qwenlong.config": config_files.digest(finished.config),
        "qwenlong.code": code_digest(),
        "qwenlong.seed": "17",
    }
    for name in finished.runs:
        kind = {"qwenlong.kind": "pipeline"}
        if name != "judged pipeline":
            parent = finished.runs["judged pipeline"]
            kind = {"qwenlong.kind": "stage", "qwenlong.stage": name, "mlflow.parentRunId": parent}
        assert (common | kind).items() <= finished.pairs("tags", name).items(), name
    monkeypatch.chdir(finished.folder)
    policy = finished.policy.relative_to(finished.folder)
    assert provenance.read(policy)["mlflow_run_id"] == finished.runs[STAGE]
    scores = finished.results.relative_to(finished.folder) / SCORES
    assert provenance.read(scores)["config"]["values"]["judge"]["model"] == "local"
    assert provenance.verify(policy) == provenance.verify(scores) == []


def test_no_password_and_no_key_is_anywhere(finished: Finished) -> None:
    key = (finished.service / "key").read_text().strip()
    places = [finished.results, finished.server.folder, finished.folder / ".snakemake"]
    texts = {str(f): f.read_bytes() for place in places for f in place.rglob("*") if f.is_file()}
    del texts[str(finished.service / "key")]
    texts |= {"PostgreSQL": finished.postgres.everything().encode(), "what was said": finished.said.encode()}
    for secret in (PASSWORD, SENT, key):
        assert len(secret) > 8 and [name for name, text in texts.items() if secret.encode() in text] == []


def test_nothing_of_the_judge_is_left(finished: Finished) -> None:
    processes = psutil.process_iter(["cmdline"])
    psutil.wait_procs([p for p in processes if str(finished.model) in (p.info["cmdline"] or [])], timeout=60)
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(finished.model) in (p.info["cmdline"] or [])]
    assert not (finished.service / "service.json").exists() and not list((finished.service / "leases").glob("*.json"))
    # Whichever it notices first when Snakemake ends.
    ends = ("service judge ends: nobody needs it any more", "service judge ends: the run that it belongs to ended")
    assert any(end in finished.log("service.log") for end in ends)
