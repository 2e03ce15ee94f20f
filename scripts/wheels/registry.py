"""pip as a separate process: wheels from wherever pip is configured to look, and wheels built from source packages."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wheels.common import NO_ROOM_WORDS, NoRoom, Trouble, Unreachable
from wheels.lock import Pin
from wheels.target import Target

#: What pip prints when the registry, and not the package, is out of reach.
UNREACHABLE = re.compile(
    r"Retrying \(Retry|Could not fetch URL \S+ (?!404 )|NewConnectionError|ProxyError|Read timed out|ReadTimeoutError"
    r"|Connection (?:refused|aborted|reset)|IncompleteRead|\b(?:401|403|407|429|50\d) (?:Client|Server) Error"
)
MISSING = re.compile(r"No matching distribution found for (\S+)")


class Missing(Trouble):
    """pip found no distribution; `pin` is the one that it names."""

    def __init__(self, pin: str) -> None:
        super().__init__(pin)
        self.pin = pin


@dataclass(frozen=True)
class Pip:
    """How pip is called: for which platform, with which further folders of wheels, with temporary files where."""

    target: Target
    find_links: Sequence[str]
    scratch: Path

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give an empty folder on the wheelhouse's own disk, so that a finished wheel is renamed and not copied."""
        with contextlib.ExitStack() as stack:
            try:
                name = stack.enter_context(tempfile.TemporaryDirectory(dir=self.scratch))
            except OSError as error:
                raise NoRoom(f"cannot make a folder under {self.scratch}: {error.strerror}") from error
            yield Path(name)

    def _run(self, verb: str, words: Sequence[str], temporary: Path) -> str:
        links = [f"--find-links={link}" for link in self.find_links]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", verb, *links, *words]
        env = {"SOURCE_DATE_EPOCH": "1577836800", **os.environ, "TMPDIR": str(temporary), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode == 0:
            return done.stdout
        output = done.stdout
        if any(word in output for word in NO_ROOM_WORDS):
            raise NoRoom("no room on the disk")
        if "No module named pip" in output:
            raise Trouble(f"{sys.executable} has no pip; name a Python that has: make wheelhouse HOST_PYTHON=…", 2)
        told = [line.strip() for line in output.splitlines() if UNREACHABLE.search(line)]
        if told:
            raise Unreachable(f"the registry cannot be reached, or refuses; pip says: {told[0]}")
        found = MISSING.search(output)
        if found:
            raise Missing(found[1])
        raise Trouble(last_lines(output))

    def download(self, pins: Sequence[Pin], into: Path) -> list[Path]:
        """Download the wheels of some pins; return the files.

        Raises Missing if one of them has no wheel for the platform.
        """
        with self.folder() as temporary:
            words = ["--no-deps", "--no-cache-dir", "--quiet", f"--dest={into}", *self.target.pip_options()]
            self._run("download", [*words, *map(str, pins)], temporary)
        return sorted(into.glob("*.whl"))

    def look(self, pin: Pin) -> None:
        """Raise Unreachable if a package is missing only because the registry refuses: pip's full log tells."""
        with self.folder() as temporary, contextlib.suppress(Missing):
            words = ["-vv", "--no-deps", "--no-cache-dir", f"--dest={temporary}", *self.target.pip_options(), str(pin)]
            self._run("download", words, temporary)

    def build(self, what: str, into: Path, *, source_of: str | None = None) -> Path:
        """Build a wheel here from a source package (`source_of` its name) or from a folder; return the file."""
        with self.folder() as temporary:
            words = ["--no-deps", "--no-cache-dir", "--quiet", f"--wheel-dir={into}"]
            if source_of:
                words.append(f"--no-binary={source_of}")
            self._run("wheel", [*words, what], temporary)
        return next(into.glob("*.whl"))

    def resolve(self, pins: Sequence[Pin]) -> list[dict[str, str]]:
        """Ask the registry which files it would give: name, url and sha256 of each, hardly anything downloaded.

        Raises Missing as `download` does.
        """
        with self.folder() as temporary:
            report, lock = temporary / "report.json", temporary / "lock.txt"
            lock.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
            words = ["--dry-run", "--no-deps", "--ignore-installed", "--quiet", f"--report={report}"]
            words += [f"--target={temporary / 'target'}", *self.target.pip_options(), "-r", str(lock)]
            self._run("install", words, temporary)
            found = json.loads(report.read_text(encoding="utf-8"))["install"]
        return [
            {
                "name": item["metadata"]["name"],
                "url": item["download_info"]["url"],
                "sha256": item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", ""),
            }
            for item in found
        ]


def last_lines(output: str, count: int = 12) -> str:
    """Return the end of pip's output, indented."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines[-count:])
