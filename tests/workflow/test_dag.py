"""The DAG against the recipe, for the paper's configuration and the laptop's."""

from __future__ import annotations

import re

import pytest

from qwenlong.evaluation.registry import BENCHMARKS

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
# Rows of the paper's configuration alone: a run that Table 4 reads at two steps.
READ_AT = ("sequence_clip_low_entropy_step30", "sequence_clip_low_entropy_step40")
# Benchmarks of the paper beside our own samples: on every model; of Table 8 and of Table 9 (the agent) on two models.
SIX = ("docmath", "longbench_v2", "frames", "mrcr_0_128k", "corpusqa_128k", "longbench_v1_qa")
GENERAL = ("mmlu_pro", "aime24", "aime25", "gpqa_diamond", "longmemeval")
GENERAL += ("bfcl_v4_memory_kv", "bfcl_v4_memory_vector", "bfcl_v4_memory_rec_sum")
LONGER = ("mrcr_128k_512k", "mrcr_512k_1m", "corpusqa_1m", "corpusqa_4m")
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


def expected(rows, merges, paper=False):
    """The whole DAG with the audit at its end, which waits for the ablation rows and merges given.

    `paper`: with generated samples and the paper's benchmarks. Benchmarks' files are looked at by a test of their own.
    """
    edges = dict(RECIPE)
    if paper:
        # Agents and extracted triples, which only a configuration with endpoints asks for.
        asked = {"mase", "extract", "nl2sql"}
        edges |= {name: {"corpus"} for name in asked} | {"synthesis": RECIPE["synthesis"] | asked}
    full, agent = ("heldout", *SIX) if paper else ("heldout",), ("heldout_long",)
    agent += ("mrcr_512k_1m",) if paper else ()
    branch = {}

    def evaluate(rule, scoring, model, maker, benchmarks):
        for name in benchmarks:
            ours = {"synthesis"} if name.startswith("heldout") else set()
            branch[f"{rule} {model} {name}"] = {maker} | ours
            branch[f"{scoring} {model} {name}"] = {f"{rule} {model} {name}"} | ours

    for model, maker in MAKER.items():
        both = paper and model in ("base", "rl_4")
        evaluate("evaluate_full", "score_evaluation", model, maker, (*full, *(GENERAL if both else ())))
        longer = (*agent, *(LONGER if both else ()))
        evaluate("evaluate_agent", "score_evaluation", model, maker, longer if model != "naive_grpo" else ())
    for row in rows:
        branch[f"ablation_{row}"] = {"bins", "synthesis", "base"}
        branch[f"convert_ablation {row}"] = {f"ablation_{row}", "base"}
        evaluate("evaluate_ablation", "score_ablation", row, f"convert_ablation {row}", full)
    for row in merges:
        # {base, convert_3, convert_memory} -> merge, evaluated as the recipe's own
        branch[f"merge_ablation {row}"] = {"base", "convert_3", "convert_memory"}
        evaluate("evaluate_ablation", "score_ablation", row, f"merge_ablation {row}", full)
        evaluate("evaluate_ablation_agent", "score_ablation", row, f"merge_ablation {row}", agent)
    stages = {"rl_1", "rl_2", "rl_3", "memory_rl", "rl_4", "naive_grpo"}
    if paper:
        # Each RL job waits for the judge by a lease of its own.
        for job in (*stages, *(f"ablation_{row}" for row in rows)):
            lease = f"lease reward-judge {job}"
            branch[job] = {*(branch.get(job) or edges[job]), lease}
            branch[lease] = set()
    scores = {"score_1", "score_2", "score_3", "score_4"}
    selection = {"corpus", "synthesis", "data_card", "verification", "difficulty", "bins", "sce_merge"}
    last = {node for node in branch if node.startswith("score_")}
    audit = {"audit": {*stages, *scores, *selection, *last}, "all": {"audit"}}
    if paper:
        audit |= {f"paper_table {name}": table(name) for name in TABLES}
        audit["all"] |= {f"paper_table {name}" for name in TABLES}
    return edges | branch | audit


TABLES = ("table2", "table4", "table5", "table7", "table8", "table9", "table10", "table11", "table12")
#: Rows of the ablation tables that this project trains.
ABLATION_ROWS = {
    "table2": ("grpo", "task_balanced", "task_balanced_batch_std", "task_balanced_task_batch_std"),
    "table4": (
        "grpo",
        *(f"{level}_clip_{side}_entropy" for level in ("token", "sequence") for side in ("low", "high")),
    ),
    "table5": ("grpo", "aepo"),
}


def table(name, paper=True):
    """What a table of the paper reads."""
    both = ("base", "rl_4")
    if name in ABLATION_ROWS:
        trained = ABLATION_ROWS[name] + (READ_AT if paper and name == "table4" else ())
        rows = {f"score_ablation {row} {benchmark}" for row in trained for benchmark in SIX}
        return rows | {f"score_evaluation base {benchmark}" for benchmark in SIX}
    models, benchmarks = {
        "table7": (both, SIX),
        "table8": (both, GENERAL),
        "table9": (both, LONGER),
        "table10": (MODELS, (*SIX, "mrcr_512k_1m")),
        "table11": (both, ("longbench_v2",)),
        "table12": (both, ("longbench_v1_qa",)),
    }[name]
    pairs = {(model, benchmark) for model in models for benchmark in benchmarks}
    return {f"score_evaluation {m} {b}" for m, b in pairs - {("naive_grpo", "mrcr_512k_1m")}}


