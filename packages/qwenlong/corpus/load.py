"""Sources to shards: packages, folders and data sets as Parquet files of documents, some files of a folder at a time.

    origins --parts--> loaded/<source>/<part>/NNNNN.parquet, losses.json

A part is a run of a folder's files of about `corpus.shard_megabytes` together, or a whole package or data set. Parts
are read in parallel, one document at a time, so memory does not grow with the corpus. A part that is finished is not
read again while its files, the settings and this code are the same.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qwenlong.core.config import CorpusConfig
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.files import code_digest, digest_path, digest_value, read_json, sha256_file, write_json
from qwenlong.core.records import Document
from qwenlong.corpus import decontaminate, parallel, shard_files
from qwenlong.corpus.folders import Folder
from qwenlong.corpus.hostile import Losses
from qwenlong.corpus.origins import Origin, documents, no_documents, origins

#: Files of one part at most: names of more would make a job as large as a shard.
PART_FILES = 20_000
#: Settings that change what a source's documents are.
_READ_BY_LOADERS = {"limits", "filters", "shard_megabytes"}


def load(config: CorpusConfig, cache: str | Path, folder: str | Path) -> tuple[list[Path], dict[str, Any]]:
    """Write the documents of all sources to shards below `folder`; return these and, by source, what was read and lost.

    Raises ConfigError for sources that are not there and for `corpus.section_characters` and
    `corpus.max_documents_per_source`, which only `corpus build` knows; DataError for a source without documents.
    """
    for setting in ("section_characters", "max_documents_per_source"):
        if getattr(config, setting) is not None:
            raise ConfigError(
                f"corpus.{setting} = {getattr(config, setting)}: shards hold whole documents, all of them; leave it "
                "out, or use `qwenlong corpus build`, which splits and chooses in memory"
            )
    root = Path(folder)
    sources = origins(config, cache)
    for source in sources:
        source.check()
    decontaminate.check(config.decontaminate)  # before hours of loading
    planned = {source.name: Losses(source.name) for source in sources}
    common = {
        "config": config.model_dump(mode="json"),
        "cache": str(cache),
        "settings": digest_value(
            [config.model_dump(mode="json", include=_READ_BY_LOADERS), code_digest("corpus", "core")]
        ),
    }
    jobs: list[parallel.Job] = []
    for source in sources:
        # A little less than a shard, so that the last file of a part seldom begins another one.
        bound = (config.shard_megabytes << 20) * 15 // 16
        for number, part in enumerate(_parts(source, bound, planned[source.name])):
            out = root / source.name / f"{number:05d}"
            jobs.append(common | {"source": source.name, "files": part, "out": str(out)})
    done = parallel.run(load_part, jobs, config.executor, config.workers, "load")
    _remove_others(root, {Path(job["out"]) for job in jobs})
    return _collected(sources, planned, jobs, done)


def _parts(source: Origin, bound: int, losses: Losses) -> Iterator[list[str] | None]:
    """Yield the files of each part of a folder, and None, all of it, for another source."""
    if not isinstance(source, Folder):
        yield None
        return
    files: list[str] = []
    total = 0
    for path, size in source.files(losses):
        files.append(path)
        total += size
        if total >= bound or len(files) == PART_FILES:
            yield files
            files, total = [], 0
    if files:
        yield files


def load_part(job: parallel.Job) -> parallel.Job:
    """Write the shards of one part and what was lost on the way, unless that is done; return shards and losses."""
    config = CorpusConfig.model_validate(job["config"])
    source = next(source for source in origins(config, job["cache"]) if source.name == job["source"])
    out = Path(job["out"])
    key = _key(source, job)
    report = out / "losses.json"
    if report.exists() and (done := read_json(report))["key"] == key:
        shards = [out / name for name in done["shards"]]
        if all(shard_files.note(shard) is not None for shard in shards):
            return {"shards": [str(shard) for shard in shards], "losses": done}
    # The report is written last: shards without one were cut short, and what was lost before them is not known.
    report.unlink(missing_ok=True)
    (out / "index.json").unlink(missing_ok=True)
    losses = Losses(source.name)
    shards = shard_files.write_shards(
        documents(_Part(source, job["files"]), config, losses), out, config.shard_megabytes, key
    )
    found = {
        "key": key,
        "shards": [shard.name for shard in shards],
        "documents": sum((shard_files.note(shard) or {})["documents"] for shard in shards),
        "dropped": dict(sorted(losses.dropped.items())),
        "neutralised": dict(sorted(losses.neutralised.items())),
        "messages": losses.messages,
    }
    write_json(report, found)
    return {"shards": [str(shard) for shard in shards], "losses": found}


class _Part:
    """Some files of a folder, or all of another source, as an origin."""

    def __init__(self, source: Origin, files: Sequence[str] | None) -> None:
        self.name = source.name
        self._source = source
        self._files = files

    def read(self, losses: Losses) -> Iterator[Document]:
        if self._files is None or not isinstance(self._source, Folder):
            yield from self._source.read(losses)
            return
        for file in self._files:
            yield from self._source.read_file(file, losses)


def _key(source: Origin, job: parallel.Job) -> str:
    """Return a digest of all that the part's documents come from: its bytes, the source's settings, the code.

    Where the files lie does not count: the same files elsewhere give the same bytes.
    """
    root = source.inputs().get(source.name)
    if root is None:
        read: Any = source.describe()  # the hub: its revision
    elif job["files"] is None:
        read = digest_path(root)
    else:
        read = [[ascii(file), _digest(root / file)] for file in job["files"]]
    own = getattr(source, "settings", None)
    settings = own.model_dump(mode="json", exclude={"path"}) if own is not None else source.describe()
    return digest_value([source.name, settings, read, job["settings"]])


def _digest(file: Path) -> str | None:
    try:
        return sha256_file(file) if file.is_file() and not file.is_symlink() else None
    except OSError:
        return None  # read_file tells why


def _remove_others(root: Path, parts: set[Path]) -> None:
    """Remove the parts of an earlier run that had more of them, or other sources."""
    for folder in root.glob("*/[0-9]*"):
        if folder not in parts:
            shutil.rmtree(folder)


def _collected(
    sources: Sequence[Origin], planned: dict[str, Losses], jobs: Sequence[parallel.Job], done: Sequence[parallel.Job]
) -> tuple[list[Path], dict[str, Any]]:
    numbers: dict[str, Any] = {}
    for source in sources:
        losses = planned[source.name]
        dropped, neutralised, messages = Counter(losses.dropped), Counter[str](), list(losses.messages)
        loaded = 0
        for job, part in zip(jobs, done, strict=True):
            if job["source"] == source.name:
                loaded += part["losses"]["documents"]
                dropped.update(part["losses"]["dropped"])
                neutralised.update(part["losses"]["neutralised"])
                messages += part["losses"]["messages"]
        numbers[source.name] = source.describe() | {
            "read": loaded + sum(dropped.values()),
            "loaded": loaded,
            "dropped_documents": dict(sorted(dropped.items())),
            "neutralised": dict(sorted(neutralised.items())),
            "messages": messages[: Losses.MAX_MESSAGES],
        }
    lost = [no_documents(source, one) for source in sources if not (one := numbers[source.name])["loaded"]]
    if lost:
        raise DataError("; ".join(lost) + ". Mend the source, or take it out of corpus")
    return [Path(shard) for part in done for shard in part["shards"]], numbers
