"""The paper's tables from score files: every published number, ours beside, and what is to be said of them."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
from table_scores import six, write_scores
from typer.testing import CliRunner

from qwenlong.core import published
from qwenlong.core.config.models import PaperTable
from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import write_json
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.tables import layout, values
from qwenlong.evaluation.tables.build import Commands, Table, build
from qwenlong.evaluation.tables.results import Results

RUN = CliRunner()
FIGURES = published.load()
COMMANDS = Commands("configs/paper.yaml")


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
    """Trained rows are read from their own folders; Table 4 reads one of them at two steps, by rows that end there."""
    six(tmp_path, "base")
    six(tmp_path, "+grpo", 0.5)
    six(tmp_path, "+sequence_clip_low_entropy", 0.3)
    six(tmp_path, "+sequence_clip_low_entropy_step40", 0.4)
    table = made("table4", tmp_path)
    assert cell_of(table, "base", "avg").ours.value.value == pytest.approx(45.0)
    assert cell_of(table, "grpo", "avg").difference.value == pytest.approx(55.0 - 56.07)
    assert cell_of(table, "sequence_clip_low_entropy_step30", "avg").ours.value is None
    assert cell_of(table, "sequence_clip_low_entropy_step40", "avg").difference.value == pytest.approx(45.0 - 55.47)
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
