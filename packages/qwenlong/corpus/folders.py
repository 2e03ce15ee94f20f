"""Local folders as sources: every file below, one at a time, in the order of paths. Links are not followed."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from qwenlong.core.config import CorpusConfig, FolderConfig
from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.reading import Refused
from qwenlong.core.records import Document
from qwenlong.corpus import filters, formats
from qwenlong.corpus.archive import Archive, InvalidText
from qwenlong.corpus.hostile import Losses, plain_title


class Folder:
    """A folder of files. A document's metadata holds path, sha256 of its file, kind, and its record where it is one."""

    def __init__(self, settings: FolderConfig, corpus: CorpusConfig) -> None:
        self.name = settings.name
        self.settings = settings
        self.corpus = corpus
        self.label = settings.path
        self._root = Path(settings.path)

    def check(self) -> None:
        """Raise ConfigError when the folder is not there."""
        if not self._root.is_dir():
            what = "is a file" if self._root.is_file() else "is not there"
            raise ConfigError(
                f"corpus.folders: {self.name}: path = {str(self._root)!r} {what}; give an existing folder "
                "(Parquet and JSON-lines files may stand in corpus.datasets)"
            )

    def describe(self) -> dict[str, Any]:
        """Return what reports say of the source."""
        return {
            "package": self.settings.path,
            "version": "local",
            "category": self.settings.category,
            "licence": self.settings.licence,
            "data_licence": self.settings.data_licence or self.settings.licence,
        }

    def inputs(self) -> dict[str, Path]:
        """Return what provenance digests."""
        return {self.name: self._root}

    def read(self, losses: Losses) -> Iterator[Document]:
        """Yield the documents of all files; what cannot be used is counted and told in `losses`."""
        for path, _ in self.files(losses):
            yield from self.read_file(path, losses)

    def files(self, losses: Losses) -> Iterator[tuple[str, int]]:
        """Yield (path below the folder, bytes) of each file that `read_file` can read; the others are told."""
        unread: set[str] = set()
        for path, entry in walk(self._root, losses):
            why = filters.path_reason(path, self.corpus.filters)
            if why is not None:
                losses.dropped[why] += 1
            elif path.lower().endswith(formats.ARCHIVES) or formats.reader(path) is not None:
                yield path, entry.lstat().st_size
            elif (kind := formats.suffix(path)) in unread:
                losses.dropped["unsupported"] += 1
            else:
                unread.add(kind)
                message = f"{path}: files {f'with the suffix {kind}' if kind else 'without a suffix'} are not read"
                losses.drop("unsupported", f"{message}; convert them to text", what="all of them are left out")

    def read_file(self, path: str, losses: Losses) -> Iterator[Document]:
        """Yield the documents of one file of `files`; what cannot be used is counted and told in `losses`."""
        options = formats.Options(
            self.corpus.limits, self.settings.text_field, self.settings.title_field, self.settings.rows_per_document
        )
        if path.lower().endswith(formats.ARCHIVES):
            yield from self._archive(path, options, losses)
        elif (reader := formats.reader(path)) is not None:
            try:
                with open_regular(self._root / path) as stream:
                    yield from self._file(path, stream, reader, options, losses)
            except Refused as error:
                losses.drop(error.reason, f"{path}: {error}", what="the file is left out")
            except OSError as error:
                message = f"{path}: cannot be opened ({error.strerror}); check its permissions"
                losses.drop("unreadable", message, what="the file is left out")

    def _archive(self, path: str, options: formats.Options, losses: Losses) -> Iterator[Document]:
        """Yield the documents of an archive's members; one that is not to be trusted is left out as a whole."""
        remedy = f"take {path} out of the folder, or unpack it where that is safe"

        def wanted(member: str) -> bool:
            why = filters.path_reason(member, self.corpus.filters)
            if why is not None:
                losses.dropped[why] += 1
            elif formats.reader(member) is None:
                losses.dropped["unsupported"] += 1
            else:
                return True
            return False

        try:
            for member, data in Archive(self._root / path, options.limits, remedy).files(wanted):
                reader = formats.reader(member)
                assert reader is not None
                yield from self._file(f"{path}/{member}", io.BytesIO(data), reader, options, losses)
        except DataError as error:
            said = str(error).removeprefix(str(self._root / path)).removeprefix(f"{Path(path).name}:").strip()
            losses.drop("archive", f"{path}: {said}", what="the archive is left out")

    def _file(
        self, path: str, stream: IO[bytes], reader: formats.Reader, options: formats.Options, losses: Losses
    ) -> Iterator[Document]:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        bound = options.limits.max_file_bytes
        try:
            if not size:
                raise Refused("empty", "has 0 bytes; remove it")
            if size > bound and formats.suffix(path) not in formats.STREAMED:
                raise Refused(
                    "too_big",
                    f"has {size} bytes, above corpus.limits.max_file_bytes = {bound}; split it, or raise the bound",
                )
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
            stream.seek(0)
            for piece in reader(path, stream, options):
                if isinstance(piece, Refused):
                    losses.drop(piece.reason, f"{path}: {piece}", what="the record is dropped")
                else:
                    yield self._document(path, digest, piece)
        except InvalidText as error:
            losses.drop("invalid_utf8", f"{error}; convert it to UTF-8", what="the file is left out")
        except Refused as error:
            losses.drop(error.reason, f"{path}: {error}", what="what is left of the file is left out")

    def _document(self, path: str, digest: str, piece: formats.Piece) -> Document:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        title = plain_title(piece.title) or shown
        return Document(
            id=f"{self.name}/{quote(os.fsencode(path))}" + (f"/{piece.place}" if piece.place else ""),
            source=self.name,
            category=self.settings.category,
            title=title,
            text=piece.text,
            n_tokens=0,
            metadata={"entity": title, "kind": piece.kind, "path": shown, "sha256": digest} | piece.metadata,
            licence=self.settings.data_licence or self.settings.licence,
        )


