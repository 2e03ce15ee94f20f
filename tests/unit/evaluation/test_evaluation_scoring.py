"""Scores, denominators, intervals, comparisons: all from stored predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from qwenlong.core.errors import DataError
from qwenlong.core.files import read_parquet, write_jsonl
from qwenlong.core.records import TASKS, Prediction, Sample
from qwenlong.evaluation import metrics
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.compare import compare
from qwenlong.evaluation.registry import BENCHMARKS, find
from qwenlong.evaluation.scoring import JUDGE_SHARES, SHARES, headline, score

RUN = CliRunner()
RIGHT = {
    "corpus_numerical": "<think>\n6*7\n</think>\n\nTherefore, the answer is 42",
    "dialogue_memory": "<think>\nx\n</think>\n\nabc Hello there, friend",
    "doc_multi_hop": "Therefore, the answer is Paris",
    "multiple_choice": "Therefore, the answer is (B)",
    "reading_comprehension": "Therefore, the answer is the old mill",
}


def prediction(name: str, response: str, finish: str = "stop", error: str | None = None) -> Prediction:
    """A stored prediction."""
    return Prediction(
        id=name, response=response, finish_reason=finish, n_prompt_tokens=1, n_response_tokens=1, model="m", error=error
    )


def samples(data: Path) -> list[Sample]:
    """The held-out samples."""
    return read_parquet(data / "heldout.parquet", Sample)


def scored(data: Path, predictions: list[Prediction]) -> dict[str, Any]:
    """Score predictions of the held-out samples."""
    benchmark = find("heldout")
    return score(benchmark, benchmark.load(data / "heldout.parquet", None), predictions, 17)


def test_right_answers_score_one(data: Path) -> None:
    """Every task by its rule, thinking stripped."""
    table = scored(data, [prediction(s.id, RIGHT[s.task]) for s in samples(data)])
    assert table["n_attempted"] == table["n_scored"] == 10
    assert table["metrics"]["avg"] == {"value": 1.0, "ci95": [1.0, 1.0], "n": 10}
    assert table["metrics"]["unfinished"]["value"] == 0.0
    assert {row["id"] for row in table["items"]} == {s.id for s in samples(data)}
    assert (table["headline"], table["rules"], table["judge"], table["samples"]) == ("reward", ["reward"], None, 1)
    assert {name: len(ids) for name, ids in table["groups"].items()} == dict.fromkeys(TASKS, 2)


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_benchmark_has_the_rules_that_it_names(name: str) -> None:
    """The headline, what takes its place without a judge, and the authors' rule; no name stands for two numbers."""
    benchmark = BENCHMARKS[name]
    every = {*benchmark.rules, *benchmark.judge_rules}
    assert len(every) == len(benchmark.rules) + len(benchmark.judge_rules)
    assert benchmark.headline in every and benchmark.official in every
    assert {headline(benchmark, judged=True), headline(benchmark, judged=False)} <= every
    assert headline(benchmark, judged=False) in benchmark.rules
    assert not {"avg", *SHARES, *JUDGE_SHARES, *every} & set(benchmark.groups)


def test_failed_items_stay_in_the_denominator(data: Path) -> None:
    """An error, a missing prediction and unfinished thinking count 0 of all attempted; "_scored" leaves two out."""
    all_right = {s.id: prediction(s.id, RIGHT[s.task]) for s in samples(data)}
    all_right["doc_multi_hop-0"] = prediction("doc_multi_hop-0", "", "error", "endpoint silent")
    all_right["corpus_numerical-1"] = prediction("corpus_numerical-1", "<think>\nTherefore, the answer is 42", "length")
    del all_right["multiple_choice-1"]
    table = scored(data, list(all_right.values()))
    values = {name: metric["value"] for name, metric in table["metrics"].items()}
    assert (table["n_attempted"], table["n_scored"]) == (10, 8)
    assert values["doc_multi_hop"] == values["multiple_choice"] == values["corpus_numerical"] == 0.5
    assert values["doc_multi_hop_scored"] == values["multiple_choice_scored"] == 1.0
    assert values["corpus_numerical_scored"] == 0.5
    assert values["avg"] == pytest.approx(0.7) and values["avg_scored"] == pytest.approx(0.9)
    assert values["unfinished"] == values["truncated"] == pytest.approx(0.1) and values["error"] == pytest.approx(0.2)
    errors = {row["id"]: row["error"] for row in table["items"] if row["error"]}
    assert errors == {"doc_multi_hop-0": "endpoint silent", "multiple_choice-1": "no prediction"}


