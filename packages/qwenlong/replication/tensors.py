"""Weights in fewer bytes, and back to the same file: XOR with a model near by, byte planes apart, zstd.

What reinforcement learning changes are the low bits of weights: against the model that it began with the high bytes are
nearly all zero. A nano policy of 30 MB in float32 takes some 15 MB, and comes back bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file, sha256_file

MAGIC = b"QLW1"
_LEVEL = 9
_WIDTH = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


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


def encode(path: Path, reference: Path | None = None) -> bytes:
    """Return a safetensors file in few bytes. `reference`: a model near by, which `decode` needs, too."""
    head, header, data = _open(path)
    near = _open(reference) if reference is not None else None
    planes = []
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        raw = np.asarray(data[begin:end])
        other = _near(name, entry, near[1], near[2]) if near is not None else None
        if other is not None:
            raw = raw ^ other
        planes.append(raw.reshape(-1, _WIDTH[entry["dtype"]]).T.tobytes())
    body = b"".join(planes)
    said = {
        "sha256": sha256_file(path),
        "size": len(body),
        "reference": sha256_file(reference) if reference is not None else None,
    }
    text = json.dumps(said, sort_keys=True).encode()
    packed = pa.Codec("zstd", compression_level=_LEVEL).compress(body, asbytes=True)
    return MAGIC + struct.pack("<QQ", len(text), len(head)) + text + head + packed


def decode(blob: bytes, target: Path, reference: Path | None = None) -> None:
    """Write the file that `encode` read. Raises DataError where the reference is another one, or bytes are damaged."""
    if blob[:4] != MAGIC:
        raise DataError(f"{target}: not weights as `qwenlong replicate pack` writes them")
    n_text, n_head = struct.unpack("<QQ", blob[4:20])
    said, head = json.loads(blob[20 : 20 + n_text]), blob[20 + n_text : 20 + n_text + n_head]
    near = None
    if said["reference"] is not None:
        if reference is None or not reference.is_file() or sha256_file(reference) != said["reference"]:
            raise DataError(
                f"{target} is stored as what differs from a model of SHA-256 {said['reference'][:12]}, and "
                f"{reference or 'none'} is not that model; unpack that one first"
            )
        near = _open(reference)
    body = np.frombuffer(pa.decompress(blob[20 + n_text + n_head :], said["size"], "zstd", asbytes=True), np.uint8)
    header = json.loads(head[8:])
    header.pop("__metadata__", None)
    sha = hashlib.sha256(head)
    with atomic_file(target) as partial, partial.open("wb") as stream:
        stream.write(head)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            raw = body[begin:end].reshape(_WIDTH[entry["dtype"]], -1).T.reshape(-1)
            other = _near(name, entry, near[1], near[2]) if near is not None else None
            if other is not None:
                raw = raw ^ other
            stream.write(raw.tobytes())
            sha.update(raw.tobytes())
        if sha.hexdigest() != said["sha256"]:
            raise DataError(f"{target}: the weights do not have the digest they were packed with; copy them again")