def walk(root: Path, losses: Losses) -> Iterator[tuple[str, Path]]:
    """Yield (path below root with "/", path) of each regular file, in the order of paths, a folder at a time.

    Hidden files and folders are counted and left out; links and what is no file (pipes, devices) are told. A folder's
    own names are held, nothing else.
    """
    top = root.resolve()
    pending: list[Path] = [root]
    while pending:
        here = pending.pop()
        path = here.relative_to(root).as_posix()
        try:
            mode = here.lstat().st_mode if here != root else stat.S_IFDIR
            if here != root and here.name.startswith("."):
                losses.dropped["hidden"] += 1
            elif stat.S_ISLNK(mode):
                target = here.resolve()
                where = "inside" if target.is_relative_to(top) else "outside"
                message = f"{path} is a link to {os.readlink(here)}, {where} the folder; put a copy in its place"
                losses.drop("link", message, what="links are not followed")
            elif stat.S_ISDIR(mode):
                pending += [here / name for name in sorted(os.listdir(here), reverse=True)]
            elif stat.S_ISREG(mode):
                yield path, here
            else:
                losses.drop("not_a_file", f"{path} is a pipe, socket or device; remove it", what="it is left out")
        except (OSError, RuntimeError) as error:
            # RuntimeError: links that lead in a circle.
            losses.drop("unreadable", f"{path}: {error}; check its permissions", what="it is left out")


def listing_digest(path: str | Path) -> str:
    """Return a digest of the names, sizes and times of the files that `walk` yields; of a file, of itself.

    For a workflow that must see that something changed without reading it. A path that is not there has one too.
    """
    state = hashlib.sha256()
    root = Path(path)
    for name, file in walk(root, Losses("")) if root.is_dir() else [("", root)] if root.is_file() else []:
        seen = file.stat()
        state.update(os.fsencode(f"{name}\0{seen.st_size}\0{seen.st_mtime_ns}\n"))
    return state.hexdigest()


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError for a link, Refused for a pipe or device."""
    # Without O_NONBLOCK, opening a pipe waits for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("not_a_file", "is no regular file; remove it")
    return os.fdopen(descriptor, "rb")
