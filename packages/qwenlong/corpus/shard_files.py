"""Documents in Parquet shards: written and read as streams, so that no shard needs to fit into memory as objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, read_json, write_json
from qwenlong.core.records import Document

if TYPE_CHECKING:
    import pyarrow as pa

#: Key of our own entry in a Parquet file's metadata.
_METADATA = b"qwenlong"
#: Bytes of text of one row group: what is in memory at once while a shard is written or read.
ROW_GROUP = 4 << 20


def schema() -> pa.Schema:
    """Return the columns of `Document` as `core.files.write_parquet` writes them (`metadata` is JSON text)."""
    import pyarrow as pa

    return pa.schema(
        [(name, pa.int64() if name == "n_tokens" else pa.string()) for name in Document.model_fields], metadata=None
    )


def noted(plain: pa.Schema, value: dict[str, Any]) -> pa.Schema:
    """Return a schema that carries a JSON value, which `note` reads; so a file and its key are renamed as one."""
    return plain.with_metadata({_METADATA: json.dumps(value, sort_keys=True).encode()})


def note(path: Path) -> dict[str, Any] | None:
    """Return the JSON value that a Parquet file carries, None for a file without one or none at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = (pq.read_schema(path).metadata or {}).get(_METADATA)
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    return json.loads(found) if found else None


def write_shards(
    documents: Iterable[Document], folder: str | Path, megabytes: int = 32, key: str | None = None
) -> list[Path]:
    """Write documents to `folder`/00000.parquet and so on, each of about `megabytes` of text; return the files.

    With a `key`, a digest of all that the documents come from, a call that was killed goes on: the iterator is asked
    for all documents again, but shards that are finished are not written again. Without one all are written. Shards
    of an earlier call with more of them are removed. Raises DataError for text that is not Unicode.
    """
    root = Path(folder)
    index = root / "index.json"
    if key is not None and index.exists() and (done := read_json(index)).get("key") == key:
        files = [root / name for name in done["shards"]]
        if all(note(file) is not None for file in files):
            return files
    index.unlink(missing_ok=True)
    stream = iter(documents)
    files = []
    while True:
        file = root / f"{len(files):05d}.parquet"
        before = note(file) if key is not None else None
        if before is not None and (before["key"], before["megabytes"]) == (key, megabytes):
            count = sum(1 for _ in islice(stream, before["documents"]))
        else:
            count = _write_shard(stream, file, megabytes, key)
        if not count:
            break
        files.append(file)
    for file in root.glob("[0-9]*.parquet"):
        if file not in files:
            file.unlink()
    write_json(index, {"key": key, "shards": [file.name for file in files]})
    return files


def _write_shard(stream: Iterator[Document], file: Path, megabytes: int, key: str | None) -> int:
    """Write the next documents to a shard, none if there are none; return their number."""
    groups: list[pa.RecordBatch] = []
    total = count = 0
    first = next(stream, None)
    if first is None:
        return 0
    # The number of documents stands in the schema, which comes first in the file: compressed batches wait for it.
    rows: list[Document] = [first]
    size = len(first.text)
    while True:
        full = total + size >= megabytes << 20
        if full or size >= ROW_GROUP:
            groups.append(_batch(rows))
            count += len(rows)
            total += size
            rows, size = [], 0
        if full:
            break
        following = next(stream, None)
        if following is None:
            break
        rows.append(following)
        size += len(following.text)
    if rows:
        groups.append(_batch(rows))
        count += len(rows)
    carried = noted(schema(), {"key": key, "megabytes": megabytes, "documents": count})
    write_batches(file, carried, groups)
    return count


def _batch(rows: list[Document]) -> pa.RecordBatch:
    import pyarrow as pa

    columns = {}
    for field in schema():
        values = [getattr(row, field.name) for row in rows]
        if field.name == "metadata":
            values = [json.dumps(value, sort_keys=True, ensure_ascii=False) for value in values]
        try:
            columns[field.name] = pa.array(values, type=field.type)
        except UnicodeEncodeError as error:
            names = next((row.id for row, v in zip(rows, values, strict=True) if not _unicode(v)), "?")
            raise DataError(
                f"document {names!r}: {field.name} is not Unicode ({error.reason}); drop it before shards are written"
            ) from error
    return pa.record_batch(columns, schema=schema())


def _unicode(value: Any) -> bool:
    try:
        return bool(str(value).encode() is not None)
    except UnicodeEncodeError:
        return False


def write_batches(file: Path, carried: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write batches as the row groups of a Parquet file, whole or not at all."""
    import pyarrow.parquet as pq

    with atomic_file(file) as partial, pq.ParquetWriter(partial, carried, compression="zstd") as writer:
        for batch in batches:
            if batch.num_rows:
                writer.write_batch(batch.replace_schema_metadata(carried.metadata))


def batches(path: str | Path) -> Iterator[pa.RecordBatch]:
    """Yield a shard's rows in batches of about ROW_GROUP bytes.

    Raises DataError for a file that is missing, no Parquet, or has other columns than documents have.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as shard:
            found = shard.schema_arrow
            lacking = [field.name for field in schema() if field.name not in found.names]
            if lacking:
                raise DataError(
                    f"shard {path} has no column {', '.join(lacking)}; write it with `qwenlong corpus build` or "
                    "corpus.shard_files.write_shards"
                )
            meta = shard.metadata
            stored = sum(meta.row_group(n).total_byte_size for n in range(meta.num_row_groups))
            rows = max(1, min(1 << 14, ROW_GROUP * max(1, meta.num_rows) // max(1, stored)))
            yield from shard.iter_batches(batch_size=rows, columns=schema().names, use_threads=False)
    except FileNotFoundError as error:
        raise DataError(f"shard {path} does not exist; write the shards again") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"shard {path} is not a Parquet file ({error}); remove it and write it again") from error


def documents(path: str | Path) -> Iterator[Document]:
    """Yield the documents of a shard. Raises DataError naming file, row and field."""
    number = 0
    for batch in batches(path):
        for row in batch.to_pylist():
            try:
                row["metadata"] = json.loads(row["metadata"])
                yield Document.model_validate(row)
            except (ValueError, TypeError) as error:
                where, what = "metadata", str(error)
                if isinstance(error, ValidationError):
                    first = error.errors()[0]
                    where, what = ".".join(map(str, first["loc"])), first["msg"]
                raise DataError(f"shard {path}, row {number}: {where}: {what}; write the shard again") from error
            number += 1
