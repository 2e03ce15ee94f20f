"""Published figures, tables, claims, assumptions and curves from a made-up results folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from qwenlong.audit import assumptions, checks, curves, tables
from qwenlong.audit import results as reading
from qwenlong.core import published
from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import sha256_file
from qwenlong.core.records import TASKS


def config_of(folder: Path) -> Config:
    """The configuration that belongs to a made-up results folder."""
    rows = [
        {"name": "grpo", "tables": ["table2", "table5"], "stage": {"aepo": None}},
        {"name": "aepo", "tables": ["table5"]},
    ]
    stages = {"rl_2": {"aepo": {"low": 0.2, "high": 0.5}}}
    values = {"run": {"results": str(folder)}, "ablations": {"rows": rows}, "stages": stages}
    return Config.model_validate(values)


def evaluations_of(folder: Path) -> tables.Evaluations:
    """The scores of a made-up results folder."""
    return tables.Evaluations(folder, config_of(folder), "c.yaml")


def test_published_figures_are_untouched_and_whole() -> None:
    """The file is the one that was read off the paper, and every cell that a claim names is there."""
    assert sha256_file(published.FILE) == "4140afaa30ed415e1ed8a38bdbbf3cc00b0d7792b8b1bad9b82f955f3910c362"
    figures = published.load()
    assert figures.value("table10.full_context_rl_stage_4.avg") == 71.82
    assert figures.value("table10.naive_grpo.memory_agent_mrcr_512k_1m") is None
    assert figures.value("figure9.spearman_rho_entropy_vs_grad_norm") == 0.96
    assert len(figures.claims) == 16 and len(figures.inconsistencies) == 9
    for claim in figures.claims:
        if claim.margin is not None:
            first, second = (figures.value(cell) for cell in claim.cells)
            assert first - second == pytest.approx(claim.margin, abs=0.006), claim.id


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A row that lost a cell, and a claim about nothing."""
    text = published.FILE.read_text()
    (tmp_path / "a.yaml").write_text(text.replace("[0.18, 27.71]", "[0.18]"))
    (tmp_path / "b.yaml").write_text(text.replace("cells: [table2.task", "cells: [table77.task"))
    with pytest.raises(DataError, match="a.yaml"):
        published.load(tmp_path / "a.yaml")
    with pytest.raises(DataError, match="table77"):
        published.load(tmp_path / "b.yaml")


def test_table10_has_its_shape(results: Path) -> None:
    """Eight rows in the recipe's order; cells are our numbers in percent; a missing one carries its command."""
    (results / "evaluation" / "rl_2" / "heldout" / "scores.json").unlink()
    table = tables.table10(evaluations_of(results), published.load())
    assert [row.name for row in table.rows] == list(published.load().tables["table10"].rows)
    assert table.columns == ("avg", *TASKS, "memory_agent")
    by_model = {row.model: row for row in table.rows}
    raw = json.loads((results / "evaluation" / "rl_4" / "heldout" / "scores.json").read_text())["metrics"]
    for column in ("avg", *TASKS):
        cell = by_model["rl_4"].cells[column]
        assert cell.value == pytest.approx(100 * raw[column]["value"]) and cell.n == raw[column]["n"]
        assert cell.ci95 == pytest.approx([100 * bound for bound in raw[column]["ci95"]])
    agent = json.loads((results / "evaluation" / "rl_4" / "heldout_long" / "scores.json").read_text())["metrics"]
    assert by_model["rl_4"].cells["memory_agent"].value == pytest.approx(100 * agent["avg"]["value"])
    missing = by_model["rl_2"].cells["avg"]
    target = f"{results}/evaluation/rl_2/heldout/scores.json"
    assert missing.value is None
    assert missing.command == f"snakemake --cores all --configfile c.yaml {target}"
    # The recipe leaves this one out: blank, and no command.
    assert by_model["naive_grpo"].cells["memory_agent"] == empty_cell()
    assert by_model["rl_4"].paper == {"avg": 71.82, "memory_agent": 22.53}
    text = tables.markdown(table)
    assert "(paper 71.82)" in text and missing.command in text and text.count("\n| ") == 8


def empty_cell() -> reading.Cell:
    """A cell without anything."""
    return reading.Cell()


