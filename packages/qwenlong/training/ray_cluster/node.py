"""One machine's Ray, in the foreground: a folder of its own, an end by process id, nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from qwenlong.core.config import EngineConfig
from qwenlong.core.config.ray import TEMP_LIMIT
from qwenlong.core.descendants import adopt_orphans, die_with_parent
from qwenlong.core.errors import ConfigError, QwenlongError
from qwenlong.core.network import answers, free_port, own_address, own_addresses
from qwenlong.core.processes import terminate_as_exit
from qwenlong.training.ray_cluster.arguments import start

#: Seconds that Ray has between SIGTERM and SIGKILL.
GRACE = 10.0
_PREFIX, _HOLDER = "ql-ray-", "holder.lock"


def temp_folder(configured: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder below which Ray's lies: the configured one, else a short one of the job's, else /tmp.

    Raises ConfigError when the configured folder is not there or cannot be written.
    """
    if configured is not None:
        folder = Path(configured)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(
                f"engine.ray.temp_dir = {configured}: no folder that can be written on {socket.gethostname()}; "
                "make it on every machine, or name another"
            )
        return folder
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        value = environment.get(name, "")
        if value.startswith("/") and len(value) <= TEMP_LIMIT and os.access(value, os.W_OK):
            return Path(value)
    return Path("/tmp")


def cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return the cores of this job on this machine, those of the machine outside a job."""
    given = environment.get("SLURM_CPUS_ON_NODE", "")
    return int(given) if given.isdigit() and int(given) else os.cpu_count() or 1


def serve(engine: EngineConfig, head: str, port: int, *, watch_stdin: bool, role: str = "auto") -> int:
    """Run this machine's Ray until it is told to end (SIGTERM, or the end of stdin); return the exit code.

    `head` is the first machine's address; the machine that has it is the head, unless `role` ("head", "worker") says
    so. Raises QwenlongError when the head does not answer in time, or Ray ends by itself.
    """
    addresses = [address for listed in own_addresses().values() for address in listed]
    is_head = head in addresses if role == "auto" else role == "head"
    own = head if is_head else own_address(engine.ray.interface, head)
    adopt_orphans()
    with terminate_as_exit(), _folder(temp_folder(engine.ray.temp_dir)) as folder:
        if not is_head:
            _wait_for(head, port, engine.ray.start_timeout_seconds, watch_stdin)
        # At least as many as verl's roles reserve; on cpu they only wait for each other.
        cpus = max(8, cores()) if engine.platform == "cpu" else cores()
        client = free_port(own) if is_head else None
        words = start(engine, own=own, head=head, port=port, cpus=cpus, temp_dir=folder, client_port=client)
        environment = {**os.environ, **engine.ray.variables(), "TMPDIR": str(folder)}
        environment.pop("RAY_ADDRESS", None)
        with (folder / "start.log").open("w+b") as log:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, preexec_fn=_die_with_parent
            )
            try:
                _until_told(process, watch_stdin)
            finally:
                _end_children()
            if process.returncode not in (0, -signal.SIGTERM, None):
                log.seek(0)
                tail = log.read()[-2000:].decode(errors="replace").strip()
                raise QwenlongError(f"Ray on {socket.gethostname()} ended ({process.returncode}):\n{tail}")
    return 0


def _until_told(process: subprocess.Popen[bytes], watch_stdin: bool) -> None:
    while process.poll() is None:
        if _stdin_ended(watch_stdin, 0.5):
            # Told to end: what Ray's code is from here on says nothing.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.returncode = 0
            return


def _stdin_ended(watch: bool, seconds: float) -> bool:
    if not watch:
        time.sleep(seconds)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and not os.read(sys.stdin.fileno(), 4096)


def _wait_for(head: str, port: int, seconds: float, watch_stdin: bool) -> None:
    end = time.monotonic() + seconds
    while not answers(head, port):
        if time.monotonic() > end:
            raise QwenlongError(
                f"{socket.gethostname()}: Ray's head at {head}:{port} did not answer within {seconds:.0f} s; "
                "see its log above, or raise engine.ray.start_timeout_seconds"
            )
        if _stdin_ended(watch_stdin, 0.5):
            raise SystemExit(0)


@contextlib.contextmanager
def _folder(below: Path) -> Iterator[Path]:
    """A folder that no other run has, where /tmp is shared between machines too; removed at the end."""
    for left in below.glob(f"{_PREFIX}*/{_HOLDER}"):
        # What a killed run left, of this user: the lock ends with its holder.
        with contextlib.suppress(OSError), left.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=below))
    try:
        with (folder / _HOLDER).open("wb") as holder:
            # Without locks on that file system leftovers stay.
            with contextlib.suppress(OSError):
                fcntl.flock(holder, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _die_with_parent() -> None:
    die_with_parent(signal.SIGTERM)


def _end_children() -> None:
    """End all descendants: orphans among them have come to this process."""
    import psutil

    for round_ in range(3):
        below = psutil.Process().children(recursive=True)
        if not below:
            return
        for child in below:
            with contextlib.suppress(psutil.Error):
                child.terminate() if round_ == 0 else child.kill()
        psutil.wait_procs(below, timeout=GRACE if round_ == 0 else 5)
