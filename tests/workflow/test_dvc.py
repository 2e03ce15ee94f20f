"""DVC wraps whole Snakemake targets: its outputs are Snakemake's, and its commands work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

CURVES = "step,stage,stage_step,reward_mean,aepo_entropy,response_length_mean,actor_grad_norm\n"


@pytest.fixture(scope="module")
def stages(root):
    return yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def outputs(stage):
    """Return the stage's outputs of all kinds with their settings."""
    return {
        path: settings
        for kind in ("outs", "metrics", "plots")
        for row in stage.get(kind, [])
        for path, settings in row.items()
    }


def targets(stages):
    """Return the stages that call Snakemake."""
    return {name: stage for name, stage in stages.items() if name not in ("nano", "evidence")}


def test_the_nano_policy_is_git_s_and_is_left_alone(stages, root):
    nano = stages["nano"]
    assert nano["outs"] == [{"models/nano": {"cache": False, "persist": True}}] and nano["frozen"] is True
    assert nano["cmd"].split()[:3] == ["qwenlong", "train", "nano"]
    assert all((root / path).exists() for path in nano["deps"])
    listed = subprocess.run(["git", "ls-files", "models/nano"], cwd=root, capture_output=True, text=True, check=True)
    assert "models/nano/model.safetensors" in listed.stdout.split()


def test_the_evidence_is_git_s_and_is_what_dvc_recorded(stages, root):
    evidence = stages["evidence"]
    assert evidence["outs"] == [{"reports/h200": {"cache": False, "persist": True}}] and evidence["frozen"] is True
    assert evidence["cmd"].split()[:3] == ["qwenlong", "audit", "bundle"]
    words = [f"{os.path.dirname(sys.executable)}/dvc", "status", "evidence"]
    status = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    assert "up to date" in status.stdout, status.stdout + status.stderr


def test_every_output_is_one_of_snakemakes_and_persists(stages, plan):
    made = {file for job in plan().jobs.values() for file in job.outputs}
    for name, stage in targets(stages).items():
        for path, settings in outputs(stage).items():
            assert path in made, f"{name}: {path} is no output of the laptop's DAG"
            # Else DVC deletes it before the command, and Snakemake makes everything anew.
            assert settings["persist"] is True, f"{name}: {path} does not persist"


def test_commands_are_whole_targets_and_make_what_the_stage_names(stages, plan):
    for name, stage in targets(stages).items():
        target = re.fullmatch(r"snakemake --cores all (\w+)", stage["cmd"])
        assert target, f"{name}: {stage['cmd']}"
        made = {file for job in plan(None, target[1]).jobs.values() for file in job.outputs}
        assert set(outputs(stage)) <= made


def test_dependencies_are_files_of_the_project_or_outputs_of_earlier_stages(stages, root):
    earlier = set()
    for name, stage in stages.items():
        for path in stage["deps"]:
            assert (root / path).exists() if not path.startswith("results/") else path in earlier, f"{name}: {path}"
        earlier |= set(outputs(stage))


def test_sources_samples_model_and_metrics_are_tracked(stages, plan):
    tracked = {path for stage in stages.values() for path in outputs(stage)}
    assert {f"data/cache/{source}" for source in plan().run.corpus.sources} <= tracked
    assert "results/laptop/synthesis/samples.parquet" in tracked
    assert "results/laptop/models/rl_4" in tracked
    assert "results/laptop/audit/metrics.json" in tracked


def test_status_repro_metrics_plots_and_push_work(make_project, root):
    project = make_project("configs/laptop.yaml")
    folder = project.folder
    for name in ("dvc.yaml", ".dvc/config", ".dvcignore", ".gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, folder / name)
    shutil.copytree(root / "reports/h200", folder / "reports/h200")
    audit = folder / "results/laptop/audit"
    (audit / "metrics.json").write_text('{"rl_4": {"avg": 0.25}}\n')
    (audit / "curves.csv").write_text(CURVES + "1,rl_1,1,0.1,2.0,30,0.5\n2,rl_1,2,0.2,1.9,31,0.5\n")
    # DVC's stages call the bare command, with the tracking of the configuration: nothing is left to run in them.
    environment = {
        **os.environ,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PYTHONPATH": f"{folder}/packages",
        "DVC_NO_ANALYTICS": "1",
    }

    def call(*words):
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    # Adopted again, since two files were just written.
    project.run("--touch", "--forceall", "--cores", "1")
    call("git", "init", "--quiet")
    assert "Nothing to be done" in call("dvc", "repro")
    assert "up to date" in call("dvc", "status")
    assert "0.25" in call("dvc", "metrics", "show")
    call("dvc", "plots", "show", "--out", "plots")
    page = (folder / "plots" / "index.html").read_text(encoding="utf-8")
    assert "reward_mean" in page and "aepo_entropy" in page
    call("dvc", "push")
    assert any((folder / ".dvc" / "local-remote").rglob("*"))

    (folder / "packages/qwenlong/audit/report.py").open("a").write("# changed\n")
    assert "evaluation" in call("dvc", "status")
    assert "models" not in call("dvc", "status")
    # DVC left Snakemake's times alone: only the audit is due.
    assert set(project.planned()) == {"audit", "all"}
