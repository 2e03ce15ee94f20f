"""Files that are whole or absent: everything is written beside its target and renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from qwenlong.core.errors import DataError, QwenlongError, StorageError

RecordT = TypeVar("RecordT", bound=BaseModel)

#: Error numbers of a full disk, a quota, and a limit on the size of a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


def remove_partials(root: str | os.PathLike[str]) -> int:
    """Remove what writers that were killed left beside their targets under `root`; return how many there were.

    Only for a folder on which nobody else works: a live writer's files look the same.
    """
    found = [Path(folder, name) for folder, folders, files in os.walk(root) for name in folders + files]
    partials = [path for path in found if path.name.startswith(".") and path.name.endswith(".partial")]
    for path in partials:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(partials)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path`; on success it is flushed to disk and renamed to `path`, on any failure removed.

    Raises QwenlongError naming the file when the disk is full.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(target)
    try:
        yield partial
        _fsync(partial)
        os.replace(partial, target)
    except OSError as error:
        raise _explain(error, target) from error
    finally:
        partial.unlink(missing_ok=True)


def _lock(directory: Path) -> tuple[int, bool]:
    """Return a descriptor of a directory, and whether it took the lock: it ends with the process, or when closed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Another process has it, or the file system has no locks.
        return descriptor, False
    return descriptor, True


