"""Command lines, places on machines, and what a configuration may say of services."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwenlong.core import config_files
from qwenlong.core.config import Config, EndpointConfig, ServiceConfig
from qwenlong.core.errors import ConfigError, UsageError
from qwenlong.core.llm.places import anchored
from qwenlong.core.ownership import Identity
from qwenlong.serving import argv, leases, start
from qwenlong.serving.argv import Spot
from qwenlong.serving.run import Order, chosen

ROOT = Path(__file__).resolve().parents[3]


def test_paper_lines() -> None:
    """The models of the paper, each with the window and the parallel sizes that its weights need."""
    services = config_files.load(ROOT / "configs/paper.yaml").services
    lines = {name: " ".join(argv.words(one, "0.0.0.0", 8000, 1, "n0", 29500)) for name, one in services.items()}
    assert lines["policy"].startswith("vllm serve Qwen/Qwen3-30B-A3B-Thinking-2507 --served-model-name Qwen3-30B-A3B")
    assert "--tensor-parallel-size 4 --max-model-len 262144" in lines["policy"]
    assert lines["reward-judge"] == (
        "vllm serve openai/gpt-oss-120b --served-model-name gpt-oss-120b --host 0.0.0.0 --port 8000 "
        "--tensor-parallel-size 2 --max-model-len 131072"
    )
    judge = lines["evaluation-judge"]
    assert "--tensor-parallel-size 8 --pipeline-parallel-size 2 --enable-expert-parallel" in judge
    assert judge.endswith("--nnodes 2 --node-rank 1 --master-addr n0 --master-port 29500 --headless")
    assert not any("key" in line for line in lines.values())


def test_own_command_keeps_other_braces() -> None:
    service = ServiceConfig(model="/m/x", command=("serve", "{model}", "--json={a: {name}}", ":{port}"))
    assert argv.words(service, "127.0.0.1", 9) == ["serve", "/m/x", "--json={a: x}", ":9"]
    assert service.gpus_each == 0


def test_spots() -> None:
    two = ServiceConfig(model="m", replicas=3, tensor_parallel=2)
    found = argv.spots(two, ["a", "b"], ["0", "1", "2", "3"], "a")
    assert found == [
        Spot(("a",), ("0", "1"), False),
        Spot(("a",), ("2", "3"), False),
        Spot(("b",), ("0", "1"), False),
    ]
    assert argv.spots(two.model_copy(update={"replicas": 1}), ["a"], ["5", "7"], "a") == [Spot(("a",), ("5", "7"))]
    line = argv.on_machine(["vllm"], "b", found[2], 4)
    assert line[0] == "srun" and "--nodelist=b" in line and line[-3:] == ["env", "CUDA_VISIBLE_DEVICES=0,1", "vllm"]
    with pytest.raises(UsageError, match="3 replicas of 2 GPUs each, but there are 4 GPUs on each of 1 machines"):
        argv.spots(two, ["a"], ["0", "1", "2", "3"], "a")
    wide = ServiceConfig(
        model="m", nodes=2, tensor_parallel=2, where="slurm", slurm={"nodes": 4, "gpus": 1}, replicas=2
    )
    assert [spot.hosts for spot in argv.spots(wide, list("abcd"), [], "a")] == [("a", "b"), ("c", "d")]
    with pytest.raises(UsageError, match="the allocation has 3"):
        argv.spots(wide, list("abc"), [], "a")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gpus": 3, "tensor_parallel": 2}, "gpus = 3, but tensor x pipeline x data parallel = 2"),
        ({"nodes": 2, "tensor_parallel": 3}, "do not divide over nodes"),
        ({"nodes": 2, "tensor_parallel": 2}, "needs where: slurm"),
        ({"where": "slurm", "tensor_parallel": 2}, "slurm.gpus = 0 a machine, but a replica needs 2"),
        ({"where": "slurm", "replicas": 3, "slurm": {"gpus": 2}}, "hold 2 replicas of 1, not 3"),
        ({"command": ["serve", "{modle}", "{port}"]}, "no place 'modle'"),
        ({"command": ["serve"]}, "no place {port}"),
        ({"environment": {"VLLM_API_KEY": "x"}}, "is set by `qwenlong serve`"),
        ({"environment": {"a b": "x"}}, "no name of an environment variable"),
    ],
)
def test_refused_services(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("{", r"\{")):
        ServiceConfig.model_validate({"model": "m", **values})


def _load(tmp_path: Path, **values: Any) -> Config:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"run": {"results": "out/x"}, "services": {"judge": {"model": "/m/big"}}, **values}))
    return config_files.load(file)


def test_addresses_of_services(tmp_path: Path) -> None:
    """`service:NAME` becomes the service's folder, wherever an endpoint stands; a dump reads back as the same."""
    ask = {"base_url": "service:judge", "model": "big"}
    config = _load(tmp_path, llm={"reward_judge": ask}, synthesis={"mase": {"solver": ask}})
    assert config.llm.reward_judge is not None and config.synthesis.mase.solver is not None
    assert config.llm.reward_judge.base_url == "service:out/x/state/services/judge"
    assert config.synthesis.mase.solver.base_url == config.llm.reward_judge.base_url
    again = tmp_path / "again.yaml"
    again.write_text(config_files.dump(config))
    assert config_files.load(again) == config
    assert anchored(config.llm.reward_judge).base_url.startswith("service:/")
    plain = EndpointConfig(base_url="http://x/v1", model="m")
    assert anchored(plain) is plain


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ({"base_url": "service:jugde", "model": "big"}, "names the service 'jugde'; services has judge"),
        ({"base_url": "service:judge", "model": "large"}, "'large', but services.judge serves 'big'"),
        ({"base_url": "service:judge", "model": "big", "api_key_env": "K"}, "has a key of its own"),
    ],
)
def test_refused_endpoints(tmp_path: Path, ask: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"llm.reward_judge.*{said}"):
        _load(tmp_path, llm={"reward_judge": ask})


