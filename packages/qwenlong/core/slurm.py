"""What Slurm knows of jobs and machines, by its client programs."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess

from qwenlong.core.errors import QwenlongError

_SECONDS = 30


def own_job() -> str | None:
    """Return this process's Slurm job as "JOB.RESTARTS@CLUSTER", of which RESTARTS counts requeues; none outside."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    return f"{job}.{os.environ.get('SLURM_RESTART_COUNT') or 0}@{os.environ.get('SLURM_CLUSTER_NAME', '')}"


class Jobs:
    """The user's jobs that wait or run on this machine's cluster; asked for once, at first use.

    Without Slurm's programs nothing is known.
    """

    def __init__(self) -> None:
        self._asked = False
        self._cluster: str | None = None
        self._live: set[str] | None = None

    def _ask(self) -> None:
        self._asked = True
        for line in (ask("scontrol", "show", "config") or "").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "ClusterName":
                self._cluster = value.strip()
        found = ask("squeue", "--noheader", "--user", getpass.getuser(), "--format", "%A")
        self._live = None if found is None else set(found.split())

    def ended(self, job: str | None) -> bool:
        """Tell whether a job (see `own_job`) is known to have ended, or to have begun anew since.

        Of another cluster's job, or where Slurm cannot be asked, nothing is known.
        """
        name, _, cluster = (job or "").partition("@")
        number, _, restarts = name.partition(".")
        if not number or not cluster:
            return False
        own, _, own_cluster = (own_job() or "").partition("@")
        own_number, _, own_restarts = own.partition(".")
        if (number, cluster) == (own_number, own_cluster):
            return int(restarts or 0) < int(own_restarts or 0)
        if not self._asked:
            self._ask()
        return self._live is not None and cluster == self._cluster and number not in self._live


def hostnames(listed: str) -> tuple[str, ...]:
    """Return the machines of a list in Slurm's notation ("node[1-3,7]"), which Slurm itself spells out.

    Raises QwenlongError as `scontrol` does, and when it names none.
    """
    names = tuple(scontrol("show", "hostnames", listed).split())
    if not names:
        raise QwenlongError(f"Slurm finds no machine in the list {listed!r}; `scontrol show job` has those of a job")
    return names


def scontrol(*words: str) -> str:
    """Return what Slurm's scontrol prints. Raises QwenlongError where it is not there, fails, or does not answer."""
    if shutil.which("scontrol") is None:
        raise QwenlongError("scontrol is not in PATH; load Slurm's client programs on this machine")
    said = " ".join(("scontrol", *words))
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise QwenlongError(f"{said} did not answer within {_SECONDS} s; see `scontrol ping`, then try again") from None
    if done.returncode:
        raise QwenlongError(f"{said} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def ask(*words: str) -> str | None:
    """Return what a client program of Slurm prints; none when there is no such program, or it fails."""
    if shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
