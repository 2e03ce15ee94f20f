"""Ray over several machines: settings, argument lists, what the health check holds against machines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from qwenlong.core.config import EngineConfig
from qwenlong.core.errors import ConfigError, UsageError
from qwenlong.training.ray_cluster import allocation, arguments
from qwenlong.training.ray_cluster.health import Node, faults, versions
from qwenlong.training.ray_cluster.node import cores, temp_folder


def engine(**ray) -> EngineConfig:
    return EngineConfig.model_validate({"nodes": 2, "gpus_per_node": 3, "ray": ray})


@pytest.mark.parametrize(
    ("ray", "word"),
    [
        ({"temp_dir": "scratch"}, "no absolute path"),
        ({"temp_dir": "/scratch/of/a/rather/long/name"}, "at most 24"),
        ({"worker_ports": [30000, 20000]}, "no range of ports"),
        ({"worker_ports": [80, 20000]}, "no range of ports"),
        ({"environment": {"NCCL DEBUG": "1"}}, "no name of an environment variable"),
        ({"environment": {"RAY_ADDRESS": "x:1"}}, "set by the launcher"),
        ({"environment": {"SLURM_JOB_ID": "1"}}, "set by the launcher"),
        ({"port": 80}, "1024"),
    ],
)
def test_settings_that_cannot_work_are_refused(ray, word):
    with pytest.raises(ValidationError, match=word):
        engine(**ray)


def test_the_interface_is_ncclls_and_gloos_unless_the_environment_says_otherwise():
    assert engine(interface="ib0").ray.variables() == {"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0"}
    named = engine(interface="ib0", environment={"NCCL_SOCKET_IFNAME": "ib1", "NCCL_DEBUG": "INFO"}).ray.variables()
    assert named == {"NCCL_SOCKET_IFNAME": "ib1", "GLOO_SOCKET_IFNAME": "ib0", "NCCL_DEBUG": "INFO"}
    assert engine().ray.variables() == {}


def words(ray=None, **given):
    asked = {"own": "10.0.0.1", "head": "10.0.0.1", "port": 7001, "cpus": 16, "temp_dir": Path("/t"), "client_port": 9}
    return arguments.start(engine(**(ray or {})), **(asked | given))


def test_head_and_worker_are_started_apart():
    head, worker = words(), words(own="10.0.0.2", client_port=None)
    assert {"--head", "--port=7001", "--ray-client-server-port=9", "--include-dashboard=false"} <= set(head)
    assert "--address=10.0.0.1:7001" in worker and not {"--head", "--include-dashboard=false"} & set(worker)
    for own, found in (("10.0.0.1", head), ("10.0.0.2", worker)):
        assert {f"--node-ip-address={own}", "--temp-dir=/t", "--block", "--num-cpus=16", "--num-gpus=3"} <= set(found)
        assert {"--min-worker-port=0", "--max-worker-port=0"} <= set(found)
    assert {"--min-worker-port=20000", "--max-worker-port=29999"} <= set(words({"worker_ports": [20000, 29999]}))


def test_on_gpus_ray_counts_them_itself():
    settings = EngineConfig.model_validate({"platform": "cuda", "nodes": 2, "gpus_per_node": 8})
    found = arguments.start(settings, own="a", head="a", port=1, cpus=1, temp_dir=Path("/t"), client_port=2)
    assert not any(word.startswith("--num-gpus") for word in found)


def test_rays_own_parsers_take_the_argument_lists():
    """In a process of their own: Ray takes a second to import, and `symmetric-run` reads the command line itself."""
    command = ["bash", "-c", "a b", "--head"]
    lists = {
        "head": words()[len(arguments.RAY) + 1 :],
        "worker": words(own="10.0.0.2", client_port=None)[len(arguments.RAY) + 1 :],
        "symmetric": arguments.symmetric(
            engine(), head="10.0.0.1", port=7001, cpus=8, temp_dir=Path("/t"), command=command
        )[len(arguments.RAY) + 1 :],
    }
    code = f"""
