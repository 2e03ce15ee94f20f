"""A service for whoever needs it: found running, or started here or as a Slurm job, and waited for."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import write_text
from qwenlong.core.llm.places import NotThere, locate
from qwenlong.core.logs import get
from qwenlong.serving import leases
from qwenlong.serving.run import Order

_LOG = get(__name__)
#: Seconds between two looks for a service that starts.
LOOK = 0.5
#: Variables of the job that asks, which are not those of the job that it asks for.
_OF_THE_JOB = ("SLURM_", "SBATCH_", "SRUN_", "PMI_", "PMIX_", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_KEPT = ("SLURM_CONF",)
#: The file that names the service's Slurm job, and the states in which a job is not over, for all that is known.
_JOB = "job"
_UNKNOWN = "unknown"
_GOES_ON = ("PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "SUSPENDED", _UNKNOWN)


def answers(folder: Path) -> bool:
    """Tell whether a service is there and one of its replicas ready."""
    import httpx

    try:
        url = locate(folder).url
        return httpx.get(url.removesuffix("/v1") + "/health", timeout=10.0, trust_env=False).status_code == 200
    except (NotThere, httpx.HTTPError):
        return False


def ensure(order: Order, command: Sequence[str]) -> None:
    """Return when the service answers; starts it by `command` unless somebody has. The caller holds a lease.

    Raises QwenlongError when it ends before it is ready, or is not ready in time.
    """
    if answers(order.folder):
        return
    with _alone(order.folder / "start.lock"):
        # Whoever held the lock before may have started it. What others started may be about to end, for want of need.
        job = _submitted(order) if order.service.where == "slurm" else None
        if answers(order.folder) or (job and _ready_in_slurm(order, job)) or _ready_elsewhere(order):
            return
        if order.service.where == "local":
            _wait_local(order, _start(order, command, order.logs / "service.log"))
            return
        job = submit(order, command)
        if not _ready_in_slurm(order, job):
            log = order.logs / "service.log"
            raise QwenlongError(f"Slurm job {job} of service {order.name} is {_state(job)}; see {log}: {_tail(log)}")


def revive(order: Order, command: Sequence[str]) -> None:
    """Start a service again that is gone though its consumer goes on; what cannot be started is said, not raised."""
    if held(order.folder) or answers(order.folder):
        return
    with _alone(order.folder / "start.lock", wait=False) as alone:
        # Another consumer may be at it, or have been.
        if not alone or held(order.folder):
            return
        try:
            if order.service.where == "local":
                _start(order, command, order.logs / "service.log")
            elif _submitted(order) is None:
                submit(order, command)
        except QwenlongError as error:
            _LOG.warning("service %s is gone: %s", order.name, error)


def withdraw(order: Order) -> None:
    """Cancel a service's job that still waits in the queue when nobody needs it: it would take its GPUs for nothing."""
    if order.service.where != "slurm" or leases.live(order.folder):
        return
    job = _submitted(order)
    if job is not None and _state(job) != "RUNNING":
        _LOG.info("service %s: Slurm job %s is not needed any more", order.name, job)
        subprocess.run(["scancel", job], capture_output=True)


def _ready_elsewhere(order: Order) -> bool:
    """Wait while a process of somebody else's serves; tell whether it became ready, and not ended."""
    end = time.monotonic() + 60 * order.service.start_minutes
    while held(order.folder):
        if answers(order.folder):
            return True
        if time.monotonic() > end:
            raise QwenlongError(f"service {order.name}, started by another command, was not ready within start_minutes")
        time.sleep(LOOK)
    return False


def _wait_local(order: Order, process: subprocess.Popen[bytes]) -> None:
    log = order.logs / "service.log"
    end = time.monotonic() + 60 * order.service.start_minutes
    while not answers(order.folder):
        if process.poll() is not None and not held(order.folder):
            code = process.returncode
            raise QwenlongError(
                f"service {order.name} ended before it was ready (exit code {code}); see {log}: {_tail(log)}"
            )
        if time.monotonic() > end:
            raise QwenlongError(f"service {order.name} was not ready within its start_minutes; see {log}")
        time.sleep(LOOK)