def test_ablation_tables_follow_the_configuration(results: Path) -> None:
    """Each table has base and the rows that name it; rows that were not run are blank with their command."""
    made = tables.ablations(evaluations_of(results), config_of(results), published.load())
    assert {t.name: [row.name for row in t.rows] for t in made} == {
        "table2": ["base", "grpo"],
        "table5": ["base", "grpo", "aepo"],
    }
    aepo = made[1].rows[2]
    assert aepo.cells["avg"].command is not None and "ablations/aepo/evaluation/heldout" in aepo.cells["avg"].command
    assert aepo.paper["avg"] == 59.36 and made[1].rows[1].cells["avg"].value is not None


def test_claims_are_judged_by_direction_and_noise(results: Path) -> None:
    """The made-up levels follow the paper, and what is missing is not measured."""
    found = {c.id: c for c in checks.check_all(evaluations_of(results), config_of(results), published.load())}
    assert list(found) == [claim.id for claim in published.load().claims]
    assert found["overall_gain"].verdict == "seen" and found["overall_gain"].difference > 30
    assert found["memory_rl_costs_full_context"].verdict == "seen"
    assert found["memory_rl_costs_full_context"].difference < 0
    assert found["aepo_beats_grpo"].verdict == "not measured" and "table5.aepo.avg" in found["aepo_beats_grpo"].note
    assert found["wrong_and_right_rollouts_alike"].verdict == "not measured"
    assert found["entropy_tracks_gradient_norm"].verdict == "seen"
    assert found["aepo_bounds_entropy"].ours == "100%" and found["aepo_bounds_entropy"].verdict == "seen"


def scores(values: dict[str, list[float]]) -> reading.Scores:
    """Scores of made-up items."""
    items = {task: {str(n): v for n, v in enumerate(row)} for task, row in values.items()}
    flat = [sum(row) / len(row) for row in values.values()]
    metrics = {"avg": {"value": sum(flat) / len(flat) if flat else None, "ci95": None, "n": len(flat)}}
    return reading.Scores("heldout", 0, 0, metrics, items)


@pytest.mark.parametrize(
    ("direction", "first", "second", "verdict"),
    [
        ("greater", [1.0] * 18 + [0.0] * 6, [0.0] * 24, "seen"),
        ("greater", [1.0] * 2 + [0.0] * 22, [0.0] * 24, "leaning"),
        ("greater", [0.0] * 24, [0.0] * 24, "against"),
        ("not_less", [0.0] * 24, [0.0] * 24, "leaning"),
        ("less", [0.0] * 24, [1.0] * 18 + [0.0] * 6, "seen"),
        ("greater", [0.0] * 24, [1.0] * 18 + [0.0] * 6, "contradicted"),
        # Nine of nine is not beyond noise: too few items.
        ("greater", [1.0] * 9, [0.0] * 9, "leaning"),
    ],
)
def test_verdicts(direction: published.Direction, first: list[float], second: list[float], verdict: str) -> None:
    """Agreement and noise give four verdicts; equality is no gain."""
    claim = published.Claim(id="c", cells=("a", "b"), direction=direction)
    pair = [(scores({TASKS[0]: first}), "avg"), (scores({TASKS[0]: second}), "avg")]
    assert checks._compare(claim, "", pair).verdict == verdict


def test_the_paired_difference_weighs_tasks_alike() -> None:
    """Two tasks of different size; the error is that of the mean of paired differences; other items are left out."""
    first = scores({"corpus_numerical": [1.0, 1.0, 0.0, 1.0], "doc_multi_hop": [0.5, 1.0]})
    second = scores({"corpus_numerical": [0.0, 1.0, 0.0, 0.0, 1.0], "doc_multi_hop": [0.5, 0.5]})
    difference, error, n = checks.paired(first, second, ("corpus_numerical", "doc_multi_hop", "multiple_choice"))
    assert (difference, n) == (pytest.approx(37.5), 6)
    variance = np.var([100, 0, 0, 100], ddof=1) / 4 + np.var([0, 50], ddof=1) / 2
    assert error == pytest.approx(math.sqrt(variance) / 2)
    assert checks.paired(scores({TASKS[0]: [1.0]}), scores({TASKS[0]: [0.0]}), TASKS)[1] == math.inf
    with pytest.raises(ValueError, match="no item"):
        checks.paired(scores({}), second, TASKS)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=25))