from ray.scripts import scripts, symmetric_run
lists = {lists!r}
head = scripts.start.make_context("start", list(lists["head"])).params
worker = scripts.start.make_context("start", list(lists["worker"])).params
assert head["head"] and head["port"] == 7001 and head["block"] and not head["include_dashboard"], head
assert not worker["head"] and worker["address"] == "10.0.0.1:7001" and worker["num_gpus"] == 3, worker
whole = lists["symmetric"]
cut = whole.index("--")
run = symmetric_run.symmetric_run.make_context("run", whole[:cut]).params
assert (run["address"], run["min_nodes"]) == ("10.0.0.1:7001", 2), run
start = symmetric_run.curate_and_validate_ray_start_args(whole[:cut])
assert scripts.start.make_context("start", ["--address=x:1", *start]).params["temp_dir"] == "/t"
assert whole[cut + 1:] == {command!r}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_job_step_runs_once_on_each_machine_beside_its_caller():
    found = arguments.srun(["n1", "n2", "n3"], ["x", "--y"])
    assert found[0] == "srun" and found[-2:] == ["x", "--y"]
    assert {"--overlap", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--nodelist=n1,n2,n3"} <= set(found)


def machine(**given) -> Node:
    whole = {"host": "n1", "address": "10.0.0.1", "versions": {"ray": "2", "torch": "2.11"}, "gpus": 3}
    return Node(**(whole | {"reaches": True, "sees": True} | given))


def test_machines_that_are_alike_and_whole_have_no_faults():
    assert faults([machine(), machine(host="n2"), machine(host="n3", gpus=4)], engine(), Path("/r")) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpus": 2}, "n2 has 2 GPUs, engine.gpus_per_node = 3"),
        ({"reaches": False}, "n2 (10.0.0.1) does not reach n1"),
        ({"sees": False}, "n2 does not see /r"),
        ({"versions": {"ray": "2", "torch": "2.12"}}, "torch: 2.12 on n2, 2.11 on n1"),
        ({"versions": {"ray": "2"}}, "torch: none on n2, 2.11 on n1"),
        ({"versions": {"ray": "2", "torch": "2.11", "vllm": "1"}}, "vllm: 1 on n2, none on n1"),
    ],
)
def test_each_fault_of_a_machine_is_named_with_it(given, said):
    [fault] = faults([machine(), machine(**({"host": "n2"} | given))], engine(), Path("/r"))
    assert fault.startswith(said) and "; " in fault


def test_versions_are_of_what_is_installed():
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3])) and {"ray", "torch", "code"} <= set(found)


def test_rays_folder_is_the_jobs_where_it_is_short(tmp_path):
    assert temp_folder(None, {}) == Path("/tmp")
    assert temp_folder(None, {"TMPDIR": f"/{'x' * 30}"}) == Path("/tmp")
    assert temp_folder(None, {"TMPDIR": "/nowhere"}) == Path("/tmp")
    assert temp_folder(None, {"TMPDIR": "/dev/shm", "SLURM_TMPDIR": "/var/tmp"}) == Path("/var/tmp")
    with pytest.raises(ConfigError, match=r"temp_dir = /nowhere: no folder"):
        temp_folder("/nowhere")


def test_cores_are_the_jobs():
    assert cores({"SLURM_CPUS_ON_NODE": "12"}) == 12
    assert cores({}) == cores({"SLURM_CPUS_ON_NODE": ""}) == os.cpu_count()


def test_a_job_step_forgets_the_size_of_the_step_around_it():
    given = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_NTASKS": "1", "SRUN_X": "", "PATH": "/bin", "HOME": "/h"}
    assert allocation.for_step(given) == {"SLURM_JOB_ID": "7", "PATH": "/bin", "HOME": "/h"}


def test_outside_of_a_job_there_are_no_machines():
    with pytest.raises(UsageError, match="SLURM_JOB_ID is not set"):
        allocation.current(2, {})
