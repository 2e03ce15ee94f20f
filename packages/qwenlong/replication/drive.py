"""Runs of a plan within a time limit, one snakemake each: what is complete is skipped, what is cut off goes on later.

Nothing is lost by a kill of this process but the steps under way: Snakemake's guard ends what a dead run left, stages
go on from their checkpoints, files are whole or absent.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from qwenlong.core import processes, provenance
from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import code_digest, digest_value, write_json
from qwenlong.core.logs import get
from qwenlong.replication import share
from qwenlong.replication.plan import FOLDER, Run

if TYPE_CHECKING:
    import psutil

_LOG = get(__name__)
#: Seconds between two looks.
_POLL = 0.5
#: Seconds that Snakemake and its jobs have to end after the stages' own grace.
_ENDING = 15.0
#: Seconds between two records of an attempt under way: what a machine that vanishes takes along of the time held.
_RECORDED = 20.0


@dataclass
class Active:
    """A run under way."""

    run: Run
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float
    shared: bool
    """Only the data that the run shares are made by it, in the folder of their seed."""
    environment: str
    stamp: datetime
    """When it began; its record is named by it."""
    recorded: float = field(default_factory=time.monotonic)
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def look(self) -> None:
        """Note the processes below, as what leaves its parent is not found otherwise; now and then record the time."""
        import psutil

        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self.seen.setdefault(process.pid, process)
        if time.monotonic() - self.recorded >= _RECORDED:
            self.record("under way")

    def record(self, state: str, **values: Any) -> float:
        """Write the attempt's one record anew, its seconds so far included, and return them.

        A record that cannot be written ends no run.
        """
        run, now = self.run, time.monotonic()
        self.recorded, seconds = now, round(now - self.began, 1)
        attempt = {"run": run.name, "state": state, "seconds": seconds, "began": _said(self.stamp)}
        attempt |= {"seen": _said(datetime.now(UTC)), "environment": self.environment, "shared_data": self.shared}
        attempt |= {"command": command(run, 1, self.shared)[2:], **values}
        # Two tries may begin in one second.
        stamp = self.stamp.isoformat(timespec="microseconds").replace(":", "")
        file = (run.data if self.shared else run.results) / FOLDER / "attempts" / f"{run.name}-{stamp}.json"
        try:
            write_json(file, attempt)
        except (OSError, QwenlongError) as error:
            _LOG.warning("%s: %s is not written: %s", run.name, file, error)
        return seconds


def _said(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


@dataclass(frozen=True)
class Outcome:
    """What became of a run: complete, failed, stopped at the limit, or waiting (never begun)."""

    name: str
    state: str
    seconds: float
    log: str = ""
    """Output of what ran."""

    def said(self) -> str:
        """Return a line; of a run that failed with the file that says why."""
        return f"{self.name}: {self.state}, {self.seconds:.0f} s" + (f": {self.log}" if self.state == "failed" else "")


def command(run: Run, cores: int, shared: bool) -> list[str]:
    """Return Snakemake's command line for a run, or for the data that it shares with others."""
    seed = run.config.run.seed_of_data
    overrides = f"run={{seed: {seed}, results: {run.data}}}" if shared else run.overrides
    targets = [str(run.data / share.LAST)] if shared else list(run.targets)
    return [
        sys.executable, "-m", "snakemake", "--cores", str(cores), "--keep-going", "--nocolor",
        # What is there was made by the code that its sidecar names: another commit does not make it anew.
        "--rerun-triggers", "mtime", "--configfile", run.file, "--config", overrides, "--", *targets,
    ]  # fmt: skip