def test_samples_of_an_item_are_averaged_before_items(data: Path) -> None:
    """Three responses to an item weigh as much as those to another; what other items have and one lacks is wrong."""
    rows = [
        prediction(f"{s.id}@{n}", RIGHT[s.task] if s.id == "doc_multi_hop-0" and n else "no")
        for s in samples(data)
        for n in range(3)
        if (s.id, n) != ("doc_multi_hop-0", 2)
    ]
    table = scored(data, rows)
    assert table["metrics"]["doc_multi_hop"]["value"] == pytest.approx(1 / 3 / 2)
    assert table["metrics"]["doc_multi_hop_scored"]["value"] == pytest.approx(1 / 2 / 2)
    assert table["metrics"]["doc_multi_hop"]["n"] == 2 and table["n_attempted"] == 30 and table["n_scored"] == 29
    assert [row["id"] for row in table["items"] if row["error"] == "no prediction"] == ["doc_multi_hop-0@2"]
    # One of three is right: a draw of two holds it twice out of three times.
    chances = {name: m["value"] for name, m in table["metrics"].items() if name.startswith("pass@")}
    tasks = 1 / 2 / len(TASKS)
    assert chances == {"pass@1": pytest.approx(tasks / 3), "pass@2": pytest.approx(tasks * 2 / 3), "pass@3": tasks}
    assert chances["pass@1"] == pytest.approx(table["metrics"]["avg"]["value"])


@pytest.mark.parametrize(
    ("names", "message"), [(["nobody-0"], "is of no item"), (["doc_multi_hop-0"] * 2, "stands twice")]
)
def test_predictions_of_other_data_are_refused(data: Path, names: list[str], message: str) -> None:
    """A mix-up of files is an error, not a score of 0."""
    with pytest.raises(DataError, match=message):
        scored(data, [prediction(name, "x") for name in names])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=30))
def test_intervals_hold_the_mean_and_repeat(values: list[float]) -> None:
    """Same seed, same interval; the interval lies within the range of the values."""
    first = metrics.mean(values, 3, "x")
    assert first == metrics.mean(values, 3, "x")
    low, high = first["ci95"]
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert first["value"] == pytest.approx(float(np.mean(values)))


def test_the_interval_has_the_width_of_the_normal_theory() -> None:
    """400 coin flips: half-width about 1.96 * 0.5 / 20."""
    values = [0.0, 1.0] * 200
    low, high = metrics.mean(values, 1, "flips")["ci95"]
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / 20, rel=0.1)
    assert metrics.mean([], 1, "none") == {"value": None, "ci95": None, "n": 0}
    assert metrics.mean([1.0], 1, "one")["ci95"] is None
    # Tasks weigh the same, whatever their size.
    assert metrics.average({"a": [1.0] * 9, "b": [0.0], "c": []}, 1)["value"] == 0.5


def test_comparison_is_paired(data: Path) -> None:
    """A gain on the same items is seen sharply; other data are refused."""
    wrong = scored(data, [prediction(s.id, "no") for s in samples(data)])
    right = scored(data, [prediction(s.id, RIGHT[s.task]) for s in samples(data)])
    found = compare(wrong, right, 17)
    assert found["difference"]["avg"] == {"value": 1.0, "ci95": [1.0, 1.0], "n": 10}
    assert found["share_of_resamples_above_zero"] == 1.0
    assert compare(right, wrong, 17)["difference"]["multiple_choice"]["value"] == -1.0
    with pytest.raises(DataError, match="compare the same benchmark"):
        compare(wrong, right | {"benchmark": "other"}, 17)


def test_score_and_compare_and_tables_as_verbs(data: Path, tmp_path: Path) -> None:
    """Stored predictions become scores.json without a model, byte for byte the same; tables list both models."""
    for model, reply in (("base", "no"), ("rl_1", None)):
        folder = tmp_path / "evaluation" / model / "heldout"
        write_jsonl(folder / "predictions.jsonl", [prediction(s.id, reply or RIGHT[s.task]) for s in samples(data)])
        line = ["score", "heldout", "--examples", str(data / "heldout.parquet")]
        line += ["--predictions", str(folder / "predictions.jsonl"), "--out", str(folder / "scores.json")]
        assert RUN.invoke(app, line).exit_code == 0
        before = (folder / "scores.json").read_bytes()
        assert RUN.invoke(app, line).exit_code == 0 and (folder / "scores.json").read_bytes() == before
    a, b = (str(tmp_path / "evaluation" / model / "heldout") for model in ("base", "rl_1"))
    done = RUN.invoke(app, ["compare", a, b])
    assert done.exit_code == 0 and "+100.0" in done.stdout
    table = RUN.invoke(app, ["tables", "--results", str(tmp_path)]).stdout
    assert "| base | 0.0 [0.0, 0.0] |" in table and "| rl_1 | 100.0" in table and "| 10 / 10 |" in table
    assert {"heldout", "heldout_long"} <= set(json.loads(RUN.invoke(app, ["list", "--json"]).stdout))


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (["score", "nope", "--examples", "x", "--predictions", "y", "--out", "z"], 2, "no benchmark 'nope'"),
        (["score", "heldout", "--examples", "x", "--predictions", "y", "--out", "z"], 1, "x does not exist"),
        (["tables", "--results", "absent"], 2, "absent is no folder"),
        (["compare", "a.json", "b.json"], 1, "a.json does not exist"),
    ],
)
def test_wrong_usage_is_named(line: list[str], code: int, message: str) -> None:
    """The message names the file or option."""
    done = RUN.invoke(app, line)
    assert done.exit_code == code and message in done.output