def test_other_model_and_unknown_service() -> None:
    services = {"policy": ServiceConfig(model="org/base", max_model_len=4096)}
    other = chosen(services, "policy", "/runs/models/rl_4")
    assert (other.served_name, other.max_model_len) == ("rl_4", 4096)
    with pytest.raises(UsageError, match="no service 'police'; services has policy"):
        chosen(services, "police", None)


def test_job_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is asked for what the service needs, without the asking job's own variables; one that waits is found."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text(
        f'#!/bin/sh\nenv >> {tmp_path}/env\nfor w in "$@"; do echo "$w" >> {tmp_path}/argv; done\necho "42;cluster"\n'
    )
    (tools / "squeue").write_text(f"#!/bin/sh\ncat {tmp_path}/state\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_NTASKS", "64")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    slurm = {"nodes": 2, "gpus": 8, "partition": "gpu", "extra": ["--account=me"]}
    service = ServiceConfig(model="m", replicas=2, tensor_parallel=8, where="slurm", slurm=slurm)  # type: ignore[arg-type]
    order = Order("judge", service, tmp_path / "state/services/judge", tmp_path / "logs")
    assert start.submit(order, ["serve", "judge", "--leased"]) == "42"
    asked = (tmp_path / "argv").read_text().splitlines()
    assert {"--nodes=2", "--gres=gpu:8", "--partition=gpu", "--account=me", "--requeue", "--parsable"} <= {*asked}
    assert asked[-1].startswith("exec ") and asked[-1].endswith("-m qwenlong serve judge --leased")
    seen = (tmp_path / "env").read_text()
    assert "SLURM_NTASKS" not in seen and "CUDA_VISIBLE_DEVICES" not in seen
    for state, found in (("PENDING", "42"), ("RUNNING", "42"), ("FAILED", None), ("", None)):
        (tools / "squeue").write_text(f"#!/bin/sh\necho {state}\n")
        assert start._submitted(order) == found
    # One that still waits when nobody needs it any more is taken out of the queue, one that runs ends by itself.
    (tools / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/cancelled\n')
    (tools / "scancel").chmod(0o755)
    for state, needed in (("RUNNING", False), ("PENDING", True), ("PENDING", False)):
        (tools / "squeue").write_text(f"#!/bin/sh\necho {state}\n")
        with leases.held(order.folder) if needed else contextlib.nullcontext():
            start.withdraw(order)
        assert (tmp_path / "cancelled").exists() == (state == "PENDING" and not needed)
    assert (tmp_path / "cancelled").read_text() == "42\n"


def test_leases_that_count(tmp_path: Path) -> None:
    """Of this machine those of live processes, of others those touched of late; torn files count nothing."""
    folder = leases.folder(tmp_path)
    own = Identity.own()
    leases.write(folder / "live.json", own)
    leases.write(folder / "dead.json", Identity(own.pid, "0@another"))
    for name in ("torn", "fresh", "old"):
        (folder / f"{name}.json").write_text("{" if name == "torn" else '{"pid": 1, "start": "x", "host": "elsewhere"}')
    past = time.time() - leases.STALE - 1
    os.utime(folder / "old.json", (past, past))
    assert leases.live(tmp_path) == 2
    with leases.held(tmp_path):
        assert leases.live(tmp_path) == 3
    assert leases.live(tmp_path) == 2 and leases.live(tmp_path / "nothing") == 0
    mark = f"abc:{own.pid}:{own.start}"
    assert leases.owner(mark) == own and leases.owner(f"abc:{own.pid}:other") is None and leases.owner(None) is None
