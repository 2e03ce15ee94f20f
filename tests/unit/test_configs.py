"""Every shipped configuration loads; generated ones are those of the models; the paper's values are the paper's."""

from __future__ import annotations

import json

import pytest
import yaml

from qwenlong.core import config_files
from qwenlong.core.config import Config, EngineConfig
from qwenlong.core.config.fit import engine_faults

SHIPPED = ("default", "laptop", "tiny", "nano", "nano_rl", "entropy_control", "h200", "h200_nano", "cpu_nano", "paper")
ROWS = {
    # Row: tables, balanced, advantage, clipping (level, side), AEPO.
    "grpo": ({"table2", "table4", "table5"}, False, "grpo", None, False),
    "task_balanced": ({"table2"}, True, "grpo", None, False),
    "task_balanced_batch_std": ({"table2"}, True, "batch_std", None, False),
    "task_balanced_task_batch_std": ({"table2"}, True, "task_std", None, False),
    "token_clip_low_entropy": ({"table4"}, False, "grpo", ("token", "low"), False),
    "token_clip_high_entropy": ({"table4"}, False, "grpo", ("token", "high"), False),
    "sequence_clip_low_entropy": ({"table4"}, False, "grpo", ("sequence", "low"), False),
    "sequence_clip_high_entropy": ({"table4"}, False, "grpo", ("sequence", "high"), False),
    "aepo": ({"table5"}, False, "grpo", None, True),
    "aepo_balanced_task_std": ({"extra"}, True, "task_std", None, True),
    "aepo_released": ({"extra"}, False, "grpo", None, True),
    "dapo": ({"extra"}, False, "grpo", None, False),
    "gspo": ({"extra"}, False, "grpo", None, False),
    "clip_cov": ({"extra"}, False, "grpo", None, False),
}
# Rows that end at a step at which Table 4 reads one of the above.
READ_AT = {f"sequence_clip_low_entropy_step{step}": step for step in (30, 40)}
# Published values of the losses that verl has; all other rows train with Eq. 4's.
LOSSES = {
    "dapo": {"kind": "dapo", "clip_low": 0.2, "clip_high": 0.28, "dual_clip": 10.0},
    "gspo": {"kind": "gspo", "clip_low": 3e-4, "clip_high": 4e-4},
    "clip_cov": {
        "kind": "clip_cov",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "share": 2e-4,
        "covariance_low": 1.0,
        "covariance_high": 5.0,
    },
}
K = 1000


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_load_and_survive_a_round_trip(root, tmp_path, name):
    config = config_files.load(root / "configs" / f"{name}.yaml")
    copy = tmp_path / "copy.yaml"
    copy.write_text(config_files.dump(config))
    assert config_files.load(copy) == config
    # Results of two runs never share a folder.
    assert config.run.results == f"results/{'laptop' if name == 'default' else name}"


def test_no_configuration_is_left_out(root):
    assert {file.stem for file in (root / "configs").glob("*.yaml")} == set(SHIPPED)
    assert {file.stem for file in (root / "configs" / "ablations").glob("*.yaml")} == {*ROWS, *READ_AT}


@pytest.mark.parametrize(
    ("file", "text"), [("default.yaml", config_files.dump(Config())), ("schema.json", config_files.schema())]
)
def test_generated_files_are_those_of_the_models(root, file, text):
    found = (root / "configs" / file).read_text(encoding="utf-8").rstrip()
    assert found == text.rstrip(), (
        f"configs/{file} is not what qwenlong.core.config says: run `make config` and commit it"
    )


def test_schema_describes_every_key(root):
    schema = json.loads((root / "configs" / "schema.json").read_text(encoding="utf-8"))
    bare = [
        f"{name}.{key}"
        for name, section in schema["$defs"].items()
        for key, value in section.get("properties", {}).items()
        if not value.get("description")
    ]
    assert bare == []


def test_a_partial_section_of_a_stage_keeps_the_rest_of_training():
    config = Config.model_validate(
        {
            "training": {"aepo": {"low": 0.3, "high": 0.4}, "divergence": {"patience": 3}},
            "stages": {"rl_1": {"aepo": {"variant": "released"}}, "rl_2": {"aepo": None, "divergence": {"window": 2}}},
        }
    )
    first, second = config.stage("rl_1"), config.stage("rl_2")
    assert (first.aepo.low, first.aepo.high, first.aepo.variant) == (0.3, 0.4, "released")
    assert second.aepo is None and (second.divergence.patience, second.divergence.window) == (3, 2)


@pytest.mark.parametrize("config", ["laptop", "h200", "h200_nano", "paper"])
def test_ablation_rows_are_those_of_the_tables(root, config):
    found = config_files.load(root / "configs" / f"{config}.yaml")
    short = {row.name for row in found.ablations.rows} & set(READ_AT)
    assert {row.name for row in found.ablations.rows} - short == set(ROWS)
    assert short == (set(READ_AT) if config in ("h200_nano", "paper") else set())
    for name in short:
        whole = found.ablation("sequence_clip_low_entropy").model_dump()
        assert found.ablation(name).model_dump() == whole | {"steps": READ_AT[name]}
    for row in found.ablations.rows:
        if row.name in short:
            assert row.tables == ("table4",)
            continue
        tables, balanced, advantage, clipping, aepo = ROWS[row.name]
        stage = found.ablation(row.name)
        assert set(row.tables) == tables
        assert (stage.balanced, stage.advantage, stage.aepo is not None) == (balanced, advantage, aepo)
        assert (stage.clipping and (stage.clipping.level, stage.clipping.side)) == clipping
        assert stage.steps == found.ablations.stage.steps
        assert stage.loss.model_dump() == LOSSES.get(row.name, {"kind": "group_token"})
        if aepo:
            released = {"variant": "released", "denominator": "surviving"} if row.name == "aepo_released" else {}
            assert stage.aepo == found.training.aepo.model_copy(update=released)


