"""MLflow: one parent run per pipeline run, a child per stage, each ending with its true status.

The store is SQLite in the results folder unless `tracking.uri` names a server. Several processes use it at once: it is
made under a file lock, and calls are tried again while the database is locked. A server may be down: the run goes on,
and what it could not log is uploaded later (`tracking_spool`). mlflow (1.5 s) is imported at first use.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenlong.core.config import Config
from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import code_digest, read_json, write_json
from qwenlong.core.logs import command_line, get, redact, redact_text
from qwenlong.core.ownership import Identity, join
from qwenlong.core.processes import end_within, terminate_as_exit
from qwenlong.core.tracking_link import Link
from qwenlong.core.tracking_spool import OFFLINE, Spool, offline_id, resolve, send, upload
from qwenlong.core.tracking_store import Store, is_outage, is_remote, owner_tags, store_uri

__all__ = [
    "Run",
    "active_run_id",
    "begin_pipeline",
    "end_pipeline",
    "flatten",
    "log_metrics",
    "log_table",
    "stage",
    "store_uri",
]

_LOG = get(__name__)
#: Longest value of a parameter; databases behind older MLflow servers cut at 500.
PARAMETER_LENGTH = 500
#: Seconds beyond the grace for the end itself.
LAST_CALL = 5.0
_active: list[Run] = []


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


class Run:
    """A run. Without tracking, an object that does nothing, with empty `run_id` and `uri`.

    What the server cannot take now goes to the run's spool, and all that follows too, until the spool is uploaded.
    """

    def __init__(self, link: Link | None = None, run_id: str = "", head: Mapping[str, Any] | None = None) -> None:
        self._link, self.run_id, self._head = link, run_id, head or {}
        self.uri = link.uri if link else ""
        self._spool: Spool | None = None
        if link is not None and run_id.startswith(OFFLINE):
            self._open_spool()

    @classmethod
    def begin(cls, link: Link, name: str, tags: Mapping[str, str], parent: str | None, owner: Identity) -> Run:
        """Create a run that carries who owns it; while the server is down, one that MLflow will make later."""
        command = redact_text(" ".join(command_line()))[:PARAMETER_LENGTH]
        tags = {**owner_tags(owner, link.results, command), **tags}
        head = _head(link, name, tags, parent)
        known = parent and resolve(link.results, parent)
        store = link.store()
        if store is not None and (known or not parent):
            try:
                made = store.create(name, tags | ({"mlflow.parentRunId": known} if known else {}))
                return cls(link, made, head | {"run_id": made})
            except Exception as error:
                if not (is_remote(link.uri) and is_outage(error)):
                    raise
                link.lost(error)
        return cls(link, offline_id(), head)

    def _open_spool(self) -> Spool:
        assert self._link is not None
        if self._spool is None:
            self._spool = Spool.begin(self._link.results, self.run_id, self._head)
        return self._spool

    def _flush(self, store: Store) -> None:
        """Upload this run's spool; from then on it is logged at once again, under MLflow's own id."""
        assert self._link is not None and self._spool is not None
        # A parent that began offline is uploaded first; what others hold is left to them.
        parent = self._head.get("parent")
        if parent and resolve(self._link.results, parent) is None:
            upload(self._link.results, store)
        made = send(self._link.results, self._spool, store)
        self._spool.close()
        self._spool = None
        self.run_id, self._head = made, {**self._head, "run_id": made}
        _LOG.info("MLflow answers again: run %s is uploaded", made)

    def send(self, entry: Mapping[str, Any], folder: Path = Path(), *, now: bool = False) -> None:
        """Log an entry at once, or keep it in the spool. Files are given below `folder`.

        `now`: ask a server that was down even before its pause is over. Raises what the server refuses.
        """
        link = self._link
        if link is None:
            return
        store = link.store(now=now)
        if store is not None:
            try:
                if self._spool is not None:
                    self._flush(store)
                store.apply(self.run_id, entry, folder)
                return
            except Exception as error:
                # A spool that is refused as a whole is kept, like one that nobody takes.
                if not (is_remote(link.uri) and (is_outage(error) or self._spool is not None)):
                    raise
                link.lost(error)
        spool = self._open_spool()
        if entry["kind"] == "artifact":
            entry = {**entry, "path": spool.keep(folder / entry["path"])}
        spool.add(entry)

    def log_params(self, values: Mapping[str, str]) -> None:
        """Log parameters, which must be flat and redacted (`flatten`)."""
        if self._link is not None and values:
            self.send({"kind": "params", "values": dict(values)})

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of one step (default: 0)."""
        if self._link is None or not values:
            return
        numbers = {key: float(value) for key, value in values.items()}
        self.send({"kind": "metrics", "values": numbers, "step": step or 0, "time": int(time.time() * 1000)})

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, redacted."""
        if self._link is not None and values:
            self.send({"kind": "tags", "values": {key: str(redact(value, key)) for key, value in values.items()}})

    def log_text(self, text: str, name: str) -> None:
        """Store a text as a file, redacted."""
        if self._link is not None:
            self.send({"kind": "text", "text": redact_text(text), "name": name})

    def log_artifact(self, path: str | Path) -> None:
        """Store a file, or a folder's files, with the run. Raises DataError when there is none."""
        if not Path(path).exists():
            raise DataError(f"{path} does not exist; it cannot be stored with the MLflow run")
        self.send({"kind": "artifact", "path": str(path)})

    def log_table(self, columns: Mapping[str, Sequence[Any]], name: str) -> None:
        """Store columns of equal length as a table that MLflow shows (`name` ends in .json), redacted.

        A second table of the same name is appended to the first.
        """
        if self._link is not None:
            clean = redact({key: list(column) for key, column in columns.items()})
            self.send({"kind": "table", "columns": clean, "name": name})

    def end(self, status: str) -> None:
        """End the run; its end time is that of its first end."""
        self.send({"kind": "end", "status": status, "time": int(time.time() * 1000)}, now=True)
        self.close()

    def close(self) -> None:
        """Leave the spool, if there is one, to whoever uploads it."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None


def _head(link: Link, name: str, tags: Mapping[str, str], parent: str | None) -> dict[str, Any]:
    """Return what a spool is told of its run, and of where to upload it by hand: no address with a password."""
    tracking = link.config.tracking
    return {
        "name": name,
        "tags": dict(tags),
        "parent": parent,
        "start": int(time.time() * 1000),
        "experiment": link.config.run.name,
        "uri": tracking.uri if tracking.uri and redact_text(tracking.uri) == tracking.uri else None,
        "uri_env": tracking.uri_env,
        "artifacts": tracking.artifacts,
    }


def log_metrics(values: Mapping[str, float], step: int) -> None:
    """Log metrics with the stage's run that is open in this process, if there is one."""
    if _active:
        _active[-1].log_metrics(values, step)


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


