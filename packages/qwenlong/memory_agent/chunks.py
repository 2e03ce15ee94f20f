"""The chunks of a text of any length: on disk, read one at a time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import overload

from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import NO_ROOM
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent.chunking import stream


class Chunks(Sequence[str]):
    """Chunks of one text, in an unnamed temporary file that goes away with them; each access reads one from disk.

    `tokens[i]` is the exact number of tokens of chunk i, `digest` the SHA-256 of the text (UTF-8). Threads may read
    together.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="qwenlong-chunks-", buffering=0)  # noqa: SIM115 - closed by close()
        self._ends = array("q", [0])
        self._tokens = array("q")
        self._state = hashlib.sha256()

    @classmethod
    def cut(cls, pieces: Iterable[str], tokenizer: Tokenizer, chunk_tokens: int) -> Chunks:
        """Return the chunks of a text that comes in pieces, as `chunking.stream` cuts it.

        Raises QwenlongError when the disk is full, and what `pieces` and `stream` raise.
        """
        made = cls()
        try:
            for text, tokens in stream(pieces, tokenizer, chunk_tokens):
                made._add(text, tokens)
        except BaseException as error:
            made._file.close()
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise QwenlongError(
                    f"cannot keep the chunks in {tempfile.gettempdir()}: {error.strerror}; free space there, or set "
                    "TMPDIR to a folder on another file system"
                ) from error
            raise
        return made

    def _add(self, text: str, tokens: int) -> None:
        data = text.encode()
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._state.update(data)
        self._ends.append(self._ends[-1] + len(data))
        self._tokens.append(tokens)

    @property
    def tokens(self) -> Sequence[int]:
        """Tokens of each chunk."""
        return self._tokens

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the whole text in UTF-8."""
        return self._state.hexdigest()

    def __len__(self) -> int:
        return len(self._tokens)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"chunk {index} of {len(self)}")
        index %= len(self)
        start, end = self._ends[index], self._ends[index + 1]
        # By position, so that readers do not move each other's place.
        return os.pread(self._file.fileno(), end - start, start).decode()

    def close(self) -> None:
        """Remove the text from disk; chunks cannot be read any more."""
        self._file.close()

    def __enter__(self) -> Chunks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
