"""Planning: the audit's jobs are Snakemake's, partial targets plan their own cone, the paper is planned in seconds."""

from __future__ import annotations

import resource

import pytest

from qwenlong.audit.planning import assumed, graph
from qwenlong.core.config_files import load

TARGETS = {
    "rl_stage_4": ["rl_4"],
    "convert": ["convert_4", "convert_memory", "convert_naive"],
    "table_9": ["paper_table table9"],
}


@pytest.mark.parametrize("config", ["configs/paper.yaml", "configs/laptop.yaml", "configs/tiny.yaml"])
def test_what_is_paid_for_is_what_snakemake_runs(plan, root, config):
    found = plan(config)
    ours = {node.name: set(node.parents) for node in graph.nodes(load(root / config), assumed.read())}
    # What is fetched costs no GPU, and a lease only waits for a service.
    free = ("fetch", "lease")
    theirs = {
        name: {parent for parent in parents if not parent.startswith(free)}
        for name, parents in found.edges.items()
        if name != "all" and not name.startswith(free)
    }
    assert ours == theirs


@pytest.mark.parametrize("target", TARGETS)
def test_a_partial_target_plans_its_own_cone(plan, target):
    """Exactly what the ends of the target need, of the DAG of the whole paper."""
    whole = plan("configs/paper.yaml").edges
    cone, open_names = set(), list(TARGETS[target])
    while open_names:
        name = open_names.pop()
        if name not in cone:
            cone.add(name)
            open_names += whole[name]
    # A name that only collects is a job itself.
    assert set(plan("configs/paper.yaml", target).jobs) - {target} == cone
    assert len(cone) < len(whole) / 4


def test_one_cell_plans_its_own_cone(plan):
    """The score of one ablation on one benchmark: one training run, none of the recipe's stages."""
    found = plan("configs/paper.yaml", "results/paper/ablations/grpo/evaluation/docmath/scores.json").jobs
    trained = {name for name in found if name.startswith(("ablation_", "rl_", "memory_rl", "naive_grpo"))}
    assert trained == {"ablation_grpo"} and len(found) < 40


def test_selection_runs_within_the_service_of_the_model_that_answers(plan):
    """The job waits and needs no GPU; without `selection.server` it loads the model itself."""
    models = {"verification": "base", "difficulty": "base", "score_1": "base", "score_2": "rl_1", "score_3": "rl_2"}
    for name, model in (models | {"score_4": "sce_merge"}).items():
        job = plan("configs/paper.yaml").jobs[name]
        command = job.command.split("export ", 1)[-1]
        assert f"qwenlong serve selection --model results/paper/models/{model} --config" in command
        assert command.index("qwenlong serve") < command.index(" -- qwenlong train ")
        assert "gres" not in job.resources and job.resources["mem_mb"] == 256000
        assert "qwenlong serve" not in plan("configs/laptop.yaml").jobs[name].command


def test_the_whole_paper_is_planned_within_fifteen_seconds(snakemake):
    """In CPU seconds, which other work on the machine does not change; wall time is in benchmarks/dag_overhead.md."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = snakemake("-n", "--profile", "cluster", "--configfile", "configs/paper.yaml")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "rl_4" in done.stdout and "evaluate_ablation_agent" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15