def _start(order: Order, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "qwenlong", *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=_environment(os.environ),
            # Its consumers come and go; it ends when no lease is left.
            start_new_session=True,
        )
    _LOG.info("service %s: started (pid %d), log %s", order.name, process.pid, log)
    return process


def sbatch(order: Order, command: Sequence[str]) -> list[str]:
    """Return the command that submits the service as a job of its own."""
    job = order.service.slurm
    line = ["sbatch", "--parsable", "--requeue", f"--job-name=qwenlong-{order.name}", f"--nodes={job.nodes}"]
    line += [
        "--ntasks-per-node=1",
        f"--cpus-per-task={job.cpus}",
        f"--mem={job.memory_mb}",
        f"--time={job.runtime_minutes}",
    ]
    line += ["--open-mode=append", f"--output={order.logs / 'service.log'}"]
    line += [f"--gres=gpu:{job.gpus}"] if job.gpus else []
    line += [f"--partition={job.partition}"] if job.partition else []
    # exec: Slurm's signals reach the service itself.
    return [*line, *job.extra, "--wrap", "exec " + shlex.join([sys.executable, "-m", "qwenlong", *command])]


def submit(order: Order, command: Sequence[str]) -> str:
    """Submit the service; return the job's id. Raises QwenlongError with what sbatch says."""
    order.logs.mkdir(parents=True, exist_ok=True)
    variables = {k: v for k, v in _environment(os.environ).items() if k in _KEPT or not k.startswith(_OF_THE_JOB)}
    try:
        done = subprocess.run(sbatch(order, command), capture_output=True, text=True, env=variables, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QwenlongError(
            f"services.{order.name}.where = 'slurm', but sbatch cannot be used ({error}); set it to local, or run on a "
            "machine that submits jobs"
        ) from error
    if done.returncode:
        raise QwenlongError(
            f"sbatch refuses service {order.name}: {done.stderr.strip()}; mend services.{order.name}.slurm"
        )
    job = done.stdout.strip().partition(";")[0]
    write_text(order.folder / _JOB, job + "\n")
    _LOG.info("service %s: submitted as Slurm job %s, log %s", order.name, job, order.logs / "service.log")
    return job


def _ready_in_slurm(order: Order, job: str) -> bool:
    """Wait for a job, in the queue for however long, running for start_minutes; tell whether it is ready, not over."""
    began: float | None = None
    while not answers(order.folder):
        state = _state(job)
        if state not in _GOES_ON:
            return False
        if state != "RUNNING":
            # Requeued: it loads anew.
            began = None
        else:
            began = began or time.monotonic()
            if time.monotonic() - began > 60 * order.service.start_minutes:
                subprocess.run(["scancel", job], capture_output=True)
                raise QwenlongError(f"service {order.name} (Slurm job {job}) was not ready within its start_minutes")
        time.sleep(max(LOOK, 2.0))
    return True


def _submitted(order: Order) -> str | None:
    """Return the job in which the service waits or runs: submitted by an earlier consumer, or requeued by Slurm."""
    try:
        job = (order.folder / _JOB).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return job if job and _state(job) in _GOES_ON else None


def _state(job: str) -> str:
    words = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError:
        return "gone"
    if done.returncode:
        return "gone" if "Invalid job id" in done.stderr else _UNKNOWN
    return done.stdout.strip() or "gone"


def _environment(given: os._Environ[str]) -> dict[str, str]:
    package = str(Path(__file__).resolve().parents[2])
    before = filter(None, given.get("PYTHONPATH", "").split(os.pathsep))
    return {**given, "PYTHONPATH": os.pathsep.join(dict.fromkeys([package, *before]))}


def held(folder: Path) -> bool:
    """Tell whether a process serves a service, ready or not."""
    try:
        with (folder / "lock").open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _alone(file: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock while the block runs: one starts a service, others wait, or are told that they have no lock."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    alone = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            alone = False
        except OSError:
            # A file system without locks: the service's own lock keeps the second one out.
            pass
        yield alone
    finally:
        os.close(descriptor)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "(no log)"
    return lines[-1][:300] if lines else "(empty)"
