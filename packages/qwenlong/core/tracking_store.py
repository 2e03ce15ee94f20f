"""The way to an MLflow store: reaching it, telling an outage from a refusal, and what one entry of a run becomes there.

An entry is a JSON object of one `kind` (params, metrics, tags, text, table, artifact, end), the same whether it is sent
at once or lies in a spool first (`tracking_spool`). Metrics carry the time at which they were measured: MLflow keeps
(run, name, time, step, value) once, so that an entry that is sent again changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from qwenlong.core import slurm
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import disk_full
from qwenlong.core.logs import get, redact_text
from qwenlong.core.ownership import Identity, host

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")
_LOG = get(__name__)
_BATCH = 100
#: Seconds for which a locked SQLite file is waited for.
PATIENCE = 120.0
#: Seconds for which a server may be silent before it counts as down.
PROBE = 15.0
#: Statuses of a server that another try may cure, among those that blame the request.
_PASSING = (401, 403, 407, 408, 425, 429)


class Down(QwenlongError):
    """The store does not answer, or not now."""


def store_uri(config: Config) -> str:
    """Return the tracking address: of the variable `tracking.uri_env`, `tracking.uri`, or SQLite in the results folder.

    A process given it as MLFLOW_TRACKING_URI waits for the database as patiently as this one. Raises QwenlongError
    when the variable is not set.
    """
    tracking = config.tracking
    if tracking.uri_env:
        found = os.environ.get(tracking.uri_env)
        if not found:
            raise QwenlongError(f"tracking.uri_env = {tracking.uri_env!r}, but that variable is not set; export it")
        return found
    if tracking.uri:
        return tracking.uri
    file = Path(config.run.results).resolve() / "mlflow.db"
    return f"sqlite:///{file}?timeout={PATIENCE:.0f}"


def is_remote(uri: str) -> bool:
    """Tell whether an address is a server's, which may be down while the run goes on.

    >>> [is_remote(u) for u in ("http://h:5000", "postgresql://h/db", "sqlite:///x.db", "file:///x", "results")]
    [True, True, False, False, False]
    """
    scheme = urlsplit(uri).scheme
    return bool(scheme) and scheme not in ("sqlite", "file")


def is_outage(error: BaseException) -> bool:
    """Tell whether a call may work later: no connection, a server's fault, or credentials; not a refused request."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())
        return not 400 <= status < 500 or status in _PASSING
    # A database that is used without a server: its driver's errors, where SQLAlchemy is installed at all.
    database = any(kind.__module__ == "sqlalchemy.exc" for kind in type(error).__mro__)
    return database or isinstance(error, Down | OSError)