def drive(
    runs: Sequence[Run],
    *,
    seconds: float,
    cores: int,
    at_once: int = 1,
    least: float = 60.0,
    variables: dict[str, str] | None = None,
    told: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Go through runs for `seconds`, the end of what is under way included; return what became of each.

    `at_once` runs share the cores, never two of one results folder. None is begun with less than `least` seconds left.
    `told` ends it early.
    """
    began = time.monotonic()
    grace = max((run.config.run.grace_seconds for run in runs), default=0.0)
    stop_at = began + seconds - grace - _ENDING
    waiting = [run for run in runs if not run.complete()]
    outcomes = [Outcome(run.name, "complete", 0.0) for run in runs if run.complete()]
    active: list[Active] = []
    environment = describe()
    try:
        while (waiting or active) and time.monotonic() < stop_at and not told():
            for one in [one for one in active if one.process.poll() is not None]:
                active.remove(one)
                outcome = _ended(one, stopped=False)
                if one.shared and outcome.state == "complete":
                    waiting.insert(0, one.run)
                else:
                    outcomes.append(outcome)
            for run in _next(waiting, active, at_once - len(active)):
                if stop_at - time.monotonic() < least:
                    break
                waiting.remove(run)
                active.append(_begin(run, max(1, cores // at_once), variables or {}, environment))
            if waiting and not active and stop_at - time.monotonic() < least:
                break
            for one in active:
                one.look()
            time.sleep(_POLL)
    finally:
        outcomes += _stop(active, grace)
    return outcomes + [Outcome(run.name, "waiting", 0.0) for run in waiting]


def _next(waiting: Sequence[Run], active: Sequence[Active], places: int) -> Iterator[Run]:
    """Yield runs that can begin: no two work on one folder, nor on the data that they share."""
    taken = {one.run.data if one.shared else one.run.results for one in active}
    for run in list(waiting):
        if places <= 0:
            return
        folder = run.data if share.missing(run) else run.results
        if folder not in taken:
            taken.add(folder)
            places -= 1
            yield run


def _begin(run: Run, cores: int, variables: dict[str, str], environment: str) -> Active:
    shared = share.missing(run)
    if not shared and (copied := share.copy(run)):
        _LOG.info("%s: shares %s with %s", run.name, ", ".join(copied), run.data)
    folder = run.data if shared else run.results
    log = folder / "logs" / f"replicate-{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = log.open("ab")
    words = command(run, cores, shared)
    _LOG.info("%s: %s begins, output in %s", run.name, "shared data" if shared else "run", log)
    # A session of its own: a signal for this process alone does not reach jobs, which are told in order.
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        env={**os.environ, **variables},
    )  # fmt: skip
    one = Active(run, process, stream, time.monotonic(), shared, environment, datetime.now(UTC))
    one.record("under way")
    return one


def _ended(one: Active, stopped: bool) -> Outcome:
    one.log.close()
    run = one.run
    code = one.process.returncode
    state = "complete" if code == 0 else "stopped" if stopped else "failed"
    ended = _said(datetime.now(UTC))
    seconds = one.record(state, code=code, ended=ended)
    if code == 0 and not one.shared:
        run.finish(seconds=seconds, ended=ended, environment=one.environment)
    (_LOG.error if state == "failed" else _LOG.info)("%s: %s after %.0f s", run.name, state, seconds)
    return Outcome(run.name, state, seconds, one.log.name)


def _stop(active: Sequence[Active], grace: float) -> list[Outcome]:
    """End runs: their commands save what they can and no further job begins; after the grace they are killed."""
    for one in active:
        one.look()
        with contextlib.suppress(ProcessLookupError):
            one.process.send_signal(signal.SIGTERM)
        told = processes.tell_commands(one.run.data if one.shared else one.run.results)
        _LOG.info("%s: time is up, %d commands told to end", one.run.name, len(told))
    end = time.monotonic() + grace + _ENDING
    while time.monotonic() < end and any(one.process.poll() is None for one in active):
        for one in active:
            one.look()
        time.sleep(_POLL)
    return [_killed(one) for one in active]


def _killed(one: Active) -> Outcome:
    import psutil

    for process in [*one.seen.values()]:
        # psutil knows a process by its start, too: a number that was given to another one is not ended.
        with contextlib.suppress(psutil.Error):
            if process.is_running():
                process.kill()
    if one.process.poll() is None:
        one.process.kill()
    one.process.wait()
    return _ended(one, stopped=True)


def describe() -> str:
    """Return a digest of the environment, whose description is kept as `environment-<digest>.json` by `keep`."""
    return digest_value(environment())[:12]


def keep(runs: Sequence[Run]) -> None:
    """Write the environment's description into each run's records."""
    for folder in {run.results for run in runs}:
        write_json(folder / FOLDER / f"environment-{describe()}.json", environment())


@functools.cache
def environment() -> dict[str, Any]:
    """Return what results may depend on: packages, devices, code."""
    packages = {one.metadata["Name"]: one.version for one in importlib.metadata.distributions() if one.metadata["Name"]}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        query += ["--id", visible]  # it lists all otherwise
    gpus: list[str] = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        gpus = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.split("\n")
    return {
        "packages": dict(sorted(packages.items())),
        "versions": provenance.versions(),
        "gpus": [line.strip() for line in gpus if line.strip()],
        "cores": os.cpu_count(),
        "code": code_digest(
            "training", "evaluation", "synthesis", "rewards", "checkpoints", "memory_agent", "inference"
        ),
        "commit": provenance.git_commit(),
    }


@contextlib.contextmanager
def shared_ray(config: Path) -> Iterator[dict[str, str]]:
    """Run one Ray on this machine within the block; yield the variables by which stages find it."""
    import secrets

    from qwenlong.core.network import answers, free_port

    port = free_port("127.0.0.1")
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    words = [sys.executable, "-m", "qwenlong", "ray", "node", "--config", str(config)]
    words += ["--head", f"127.0.0.1:{port}", "--role", "head", "--until-stdin-ends"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, env={**os.environ, **variables}, start_new_session=True)
    try:
        end = time.monotonic() + 90
        while not answers("127.0.0.1", port):
            if process.poll() is not None or time.monotonic() > end:
                raise QwenlongError("Ray did not start on this machine; its words stand above. Leave --ray out")
            time.sleep(_POLL)
        yield variables | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
