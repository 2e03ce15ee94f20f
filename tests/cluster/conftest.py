"""A Slurm of two machines for the session, where this machine can have one."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import slurm as testbed
from jobs import Job, strangers

from small_run import world

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["world"]
_WHY: list[str] = []


def _needs_slurm(item: pytest.Item) -> bool:
    return bool({"slurm", "batch", "machine"} & set(getattr(item, "fixturenames", ())))


@pytest.hookimpl(trylast=True)  # after -m has chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a Slurm where none can be had, and say why; the rest tests the launcher without one."""
    wanting = [item for item in items if _needs_slurm(item)]
    if not wanting or config.option.collectonly:
        return
    try:
        testbed.install()
        testbed.namespaces()
    except testbed.Unavailable as error:
        _WHY.append(str(error))
        config.hook.pytest_deselected(items=wanting)
        items[:] = [item for item in items if item not in wanting]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for why in _WHY:
        terminalreporter.write_line(f"no Slurm on this machine: {why}; the launcher was tested without one")


@pytest.fixture(scope="session")
def machine() -> None:
    """Ask for a machine that can have a Slurm; none is started."""


@pytest.fixture(scope="session")
def slurm(machine: None) -> Iterator[testbed.Slurm]:
    """The running cluster."""
    with testbed.Slurm() as cluster:
        yield cluster


@pytest.fixture
def quiet(slurm: testbed.Slurm) -> Iterator[None]:
    """Hold that a test leaves nothing running on any machine."""
    yield
    end = time.monotonic() + 60
    while left := {node.name: extra for node in slurm.nodes if (extra := strangers(node))}:
        assert time.monotonic() < end, left
        time.sleep(0.5)


@pytest.fixture
def tidy(quiet: None) -> Iterator[None]:
    """Hold that a test leaves no folder of Ray's either, as runs do on whose machines nothing was killed."""
    before = set(Path("/tmp").glob("ql-ray-*/holder.lock"))
    yield
    end = time.monotonic() + 60
    # Runs of others on this machine, outside of the cluster, have no such file.
    while left := set(Path("/tmp").glob("ql-ray-*/holder.lock")) - before:
        assert time.monotonic() < end, left
        time.sleep(0.5)


@pytest.fixture
def batch(slurm: testbed.Slurm, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Submit jobs: `batch(command, nodes=2)`; those that still run are cancelled in the end."""
    jobs: list[Job] = []

    def submit(command: str, nodes: int = 2) -> Job:
        jobs.append(Job(tmp_path, command, nodes))
        return jobs[-1]

    yield submit
    for job in jobs:
        with contextlib.suppress(RuntimeError, subprocess.SubprocessError):
            job.cancel()


SETTINGS = """\
run: {{name: cluster, results: {results}, seed: 3}}
engine:
  nodes: 2
  object_store_mb: 80
  ray: {ray}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration of two machines: `settings(start_timeout_seconds=20)`."""

    def write(**ray: object) -> Path:
        file = tmp_path / "config.yaml"
        file.write_text(SETTINGS.format(results=tmp_path / "results", ray={"start_timeout_seconds": 120, **ray}))
        return file

    return write
