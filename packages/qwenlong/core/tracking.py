"""MLflow: one parent run per pipeline run, a child per stage, each ending with its true status.

The store is SQLite in the results folder unless `tracking.uri` names a server. Several processes use it at once: it is
made under a file lock, and calls are tried again while the database is locked. mlflow (1.5 s) is imported at first use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qwenlong.core.config import Config
from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import code_digest, disk_full, read_json, write_json
from qwenlong.core.logs import command_line, get, redact, redact_text
from qwenlong.core.ownership import Identity, host, join
from qwenlong.core.processes import terminate_as_exit

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")
_LOG = get(__name__)
#: Longest value of a parameter; databases behind older MLflow servers cut at 500.
PARAMETER_LENGTH = 500
_BATCH = 100
_PATIENCE = 120.0
_active: list[Run] = []


def store_uri(config: Config) -> str:
    """Return the tracking address: `tracking.uri`, or the SQLite store in the results folder.

    A process given it as MLFLOW_TRACKING_URI (verl) waits for the database as patiently as this one.
    """
    if config.tracking.uri:
        return config.tracking.uri
    file = Path(config.run.results).resolve() / "mlflow.db"
    return f"sqlite:///{file}?timeout={_PATIENCE:.0f}"


def active_run_id() -> str | None:
    """Return the id of the stage's run that is open in this process, or that MLFLOW_RUN_ID names."""
    if _active:
        return _active[-1].run_id or None
    return os.environ.get("MLFLOW_RUN_ID")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as dotted keys with text values, secrets redacted, each at most `PARAMETER_LENGTH` long."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(redact(value, str(key)))[:PARAMETER_LENGTH]
    return flat


def _retry(call: Callable[[], T]) -> T:
    """Call again while SQLite says that it is locked, up to `_PATIENCE` seconds."""
    end, pause = time.monotonic() + _PATIENCE, 0.1
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


class _Store:
    """A client and an experiment of one run's store."""

    def __init__(self, config: Config) -> None:
        self.uri = store_uri(config)
        self.results = Path(config.run.results)
        # Nobody but the person who runs this is to hear of it.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        state = self.results / "state"
        state.mkdir(parents=True, exist_ok=True)
        with (state / "mlflow.lock").open("w") as stream:
            # Tables and experiment are made by one process; a second would find them half made.
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                self.client: MlflowClient = _retry(lambda: MlflowClient(self.uri))
                self.experiment: str = _retry(lambda: self._experiment(config))
            except Exception as error:
                raise QwenlongError(
                    f"MLflow at {redact_text(self.uri)} does not answer ({redact_text(str(error))[:300]}); "
                    "mend tracking.uri, or set tracking.enabled to false"
                ) from None

    def _experiment(self, config: Config) -> str:
        found = self.client.get_experiment_by_name(config.run.name)
        if found is not None:
            if found.lifecycle_stage != "active":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        root = None if config.tracking.uri else (self.results.resolve() / "mlartifacts").as_uri()
        return str(self.client.create_experiment(config.run.name, artifact_location=root))

    def create(self, name: str, tags: dict[str, str], owner: Identity) -> str:
        """Create a run that carries who owns it, and return its id."""
        mark = {
            "qwenlong.pid": str(owner.pid),
            "qwenlong.start": owner.start,
            "qwenlong.host": host(),
            "qwenlong.results": str(self.results),
            "mlflow.source.name": redact_text(" ".join(command_line()))[:PARAMETER_LENGTH],
        }
        made = _retry(lambda: self.client.create_run(self.experiment, run_name=name, tags=mark | tags))
        return str(made.info.run_id)

    def params(self, run_id: str, values: dict[str, str]) -> None:
        """Log parameters in batches."""
        from mlflow.entities import Param

        entries = [Param(key, value) for key, value in sorted(values.items())]
        for start in range(0, len(entries), _BATCH):
            _retry(lambda chunk=entries[start : start + _BATCH]: self.client.log_batch(run_id, params=chunk))  # type: ignore[misc]

    def end(self, run_id: str, status: str) -> None:
        """End a run; its end time is that of its first end."""
        _retry(lambda: self.client.set_terminated(run_id, status))

    def bury_dead(self) -> list[str]:
        """Mark runs as FAILED, with qwenlong.died=true, whose process on this host is dead; return their ids."""
        buried = []
        query = "attributes.status = 'RUNNING'"
        runs = _retry(lambda: self.client.search_runs([self.experiment], query, max_results=1000))
        for run in runs:
            tags = run.data.tags
            pid = tags.get("qwenlong.pid", "")
            if tags.get("qwenlong.host") != host() or not pid.isdigit():
                continue
            if not Identity(int(pid), tags.get("qwenlong.start", "")).alive():
                run_id = str(run.info.run_id)
                _retry(lambda run_id=run_id: self.client.set_tag(run_id, "qwenlong.died", "true"))  # type: ignore[misc]
                self.end(run_id, "FAILED")
                buried.append(run_id)
        return buried

    def parent(self) -> str | None:
        """Return the id of the pipeline's run that is under way."""
        file = self.results / "state" / "mlflow_parent.json"
        if not file.exists():
            return None
        try:
            run_id = str(read_json(file)["run_id"])
            found = _retry(lambda: self.client.get_run(run_id))
        except (DataError, KeyError, TypeError):
            return None
        except Exception as error:
            _LOG.warning("%s names a run that MLflow does not have (%s)", file, redact_text(str(error))[:200])
            return None
        return run_id if found.info.status == "RUNNING" else None


