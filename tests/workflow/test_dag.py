"""The DAG against the recipe, for the paper's configuration and the laptop's."""

from __future__ import annotations

import re

import pytest

MODELS = ("base", "naive_grpo", "rl_1", "rl_2", "rl_3", "memory_rl", "sce_merge", "rl_4")
ROWS = (
    "grpo",
    "task_balanced",
    "task_balanced_batch_std",
    "task_balanced_task_batch_std",
    "token_clip_low_entropy",
    "token_clip_high_entropy",
    "sequence_clip_low_entropy",
    "sequence_clip_high_entropy",
    "aepo",
    "aepo_balanced_task_std",
    "aepo_released",
    "dapo",
    "gspo",
    "clip_cov",
)
MERGES = ("linear", "task_arithmetic", "ties", "dare_ties", "sce_half")
# The rule that makes each model.
MAKER = {
    "base": "base",
    "naive_grpo": "convert_naive",
    "rl_1": "convert_1",
    "rl_2": "convert_2",
    "rl_3": "convert_3",
    "memory_rl": "convert_memory",
    "sce_merge": "sce_merge",
    "rl_4": "convert_4",
}

# Node: what it reads from. The specification's section on the pipeline, spelled out.
RECIPE = {
    "tokenizer": {"corpus"},
    "synthesis": {"corpus", "tokenizer"},
    "base": {"synthesis", "tokenizer"},
    "verification": {"synthesis", "base"},
    "difficulty": {"verification", "synthesis", "base"},
    "bins": {"difficulty"},
    "data_card": {"corpus", "synthesis", "verification", "difficulty", "bins"},
    # base -> score_1 -> rl_1 -> convert_1 -> score_2 -> rl_2 -> convert_2 -> score_3 -> rl_3 -> convert_3
    "score_1": {"bins", "synthesis", "base"},
    "rl_1": {"score_1", "synthesis", "base"},
    "convert_1": {"rl_1", "base"},
    "score_2": {"bins", "synthesis", "convert_1"},
    "rl_2": {"score_2", "synthesis", "convert_1"},
    "convert_2": {"rl_2", "convert_1"},
    "score_3": {"bins", "synthesis", "convert_2"},
    "rl_3": {"score_3", "synthesis", "convert_2"},
    "convert_3": {"rl_3", "convert_2"},
    # -> memory_rl -> convert_memory
    "memory_rl": {"synthesis", "convert_3"},
    "convert_memory": {"memory_rl", "convert_3"},
    # {base, convert_3, convert_memory} -> sce_merge -> score_4 -> rl_4 -> convert_4
    "sce_merge": {"base", "convert_3", "convert_memory"},
    "score_4": {"bins", "synthesis", "sce_merge"},
    "rl_4": {"score_4", "synthesis", "sce_merge"},
    "convert_4": {"rl_4", "sce_merge"},
    # base -> naive_grpo -> convert_naive
    "naive_grpo": {"bins", "synthesis", "base"},
    "convert_naive": {"naive_grpo", "base"},
}


def expected(rows, merges, generated=False):
    """The whole DAG with the audit at its end, which waits for the ablation rows and merges given."""
    edges = dict(RECIPE)
    if generated:
        # Agents and extracted triples, which only a configuration with endpoints asks for.
        asked = {"mase", "extract", "nl2sql"}
        edges |= {name: {"corpus"} for name in asked} | {"synthesis": RECIPE["synthesis"] | asked}
    full = {f"evaluate_full {model} heldout": {"synthesis", maker} for model, maker in MAKER.items()}
    agent = {
        f"evaluate_agent {model} heldout_long": {"synthesis", maker}
        for model, maker in MAKER.items()
        if model != "naive_grpo"
    }
    branch = {}
    for row in rows:
        branch[f"ablation_{row}"] = {"bins", "synthesis", "base"}
        branch[f"convert_ablation {row}"] = {f"ablation_{row}", "base"}
        branch[f"evaluate_ablation {row} heldout"] = {"synthesis", f"convert_ablation {row}"}
    for row in merges:
        # {base, convert_3, convert_memory} -> merge, evaluated as the recipe's own
        branch[f"merge_ablation {row}"] = {"base", "convert_3", "convert_memory"}
        branch[f"evaluate_ablation {row} heldout"] = {"synthesis", f"merge_ablation {row}"}
        branch[f"evaluate_ablation_agent {row} heldout_long"] = {"synthesis", f"merge_ablation {row}"}
    stages = {"rl_1", "rl_2", "rl_3", "memory_rl", "rl_4", "naive_grpo"}
    scores = {"score_1", "score_2", "score_3", "score_4"}
    selection = {"corpus", "synthesis", "data_card", "verification", "difficulty", "bins", "sce_merge"}
    last = {node for node in branch if node.startswith("evaluate_")}
    audit = {"audit": {*stages, *scores, *selection, *full, *agent, *last}, "all": {"audit"}}
    return edges | full | agent | branch | audit


