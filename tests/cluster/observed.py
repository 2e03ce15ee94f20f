"""A snakemake on the login machine of the test cluster, and what others of the cluster can see meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import slurm as testbed

#: What a site sets for itself; here, no accounts and no accounting, and jobs that last seconds.
SITE = ("--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3")
SITE += ("--latency-wait", "20", "--jobs", "2")
#: The names of the machines, which the login machine of a cluster knows, too.
LOGIN = ("unshare", "--mount", "bash", "-c", f'mount --bind {testbed.STATE}/hosts /etc/hosts && exec "$@"', "login")


class Observed:
    """`snakemake --profile cluster`, and all that `squeue`, `scontrol` and `ps` show of the cluster while it runs."""

    def __init__(self, cluster: testbed.Slurm, root: Path, folder: Path, *words: object) -> None:
        self._cluster, self._log = cluster, folder / "snakemake.log"
        self._known = {fields["JobId"] for fields in jobs()}
        self.shown: set[str] = set()
        command = [*LOGIN, sys.executable, "-m", "snakemake", "--profile", root / "cluster", *SITE, *words]
        environment = {**os.environ, "PYTHONPATH": str(root / "packages")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def look(self) -> None:
        """Keep what the machines show just now."""
        asked = testbed.sh("squeue", "--noheader", "--states=all", "--format=%i %j %o %Z", check=False)
        self.shown |= {*asked.stdout.splitlines(), *(line for node in self._nodes() for line in node.values())}
        self.shown |= {*testbed.sh("scontrol", "show", "job", "-o", check=False).stdout.splitlines()}

    def _nodes(self) -> list[dict[int, str]]:
        return [node.processes() for node in self._cluster.nodes if node.init and node.init.poll() is None]

    def until(self, seen: Callable[[], object], what: str, seconds: float = 300) -> None:
        """Wait for something while it runs."""
        end = time.monotonic() + seconds
        while not seen():
            self.look()
            assert self.process.poll() is None, f"{what}: snakemake ended\n{self.said[-6000:]}"
            assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s\n{jobs()}\n{self.said[-6000:]}"
            time.sleep(0.2)

    def wait(self, seconds: float = 300) -> int:
        """Return its exit code."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            self.look()
            assert time.monotonic() < end, f"snakemake still runs\n{jobs()}\n{self.said[-6000:]}"
            time.sleep(0.2)
        return int(self.process.returncode)

    def jobs(self, name: str = "") -> list[dict[str, str]]:
        """Return Slurm's fields of this run's jobs whose name begins so, in the order of their submission."""
        found = [fields for fields in jobs() if fields["JobId"] not in self._known]
        return sorted((f for f in found if f["JobName"].startswith(name)), key=lambda f: int(f["JobId"]))

    def stop(self) -> None:
        """End it, and its jobs."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        for fields in self.jobs():
            testbed.sh("scancel", fields["JobId"], check=False)


def jobs() -> list[dict[str, str]]:
    """Return Slurm's fields of all jobs that it remembers."""
    lines = testbed.sh("scontrol", "show", "job", "-o", check=False).stdout.splitlines()
    found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return [fields for fields in found if "JobId" in fields]


def events(folder: Path) -> list[dict[str, object]]:
    """Return what the little servers noted."""
    file = folder / "events"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
