"""Two models on the same items: differences, the exact test, what cannot be compared; and the statistics behind it."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from capitals import CAPITALS, Capital, Record

from qwenlong.core.errors import DataError
from qwenlong.core.files import write_json
from qwenlong.core.records import Prediction
from qwenlong.evaluation import judging, metrics, predictions, scoring
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.compare import compare

BITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def made(right: list[bool], judged: bool = False, failed: tuple[int, ...] = (), samples: int = 1) -> dict[str, Any]:
    """Scores of a model that answers so; of those failed the judge said nothing."""
    items = [
        Capital(Record(id=str(n), country="F", capital="Paris", continent="AB"[n % 2], size="xyz"[n % 3]))
        for n in range(len(right))
    ]
    said = [
        Prediction(
            id=predictions.prediction_id(item.id, k, samples),
            response="Paris" if good else "Rome",
            finish_reason="stop",
            n_prompt_tokens=1,
            n_response_tokens=1,
            model="m",
        )
        for item, good in zip(items, right, strict=True)
        for k in range(samples)
    ]
    answered = predictions.match(items, said)
    if not judged:
        return scoring.scores(CAPITALS, answered, 17)
    found = {}
    for question in judging.questions(answered):
        lost = int(question.id) in failed
        found[question.id, question.name] = judging.Judgement(
            id=question.id, ask=question.name, criterion="equivalence", template="t", model="j", prompt="p", text="",
            verdict=None if lost else False, error="unavailable" if lost else None,
        )  # fmt: skip
    return scoring.scores(CAPITALS, answered, 17, judging.Judgements("j", found))


@settings(max_examples=60)
@given(BITS)
def test_the_exact_test_is_the_binomial_one(pairs: list[tuple[bool, bool]]) -> None:
    """As scipy's two-sided binomial test of the items that one of both has right."""
    found = metrics.mcnemar([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    assert found is not None
    one, other = found["only_first"], found["only_second"]
    assert one == sum(a and not b for a, b in pairs) and other == sum(b and not a for a, b in pairs)
    expected = stats.binomtest(one, one + other).pvalue if one + other else 1.0
    assert found["p"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("one", "other"), [(0, 12_000), (5_900, 6_100), (3, 700)])
def test_the_exact_test_of_many_items(one: int, other: int) -> None:
    """Whole numbers of thousands of digits lose none, and a probability below the smallest float is 0."""
    found = metrics.mcnemar([1.0] * one + [0.0] * other, [0.0] * one + [1.0] * other)
    assert found is not None
    assert found["p"] == pytest.approx(stats.binomtest(one, one + other).pvalue, rel=1e-6)
    assert metrics.mcnemar([0.5], [1.0]) is None


@settings(max_examples=40)
@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets(case: tuple[int, int, int]) -> None:
    """Every choice of k responses counted."""
    n, right, k = case
    chosen = list(itertools.combinations(range(n), k))
    assert metrics.pass_at(n, right, k) == pytest.approx(sum(min(c) < right for c in chosen) / len(chosen))


def test_the_k_of_pass_at_k() -> None:
    """Powers of two below n, and n."""
    assert [metrics.powers(n) for n in (1, 2, 3, 4, 32)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 8, 16, 32]]


@pytest.mark.parametrize("values", [[0.0, 1.0, 1.0], [0.1 * place for place in range(77)], [1 / 3, 0.7] * 20])
def test_resamples_are_the_same_bits_everywhere(values: list[float]) -> None:
    """Written out in whole numbers and sums from left to right, so that no release of numpy and no processor counts."""
    source = np.random.PCG64(3)
    totals = [0.0] * metrics.RESAMPLES
    for _ in values:
        for pair in range(metrics.RESAMPLES // 2):
            raw = int(source.random_raw())
            for place, half in enumerate((raw % 2**32, raw // 2**32)):
                totals[2 * pair + place] += values[half * len(values) // 2**32]
    assert metrics.resampled_means(values, 3).tolist() == [total / len(values) for total in totals]


@pytest.mark.parametrize("values", [[0.0] * 30 + [0.5] * 20 + [1.0] * 50, list(np.linspace(0, 1, 200))])
def test_resamples_draw_every_item_alike(values: list[float]) -> None:
    """The distribution is that of drawing items one by one with numpy's own generator."""
    drawn = metrics.resampled_means(values, 3)
    array, generator = np.asarray(values), np.random.default_rng(5)
    expected = array[generator.integers(0, len(array), (20_000, len(array)))].mean(axis=1)
    assert stats.ks_2samp(drawn, expected).pvalue > 0.001
    assert drawn.std() == pytest.approx(array.std() / np.sqrt(len(array)), rel=0.1)


@settings(max_examples=30)
@given(BITS)
def test_differences_are_those_of_the_averages(pairs: list[tuple[bool, bool]]) -> None:
    """B - A of every metric is the difference of what both files report, and swapping A and B turns the sign."""
    first, second = made([a for a, _ in pairs]), made([b for _, b in pairs])
    found = compare(first, second, 17)
    for name, metric in found["difference"].items():
        assert metric["value"] == pytest.approx(
            second["metrics"][name]["value"] - first["metrics"][name]["value"], abs=1e-12
        )
        if metric["ci95"] is not None:
            assert metric["ci95"][0] - 1e-9 <= metric["value"] <= metric["ci95"][1] + 1e-9 or len(pairs) < 20
    assert {"avg", "official"} <= set(found["difference"]) and found["n_common"] == len(pairs)
    back = compare(second, first, 17)
    assert back["difference"]["avg"]["value"] == pytest.approx(-found["difference"]["avg"]["value"])
    assert back["mcnemar"]["avg"]["p"] == found["mcnemar"]["avg"]["p"]
    assert found["mcnemar"]["avg"]["only_second"] == sum(b and not a for a, b in pairs)
    assert set(found["mcnemar"]) == {"avg", *first["groups"], *first["slices"]}


def test_a_paired_interval_is_narrower_than_two_apart() -> None:
    """Models that agree on hard and easy items: their difference is known better than either score."""
    a = [n % 2 == 0 for n in range(400)]
    b = [right or n % 40 == 1 for n, right in enumerate(a)]
    found = compare(made(a), made(b), 17)["difference"]["avg"]
    low, high = found["ci95"]
    assert found["value"] == pytest.approx(0.025) and 0 < low < 0.025 < high < 0.05


def test_failures_count_as_in_the_averages_and_silent_judges_are_left_out() -> None:
    """A missing response is wrong in both files' averages and here; what a judge owes an item is not known."""
    first, second = made([True] * 6, judged=True), made([True] * 4 + [False] * 2, judged=True, failed=(5,))
    found = compare(first, second, 17)
    assert (found["n_common"], found["n_left_out"]) == (6, 1)
    assert found["difference"]["avg"] == {
        "value": pytest.approx(-0.2),
        "ci95": found["difference"]["avg"]["ci95"],
        "n": 5,
    }
    short = made([True] * 4)
    short["items"][3] |= {"error": "no prediction", "values": {}}
    assert compare(made([True] * 4), short, 17)["difference"]["avg"]["value"] == -0.25


def test_items_of_one_side_are_counted() -> None:
    """Only common items are compared."""
    found = compare(made([True] * 8), made([False] * 5), 17)
    assert (found["n_common"], found["n_only_first"], found["n_only_second"]) == (5, 3, 0)
    assert found["difference"]["avg"]["n"] == 5 and found["difference"]["avg"]["value"] == -1.0


def test_several_responses_are_averaged_and_have_no_exact_test() -> None:
    """Shares of right responses are paired; right against wrong needs one response."""
    found = compare(made([True, False, True, False]), made([True] * 4, samples=4), 17)
    assert found["difference"]["avg"]["value"] == 0.5 and found["mcnemar"] == {}


def test_what_cannot_be_compared_is_refused() -> None:
    """Other benchmarks, other rules, other judges, no common item."""
    plain, judged = made([True, False]), made([True, False], judged=True)
    other = {**judged, "judge": {**judged["judge"], "model": "k"}}
    template = {**judged, "judge": {**judged["judge"], "templates": {"equivalence": "u"}}}
    away = {**plain, "groups": {"A": ["x"]}, "slices": {}, "items": [{**plain["items"][0], "id": "x"}]}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (plain, {**plain, "benchmark": "other"}, "compare the same benchmark"),
        (plain, judged, "A is scored by official, B by paper"),
        (judged, other, "the judge of A is j, that of B k"),
        (judged, template, "template 'equivalence' is another in A than in B"),
        (plain, away, "no item is scored in both"),
    ]
    for first, second, words in cases:
        with pytest.raises(DataError, match=words):
            compare(first, second, 17)


def test_files_from_before_rules_and_slices_compare(tmp_path: Path) -> None:
    """Groups are the names of their values."""
    old = [{key: made(right)[key] for key in ("benchmark", "metrics", "items")} for right in ([True] * 4, [False] * 4)]
    for one in old:
        for row in one["items"]:
            row["values"].pop("official")
    found = compare(old[0], old[1], 17)
    assert set(found["difference"]) == {"A", "B", "avg"} and found["difference"]["avg"]["value"] == -1.0


def test_the_command_prints_both_ways(tmp_path: Path) -> None:
    """Points, intervals and the test on a line each; --json holds the same."""
    write_json(tmp_path / "a.json", made([n % 2 == 0 for n in range(40)]))
    write_json(tmp_path / "b.json", made([True] * 40))
    run = CliRunner()
    done = run.invoke(app, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert done.exit_code == 0 and "+50.0" in done.stdout and "only A 0, only B 20, McNemar p = 1.91e-06" in done.stdout
    assert "40 items in both, 0 only in A, 0 only in B" in done.stdout
    found = json.loads(
        run.invoke(app, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json"]).stdout
    )
    assert found["mcnemar"]["avg"] == {"only_first": 0, "only_second": 20, "p": pytest.approx(2 / 2**20)}


@pytest.mark.parametrize("rows", [7, [7], [{"id": "x"}], [{"id": "x", "values": {}, "error": None, "judge": None}]])
def test_a_file_of_another_kind_is_named(rows: Any, tmp_path: Path) -> None:
    """Exit code 1 and one line, whatever the items are."""
    write_json(tmp_path / "a.json", made([True, False]))
    write_json(tmp_path / "b.json", {"benchmark": "capitals", "headline": "official", "metrics": {}, "items": rows})
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert done.exit_code == 1 and done.output.startswith("error: ") and done.output.count("\n") == 1
