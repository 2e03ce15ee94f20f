"""One DuckDB table of all numbers with their source span, behind a connection that can only read it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qwenlong.core.errors import QwenlongError
from qwenlong.synthesis.parse import Cell

T = TypeVar("T")
#: Rows that a question's query may return.
MAX_ROWS = 1000


def locked(memory_mb: int) -> dict[str, Any]:
    """Return the options of a connection without files, network, extensions or more memory than this."""
    return {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "threads": 1,
        "memory_limit": f"{memory_mb}MB",
        # What does not fit the memory fails instead of filling the disk.
        "max_temp_directory_size": "0B",
    }


class Table:
    """The table `cells(document, entity, field, item, year, value, unit, start, stop)`, read-only.

    The connection has no file or network access, one thread, little memory, and a configuration that cannot be
    changed any more. Use as a context manager.
    """

    def __init__(self, cells: Iterable[Cell], memory_mb: int = 256) -> None:
        import duckdb
        import pyarrow as pa

        self._folder = tempfile.TemporaryDirectory(prefix="qwenlong-cells-")
        file = str(Path(self._folder.name) / "cells.duckdb")
        rows = list(cells)
        columns = {
            name: pa.array([getattr(cell, name) for cell in rows], type=pa.string())
            for name in ("document", "entity", "field", "item", "year", "unit")
        }
        columns["value"] = pa.array([_fixed(cell.value) for cell in rows], type=pa.decimal128(28, 6))
        columns["start"] = pa.array([cell.start for cell in rows], type=pa.int64())
        columns["stop"] = pa.array([cell.end for cell in rows], type=pa.int64())
        with duckdb.connect(file) as writer:
            writer.register("incoming", pa.table(columns))
            writer.execute("CREATE TABLE cells AS SELECT * FROM incoming")
        self._connection = duckdb.connect(file, read_only=True, config=locked(memory_mb))
        self._connection.execute("SET lock_configuration = true")
        self._beside: list[Any] = []

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and remove the file, and close what was opened beside it."""
        for other in self._beside:
            other.close()
        self._beside.clear()
        self._connection.close()
        self._folder.cleanup()

    def beside(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return the one object of a kind that lives as long as this table, made when it is first wanted."""
        for other in self._beside:
            if isinstance(other, kind):
                return other
        made = make()
        self._beside.append(made)
        return made

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one query. Raises QwenlongError for SQL that fails or returns more than MAX_ROWS rows."""
        import duckdb

        try:
            rows = self._connection.execute(sql, list(parameters)).fetchmany(MAX_ROWS + 1)
        except duckdb.Error as error:
            raise QwenlongError(f"query failed: {sql[:200]!r}: {str(error)[:200]}; mend the template") from error
        if len(rows) > MAX_ROWS:
            raise QwenlongError(f"query returns more than {MAX_ROWS} rows: {sql[:200]!r}; narrow the template")
        return rows


def _fixed(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.000001"))
