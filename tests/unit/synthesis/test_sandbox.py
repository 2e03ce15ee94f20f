"""SQL of unknown origin: refused or ended within its limits with a clear message, and the next query works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from qwenlong.core.config.generation import SqlConfig
from qwenlong.synthesis.tabular.sandbox import Sandbox
from qwenlong.synthesis.tabular.statement import SqlRefused

EVIL = "x'); DROP TABLE data; --"
N = 3000


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    table = pa.table({"row_id": list(range(N)), "a": list(range(N)), "g": [EVIL] * N})
    with Sandbox({"data": table}, SqlConfig(seconds=1, memory_mb=128)) as opened:
        yield opened


HOSTILE = [
    # files and the network
    ("SELECT * FROM read_csv('/etc/passwd')", "not_allowed"),
    ("SELECT * FROM '/etc/passwd'", "table"),
    ("SELECT * FROM read_text('/etc/passwd')", "not_allowed"),
    ("SELECT * FROM read_parquet('s3://b/x')", "not_allowed"),
    ("SELECT * FROM glob('/*')", "not_allowed"),
    ("COPY data TO '{folder}/out.csv'", "not_select"),
    ("EXPORT DATABASE '{folder}/out'", "not_select"),
    ("ATTACH '{folder}/new.db'", "not_select"),
    ("INSTALL httpfs", "not_select"),
    ("LOAD httpfs", "not_select"),
    # settings and what the database knows of itself
    ("SELECT getenv('HOME')", "function"),
    ("SELECT current_setting('home_directory')", "function"),
    ("PRAGMA database_list", "not_select"),
    ("SET memory_limit = '10GB'", "not_select"),
    ("RESET lock_configuration", "not_select"),
    ("SELECT * FROM duckdb_settings()", "not_allowed"),
    ("SELECT * FROM information_schema.tables", "table"),
    ("SELECT * FROM duckdb_tables", "table"),
    ("DESCRIBE data", "not_allowed"),
    ("SHOW TABLES", "not_allowed"),
    ("CALL pragma_version()", "not_select"),
    # changes
    ("CREATE TABLE x(a INT)", "not_select"),
    ("DELETE FROM data", "not_select"),
    ("SELECT 1; DROP TABLE data", "not_one_statement"),
    ("SELECT 1; SELECT 2", "not_one_statement"),
    ("", "not_one_statement"),
    ("PREPARE x AS SELECT 1", "not_select"),
    ("BEGIN", "not_select"),
    # no end, too much
    ("WITH RECURSIVE r AS (SELECT 1 a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r", "not_allowed"),
    ("SELECT count(*) FROM data a, data b, data c, data d", "time"),
    ("SELECT count(*) FROM (SELECT a.a FROM data a, data b, data c ORDER BY 1)", "time|memory"),
    ("SELECT count(*) FROM range(1000000000000)", "not_allowed"),
    ("SELECT repeat('x', 1000000000)", "function"),
    ("SELECT max(a.g || b.g || c.g) FROM data a, data b, data c", "time|memory"),
    ("SELECT * FROM data", "rows"),
    ("SELECT " + ", ".join("a" * 1 for _ in range(100)) + " FROM data", "too_long"),
    ("SELECT " + ",".join(["1"] * 5000), "too_long"),
    ("SELECT " + "(" * 900 + "1" + ")" * 900, "too_deep"),
    ("SELECT " + "NOT " * 900 + "true", "syntax|too_deep"),
    ("SELECT " + "1+" * 1900 + "1", "syntax|too_deep"),
    # no one answer
    ("SELECT * FROM data USING SAMPLE 5", "not_allowed"),
    ("SELECT a FROM data ORDER BY random()", "function"),
    # other ways in
    ("SELECT columns('.*') FROM data", "not_allowed"),
    ("FROM query('SELECT 1')", "not_allowed"),
    ("SELECT x FROM (VALUES (1)) t(x)", "not_allowed"),
    ("SELECT 'a", "syntax"),
    ("SELECT \x00 1", "syntax"),
    ("SELECT \ud800", "syntax"),
]


@pytest.mark.parametrize(("sql", "kinds"), HOSTILE)
def test_hostile_statements_end_with_a_message_and_the_next_query_works(
    sandbox: Sandbox, tmp_path: Path, sql: str, kinds: str
) -> None:
    began = time.perf_counter()
    with pytest.raises(SqlRefused) as refused:
        sandbox.run(sql.replace("{folder}", str(tmp_path)))
    # Seconds of a busy machine, far from the hours that the statement would take.
    assert time.perf_counter() - began < 20
    assert refused.value.kind in kinds.split("|") and len(str(refused.value)) < 700
    assert list(tmp_path.iterdir()) == []
    assert sandbox.run("SELECT count(*) FROM data") == [(N,)]


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("SELECT count(*) FROM data WHERE g = 'x''); DROP TABLE data; --'", [(N,)]),
        ("SELECT /* ; DROP TABLE data */ max(a) FROM data -- ; DROP", [(N - 1,)]),
        ("SELECT g FROM data WHERE a = 1", [(EVIL,)]),
        ("WITH t AS (SELECT a FROM data WHERE a < 3) SELECT sum(a) FROM t", [(3,)]),
        ("SELECT count(*) FROM data d JOIN data e ON d.a = e.a WHERE d.a IN (SELECT a FROM data WHERE a < 5)", [(5,)]),
        ("SELECT a FROM data ORDER BY a DESC LIMIT 1", [(N - 1,)]),
        (
            "SELECT a % 2 = 0, count(*) FROM data GROUP BY 1 HAVING count(*) > 2 ORDER BY 1",
            [(False, 1500), (True, 1500)],
        ),
    ],
)
def test_honest_queries_run(sandbox: Sandbox, sql: str, result: list[tuple[object, ...]]) -> None:
    assert sandbox.run(sql) == result


def test_the_connection_itself_cannot_leave_or_write(sandbox: Sandbox, tmp_path: Path) -> None:
    """Behind the look at the statement stands a locked connection: templates' own SQL cannot do more either."""
    for sql in (
        "SELECT * FROM read_text('/etc/passwd')",
        f"COPY data TO '{tmp_path}/x.csv'",
        "CREATE TABLE x(a INT)",
        "INSERT INTO data VALUES (1, 1, 'x')",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ):
        with pytest.raises(SqlRefused):
            sandbox.query(sql)
    assert list(tmp_path.iterdir()) == []


def test_names_of_tables_and_values_in_cells_are_never_sql() -> None:
    with Sandbox({"data": pa.table({'a"; DROP TABLE data; --': [1, 2]})}) as opened:
        assert opened.run('SELECT count(*) FROM data WHERE "a""; DROP TABLE data; --" > 1') == [(1,)]