class Run:
    """A stage's run. Without tracking, an object that does nothing, with empty `run_id` and `uri`."""

    def __init__(self, store: _Store | None = None, run_id: str = "") -> None:
        self._store, self.run_id = store, run_id
        self.uri = store.uri if store else ""

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of one step (default: 0)."""
        if self._store is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step or 0) for key, value in sorted(values.items())]
        client = self._store.client
        for start in range(0, len(entries), _BATCH):
            _retry(lambda chunk=entries[start : start + _BATCH]: client.log_batch(self.run_id, metrics=chunk))  # type: ignore[misc]

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, redacted."""
        if self._store is None:
            return
        from mlflow.entities import RunTag

        client = self._store.client
        entries = [RunTag(key, str(redact(value, key))) for key, value in sorted(values.items())]
        _retry(lambda: client.log_batch(self.run_id, tags=entries))

    def log_artifact(self, path: str | Path) -> None:
        """Store a file, or a folder's files, with the run. Raises DataError when there is none."""
        if not Path(path).exists():
            raise DataError(f"{path} does not exist; it cannot be stored with the MLflow run")
        if self._store is None:
            return
        client = self._store.client
        log = client.log_artifacts if Path(path).is_dir() else client.log_artifact
        _retry(lambda: log(self.run_id, str(path)))

    def log_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """Store columns of equal length as a table that MLflow shows (`name` ends in .json), redacted.

        A second table of the same name is appended to the first.
        """
        if self._store is None:
            return
        client, clean = self._store.client, redact({key: list(column) for key, column in columns.items()})
        _retry(lambda: client.log_table(self.run_id, clean, name))


def log_table(columns: Mapping[str, Sequence[Any]], name: str) -> None:
    """Store a table with the stage's run that is open in this process, if there is one (see `Run.log_table`)."""
    if _active:
        _active[-1].log_table(columns, name)


def _common(config: Config) -> dict[str, str]:
    from qwenlong import __version__
    from qwenlong.core.config_files import digest

    return {
        "qwenlong.version": __version__,
        "qwenlong.config": digest(config),
        "qwenlong.code": code_digest(),
        "qwenlong.seed": str(config.run.seed),
    }


