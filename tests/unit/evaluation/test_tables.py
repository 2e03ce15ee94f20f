"""The paper's tables from score files: every published number, ours beside, and what is to be said of them."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from qwenlong.core import published
from qwenlong.core.config.models import PaperTable
from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import write_json
from qwenlong.core.provenance import path_of
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.tables import layout, values
from qwenlong.evaluation.tables.build import Commands, Table, build
from qwenlong.evaluation.tables.results import Results

RUN = CliRunner()
FIGURES = published.load()
COMMANDS = Commands("configs/paper.yaml")


def write_scores(root: Path, place: str, avg: float = 0.5, seed: int | None = 17, **more: float) -> None:
    """Write a scores.json of 100 items, intervals four points to each side, as `place` says: "rl_4/frames"."""
    row, benchmark = place.split("/")
    folder = root / "ablations" / row[1:] / "evaluation" if row.startswith("+") else root / "evaluation" / row
    table: dict[str, Any] = {
        name: {"value": v, "ci95": [round(v - 0.04, 6), round(v + 0.04, 6)], "n": 100}
        for name, v in {"avg": avg, **more}.items()
    }
    scores = {"benchmark": benchmark, "n_attempted": 100, "n_scored": 100, "metrics": table, "items": []}
    write_json(folder / benchmark / "scores.json", scores)
    if seed is not None:
        write_json(path_of(folder / benchmark / "scores.json"), {"seed": seed})


def six(root: Path, row: str, first: float = 0.4, seed: int = 17) -> None:
    """The six benchmarks of a model: 40, 42, … 50 percent."""
    for n, measure in enumerate(layout.SIX.values()):
        write_scores(root, f"{row}/{measure.parts[0].benchmark}", first + 0.02 * n, seed)


def made(name: str, *roots: Path) -> Table:
    return build(name, Results(roots), FIGURES, COMMANDS)


def row_of(table: Table, name: str) -> Any:
    (row,) = [row for row in table.rows if row.name == name]
    return row


def cell_of(table: Table, row: str, column: str) -> Any:
    return row_of(table, row).cells[table.columns.index(column)]


# What stands where


@pytest.mark.parametrize("name", layout.TABLES)
def test_layouts_are_the_published_tables(name: str) -> None:
    """Each column (Table 8: row) has a measure, each model a row (Table 8: column), none is left over."""
    one, source = layout.LAYOUTS[name], FIGURES.tables[name]
    of, by = (source.columns, tuple(source.rows)) if one.turned else (tuple(source.rows), source.columns)
    assert tuple(one.measures) == by
    assert set(one.models) <= set(of) and not set(one.own) & set(of)
    assert set(one.averaged_over) <= set(by)


def test_tables_are_those_that_a_configuration_can_name(root: Path) -> None:
    """And rows of the ablation tables are rows that this project trains."""
    assert get_args(PaperTable) == layout.TABLES
    rows = {model.name for name in layout.TABLES for model, _, _ in layout.runs(name) if model.ablation}
    assert rows <= {file.stem for file in (root / "configs/ablations").glob("*.yaml")}


def test_a_table_has_every_published_number(tmp_path: Path) -> None:
    """To the digit, with nothing of ours there."""
    done = RUN.invoke(app, ["tables", "--results", str(tmp_path), *all_tables(), "--format", "csv"])
    cells = list(csv.DictReader(io.StringIO(done.stdout)))
    for name in layout.TABLES:
        for row, numbers in FIGURES.tables[name].rows.items():
            for column, number in zip(FIGURES.tables[name].columns, numbers, strict=True):
                (found,) = [c for c in cells if (c["table"], c["row"], c["column"]) == (name, row, column)]
                assert found["paper"] == ("" if number is None else f"{number:.4f}")
                assert found["ours"] == found["difference"] == ""


def all_tables() -> list[str]:
    return [word for name in layout.TABLES for word in ("--table", name)]


# Our numbers


def test_a_row_of_ours_has_values_differences_and_an_average(tmp_path: Path) -> None:
    """The average is the plain mean, its interval that of six independent benchmarks."""
    six(tmp_path, "rl_4")
    table = made("table7", tmp_path)
    cell = cell_of(table, "qwenlong_l1_5_30b_a3b", "frames")
    assert (cell.ours.value, cell.ours.n, cell.ours.seeds) == (values.Value(44.0, 40.0, 48.0), 100, 1)
    assert cell.difference.value == pytest.approx(44.0 - 74.76)
    paper = values.wilson(74.76, 824)
    assert cell.difference.low == pytest.approx(-30.76 - math.hypot(4, paper.high - 74.76))
    average = cell_of(table, "qwenlong_l1_5_30b_a3b", "avg").ours
    assert average.value.value == pytest.approx(45.0) and average.n == 600
    assert average.value.high - 45.0 == pytest.approx(4 * math.sqrt(6) / 6)
    assert row_of(table, "qwenlong_l1_5_30b_a3b").seeds == "seen once"
    assert all(cell.ours is None for cell in row_of(table, "gpt_5").cells)


def test_an_average_is_blank_while_a_column_is_missing_and_the_command_makes_it(tmp_path: Path) -> None:
    """Only what is missing is asked for."""
    six(tmp_path, "rl_4")
    (tmp_path / "evaluation/rl_4/mrcr_0_128k/scores.json").unlink()
    table = made("table7", tmp_path)
    assert cell_of(table, "qwenlong_l1_5_30b_a3b", "avg").ours.value is None
    assert cell_of(table, "qwenlong_l1_5_30b_a3b", "mrcr").ours.value is None
    assert cell_of(table, "qwenlong_l1_5_30b_a3b", "docmath").ours.value is not None
    commands = dict(table.missing)
    assert commands["rl_4"].endswith(f"-- {tmp_path}/evaluation/rl_4/mrcr_0_128k/scores.json")
    assert commands["base"].count("scores.json") == 6


def test_commands_name_the_folder_only_where_the_configuration_means_another() -> None:
    """Quoted for a shell."""
    files = ["evaluation/base/frames/scores.json"]
    words = "snakemake --cores all --configfile configs/paper.yaml"
    assert Commands("configs/paper.yaml", "results/paper").make("results/paper", files) == (
        f"{words} -- results/paper/{files[0]}"
    )
    assert Commands("configs/paper.yaml", "results/paper").make("my runs/x", files) == (
        f"{words} --config 'run={{results: \"my runs/x\"}}' -- 'my runs/x/{files[0]}'"
    )


def test_ablation_rows_and_rows_of_ours(tmp_path: Path) -> None:
    """Trained rows are read from their own folders; the paper's two steps of one run stay the paper's."""
    six(tmp_path, "base")
    six(tmp_path, "+grpo", 0.5)
    six(tmp_path, "+sequence_clip_low_entropy", 0.3)
    table = made("table4", tmp_path)
    assert cell_of(table, "base", "avg").ours.value.value == pytest.approx(45.0)
    assert cell_of(table, "grpo", "avg").difference.value == pytest.approx(55.0 - 56.07)
    assert not row_of(table, "sequence_clip_low_entropy_step30").ours
    own = row_of(table, "sequence_clip_low_entropy")
    assert own.cells[0].ours.value.value == pytest.approx(35.0) and not own.published


def test_table_8_is_turned_and_its_mean_of_three_is_no_narrower_than_each(tmp_path: Path) -> None:
    """BFCL's stores ask the same questions, so their errors do not average out."""
    for store, value in (("kv", 0.1), ("vector", 0.2), ("rec_sum", 0.3)):
        write_scores(tmp_path, f"rl_4/bfcl_v4_memory_{store}", value)
    table = made("table8", tmp_path)
    mean = cell_of(table, "bfcl_v4_memory_sum", "qwenlong_l1_5_30b_a3b").ours
    assert mean.n == 100 and mean.value.value == pytest.approx(20.0)
    assert mean.value.high - mean.value.low == pytest.approx(8.0)
    assert "(rl_4)" in table.column_titles[1]