@pytest.mark.parametrize(
    ("config", "rows", "merges"),
    [("configs/paper.yaml", ROWS + READ_AT, MERGES), (None, (), ()), ("configs/h200.yaml", (), ())],
)
def test_nodes_and_edges_are_those_of_the_recipe(plan, config, rows, merges):
    found = plan(config)
    # Sources of documents feed the corpus; weights that come as a package (h200) feed tokenizer and base.
    edges = {
        name: {read for read in reads if not read.startswith("fetch")}
        for name, reads in found.edges.items()
        if name.split()[0] not in ("fetch", "fetch_benchmark", "corpus")
    }
    assert edges == expected(rows, merges, paper=config == "configs/paper.yaml")
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


def test_published_files_feed_asking_and_scoring_of_their_benchmark(plan):
    found = plan("configs/paper.yaml")
    for name, reads in found.edges.items():
        kind, *words = name.split()
        if kind.startswith(("evaluate_", "score_")) and words:
            fetched = {read.split()[1] for read in reads if read.startswith("fetch_benchmark ")}
            if words[-1].startswith("heldout") or words[-1] in found.run.evaluation.data:
                assert not fetched
            else:
                (source,) = fetched
                shared = BENCHMARKS[source].source == BENCHMARKS[words[-1]].source if source in BENCHMARKS else False
                assert source == words[-1] or shared
    command = found.jobs["evaluate_full base longbench_v2"].command
    assert "--documents" not in command and "data/cache/benchmarks/longbench_v2" in command
    # A given file need not be there for a plan.
    for name in ("evaluate_agent base corpusqa_4m", "score_evaluation base corpusqa_4m"):
        assert f" {found.run.evaluation.data['corpusqa_4m']} " in found.jobs[name].command
    assert "--documents" in found.jobs["evaluate_full base heldout"].command


def test_the_judge_is_scorings_alone(plan):
    jobs = plan("configs/paper.yaml").jobs
    assert jobs["evaluate_full base frames"].outputs == tuple(
        f"results/paper/evaluation/base/frames/{file}" for file in ("predictions.jsonl", "run.json")
    )
    assert jobs["score_evaluation base frames"].outputs == ("results/paper/evaluation/base/frames/scores.json",)
    assert all("--no-score" in job.command for name, job in jobs.items() if name.startswith("evaluate_"))

    # Only rules that ask the judge start it; a command names the configuration by its variable, which no change of a
    # setting changes.
    start = 'qwenlong serve evaluation-judge --config "$QWENLONG_CONFIG" -- qwenlong evaluate score'
    assert jobs["score_evaluation base frames"].command.count(start) == 1
    for benchmark in ("heldout", "mrcr_0_128k"):
        assert "qwenlong serve" not in jobs[f"score_evaluation base {benchmark}"].command
    asked = jobs["evaluate_full rl_4 frames"]
    assert 'qwenlong serve policy --model results/paper/models/rl_4 --config "$QWENLONG_CONFIG" --' in asked.command
    assert (
        "--base-url service:results/paper/state/services/policy-" in asked.command and "--model rl_4" in asked.command
    )
    assert "gres" not in asked.resources and "state/configs" not in asked.command
    assert "qwenlong serve" not in "".join(job.command for job in plan(None).jobs.values())


@pytest.mark.parametrize("number", [name.removeprefix("table") for name in TABLES])
def test_a_table_alone_plans_its_own_cells(plan, number):
    """Also where the configuration evaluates nothing else than held-out samples."""
    for config in ("configs/paper.yaml", None):
        found = plan(config, f"table_{number}")
        wanted = table(f"table{number}", paper=config is not None)
        assert found.edges[f"paper_table table{number}"] == wanted
        scored = {name for name in found.jobs if name.split()[0] in ("score_evaluation", "score_ablation")}
        assert scored == wanted
        assert "audit" not in found.jobs and not any("heldout" in name for name in scored)
    if number in ("9", "10"):
        assert "--agent" in found.jobs["evaluate_agent rl_4 mrcr_512k_1m"].command


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
        ("evaluate", "score_evaluation rl_4 heldout", "audit"),
        ("ablations", "score_ablation aepo heldout", "rl_4"),
        ("ablations", "score_ablation ties heldout_long", "sce_merge"),
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


def test_models_are_written_in_the_dtype_that_the_run_names(plan):
    """The base model's command reads it from the configuration."""
    writers = {f"convert_{name}" for name in ("1", "2", "3", "4", "memory", "naive", "ablation")}
    writers |= {"sce_merge", "merge_ablation"}
    for config, wanted in (("configs/h200.yaml", " --dtype bfloat16 > "), ("configs/paper.yaml", " > ")):
        found = [job for job in plan(config, "evaluate", "ablations").jobs.values() if job.rule in writers]
        assert {job.rule for job in found} == writers
        for job in found:
            assert wanted in job.command and job.command.count("--dtype") == wanted.count("--dtype"), job.name


def test_every_rule_has_log_benchmark_resources_and_a_code_digest(root):
    found = 0
    for file in sorted(root.glob("workflow/rules/*.smk")):
        if file.name == "targets.smk":
            continue
        text = file.read_text(encoding="utf-8")
        for block in re.split(r"(?m)^\s*rule\b|^use rule", text)[1:]:
            name = block.strip().split("\n")[0]
            if re.match(r" ?(evaluate_full|evaluate_agent|score_evaluation) as", block):
                continue  # inherits what it does not set
            keys = re.findall(r"(?m)^ {4,8}(input|output|log|benchmark|threads|resources|params|shell):", block)
            order = ["input", "output", "log", "benchmark", "threads", "resources", "params", "shell"]
            assert keys == [key for key in order if key in keys], f"{file.name}: {name}: keys stand as {keys}"
            assert set(order[1:]) <= set(keys), f"{file.name}: {name}: lacks {set(order) - set(keys)}"
            assert re.search(r"code=(code|module)_digest\(", block), f"{file.name}: {name}: no code digest"
            found += 1
    assert found == 25
