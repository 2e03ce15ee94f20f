"""The guard in real snakemake runs that are killed: the same bare command goes on, without a flag."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from qwenlong.core.processes import VARIABLE, Identity

SNAKEFILE = """
import sys
from qwenlong.core import processes

processes.protect(workflow, "results/toy")

rule all:
    input: "results/toy/b"

rule a:
    output: "results/toy/a"
    shell: "echo a > {output}; echo a >> results/toy/ran"

rule b:
    input: "results/toy/a"
    output: "results/toy/b"
    params: python=sys.executable
    shell: "{params.python} work.py {output}"
"""
# Writes half of its output at once and the rest when told to; its own child is detached, as Ray's workers are.
WORK = """
import os, subprocess, sys, time
from pathlib import Path
from qwenlong.core import processes

out, results = Path(sys.argv[1]), Path("results/toy")
with processes.register(results, "toy b"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    out.write_text("half")
    with (results / "ran").open("a") as stream:
        stream.write("b\\n")
    (results / "pids").write_text(f"{os.getpid()} {child.pid}")
    # Told before it began, or told in person: a survivor does not hear what the next run is told.
    told = (results / "go").exists()
    while not (told or (results / f"go-{os.getpid()}").exists()):
        time.sleep(0.05)
    out.write_text("whole")
    child.kill()
"""


class Toy:
    """A project of two rules, the second of which waits to be told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "results" / "toy"
        (folder / "Snakefile").write_text(SNAKEFILE)
        (folder / "work.py").write_text(WORK)
        self.env = {k: v for k, v in os.environ.items() if k != VARIABLE}
        self.command = [sys.executable, "-m", "snakemake"]
        self.begun: list[int] = []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120
        )

    def begin(self) -> subprocess.Popen[bytes]:
        """Start the bare command and wait until rule b is half done."""
        (self.results / "pids").unlink(missing_ok=True)
        main = subprocess.Popen(
            [*self.command, "--cores", "all"],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.begun.append(main.pid)
        end = time.monotonic() + 60
        while len(pids := self.pids()) < 2:
            assert time.monotonic() < end and main.poll() is None
            time.sleep(0.05)
        self.begun += pids
        return main

    def pids(self) -> list[int]:
        file = self.results / "pids"
        return [int(p) for p in file.read_text().split()] if file.exists() else []

    def ran(self) -> list[str]:
        return (self.results / "ran").read_text().split()


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path)
    yield toy
    for pid in toy.begun:
        if psutil.pid_exists(pid):
            psutil.Process(pid).kill()


def finish(toy: Toy) -> str:
    """Run the bare command to its end and return what it said."""
    (toy.results / "go").touch()
    done = toy.run("--cores", "all")
    assert done.returncode == 0, done.stderr
    assert (toy.results / "b").read_text() == "whole"
    assert list((toy.folder / ".snakemake" / "incomplete").iterdir()) == []
    assert list((toy.results / "state" / "processes").iterdir()) == []
    return done.stderr


def test_killed_alone_its_children_are_ended_and_the_rest_goes_on(toy: Toy) -> None:
    main = toy.begin()
    worker, detached = toy.pids()
    main.kill()
    main.wait()
    assert Identity.of(worker) and Identity.of(detached)  # they live on
    assert (toy.results / "b").read_text() == "half"
    again = toy.begin()  # ends them before it does anything
    assert Identity.of(worker) is None and Identity.of(detached) is None
    # The same again: killed a second time.
    again.kill()
    again.wait()
    worker, detached = toy.pids()
    report = finish(toy)
    assert f"ending survivor of a dead run: pid {worker} (toy b)" in report and f"pid {detached} (" in report
    assert Identity.of(worker) is None and Identity.of(detached) is None
    assert toy.ran() == ["a", "b", "b", "b"]  # what was whole was not made again


def test_whole_tree_killed_the_bare_command_goes_on(toy: Toy) -> None:
    main = toy.begin()
    tree = [psutil.Process(p) for p in (*toy.pids(), *(c.pid for c in psutil.Process(main.pid).children(True)))]
    main.kill()
    for process in tree:
        if process.is_running():
            process.kill()
    main.wait()
    assert list((toy.folder / ".snakemake" / "locks").iterdir()) and (toy.results / "b").read_text() == "half"
    # What a writer leaves that is killed between its first byte and its rename.
    (toy.results / ".b.0123abcd.partial").write_text("ha")
    (toy.results / "state" / ".model.0123abcd.partial").mkdir()
    (toy.results / "state" / ".model.0123abcd.partial" / "weights").touch()
    plan = toy.run("-n", "--quiet", "rules")
    assert plan.returncode == 0, plan.stderr
    assert "ending survivor" not in finish(toy)
    assert toy.ran() == ["a", "b", "b"]
    assert list(toy.results.rglob("*.partial")) == []
    again = toy.run("--cores", "all")
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr


def test_worker_killed_the_run_fails_and_the_next_goes_on(toy: Toy) -> None:
    main = toy.begin()
    worker, detached = toy.pids()
    psutil.Process(worker).kill()
    assert main.wait(60) == 1
    assert not (toy.results / "b").exists()
    assert f"pid {detached} (" in finish(toy)
    assert toy.ran() == ["a", "b", "b"]


def test_two_at_once_the_second_is_refused_and_looking_is_allowed(toy: Toy) -> None:
    main = toy.begin()
    second = toy.run("--cores", "all")
    assert second.returncode == 1
    since = json.loads((toy.results / "state" / "snakemake.lock").read_text())["since"]
    assert f"another snakemake (pid {main.pid}, since {since}) works on" in second.stderr
    assert "Traceback" not in second.stderr
    for look in (["-n"], ["--summary"], ["--dag"], ["--list-rules"]):
        done = toy.run(*look)
        assert done.returncode == 0, (look, done.stderr)
    assert "works on" not in toy.run("--lint").stderr
    (toy.results / f"go-{toy.pids()[0]}").touch()
    assert main.wait(60) == 0 and (toy.results / "b").read_text() == "whole"
    assert toy.ran() == ["a", "b"]


def test_a_jobs_own_snakemake_hands_sigterm_on_to_its_command(toy: Toy) -> None:
    """As on a cluster, where a snakemake runs one job and the scheduler signals that process alone."""
    toy.results.mkdir(parents=True)
    (toy.results / "a").write_text("a\n")
    job = subprocess.Popen(
        [*toy.command, "--mode", "remote", "--cores", "1", "--nolock", "--force", "results/toy/b"],
        cwd=toy.folder,
        env=toy.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    toy.begun.append(job.pid)
    end = time.monotonic() + 120
    while len(pids := toy.pids()) < 2:
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.05)
    toy.begun += pids
    job.terminate()
    assert job.wait(60) != 0
    assert Identity.of(pids[0]) is None
    assert list((toy.results / "state" / "processes").iterdir()) == []  # it ended in order