def begin_pipeline(config: Config, *, short_lived: bool = False) -> str:
    """Begin the pipeline's run, mark runs of dead processes as FAILED, and return its id ("" without tracking).

    The run belongs to the run's owner: the main snakemake where there is one, else this process, or the one that
    started it when this is `short_lived`. Its id stands in `<results>/state/mlflow_parent.json`, for the stages.
    """
    if not config.tracking.enabled:
        return ""
    from qwenlong.core.config_files import dump

    owner = join(config.run.results)
    if short_lived and owner == Identity.own():
        owner = Identity.of(os.getppid()) or owner
    store = _Store(config)
    for run_id in store.bury_dead():
        _LOG.warning("MLflow run %s belonged to a process that is dead: marked FAILED", run_id)
    run_id = store.create(f"{config.run.name} pipeline", _common(config) | {"qwenlong.kind": "pipeline"}, owner)
    store.params(run_id, flatten(config.model_dump(mode="json")))
    _retry(lambda: store.client.log_text(run_id, redact_text(dump(config)), "config.yaml"))
    write_json(store.results / "state" / "mlflow_parent.json", {"run_id": run_id, "experiment_id": store.experiment})
    return run_id


def end_pipeline(config: Config, status: str) -> None:
    """End the pipeline's run as FINISHED or FAILED; children whose process is dead become FAILED."""
    if status not in ("FINISHED", "FAILED"):
        raise QwenlongError(f"status {status!r} is unknown; use FINISHED or FAILED")
    if not config.tracking.enabled:
        return
    store = _Store(config)
    parent = store.parent()
    store.bury_dead()
    if parent is not None:
        store.end(parent, status)
    (store.results / "state" / "mlflow_parent.json").unlink(missing_ok=True)


def _end_fluent(run_id: str, status: str) -> None:
    """End the run in MLflow's fluent interface, where a trainer's logger has entered it.

    Such a logger ends its run as FINISHED when it is thrown away, be it by a failure and after everything else.
    """
    mlflow = sys.modules.get("mlflow")
    active = mlflow.active_run() if mlflow is not None else None
    if mlflow is not None and active is not None and active.info.run_id == run_id:
        mlflow.end_run(status)


@contextlib.contextmanager
def stage(config: Config, name: str, params: Mapping[str, Any] | None = None) -> Iterator[Run]:
    """Track a stage: a child of the pipeline's run if one is under way.

    FINISHED at the end; FAILED on any exception, KeyboardInterrupt, a non-zero SystemExit and SIGTERM (which becomes
    SystemExit(143) in the main thread). A process killed outright is marked by the next run, see `begin_pipeline`.
    """
    if not config.tracking.enabled:
        yield Run()
        return
    join(config.run.results)
    with terminate_as_exit():
        store = _Store(config)
        store.bury_dead()
        parent = store.parent()
        tags = _common(config) | {"qwenlong.kind": "stage", "qwenlong.stage": name}
        run_id = store.create(name, tags | ({"mlflow.parentRunId": parent} if parent else {}), Identity.own())
        run, status = Run(store, run_id), "FAILED"
        _active.append(run)
        try:
            store.params(run_id, flatten(params or {}))
            yield run
            status = "FINISHED"
        except SystemExit as error:
            status = "FINISHED" if error.code in (None, 0) else "FAILED"
            raise
        except BaseException as error:
            reason = redact_text(f"{type(error).__name__}: {error}")[:PARAMETER_LENGTH]
            with contextlib.suppress(Exception):
                run.set_tags({"qwenlong.error": reason})
            raise
        finally:
            _active.remove(run)
            try:
                _end_fluent(run_id, status)
                store.end(run_id, status)
            except Exception as error:
                # What made the stage fail is what the user must see; `bury_dead` marks the run later.
                if status == "FINISHED":
                    raise
                _LOG.warning("MLflow run %s could not be marked %s: %s", run_id, status, redact_text(str(error))[:200])
