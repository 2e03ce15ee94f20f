"""Data sets of texts: Parquet and JSON lines on this machine through pyarrow, the Hugging Face hub through `datasets`.

Both stream: a batch of rows is held at a time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from qwenlong.core.config import CorpusConfig, DatasetConfig
from qwenlong.core.errors import ConfigError, DataError, QwenlongError
from qwenlong.core.logs import redact_text
from qwenlong.core.reading import Refused
from qwenlong.core.records import Document
from qwenlong.corpus import formats
from qwenlong.corpus.archive import InvalidText
from qwenlong.corpus.folders import open_regular, walk
from qwenlong.corpus.hostile import Losses, plain_title

#: Rows that are held at a time.
BATCH = 64
#: Largest size of a row group's text column, unpacked, in bytes: pyarrow unpacks it in pages, but one page may hold it.
MAX_COLUMN_BYTES = 2 * 2**30
_SUFFIXES = (".parquet", ".jsonl", ".ndjson")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


class Dataset:
    """A data set. A document's metadata holds file and sha256, or repository and revision, the split and the record."""

    def __init__(self, settings: DatasetConfig, corpus: CorpusConfig) -> None:
        self.name = settings.name
        self.settings = settings
        self.corpus = corpus
        self.label = settings.path
        self._path = Path(settings.path)

    @property
    def _is_local(self) -> bool:
        return self._path.exists()

    def check(self) -> None:
        """Raise ConfigError for a path that is neither here nor a hub id, and a hub id without revision or split."""
        where = f"corpus.datasets: {self.name}: path = {self.settings.path!r}"
        if self._is_local:
            if self._path.is_file() and self._path.suffix.lower() not in _SUFFIXES:
                raise ConfigError(f"{where} is no {', '.join(_SUFFIXES)} file; convert it, or use corpus.folders")
            return
        if not _HUB_ID.fullmatch(self.settings.path) or self.settings.path.endswith(_SUFFIXES):
            raise ConfigError(f"{where} is not there and is no hub id; give an existing path or owner/name")
        for key, what in (("revision", "the commit, 40 hex digits, since branches move"), ("split", "such as train")):
            if getattr(self.settings, key) is None:
                raise ConfigError(
                    f"{where} is no path here, so it is taken for a hub id, which needs {key} ({what}); set it, or "
                    "give an existing path"
                )

    def describe(self) -> dict[str, Any]:
        """Return what reports say of the source."""
        return {
            "package": self.settings.path,
            "version": "local" if self._is_local else str(self.settings.revision),
            "category": self.settings.category,
            "licence": self.settings.licence,
            "data_licence": self.settings.licence,
        }

    def inputs(self) -> dict[str, Path]:
        """Return what provenance digests: local files; a revision of the hub is its own digest."""
        return {self.name: self._path} if self._is_local else {}

    def read(self, losses: Losses) -> Iterator[Document]:
        """Yield the documents of all records; what cannot be used is counted and told in `losses`.

        Raises DataError for a file without the text field, and for a hub that cannot be reached or wants permission.
        """
        options = formats.Options(self.corpus.limits, self.settings.text_field, self.settings.title_field)
        if not self._is_local:
            yield from self._hub(options, losses)
            return
        files: Iterable[tuple[str, Path]] = (
            [("", self._path)] if self._path.is_file() else self._of_split(walk(self._path, losses))
        )
        for relative, file in files:
            shown = relative or file.name
            try:
                with open_regular(file if relative else file.resolve()) as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
                    stream.seek(0)
                    pieces = (
                        self._parquet(file, options)
                        if formats.suffix(shown) == ".parquet"
                        else formats.json_lines(shown, stream, options)
                    )
                    metadata: dict[str, str | int] = {"path": shown, "sha256": digest}
                    yield from self._documents(relative, pieces, metadata, losses)
            except InvalidText as error:
                losses.drop("invalid_utf8", f"{error}; convert it to UTF-8", what="what is left of it is left out")
            except Refused as error:
                losses.drop(error.reason, f"{shown}: {error}", what="what is left of the file is left out")

    def _of_split(self, files: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
        split = self.settings.split
        # "train/…" and "train-00000-of-00002.parquet", not "training.parquet".
        named = re.compile(rf"(?:^|/){re.escape(split)}(?:/|[-.][^/]*$)") if split else None
        for relative, file in files:
            if relative.lower().endswith(_SUFFIXES) and (named is None or named.search(relative)):
                yield relative, file

    def _documents(
        self,
        place: str,
        pieces: Iterable[formats.Piece | Refused],
        metadata: dict[str, str | int],
        losses: Losses,
    ) -> Iterator[Document]:
        for piece in pieces:
            if isinstance(piece, Refused):
                losses.drop(piece.reason, f"{metadata['path']}: {piece}", what="the record is dropped")
                continue
            title = plain_title(piece.title) or piece.place
            own = {"split": self.settings.split} if self.settings.split else {}
            yield Document(
                id="/".join(part for part in (self.name, quote(place), piece.place) if part),
                source=self.name,
                category=self.settings.category,
                title=title,
                text=piece.text,
                n_tokens=0,
                metadata={"entity": title, "kind": piece.kind} | metadata | own | piece.metadata,
                licence=self.settings.licence,
            )

    def _parquet(self, path: Path, options: formats.Options) -> Iterator[formats.Piece | Refused]:
        import pyarrow
        import pyarrow.parquet

        try:
            schema = pyarrow.parquet.read_schema(path)
            names = schema.names
            if options.text_field not in names:
                raise self._no_field(str(path), names)
            # Left as a dictionary, a text that stands in a million rows is held once.
            kind = schema.field(options.text_field).type
            as_is = [options.text_field] if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) else []
            file = pyarrow.parquet.ParquetFile(path, read_dictionary=as_is)
            column = [name for name in names if name == options.text_field or name == options.title_field]
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group)
                size = sum(
                    rows.column(n).total_uncompressed_size
                    for n in range(rows.num_columns)
                    if rows.column(n).path_in_schema.split(".")[0] in column
                )
                if size > MAX_COLUMN_BYTES:
                    raise Refused(
                        "too_big",
                        f"row group {group} unpacks to {size} bytes of {' and '.join(column)}, above "
                        f"{MAX_COLUMN_BYTES}; write it with smaller row groups",
                    )
            number = 0
            for batch in file.iter_batches(batch_size=BATCH, columns=column):
                for row in range(batch.num_rows):
                    number += 1
                    values = {name: batch.column(n)[row].as_py() for n, name in enumerate(batch.schema.names)}
                    yield _piece(path.stem, number, values, options)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise Refused("unreadable", f"cannot be read as Parquet ({what}); write it anew") from error

    def _no_field(self, where: str, names: Iterable[str]) -> DataError:
        return DataError(
            f"source {self.name}: {where} has no column {self.settings.text_field!r}; set text_field to one of "
            f"{', '.join(sorted(names)) or 'none'}"
        )

    def _hub(self, options: formats.Options, losses: Losses) -> Iterator[Document]:
        settings = self.settings
        try:
            import datasets
        except ImportError as error:
            raise QwenlongError(
                f"source {self.name}: {settings.path} is a data set of the hub, for which the package `datasets` is "
                "needed; install it, or download the set's Parquet files and give their folder as path"
            ) from error

        def pieces() -> Iterator[formats.Piece | Refused]:
            # Errors of the network come at the first row, and may come at any later one.
            try:
                rows = datasets.load_dataset(
                    settings.path, settings.subset, split=settings.split, revision=settings.revision, streaming=True
                )
                for number, row in enumerate(rows, 1):
                    if number == 1 and settings.text_field not in row:
                        raise self._no_field(settings.path, row)
                    yield _piece(settings.path, number, row, options)
            except QwenlongError:
                raise
            except Exception as error:
                raise DataError(_explain(self.name, settings, error)) from error

        metadata: dict[str, str | int] = {"path": settings.path, "revision": str(settings.revision)}
        yield from self._documents("", pieces(), metadata, losses)


