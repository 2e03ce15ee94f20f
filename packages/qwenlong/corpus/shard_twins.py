"""The one global step over shards: which documents repeat which, decided from signatures and sets of shingles alone.

What is in memory grows with the number of documents (about 300 bytes each, 500 more for those that have a candidate),
never with their text: band hashes are read one band at a time, shingle sets of candidates lie on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, digest_value
from qwenlong.corpus import minhash, parallel, shard_files
from qwenlong.corpus.words import Hashes

if TYPE_CHECKING:
    import pyarrow as pa

Indices = NDArray[np.int64]
_KEY_BYTES = 64


def signed_table(
    ids: Sequence[str],
    rows: Sequence[int],
    digests: bytes,
    signatures: minhash.Signatures,
    bands: Hashes,
) -> pa.Table:
    """Return what is kept of N signed documents of a shard.

    Columns: id, row in the shard, 16-byte digest of all words as two numbers, signature [N, P] as bytes, and one
    column for each of the B bands, so that they can be read one at a time.
    """
    import pyarrow as pa

    pairs = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    width = minhash.PERMUTATIONS * 4
    columns: dict[str, Any] = {
        "id": pa.array(ids, pa.string()),
        "row": pa.array(rows, pa.int32()),
        "low": np.ascontiguousarray(pairs[:, 0]),
        "high": np.ascontiguousarray(pairs[:, 1]),
        "signature": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(width), len(ids), [None, pa.py_buffer(signatures.astype("<u4").tobytes())]
        ),
    }
    return pa.table(columns | {f"band{n:03d}": band for n, band in enumerate(bands)})


def decide(
    shards: Sequence[Path], signed: Sequence[Path], work: Path, settings: dict[str, Any]
) -> tuple[pa.Table, dict[str, int]]:
    """Return the table of dropped documents (shard, row, reason, id, twin) and their number by reason.

    The first document by id of each group stays. `settings` holds `threshold`, `executor`, `workers`, `code`. The table
    is kept in `work`, and read from there when nothing that it depends on has changed. Raises DataError for an id that
    stands twice.
    """
    import pyarrow.parquet as pq

    keys = [(shard_files.note(file) or {})["key"] for file in signed]
    key = digest_value([keys, settings["threshold"]])
    file = work / "decisions.parquet"
    done = shard_files.note(file)
    if done is None or done["key"] != key:
        table = _decisions(shards, signed, work, settings)
        table = table.cast(shard_files.noted(table.schema, {"key": key}))
        with atomic_file(file) as partial:
            pq.write_table(table, partial, compression="zstd")
    table = pq.read_table(file)
    counted = table.column("reason").value_counts().to_pylist()
    return table, {entry["values"]: entry["counts"] for entry in sorted(counted, key=lambda entry: entry["values"])}


def _column(signed: Sequence[Path], name: str) -> NDArray[Any]:
    import pyarrow.parquet as pq

    parts = [pq.read_table(file, columns=[name], use_threads=False).column(name).to_numpy() for file in signed]
    return np.concatenate(parts) if parts else np.empty(0)


def _decisions(shards: Sequence[Path], signed: Sequence[Path], work: Path, settings: dict[str, Any]) -> pa.Table:
    import pyarrow as pa

    threshold = settings["threshold"]
    ids, order = _order(shards, signed)
    rows = _column(signed, "row")
    sizes = [(shard_files.note(file) or {})["signed"] for file in signed]
    shard_of = np.repeat(np.arange(len(signed), dtype=np.int32), sizes)

    # Places are positions in the order of ids; order[place] is the number of the document over all shards.
    twin_of = np.full(len(order), -1, np.int64)
    reasons = np.zeros(len(order), np.int8)
    first = _first_equal(_column(signed, "low")[order], _column(signed, "high")[order])
    repeats = first != np.arange(len(order))
    twin_of[repeats], reasons[repeats] = first[repeats], 1

    alive = np.flatnonzero(~repeats)
    bands = (_column(signed, f"band{n:03d}")[order][alive] for n in range(minhash.banding(threshold)[0]))
    buckets, bucket_sizes = minhash.buckets(bands, len(alive))
    asked = np.flatnonzero((buckets >= 0).any(axis=1))
    if len(asked):
        wanted = order[alive[asked]]
        signatures = _signatures(signed, sizes, wanted)
        sets = _Sets(shards, sizes, rows, wanted, work, settings)
        found = minhash.twins(
            buckets[asked], bucket_sizes, signatures.__getitem__, minhash.Remembered(sets.__getitem__), threshold
        )
        near = alive[asked[np.fromiter(found.keys(), np.int64, len(found))]]
        twin_of[near] = alive[asked[np.fromiter(found.values(), np.int64, len(found))]]
        reasons[near] = 2

    places = np.flatnonzero(reasons)
    dropped = order[places]
    return pa.table(
        {
            "shard": shard_of[dropped],
            "row": rows[dropped].astype(np.int32),
            "reason": pa.array(np.array(["", "duplicate", "near_duplicate"])[reasons[places]], pa.string()),
            "id": ids.take(dropped).cast(pa.string()),
            "twin": ids.take(order[twin_of[places]]).cast(pa.string()),
        }
    )


def _order(shards: Sequence[Path], signed: Sequence[Path]) -> tuple[pa.ChunkedArray, Indices]:
    """Return all ids, and the numbers of the documents in the order of their ids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # large_string: the ids of many documents together may pass 2 GiB.
    parts = [pq.read_table(file, columns=["id"]).column("id").cast(pa.large_string()) for file in signed]
    ids = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.large_string())
    order = pc.sort_indices(ids).to_numpy().astype(np.int64)
    ordered = ids.take(order)
    same = pc.equal(ordered[1:], ordered[:-1]).to_numpy() if len(ids) > 1 else np.empty(0, bool)
    if same.any():
        place = int(np.flatnonzero(same)[0])
        counts = np.cumsum([len(part) for part in parts])
        where = {str(shards[int(np.searchsorted(counts, order[p], side="right"))]) for p in (place, place + 1)}
        raise DataError(
            f"two documents have the id {ordered[place].as_py()!r} (in {' and '.join(sorted(where))}); of duplicates "
            "the first by id stays, so ids must differ: put the source into the id"
        )
    return ids, order


