"""Published files from the Hugging Face hub: pinned, checked by SHA-256, whole or not there.

`huggingface_hub` does the downloading, so its configuration holds: HF_ENDPOINT (a mirror), HF_TOKEN, HF_HUB_OFFLINE,
proxies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.files import NO_ROOM, disk_full, read_json, sha256_file, write_json
from qwenlong.core.logs import get, redact_text
from qwenlong.evaluation.interface import Benchmark
from qwenlong.evaluation.sources import Source

_LOG = get(__name__)
#: Where published files are kept, unless told otherwise.
CACHE = Path("data/cache/benchmarks")
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: Seconds until the hub must have said whether a file is there.
ANSWER_TIMEOUT = 30


@dataclass(frozen=True)
class Fetched:
    """A benchmark's published files on this machine: a file, or the folder of several."""

    path: Path
    hub: str
    revision: str
    """As asked for: a commit, or a branch where no commit is known."""
    commit: str
    """What the hub said it gave; empty where it did not say."""
    sha256: dict[str, str]
    """Of each file, by its path in the data set."""
    downloaded: tuple[str, ...] = ()
    """What was not there before."""

    def describe(self) -> dict[str, Any]:
        """Return what run.json says of the data."""
        return {"hub": self.hub, "revision": self.revision, "commit": self.commit, "sha256": self.sha256}


def fetch(benchmark: Benchmark, cache: Path = CACHE, to: Path | None = None) -> Fetched:
    """Return the benchmark's published files, from `cache` or the hub.

    They lie in `to` (default: `cache`/owner/name/revision), under their paths in the data set. A file that is there
    and has the digest it should have costs no network. Raises UsageError for a benchmark without published files,
    DataError saying how to get them where the hub cannot be reached, wants permission, has no such file, or gives other
    bytes; StorageError when the disk is full.
    """
    source = benchmark.source
    if source is None or not source.files:
        how = f" ({source.obtain})" if source is not None and source.obtain else ""
        raise UsageError(f"{benchmark.name} has no published file to fetch{how}; give --data")
    folder = to if to is not None else cache.joinpath(*source.hub.split("/"), source.revision)
    digests = source.sha256 or ("",) * len(source.files)
    expected = dict(zip(source.files, digests, strict=True))
    try:
        with _alone(folder):
            note = folder / "fetched.json"
            known: dict[str, Any] = read_json(note) if note.is_file() else {"commit": "", "sha256": {}}
            fresh = [name for name, digest in expected.items() if not _have(folder, name, digest, known["sha256"])]
            for name in fresh:
                got, commit = _download(benchmark.name, source, name, expected[name], folder)
                known["sha256"][name], known["commit"] = got, commit or known["commit"]
                write_json(note, known | {"hub": source.hub, "revision": source.revision})
            shutil.rmtree(folder / ".partial", ignore_errors=True)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise disk_full(folder, error.strerror) from error
        raise QwenlongError(
            f"{benchmark.name}: cannot write {folder}: {error}; choose another --cache or --to"
        ) from error
    path = folder / source.files[0] if len(source.files) == 1 else _gathered(benchmark, folder, cache, to)
    sha256 = {name: known["sha256"][name] for name in source.files}
    if not _COMMIT.fullmatch(source.revision):
        said = ", ".join(f"{name} {digest}" for name, digest in sha256.items())
        _LOG.warning(
            "%s: revision %r of %s is no commit and may move; read was %s",
            *(benchmark.name, source.revision, source.hub, f"commit {known['commit'] or 'unknown'}, sha256 {said}"),
        )
    return Fetched(path, source.hub, source.revision, known["commit"], sha256, tuple(fresh))


def _have(folder: Path, name: str, digest: str, known: dict[str, str]) -> bool:
    """Tell whether a file is there with the digest it should have; put by hand, it is taken when that is right."""
    path = folder / name
    if not path.is_file():
        return False
    got = sha256_file(path)
    wanted = digest or known.get(name) or got
    if got != wanted:
        _LOG.warning("%s has sha256 %s, not %s; it is fetched anew", path, got, wanted)
        return False
    known[name] = got
    return True