def test_entropy_control_compares_rows_that_differ_in_aepo_alone(root):
    config = config_files.load(root / "configs" / "entropy_control.yaml")
    grpo, aepo = (config.ablation(name).model_dump() for name in ("grpo", "aepo"))
    assert {key for key in grpo if grpo[key] != aepo[key]} == {"aepo"}
    assert grpo["aepo"] is None and aepo["aepo"]["variant"] == "paper"
    # The counting is fixed beside it: seeds once each, and from a step that is there.
    protocol = yaml.safe_load((root / "benchmarks" / "entropy_control.yaml").read_text(encoding="utf-8"))
    assert len(set(protocol["seeds"])) == len(protocol["seeds"]) >= 3
    assert 1 <= protocol["first_step"] <= grpo["steps"]


def test_paper_has_the_papers_values(root):
    config = config_files.load(root / "configs" / "paper.yaml")
    assert config.base.path == "Qwen/Qwen3-30B-A3B-Thinking-2507"
    lengths = {"rl_1": (20, 12), "rl_2": (60, 20), "rl_3": (120, 50), "rl_4": (120, 50), "naive_grpo": (20, 12)}
    for name, (most_in, most_out) in lengths.items():
        stage = config.stage(name)
        assert (stage.max_input_tokens, stage.max_output_tokens) == (most_in * K, most_out * K)
    memory = config.stage("memory_rl").memory
    assert (memory.max_document_tokens, memory.chunk_tokens, memory.memory_tokens) == (128 * K, 32 * K, 15 * K)
    for name in (*lengths, "memory_rl"):
        stage = config.stage(name)
        assert (stage.group_size, stage.batch_prompts, stage.learning_rate) == (8, 128, 2e-6)
        assert (stage.temperature, stage.top_p) == (0.7, 0.95)
    for name in ("rl_1", "rl_2", "rl_3", "rl_4"):
        stage = config.stage(name)
        assert stage.balanced and stage.advantage == "task_std"
        assert (stage.aepo.low, stage.aepo.high, stage.aepo.denominator, stage.aepo.variant) == (
            0.14,
            0.25,
            "kept",
            "paper",
        )
    for name in ("naive_grpo", "memory_rl"):
        stage = config.stage(name)
        assert (stage.balanced, stage.advantage, stage.aepo) == (False, "grpo", None)
    evaluation = config.evaluation
    assert (evaluation.max_input_tokens, evaluation.max_output_tokens) == (128 * K, 50 * K)
    assert (evaluation.temperature, evaluation.top_p) == (0.7, 0.95)
    assert (config.llm.reward_judge.model, config.llm.evaluation_judge.model) == ("gpt-oss-120b", "DeepSeek-V3")
    assert (config.merge.select_top, config.merge.base) == (1.0, "base")
    assert config.synthesis.samples_per_task * len(config.synthesis.tasks) == 42_700
    assert config.ablation("grpo").steps == 45


@pytest.mark.parametrize("name", ["laptop", "tiny", "h200", "h200_nano", "paper"])
def test_sizes_fit_the_window(root, name):
    config = config_files.load(root / "configs" / f"{name}.yaml")
    for stage in ("rl_1", "rl_2", "rl_3", "rl_4", "naive_grpo"):
        found = config.stage(stage)
        assert found.max_input_tokens + found.max_output_tokens <= config.base.window
        # One optimizer step a batch, every task in it.
        assert found.batch_prompts >= len(config.synthesis.tasks)
    assert config.evaluation.max_input_tokens + config.evaluation.max_output_tokens <= config.base.window
    # The memory agent is tested on what the window does not hold.
    assert config.synthesis.long_length_target > config.base.window


def test_assumed_and_conflicting_values_of_the_paper_are_marked(root):
    text = (root / "configs" / "paper.yaml").read_text(encoding="utf-8")
    marked = {}
    for line in text.splitlines():
        if ":" in line and "#" in line:
            marked[line.split(":")[0].strip()] = line.split("#", 1)[1]
    for key in (
        "steps",
        "batch_prompts",
        "low",
        "high",
        "select_top",
        "base",
        "answer_tokens",
        "k",
        "bins",
        "max_input_tokens",
    ):
        assert "[assumed" in marked[key] or "[conflict" in marked[key], f"{key} carries no mark"
    assert yaml.safe_load(text)["run"]["name"] == "paper"


@pytest.mark.parametrize(
    ("engine", "packs"),
    [
        ({"platform": "cuda"}, True),
        ({"platform": "cuda", "packed": False}, False),
        ({"platform": "cuda", "sequence_parallel": 2}, False),
        ({"platform": "cuda", "memory": {"head": "fused_triton"}}, False),
        ({"platform": "cpu", "packed": False}, True),
    ],
)
def test_rows_are_packed_unless_something_excludes_it(engine, packs):
    assert EngineConfig.model_validate(engine).packs is packs


def test_packed_rows_exclude_other_heads():
    with pytest.raises(ValueError, match="packed rows"):
        EngineConfig.model_validate({"platform": "cuda", "packed": True, "memory": {"head": "fused_torch"}})


def test_packed_rows_may_be_shared_by_gpus():
    shared = {"platform": "cuda", "gpus_per_node": 2, "sequence_parallel": 2, "attention": "sdpa"}
    assert engine_faults(EngineConfig.model_validate(shared | {"packed": True})) == []
    # verl's own engine exchanges heads inside flash attention only.
    assert "flash_attention_2" in engine_faults(EngineConfig.model_validate(shared))[0]