def test_naive_grpo_is_not_read_through_the_agent(tmp_path: Path) -> None:
    """Neither is its cell filled, nor is there a command for it."""
    table = made("table10", tmp_path)
    assert cell_of(table, "naive_grpo", "memory_agent_mrcr_512k_1m").ours is None
    assert "mrcr_512k_1m" not in dict(table.missing)["naive_grpo"]
    assert "rl_3/mrcr_512k_1m" in dict(table.missing)["rl_3"]


def test_slices_come_from_the_predictions_of_one_benchmark(tmp_path: Path) -> None:
    """A file without a slice leaves its cell blank."""
    write_scores(tmp_path, "rl_4/longbench_v2", 0.5, easy=0.6, hard=0.4)
    table = made("table11", tmp_path)
    assert cell_of(table, "qwenlong_l1_5_30b_a3b", "hard").ours.value.value == pytest.approx(40.0)
    assert cell_of(table, "qwenlong_l1_5_30b_a3b", "long").ours.value is None
    write_scores(tmp_path, "rl_4/longbench_v1_qa", 0.5, **{"2wikimqa": 0.9})
    found = made("table12", tmp_path)
    assert cell_of(found, "qwenlong_l1_5_30b_a3b", "2wikimultihopqa").ours.value.value == pytest.approx(90.0)


def test_a_whole_file_stands_in_for_its_subset_and_says_so(tmp_path: Path) -> None:
    """`mrcr` and `corpusqa` take all records of the file that they are given."""
    write_scores(tmp_path, "rl_4/mrcr", 0.5)
    table = made("table7", tmp_path)
    assert cell_of(table, "qwenlong_l1_5_30b_a3b", "mrcr").ours.value.value == pytest.approx(50.0)
    assert "mrcr_0_128k of rl_4 is read from mrcr: all records of its file" in table.notes


# Several seeds


