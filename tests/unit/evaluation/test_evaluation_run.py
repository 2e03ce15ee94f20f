"""Running benchmarks on a random model in this process and on a real endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_helpers import endpoint
from typer.testing import CliRunner

from qwenlong.core.files import read_jsonl
from qwenlong.core.records import Prediction
from qwenlong.evaluation.commands import app

RUN = CliRunner()


def configuration(tmp_path: Path, **evaluation: Any) -> Path:
    """A configuration with its results under tmp_path, tracking off."""
    values = {
        "run": {"results": str(tmp_path / "results")},
        "tracking": {"enabled": False},
        "evaluation": {"max_input_tokens": 300, "max_output_tokens": 12} | evaluation,
        "agent": {"chunk_tokens": 200, "memory_tokens": 24, "answer_tokens": 12},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def line(benchmark: str, data: Path, model: str, config: Path, out: Path, *more: str) -> list[str]:
    """The command line of a run."""
    files = ["--data", str(data / "heldout.parquet"), "--documents", str(data / "documents.parquet")]
    return ["run", benchmark, *files, "--model", model, "--config", str(config), "--out", str(out), *more]


@pytest.mark.parametrize("benchmark", ["heldout", "heldout_long"])
def test_a_local_model_gives_the_same_bytes_twice(benchmark: str, data: Path, model: Path, tmp_path: Path) -> None:
    """Predictions and scores of one command; batches of another size change nothing."""
    config = configuration(tmp_path)
    for out, more in (("a", []), ("b", ["--concurrency", "3"])):
        done = RUN.invoke(app, line(benchmark, data, str(model), config, tmp_path / out, *more))
        assert done.exit_code == 0, done.output
    for name in ("predictions.jsonl", "scores.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / f"{name}.provenance.json").exists()
    predictions = read_jsonl(tmp_path / "a" / "predictions.jsonl", Prediction)
    assert len(predictions) == 10 and all(row.error is None for row in predictions)
    assert len({row.response for row in predictions}) > 5
    details = json.loads((tmp_path / "a" / "run.json").read_text())
    agent = benchmark == "heldout_long"
    assert details["calls"] > 10 if agent else details["calls"] == 10
    assert sum(details["updates"].values()) == (details["calls"] - 10 if agent else 0)
    if not agent:
        # The documents exceed 300 tokens: their middle was cut, the prompt still fits.
        assert all(200 < row.n_prompt_tokens <= 300 and row.n_response_tokens <= 12 for row in predictions)
    # What was kept for resuming is gone once everything is written.
    assert not list((tmp_path / "results" / "state").rglob("*.jsonl"))


def test_a_window_too_small_is_refused(data: Path, model: Path, tmp_path: Path) -> None:
    """The message names both keys and the window; nothing is written."""
    config = configuration(tmp_path, max_input_tokens=1020)
    done = RUN.invoke(app, line("heldout", data, str(model), config, tmp_path / "out"))
    assert done.exit_code == 2
    assert "max_input_tokens = 1020" in done.output and "window of 1024" in done.output
    assert not (tmp_path / "out").exists()


def reply(request: dict[str, Any]) -> tuple[int, str]:
    """Right on two tasks; the seed goes into the text, so that equal seeds show."""
    prompt = request["messages"][0]["content"]
    answer = "42" if "corpus_numerical" in prompt else "Paris"
    return 200, f"<think>\n{request['seed']}\n</think>\n\nTherefore, the answer is {answer}"


def test_an_endpoint_resumes_at_the_item(data: Path, model: Path, tmp_path: Path) -> None:
    """A server that refuses two items: errors are counted; run again, only those two are asked, with the same seeds."""
    config = configuration(tmp_path, samples=2)
    healthy = False

    def flaky(request: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
        if not healthy and "Question 1 of doc_multi_hop" in request["messages"][0]["content"]:
            return 400, {"error": "no"}
        return reply(request)

    with endpoint(flaky) as (url, requests):
        more = ["--base-url", url, "--tokenizer", str(model), "--json"]
        first = RUN.invoke(app, line("heldout", data, "served", config, tmp_path / "out", *more))
        assert first.exit_code == 1 and "2 of 20 responses failed: doc_multi_hop-1@0, doc_multi_hop-1@1" in first.output
        summary = json.loads(first.stdout.splitlines()[0])
        assert (summary["n_attempted"], summary["n_scored"], len(requests)) == (20, 18, 20)
        assert summary["metrics"]["doc_multi_hop"]["value"] == 0.5
        assert summary["metrics"]["corpus_numerical"]["value"] == 1.0
        healthy = True
        second = RUN.invoke(app, line("heldout", data, "served", config, tmp_path / "out", *more))
        assert len(requests) == 22 and json.loads(second.stdout)["n_scored"] == 20
        assert json.loads((tmp_path / "out" / "run.json").read_text())["replayed_turns"] == 18
        # Nothing kept: a third run asks everything again and writes the same bytes.
        before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
        RUN.invoke(app, line("heldout", data, "served", config, tmp_path / "out", *more))
        assert len(requests) == 42 and (tmp_path / "out" / "predictions.jsonl").read_bytes() == before
    assert len({request["seed"] for request in requests}) == 20
    ids = [row.id for row in read_jsonl(tmp_path / "out" / "predictions.jsonl", Prediction)]
    assert ids[:2] == ["corpus_numerical-0@0", "corpus_numerical-0@1"]


def test_a_dead_endpoint_writes_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    """When no item could be asked there is no scores.json full of zeros."""
    with endpoint(lambda request: (400, {"error": "unknown model"})) as (url, _):
        more = ["--base-url", url, "--tokenizer", str(model), "--agent"]
        done = RUN.invoke(app, line("heldout", data, "served", configuration(tmp_path), tmp_path / "out", *more))
    assert done.exit_code == 1 and "no item could be asked" in done.output and "unknown model" in done.output
    assert not (tmp_path / "out" / "scores.json").exists()


def test_asking_and_scoring_apart_give_what_one_command_gives(data: Path, model: Path, tmp_path: Path) -> None:
    """`--no-score` leaves no scores, not even those of earlier predictions; `score` makes the same bytes."""
    config = configuration(tmp_path)
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    assert RUN.invoke(app, line("heldout", data, str(model), config, whole)).exit_code == 0
    apart.mkdir()
    for name in ("scores.json", "scores.json.provenance.json"):
        (apart / name).write_text("{}")
    done = RUN.invoke(app, line("heldout", data, str(model), config, apart, "--no-score", "--json"))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"benchmark": "heldout", "n_attempted": 10, "n_scored": 10}
    assert not list(apart.glob("scores.json*"))
    words = ["--examples", str(data / "heldout.parquet"), "--predictions", str(apart / "predictions.jsonl")]
    words += ["--config", str(config), "--out", str(apart / "scores.json")]
    assert RUN.invoke(app, ["score", "heldout", *words]).exit_code == 0
    for name in ("predictions.jsonl", "scores.json"):
        assert (apart / name).read_bytes() == (whole / name).read_bytes()
