"""One loader per kind of source: which members it reads, and the documents that one member holds.

A loader module has `wanted(member) -> bool` and `parse(source, member, text) -> Iterator[Document]`. Ids are
`<source>/<entity-slug>`, `n_tokens` is 0. A loader may raise ValueError for a member that it cannot read: the build
counts it. `nested(member) -> bool`, where a module has it, names archives inside the package that hold the members.
`metadata` holds plain strings and numbers only.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Protocol, cast

from qwenlong.core.errors import ConfigError
from qwenlong.core.records import Document
from qwenlong.corpus.loaders import chitchat, code, datasets, factbook, finance, guides, shakespeare
from qwenlong.corpus.sources import Source


class Loader(Protocol):
    """What a loader module offers."""

    @staticmethod
    def wanted(member: str) -> bool:
        """Return whether the member holds documents."""

    @staticmethod
    def parse(source: Source, member: str, text: str) -> Iterator[Document]:
        """Yield the documents of one member."""


#: The explicit registry: `loader` in data/sources.csv names one of these.
LOADERS: dict[str, ModuleType] = {
    "chitchat": chitchat,
    "code": code,
    "datasets": datasets,
    "factbook": factbook,
    "finance": finance,
    "guides": guides,
    "shakespeare": shakespeare,
}


def loader(source: Source) -> Loader:
    """Return the loader of a source. Raises ConfigError for an unknown one."""
    if source.loader not in LOADERS:
        raise ConfigError(
            f"source {source.name}: loader = {source.loader!r} is unknown; choose one of {', '.join(sorted(LOADERS))}"
        )
    return cast(Loader, LOADERS[source.loader])
