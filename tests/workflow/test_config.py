"""How a run gets its configuration: one file, never merged, faults named without a traceback."""

from __future__ import annotations

import os

import pytest

from qwenlong.core import config_files


def test_bare_snakemake_runs_the_laptop(plan, root):
    assert plan().run == config_files.load(root / "configs/laptop.yaml")


def test_no_laptop_value_survives_a_named_file(plan, root):
    # laptop.yaml sets stages, results, sizes that paper.yaml sets otherwise or not at all.
    assert plan("configs/paper.yaml").run == config_files.load(root / "configs/paper.yaml")


def test_a_file_that_says_little_has_defaults_not_the_laptops_values(snakemake, tmp_path):
    file = tmp_path / "little.yaml"
    file.write_text(f"run: {{name: little, results: {tmp_path / 'results'}}}\n")
    shown = snakemake("-n", "--cores", 4, "--configfile", file).stdout
    # The laptop's memory for light rules is 2000 MB, the default's 4000.
    assert "mem_mb=4000" in shown
    assert "mem_mb=2000" not in shown


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("trianing: {steps: 3}\n", ("bad.yaml", "trianing", "did you mean 'training'?")),
        ("training: {aepo: {lwo: 0.3}}\n", ("bad.yaml", "training.aepo.lwo", "0.3", "did you mean 'low'?")),
        ("training: {steps: many}\n", ("bad.yaml", "training.steps", "'many'", "valid integer")),
        ("training: {aepo: {low: 0.9, high: 0.2}}\n", ("bad.yaml", "training.aepo", "0.9", "swap them")),
        ("corpus: {sources: [no_such_source]}\n", ("corpus.sources", "no_such_source", "world_factbook")),
        ("evaluation: {benchmarks: [no_such]}\n", ("evaluation", "no_such", "heldout")),
        ("evaluation: {data: {framse: data/frames.tsv}}\n", ("evaluation", "framse", "frames")),
        ("evaluation: {benchmarks: [frames], agent_benchmarks: [frames]}\n", ("evaluation", "frames", "one of them")),
        ("evaluation: {tables: [table3]}\n", ("evaluation.tables", "table3", "table2")),
    ],
)
def test_faults_are_named_without_a_traceback(snakemake, tmp_path, text, parts):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = snakemake("-n", "--configfile", file, check=False)
    assert done.returncode in (1, 2)
    for part in parts:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_two_files_are_refused(snakemake):
    done = snakemake("-n", "--configfile", "configs/laptop.yaml", "configs/paper.yaml", check=False)
    assert done.returncode == 2
    assert "names 2 files" in done.stderr


def test_values_on_the_command_line_are_laid_over_the_file(snakemake, tmp_path):
    words = ("-n", "--cores", 4, "--configfile", "configs/tiny.yaml")
    results = f"run={{results: {tmp_path}}}"
    shown = snakemake(*words, "--config", results, "resources={light: {memory_mb: 1234}}").stdout
    assert "mem_mb=1234" in shown
    assert str(tmp_path) in shown
    done = snakemake(*words, "--config", results, "resources={light: {memory_mb: 12}}", check=False)
    assert done.returncode == 2
    assert "resources.light.memory_mb = 12" in done.stderr


@pytest.mark.parametrize("config", ["laptop", "tiny", "h200", "paper"])
def test_every_configuration_plans(snakemake, tmp_path, config):
    done = snakemake(
        "-n", "-q", "rules", "--configfile", f"configs/{config}.yaml", "--config", f"run={{results: {tmp_path}}}"
    )
    assert "rl_4" in done.stdout + done.stderr
    # A plan writes nothing.
    assert os.listdir(tmp_path) == []


def test_profile_and_laptop_have_their_own_cores_executor_and_memory(plan, root, monkeypatch):
    from snakemake.cli import parse_args

    monkeypatch.chdir(root)
    _, bare = parse_args(["--cores", "2"])
    assert (bare.executor or "local", bare.cores, bare.profile) == ("local", 2, None)
    assert bare.workflow_profile is None and not (root / "profiles").exists()
    _, cluster = parse_args(["--profile", "cluster", "--configfile", "configs/paper.yaml"])
    assert (cluster.executor, cluster.cores, cluster.jobs) == ("slurm", None, 64)
    assert cluster.local_cores == 1

    laptop, paper = plan().jobs["rl_1"], plan("configs/paper.yaml").jobs["rl_1"]
    assert (laptop.threads, laptop.resources["mem_mb"]) == (2, 8000)
    assert "gres" not in laptop.resources
    assert (paper.threads, paper.resources["mem_mb"], paper.resources["runtime"]) == (96, 1_500_000, 10080)
    assert (paper.resources["gres"], paper.resources["nodes"]) == ("gpu:8", 8)
    # The executor would take tasks as tasks per GPU; Slurm gives a machine one task by itself.
    assert "tasks" not in paper.resources
    light = plan("configs/paper.yaml").jobs["corpus"]
    assert (light.threads, light.resources["mem_mb"]) == (16, 64000)


def test_stages_over_several_machines_without_gpus_ask_for_a_task_on_each(snakemake, tmp_path):
    words = ("--configfile", "configs/tiny.yaml", "--config", "engine={nodes: 2}", "resources={train: {nodes: 2}}")
    shown = snakemake("-n", "-p", *words, f"run={{results: {tmp_path}}}").stdout
    assert "nodes=2, tasks=2" in shown
    assert 'qwenlong ray run --config "$QWENLONG_CONFIG" -- qwenlong train stage rl_1 --config' in shown


def test_the_cluster_plan_works_from_the_root(snakemake, tmp_path):
    words = (
        "-n",
        "--profile",
        "cluster",
        "--configfile",
        "configs/paper.yaml",
        "--config",
        f"run={{results: {tmp_path}}}",
    )
    shown = snakemake(*words).stdout
    assert "gres=gpu:8" in shown
    assert "evaluate_ablation" in shown


def test_lint_is_clean(snakemake):
    done = snakemake("--lint")
    assert "good condition" in done.stdout + done.stderr
