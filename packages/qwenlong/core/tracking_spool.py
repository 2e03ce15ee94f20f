"""What could not be logged yet: a folder a run below `<results>/state/tracking`, uploaded when the server answers.

    <id>/head.json   name, tags, start and parent of the run; `run_id` once MLflow has made it
    <id>/log.jsonl   entries in order, see `tracking_store`
    <id>/files/      copies of stored files
    <id>/sent        how many lines were taken by the server
    ids/<id>         MLflow's id of a run that began while the server was down
    refused/<id>.jsonl  entries that the server will never take

`<id>` is the run's id, or "offline-…" until there is one. A process holds a lock on the folders that it writes;
others' are uploaded by whoever comes next. Entries are redacted before they come here.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qwenlong.core import slurm
from qwenlong.core.errors import DataError
from qwenlong.core.files import append_line, read_json, write_json, write_text
from qwenlong.core.logs import get, redact_text
from qwenlong.core.ownership import Identity
from qwenlong.core.tracking_store import Store, is_outage

_LOG = get(__name__)
OFFLINE = "offline-"
#: Tag of a run that began offline: the id that sidecars of that time name.
TAG = "qwenlong.offline_id"


def offline_id() -> str:
    """Return a fresh id for a run that MLflow cannot make yet."""
    return OFFLINE + uuid.uuid4().hex


def root(results: str | Path) -> Path:
    """Return the folder of all spools of a results folder."""
    return Path(results) / "state" / "tracking"


def resolve(results: str | Path, run_id: str) -> str | None:
    """Return MLflow's id of a run: itself, or what an offline id became; none while that is not uploaded."""
    if not run_id.startswith(OFFLINE):
        return run_id
    file = root(results) / "ids" / run_id
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


class Spool:
    """One run's folder, locked while this object is open."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder, self._descriptor = folder, descriptor

    @classmethod
    def begin(cls, results: str | Path, run_id: str, head: Mapping[str, Any]) -> Spool:
        """Open the spool of a run, making it where there is none."""
        folder = root(results) / run_id
        while True:
            (folder / "files").mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(folder / "log.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue
            with contextlib.suppress(OSError):  # Waits for an upload that is under way.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # That upload has removed the file.
        if not (folder / "head.json").exists():
            write_json(folder / "head.json", dict(head))
        return cls(folder, descriptor)

    @classmethod
    def take(cls, folder: Path) -> Spool | None:
        """Open a spool that a process left; none when another process has it."""
        try:
            descriptor = os.open(folder / "log.jsonl", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Without file locks the head tells whose it is.
            if isinstance(error, BlockingIOError) or not _left(folder / "head.json"):
                os.close(descriptor)
                return None
        if not (folder / "head.json").exists():  # Another upload has just ended.
            os.close(descriptor)
            return None
        return cls(folder, descriptor)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._descriptor)

    def head(self) -> dict[str, Any]:
        """Return what is known of the run."""
        value = read_json(self.folder / "head.json")
        if not isinstance(value, dict) or not {"name", "tags", "start"} <= value.keys():
            raise DataError(f"{self.folder / 'head.json'} is no head of a run; remove {self.folder}")
        return value

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append an entry and wait until it is on disk."""
        # Keys as they came: a table's columns have an order.
        line = json.dumps(entry, default=_plain).encode() + b"\n"
        append_line(self._descriptor, line, self.folder / "log.jsonl")

    def keep(self, path: Path) -> str:
        """Copy a file or folder below the spool; return its path there."""
        place = self.folder / "files" / uuid.uuid4().hex[:12] / (path.name or "files")
        place.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, place)
        else:
            shutil.copyfile(path, place)
        return place.relative_to(self.folder).as_posix()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries in order; a line that a power cut left unfinished is the last and is left out."""
        with (self.folder / "log.jsonl").open(encoding="utf-8") as stream:
            for line in stream:
                try:
                    value = json.loads(line)
                except ValueError:
                    return
                yield value

    def sent(self) -> int:
        """Return how many entries the server has taken."""
        file = self.folder / "sent"
        return int(file.read_text()) if file.is_file() else 0

    def remove(self) -> None:
        """Remove the folder. The head goes first: without one it is no spool."""
        (self.folder / "head.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _left(file: Path) -> bool:
    """Tell whether the process that wrote a head is known to have ended."""
    with contextlib.suppress(DataError, OSError, KeyError, TypeError, ValueError):
        tags = read_json(file)["tags"]
        where = Identity(int(tags["qwenlong.pid"]), tags["qwenlong.start"]).where(tags["qwenlong.host"])
        return where == "dead" or (where == "elsewhere" and slurm.Jobs().ended(tags.get("qwenlong.slurm_job")))
    return False


@dataclass
class Uploaded:
    """What an upload did."""

    runs: dict[str, str] = field(default_factory=dict)
    """MLflow's id of each run, by the name of its folder."""
    entries: int = 0
    refused: int = 0
    """Entries that the server will not take; they lie in refused/."""
    busy: int = 0
    """Runs whose process is still at work, and uploads by itself."""


