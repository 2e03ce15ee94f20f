"""Stored predictions that are not as they should be: one clear message each, with file and line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from capitals import CAPITALS, Capital, Record

from qwenlong.core.errors import DataError
from qwenlong.core.files import write_jsonl
from qwenlong.core.records import Prediction
from qwenlong.evaluation import predictions, registry, scoring
from qwenlong.evaluation.commands import app
from qwenlong.evaluation.judging import Judgements

RUN = CliRunner()
GOOD = {"id": "a", "response": "Paris", "finish_reason": "stop", "n_prompt_tokens": 1, "n_response_tokens": 1}
GOOD |= {"model": "m"}


def line(**changes: Any) -> bytes:
    """A line of the file."""
    return json.dumps(GOOD | changes).encode() + b"\n"


def items(*ids: str) -> list[Capital]:
    """Questions after the capital of France."""
    return [Capital(Record(id=name, country="France", capital="Paris")) for name in ids]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds no prediction"),
        (b"\n \n", "holds no prediction"),
        (line() + b'{"id": "b", "resp\xff": 1}\n', "line 2 is not UTF-8 (byte 18 of the line)"),
        (line() + line(id="b")[:-9] + b"\n", "line 2: the line: Invalid JSON"),
        (line() + b"\n" + line(id="b", response=7), "line 3: response: Input should be a valid string"),
        (b'{"question": "?", "answer": "x"}\n', "line 1: id: Field required; a prediction has id, response,"),
        (b"[1, 2]\n", "line 1: the line: Input should be an object"),
        (line() + line(id="b") + line(), "line 3: prediction 'a' stands twice"),
        (line() + line(id="a@0"), "line 2: prediction 'a@0' stands twice"),
        (line() + line(id="nobody"), "line 2: prediction 'nobody' is of no item of the examples"),
        (line(id="a@-1"), "line 1: prediction 'a@-1' is of no item"),
        (line(id="a@" + "9" * 5000), "line 1: prediction 'a@999"),
        (line(id="a@²"), "is of no item"),
    ],
)
def test_a_bad_file_is_named(data: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, one line, no scores."""
    monkeypatch.setitem(registry.BENCHMARKS, "capitals", CAPITALS)
    write_jsonl(tmp_path / "examples.jsonl", [{"id": name, "country": "France", "capital": "Paris"} for name in "ab"])
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(data)
    command = ["score", "capitals", "--examples", str(tmp_path / "examples.jsonl"), "--predictions", str(file)]
    done = RUN.invoke(app, [*command, "--out", str(tmp_path / "scores.json"), "--no-judge"])
    assert done.exit_code == 1 and words in done.output and str(file) in done.output
    assert done.output.count("\n") == 1 and len(done.output) < 600
    assert not (tmp_path / "scores.json").exists()


def test_missing_responses_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, by id; they count as attempted."""
    monkeypatch.setitem(registry.BENCHMARKS, "capitals", CAPITALS)
    rows = [{"id": str(n), "country": "France", "capital": "Paris"} for n in range(9)]
    write_jsonl(tmp_path / "examples.jsonl", rows)
    (tmp_path / "predictions.jsonl").write_bytes(b"\xef\xbb\xbf" + line(id="3@0") + line(id="3@1") + line(id="4@1"))
    command = ["score", "capitals", "--examples", str(tmp_path / "examples.jsonl")]
    command += ["--predictions", str(tmp_path / "predictions.jsonl"), "--out", str(tmp_path / "scores.json")]
    done = RUN.invoke(app, [*command, "--no-judge", "--json"])
    assert done.exit_code == 0
    assert "15 of 18 responses are missing and count as wrong: 0@0, 0@1, 1@0, 1@1, 2@0, …" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["n_attempted"], summary["n_scored"], summary["samples"]) == (18, 3, 2)
    assert summary["metrics"]["avg"]["value"] == pytest.approx(1.5 / 9)
    assert summary["metrics"]["avg_scored"] == {"value": 1.0, "ci95": [1.0, 1.0], "n": 2}
    assert summary["groups"] == {"Europe": 9}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c@1", "c"]), st.integers(0, 4)), unique=True, min_size=1))
def test_every_item_has_as_many_responses(given_: list[tuple[str, int]]) -> None:
    """What is there is kept under its number, what is missing has an id that nobody has."""
    stored = [Prediction.model_validate(GOOD | {"id": f"{name}@{number}"}) for name, number in given_]
    # "c@1" is an item of its own, and so no response of "c".
    taken = {p.id for p in stored} & {"c@1"}
    stored = [p for p in stored if p.id not in taken] or [Prediction.model_validate(GOOD)]
    answered = predictions.match(items("a", "b", "c@1", "c"), stored)
    sizes = {len(one.responses) for one in answered}
    assert len(sizes) == 1
    ids = [name for one in answered for name, _, _ in one.responses]
    assert len(set(ids)) == len(ids)
    found = {name: p for one in answered for name, _, p in one.responses if p is not None}
    assert found == {p.id: p for p in stored}
    for one in answered:
        numbers = [number for _, number, _ in one.responses]
        assert len(set(numbers)) == len(numbers)


def test_an_item_may_look_like_a_response() -> None:
    """An id of the examples goes before a number of a response."""
    (first, second) = predictions.match(items("a", "a@1"), [Prediction.model_validate(GOOD | {"id": "a@1"})])
    assert first.responses[0][2] is None and second.responses[0][2] is not None


def test_a_response_of_ten_megabytes_is_scored(tmp_path: Path) -> None:
    """Read and scored within seconds, whatever it repeats."""
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(
        line(response="It lies on the Seine. " * 450_000 + "So the answer is Paris")
        + line(id="b", response="[[" * 5_000_000)
    )
    start = time.process_time()
    stored = predictions.read(file)
    scores = scoring.scores(CAPITALS, predictions.match(items("a", "b"), stored.predictions, stored), 17)
    assert time.process_time() - start < 20
    assert scores["metrics"]["avg"]["value"] == 0.5


def test_twelve_thousand_items_take_seconds(tmp_path: Path) -> None:
    """Reading, matching, rules, all metrics with their intervals."""
    names = [f"q{n}" for n in range(12_000)]
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(
        b"".join(line(id=name, response=f"{'Rome' if n % 3 else 'Paris'}") for n, name in enumerate(names))
    )
    start = time.process_time()
    stored = predictions.read(file)
    scores = scoring.scores(CAPITALS, predictions.match(items(*names), stored.predictions, stored), 17)
    assert time.process_time() - start < 15
    assert scores["metrics"]["avg"]["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("group", "size"), [("x", "x"), ("paper", "y"), ("y", "avg"), ("error", "y")])
def test_one_name_for_two_metrics_is_refused(group: str, size: str) -> None:
    """A slice cannot take the name of a group with other items, nor either that of a rule or a share."""
    rows = [Record(id=str(n), country="F", capital="P", continent=group, size="z" if n else size) for n in range(2)]
    items = [Capital(row) for row in rows]
    with pytest.raises(DataError, match="is the name of a group or slice"):
        scoring.scores(CAPITALS, predictions.match(items, []), 17, Judgements("j", {}))


def test_unknown_files_are_named(tmp_path: Path) -> None:
    """A folder, or nothing at all."""
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="cannot be read"):
            predictions.read(path)
