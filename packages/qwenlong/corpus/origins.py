"""Where documents come from, behind one interface: packages of the registry, local folders, data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from qwenlong.core.config import CorpusConfig
from qwenlong.core.errors import DataError
from qwenlong.core.reading import Refused
from qwenlong.core.records import Document
from qwenlong.corpus.archive import Archive, InvalidText
from qwenlong.corpus.fetch import cache_path, cached, describe
from qwenlong.corpus.folders import Folder
from qwenlong.corpus.hf_datasets import Dataset
from qwenlong.corpus.hostile import Losses, examine
from qwenlong.corpus.loaders import Loader, loader
from qwenlong.corpus.sources import Source, packages


class Readable(Protocol):
    """What yields documents, all of a source's or some."""

    name: str

    def read(self, losses: Losses) -> Iterator[Document]:
        """Yield documents, one at a time; what cannot be used is counted and told in `losses`."""


class Origin(Readable, Protocol):
    """A source of documents. `name` is the first part of their ids, `label` what messages call it besides."""

    label: str

    def check(self) -> None:
        """Raise ConfigError or DataError when it cannot be read at all."""

    def describe(self) -> dict[str, Any]:
        """Return what reports say of it: package, version, category, licence, data_licence."""

    def inputs(self) -> dict[str, Path]:
        """Return the files or folders that provenance digests, by name."""


class Package:
    """A package of the registry, read from the cache by the loader that its row names."""

    def __init__(self, source: Source, cache: str | Path, corpus: CorpusConfig) -> None:
        self.name = source.name
        self.label = source.filename
        self._source = source
        self._cache = cache
        self._limits = corpus.limits

    def check(self) -> None:
        """Raise DataError unless the cache holds the registered bytes."""
        cached(self._source, self._cache)

    def describe(self) -> dict[str, Any]:
        """Return what the registry says of the package."""
        return describe(self._source)

    def inputs(self) -> dict[str, Path]:
        """Return the package's file in the cache."""
        return {self.name: cache_path(self._source, self._cache)}

    def read(self, losses: Losses) -> Iterator[Document]:
        """Yield the documents of the members that the loader wants."""
        module = loader(self._source)
        for member, text in self._texts(module):
            if isinstance(text, InvalidText):
                losses.drop("invalid_utf8", str(text))
                continue
            try:
                yield from module.parse(self._source, member, text)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                # What a loader cannot read has another shape than the package publishes.
                losses.drop("unreadable", f"member {member}: loader {self._source.loader} cannot read it ({error!r})")

    def _texts(self, module: Loader) -> Iterator[tuple[str, str | InvalidText]]:
        archive = Archive(cache_path(self._source, self._cache), self._limits)
        nested = getattr(module, "nested", None)
        if nested is None:
            yield from archive.texts(module.wanted)
            return
        for name, data in archive.files(nested):
            with TemporaryDirectory(prefix="qwenlong-nested-") as folder:
                inner = Path(folder) / PurePosixPath(name).name
                inner.write_bytes(data)
                yield from Archive(inner, self._limits).texts(module.wanted)


def origins(corpus: CorpusConfig, cache: str | Path) -> list[Origin]:
    """Return the sources of a configuration: packages, then folders, then data sets, each in its order.

    Raises ConfigError for unknown or repeated names, and when there is no source at all.
    """
    found: list[Origin] = [Package(source, cache, corpus) for source in packages(corpus)]
    found += [Folder(folder, corpus) for folder in corpus.folders]
    found += [Dataset(dataset, corpus) for dataset in corpus.datasets]
    return found


def documents(origin: Readable, corpus: CorpusConfig, losses: Losses) -> Iterator[Document]:
    """Yield the documents of a source, made harmless (see hostile.examine); what is refused is counted and told.

    Raises DataError when two documents have one id.
    """
    seen: set[str] = set()
    for document in origin.read(losses):
        if document.id in seen:
            raise DataError(
                f"source {origin.name}: two documents have the id {document.id} (the second: {document.title}); its "
                "loader must make ids that differ"
            )
        seen.add(document.id)
        try:
            safe = examine(document, corpus.limits, losses)
        except Refused as error:
            losses.drop(error.reason, f"{document.metadata.get('path', document.id)}: {error}")
            continue
        yield safe


def no_documents(source: Origin, numbers: dict[str, Any]) -> str:
    """Say why a source keeps no document, by its counts of `dropped_documents`, `dropped` and its `messages`."""
    lost = Counter(numbers["dropped_documents"]) + Counter(numbers.get("dropped", {}))
    reasons = (
        ", ".join(f"{name} {count}" for name, count in sorted(lost.items())) or "it holds nothing that its loader reads"
    )
    first = f" ({numbers['messages'][0]})" if numbers["messages"] else ""
    return f"source {source.name} ({source.label}) keeps no document: {reasons}{first}"
