"""Warm-up of a model that is taken: it learns to answer, stops at its accuracy, and goes on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenlong.core.config import Config
from qwenlong.core.errors import DataError
from qwenlong.core.files import digest_path, read_json
from qwenlong.core.records import Document, Evidence, Sample
from qwenlong.core.templates import ANSWER_INSTRUCTION
from qwenlong.training import base, base_warmup
from qwenlong.training import tokenizer as tokenizers

PLAN = {
    "steps": 120, "batch_tokens": 1024, "learning_rate": 3e-3, "rise": 4, "measure_every": 20, "measure_samples": 6,
    "stop_above": 0.5,
}  # fmt: skip


def config(results: Path, model: Path, **plan: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"results": str(results)},
            "tracking": {"enabled": False},
            "base": {"kind": "hf", "path": str(model), "window": 384, "warmup": PLAN | plan},
            "stages": {"memory_rl": {"max_input_tokens": 300, "memory": {"chunk_tokens": 48, "memory_tokens": 64,
                "answer_tokens": 48, "max_document_tokens": 300}}},
            "selection": {"max_new_tokens": 48},
        }
    )  # fmt: skip


def data() -> tuple[list[Sample], dict[str, Document]]:
    names = [f"{a}{b}" for a in ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn") for b in ("ho", "ri", "tu", "wen")]
    documents, samples = {}, []
    for n, name in enumerate(names):
        code = (37 * n + 11) % 90 + 10
        documents[f"d{n}"] = Document(
            id=f"d{n}", source="s", category="general", title=name, text=f"Code: {code}\nRoom: {n}", n_tokens=0,
            licence="MIT",
        )  # fmt: skip
        samples.append(
            Sample(
                id=f"s{n:02d}", task="reading_comprehension", question_type="fact",
                question=f"What is the code of {name}?", instruction=ANSWER_INSTRUCTION,
                documents=(f"d{n}",), evidence=(Evidence(document=f"d{n}", start=0, end=8),),
                answers=(str(code),), reasoning_chain=(f"{name}: Code: {code}",), category="general", source="s",
                generator="g", template="t@1", n_tokens=1,
            )
        )  # fmt: skip
    return samples, documents


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh small model as a directory: it has copying heads, and answers nothing."""
    from qwenlong.core.tokens import Tokenizer

    root = tmp_path_factory.mktemp("taken")
    shape = {"vocabulary": 400, "hidden_size": 96, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 32}
    shape |= {"experts": 2, "experts_per_token": 1, "expert_size": 32}
    scratch = Config.model_validate({"base": {"window": 384, "kind": "nano-scratch", "scratch": shape}})
    tokenizers.build(scratch, list(data()[1].values()), root / "tokenizer")
    base.nano_model(scratch, Tokenizer(root / "tokenizer")).save_pretrained(root / "model")
    tokenizers.copy(root / "tokenizer", root / "model")
    return root / "model"


@pytest.fixture(scope="module")
def made(taken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    base.make(config(root / "results", taken), taken, root / "model", *data())
    return root / "model"


def test_it_learns_to_answer_and_stops_there(made: Path) -> None:
    report = read_json(made / "base.json")["warmup"]
    assert report["losses"][-1] < 0.3 * report["losses"][0]
    assert report["curve"][-1]["accuracy"] >= 0.5 > report["curve"][0]["accuracy"]
    assert report["step"] == report["curve"][-1]["step"] < PLAN["steps"]
    assert report["samples"] + report["measured_on"] == 24 and report["measured_on"] == 6
    assert report["examples"]["memory_answer"] > 0 and report["examples"]["memory_update"] > 0


def test_what_is_measured_on_is_not_trained_on() -> None:
    trained, measured = base_warmup.split(data()[0], 5, 1)
    assert len(measured) == 5 and not {s.id for s in trained} & {s.id for s in measured}
    assert base_warmup.split(data()[0], 5, 1) == (trained, measured)
    assert base_warmup.split(data()[0], 5, 2)[1] != measured


def test_interrupted_it_goes_on_to_the_same_bytes(
    taken: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path / "results", taken, save_seconds=0)
    real, steps = base_warmup._save, []

    def killed(*args: Any) -> None:
        real(*args)
        steps.append(args[-1]["step"])
        if len(steps) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(base_warmup, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        base.make(settings, taken, tmp_path / "model", *data())
    assert steps[-1] == 7 and not (tmp_path / "model").exists()
    base.make(settings, taken, tmp_path / "model", *data())
    assert steps[7] == 8
    assert digest_path(tmp_path / "model" / "model.safetensors") == digest_path(made / "model.safetensors")
    assert not list((tmp_path / "results" / "state" / "base").iterdir())


def test_too_few_samples_are_refused(taken: Path, tmp_path: Path) -> None:
    samples, documents = data()
    with pytest.raises(DataError, match="samples_per_task"):
        base.make(config(tmp_path, taken), taken, tmp_path / "model", samples[:3], documents)


def test_an_accuracy_outside_of_what_is_expected_is_said(
    taken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base.make(config(tmp_path, taken, steps=1, measure_samples=2), taken, tmp_path / "model", *data())
    assert read_json(tmp_path / "model" / "base.json")["warmup"]["within_expected"] is False
    assert "base.warmup.expected" in caplog.text