def test_spearman_is_scipys(points: list[tuple[int, int]]) -> None:
    """Ties included; constant sides have none."""
    x, y = zip(*points, strict=True)
    rho = checks.spearman(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(rho)
    else:
        assert rho == pytest.approx(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def test_every_assumed_setting_is_listed(results: Path) -> None:
    """Each description that says so, nested and by section; a stage's own value where it differs."""
    config = Config.model_validate({"stages": {"rl_2": {"steps": 7, "aepo": {"low": 0.1, "high": 0.3}}}})
    listed = {a.key: a for a in assumptions.listing(config)}
    assert listed["training.steps"].value == 100 and listed["stages.rl_2.steps"].value == 7
    assert listed["stages.rl_2.aepo.high"].value == 0.3 and "stages.rl_1.aepo.high" not in listed
    assert "stages.rl_1.steps" not in listed and "stages.memory_rl.memory.answer_tokens" in listed
    assert {"agent.chunk_tokens", "merge.select_top", "ablations.stage", "evaluation.max_input_tokens"} <= set(listed)
    assert all("[assumed" in a.text for a in listed.values()) and "training.learning_rate" not in listed


def test_curves_are_the_same_for_the_same_numbers(results: Path) -> None:
    """Three drawings, byte for byte the same; nothing to draw gives none; other numbers differ."""
    read = {n: metrics_of(results, n) for n in ("rl_1", "rl_2", "memory_rl", "naive_grpo")}
    config = config_of(results)
    first = curves.training(read, config)
    assert first is not None and first == curves.training(read, config) and "<dc:date>" not in first
    changed = {**read, "rl_1": [{**row, "aepo/entropy": row["aepo/entropy"] + 1} for row in read["rl_1"]]}
    assert curves.training(changed, config) != first
    for key in ("reward/{}/mean", "reward/{}/std", "response_length/{}/mean"):
        assert curves.by_task(read, key) == curves.by_task(read, key) is not None
    assert curves.by_task(read, "nothing/{}/mean") is None
    assert curves.ablation_curves({"grpo": read["rl_1"], "aepo": []}) is not None
    assert curves.training({}, config) is curves.by_task({}, "reward/{}/mean") is None
    assert curves.ablation_curves({"a": []}) is curves.entropy_against_norm({"a": []}) is None


def test_the_scatter_of_figure_9(results: Path) -> None:
    """A point a step that had a gradient, rho as the claim's check has it; one step alone has no rho."""
    rows = metrics_of(results, "naive_grpo")
    skipped = [{**rows[0], "step": 99.0, "aepo/skipped": 1.0, "actor/grad_norm": 0.0}]
    assert checks.gradient_steps(rows + skipped) == checks.gradient_steps(rows) and len(rows) == 24
    drawn = curves.entropy_against_norm({"naive_grpo": rows, "rl_1": metrics_of(results, "rl_1")})
    assert drawn is not None and drawn == curves.entropy_against_norm(
        {"naive_grpo": rows + skipped, "rl_1": metrics_of(results, "rl_1")}
    )
    assert curves.entropy_against_norm({"naive_grpo": rows[:1]}) is not None
    assert curves.entropy_against_norm({"naive_grpo": skipped}) is None


def test_similarities_of_rollouts(results: Path, tmp_path: Path) -> None:
    """Tasks in order, all of them last; a stage without pairs has none; something else is named."""
    read = reading.read_similarity(results / "stages/rl_1/policy/similarity.json")
    assert [e.task for e in read] == [*sorted(TASKS[:2]), "all"] and read[0].pairs == 200
    assert reading.read_similarity(tmp_path / "none.json") == []
    (tmp_path / "similarity.json").write_text('{"tasks": {"a": {}}, "all": null}')
    with pytest.raises(DataError, match="holds no similarities"):
        reading.read_similarity(tmp_path / "similarity.json")
    note = {c.id: c.note for c in checks.check_all(evaluations_of(results), config_of(results), published.load())}
    assert "beside Table 3" in note["wrong_and_right_rollouts_alike"]


def metrics_of(folder: Path, stage: str) -> list[dict[str, float]]:
    """The metrics of a stage."""
    return reading.read_metrics(folder / "stages" / stage / "policy" / "metrics.jsonl")


def test_metrics_of_odd_lines(tmp_path: Path) -> None:
    """Text and NaN values are left out, order is by step, a broken line is named, no file is no metrics."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2, "a": NaN, "b": "x", "c": 1}\n\n{"step": 1, "a": 3}\n')
    assert reading.read_metrics(file) == [{"step": 1.0, "a": 3.0}, {"step": 2.0, "c": 1.0}]
    file.write_text('{"step": 1}\n{"ste')
    with pytest.raises(DataError, match="metrics.jsonl, line 2"):
        reading.read_metrics(file)
    assert reading.read_metrics(tmp_path / "none.jsonl") == []
    (tmp_path / "scores.json").write_text('{"benchmark": "heldout"}')
    with pytest.raises(DataError, match="no scores.json"):
        reading.read_scores(tmp_path / "scores.json")
