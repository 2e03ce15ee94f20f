"""What a plan's runs would do, asked of Snakemake before a machine is lent: jobs left, targets that nobody makes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from qwenlong.replication import drive, share
from qwenlong.replication.plan import SHARED, Run

#: A line of Snakemake's table of jobs: rule, and how many.
_JOB = re.compile(r"^(\w+) +(\d+)$")
#: Rules of what runs of one data seed share.
_SHARED = {"fetch", *(name.rpartition("/")[2] for name in SHARED)}
#: Lines of Snakemake's answer that are shown of a run that cannot be made.
_SHOWN = 8


@dataclass(frozen=True)
class Foreseen:
    """A run's state: complete, open with `jobs` by rule, or impossible with the reason in Snakemake's words."""

    name: str
    state: str
    jobs: dict[str, int]
    reason: str = ""

    def said(self) -> str:
        """Return a line, or several where the run is impossible."""
        if self.state == "impossible":
            return f"{self.name}: impossible\n  " + self.reason.replace("\n", "\n  ")
        if self.state == "complete":
            return f"{self.name}: complete"
        jobs = ", ".join(rule if count == 1 else f"{rule} x {count}" for rule, count in self.jobs.items())
        return f"{self.name}: open, " + (f"{sum(self.jobs.values())} jobs: {jobs}" if jobs else "no job is left")


def foresee(runs: Sequence[Run], *, seconds: float = 300.0) -> list[Foreseen]:
    """Return what each run would do now. Nothing is made, and no run that is under way is disturbed.

    Jobs that make data which runs share are counted for each of them, until the data are made. A question takes some
    seconds of one core, so many are asked as there are cores; one without an answer for `seconds` counts as impossible.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(lambda run: _foresee(run, seconds), runs))


def _foresee(run: Run, seconds: float) -> Foreseen:
    if run.complete():
        return Foreseen(run.name, "complete", {})
    words = drive.command(run, 1, shared=False)
    at = words.index("--cores")
    try:
        asked = subprocess.run(
            [*words[:at], "--dry-run", *words[at:]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Foreseen(run.name, "impossible", {}, f"Snakemake gave no answer within {seconds:g} s: {' '.join(words)}")
    answer = asked.stdout.decode(errors="replace")
    if asked.returncode:
        return Foreseen(run.name, "impossible", {}, _reason(answer))
    jobs = _jobs(answer)
    if run.data != run.results and (run.data / share.LAST).is_file():  # they are copied when the run begins
        jobs = {rule: count for rule, count in jobs.items() if rule not in _SHARED}
    return Foreseen(run.name, "open", jobs)


def _jobs(answer: str) -> dict[str, int]:
    """Return the jobs by rule of a dry run's answer: its first table, which ends with the total."""
    jobs: dict[str, int] = {}
    for line in answer.partition("Job stats:")[2].splitlines():
        if found := _JOB.match(line.strip()):
            if found[1] == "total":
                break
            jobs[found[1]] = int(found[2])
    return jobs


def _reason(answer: str) -> str:
    """Return what Snakemake said last: all after it began with the graph, where it came so far."""
    lines = [line.rstrip() for line in answer.partition("Building DAG of jobs...")[2].splitlines() if line.strip()]
    return "\n".join(lines[:_SHOWN] or [line for line in answer.splitlines() if line.strip()][-_SHOWN:])