def _piece(name: str, number: int, values: dict[str, Any], options: formats.Options) -> formats.Piece | Refused:
    wanted = {
        key: values[key] for key in (options.text_field, options.title_field) if key is not None and key in values
    }
    try:
        return formats.record(f"{name}, record {number}", number, wanted, options)
    except Refused as error:
        return Refused(error.reason, f"record {number}: {error}")


def _explain(name: str, settings: DatasetConfig, error: Exception) -> str:
    """Return what happened with a data set of the hub, and how to get it; without credentials of an address."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = redact_text(f"{type(error).__name__}: {' '.join(str(error).split())}")[:400]
    where = f"source {name}: {settings.path} at {str(settings.revision)[:12]}, split {json.dumps(settings.split)}"
    elsewhere = (
        "Or download its Parquet or JSON-lines files on a machine that may, put them in a folder here, and give that "
        "folder as path"
    )
    if "GatedRepoError" in kinds or "gated" in said.lower() or re.search(r"\b40[13]\b", said):
        return (
            f"{where}: the hub wants permission ({said}). Accept the set's terms on its page, and log in (`hf auth "
            f"login`, or a token in the environment variable HF_TOKEN). {elsewhere}"
        )
    return (
        f"{where} cannot be read from the hub ({said}). Check path, revision, subset and split, the network, and that "
        f"HF_HUB_OFFLINE is not set. {elsewhere}"
    )
