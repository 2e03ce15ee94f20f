"""Replies on disk, keyed by the request; several processes may share a folder."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import digest_value, disk_full, dump_json
from qwenlong.core.llm.reply import Reply, from_cache

#: Seconds between two looks at a request that another task or process is asking just now.
LOOK = 0.05


class Cache:
    """A folder of replies, one file per request. Files are renamed into place: none is ever seen half-written."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def file(self, body: Mapping[str, Any]) -> Path:
        """Return where the reply to a request body stands. The key and the address are no part of it."""
        digest = digest_value(body)
        return self.folder / digest[:2] / f"{digest}.json"

    def read(self, file: Path) -> Reply | None:
        """Return the stored reply, None where there is none or a damaged one (asked again and overwritten)."""
        try:
            return from_cache(json.loads(file.read_bytes()))
        except (OSError, ValueError, RecursionError):
            return None

    def write(self, file: Path, reply: Reply) -> None:
        """Store a reply: whoever reads finds all of it or nothing.

        Not forced to disk, which would cost more than many a reply takes: after a power cut a file may be damaged, and
        is asked again. The journal of a map is forced.
        """
        partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(dump_json(reply.to_json()), encoding="utf-8")
            os.replace(partial, file)
        except OSError as error:
            raise disk_full(file, error.strerror) from error
        finally:
            partial.unlink(missing_ok=True)

    @asynccontextmanager
    async def alone(self, file: Path) -> AsyncIterator[None]:
        """Hold a request for the block: whoever asks the same meanwhile waits, then finds the reply stored.

        The lock ends with its process. On a file system without locks nobody waits, and both may pay.
        """
        descriptor = await _locked(file.with_suffix(".lock"))
        try:
            yield
        finally:
            if descriptor is not None:
                # Removed while held: whoever waits for it sees that the name is gone, and opens it anew.
                file.with_suffix(".lock").unlink(missing_ok=True)
                os.close(descriptor)


async def _locked(path: Path) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QwenlongError(
            f"the reply cache {path.parent} cannot be made: {error.strerror}; free space or choose another folder"
        ) from error
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            await asyncio.sleep(LOOK)
            continue
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        if _same(descriptor, path):
            return descriptor
        os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    """Tell whether the name still leads to the file that was locked: its holder may have removed it meanwhile."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)
