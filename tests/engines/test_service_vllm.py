"""vLLM on CPUs, in its own environment, as the judge of real FRAMES items behind `service:judge`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import llm_paths  # noqa: E402

pytestmark = pytest.mark.engines
FRAMES = ROOT / "tests/data/benchmarks/frames/frames_824_question_answer.jsonl"
ITEMS = 4


def _config(work: Path, model: Path) -> Path:
    service = {
        "model": str(model),
        "name": "local",  # as scripts/vllm_cpu.sh calls it
        "command": [str(ROOT / "scripts/vllm_cpu.sh"), "serve", "{model}", "{port}", "--max-model-len", "8192"],
        "environment": {
            "QWENLONG_VLLM": os.environ.get("QWENLONG_VLLM", str(ROOT / ".venv-vllm")),
            "PYTHON": sys.executable,
            "OMP_WAIT_POLICY": "PASSIVE",
        },
        "linger_seconds": 2,
        # The first start makes the environment.
        "start_minutes": 25,
    }
    judge = {"base_url": "service:judge", "model": "local", "concurrency": 4, "max_tokens": 64}
    file = work / "config.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "run": {"name": "service", "results": str(work / "results")},
                "tracking": {"enabled": False},
                "llm": {"evaluation_judge": judge},
                "services": {"judge": service},
            }
        )
    )
    return file


def _servers(model: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(model) in (p.info["cmdline"] or [])]


def test_vllm_judges_frames(tmp_path: Path) -> None:
    """One command starts the server, scores with it, and leaves nothing: no process, no address, no key in a log."""
    rows = [json.loads(line) for line in FRAMES.read_text().splitlines()[:ITEMS]]
    from qwenlong.evaluation.registry import find

    examples, predictions, out = tmp_path / "frames.jsonl", tmp_path / "predictions.jsonl", tmp_path / "scores.json"
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = list(find("frames").load(examples, None))
    said = [{"id": item.id, "response": "The answer is: nobody knows.", "model": "m"} for item in items]
    common = {"finish_reason": "stop", "n_prompt_tokens": 1, "n_response_tokens": 1, "error": None}
    predictions.write_text("".join(json.dumps(common | one) + "\n" for one in said))
    with llm_paths.model_folder(ROOT / "data/cache") as model:
        config = _config(tmp_path, model)
        score = ["evaluate", "score", "frames", "--examples", examples, "--predictions", predictions, "--out", out]
        command = [sys.executable, "-m", "qwenlong", *score, "--config", config]
        around = [sys.executable, "-m", "qwenlong", "serve", "judge", "--config", config, "--", *command]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "packages")}
        bare = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
        assert bare.returncode == 1 and "'judge' does not run" in bare.stderr
        done = subprocess.run(list(map(str, around)), capture_output=True, text=True, env=environment, timeout=1700)
        logs = tmp_path / "results/logs/services/judge"
        log = "".join(file.read_text(errors="replace") for file in sorted(logs.glob("*.log")))
        # What SmolLM2 says is seldom a verdict; that each question was asked and answered is what counts.
        assert out.exists(), done.stderr[-3000:] + log[-3000:]
        served = log.count('"POST /v1/chat/completions HTTP/1.1" 200')
        judgements = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
        assert len(judgements) >= ITEMS and served > len(judgements), log[-2000:]
        assert not any("connection" in str(one["error"]) or "status_" in str(one["error"]) for one in judgements)
        folder = tmp_path / "results/state/services/judge"
        assert (folder / "key").read_text().strip() not in log + done.stdout + done.stderr
        psutil.wait_procs([psutil.Process(pid) for pid in _servers(model)], timeout=60)
        assert not _servers(model) and not (folder / "service.json").exists()
        # Read again: the service outlives its last consumer by its linger_seconds.
        assert "nobody needs it any more" in (logs / "service.log").read_text()
