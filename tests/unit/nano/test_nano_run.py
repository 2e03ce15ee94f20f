"""The whole of `train nano` at toy size on CPU: stopped, resumed, written, loaded; and the shipped policy's card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwenlong.cli import app
from qwenlong.core.config import Config
from qwenlong.core.config_files import dump
from qwenlong.core.files import read_json, write_parquet
from qwenlong.core.records import Document
from qwenlong.inference.engine import Sampling, load_generator
from qwenlong.nano import card

SHIPPED = Path(__file__).parents[3] / "models" / "nano"


@pytest.fixture(scope="module")
def made(documents: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    toy = {
        "vocabulary": 600, "hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 32, "expert_size": 32,
        "pools": 1, "passes": 1, "batch_tokens": 8192, "tokens": 40_000, "workers": 1, "first_length": 200,
        "last_length": 240, "measure_pools": 1, "measure_per_kind": 2, "measure_batch_tokens": 16384,
    }  # fmt: skip
    config = Config.model_validate(
        {
            "run": {"results": str(root / "results")},
            "tracking": {"enabled": False},
            "base": {"window": 1024},
            "synthesis": {"heldout_share": 0.5},
            "nano": toy,
        }
    )
    (root / "config.yaml").write_text(dump(config))
    write_parquet(root / "corpus" / "documents.parquet", documents, Document)
    elsewhere = config.model_copy(update={"run": config.run.model_copy(update={"results": str(root / "straight")})})
    (root / "straight").mkdir()
    (root / "straight" / "config.yaml").write_text(dump(elsewhere))
    shutil.copytree(root / "corpus", root / "straight" / "corpus")
    words = [
        "train", "nano", "--config", str(root / "config.yaml"), "--corpus", str(root / "corpus"),
        "--out", str(root / "nano"), "--json",
    ]  # fmt: skip
    straight = CliRunner().invoke(app, [word.replace(str(root), str(root / "straight")) for word in words])
    assert straight.exit_code == 0, straight.output
    early = CliRunner().invoke(app, [*words, "--limit-seconds", "0.5"])
    assert early.exit_code == 0 and json.loads(early.stdout) == {"done": False}, early.output
    assert not (root / "nano").exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    return root


def test_it_goes_on_where_it_was_stopped_and_says_what_it_did(made: Path) -> None:
    written = read_json(made / "nano" / "card.json")
    assert written["progress"]["tokens"] >= 40_000 and written["progress"]["round"] >= 2
    kinds = {row["kind"] for row in written["accuracy"]["exercises"]}
    assert {"copy", "memory_update_rewrite", "reading_comprehension"} <= kinds
    assert "| copy | all |" in (made / "nano" / "README.md").read_text()
    assert card.drift(made / "nano") is None


def test_stopped_and_resumed_it_has_the_same_bytes_as_in_one_go(made: Path) -> None:
    one, other = (folder / "nano" / "model.safetensors" for folder in (made, made / "straight"))
    assert one.read_bytes() == other.read_bytes()
    stopped, straight = (read_json(folder / "nano" / "card.json") for folder in (made, made / "straight"))
    assert stopped["accuracy"] == straight["accuracy"]


def test_the_directory_is_a_model_that_generates(made: Path) -> None:
    generator, tokenizer = load_generator(made / "nano")
    (made_now,) = generator.generate([tokenizer.encode("Question")], [Sampling(max_new_tokens=3)], [1])
    assert 1 <= len(made_now.token_ids) <= 3


def test_drifted_prompts_name_the_command(made: Path, tmp_path: Path) -> None:
    changed = read_json(made / "nano" / "card.json") | {"templates": {"version": "v0", "digest": "0" * 64}}
    (tmp_path / "card.json").write_text(json.dumps(changed))
    message = card.drift(tmp_path)
    assert message is not None and "qwenlong train nano" in message


def test_the_shipped_policy_was_trained_on_these_prompts() -> None:
    assert card.drift(SHIPPED) is None, card.drift(SHIPPED)


def test_the_shipped_policy_leaves_room_and_beats_trivial_answers() -> None:
    rows = {
        row["kind"]: row for row in read_json(SHIPPED / "card.json")["accuracy"]["heldout"] if row["length"] == "all"
    }
    assert len(rows) == 5 and all(row["n"] >= 500 and round(row["accuracy"], 2) <= 0.7 for row in rows.values())
    assert sum(row["low"] >= row["baseline"] + 0.05 for row in rows.values()) >= 4
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 20e6
