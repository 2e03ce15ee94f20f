"""Selection by a served model: rewards are kept reply by reply, and only what is missing is asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from qwenlong.core.config import EndpointConfig
from qwenlong.core.config.services import instance
from qwenlong.core.errors import QwenlongError
from qwenlong.core.files import read_json, read_parquet, write_parquet
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.inference.sampling import Sampling
from qwenlong.training.commands import app
from qwenlong.training.difficulty import pass_at_k
from qwenlong.training.served import Served
from scripted import together

NANO = Path(__file__).parents[3] / "models" / "nano"
HOME = Document(id="home", source="s", category="general", title="h", text="Text of home. ", n_tokens=9, licence="MIT")
SAMPLES = [
    Sample(
        id=f"s{n}", task="reading_comprehension", question_type="q", question=f"Question {n}?", instruction="Answer.",
        documents=("home",), answers=(f"fact{n}",), category="general", source="s", generator="g", template="t@1",
        n_tokens=20,
    )
    for n in range(4)
]  # fmt: skip


def said(body: dict[str, Any]) -> str:
    """Questions 0 and 1 are answered, 0 by every seed and 1 by the even ones."""
    text = body["messages"][0]["content"]
    right = "Question 0?" in text or ("Question 1?" in text and body["seed"] % 2 == 0)
    number = next(n for n in range(4) if f"Question {n}?" in text)
    return f"Therefore, the answer is {'fact' if right else 'no'}{number}."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(NANO)


def scored(url: str, tokenizer: Tokenizer, journal: Path, model: str = "digest", **limits: Any) -> list[float]:
    settings = EndpointConfig(base_url=url, model="m", retries=0, concurrency=4)
    sampling = Sampling(limits.pop("max_new_tokens", 32), 0.7, 0.95)
    made = pass_at_k(
        SAMPLES, {"home": HOME}, Served(settings, tokenizer, journal, model), tokenizer, sampling,
        k=3, max_input_tokens=limits.pop("max_input_tokens", 1000), seed=5, model="m",
    )  # fmt: skip
    return [one.difficulty.pass_at_k for one in made if one.difficulty is not None]


def test_rewards_are_kept_reply_by_reply(endpoint: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    endpoint.answer = together(said, 4)
    even = sum(derive(5, "rollout", "s1", i) % 2**31 % 2 == 0 for i in range(3)) / 3
    assert scored(endpoint.url, tokenizer, tmp_path / "j") == [1.0, even, 0.0, 0.0]
    assert len(endpoint.requests) == 12 and endpoint.most == 4
    assert {body["max_tokens"] for body in endpoint.requests} == {32}
    # Nothing is asked twice, what depends on other things anew: limits, the model's files.
    assert scored(endpoint.url, tokenizer, tmp_path / "j") == [1.0, even, 0.0, 0.0] and len(endpoint.requests) == 12
    scored(endpoint.url, tokenizer, tmp_path / "j", max_new_tokens=31)
    assert len(endpoint.requests) == 24
    scored(endpoint.url, tokenizer, tmp_path / "j", model="another")
    assert len(endpoint.requests) == 36
    assert len((tmp_path / "j").read_text().splitlines()) == 36


def test_what_got_no_response_is_asked_alone_by_the_next_call(
    endpoint: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    endpoint.answer = lambda body: {"status": 500} if "Question 2?" in str(body) else said(body)
    with pytest.raises(QwenlongError, match=r"difficulty: 3 of 12 responses are missing.*s2, response"):
        scored(endpoint.url, tokenizer, tmp_path / "j")
    endpoint.answer = said
    before = len(endpoint.requests)
    assert scored(endpoint.url, tokenizer, tmp_path / "j")[2] == 0.0
    assert [("Question 2?" in str(body)) for body in endpoint.requests[before:]] == [True] * 3


@pytest.mark.parametrize("status", [401, 503])
def test_an_endpoint_that_answers_nobody_is_left(
    endpoint: Any, tokenizer: Tokenizer, tmp_path: Path, status: int
) -> None:
    endpoint.answer = lambda body: {"status": status}
    with pytest.raises(QwenlongError, match=f"12 of 12 responses are missing.*{status}"):
        scored(endpoint.url, tokenizer, tmp_path / "j")
    # A wrong key ends it at once; else patience is twice the responses under way.
    assert len(endpoint.requests) <= (4 if status == 401 else 8 + 4)


def test_the_commands_ask_the_service_of_the_configuration(endpoint: Any, tmp_path: Path) -> None:
    """`train verify` and `train difficulty`, with the service's files as `qwenlong serve` writes them."""
    endpoint.answer = said
    values = {
        "run": {"results": str(tmp_path / "results"), "seed": 5},
        "tracking": {"enabled": False},
        "base": {"kind": "nano", "window": 2048},
        "services": {"answers": {"model": str(NANO), "name": "served", "command": ["serve", "{port}"]}},
        "selection": {"server": "answers", "k": 3},
    }
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    write_parquet(tmp_path / "samples.parquet", SAMPLES, Sample)
    write_parquet(tmp_path / "documents.parquet", [HOME], Document)
    place = tmp_path / "results/state/services" / instance("answers", str(NANO))
    words = ["--config", str(config), "--samples", str(tmp_path / "samples.parquet")]
    words += ["--documents", str(tmp_path / "documents.parquet"), "--model", str(NANO)]
    done = CliRunner().invoke(app, ["difficulty", *words, "--out", str(tmp_path / "difficulty")])
    assert isinstance(done.exception, QwenlongError) and "does not run" in str(done.exception)
    place.mkdir(parents=True)
    (place / "key").write_text("secret", encoding="utf-8")
    (place / "key").chmod(0o600)
    there = {"base_url": endpoint.url, "key_file": str(place / "key")}
    (place / "service.json").write_text(json.dumps(there), encoding="utf-8")
    for name in ("difficulty", "verify"):
        done = CliRunner().invoke(app, [name, *words, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.exception
    kept = read_parquet(tmp_path / "difficulty/samples.parquet", Sample)
    assert [one.difficulty.pass_at_k for one in kept if one.difficulty][::3] == [1.0, 0.0]
    assert {body["model"] for body in endpoint.requests} == {"served"}
    assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer secret"}
    # Questions 0 and 1 are answered without documents, too.
    assert read_json(tmp_path / "verify/verification.json")["dropped"] == {"answered_blind": 2}
    assert "secret" not in (tmp_path / "results/state/selection/difficulty.jsonl").read_text()


def test_a_service_that_is_not_there_is_refused(tmp_path: Path) -> None:
    from qwenlong.core.config_files import load
    from qwenlong.core.errors import ConfigError

    file = tmp_path / "c.yaml"
    file.write_text("selection: {server: nowhere}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"selection\.server = 'nowhere' is no service"):
        load(file)
