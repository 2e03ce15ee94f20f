"""Read data files straight out of a wheel, zip or tar. Nothing is extracted to disk, imported or run."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from qwenlong.core.config import LimitsConfig
from qwenlong.core.errors import DataError

#: A member above this size is refused: a few bytes of archive can unpack to more than the machine holds.
MAX_MEMBER_BYTES = 512 * 2**20
#: Up to so many bytes any compression ratio is believed: a small file of blanks is no bomb.
RATIO_FROM = 2**20


class InvalidText(ValueError):
    """A member that is not UTF-8: `member` and byte `offset` say where."""

    def __init__(self, member: str, offset: int, byte: int) -> None:
        super().__init__(f"{member}: byte 0x{byte:02x} at offset {offset} is not UTF-8")
        self.member = member
        self.offset = offset


def decode(member: str, data: bytes) -> str:
    """Return UTF-8 bytes as text: line ends as line feeds, without a byte order mark. Raises InvalidText."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidText(member, error.start, data[error.start]) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Archive:
    """The regular files of an archive. Member names are relative POSIX paths; a tar.gz's top folder is kept.

    Raises DataError for a file that is no archive, an unsafe member name (absolute, or with `..`), a member that is
    too big, and an archive that unpacks to more bytes or members, or at a larger ratio, than `limits` allow.
    """

    def __init__(self, path: str | Path, limits: LimitsConfig | None = None, remedy: str | None = None) -> None:
        self.path = Path(path)
        self.limits = limits or LimitsConfig()
        #: What to do with an archive that is refused; a package's unless it is given.
        self.remedy = remedy

    def _refuse(self, name: str, why: str) -> DataError:
        return DataError(
            f"{self.path.name}: member {name[:120]!r} {why}; this is not an archive to trust. "
            + (self.remedy or "Remove it from the cache, and check the source's row in the registry")
        )

    def _checked(self, name: str, size: int) -> str:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name.split("/")[0]:
            raise self._refuse(name, "leads out of the archive")
        if size > MAX_MEMBER_BYTES:
            raise self._refuse(name, f"unpacks to {size} bytes, above {MAX_MEMBER_BYTES}")
        return str(path)

    def _bomb(self, what: str, setting: str, bound: int | str) -> DataError:
        return DataError(
            f"{self.path.name}: {what}, above corpus.limits.{setting} = {bound}; nothing more of it is unpacked. "
            "Remove it, or raise the bound if you trust it"
        )

    def texts(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str | InvalidText]]:
        """Yield (member, text) for each wanted member in the order of names; InvalidText in place of text not UTF-8.

        Line ends become line feeds and a byte order mark is dropped.
        """
        for name, data in self.files(wanted):
            try:
                yield name, decode(name, data)
            except InvalidText as error:
                yield name, error

    def files(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield (member, bytes) for each wanted member in the order of names.

        A zip is read a member at a time; of a tar, which has no index, all wanted members are held.
        """
        try:
            if zipfile.is_zipfile(self.path):
                yield from self._read_zip(wanted)
            else:
                yield from sorted(self._read_tar(wanted))
        except FileNotFoundError as error:
            raise DataError(f"{self.path} does not exist; run `qwenlong corpus fetch` first") from error
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise self._unreadable(error) from error
        except (NotImplementedError, RuntimeError) as error:
            # zipfile's ways to say: unknown compression, or a member that asks for a password.
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        remedy = self.remedy or "remove it and run `qwenlong corpus fetch`"
        return DataError(f"{self.path} cannot be read as an archive ({error}); {remedy}")

    def _check_ratio(self, what: str, unpacked: int, packed: int) -> None:
        bound = self.limits.max_archive_ratio
        if unpacked > RATIO_FROM and unpacked > bound * max(1, packed):
            said = f"{what} unpacks {packed} bytes to {unpacked} or more, {unpacked / max(1, packed):.0f} times"
            raise self._bomb(said, "max_archive_ratio", f"{bound:g}")

    def _read_zip(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            members = archive.infolist()
            self._check_members(len(members))
            # The directory says all sizes, and zipfile unpacks no more than it says: a bomb is refused unopened.
            total = sum(info.file_size for info in members)
            self._check_total(total)
            self._check_ratio("it", total, self.path.stat().st_size)
            found = []
            for info in members:
                name = self._checked(info.filename, info.file_size)
                self._check_ratio(f"member {name[:120]!r}", info.file_size, info.compress_size)
                # The upper half of external_attr holds the Unix mode; links are not data files.
                is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
                if not info.is_dir() and not is_link and wanted(name):
                    found.append((name, info))
            for name, info in sorted(found, key=lambda pair: pair[0]):
                yield name, archive.read(info)

    def _read_tar(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        with self._unpacked() as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for count, info in enumerate(archive, 1):
                self._check_members(count)
                name = self._checked(info.name, info.size)
                self._check_total(info.offset_data + info.size)
                member = archive.extractfile(info) if info.isreg() and wanted(name) else None
                if member is not None:
                    yield name, member.read()

    def _check_members(self, count: int) -> None:
        if count > self.limits.max_archive_members:
            raise self._bomb(f"it has {count} members or more", "max_archive_members", self.limits.max_archive_members)

    def _check_total(self, size: int) -> None:
        if size > self.limits.max_archive_bytes:
            raise self._bomb(f"it unpacks to {size} bytes or more", "max_archive_bytes", self.limits.max_archive_bytes)

    def _unpacked(self) -> IO[bytes]:
        with self.path.open("rb") as stream:
            head = stream.read(6)
        openers: tuple[tuple[bytes, Callable[[Path], object]], ...] = (
            (b"\x1f\x8b", gzip.open),
            (b"BZh", bz2.open),
            (b"\xfd7zXZ\0", lzma.open),
        )
        opener = next((opener for magic, opener in openers if head.startswith(magic)), None)
        plain = cast(IO[bytes], opener(self.path) if opener else self.path.open("rb"))
        return cast(IO[bytes], io.BufferedReader(_Bounded(plain, self)))


class _Bounded(io.RawIOBase):
    """A stream that counts what is unpacked and refuses to go on beyond the archive's limits.

    tarfile believes the sizes in headers, also of headers themselves, so the bound has to lie below it.
    """

    def __init__(self, stream: IO[bytes], archive: Archive) -> None:
        self._stream = stream
        self._archive = archive
        self._packed = archive.path.stat().st_size
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._stream.read(len(view))
        self._read += len(data)
        self._archive._check_total(self._read)
        self._archive._check_ratio("it", self._read, self._packed)
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
