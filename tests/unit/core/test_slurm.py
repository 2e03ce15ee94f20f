"""What Slurm is asked, by programs in its place: the real ones are asked in tests/cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qwenlong.core import slurm
from qwenlong.core.errors import QwenlongError


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the one folder in PATH, but for those of the shell."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(slurm, "_SECONDS", 1)
    return tmp_path


def program(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    file.chmod(0o755)


def test_slurm_spells_its_lists_out(programs: Path) -> None:
    program(programs, "scontrol", '[ "$*" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"')
    assert slurm.hostnames("n[1-2]") == ("n1", "n2")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo no controller >&2; exit 1", "scontrol show hostnames n1 failed: no controller"),
        ("exit 0", "finds no machine in the list 'n1'; `scontrol show job`"),
        ("exec sleep 60", "did not answer within 1 s; see `scontrol ping`"),
        (None, "scontrol is not in PATH; load Slurm's client programs"),
    ],
)
def test_a_slurm_that_cannot_be_asked_is_named(programs: Path, body: str | None, said: str) -> None:
    if body is None:
        # A machine of a cluster has the real one.
        os.environ["PATH"] = str(programs)
    else:
        program(programs, "scontrol", body)
    with pytest.raises(QwenlongError, match=said):
        slurm.hostnames("n1")


def test_a_job_has_ended_when_its_own_cluster_says_so(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert slurm.own_job() is None and not slurm.Jobs().ended("7.0@here")
    program(programs, "scontrol", "echo 'ClusterName = here'")
    program(programs, "squeue", "echo 7; echo 8")
    jobs = slurm.Jobs()
    assert [jobs.ended(job) for job in ("7.0@here", "9.0@here", "9.0@elsewhere", "9", "", None)] == [
        False, True, False, False, False, False,
    ]  # fmt: skip
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert slurm.own_job() == "9.2@here"
    # Of its own job a process knows without asking: an earlier start of it has ended.
    assert [slurm.Jobs().ended(job) for job in ("9.1@here", "9.2@here")] == [True, False]
