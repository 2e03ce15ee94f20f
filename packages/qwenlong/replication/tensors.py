"""Weights in fewer bytes, and back to the same file: XOR with a model near by, byte planes apart, zstd.

What reinforcement learning changes are the low bits of weights: against the model that it began with the high bytes are
nearly all zero. A nano policy of 30 MB in float32 takes some 15 MB, and comes back bit by bit. Blocks are compressed
apart, by as many threads as there are cores; their bytes do not depend on how many.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, sha256_file

MAGIC = b"QLW2"
#: Earlier packs have one block.
_ONE_BLOCK = b"QLW1"
#: Bytes that are compressed together.
_BLOCK = 16 * 2**20
#: zstd's level, and that of bodies above so many bytes: higher ones take five times as long for the same size.
_LEVEL, _LARGE, _FAST = 9, 64 * 2**20, 1
_WIDTH = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def digest(path: Path) -> str:
    """Return a file's SHA-256; a file that did not change is read once."""
    state = path.stat()
    return _digest(path.resolve(), state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, *state: int) -> str:
    return sha256_file(path)


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


def _open(path: Path) -> tuple[bytes, dict[str, Any], np.memmap[Any, np.dtype[np.uint8]]]:
    """Return the header's bytes (length included), the header, and the data of a safetensors file."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        text = stream.read(length)
    header = json.loads(text)
    header.pop("__metadata__", None)
    return struct.pack("<Q", length) + text, header, np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)


def _near(name: str, entry: dict[str, Any], header: dict[str, Any], data: Bytes) -> Bytes | None:
    """Return the bytes of the reference's tensor in the type of `entry`, none where it has no such tensor."""
    found = header.get(name)
    if found is None or found["shape"] != entry["shape"]:
        return None
    begin, end = found["data_offsets"]
    if found["dtype"] == entry["dtype"]:
        return np.asarray(data[begin:end])
    if (found["dtype"], entry["dtype"]) == ("BF16", "F32"):
        return (np.asarray(data[begin:end]).copy().view(np.uint16).astype(np.uint32) << 16).view(np.uint8)
    return None


def _sorted(header: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(header.items(), key=lambda item: item[1]["data_offsets"])


def encode(path: Path, reference: Path | None = None) -> bytes:
    """Return a safetensors file in few bytes. `reference`: a model near by, which `decode` needs, too."""
    head, header, data = _open(path)
    near = _open(reference) if reference is not None else None

    def planes(item: tuple[str, dict[str, Any]]) -> bytes:
        name, entry = item
        begin, end = entry["data_offsets"]
        raw = np.asarray(data[begin:end])
        other = _near(name, entry, near[1], near[2]) if near is not None else None
        if other is not None:
            raw = raw ^ other
        return raw.reshape(-1, _WIDTH[entry["dtype"]]).T.tobytes()

    with _threads() as threads:
        hashed = threads.submit(digest, path)
        body = memoryview(b"".join(threads.map(planes, _sorted(header))))
        level = _FAST if len(body) > _LARGE else _LEVEL
        blocks = list(
            threads.map(
                lambda at: pa.Codec("zstd", compression_level=level).compress(body[at : at + _BLOCK], asbytes=True),
                range(0, len(body), _BLOCK),
            )
        )
        said = {
            "sha256": hashed.result(),
            "size": len(body),
            "reference": digest(reference) if reference is not None else None,
            "block": _BLOCK,
            "blocks": [len(block) for block in blocks],
        }
    text = json.dumps(said, sort_keys=True).encode()
    return b"".join([MAGIC, struct.pack("<QQ", len(text), len(head)), text, head, *blocks])


def decode(blob: bytes, target: Path, reference: Path | None = None) -> None:
    """Write the file that `encode` read. Raises DataError where the reference is another one, or bytes are damaged."""
    if blob[:4] not in (MAGIC, _ONE_BLOCK):
        raise DataError(f"{target}: not weights as `qwenlong replicate pack` writes them")
    n_text, n_head = struct.unpack("<QQ", blob[4:20])
    said, head = json.loads(blob[20 : 20 + n_text]), blob[20 + n_text : 20 + n_text + n_head]
    near = None
    if said["reference"] is not None:
        if reference is None or not reference.is_file() or digest(reference) != said["reference"]:
            raise DataError(
                f"{target} is stored as what differs from a model of SHA-256 {said['reference'][:12]}, and "
                f"{reference or 'none'} is not that model; unpack that one first"
            )
        near = _open(reference)
    packed = memoryview(blob)[20 + n_text + n_head :]
    header = json.loads(head[8:])
    header.pop("__metadata__", None)

    def raw(item: tuple[str, dict[str, Any]]) -> bytes:
        name, entry = item
        begin, end = entry["data_offsets"]
        values = body[begin:end].reshape(_WIDTH[entry["dtype"]], -1).T.reshape(-1)
        other = _near(name, entry, near[1], near[2]) if near is not None else None
        return (values if other is None else values ^ other).tobytes()

    sha = hashlib.sha256(head)
    with _threads() as threads, atomic_file(target) as partial, partial.open("wb") as stream:
        pieces = threads.map(lambda one: pa.decompress(one[0], one[1], "zstd", asbytes=True), _blocks(said, packed))
        body = np.frombuffer(b"".join(pieces), np.uint8)
        stream.write(head)
        for data in threads.map(raw, _sorted(header)):
            stream.write(data)
            sha.update(data)
        if sha.hexdigest() != said["sha256"]:
            raise DataError(f"{target}: the weights do not have the digest they were packed with; copy them again")


def _blocks(said: dict[str, Any], packed: memoryview) -> Iterator[tuple[memoryview, int]]:
    """Yield compressed blocks, each with its size before."""
    lengths: Sequence[int] = said.get("blocks", [len(packed)])
    block, at = said.get("block", said["size"]), 0
    for number, length in enumerate(lengths):
        yield packed[at : at + length], min(block, said["size"] - number * block)
        at += length