def _parent_file(results: Path) -> Path:
    return results / "state" / "mlflow_parent.json"


def _parent(link: Link) -> str | None:
    """Return the id of the pipeline's run that is under way; an offline one while it is not uploaded."""
    try:
        run_id = str(read_json(_parent_file(link.results))["run_id"])
    except (DataError, KeyError, TypeError):
        return None
    run_id = resolve(link.results, run_id) or run_id
    store = link.store()
    if store is None or run_id.startswith(OFFLINE):
        return run_id
    try:
        return run_id if store.is_running(run_id) else None
    except Exception as error:
        link.lost(error)
        return run_id


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
    link = Link(config)
    link.catch_up()
    run = Run.begin(link, f"{config.run.name} pipeline", _common(config) | {"qwenlong.kind": "pipeline"}, None, owner)
    run.log_params(flatten(config.model_dump(mode="json")))
    run.log_text(dump(config), "config.yaml")
    run.close()
    write_json(_parent_file(link.results), {"run_id": run.run_id})
    return run.run_id


def end_pipeline(config: Config, status: str) -> None:
    """End the pipeline's run as FINISHED or FAILED; children whose process is dead become FAILED."""
    if status not in ("FINISHED", "FAILED"):
        raise QwenlongError(f"status {status!r} is unknown; use FINISHED or FAILED")
    if not config.tracking.enabled:
        return
    link = Link(config)
    parent = _parent(link)
    if parent is not None:
        head = _head(link, f"{config.run.name} pipeline", {}, None)
        head["run_id"] = None if parent.startswith(OFFLINE) else parent
        Run(link, parent, head).end(status)
    link.catch_up()
    _parent_file(link.results).unlink(missing_ok=True)


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
    end_within(config.run.grace_seconds + LAST_CALL)
    with terminate_as_exit():
        link = Link(config)
        link.catch_up()
        tags = _common(config) | {"qwenlong.kind": "stage", "qwenlong.stage": name}
        run, status = Run.begin(link, name, tags, _parent(link), Identity.own()), "FAILED"
        _active.append(run)
        try:
            run.log_params(flatten(params or {}))
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
                _end_fluent(run.run_id, status)
                run.end(status)
            except Exception as error:
                # What made the stage fail is what the user must see; `bury_dead` marks the run later.
                if status == "FINISHED":
                    raise
                _LOG.warning(
                    "MLflow run %s could not be marked %s: %s", run.run_id, status, redact_text(str(error))[:200]
                )
