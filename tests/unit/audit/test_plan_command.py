"""`qwenlong audit plan` as a user calls it, and measured runs beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from qwenlong.audit.commands import app
from qwenlong.audit.planning import assumed, graph, jobs, report
from qwenlong.audit.planning.cluster import Cluster
from qwenlong.core import tracking
from qwenlong.core.config_files import load
from qwenlong.core.files import write_json, write_jsonl

ROOT = Path(__file__).resolve().parents[3]
RUN = CliRunner()
PAPER, LAPTOP = (str(ROOT / "configs" / name) for name in ("paper.yaml", "laptop.yaml"))


def planned(*words: str) -> dict[str, Any]:
    done = RUN.invoke(app, ["plan", "--json", *words])
    assert done.exit_code == 0, done.output
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def triples(value: Any) -> Any:
    """Yield every [low, typical, high] in a plan."""
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from triples(one)


def test_the_papers_run() -> None:
    """Every stage of the recipe, sums that are sums, a wall time that is not, the table of 8, 64 and 256 GPUs."""
    plan = planned("--config", PAPER)
    stages = {row["stage"]: row for row in plan["stages"]}
    assert list(stages) == [
        *(
            "corpus",
            "mase",
            "extract",
            "nl2sql",
            "synthesis",
            "base",
            "verification",
            "difficulty",
            "bins",
            "data_card",
        ),
        *("score_1", "rl_1", "convert", "score_2", "rl_2", "score_3", "rl_3", "memory_rl", "score_4", "rl_4"),
        *("naive_grpo", "merge", "ablations: train", "ablations: models", "evaluation", "ablations: evaluate", "audit"),
    ]
    assert plan["unit"] == "GPU" and plan["processors"] == 64
    for key in ("processor_hours", "prompt", "response", "trained", "calls", "judge_calls", "disk"):
        for i in range(3):
            assert plan["total"][key][i] == pytest.approx(sum(row[key][i] for row in plan["stages"])), key
    assert plan["total"]["jobs"] == sum(row["jobs"] for row in plan["stages"])
    assert all(low <= typical <= high for low, typical, high in triples(plan))
    # 100 steps of 128 prompts, 8 responses of 0.4 x 12,000 tokens; of 60,000 + 20,000 a longer row takes longer.
    assert stages["rl_1"]["response"][1] == 100 * 128 * 8 * 0.4 * 12000
    assert stages["rl_1"]["judge_calls"][1] == 100 * 128 * 8 * 0.35
    assert stages["rl_3"]["processor_hours"][1] > stages["rl_2"]["processor_hours"][1]
    hours = sum(step["hours"] for step in plan["critical_path"])
    assert hours == pytest.approx(plan["critical_path_hours"][1]) and hours <= plan["wall_hours"][1]
    path = [step["job"] for step in plan["critical_path"]]
    assert [name for name in path if name.startswith(("rl_", "memory_rl", "score_"))][:8] == [
        *("score_1", "rl_1", "score_2", "rl_2", "score_3", "rl_3", "memory_rl", "score_4"),
    ]
    clusters = {row["processors"]: row for row in plan["clusters"]}
    assert list(clusters) == [8, 64, 256]
    wall = [row["wall_hours"][1] for row in clusters.values()]
    assert wall[0] > wall[1] >= wall[2] and clusters[64]["wall_hours"] == plan["wall_hours"]
    assert clusters[256]["spread_wall_hours"][1] < clusters[256]["wall_hours"][1]
    # Training on 64 GPUs is as wide on 256, and all GPUs of 8.
    assert any("On 8 GPUs" in note and "61 GB" in note for note in plan["notes"])
    # No job of the paper's run is longer than its limit, and none but the base model's takes fewer GPUs than it could.
    assert not any("runtime_minutes allows" in note for note in plan["notes"])
    assert planned("--config", PAPER) == plan


def test_limits_that_are_too_short_are_named_as_the_rules_take_them(tmp_path: Path) -> None:
    """By kind, with fallbacks: extraction under `ask` or `light`, the evaluation of served models under `light`."""
    values = yaml.safe_load(Path(PAPER).read_text(encoding="utf-8"))
    values["ablations"]["rows"] = []
    values["resources"] |= {
        "ask": None,
        "select": None,
        "train": values["resources"]["train"] | {"runtime_minutes": 2880},
    }
    values["resources"]["train"].pop("most_runtime_minutes")

    def notes() -> str:
        config = tmp_path / "run.yaml"
        config.write_text(yaml.safe_dump(values), encoding="utf-8")
        return "\n".join(planned("--config", str(config))["notes"])

    found = notes()
    assert "resources.light.runtime_minutes allows 12 h, extract would take 221 h" in found
    assert "resources.generate.runtime_minutes allows 24 h, score_3 would take 69 h" in found
    assert "resources.train.runtime_minutes allows 48 h, memory_rl would take 137 h" in found
    values["synthesis"]["extract"]["enabled"] = False
    values["resources"]["light"]["runtime_minutes"] = 360
    assert "resources.light.runtime_minutes allows 6 h, evaluate_" in notes()
    # Served on one machine, or loaded by a job of one: the same eight GPUs.
    values["services"]["selection"] |= {"replicas": 2, "slurm": {"nodes": 1, "gpus": 8}}
    narrow = notes()
    values["selection"]["server"] = None
    assert notes() == narrow and "score_3 would take 445 h" in narrow


def test_the_same_for_people() -> None:
    done = RUN.invoke(app, ["plan", "--config", PAPER, "--gpus", "8"])
    assert done.exit_code == 0
    for words in (
        "on 8 GPUs (NVIDIA H100 SXM)",
        "memory_rl",
        "critical path",
        "judges beside",
        "gpu_longest.md",
        "(2025)",
    ):
        assert words in done.stdout
    assert "–" in done.stdout and "nan" not in done.stdout and "inf " not in done.stdout


def test_a_laptop_is_planned_in_cores() -> None:
    plan = planned("--config", LAPTOP)
    assert plan["unit"] == "core" and plan["processors"] == 2 and [r["processors"] for r in plan["clusters"]] == [2]
    assert 0.05 < plan["wall_hours"][1] < 2 and plan["total"]["judge_calls"] == [0, 0, 0]
    assert not any(row["stage"].startswith("ablations") for row in plan["stages"])


def test_a_clusters_file(tmp_path: Path) -> None:
    """GPUs, a faster card, less memory and less disk."""
    file = tmp_path / "site.yaml"
    file.write_text("{name: site, gpus: 16, speed: 2, gpu_memory_gb: 40, disk_gb: 1000}", encoding="utf-8")
    plan, plain = planned("--config", PAPER, "--cluster", str(file)), planned("--config", PAPER, "--gpus", "16")
    assert plan["processors"] == 16 and plan["wall_hours"][1] < plain["wall_hours"][1]
    assert plan["total"]["response"] == plain["total"]["response"]
    assert any("1,000 are there" in note for note in plan["notes"]) and any("40 GB" in note for note in plan["notes"])
    cores = tmp_path / "cores.yaml"
    cores.write_text("cores: 8", encoding="utf-8")
    assert planned("--config", LAPTOP, "--cluster", str(cores))["processors"] == 8


def test_assumptions_of_ones_own(tmp_path: Path) -> None:
    config, mine = tmp_path / "run.yaml", tmp_path / "mine.yaml"
    values = yaml.safe_load(Path(PAPER).read_text(encoding="utf-8"))
    values["base"]["path"] = "someone/Another-7B"
    values["ablations"]["rows"] = []
    values["evaluation"]["benchmarks"] = ["ruler_4k"]
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    done = RUN.invoke(app, ["plan", "--config", str(config)])
    assert done.exit_code == 2 and "base.path = 'someone/Another-7B'" in done.output and "--assumptions" in done.output
    entry = {"match": "another-7b", "parameters": 7e9, "active": 7e9, "weight_bytes": 2, "replica_gpus": 1}
    entry |= {"prefill": {1000: 10000}, "decode": {1000: 500}, "train": {1000: 1000}, "source": "assumed"}
    mine.write_text(yaml.safe_dump({"models": [entry]}), encoding="utf-8")
    done = RUN.invoke(app, ["plan", "--config", str(config), "--assumptions", str(mine)])
    assert done.exit_code == 2 and "'ruler_4k'" in done.output and "benchmarks" in done.output
    more = {"models": [entry], "benchmarks": {"ruler_4k": {"items": 100, "prompt": 4000, "response": 500}}}
    mine.write_text(yaml.safe_dump(more), encoding="utf-8")
    plan = planned("--config", str(config), "--assumptions", str(mine))
    assert plan["models"]["policy"]["match"] == "another-7b"
    mine.write_text("{calls: {tries: [3, 2, 1]}, lengths: {question: many}, nonsense: 1}", encoding="utf-8")
    done = RUN.invoke(app, ["plan", "--config", PAPER, "--assumptions", str(mine)])
    assert done.exit_code == 2
    for words in ("calls.tries", "lengths.question", "nonsense", "mine.yaml"):
        assert words in done.output


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--config", PAPER, "--gpus", "8", "--cluster", "x.yaml"], 2, "give one of them"),
        (["--config", PAPER, "--gpus", "0"], 2, "greater than or equal to 1"),
        (["--config", LAPTOP, "--gpus", "8"], 2, "cores"),
        (["--config", PAPER, "--cluster", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["--config", PAPER, "--assumptions", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["--config", LAPTOP, "--results", "nowhere"], 1, "no folder nowhere"),
    ],
)
def test_wrong_usage(words: list[str], code: int, told: str) -> None:
    done = RUN.invoke(app, ["plan", *words])
    assert done.exit_code == code and told in done.output


@pytest.mark.parametrize("text", ["gpus: many", "gpus: 0", "gpu: 8", "- 8", "gpus: [", "speed: -1"])
def test_a_clusters_file_that_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text, encoding="utf-8")
    done = RUN.invoke(app, ["plan", "--config", PAPER, "--cluster", str(file)])
    assert done.exit_code == 2 and "site.yaml" in done.output


def test_measured_runs_beside_the_plan(tmp_path: Path) -> None:
    """Hours of MLflow's runs, or of Snakemake's files; tokens as counted; ratios of what was measured only."""
    config = load(LAPTOP)
    config = config.model_copy(update={"run": config.run.model_copy(update={"results": str(tmp_path)})})
    for name in ("difficulty", "evaluate base heldout"):
        with tracking.stage(config, name):
            pass
    with pytest.raises(RuntimeError), tracking.stage(config, "rl_1"):
        raise RuntimeError
    (tmp_path / "benchmarks" / "convert").mkdir(parents=True)
    for name, seconds in (("difficulty", 9e9), ("rl_1", 360.0), ("convert/rl_1", 36.0)):
        text = f"s\th:m:s\n{seconds}\t-\n"
        (tmp_path / "benchmarks" / f"{name}.tsv").write_text(text, encoding="utf-8")
    (tmp_path / "benchmarks" / "bins.tsv").write_text("nothing", encoding="utf-8")
    write_json(tmp_path / "corpus" / "corpus.json", {"documents": 3, "characters": 4000})
    write_json(tmp_path / "evaluation" / "base" / "heldout" / "run.json", {"response_tokens": 40 * 48})
    steps = [{"step": i, "response_length/mean": 40.0} for i in (1, 2, 3)]
    write_jsonl(tmp_path / "stages" / "rl_1" / "policy" / "metrics.jsonl", steps)

    found = report.build(config, Cluster(), results=tmp_path)
    assert found["corpus"]["source"] == "corpus.json" and found["corpus"]["documents"] == (3, 3, 3)
    rows = {row["stage"]: row for row in found["measured"]["stages"]}
    assert set(rows) == {"difficulty", "rl_1", "convert", "evaluation"}
    plan = jobs.plan(config, assumed.read())
    own = report._totals(plan, 2, assumed.read())
    # The failed run of rl_1 counts for nothing; Snakemake's 360 s do.
    assert rows["rl_1"]["sources"] == {"benchmark file": 1} and rows["rl_1"]["measured_hours"] == pytest.approx(0.1)
    assert rows["rl_1"]["ratio"] == pytest.approx(0.1 / own.durations["rl_1"].typical)
    # 3 steps of 10 x 4 rollouts of 40 tokens, planned with 0.4 x 96.
    assert rows["rl_1"]["response_ratio"] == pytest.approx(40 / (0.4 * 96))
    assert rows["difficulty"]["sources"] == {"MLflow": 1} and rows["difficulty"]["measured_hours"] < 0.1
    # One of six conversions, against the plan of that one.
    assert rows["convert"]["jobs"] == 1
    assert rows["convert"]["ratio"] == pytest.approx(0.01 / own.durations["convert_1"].typical)
    assert rows["evaluation"]["response_ratio"] == pytest.approx(48 / (0.4 * 96))
    assert any("bins.tsv" in fault for fault in found["measured"]["faults"])

    done = RUN.invoke(app, ["plan", "--config", LAPTOP, "--results", str(tmp_path)])
    assert done.exit_code == 0 and "measured / planned" in done.stdout and "MLflow 1" in done.stdout
    (tmp_path / "mlflow.db").write_bytes(b"no database")
    done = RUN.invoke(app, ["plan", "--config", LAPTOP, "--results", str(tmp_path)])
    assert done.exit_code == 0 and "cannot be read" in done.stdout


def test_runs_and_files_have_the_names_that_the_rules_give_them() -> None:
    """Names of MLflow runs and benchmark files of jobs of every kind."""
    from qwenlong.audit.planning.measured import _benchmark_file, _run_name

    nodes = {node.name: node for node in graph.nodes(load(PAPER), assumed.read())}
    for name, run, file in (
        ("score_2", "score_2", "score_2"),
        ("memory_rl", "memory_rl", "memory_rl"),
        ("convert_memory", "convert_memory_rl", "convert/memory_rl"),
        ("sce_merge", "merge_sce_merge", "sce_merge"),
        ("ablation_grpo", "ablation_grpo", "ablations/grpo-train"),
        ("convert_ablation grpo", "convert_ablation_grpo", "ablations/grpo-convert"),
        ("merge_ablation ties", "merge_ablation_ties", "ablations/ties-merge"),
        ("evaluate_full rl_1 docmath", "evaluate rl_1 docmath", "evaluate/rl_1-docmath"),
        ("evaluate_ablation grpo mrcr_0_128k", "evaluate grpo mrcr_0_128k", "ablations/grpo-mrcr_0_128k"),
        ("score_ablation ties heldout_long", "score_ablation ties heldout_long", "ablations/ties-heldout_long-score"),
        ("paper_table table7", "paper_table table7", "tables/table7"),
    ):
        assert (_run_name(nodes[name]), _benchmark_file(nodes[name])) == (run, f"{file}.tsv")