def _gathered(benchmark: Benchmark, folder: Path, cache: Path, to: Path | None) -> Path:
    """Return a folder that holds the benchmark's files and no others."""
    if to is not None:
        return folder
    assert benchmark.source is not None
    own = cache / "by_name" / benchmark.name / benchmark.source.revision
    for name in benchmark.source.files:
        link = own / name
        link.parent.mkdir(parents=True, exist_ok=True)
        partial = link.with_name(f".{link.name}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(folder / name, partial)
        except OSError:  # A file system without hard links.
            shutil.copyfile(folder / name, partial)
        os.replace(partial, link)
        # Replacing a link by one of the same file leaves the name that was to go.
        partial.unlink(missing_ok=True)
    return own


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder for the block: whoever fetches the same meanwhile waits, then finds the files."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # A file system without locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _download(benchmark: str, source: Source, name: str, digest: str, folder: Path) -> tuple[str, str]:
    """Put a file of the data set into the folder; return its SHA-256 and the commit that the hub gave it from."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise DataError(
            f"{benchmark}: huggingface_hub is not installed; install it, or put {name} of {source.hub} into {folder}"
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    # Kept between tries: what was downloaded before a kill is not asked for again.
    partial = folder / ".partial"
    try:
        commit = hub.get_hf_file_metadata(
            hub.hf_hub_url(source.hub, name, repo_type="dataset", revision=source.revision, endpoint=endpoint),
            timeout=ANSWER_TIMEOUT,
            endpoint=endpoint,
        ).commit_hash
        file = hub.hf_hub_download(
            source.hub,
            name,
            repo_type="dataset",
            # What the commit holds, even where the branch moves meanwhile.
            revision=commit or source.revision,
            endpoint=endpoint,
            local_dir=partial,
            etag_timeout=ANSWER_TIMEOUT,
        )
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise _explained(benchmark, source, name, folder, error) from error
    except Exception as error:
        # The hub client raises a dozen kinds, some of them of the libraries below it.
        raise _explained(benchmark, source, name, folder, error) from error
    got = sha256_file(file)
    if digest and got != digest:
        size = Path(file).stat().st_size
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(
            f"{benchmark}: {name} of {source.hub} at {source.revision} came with sha256 {got} ({size} bytes), the "
            f"benchmark's is {digest}; it was thrown away. Scores of another file are not comparable: check "
            "HF_ENDPOINT (a mirror may be stale), or give the file you mean with --data"
        )
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    os.replace(file, folder / name)
    return got, commit or ""


def _explained(benchmark: str, source: Source, name: str, folder: Path, error: Exception) -> DataError:
    """Return what happened, and how to get the file; without credentials of an address."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = redact_text(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]
    where = f"{benchmark}: {name} of data set {source.hub} at {source.revision}"
    obtain = f" {source.obtain.rstrip('.')}." if source.obtain else ""
    elsewhere = f"Or download it on a machine that may, and give it with --data, or put it at {folder / name}" + (
        f" (sha256 {digest})" if (digest := _expected(source, name)) else ""
    )
    if "GatedRepoError" in kinds or re.search(r"\b40[13]\b", said):
        terms = "is gated: accept its terms on the data set's page, then log in" if source.gated else "wants permission"
        return DataError(
            f"{where} {terms} (`hf auth login`, or a token in the environment variable HF_TOKEN).{obtain} {elsewhere}. "
            f"The hub said: {said}"
        )
    if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"}:
        return DataError(
            f"{where} is not on the hub (any more; or it is private, and wants HF_TOKEN).{obtain} {elsewhere}. "
            f"The hub said: {said}"
        )
    if "OfflineModeIsEnabled" in kinds or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return DataError(f"{where} is not here, and HF_HUB_OFFLINE is set; unset it.{obtain} {elsewhere}")
    return DataError(
        f"{where} cannot be read from the hub: {said}. Check the network, proxies and HF_ENDPOINT.{obtain} {elsewhere}"
    )


def _expected(source: Source, name: str) -> str:
    return source.sha256[source.files.index(name)] if source.sha256 else ""