def test_seeds_are_averaged_and_counted(tmp_path: Path) -> None:
    """The mean of two runs; a cell of one run says so."""
    for seed, value in ((17, 0.5), (18, 0.52)):
        write_scores(tmp_path / str(seed), "rl_4/frames", value, seed)
    write_scores(tmp_path / "17", "rl_4/docmath", 0.4)
    table = made("table7", tmp_path / "17", tmp_path / "18")
    cell = cell_of(table, "qwenlong_l1_5_30b_a3b", "frames")
    assert (cell.ours.seeds, cell.ours.attempted) == (2, 200)
    assert cell.ours.value.value == pytest.approx(51.0) and cell.ours.value.high - 51.0 > 4.0
    assert row_of(table, "qwenlong_l1_5_30b_a3b").seeds == "1 to 2 seeds"


def test_runs_that_are_no_seeds_of_one_another_are_refused(tmp_path: Path) -> None:
    """The same seed, the same folder, other items."""
    for name, seed in (("a", 17), ("b", 17), ("c", 18)):
        write_scores(tmp_path / name, "rl_4/frames", 0.5, seed)
    with pytest.raises(DataError, match="are both of seed 17"):
        made("table7", tmp_path / "a", tmp_path / "b")
    with pytest.raises(UsageError, match="names a folder twice"):
        Results([tmp_path / "a", tmp_path / "a" / "."])
    file = tmp_path / "c/evaluation/rl_4/frames/scores.json"
    scores = json.loads(file.read_text())
    scores["metrics"]["avg"]["n"] = 99
    write_json(file, scores)
    with pytest.raises(DataError, match=r"has 100 items and .* has 99"):
        made("table7", tmp_path / "a", tmp_path / "c")


# The paper's own numbers


def test_a_row_that_repeats_another_is_no_target(tmp_path: Path) -> None:
    """Table 12 prints Gemini's cells again for QwenLong-L1.5; its average stands."""
    names = ("2wikimqa", "hotpotqa", "musique", "narrativeqa", "qasper")
    write_scores(tmp_path, "rl_4/longbench_v1_qa", 0.7, **dict.fromkeys(names, 0.7))
    table = made("table12", tmp_path)
    row = row_of(table, "qwenlong_l1_5_30b_a3b")
    assert [cell.doubtful for cell in row.cells] == [False, True, True, True, True, True]
    assert [cell.difference is None for cell in row.cells] == [False, True, True, True, True, True]
    assert not any(cell.doubtful for cell in row_of(table, "gemini_2_5_pro").cells)
    notes = " ".join(table.notes)
    assert "the printed average is 70.40, the mean of its printed cells 71.28" in notes and "repeats" in notes
    others = [name for name in layout.TABLES if name != "table12"]
    assert not any(cell.doubtful for name in others for row in made(name, tmp_path).rows for cell in row.cells)


def test_inconsistencies_and_sizes_are_noted(tmp_path: Path) -> None:
    """What the paper's numbers cannot be, and what they suggest."""
    seven = " ".join(made("table7", tmp_path).notes)
    assert "62.26 (Qwen3-30B-A3B-Thinking-2507)" in seven and "No whole number of 800 items" in seven
    assert "the printed average is 74.74, the mean of its printed cells 74.60" in seven
    nine = made("table9", tmp_path)
    assert "CorpusQA 4M 21" in " ".join(nine.notes) and "+9.48 on ultra-long tasks" in " ".join(nine.notes)
    cell = cell_of(nine, "qwenlong_l1_5_30b_a3b_memory_agent", "corpusqa_4m")
    assert cell.paper.high - cell.paper.low > 25


# What is no result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmark": "docmath"}, "is of docmath, and lies where frames belongs"),
        ({"metrics": {"avg": {"value": 44.0, "ci95": None, "n": 3}}}, "metric avg is damaged"),
        ({"metrics": {"avg": {"value": 0.5, "ci95": [0.4], "n": 3}}}, "metric avg is damaged"),
        ({"metrics": {"avg": {"value": "much", "ci95": None, "n": 3}}}, "metric avg is damaged"),
    ],
)
def test_damaged_scores_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """With the file and the remedy."""
    write_scores(tmp_path, "rl_4/frames")
    file = tmp_path / "evaluation/rl_4/frames/scores.json"
    write_json(file, json.loads(file.read_text()) | change)
    done = RUN.invoke(app, ["tables", "--results", str(tmp_path), "--table", "7"])
    assert done.exit_code == 1 and message in done.output and "Traceback" not in done.output


def test_failed_responses_are_noted(tmp_path: Path) -> None:
    """They count 0, and the reader is told how many there are."""
    write_scores(tmp_path, "rl_4/frames")
    file = tmp_path / "evaluation/rl_4/frames/scores.json"
    write_json(file, json.loads(file.read_text()) | {"n_scored": 80})
    assert "frames of rl_4: 80 of 100 responses have a score, the others count 0" in made("table7", tmp_path).notes


# Formats


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
