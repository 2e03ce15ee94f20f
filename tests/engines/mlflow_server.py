"""A PostgreSQL of its own and an `mlflow server` before it, on loopback; each ended by its process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import debian

PASSWORD = "not-to-be-seen-4711"
LIMIT = 240
#: What separates fields and rows of psql's output, and stands in no value.
FIELD, ROW = "\x1f", "\x1e"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


PROGRAMS = {
    "initdb": "postgresql", "postgres": "postgresql", "psql": "postgresql-client", "pg_dump": "postgresql-client",
    "runuser": "util-linux",
}  # fmt: skip


def _program(name: str) -> str:
    found = shutil.which(name)  # runuser has a PATH of its own
    assert found is not None, name
    return found


class Postgres:
    """A cluster in `folder`. PostgreSQL refuses to be root, who starts it as another user, in a folder beside pytest's.

    Not below it: every session of pytest that starts closes it to others, under a server that runs.
    """

    def __init__(self, folder: Path) -> None:
        debian.install(PROGRAMS)
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
            shutil.chown(folder, "postgres")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        else:
            folder.mkdir()
        self.folder, self.port = folder, free_port()
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        words = [
            "--auth=scram-sha-256",
            "--username=mlflow",
            f"--pwfile={secret}",
            "--no-sync",
            f"--pgdata={folder}/data",
        ]
        subprocess.run([*self._as, _program("initdb"), *words], check=True, capture_output=True, cwd="/")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        assert self._query("create database mlflow", "postgres").returncode == 0

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*self._as, _program("postgres"), "-D", f"{self.folder}/data", "-p", str(self.port),
             "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL, stderr=(self.folder / "log").open("ab"), cwd="/",
        )  # fmt: skip
        end = time.monotonic() + LIMIT
        while self._query("select 1", "postgres").returncode:
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.3)

    @property
    def uri(self) -> str:
        return f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{self.port}/mlflow"

    def _ask(self, program: str, database: str, *words: str) -> subprocess.CompletedProcess[str]:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "mlflow", "-d", database]
        secret = os.environ | {"PGPASSWORD": PASSWORD}
        return subprocess.run([program, *where, *words], capture_output=True, text=True, env=secret)

    def _query(self, sql: str, database: str) -> subprocess.CompletedProcess[str]:
        return self._ask("psql", database, "-At", "-F", FIELD, "-R", ROW, "-c", sql)

    def everything(self) -> str:
        """Return all rows of all tables as text."""
        done = self._ask("pg_dump", "mlflow", "--data-only")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rows(self, sql: str) -> list[list[str]]:
        done = self._query(sql, "mlflow")
        assert done.returncode == 0, done.stderr
        said = done.stdout.removesuffix("\n")
        return [row.split(FIELD) for row in said.split(ROW)] if said else []

    def stop(self) -> None:
        if self._process is None:
            return
        # Its own process, not runuser's; SIGINT is its fast shutdown.
        pid = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGINT)
        self._process.wait(60)
        self._process = None


class Server:
    """`mlflow server` on a port that it keeps over restarts."""

    def __init__(self, folder: Path, backend: str, host: str = "127.0.0.1") -> None:
        self.folder, self.host, self.port = folder, host, free_port()
        self._backend = backend
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    @property
    def uri(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        self.begin()
        self.wait()

    def begin(self) -> None:
        words = [
            sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port), "--workers", "1",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        log = (self.folder / "log").open("ab")
        # As docs/mlflow.md has it: a command line can be read by others.
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_BACKEND_STORE_URI": self._backend}
        # In a session of its own: its workers are ended with it.
        self._process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )

    def wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + LIMIT
        while True:
            try:
                if httpx.get(f"{self.uri}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert self._process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.3)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
