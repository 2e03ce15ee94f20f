"""Filter, deduplicate and decontaminate documents in Parquet shards, on a laptop or a cluster, resumable by shard.

    shards --sign--> signed/NNNNN.parquet --decide--> decisions.parquet --keep--> kept/NNNNN.parquet, counts.json
           (a shard each)                 (global)                      (a shard each)

`sign` loads a shard, filters it and writes the signatures of what passes. `decide` finds exact and near duplicates over
all shards from signatures alone. `keep` copies the rows that stay. Every file carries a key: a digest of its inputs, of
the settings that count and of this code. It is written beside its place and renamed, and never made again while its key
holds, so a run that was killed anywhere goes on from the shards that are finished.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwenlong.core.config import CorpusConfig, EndpointConfig
from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, code_digest, digest_value, remove_partials, sha256_file, write_json
from qwenlong.corpus import filters, minhash, parallel, shard_files, shard_twins
from qwenlong.corpus.decontaminate import Index
from qwenlong.corpus.decontaminate import read as read_benchmarks

#: Settings of CorpusConfig that change nothing of what is kept, or act before shards are written. Benchmarks count by
#: the digest of their index.
NOT_IN_KEY = {
    "registry", "cache", "sources", "max_documents_per_source", "section_characters", "judge_filter",
    "decontaminate", "executor", "workers", "shard_megabytes",
}  # fmt: skip


def run(
    shards: Sequence[str | Path],
    out: str | Path,
    config: CorpusConfig,
    seed: int,
    judge: EndpointConfig | None = None,
    loaded: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the documents of `shards` that stay to `out`/kept, one shard for each, and return the counts.

    The counts, also in `out`/counts.json: shards, read, kept, dropped {reason: documents}, contaminated {benchmark:
    documents} (a document may count in several), and `loaded`, where given, as `sources`; with an endpoint for the
    judge, judge {asked, fit, unfit, no_verdict, open}: it is asked about what is left, and what an outage left open is
    kept for now. Of duplicates the first by id stays, in whatever shard it is; what stays depends neither on the order
    of the shards nor on how documents are spread over them. Raises DataError for shards that cannot be read, ids or
    file that stand twice; ConfigError for benchmarks that do not suit.
    """
    paths = [Path(shard) for shard in shards]
    twice = [str(path) for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise DataError(f"the shard {twice[0]} is named twice; its documents would repeat themselves: name it once")
    root = Path(out)
    work = root / "work"
    remove_partials(root)
    index, index_digest = _index(config, work)
    settings = {
        "filters": config.model_dump(mode="json", exclude=NOT_IN_KEY),
        "benchmarks": index_digest,
        "seed": seed,
        "code": code_digest("corpus"),
    }
    common = {
        "config": config.model_dump(mode="json"),
        "settings": digest_value(settings),
        "index": index,
        "seed": seed,
    }
    signed = [work / "signed" / f"{n:05d}.parquet" for n in range(len(paths))]
    jobs = [common | {"shard": str(path), "out": str(file)} for path, file in zip(paths, signed, strict=True)]
    parallel.run(sign_shard, jobs, config.executor, config.workers, "filter and sign")
    decisions, dropped = shard_twins.decide(
        paths,
        signed,
        work,
        {
            "threshold": config.near_duplicate_threshold,
            "executor": config.executor,
            "workers": config.workers,
            "code": settings["code"],
        },
    )
    kept = [root / "kept" / f"{n:05d}.parquet" for n in range(len(paths))]
    rows: list[list[int]] = [[] for _ in paths]
    for shard, row in zip(decisions["shard"].to_pylist(), decisions["row"].to_pylist(), strict=True):
        rows[shard].append(row)
    said: dict[str, Any] = {}
    if judge is not None:
        from qwenlong.corpus import judge_shards

        said = {"judge": judge_shards.drop_unfit(paths, signed, rows, judge, seed, work / "judge")}
        dropped = dropped | {"judge": said["judge"]["unfit"]}
    keeps: list[parallel.Job] = [
        {"shard": str(path), "signed": str(sign), "out": str(file), "dropped": sorted(drops)}
        for path, sign, file, drops in zip(paths, signed, kept, rows, strict=True)
    ]
    written = parallel.run(keep_shard, keeps, config.executor, config.workers, "write kept documents")
    _remove_others(root / "kept", kept)
    _remove_others(work / "signed", signed)
    counts = _counts(signed, dropped, sum(job["kept"] for job in written)) | said
    if loaded is not None:
        counts["sources"] = loaded
    write_json(root / "counts.json", counts)
    return counts


def _index(config: CorpusConfig, work: Path) -> tuple[str | None, str | None]:
    """Return the path and digest of the file that workers read the benchmarks' index from, or nothing."""
    if not config.decontaminate:
        return None, None
    path = work / "benchmarks.npz"
    read_benchmarks(config.decontaminate).save(path)
    return str(path), sha256_file(path)


def _remove_others(folder: Path, files: Sequence[Path]) -> None:
    """Remove the shards of an earlier run that had more of them."""
    for file in folder.glob("[0-9]*.parquet"):
        if file not in files:
            file.unlink()


def _counts(signed: Sequence[Path], twins: dict[str, int], kept: int) -> dict[str, Any]:
    read = 0
    dropped: Counter[str] = Counter(twins)
    contaminated: Counter[str] = Counter()
    for file in signed:
        numbers = shard_files.note(file) or {}
        read += numbers["read"]
        dropped.update(numbers["dropped"])
        contaminated.update(numbers["contaminated"])
    return {
        "shards": len(signed),
        "read": read,
        "kept": kept,
        "dropped": dict(sorted(dropped.items())),
        "contaminated": dict(sorted(contaminated.items())),
    }


@functools.lru_cache(maxsize=1)
def _loaded(path: str, _digest: str) -> Index:
    return Index.load(path)


def sign_shard(job: parallel.Job) -> parallel.Job:
    """Filter one shard and write the signatures of the documents that pass, unless that is done."""
    import pyarrow.parquet as pq

    key = digest_value([sha256_file_of_shard(job["shard"]), job["settings"]])
    out = Path(job["out"])
    done = shard_files.note(out)
    if done is not None and done["key"] == key:
        return {"made": False}
    config = CorpusConfig.model_validate(job["config"])
    index = _loaded(job["index"], job["settings"]) if job["index"] else None
    ids: list[str] = []
    rows: list[int] = []
    dropped: Counter[str] = Counter()
    contaminated: Counter[str] = Counter()

    def passing() -> Iterator[str]:
        for row, document in enumerate(shard_files.documents(job["shard"])):
            why = filters.reason(document, config)
            if why is None and index is not None and (hits := index.document(document.text)):
                why = "contaminated"
                contaminated.update(hits)
            if why is None:
                ids.append(document.id)
                rows.append(row)
                yield document.text
            else:
                dropped[why] += 1

    digests, signatures = [], [np.empty((0, minhash.PERMUTATIONS), np.uint32)]
    for block, words, starts in minhash.sign_blocks(passing(), job["seed"]):
        signatures.append(block)
        # Equal words in equal order are equal documents, as in dedup.exact.
        digests += [
            hashlib.blake2b(words[begin:end].tobytes(), digest_size=16).digest()
            for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        ]
    signed = np.concatenate(signatures)
    bands = minhash.bands(signed, config.near_duplicate_threshold)
    table = shard_twins.signed_table(ids, rows, b"".join(digests), signed, bands)
    carried = {
        "key": key,
        "read": len(ids) + sum(dropped.values()),
        "signed": len(ids),
        "dropped": dict(sorted(dropped.items())),
        "contaminated": dict(sorted(contaminated.items())),
    }
    # Hashes do not compress; trying would cost more than signing.
    with atomic_file(out) as partial:
        pq.write_table(
            table.cast(shard_files.noted(table.schema, carried)), partial, compression="none", use_dictionary=False
        )
    return {"made": True}


def sha256_file_of_shard(path: str) -> str:
    """Return a shard's digest. Raises DataError when it does not exist."""
    try:
        return sha256_file(path)
    except FileNotFoundError as error:
        raise DataError(f"shard {path} does not exist; write the shards again") from error


def keep_shard(job: parallel.Job) -> parallel.Job:
    """Write the rows of one shard that passed the filters and repeat nothing, unless that is done."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    signed = Path(job["signed"])
    out = Path(job["out"])
    key = digest_value([(shard_files.note(signed) or {})["key"], job["dropped"]])
    done = shard_files.note(out)
    if done is not None and done["key"] == key:
        return {"kept": done["documents"]}
    rows = pq.read_table(signed, columns=["row"]).column("row").to_numpy()
    stay = np.setdiff1d(rows, np.asarray(job["dropped"], rows.dtype), assume_unique=True)

    def chosen() -> Iterator[pa.RecordBatch]:
        seen = 0
        for batch in shard_files.batches(job["shard"]):
            begin, end = np.searchsorted(stay, [seen, seen + batch.num_rows])
            yield batch.take(pa.array(stay[begin:end] - seen))
            seen += batch.num_rows

    carried = shard_files.noted(shard_files.schema(), {"key": key, "documents": len(stay)})
    shard_files.write_batches(out, carried, chosen())
    return {"kept": len(stay)}
