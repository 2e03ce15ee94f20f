"""`qwenlong checkpoint` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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


SETTINGS = {
    "linear": (["--weight", 1, "--weight", 3], {"weights": [1.0, 3.0], "normalize": True}),
    "task_arithmetic": (["--weight", 0.5, "--weight", -1], {"weights": [0.5, -1.0]}),
    "ties": (["--density", 0.4, "--scale", 2], {"density": 0.4, "scale": 2.0}),
    "dare_ties": (["--density", 0.4, "--seed", 3], {"density": 0.4, "scale": 1.0, "seed": 3}),
}


@pytest.mark.parametrize("method", SETTINGS)
def test_every_method_merges_directories_as_it_merges_tensors(models: Path, tmp_path: Path, method: str) -> None:
    from safetensors.torch import load_file

    from qwenlong.checkpoints.methods import METHODS, function

    options, settings = SETTINGS[method]
    experts = [models / "expert1", models / "expert2"]
    words = ["merge", "--method", method, "--base", models / "base", "--expert", experts[0], "--expert", experts[1]]
    report = json.loads(invoke(*words, *options, "--out", tmp_path / "m", "--json"))
    assert {name: report[name] for name in ("method", *METHODS[method].settings)} == {"method": method} | settings
    base, *others = (load_file(path / "model.safetensors") for path in (models / "base", *experts))
    merge = function(method, settings)
    for name, found in load_file(tmp_path / "m" / "model.safetensors").items():
        expected, stats = merge(name, base[name], [other[name] for other in others], None)
        assert torch_equal(found, expected) and report["tensors"][name] == stats, name
    sidecar = json.loads((tmp_path / "m" / "provenance.json").read_text())
    assert sidecar["config"]["values"] == {"method": method, "dtype": "base"} | settings
    assert sidecar["seed"] == settings.get("seed", 0)
    # The same bytes again, and through files of finished weights.
    invoke(*words, *options, "--out", tmp_path / "again", "--state", tmp_path / "state")
    for name in ("model.safetensors", "MERGE.json"):
        assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def torch_equal(left: Any, right: Any) -> bool:
    return left.dtype == right.dtype and bool((left == right).all())


def merge_config(tmp_path: Path, text: str) -> Path:
    config = tmp_path / "config.yaml"
    config.write_text(f"run: {{name: demo, results: '{tmp_path / 'results'}', seed: 5}}\n{text}\n")
    return config


def test_settings_come_from_the_section_of_the_same_method_or_from_an_ablation_row(
    models: Path, tmp_path: Path
) -> None:
    config = merge_config(
        tmp_path,
        "tracking: {enabled: false}\nmerge: {method: ties, density: 0.3}\n"
        "ablations: {merges: [{name: dropped, method: dare_ties, scale: 0.5}]}",
    )
    words = ["merge", "--base", models / "base", "--expert", models / "expert1", "--expert", models / "expert2"]
    words += ["--config", config, "--out", tmp_path / "m", "--json"]

    def read(*more: object) -> dict[str, Any]:
        report = json.loads(invoke(*words, *more))
        return {name: report.get(name) for name in ("method", "density", "scale", "seed")}

    assert read() == {"method": "ties", "density": 0.3, "scale": 1.0, "seed": None}
    assert read("--density", 0.9)["density"] == 0.9
    # Another method than the section's: none of its settings, and the seed of the run.
    assert read("--method", "dare_ties") == {"method": "dare_ties", "density": 0.1, "scale": 1.0, "seed": 5}
    dropped = {"method": "dare_ties", "density": 0.1, "scale": 0.5, "seed": 5}
    assert read("--ablation", "dropped") == dropped
    assert read("--ablation", "dropped", "--seed", 6)["seed"] == 6
    for more, message in (
        (["--ablation", "none"], "no merge 'none'; ablations.merges has dropped"),
        (["--select-top", 0.5], "--select-top is not read by --method ties, which reads --density, --scale"),
        (["--seed", 5], "--seed is not read by --method ties"),
    ):
        with pytest.raises(UsageError, match=message):
            runner.invoke(app, [str(word) for word in [*words, *more]], catch_exceptions=False)


def test_a_merge_by_another_method_is_tracked(models: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from qwenlong.core import config_files, tracking

    config = merge_config(tmp_path, "")
    words = ["merge", "--base", models / "base", "--expert", models / "expert1", "--expert", models / "expert2"]
    report = json.loads(invoke(*words, "--method", "ties", "--out", tmp_path / "m", "--config", config, "--json"))
    client = MlflowClient(tracking.store_uri(config_files.load(config)))
    (run,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert run.data.params["method"] == "ties" and run.data.params["density"] == "0.2"
    total = report["total"]
    assert run.data.metrics == {
        "parameters": 20064,
        "selected": total["selected"],
        "erased": total["erased"],
        "reverted": total["reverted"],
        "coefficient_1": total["coefficients"][0],
        "coefficient_2": total["coefficients"][1],
    }
    assert 0 < total["erased"] < 0.5 and sum(total["coefficients"]) == pytest.approx(1.0)


def test_verify_writes_its_report_and_is_tracked(models: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from qwenlong.core import config_files, provenance, tracking

    config, out = merge_config(tmp_path, ""), tmp_path / "reports" / "expert1.json"
    words = ["verify", models / "expert1", "--config", config, "--out", out, "--json"]
    printed = json.loads(invoke(*words, "--like", models / "base"))
    assert json.loads(out.read_text()) == printed
    assert set(provenance.read(out)["inputs"]) == {"checkpoint", "like"} and provenance.verify(out) == []
    # A checkpoint with faults: the report is there all the same, and the run has failed.
    failed = runner.invoke(app, [str(word) for word in [*words, "--like", models / "tied", "--stage", "bad"]])
    assert failed.exit_code == 1 and json.loads(out.read_text())["faults"] == json.loads(failed.stdout)["faults"]
    client = MlflowClient(tracking.store_uri(config_files.load(config)))
    runs = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("demo").experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {"verify_expert1": "FINISHED", "bad": "FAILED"}
    metrics = runs["verify_expert1"].data.metrics
    assert (metrics["faults"], metrics["parameters"]) == (0, 20064)
    assert metrics["distance_relative"] == pytest.approx(printed["distance"]["relative"])
    assert runs["bad"].data.metrics["faults"] >= 1
    with pytest.raises(UsageError, match="whose digest it would change"):
        invoke("verify", models / "base", "--out", models / "base" / "report.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "nowhere", "out"], "SRC nowhere is not a directory"),
        (["convert", ".", "out", "--dtype", "int8"], "--dtype int8"),
        (["convert", ".", "out", "--experts", "fused"], "--experts fused: choose split or stacked"),
        (["merge", "--base", "nowhere", "--expert", ".", "--out", "out"], "--base nowhere is not a directory"),
        (["merge", "--base", ".", "--expert", ".", "--method", "ties", "--out", "out"], "at least two"),
        (["merge", "--base", ".", *2 * ["--expert", "."], "--method", "slerp", "--out", "out"], "--method slerp"),
        (["merge", "--base", ".", *2 * ["--expert", "."], "--ablation", "x", "--out", "out"], "with --config"),
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