@pytest.mark.parametrize(
    ("config", "rows", "merges"),
    [("configs/paper.yaml", ROWS, MERGES), (None, (), ()), ("configs/h200.yaml", (), ())],
)
def test_nodes_and_edges_are_those_of_the_recipe(plan, config, rows, merges):
    found = plan(config)
    # Sources of documents feed the corpus; weights that come as a package (h200) feed tokenizer and base.
    edges = {
        name: {read for read in reads if not read.startswith("fetch ")}
        for name, reads in found.edges.items()
        if name.split()[0] not in ("fetch", "corpus")
    }
    assert edges == expected(rows, merges, generated=config == "configs/paper.yaml")
    assert found.edges["corpus"] == {f"fetch {source}" for source in found.run.corpus.sources}


def test_what_was_generated_is_handed_on_and_outlives_its_outputs(plan):
    jobs = plan("configs/paper.yaml", "synthesis").jobs
    results = "results/paper"
    assert {f"{results}/generation/{f}" for f in ("mase/candidates.jsonl", "extract/edges.jsonl")} <= set(
        jobs["synthesis"].inputs
    )
    for name, option in (("mase", "candidates.jsonl"), ("extract", "edges.jsonl")):
        outputs = jobs[name].outputs
        assert any(file.endswith(option) for file in outputs)
        journal = re.search(r"--journal (\S+) ", jobs[name].command)[1]
        assert journal == f"{results}/state/generation/{name}" and not any(f.startswith(journal) for f in outputs)
    words = jobs["synthesis"].command.split()
    assert words[words.index("--candidates") + 1] == f"{results}/generation/mase/candidates.jsonl"
    assert words[words.index("--edges") + 1] == f"{results}/generation/extract/edges.jsonl"


def test_a_laptop_asks_no_model(plan):
    jobs = plan(None).jobs
    assert {"mase", "extract", "nl2sql"}.isdisjoint(jobs)
    assert "--candidates" not in jobs["synthesis"].command and "''" not in jobs["synthesis"].command


def test_eight_models_are_evaluated_and_all_but_naive_grpo_through_the_agent(plan):
    jobs = plan("configs/paper.yaml", "evaluate").jobs
    assert {name.split()[1] for name in jobs if name.startswith("evaluate_full")} == set(MODELS)
    assert {name.split()[1] for name in jobs if name.startswith("evaluate_agent")} == set(MODELS) - {"naive_grpo"}


@pytest.mark.parametrize(
    ("target", "last", "absent"),
    [
        ("corpus", "corpus", "synthesis"),
        ("synthesis", "synthesis", "base"),
        ("data_card", "data_card", "score_1"),
        ("rl_stage_1", "rl_1", "convert_1"),
        ("rl_stage_2", "rl_2", "convert_2"),
        ("rl_stage_3", "rl_3", "convert_3"),
        ("rl_stage_4", "rl_4", "convert_4"),
        ("memory_rl", "memory_rl", "convert_memory"),
        ("merge", "sce_merge", "score_4"),
        ("convert", "convert_4", "evaluate_full base heldout"),
        ("evaluate", "evaluate_full rl_4 heldout", "audit"),
        ("ablations", "evaluate_ablation aepo heldout", "rl_4"),
        ("ablations", "evaluate_ablation_agent ties heldout_long", "sce_merge"),
        ("audit", "audit", "all"),
    ],
)
def test_named_targets_end_where_they_say(plan, target, last, absent):
    jobs = plan(None, target).jobs
    assert last in jobs
    assert absent not in jobs


def test_every_ablation_row_is_trained_converted_and_evaluated(plan):
    jobs = plan(None, "ablations").jobs
    for row in ROWS:
        assert {f"ablation_{row}", f"convert_ablation {row}", f"evaluate_ablation {row} heldout"} <= set(jobs)


def test_every_merge_row_is_merged_and_evaluated_as_the_recipes_own(plan):
    jobs = plan(None, "ablations").jobs
    for row in MERGES:
        assert f"--ablation {row} " in jobs[f"merge_ablation {row}"].command
        assert "--agent" not in jobs[f"evaluate_ablation {row} heldout"].command
        assert "--agent" in jobs[f"evaluate_ablation_agent {row} heldout_long"].command
    # The same models in the same order as the recipe's own merge: weights are given in it.
    own = plan(None, "merge").jobs["sce_merge"]
    experts = [word for word in own.command.split() if "/models/" in word]
    assert [word for word in jobs["merge_ablation ties"].command.split() if "/models/" in word] == experts[:3]


def test_every_rule_has_log_benchmark_resources_and_a_code_digest(root):
    found = 0
    for file in sorted(root.glob("workflow/rules/*.smk")):
        if file.name == "targets.smk":
            continue
        text = file.read_text(encoding="utf-8")
        for block in re.split(r"(?m)^\s*rule\b|^use rule", text)[1:]:
            name = block.strip().split("\n")[0]
            if re.match(r" ?evaluate_(full|agent) as", block):
                continue  # inherits what it does not set
            keys = re.findall(r"(?m)^ {4,8}(input|output|log|benchmark|threads|resources|params|shell):", block)
            order = ["input", "output", "log", "benchmark", "threads", "resources", "params", "shell"]
            assert keys == [key for key in order if key in keys], f"{file.name}: {name}: keys stand as {keys}"
            assert set(order[1:]) <= set(keys), f"{file.name}: {name}: lacks {set(order) - set(keys)}"
            assert re.search(r"code=(code|module)_digest\(", block), f"{file.name}: {name}: no code digest"
            found += 1
    assert found == 21
