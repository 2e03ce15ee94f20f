"""Jobs of the test cluster, and what they leave on its machines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import slurm as testbed


def strangers(node: testbed.Node) -> list[str]:
    """Return what runs on a machine besides Slurm's daemon and the shell that started it."""
    own = ("slurmd -D", "bash -c", "sleep 1", "slurmstepd")
    return [line for line in node.processes().values() if not line.startswith(own)]


class Job:
    """A batch job that runs one command as the executor's job step does."""

    def __init__(self, folder: Path, command: str, nodes: int = 2) -> None:
        self.log = folder / f"job-{time.monotonic_ns()}.log"
        script = self.log.with_suffix(".sh")
        forget = "for name in ${!SLURM_*}; do [ $name = SLURM_JOB_ID ] || unset $name; done"
        step = f"exec srun -n1 --cpus-per-task=2 --nodes={nodes} {command}"
        script.write_text(f"#!/bin/bash\n{forget}\n{step}\n")
        words = ["sbatch", "--parsable", f"--nodes={nodes}", f"--ntasks={nodes}", "--cpus-per-task=2", "--mem=6000"]
        done = testbed.sh(*words, f"--chdir={folder}", f"--output={self.log}", "--no-requeue", script)
        self.id = done.stdout.strip()

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def state(self) -> tuple[str, int]:
        """Return Slurm's word for the job, and its exit code."""
        shown = testbed.sh("scontrol", "show", "job", "-o", self.id).stdout
        fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
        return fields["JobState"], int(fields["ExitCode"].split(":")[0])

    def wait(self, seconds: float = 480) -> tuple[str, int]:
        end = time.monotonic() + seconds
        while (state := self.state())[0] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
            assert time.monotonic() < end, f"job {self.id} is {state[0]} after {seconds} s\n{self.text[-3000:]}"
            time.sleep(0.3)
        return state

    def until(self, seen: Callable[[], object], what: str, seconds: float = 480) -> None:
        """Wait for something while the job runs."""
        end = time.monotonic() + seconds
        while not seen():
            state = self.state()
            assert state[0] in ("PENDING", "RUNNING", "CONFIGURING"), f"{what}: job is {state}\n{self.text[-3000:]}"
            assert time.monotonic() < end, f"{what}: not within {seconds} s\n{self.text[-3000:]}"
            time.sleep(0.1)

    def cancel(self) -> None:
        testbed.sh("scancel", self.id)