def _fresh_directory(target: Path) -> tuple[Path, int]:
    """Make a directory beside `target`, locked by the descriptor that is returned; remove those of killed processes.

    It gets its name when it is locked: a directory of that name without a lock belongs to nobody.
    """
    for stale in target.parent.glob(f".{glob.escape(target.name)}.????????.partial"):
        with contextlib.suppress(OSError):
            descriptor, mine = _lock(stale)
            if mine:
                shutil.rmtree(stale, ignore_errors=True)
            os.close(descriptor)
    partial = _beside(target)
    born = partial.with_suffix(".new")
    born.mkdir()
    descriptor, _ = _lock(born)
    os.rename(born, partial)
    return partial, descriptor


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a fresh directory beside `path`; on success it replaces `path`, on any failure it is removed.

    What killed writers of the same `path` left beside it is removed first.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, descriptor = _fresh_directory(target)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _fsync(file)
        if target.exists():
            # A directory cannot be replaced in one call: the old one is moved aside, then removed.
            aside = _beside(target)
            os.replace(target, aside)
            os.replace(partial, target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(partial, target)
    except OSError as error:
        raise _explain(error, target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def _explain(error: OSError, target: Path) -> Exception:
    return disk_full(target, error.strerror) if error.errno in NO_ROOM else error


def append_line(descriptor: int, line: bytes, path: Path) -> None:
    """Append a line to an open file and wait until it is on disk: all of it or, when the disk is full, none.

    One process at a time. Raises StorageError when the disk is full.
    """
    size = os.fstat(descriptor).st_size
    try:
        if os.write(descriptor, line) < len(line):
            raise disk_full(path)
        os.fsync(descriptor)
    except (OSError, QwenlongError) as error:
        # Half a line would join the next one.
        os.ftruncate(descriptor, size)
        raise disk_full(path, getattr(error, "strerror", None)) from error


def disk_full(target: str | os.PathLike[str], reason: str | None = None) -> StorageError:
    """Return the error that says that `target` cannot be written for want of space."""
    return StorageError(
        f"cannot write {target}: {reason or os.strerror(errno.ENOSPC)}; nothing was left half-written. "
        "Free space on that file system, or set run.results to another one, and run the same command again"
    )


@contextmanager
def all_or_none(*paths: Path) -> Iterator[None]:
    """Files that belong together: when the block fails, those of `paths` that it wrote or found are removed."""
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def dump_json(value: Any) -> str:
    """Return canonical JSON: sorted keys, two spaces, one final newline."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write canonical JSON atomically."""
    write_text(path, dump_json(value))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises DataError naming the file and the position when it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON (line {error.lineno}: {error.msg}); make it anew") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}), so not JSON; make it anew") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path, or run the stage that writes it") from error


def write_jsonl(path: str | os.PathLike[str], records: Iterable[BaseModel | dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8") as stream:
        for record in records:
            value = record.model_dump(mode="json") if isinstance(record, BaseModel) else record
            stream.write(json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n")


def read_jsonl(path: str | os.PathLike[str], kind: type[RecordT]) -> list[RecordT]:
    """Read JSON lines as records. Raises DataError naming file, line and field."""
    records = []
    try:
        with Path(path).open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    records.append(_validated(kind, line, f"{path}, line {number}"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path, or run the stage that writes it") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from error
    return records


def _validated(kind: type[RecordT], line: str, where: str) -> RecordT:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        raise DataError(
            f"{where}: {key} = {str(first.get('input'))[:80]!r}: {first['msg']}; mend the record, or make the file anew"
        ) from error


_ARROW = {str: "string", int: "int64", float: "double", bool: "bool"}


def _arrow_type(annotation: Any) -> str | None:
    """Arrow's name for a scalar field's type; None for a nested field, which is stored as JSON text."""
    if get_origin(annotation) is Literal:
        return "string"
    return _ARROW.get(annotation)


def write_parquet(path: str | os.PathLike[str], records: Iterable[BaseModel], kind: type[BaseModel]) -> None:
    """Write records to Parquet, atomically and byte for byte the same for the same records.

    Scalars keep their type, nested fields become JSON text (`read_parquet` undoes it); an empty list gives an
    empty table with the same columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [record.model_dump(mode="json") for record in records]
    columns: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        arrow = _arrow_type(field.annotation)
        values = [row[name] for row in rows]
        if arrow is None:
            # The same schema for every data set, whatever its nested fields hold.
            values = [json.dumps(value, sort_keys=True, ensure_ascii=False) for value in values]
        columns[name] = pa.array(values, type=pa.type_for_alias(arrow or "string"))
    with atomic_file(path) as partial:
        pq.write_table(pa.table(columns), partial, compression="zstd")


def read_parquet(path: str | os.PathLike[str], kind: type[RecordT]) -> list[RecordT]:
    """Read records written by `write_parquet`. Raises DataError naming file, row and field."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path, or run the stage that writes it") from error
    except (pa.ArrowException, OSError) as error:
        # Bytes that went bad inside a page come as an OSError without a file name.
        said = " ".join(str(error).split())
        raise DataError(f"{path} is no whole Parquet file ({said}); remove it and run its stage again") from error
    records = []
    for number, row in enumerate(rows):
        for name, field in kind.model_fields.items():
            if _arrow_type(field.annotation) is None and isinstance(row.get(name), str):
                row[name] = _nested(row[name], f"{path}, row {number}: {name}")
        records.append(_validated(kind, json.dumps(row), f"{path}, row {number}"))
    return records


def _nested(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} = {text[:80]!r} is not JSON ({error.msg}); run its stage again") from error


#: Bytes hashed at a time.
_HASHED = 1 << 24


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    state = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        # In large pieces: between two of them a thread waits for the interpreter lock, and makes others wait.
        buffer = memoryview(bytearray(min(_HASHED, os.fstat(stream.fileno()).st_size + 1)))
        while length := stream.readinto(buffer):
            state.update(buffer[:length])
    return state.hexdigest()


def digest_path(path: str | os.PathLike[str], known: Mapping[str, str] | None = None) -> str:
    """Return a digest of a file, or of a directory's file names and bytes (hidden files and sidecars left out).

    `known` are the SHA-256 of files of the directory by relative name, of a caller that has just written and read them.
    """
    root = Path(path)
    if root.is_file():
        return sha256_file(root)
    if not root.is_dir():
        raise DataError(f"{root} does not exist; check the path, or run the stage that writes it")
    state = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        name = file.relative_to(root).as_posix()
        if name.startswith(".") or name.endswith("provenance.json"):
            continue
        state.update(f"{name}\0{(known or {}).get(name) or sha256_file(file)}\n".encode())
    return state.hexdigest()


def digest_value(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def code_digest(*names: str, without: Collection[str] = ()) -> str:
    """Return a digest of the sources of `qwenlong.<name>` for each package or module named, `core` always.

    Templates and other data files of a package count; packages and modules in `without` do not, though a package named
    holds them. Rules carry it as a parameter, so that a change of code reruns what it touches and nothing else. Raises
    QwenlongError for a name that is neither.
    """
    root = Path(__file__).resolve().parents[1]
    left_out = {root.joinpath(*name.split(".")) for name in without}
    state = hashlib.sha256()
    for name in sorted({"core", *names}):
        folder = root.joinpath(*name.split("."))
        module = folder.with_suffix(".py")
        if module.is_file():
            files = [module]
        elif folder.is_dir():
            files = [p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
        else:
            raise QwenlongError(f"no package or module qwenlong.{name} to digest; name one under {root.name}/")
        for file in files:
            if not file.name.startswith(".") and not left_out & {file.with_suffix(""), *file.parents}:
                state.update(f"{file.relative_to(root).as_posix()}\0{sha256_file(file)}\n".encode())
    return state.hexdigest()[:16]