def folders(results: str | Path) -> list[Path]:
    """Return the folders of runs that are not uploaded, those that began first in front: parents before children."""
    found = []
    for file in root(results).glob("*/head.json"):
        try:
            found.append((int(read_json(file)["start"]), file.parent))
        except FileNotFoundError:
            continue
        except (DataError, KeyError, TypeError, ValueError) as error:
            _LOG.warning("%s is no head of a run (%s); what lies beside it is not uploaded", file, error)
    return [folder for _, folder in sorted(found)]


def upload(results: str | Path, store: Store) -> Uploaded:
    """Send what earlier processes could not. Raises the server's error when it goes away meanwhile."""
    done = Uploaded()
    for folder in folders(results):
        spool = Spool.take(folder)
        if spool is None:
            done.busy += 1
            continue
        try:
            done.runs[folder.name] = send(results, spool, store, done)
        except Exception as error:
            if is_outage(error):
                raise
            _LOG.warning("%s is not uploaded: %s", folder, redact_text(str(error))[:300])
        finally:
            spool.close()
    return done


def send(results: str | Path, spool: Spool, store: Store, done: Uploaded | None = None) -> str:
    """Send one spool's entries and remove it; return MLflow's id of the run.

    What was sent before a failure is not sent again, but for the entry that was under way.
    """
    done = done if done is not None else Uploaded()
    run_id = _identify(results, spool, store)
    sent = spool.sent()
    for number, entry in enumerate(spool.entries()):
        if number < sent:
            continue
        try:
            store.apply(run_id, entry, spool.folder, again=True)
            done.entries += 1
        except Exception as error:
            if is_outage(error):
                raise
            _refused(results, spool.folder.name, entry, error)
            done.refused += 1
        write_text(spool.folder / "sent", f"{number + 1}\n")
    spool.remove()
    return run_id


def _identify(results: str | Path, spool: Spool, store: Store) -> str:
    name, head = spool.folder.name, spool.head()
    if head.get("run_id"):
        return str(head["run_id"])
    run_id = resolve(results, name) or store.find(TAG, name, head.get("experiment"))
    if run_id is None:
        tags = {**head["tags"], TAG: name}
        parent = resolve(results, head["parent"]) if head.get("parent") else None
        tags |= {"mlflow.parentRunId": parent} if parent else {}
        run_id = store.create(head["name"], tags, head["start"], head.get("experiment"))
    write_text(root(results) / "ids" / name, run_id + "\n")
    return run_id


def _plain(value: Any) -> Any:
    """Return numbers of numpy as Python's, all else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _refused(results: str | Path, name: str, entry: Mapping[str, Any], error: BaseException) -> None:
    file = root(results) / "refused" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    said = redact_text(str(error))[:300]
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"entry": entry, "error": said, "at": int(time.time())}, sort_keys=True) + "\n")
    _LOG.warning("MLflow refused an entry of kind %s (%s); it is kept in %s", entry.get("kind"), said, file)
