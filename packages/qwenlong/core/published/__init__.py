"""The paper's figures (claims.yaml): data that is read and never edited."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from qwenlong.core.errors import DataError

FILE = Path(__file__).parent / "claims.yaml"
Direction = Literal["greater", "less", "not_less", "increasing", "positive", "inside_band"]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(_Data):
    """A published table; a cell the paper leaves empty is none."""

    title: str
    note: str | None = None
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]

    @model_validator(mode="after")
    def _rectangular(self) -> Table:
        for name, row in self.rows.items():
            if len(row) != len(self.columns):
                raise ValueError(f"row {name} has {len(row)} cells and the table {len(self.columns)} columns")
        return self

    def cell(self, row: str, column: str) -> float | None:
        """Return a published number; none where there is no such cell."""
        if row not in self.rows or column not in self.columns:
            return None
        return self.rows[row][self.columns.index(column)]


class Claim(_Data):
    """Something the paper says that can be tested at any scale: direction first, size second."""

    id: str
    cells: tuple[str, ...]
    direction: Direction
    margin: float | None = None


class Published(_Data):
    """All of claims.yaml. `figures` holds what is no table of rows and columns, as it stands."""

    paper: dict[str, str]
    tables: dict[str, Table]
    claims: tuple[Claim, ...]
    inconsistencies: tuple[str, ...]
    figures: dict[str, Any]

    def value(self, cell: str) -> Any:
        """Return the number at "table10.base.avg" or "figure9.spearman_rho…"; none when it is no single number."""
        name, _, rest = cell.partition(".")
        if name in self.tables:
            row, _, column = rest.partition(".")
            return self.tables[name].cell(row, column)
        found = self.figures.get(name)
        return found.get(rest) if rest and isinstance(found, dict) else None


@cache
def load(file: Path = FILE) -> Published:
    """Read the published figures. Raises DataError when the file is not what it should be."""
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        tables = {k: v for k, v in values.items() if isinstance(v, dict) and "columns" in v}
        named = {key: values.pop(key) for key in ("paper", "claims", "inconsistencies")}
        figures = {key: value for key, value in values.items() if key not in tables}
        published = Published.model_validate({"tables": tables, "figures": figures, **named})
    except (ValueError, KeyError, yaml.YAMLError) as error:
        raise DataError(f"{file} is not the table of published figures ({error}); restore it") from error
    for claim in published.claims:
        for cell in claim.cells:
            if cell.partition(".")[0] not in {*tables, *figures}:
                raise DataError(f"{file}: claim {claim.id} names {cell}, which is not there; restore the file")
    return published
