"""Intervals, baselines and comparisons of the nano policy's measurement."""

from __future__ import annotations

import pytest

from qwenlong.core.records import Document, Sample
from qwenlong.nano import measure


def test_wilson_matches_published_values_and_stays_within_bounds() -> None:
    # Newcombe (1998), Table I: 81 of 263 and 15 of 148, 0 of 20, 1 of 29; 95% score intervals.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = measure.wilson(hits, n)
        assert found == pytest.approx((low, high), abs=2e-4)
    assert measure.wilson(0, 0) == (0.0, 1.0)


def test_what_is_compared() -> None:
    assert measure.essence("copy", "<think>\n\n</think>\n\nTherefore, the answer is a  b\n") == "a b"
    assert measure.essence("memory_update_rewrite", "<memory>x\ny</memory>\n<plan>p</plan>") == "x y"
    assert measure.essence("memory_update_first", "Therefore, the answer is x") is None
    assert measure.essence("copy", "no form") is None


def test_length_buckets() -> None:
    assert [measure.bucket(n) for n in (1, 320, 321, 640, 641)] == [
        "up to 320", "up to 320", "up to 448", "up to 640", "above 640",
    ]  # fmt: skip


def _sample(number: int, answer: str, task: str = "reading_comprehension") -> Sample:
    choices = ("w", "x", "y", "z") if task == "multiple_choice" else ()
    return Sample(
        id=f"{task}{number}", task=task, question_type="t", question="q?", instruction="", documents=("d",),
        answers=(answer,), choices=choices, category="general", source="s", generator="g", template="t@1", n_tokens=0,
    )  # fmt: skip


def test_the_best_trivial_guess_counts() -> None:
    text = "Lima has 44 towns, 44 roads and 7 lakes. Quito is far from Old Town"
    corpus = {"d": Document(id="d", source="s", category="general", title="t", text=text, n_tokens=0, licence="MIT")}
    names = [_sample(0, "Old Town"), _sample(1, "Old Town"), _sample(2, "Lima"), _sample(3, "Quito")]
    letters = [_sample(n, letter, "multiple_choice") for n, letter in enumerate("AABB")]
    numbers = [_sample(n, "44", "corpus_numerical") for n in range(3)] + [_sample(9, "7", "corpus_numerical")]
    best = measure.trivial(names + letters + numbers, corpus)
    assert best == {"reading_comprehension": 0.5, "multiple_choice": 0.5, "corpus_numerical": 0.75}


def test_a_table_counts_by_kind_and_length() -> None:
    tally = measure.Tally()
    for right, length in ((1.0, 100), (0.0, 400), (1.0, 400)):
        tally.add("copy", length, right, True)
    tally.add("copy", 700, 0.0, False)
    rows = {row["length"]: row for row in tally.table({"copy": 0.25})}
    assert rows["all"]["n"] == 4 and rows["all"]["accuracy"] == 0.5 and rows["all"]["well_formed"] == 0.75
    assert rows["up to 448"]["n"] == 2 and rows["above 640"]["accuracy"] == 0 and rows["all"]["baseline"] == 0.25