def probe(uri: str) -> None:
    """Raise Down unless somebody answers at a server's address.

    MLflow itself tries for minutes, each call anew. Only whether there is an answer counts, whatever it says.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        import httpx

        bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + "/health", "", ""))
        try:
            status = httpx.get(bare, timeout=PROBE, verify=False).status_code
        except (httpx.HTTPError, OSError) as error:
            raise Down(f"{type(error).__name__}: {error}") from None
        if status in (502, 503, 504):
            raise Down(f"HTTP status {status}")
    elif parts.hostname:
        port = parts.port or {"postgresql": 5432, "mysql": 3306, "mssql": 1433}.get(parts.scheme.split("+")[0])
        try:
            socket.create_connection((parts.hostname, port or 0), timeout=PROBE).close()
        except OSError as error:
            raise Down(f"{parts.hostname}:{port}: {error}") from None


def retry(call: Callable[[], T]) -> T:
    """Call again while SQLite says that it is locked, up to `PATIENCE` seconds."""
    end, pause = time.monotonic() + PATIENCE, 0.1
    while True:
        try:
            return call()
        except Exception as error:  # MLflow wraps the driver's error in its own, with the text kept
            locked = "database is locked" in str(error) or "database table is locked" in str(error)
            if "disk is full" in str(error) or "No space left" in str(error):
                raise disk_full("the MLflow store") from error
            if not locked or time.monotonic() >= end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


class Store:
    """A client and an experiment of one run's store.

    Raises Down when a server does not answer, QwenlongError when the address cannot be right.
    """

    def __init__(self, config: Config) -> None:
        self.uri = store_uri(config)
        self.results = Path(config.run.results)
        self._config = config
        # Nobody but the person who runs this is to hear of it.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A command's output may be JSON.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        remote = is_remote(self.uri)
        if remote:
            # MLflow's own patience is minutes a call; what cannot be sent now is sent later.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
            probe(self.uri)
        from mlflow.tracking import MlflowClient

        state = self.results / "state"
        state.mkdir(parents=True, exist_ok=True)
        with (state / "mlflow.lock").open("w") as stream:
            # Tables and experiment are made by one process; a second would find them half made.
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                self.client: MlflowClient = retry(lambda: MlflowClient(self.uri))
                self.experiment: str = retry(lambda: self._experiment(config.run.name))
            except Exception as error:
                said = redact_text(str(error))[:300]
                if remote and is_outage(error):
                    raise Down(said) from None
                raise QwenlongError(
                    f"MLflow at {redact_text(self.uri)} does not answer ({said}); "
                    "mend tracking.uri, or set tracking.enabled to false"
                ) from None

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        root = self._config.tracking.artifacts
        if root is None and not is_remote(self.uri):
            root = (self.results.resolve() / "mlartifacts").as_uri()
        return str(self.client.create_experiment(name, artifact_location=root))

    def _in(self, experiment: str | None) -> str:
        return self.experiment if experiment is None else retry(lambda: self._experiment(experiment))

    def create(
        self, name: str, tags: Mapping[str, str], start: int | None = None, experiment: str | None = None
    ) -> str:
        """Create a run, begun at `start` (ms; default: now), and return its id. `experiment`: by name."""
        place = self._in(experiment)
        made = retry(lambda: self.client.create_run(place, start_time=start, run_name=name, tags=dict(tags)))
        return str(made.info.run_id)

    def find(self, tag: str, value: str, experiment: str | None = None) -> str | None:
        """Return the id of the run with a tag of this value, none if there is none."""
        place = self._in(experiment)
        found = retry(lambda: self.client.search_runs([place], f"tags.`{tag}` = '{value}'", max_results=1))
        return str(found[0].info.run_id) if found else None

    def apply(self, run_id: str, entry: Mapping[str, Any], folder: Path, *, again: bool = False) -> None:
        """Send an entry; files that it names are below `folder`. `again`: it may have been sent already."""
        from mlflow.entities import Metric, Param, RunTag

        client, kind = self.client, entry["kind"]
        if kind in ("params", "metrics", "tags"):
            values = sorted(entry["values"].items())
            make: Callable[[str, Any], Any] = {
                "params": Param,
                "tags": RunTag,
                "metrics": lambda key, value: Metric(key, float(value), entry["time"], entry["step"]),
            }[kind]
            for at in range(0, len(values), _BATCH):
                part = {kind: [make(key, value) for key, value in values[at : at + _BATCH]]}
                retry(lambda part=part: client.log_batch(run_id, **part))  # type: ignore[misc]
        elif kind == "text":
            retry(lambda: client.log_text(run_id, entry["text"], entry["name"]))
        elif kind == "table":
            if not (again and self._has_rows(run_id, entry)):
                retry(lambda: client.log_table(run_id, entry["columns"], entry["name"]))
        elif kind == "artifact":
            path = folder / entry["path"]
            if not path.exists():
                raise DataError(f"{path} is gone; it cannot be stored with the MLflow run")
            log = client.log_artifacts if path.is_dir() else client.log_artifact
            retry(lambda: log(run_id, str(path)))
        elif kind == "end":
            retry(lambda: client.set_terminated(run_id, entry["status"], entry["time"]))
        else:
            raise QwenlongError(f"an entry for MLflow is of kind {kind!r}, which this version does not know")

    def _has_rows(self, run_id: str, entry: Mapping[str, Any]) -> bool:
        """Tell whether a run's table ends in an entry's rows: MLflow appends to a table of the same name."""
        import tempfile

        name = str(entry["name"])
        parent = name.rpartition("/")[0]
        if all(file.path != name for file in self.client.list_artifacts(run_id, parent or None)):
            return False
        with tempfile.TemporaryDirectory() as folder:
            stored = json.loads(Path(self.client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8"))
        columns = entry["columns"]
        rows = [list(row) for row in zip(*(columns[key] for key in stored["columns"] if key in columns), strict=True)]
        return bool(rows) and stored["data"][-len(rows) :] == rows

    def bury_dead(self) -> list[str]:
        """Mark runs as FAILED, with qwenlong.died=true, whose process is dead; return their ids.

        Dead is a process of this machine that is gone, and one of a Slurm job that has ended or begun anew. Of any
        other process elsewhere nothing is known.
        """
        buried = []
        query = "attributes.status = 'RUNNING'"
        runs = retry(lambda: self.client.search_runs([self.experiment], query, max_results=1000))
        jobs = slurm.Jobs()
        for run in runs:
            tags = run.data.tags
            pid = tags.get("qwenlong.pid", "")
            if not pid.isdigit():
                continue
            owner = Identity(int(pid), tags.get("qwenlong.start", ""))
            where = owner.where(tags.get("qwenlong.host"))
            if where == "dead" or (where == "elsewhere" and jobs.ended(tags.get("qwenlong.slurm_job"))):
                run_id = str(run.info.run_id)
                retry(lambda run_id=run_id: self.client.set_tag(run_id, "qwenlong.died", "true"))  # type: ignore[misc]
                retry(lambda run_id=run_id: self.client.set_terminated(run_id, "FAILED"))  # type: ignore[misc]
                buried.append(run_id)
        return buried

    def is_running(self, run_id: str) -> bool:
        """Tell whether MLflow has a run of this id that has not ended."""
        try:
            found = retry(lambda: self.client.get_run(run_id))
        except Exception as error:
            if is_remote(self.uri) and is_outage(error):
                raise
            _LOG.warning("MLflow has no run %s (%s)", run_id, redact_text(str(error))[:200])
            return False
        return bool(found.info.status == "RUNNING")


def owner_tags(owner: Identity, results: Path, command: str) -> dict[str, str]:
    """Return the tags by which `bury_dead` later knows a run's process."""
    job = slurm.own_job()
    return {
        "qwenlong.pid": str(owner.pid),
        "qwenlong.start": owner.start,
        "qwenlong.host": host(),
        "qwenlong.results": str(results),
        "mlflow.source.name": command,
    } | ({"qwenlong.slurm_job": job} if job else {})