def _first_equal(low: Hashes, high: Hashes) -> Indices:
    """Return for each place the first one with the same digest."""
    order = np.lexsort((high, low))  # stable: equal digests stay in the order of their places
    low, high = low[order], high[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    return first


def _by_shard(sizes: Sequence[int], wanted: Indices) -> Iterator[tuple[int, Indices, Indices]]:
    """Yield, for each shard that holds some, its number, positions in `wanted`, and their numbers within the shard."""
    begin = 0
    for shard, size in enumerate(sizes):
        inside = np.flatnonzero((wanted >= begin) & (wanted < begin + size))
        if len(inside):
            yield shard, inside, wanted[inside] - begin
        begin += size


def _signatures(signed: Sequence[Path], sizes: Sequence[int], wanted: Indices) -> minhash.Signatures:
    """Return the signatures [k, P] of k documents."""
    import pyarrow.parquet as pq

    found = np.empty((len(wanted), minhash.PERMUTATIONS), np.uint32)
    for shard, inside, local in _by_shard(sizes, wanted):
        column = pq.read_table(signed[shard], columns=["signature"]).column("signature").combine_chunks()
        values = np.frombuffer(column.buffers()[1], "<u4").reshape(-1, minhash.PERMUTATIONS)
        found[inside] = values[local]
    return found


class _Sets:
    """Shingle sets on disk, one file a shard, of the documents that share a band with another one."""

    def __init__(
        self,
        shards: Sequence[Path],
        sizes: Sequence[int],
        rows: NDArray[np.int32],
        wanted: Indices,
        work: Path,
        settings: dict[str, Any],
    ) -> None:
        self._file = np.empty(len(wanted), np.int32)
        self._begin = np.empty(len(wanted), np.int64)
        self._length = np.empty(len(wanted), np.int64)
        self._paths: list[Path] = []
        begins = np.concatenate([[0], np.cumsum(sizes)])
        jobs, places = [], []
        for shard, inside, local in _by_shard(sizes, wanted):
            # In the order of the shard's rows, so that it is read once from its beginning to its end.
            by_row = np.argsort(local)
            out = work / "sets" / f"{shard:05d}.bin"
            wanted_rows = rows[begins[shard] + local[by_row]].tolist()
            jobs.append({"shard": str(shards[shard]), "rows": wanted_rows, "out": str(out), "code": settings["code"]})
            places.append(inside[by_row])
            self._paths.append(out)
        parallel.run(write_sets, jobs, settings["executor"], settings["workers"], "shingle sets")
        for number, (path, inside) in enumerate(zip(self._paths, places, strict=True)):
            lengths = np.fromfile(path, np.int64, len(inside), offset=_KEY_BYTES)
            self._file[inside] = number
            self._length[inside] = lengths
            start = _KEY_BYTES + 8 * len(inside)
            self._begin[inside] = start + 8 * (np.cumsum(lengths) - lengths)

    def __getitem__(self, document: int) -> Hashes:
        """Return one set. The file is read, not mapped: mapped pages would count as this process's memory."""
        path = self._paths[int(self._file[document])]
        return np.fromfile(path, np.uint64, int(self._length[document]), offset=int(self._begin[document]))


def write_sets(job: parallel.Job) -> parallel.Job:
    """Write the shingle sets of some rows of a shard: the key, the sets' lengths, the sets; 8 bytes a number."""
    from qwenlong.core.files import sha256_file

    out = Path(job["out"])
    key = digest_value([sha256_file(job["shard"]), job["rows"], job["code"]]).encode()
    if out.exists():
        with out.open("rb") as stream:
            if stream.read(_KEY_BYTES) == key:
                return {"made": False}
    lengths = np.zeros(len(job["rows"]), np.int64)
    with atomic_file(out) as partial, partial.open("wb") as stream:
        stream.write(key + lengths.tobytes())
        rows = iter(job["rows"])
        row, number, seen = next(rows), 0, 0
        for batch in shard_files.batches(job["shard"]):
            while row is not None and row < seen + batch.num_rows:
                found = minhash.shingle_set(batch.column("text")[row - seen].as_py())
                lengths[number] = len(found)
                stream.write(found.tobytes())
                number += 1
                row = next(rows, None)
            seen += batch.num_rows
            if row is None:
                break
        stream.seek(_KEY_BYTES)
        stream.write(lengths.tobytes())
    return {"made": True}
