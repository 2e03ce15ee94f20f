"""What a change reruns. A run's files are made empty and adopted with `--touch`, which records what each rule read."""

from __future__ import annotations

import os
import re

import pytest

STAGES_AFTER_FIRST = {"convert_1", "score_2", "rl_2", "convert_2", "score_3", "rl_3", "convert_3", "memory_rl"}
STAGES_AFTER_FIRST |= {"convert_memory", "sce_merge", "score_4", "rl_4", "convert_4"}
SCORED = {"score_evaluation", "audit", "all"}
EVALUATED = {"evaluate_full", "evaluate_agent"} | SCORED


@pytest.fixture(scope="module")
def project(make_project):
    return make_project("configs/tiny.yaml")


def test_a_threshold_for_all_stages_reruns_rl_from_the_first_and_nothing_before(project):
    found = project.planned("training={aepo: {low: 0.4}}")
    assert set(found) == {"rl_1"} | STAGES_AFTER_FIRST | EVALUATED
    # base and naive_grpo stay as they are.
    assert (found["evaluate_full"], found["evaluate_agent"]) == (6, 6)


def test_a_threshold_of_stage_2_reruns_from_there(project):
    found = project.planned("stages={rl_2: {steps: 2, aepo: {low: 0.4, high: 1.0}}}")
    assert set(found) == {"rl_2"} | (STAGES_AFTER_FIRST - {"convert_1", "score_2"}) | EVALUATED
    assert found["evaluate_full"] == 5


def test_other_settings_rerun_what_reads_them(project):
    assert set(project.planned("merge={select_top: 0.5}")) == {"sce_merge", "score_4", "rl_4", "convert_4"} | EVALUATED
    assert set(project.planned("evaluation={max_output_tokens: 8}")) == EVALUATED
    assert set(project.planned("agent={memory_tokens: 12}")) == EVALUATED - {"evaluate_full"}
    # Another judge scores what was answered before.
    judge = "{base_url: 'http://localhost:8002/v1', model: other}"
    assert set(project.planned(f"llm={{evaluation_judge: {judge}}}")) == SCORED
    assert "fetch" not in project.planned("run={seed: 3}")
    assert "corpus" in project.planned("run={seed: 3}")


def test_another_seed_over_the_same_data_trains_and_evaluates_anew(project):
    found = set(project.planned("run={seed: 3, data_seed: 17}"))
    assert not found & {"corpus", "tokenizer", "synthesis", "base", "verification", "difficulty", "bins"}
    assert {"score_1", "rl_1", "naive_grpo", "evaluate_full"} <= found


def test_a_stage_that_is_forced_takes_along_what_follows_it_to_the_target(project):
    """As docs/paper_run.md says: `snakemake rl_stage_4 --forcerun memory_rl` on a finished run."""
    shown = project.run("rl_stage_4", "-n", "-q", "rules", "--forcerun", "memory_rl")
    found = set(re.findall(r"^(\w+) +1$", shown, re.MULTILINE))
    assert found == {"memory_rl", "convert_memory", "sce_merge", "score_4", "rl_4", "rl_stage_4"}


def test_another_dtype_of_weights_makes_all_models_anew(project):
    found = set(project.planned("run={weights_dtype: bfloat16}"))
    assert not found & {"corpus", "tokenizer", "synthesis"}
    assert {"base", "verification", "rl_1", "naive_grpo", "convert_1", "sce_merge", "evaluate_full"} <= found
    assert project.planned("run={weights_dtype: float32}") == {}


LINEAR, DARE = "{name: linear, method: linear}", "{name: dare_ties, method: dare_ties, density: 0.5}"


def test_a_setting_of_a_merge_reruns_that_merge_and_what_follows_it(make_project):
    project = make_project("configs/tiny.yaml", "ablations")

    def planned(*rows: str, **more):
        found = project.planned(f"ablations={{merges: [{', '.join(rows)}]}}", target="ablations", **more)
        return {name: count for name, count in found.items() if name != "ablations"}

    once = {"merge_ablation": 1, "evaluate_ablation": 1, "evaluate_ablation_agent": 1, "score_ablation": 2}
    assert planned(LINEAR, DARE) == {}
    # Order decides nothing, nor does what stands there by default.
    assert planned(DARE, LINEAR) == {}
    assert planned(LINEAR.replace("}", ", normalize: true}"), DARE) == {}
    assert planned(LINEAR.replace("}", ", weights: [1, 3]}"), DARE) == once
    assert planned(LINEAR, DARE.replace("0.5", "0.25")) == once
    assert planned(LINEAR, DARE.replace("}", ", base: rl_3}")) == once
    # The recipe's own merge is none of the target's business.
    assert project.planned("merge={select_top: 0.5}", target="ablations") == {}


@pytest.mark.parametrize(
    "override",
    ["resources={train: {memory_mb: 5000}}", "tracking={uri: null}", "training={save_every: 7}"],
)
def test_what_changes_no_result_reruns_nothing(project, override):
    assert set(project.planned(override)) <= {"audit", "all"}


@pytest.mark.parametrize(
    ("file", "rerun"),
    [
        ("evaluation/benchmarks/heldout.py", EVALUATED),
        ("evaluation/scoring.py", SCORED),
        ("evaluation/tables/latex.py", set()),
        ("audit/report.py", {"audit", "all"}),
        ("datacard/charts.py", {"data_card", "audit", "all"}),
        ("checkpoints/sce.py", None),
    ],
)
def test_code_reruns_the_stages_that_use_it(project, file, rerun):
    path = project.folder / "packages" / "qwenlong" / file
    text, times = path.read_text(encoding="utf-8"), os.stat(path)
    path.write_text(text + "\n# changed\n", encoding="utf-8")
    try:
        found = set(project.planned())
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    if rerun is None:
        assert "convert_1" in found and not found & {"corpus", "synthesis", "base", "score_1", "rl_1"}
    else:
        assert found == rerun
    assert project.planned() == {}


def test_the_resolved_configuration_is_kept_and_named_by_its_content(project):
    from qwenlong.core import config_files

    (file,) = (project.folder / "results/tiny/state/configs").glob("*.yaml")
    config = config_files.load(file)
    assert file.stem == config_files.digest(config)[:16]
    assert (config.run.name, config.tracking.enabled) == ("tiny", False)
    assert [row.name for row in config.ablations.rows] == ["token_clip_high_entropy"]
