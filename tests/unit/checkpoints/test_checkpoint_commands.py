"""`qwenlong checkpoint` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qwenlong.checkpoints.commands import app
from qwenlong.checkpoints.weights import shard_bytes
from qwenlong.core.errors import UsageError

runner = CliRunner()


def invoke(*words: object) -> str:
    result = runner.invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_convert_merge_verify(models: Path, shards: Path, tmp_path: Path) -> None:
    base = models / "base"
    converted = json.loads(invoke("convert", shards / "one", tmp_path / "rl", "--like", base, "--json"))
    assert converted["parameters"] == 20064
    sidecar = json.loads((tmp_path / "rl" / "provenance.json").read_text())
    assert set(sidecar["inputs"]) == {"shards", "like"} and sidecar["extra"]["world_size"] == 1

    report = json.loads(
        invoke(
            "merge",
            "--method",
            "sce",
            "--base",
            base,
            "--expert",
            models / "expert1",
            "--expert",
            models / "expert2",
            "--select-top",
            0.5,
            "--select-mode",
            "mergekit",
            "--cores",
            2,
            "--max-shard-size",
            "20KB",
            "--out",
            tmp_path / "m",
            "--json",
        )
    )
    assert (report["select_top"], report["select_mode"]) == (0.5, "mergekit")
    assert len(report["files"]) > 1
    assert all((tmp_path / "m" / file).stat().st_size < 22_000 for file in report["files"])
    sidecar = json.loads((tmp_path / "m" / "provenance.json").read_text())
    assert set(sidecar["inputs"]) == {"base", "expert_1", "expert_2"}

    assert "no faults" in invoke("verify", tmp_path / "m", "--like", base)
    assert "39 of 39 tensors unchanged" in invoke("verify", tmp_path / "rl", "--like", base)
    failed = runner.invoke(app, ["verify", str(tmp_path / "m"), "--like", str(models / "tied"), "--json"])
    assert failed.exit_code == 1
    assert "lm_head.weight" in json.loads(failed.stdout)["faults"][0]


def test_views_of_experts_and_damaged_files(models: Path, tmp_path: Path) -> None:
    said = invoke("convert", models / "base", tmp_path / "stacked", "--experts", "stacked")
    assert "25 tensors, 20,064 parameters in float32, held against the model that config.json describes" in said
    said = invoke("verify", tmp_path / "stacked", "--like", models / "base")
    assert "held against" in said and "1 digests checked" in said and "39 of 39 tensors unchanged" in said
    file = tmp_path / "stacked/model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    failed = runner.invoke(app, ["verify", str(tmp_path / "stacked")])
    assert failed.exit_code == 1
    assert "fault: model.safetensors is cut short" in failed.stdout
    assert "fault: model.safetensors is not the file that CONVERT.json tells of" in failed.stdout


def test_merge_takes_its_settings_from_the_configuration_and_is_tracked(models: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from qwenlong.core import config_files, tracking

    config = tmp_path / "config.yaml"
    config.write_text(f"run: {{name: demo, results: '{tmp_path / 'results'}', seed: 5}}\nmerge: {{select_top: 0.25}}\n")
    words = ["merge", "--base", models / "base", "--expert", models / "expert1", "--expert", models / "expert2"]
    report = json.loads(invoke(*words, "--out", tmp_path / "m", "--config", config, "--stage", "sce_merge", "--json"))
    assert report["select_top"] == 0.25
    assert json.loads((tmp_path / "m" / "provenance.json").read_text())["seed"] == 5
    client = MlflowClient(tracking.store_uri(config_files.load(config)))
    (run,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert (run.info.run_name, run.info.status) == ("sce_merge", "FINISHED")
    assert run.data.params["select_top"] == "0.25" and run.data.metrics["coefficient_2"] > 0.7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "nowhere", "out"], "SRC nowhere is not a directory"),
        (["convert", ".", "out", "--dtype", "int8"], "--dtype int8"),
        (["convert", ".", "out", "--experts", "fused"], "--experts fused: choose split or stacked"),
        (["merge", "--base", "nowhere", "--expert", ".", "--out", "out"], "--base nowhere is not a directory"),
        (["merge", "--base", ".", "--expert", ".", "--method", "ties", "--out", "out"], "--method ties"),
        (["verify", "nowhere"], "DIR nowhere is not a directory"),
    ],
)
def test_wrong_usage(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        runner.invoke(app, words, catch_exceptions=False)


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from qwenlong.checkpoints.commands import app\n"
        "for verb in ('convert', 'merge', 'verify'): assert CliRunner().invoke(app, [verb, '--help']).exit_code == 0\n"
        "assert not {'torch', 'transformers', 'mlflow', 'safetensors'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("500MB", 5 * 10**8), ("1.5 gb", 15 * 10**8), ("20kb", 20_000), ("7", 7)]
)
def test_shard_sizes(text: str, size: int) -> None:
    assert shard_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "4 GiB", "0.0001KB", "nan"])
def test_shard_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--max-shard-size"):
        shard_bytes(text)
