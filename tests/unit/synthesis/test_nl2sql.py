"""Questions with SQL from a scripted model: what is accepted, and every reason for which one falls."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from qwenlong.core.config.generation import SqlConfig
from qwenlong.core.files import write_parquet
from qwenlong.core.records import Document
from qwenlong.synthesis.commands import app
from qwenlong.synthesis.extra import Extra
from qwenlong.synthesis.mase import output
from qwenlong.synthesis.nl2sql.reading import read
from qwenlong.synthesis.nl2sql.run import STEPS
from qwenlong.synthesis.nl2sql.tasks import Task
from qwenlong.synthesis.tabular.sandbox import Sandbox
from qwenlong.synthesis.tabular.statement import SqlRefused
from qwenlong.synthesis.tabular.store import relations

ROWS = [
    ("Arlow", "north", 1990, 12.5, 3),
    ("Bexley", "north", 1991, 7.25, 9),
    ("Corven", "south", 1992, 30, 9),
    ("Dunmere", "south", 1993, 4, 1),
]


def document(name: str, extra: str = "") -> Document:
    head = "| Town | Area | Year | Revenue (USD millions) | Shops |\n|---|---|---|---|---|\n"
    rows = "".join(f"| {name} {t} | {a} | {y} | {r} | {s} |\n" for t, a, y, r, s in ROWS)
    return Document(
        id=f"towns/{name}",
        source="towns",
        category="professional",
        title=f"Towns of {name}",
        text=f"A table.\n\n{head}{rows}{extra}\nDone.",
        n_tokens=0,
        licence="CC0",
        metadata={"entity": name, "kind": "table"},
    )


@pytest.fixture
def task() -> Task:
    (relation,) = relations([document("Ost")])
    return Task(relation, relation.sheets, 1)


@pytest.fixture
def sandbox(task: Task) -> Any:
    with task.open(SqlConfig()) as opened:
        yield opened


ACCEPTED = [
    ("SELECT sum(revenue_usd_millions) FROM data WHERE area = 'north'", "19.75", "USD millions"),
    ("SELECT count(*) FROM data WHERE shops > 2", "3", None),
    ("SELECT count(*) FROM data WHERE area = 'north'", "2", None),
    ("SELECT town FROM data ORDER BY revenue_usd_millions DESC LIMIT 1", "Ost Corven", None),
    ("SELECT area FROM data GROUP BY area ORDER BY sum(shops) DESC LIMIT 1", "north", None),
    ("SELECT avg(shops) FROM data", "5.5", ""),
    ("SELECT median(revenue_usd_millions) FROM data WHERE year > 1990", "7.25", "USD millions"),
    ("SELECT max(shops) - min(shops) FROM data", "8", ""),
]


@pytest.mark.parametrize(("sql", "answer", "unit"), ACCEPTED)
def test_an_answer_comes_with_the_cells_that_where_selects(
    task: Task, sandbox: Sandbox, sql: str, answer: str, unit: str | None
) -> None:
    made = read(task, sandbox, sql)
    assert (made.answer, made.unit) == (answer, unit)
    text = document("Ost").text
    shown = [text[span.start : span.end] for span in made.evidence]
    assert shown and all(re.fullmatch(r"[\d.]+", cell) for cell in shown)
    if "north" in sql and "sum" in sql:
        assert shown == ["12.5", "7.25"]


REFUSED = [
    ("SELECT town FROM data ORDER BY shops DESC LIMIT 1", "tie"),
    ("SELECT town FROM data LIMIT 1", "tie"),
    ("SELECT town FROM data", "not_one_value"),
    ("SELECT sum(shops), 1 FROM data", "not_one_value"),
    ("SELECT * FROM data LIMIT 1", "not_one_value"),
    ("SELECT sum(shops) FROM data WHERE area = 'west'", "not_one_value"),
    ("SELECT count(*) FROM data WHERE area = 'west'", "no_evidence"),
    ("SELECT sum(d.shops) FROM data d, data e", "no_evidence"),
    ("SELECT sum(shops) FROM (SELECT * FROM data) d", "no_evidence"),
    ("SELECT max(row_id) FROM data", "no_evidence"),
    ("SELECT sum(revenue_usd_millions * shops) FROM data", "unit_unclear"),
    ("SELECT sum(shops) / 0 FROM data", "imprecise"),
    ("SELECT max(x) FROM read_csv('/etc/passwd')", "not_allowed"),
    ("DROP TABLE data", "not_select"),
    ("SELECT 1; SELECT 2", "not_one_statement"),
    ("SELECT nothing FROM data", "failed"),
    ("SELECT sum(shops) FROM towns", "table"),
    ("SELEC 1", "syntax"),
]


@pytest.mark.parametrize(("sql", "kind"), REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(task: Task, sandbox: Sandbox, sql: str, kind: str) -> None:
    with pytest.raises(SqlRefused) as refused:
        read(task, sandbox, sql)
    assert refused.value.kind == kind, str(refused.value)


@pytest.mark.parametrize(
    ("row", "sql", "kind"),
    [
        ("| Ost Arlow | north | 1990 | 12.5 | 3 |\n", "SELECT sum(shops) FROM data", "duplicates"),
        ("| Ost Egg | North | 1999 | 12.75 | 4 |\n", "SELECT sum(shops) FROM data WHERE area = 'north'", "spelling"),
        ("| Ost Egg | east | 1999 | n/a | 4 |\n", "SELECT sum(revenue_usd_millions) FROM data", "nulls"),
    ],
)
def test_planted_ambiguities(row: str, sql: str, kind: str) -> None:
    (relation,) = relations([document("Ost", row)])
    one = Task(relation, relation.sheets, 1)
    with one.open(SqlConfig()) as opened, pytest.raises(SqlRefused) as refused:
        read(one, opened, sql)
    assert refused.value.kind == kind


GOOD = "SELECT sum(shops) FROM data WHERE area = 'north'"
#: Question number -> (question, writer's SQL, solver's SQL).
SCRIPT: dict[int, tuple[str, str, str]] = {
    1: (
        "How many shops do the towns of the north have together?",
        GOOD,
        "SELECT sum(shops) FROM data WHERE year < 1992",
    ),
    2: ("How many shops are there in the south of the land?", GOOD.replace("north", "south"), GOOD),
    3: ("Which town has the most shops of all of them?", "SELECT town FROM data ORDER BY shops DESC LIMIT 1", ""),
    4: (
        "Is the south where shops are fewest in number?",
        "SELECT area FROM data GROUP BY 1 ORDER BY sum(shops) LIMIT 1",
        "",
    ),
    5: (
        "What is the mean revenue of the southern towns?",
        "SELECT avg(revenue_usd_millions) FROM data WHERE year>1991",
        "",
    ),
    6: ("How many shops are in the whole land together?", "SELECT sum(shops) FROM data", "SELECT sum(x) FROM data"),
}


def answer(body: dict[str, Any]) -> str:
    text = body["messages"][0]["content"]
    if text.startswith("You write"):
        number = int(re.search(r"question number (\d+)", text)[1])  # type: ignore[index]
        return json.dumps({"question": SCRIPT[number][0], "sql": SCRIPT[number][1]}) if number in SCRIPT else "no JSON"
    asked = next(sql for question, _, sql in SCRIPT.values() if question in text)
    return json.dumps({"sql": asked})


def run(endpoint: Any, folder: Path, code: int = 0, **settings: Any) -> str:
    # One entity of the source is held out; the questions are about the other.
    write_parquet(folder / "c" / "documents.parquet", [document("Ost"), document("West")], Document)
    one = {"base_url": endpoint.url, "model": "m", "retries": 0, "concurrency": 1}
    nl2sql = {"endpoint": one, "tries": 1, "per_table": 7, "tables": 1} | settings
    (folder / "config.yaml").write_text(yaml.safe_dump({"synthesis": {"nl2sql": nl2sql}}))
    words = ["--config", folder / "config.yaml", "--corpus", folder / "c", "--out", folder / "o"]
    done = CliRunner().invoke(app, ["nl2sql", *map(str, words)])
    assert (done.exit_code != 0) == (code != 0), f"{done.output}\n{done.exception!r}"
    return f"{done.output}{done.exception or ''}"


def test_two_requests_must_agree_and_all_others_are_counted(endpoint: Any, tmp_path: Path) -> None:
    endpoint.answer = answer
    run(endpoint, tmp_path)
    funnel = json.loads((tmp_path / "o" / "funnel.json").read_text())
    assert funnel["asked"] == 7 == sum(funnel[step] for step in STEPS)
    assert {step: funnel[step] for step in STEPS if funnel[step]} == {
        "accepted": 1,
        "disagreed": 1,
        "leaked": 1,
        "malformed": 1,
        "solver_refused": 1,
        "sql_refused": 1,
        "unsolved": 1,
    }
    assert funnel["reasons"]["writer"] == {"malformed": 1, "tie": 1}
    assert funnel["reasons"]["solver"] == {"failed": 1, "no_sql": 1}
    (kept,) = output.read(tmp_path / "o" / "candidates.jsonl")
    assert kept.answers == ("12",) and kept.generator == "nl2sql@1" and kept.task == "corpus_numerical"
    assert kept.question.endswith("together? No unit is stated.") and kept.question.startswith(
        "According to the table of"
    )
    home = next(one for one in (document("Ost"), document("West")) if one.id == kept.documents[0])
    assert [home.text[span.start : span.end] for span in kept.evidence] == ["3", "9"] == list(kept.quotes)
    given = Extra([kept], [home], [], ["corpus_numerical"], [], 0.5)
    assert given.report({})["admitted"] == {"nl2sql@1": 1}
    assert kept.holds([home]) and not kept.holds([])
    # The solver never saw the writer's SQL or the result.
    asked = [body["messages"][0]["content"] for body in endpoint.requests]
    assert not any(GOOD in text for text in asked)


def test_an_outage_leaves_the_rest_for_the_next_run_and_nothing_is_paid_for_twice(
    endpoint: Any, tmp_path: Path
) -> None:
    endpoint.answer = lambda body: (
        {"status": 500} if body["messages"][0]["content"].startswith("You tr") else answer(body)
    )
    said = run(endpoint, tmp_path, code=1)
    assert "without a reply" in said
    before = len(endpoint.requests)
    endpoint.answer = answer
    run(endpoint, tmp_path)
    again = endpoint.requests[before:]
    assert again and all(body["messages"][0]["content"].startswith("You tr") for body in again)
    first = (tmp_path / "o" / "candidates.jsonl").read_bytes()
    run(endpoint, tmp_path)
    assert (tmp_path / "o" / "candidates.jsonl").read_bytes() == first != b""


def test_cells_of_the_documents_are_fenced_data(task: Task) -> None:
    from qwenlong.core.config.generation import Nl2SqlConfig
    from qwenlong.synthesis.nl2sql import requests

    settings = Nl2SqlConfig()
    text = str(requests.write(task, settings, 1).messages[0]["content"])
    mark = re.search(r"between the marks (#\w+)", text)
    assert mark and text.count(mark[1]) == 5 and '"unit": "USD millions"' in text
    columns, sample = task.shown(2)
    assert len(sample.splitlines()) == 2 and json.loads(columns.splitlines()[1])["name"] == "town"


def test_without_an_endpoint_it_says_which_setting(tmp_path: Path) -> None:
    write_parquet(tmp_path / "c" / "documents.parquet", [document("Ost")], Document)
    (tmp_path / "config.yaml").write_text("{}")
    words = ["--config", tmp_path / "config.yaml", "--corpus", tmp_path / "c", "--out", tmp_path / "o"]
    done = CliRunner().invoke(app, ["nl2sql", *map(str, words)])
    assert done.exit_code != 0 and "synthesis.nl2sql.endpoint" in str(done.exception)
