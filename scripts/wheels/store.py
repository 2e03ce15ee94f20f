"""The folder of wheels and its journal: what is there is checked, what is missing is fetched, one writer at a time.

The journal holds each wheel's digest before the wheel gets its name, so that a file is either known or not ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from wheels.common import NO_ROOM, Hopeless, NoRoom, Trouble, digest, megabytes, to_json, write_text
from wheels.lock import Pin
from wheels.registry import Missing, Pip
from wheels.target import Target, parse_name

#: Pins that one call of pip fetches: what a kill costs, against pip's start (a second a call).
BATCH = 6
JOURNAL = ".journal.json"


@dataclass(frozen=True)
class Entry:
    """A wheel of the folder: its pin as the lock has it, file, digest, sizes in bytes, glibc (0.0: any), origin."""

    pin: str
    file: str
    sha256: str
    size: int
    unpacked: int
    glibc: str
    origin: str


def say(text: str) -> None:
    """Print progress."""
    print(text, flush=True)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder: a second run into it fails at once. The lock ends with the process."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Trouble(f"another run is filling {out}; wait for it, or name another folder: OUT=…") from error
        yield


class Store:
    """The wheels of one wheelhouse.

    `out` must be empty, absent or a wheelhouse for the same platform; anything else is refused.
    """

    def __init__(self, out: Path, target: Target, find_links: Sequence[str]) -> None:
        self.out, self.target = out, target
        self.wheels = out / "wheels"
        self.entries: dict[str, Entry] = {}
        self._load()
        scratch = out / ".scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        self.wheels.mkdir(exist_ok=True)
        scratch.mkdir()
        self.pip = Pip(target, find_links, scratch)

    def _load(self) -> None:
        journal = self.out / JOURNAL
        if not journal.exists():
            others = sorted(
                path.name for path in self.out.iterdir() if path.name not in (".lock", f".{JOURNAL}.partial")
            )
            if others:
                raise Trouble(
                    f"{self.out} holds other files ({', '.join(others[:3])}…); name an empty folder: OUT=…", 2
                )
            self._save()
            return
        try:
            content = json.loads(journal.read_text(encoding="utf-8"))
            entries = {name: Entry(**entry) for name, entry in content["wheels"].items()}
            target = content["target"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Trouble(f"{journal} is damaged ({error}); remove {self.out} and run the same again") from error
        if target != self.target.label:
            raise Trouble(f"{self.out} holds wheels for {target}, not for {self.target.label}: OUT=… names another", 2)
        self.entries = entries

    def _save(self) -> None:
        content = {"target": self.target.label, "wheels": {name: asdict(entry) for name, entry in self.entries.items()}}
        write_text(self.out / JOURNAL, to_json(content))

    def close(self) -> None:
        """Remove temporary files."""
        shutil.rmtree(self.pip.scratch, ignore_errors=True)

    def bytes_there(self) -> int:
        """Return the size of all wheels that are there."""
        return sum(entry.size for entry in self.entries.values() if (self.wheels / entry.file).exists())

    def verified(self, name: str, pin: str) -> bool:
        """Say whether the wheel of a pin is there and whole; a damaged one is removed with a message."""
        entry = self.entries.get(name)
        if entry is None or entry.pin != pin:
            return False
        path = self.wheels / entry.file
        if not path.is_file():
            return False
        found = digest(path)
        if found == entry.sha256:
            return True
        say(f"{entry.file} is damaged (sha256 {found[:12]}…, expected {entry.sha256[:12]}…): fetching it again")
        path.unlink()
        return False

    def add(self, path: Path, name: str, pin: str, origin: str) -> Entry:
        """Take a wheel into the folder after checking name, tags, archive and, if it was there before, digest."""
        wheel = parse_name(path.name)
        if wheel.name != name:
            raise Trouble(f"{path.name} came for {pin}: the registry or a folder of --find-links mixes names up")
        glibc = self.target.need(wheel)
        if glibc is None:
            raise Trouble(
                f"{pin}: {path.name} does not run on {self.target.label}; it was built from source on this machine: "
                "build it on such a machine and name its folder with --find-links"
            )
        try:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
                unpacked = sum(item.file_size for item in archive.infolist())
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise Trouble(f"{pin}: {path.name} is no whole archive ({error})") from error
        if bad:
            raise Trouble(f"{pin}: {path.name} is damaged at {bad}")
        sha256 = digest(path)
        former = self.entries.get(name)
        if former and origin == "registry" and former.file == path.name and former.sha256 != sha256:
            raise Trouble(
                f"{path.name} was {former.sha256} when first fetched and is {sha256} now: the registry or a folder of "
                f"--find-links exchanged it; find out why, or remove {self.out} to start anew"
            )
        entry = Entry(pin, path.name, sha256, path.stat().st_size, unpacked, f"{glibc[0]}.{glibc[1]}", origin)
        self.entries[name] = entry
        self._save()
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(self.wheels / path.name)
        if former and former.file != entry.file:
            (self.wheels / former.file).unlink(missing_ok=True)
        return entry

    def fetch(self, pins: Sequence[Pin]) -> list[str]:
        """Bring every pin's wheel here; return a line for each that cannot be had."""
        missing = [pin for pin in pins if not self.verified(pin.name, str(pin))]
        say(f"{len(pins) - len(missing)} of {len(pins)} wheels are here and whole ({megabytes(self.bytes_there())})")
        refused: list[str] = []
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            refused += self._batch(batch)
            say(f"{min(start + BATCH, len(missing))} of {len(missing)} fetched, up to {batch[-1]}")
        return refused

    def _batch(self, batch: Sequence[Pin]) -> list[str]:
        """Fetch some pins at once; one that has no wheel is built, and the others fetched without it."""
        with self._full(), self.pip.folder() as into:
            try:
                files = self.pip.download(batch, into)
            except Missing as error:
                bare = [pin for pin in batch if str(pin) == error.pin]
                if not bare:
                    raise Trouble(f"pip misses {error.pin}, which the lock does not name") from error
                rest = [pin for pin in batch if pin not in bare]
                return self._attempt(lambda: self._build(bare[0])) + (self._batch(rest) if rest else [])
            by_name = {parse_name(path.name).name: path for path in files}
            lines = []
            for pin in batch:
                if pin.name not in by_name:
                    raise Trouble(f"pip gave no file for {pin}, only {', '.join(path.name for path in files)}")
                lines += self._attempt(lambda pin=pin: self.add(by_name[pin.name], pin.name, str(pin), "registry"))  # type: ignore[misc]
            return lines

    def _attempt(self, work: Callable[[], object]) -> list[str]:
        """Do something about one pin; what fails about the pin alone is a line, not the end of the run."""
        try:
            work()
        except Hopeless:
            raise
        except Trouble as error:
            return [str(error)]
        return []

    def _build(self, pin: Pin) -> None:
        """Build the wheel of a pin that has a source package only."""
        say(f"{pin} has no wheel for {self.target.label}: looking for its source package, to build one")
        with self.pip.folder() as into:
            try:
                path = self.pip.build(str(pin), into, source_of=pin.name)
            except Missing as error:
                self.pip.look(pin)
                raise Trouble(
                    f"{pin}: where pip looks there is neither a wheel for {self.target.label} nor a source package"
                ) from error
            except Hopeless:
                raise
            except Trouble as error:
                raise Trouble(f"{pin} has a source package only, and building it failed:\n{error}") from error
            self.add(path, pin.name, str(pin), "built")

    def project(self, folder: Path) -> Entry:
        """Build the wheel of the project in `folder`, unless the one here is of the same files."""
        name, state = "", _digest_of_sources(folder)
        for name, entry in self.entries.items():
            if entry.origin == "project" and self.verified(name, state) and entry.pin == state:
                return entry
        with self._full(), self.pip.folder() as into:
            try:
                path = self.pip.build(str(folder), into)
            except Missing as error:
                raise Trouble(f"the project's wheel needs {error} to be built, which is not where pip looks") from error
            return self.add(path, parse_name(path.name).name, state, "project")

    def drop(self, keep: Sequence[str]) -> None:
        """Remove wheels that are not wanted (any more), and the lines of the journal about them."""
        for name in sorted(set(self.entries) - set(keep)):
            say(f"{self.entries[name].file} is not asked for any more: removed")
            (self.wheels / self.entries.pop(name).file).unlink(missing_ok=True)
        self._save()
        known = {entry.file for entry in self.entries.values()}
        for path in sorted(self.wheels.iterdir()):
            if path.name not in known:
                say(f"{path.name} is not of this wheelhouse: removed")
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def _full(self) -> Iterator[None]:
        """Say of a full disk what is kept and what to do."""
        try:
            yield
        except (NoRoom, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_ROOM:
                raise
            free = megabytes(shutil.disk_usage(self.out).free)
            raise NoRoom(
                f"no room on the disk of {self.out} ({free} free); the {megabytes(self.bytes_there())} of wheels "
                "here stay: make room, or move the folder to a larger disk, and run the same again"
            ) from error


def _digest_of_sources(folder: Path) -> str:
    """Return the digest of what a project's wheel is built from; `folder/pyproject.toml` must be there."""
    import hashlib

    if not (folder / "pyproject.toml").is_file():
        raise Trouble(f"{folder} has no pyproject.toml", 2)
    state = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    paths = [folder / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    paths += sorted(path for path in (folder / "packages").rglob("*") if "__pycache__" not in path.parts)
    for path in paths:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            state.update(f"{path.relative_to(folder).as_posix()}\0{digest(path)}\n".encode())
    return state.hexdigest()
