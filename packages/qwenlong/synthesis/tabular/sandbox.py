"""A database file that SQL can only read: no other file, no network, bounded rows, time, memory and threads."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qwenlong.core.config.generation import SqlConfig
from qwenlong.synthesis.tables import locked
from qwenlong.synthesis.tabular.statement import MAX_LIST, SqlRefused, check

if TYPE_CHECKING:
    import pyarrow as pa

#: Characters of one value of a result.
MAX_VALUE = 10_000


class Sandbox:
    """Tables behind a connection with a locked configuration. Use as a context manager, or close it.

    `run` takes SQL of unknown origin, which is checked first (see `statement`); `query` takes the templates' own.
    """

    def __init__(self, tables: Mapping[str, pa.Table], limits: SqlConfig | None = None) -> None:
        import duckdb

        self.limits = limits or SqlConfig()
        self.tables = frozenset(tables)
        self._folder = tempfile.TemporaryDirectory(prefix="qwenlong-tables-")
        file = Path(self._folder.name) / "tables.duckdb"
        with duckdb.connect(str(file)) as writer:
            writer.execute("SET threads = 1")
            # One transaction: a commit a table would wait for the disk each time.
            writer.execute("BEGIN")
            for name, table in tables.items():
                writer.register("incoming", table)
                writer.execute(f'CREATE TABLE "{name}" AS SELECT * FROM incoming')
                writer.unregister("incoming")
            writer.execute("COMMIT")
        file.chmod(0o400)
        self._connection = duckdb.connect(str(file), read_only=True, config=locked(self.limits.memory_mb))
        self._connection.execute("SET lock_configuration = true")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and remove the file."""
        self._connection.close()
        self._folder.cleanup()

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run SQL of unknown origin. Raises SqlRefused, whatever it is; the next query works."""
        check(sql, self.tables)
        return self.query(sql)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query within the limits. Raises SqlRefused for one that fails or breaks one of them."""
        import duckdb

        limits, ended = self.limits, threading.Event()

        def stop() -> None:
            ended.set()
            self._connection.interrupt()

        timer = threading.Timer(limits.seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            rows = self._connection.execute(sql, list(parameters)).fetchmany(limits.rows + 1)
        except duckdb.OutOfMemoryException as error:
            raise SqlRefused(
                "memory", f"query needs more than synthesis.sql.memory_mb = {limits.memory_mb}: {sql[:200]!r}"
            ) from error
        except (duckdb.Error, RuntimeError) as error:
            if ended.is_set():
                raise SqlRefused(
                    "time", f"query ran longer than synthesis.sql.seconds = {limits.seconds:g}: {sql[:200]!r}"
                ) from error
            raise SqlRefused("failed", f"query failed: {sql[:200]!r}: {str(error)[:200]}; mend it") from error
        finally:
            timer.cancel()
            timer.join()
        if len(rows) > limits.rows:
            raise SqlRefused("rows", f"query gives more than synthesis.sql.rows = {limits.rows} rows: {sql[:200]!r}")
        if rows and len(rows[0]) > MAX_LIST:
            raise SqlRefused("columns", f"query gives {len(rows[0])} columns, above {MAX_LIST}: {sql[:200]!r}")
        if any(isinstance(value, str) and len(value) > MAX_VALUE for row in rows for value in row):
            raise SqlRefused("too_long", f"query gives a text of more than {MAX_VALUE} characters: {sql[:200]!r}")
        return rows
