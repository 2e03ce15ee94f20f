"""Ray inside of a job: started on its machines, looked at, ended, whatever happens in between."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest
import slurm as testbed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500), pytest.mark.usefixtures("quiet")]
COUNTING = Path(__file__).parent / "counting.py"


def launch(config: Path, *words: object) -> str:
    command = [sys.executable, "-m", "qwenlong", "ray", "run", "--config", config, "--", *words]
    return shlex.join(map(str, command))


def counting(config: Path, *words: object) -> str:
    return launch(config, sys.executable, COUNTING, *words)


def seen(text: str) -> dict[str, str]:
    """Return Ray's folder by machine, as the command saw it."""
    line = next(line for line in text.splitlines() if line.startswith("seen "))
    return dict(word.split(":")[:2] for word in line.split()[1:])


@pytest.mark.usefixtures("tidy")
def test_a_command_has_the_gpus_of_both_machines(batch, settings):
    job = batch(counting(settings(environment={"NCCL_DEBUG": "INFO"}, interface="eth0")))
    assert job.wait() == ("COMPLETED", 0), job.text
    found = seen(job.text)
    assert set(found) == {"node1", "node2"} and len(set(found.values())) == 2
    assert job.text.count(":INFO") == 2  # what the configuration sets is in every worker's environment
    assert "1 GPUs, code " in job.text


@pytest.mark.slow
@pytest.mark.usefixtures("tidy")
def test_the_exit_code_is_the_commands(batch, settings):
    assert batch(launch(settings(), "bash", "-c", "exit 7")).wait()[1] == 7


@pytest.mark.slow
@pytest.mark.usefixtures("tidy")
def test_runs_that_share_machines_at_once_do_not_meet(batch, settings):
    file = settings()
    jobs = [batch(counting(file)) for _ in range(2)]
    assert [job.wait() for job in jobs] == [("COMPLETED", 0)] * 2, [job.text for job in jobs]
    folders = [folder for job in jobs for folder in seen(job.text).values()]
    assert len(set(folders)) == 4


@pytest.mark.slow
def test_a_private_disk_of_each_machine_holds_rays_folder(batch, settings):
    scratch = testbed.STATE / "scratch"
    job = batch(counting(settings(temp_dir=str(scratch))))
    assert job.wait() == ("COMPLETED", 0), job.text
    assert all(folder.startswith(f"{scratch}/ql-ray-") for folder in seen(job.text).values())


@pytest.mark.slow
def test_symmetric_run_does_the_same(batch, settings):
    job = batch(counting(settings(launcher="symmetric")))
    assert job.wait() == ("COMPLETED", 0), job.text
    assert set(seen(job.text)) == {"node1", "node2"}


@pytest.mark.usefixtures("tidy")
def test_a_job_with_too_few_machines_is_told_so(batch, settings):
    job = batch(counting(settings()), nodes=1)
    assert job.wait()[1] == 2
    assert "engine.nodes = 2, but job" in job.text and "set resources.train.nodes to 2" in job.text


@pytest.mark.slow
def test_a_machine_that_comes_too_late_is_named(slurm, batch, settings):
    job = batch(counting(settings(start_timeout_seconds=25)))
    late = slurm.nodes[1]

    def agents() -> list[int]:
        return [pid for pid, line in late.processes().items() if " ray node " in line and "srun" not in line]

    job.until(agents, "the second machine's agent")
    for pid in agents():
        os.kill(pid, signal.SIGSTOP)
    assert job.wait()[1] == 1
    assert "1 of 2 machines joined Ray within 25 s: node1; missing: node2" in job.text
    for pid in agents():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("tidy")
def test_a_machine_without_the_folder_fails_the_run_at_once(slurm, batch, settings):
    only = testbed.STATE / "scratch" / "one"
    slurm.nodes[0].inside("mkdir", "-p", only)
    job = batch(counting(settings(temp_dir=str(only))))
    assert job.wait()[1] == 1
    assert f"engine.ray.temp_dir = {only}: no folder that can be written on node2" in job.text


@pytest.mark.usefixtures("tidy")
def test_a_cancelled_job_leaves_nothing(batch, settings, tmp_path):
    job = batch(counting(settings(), tmp_path / "there"))
    job.until((tmp_path / "there").exists, "the command")
    job.cancel()
    assert job.wait()[0] == "CANCELLED"


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize("program", ["gcs_server", pytest.param("raylet", marks=pytest.mark.slow)])
def test_a_head_that_dies_ends_the_run_with_a_word(slurm, batch, settings, tmp_path, program):
    job = batch(counting(settings(), tmp_path / "there"))
    job.until((tmp_path / "there").exists, "the command")
    [pid] = [p for p, line in slurm.nodes[0].processes().items() if line.split()[0].endswith(f"/{program}")]
    os.kill(pid, signal.SIGKILL)
    assert job.wait()[1] == 1
    assert "Ray on the machines ended" in job.text and "run the same command again" in job.text


@pytest.mark.slow
def test_a_machine_that_dies_ends_the_run_and_may_come_back(slurm, batch, settings, tmp_path):
    job = batch(counting(settings(), tmp_path / "there"))
    job.until((tmp_path / "there").exists, "the command")
    slurm.nodes[1].kill()
    assert job.wait()[0] in ("NODE_FAIL", "FAILED", "CANCELLED")
    slurm.nodes[1].start()
    slurm.ready()
    again = batch(counting(settings()))
    assert again.wait() == ("COMPLETED", 0), again.text
