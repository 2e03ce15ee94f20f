"""The table of sources: which package, which bytes, which licence (data/sources.csv)."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qwenlong.core.config import CorpusConfig
from qwenlong.core.errors import ConfigError
from qwenlong.core.records import Category

COLUMNS = (
    "name",
    "package",
    "registry",
    "version",
    "filename",
    "sha256",
    "category",
    "loader",
    "licence",
    "data_licence",
    "notes",
)


class Source(BaseModel):
    """One row of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", description="name of the source, first part of document ids")
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name in the registry")
    registry: str = Field(pattern=r"^pip$", description="kind of registry; pip's own configuration says which one")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$")
    filename: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*\.(whl|zip|tar\.gz)$", description="plain file name")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the file as published")
    category: Literal["code", "academic", "professional", "general", "dialogue", "model"]
    loader: str = Field(min_length=1, description="name in corpus.loaders.LOADERS")
    licence: str = Field(min_length=1, description="licence of the package")
    data_licence: str = Field(min_length=1, description="licence of the texts, or 'unstated'")
    notes: str = ""

    @property
    def document_category(self) -> Category:
        """Category of the source's documents. Raises ConfigError for a model, which has none."""
        if self.category == "model":
            raise ConfigError(f"source {self.name} is a model, not documents; take it out of corpus.sources")
        return self.category


def read_registry(path: str | Path) -> dict[str, Source]:
    """Return the sources of a table by name. Raises ConfigError naming the file, the line and the column."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"corpus.registry: {path} does not exist; give the path of a table of sources") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"corpus.registry: {path} is not UTF-8 (byte {error.start}); convert it first") from error
    reader = csv.DictReader(text.splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ConfigError(f"{path}: columns are {reader.fieldnames}; make them {','.join(COLUMNS)}")
    sources: dict[str, Source] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        try:
            source = Source.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{where}: {key} = {first.get('input')!r}: {first['msg']}; mend that column") from error
        if source.name in sources:
            raise ConfigError(f"{where}: name = {source.name!r} stands there twice; rename one of the rows")
        sources[source.name] = source
    return sources


def chosen(path: str | Path, names: Sequence[str], *, models: bool = False) -> list[Source]:
    """Return the named sources in the order of the names. Raises ConfigError for an unknown or repeated name.

    Rows of category "model" carry weights, not documents: they are refused unless `models` is set.
    """
    registry = read_registry(path)
    if not names:
        raise ConfigError("corpus.sources is empty; name at least one source of " + ", ".join(sorted(registry)))
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"corpus.sources names {repeated[0]!r} twice; name each source once")
    for name in names:
        if name not in registry:
            raise ConfigError(
                f"corpus.sources: {name!r} is not in {path}; it has {', '.join(sorted(registry)) or 'no rows'}"
            )
        if registry[name].category == "model" and not models:
            raise ConfigError(f"corpus.sources: {name!r} is a model, not documents; take it out (base.kind uses it)")
    return [registry[name] for name in names]


def packages(corpus: CorpusConfig) -> list[Source]:
    """Return the packages of a configuration; none where it names folders or data sets alone. Raises as `chosen`."""
    if not corpus.sources and (corpus.folders or corpus.datasets):
        return []
    return chosen(corpus.registry, corpus.sources)


def slug(text: str) -> str:
    """Return `text` as a stable piece of an id: lower-case ASCII letters, digits and '-'; never empty."""
    import unicodedata

    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "unnamed"
