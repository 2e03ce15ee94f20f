"""Tables in their formats, as a command: whole, escaped, the same bytes; wrong usage by name."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
from pathlib import Path

import pytest
from table_scores import six, write_scores
from typer.testing import CliRunner

from qwenlong.core.provenance import path_of
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.tables import layout

RUN = CliRunner()


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A results folder whose name means something in every format."""
    folder = tmp_path / "a & b_{$%}|<script>~^\\#"
    six(folder, "rl_4")
    six(folder, "+aepo")
    return folder


def rendered(folder: Path, form: str) -> str:
    done = RUN.invoke(app, ["tables", "--results", str(folder), "--format", form])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_markdown_rows_have_the_same_cells(odd: Path) -> None:
    """Escaped bars are no borders; every table is there."""
    text = rendered(odd, "md")
    assert [int(n) for n in re.findall(r"(?m)^## Table (\d+)\.", text)] == [2, 4, 5, 7, 8, 9, 10, 11, 12]
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        assert re.fullmatch(r"(\|---)+\|", rows[1])
    label = "**QwenLong-L1.5-30B-A3B (rl\\_4), ours, seen once**"
    assert f"| {label} | 45.00 [43.4, 46.6] n=600 | 40.00 [36.0, 44.0]" in text


def test_csv_has_the_numbers_of_the_tables(odd: Path) -> None:
    """Differences included."""
    cells = list(csv.DictReader(io.StringIO(rendered(odd, "csv"))))
    (found,) = [c for c in cells if c["model"] == "rl_4" and (c["table"], c["column"]) == ("table10", "docmath")]
    assert (found["ours"], found["paper"], found["n"], found["seeds"]) == ("40.0000", "66.2600", "100", "1")
    assert float(found["difference"]) == pytest.approx(40 - 66.26)
    (blank,) = [c for c in cells if (c["table"], c["row"], c["column"]) == ("table5", "grpo", "docmath")]
    assert (blank["ours"], blank["missing"]) == ("", "ablations/grpo/evaluation/docmath/scores.json")


class Page(html.parser.HTMLParser):
    """Tags in their order, checked for their ends, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.outside += [v or "" for k, v in attrs if k in ("src", "href") and not (v or "").startswith("#")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_one_file_without_scripts_or_addresses(odd: Path) -> None:
    """Well-formed, for narrow screens, and a folder's name stays text."""
    text = rendered(odd, "html")
    page = Page()
    page.feed(text)
    assert page.open == [] and page.outside == [] and "script" not in page.seen
    assert page.seen.count("table") == 9 and 'name="viewport"' in text and "@media (max-width" in text
    assert "<script>" in "".join(page.text)


def test_latex_is_well_formed(odd: Path) -> None:
    """Braces and environments close, rows have as many cells as columns, nothing special is left bare."""
    text = rendered(odd, "latex")
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == [] and text.rstrip().endswith(r"\end{document}")
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
        assert all(line.startswith("\\") or line.endswith(r"\\") for line in body.strip().splitlines())
    assert text.isascii() and not re.search(r"(?<!\\)[#~^](?!\\dagger)", re.sub(r"(?m)%.*$", "", text))


def test_files_are_the_same_bytes_and_have_their_provenance(odd: Path, tmp_path: Path) -> None:
    """A folder gets every format; a file the one that its name ends with."""
    out = tmp_path / "out"
    line = ["tables", "--results", str(odd), "--table", "7", "--table", "10"]
    assert RUN.invoke(app, [*line, "--out", str(out)]).exit_code == 0
    names = {"table7.md", "table10.md", "table7.tex", "table10.tex", "tables.tex", "tables.html", "tables.csv"}
    assert {file.name for file in out.iterdir() if not file.name.endswith("provenance.json")} == names
    before = {name: (out / name).read_bytes() for name in names}
    assert RUN.invoke(app, [*line, "--out", str(out)]).exit_code == 0
    assert {name: (out / name).read_bytes() for name in names} == before
    record = json.loads(path_of(out / "table7.md").read_text())
    assert len(record["inputs"]) == 6 and record["extra"]["seeds"] == [17]
    assert RUN.invoke(app, [*line, "--out", str(tmp_path / "x.html")]).exit_code == 0
    assert (tmp_path / "x.html").read_bytes() == before["tables.html"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--table", "3"], "no table '3' of scores in the paper; there are 2, 4, 5, 7"),
        (["--table", "7", "--out", "x.docx"], "ends with none of .md, .tex, .html, .csv"),
        (["--table", "7", "--ablations", "absent"], "absent is no folder"),
        (["--format", "pdf"], "pdf"),
    ],
)
def test_wrong_usage_is_named(odd: Path, words: list[str], message: str) -> None:
    """Exit code 2, before anything is written."""
    done = RUN.invoke(app, ["tables", "--results", str(odd), *words])
    assert done.exit_code == 2 and message in done.output


def test_nothing_at_all_is_said(tmp_path: Path) -> None:
    """A folder without scores, and no table named."""
    done = RUN.invoke(app, ["tables", "--results", str(tmp_path)])
    assert done.exit_code == 1 and "no scores.json under" in done.output


def test_held_out_scores_have_their_own_tables_in_every_format(tmp_path: Path) -> None:
    """A run of our own samples alone prints none of the paper's tables."""
    write_scores(tmp_path, "base/heldout", 0.25, multi_hop=0.25)
    text = rendered(tmp_path, "md")
    assert text.startswith("## heldout") and "| base | 25.0 [21.0, 29.0] |" in text and "Table" not in text
    for form in ("html", "latex", "csv"):
        assert "heldout" in rendered(tmp_path, form)
    # Beside the paper's, as soon as one of its benchmarks was run.
    write_scores(tmp_path, "base/frames")
    text = rendered(tmp_path, "md")
    assert "## Table 7." in text and "## heldout" in text and "## frames" not in text


def test_tables_of_ablations_may_come_from_another_run(tmp_path: Path) -> None:
    """As in the paper, whose ablations start from a smaller model."""
    six(tmp_path / "large", "base", 0.5)
    six(tmp_path / "small", "base", 0.3)
    line = ["tables", "--results", str(tmp_path / "large"), "--ablations", str(tmp_path / "small"), "--format", "csv"]
    cells = list(csv.DictReader(io.StringIO(RUN.invoke(app, line).stdout)))
    found = {c["table"]: c["ours"] for c in cells if (c["model"], c["column"]) == ("base", "docmath")}
    assert {found[name] for name in layout.ABLATION_TABLES} == {"30.0000"} and found["table10"] == "50.0000"
