"""Engine settings reach verl's keys, what does not fit is refused by name, and the committed expansion is today's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from published import SHAPE
from qwenlong.core import config_files
from qwenlong.core.config import RL_STAGES, Config, EngineConfig, StageConfig
from qwenlong.core.config.fit import engine_faults, model_faults, stage_faults
from qwenlong.core.errors import ConfigError
from qwenlong.training import memory
from qwenlong.training.verl_plugin import large_models
from qwenlong.training.verl_plugin.expand import expand, write
from qwenlong.training.verl_plugin.objective import loss_keys


@pytest.fixture(scope="module")
def paper(root):
    return config_files.load(root / "configs" / "paper.yaml")


@pytest.fixture(scope="module")
def committed(root):
    return {
        name: yaml.safe_load((root / "configs" / "expanded" / "paper" / f"{name}.yaml").read_text())
        for name in RL_STAGES
    }


def test_the_committed_expansion_is_todays(root, paper, tmp_path):
    source, folder = "configs/paper.yaml", "configs/expanded/paper"
    made = write(paper, source, tmp_path, check=False)
    assert [file.stem for file in made] == list(RL_STAGES)
    stale = []
    for file in made:
        head, body = file.read_text().split("\n", 1)
        known = root / folder / file.name
        if not known.is_file() or known.read_text().split("\n", 1)[1] != body:
            stale.append(file.name)
    command = f"qwenlong train expand --config {source} --out {folder}"
    assert not stale, f"{folder}: {', '.join(stale)} differ from what the code makes; look at it, then run: {command}"
    for file in (root / folder).glob("*.yaml"):
        text = file.read_text()
        assert text.startswith(f"# Generated: {command}\n")
        assert not any(line.split(": ", 1)[-1].startswith(("/", "~", "'/")) for line in text.splitlines())


def test_the_expansion_has_the_stages_lengths_and_eight_machines(committed):
    lengths = {"rl_1": (20, 12), "rl_2": (60, 20), "rl_3": (120, 50), "rl_4": (120, 50), "naive_grpo": (20, 12)}
    for name, whole in committed.items():
        model, actor, rollout = (whole["actor_rollout_ref"][key] for key in ("model", "actor", "rollout"))
        assert (whole["trainer"]["nnodes"], whole["trainer"]["n_gpus_per_node"]) == (8, 8)
        prompt, response = whole["data"]["max_prompt_length"], whole["data"]["max_response_length"]
        assert (prompt // 1000, response // 1000) == lengths.get(name, (128, 15))
        # A whole row fits a micro-batch in update and log-probabilities, and vLLM's window.
        assert actor["ppo_max_token_len_per_gpu"] * actor["ulysses_sequence_parallel_size"] >= prompt + response
        assert rollout["log_prob_max_token_len_per_gpu"] == actor["ppo_max_token_len_per_gpu"]
        assert rollout["max_model_len"] == prompt + response <= SHAPE["max_position_embeddings"]
        assert actor["use_dynamic_bsz"] and rollout["log_prob_use_dynamic_bsz"]
        assert model["use_fused_kernels"] and actor["use_fused_kernels"] and model["use_remove_padding"]
        assert model["fused_kernel_options"]["impl_backend"] == "triton"
        assert model["override_config"]["attn_implementation"] == "flash_attention_2"
        assert model["enable_gradient_checkpointing"] and actor["strategy"] == "fsdp2"
        assert actor["policy_loss"]["loss_mode"] == "qwenlong_group_token"
        assert whole["data"]["train_batch_size"] == 128 and rollout["n"] == 8
        assert whole["qwenlong"]["stage"]["max_input_tokens"] == prompt
        assert (whole["data"]["qwenlong"]["memory"] is not None) == (name == "memory_rl")


ENGINE = {"platform": "cuda", "nodes": 8, "gpus_per_node": 8, "tensor_parallel": 4, "sequence_parallel": 8}
ENGINE |= {"micro_batch_tokens": 22000, "attention": "flash_attention_2"}
LONG = StageConfig(max_input_tokens=120000, max_output_tokens=50000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sequence_parallel": 3, "micro_batch_tokens": 99999}, ("sequence_parallel = 3", "64", "divisor")),
        ({"attention": "sdpa"}, ("sequence_parallel = 8", "flash_attention_2")),
        ({"tensor_parallel": 3}, ("tensor_parallel = 3", "gpus_per_node 8")),
        ({"memory": {"activation_offload": True, "gradient_checkpointing": False}}, ("activation_offload", "both")),
        ({"memory": {"cpu_offload_policy": True, "optimizer_offload": True}}, ("cpu_offload_policy", "false")),
        ({"micro_batch_tokens": 21000}, ("rl_3", "170000 tokens", "168000", "21250")),
        ({"rollout": {"max_model_len": 131072}}, ("max_model_len is 131072", "170000")),
        ({"rollout": {"chunked_prefill": False}}, ("chunked_prefill", "8192", "170000")),
        ({"nodes": 7, "sequence_parallel": 8}, ("1024 rows", "7 data-parallel ranks", "group_size")),
        ({"platform": "cpu"}, ("sequence_parallel = 8", "cpu")),
        ({"platform": "cpu", "sequence_parallel": 1, "memory": {"head": "fused_torch"}}, ("head = fused_torch", "cpu")),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_value_and_remedy(tmp_path, change, words):
    assert engine_faults(EngineConfig(**ENGINE)) == stage_faults(EngineConfig(**ENGINE), LONG, "stages.rl_3") == []
    file = tmp_path / "c.yaml"
    stages = {"rl_3": LONG.model_dump(include={"max_input_tokens", "max_output_tokens"})}
    file.write_text(yaml.safe_dump({"engine": ENGINE | change, "stages": stages}))
    with pytest.raises(ConfigError) as caught:
        config_files.load(file)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "shape", "word"),
    [
        ({"sequence_parallel": 64}, {}, "32 attention heads"),
        ({"sequence_parallel": 8}, {"num_key_value_heads": 12, "num_attention_heads": 48}, "12 key-value heads"),
        ({"tensor_parallel": 8}, {"num_attention_heads": 12, "num_key_value_heads": 4}, "engine.tensor_parallel = 8"),
        ({"rollout": {"expert_parallel": True}}, {"num_experts": 6}, "6 experts"),
        ({"rollout": {"expert_parallel": True}}, {"num_experts": None}, "0 experts"),
        ({"rollout": {"precision": "fp8"}}, {"hidden_size": 576}, "576"),
        ({}, {"max_position_embeddings": 131072}, "131072 is below the 170000"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(change, shape, word):
    assert model_faults(EngineConfig(**ENGINE), 170000, SHAPE, "config.json") == []
    yarn = SHAPE | {"max_position_embeddings": 32768, "rope_scaling": {"rope_type": "yarn", "factor": 8.0}}
    assert model_faults(EngineConfig(**ENGINE), 170000, yarn, "config.json") == []
    faults = model_faults(EngineConfig(**(ENGINE | change)), 170000, SHAPE | shape, "config.json")
    assert any(word in fault and "config.json" in fault for fault in faults), faults


def test_the_check_before_a_run_reads_the_model(tmp_path, paper, monkeypatch):
    with pytest.raises(ConfigError, match="cannot be read"):
        large_models.check(paper, paper.stage("rl_3"), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    large_models.check(paper, paper.stage("rl_3"), tmp_path)
    auto = paper.model_copy(update={"engine": paper.engine.model_copy(update={"attention": "auto"})})
    monkeypatch.setattr(large_models.importlib.util, "find_spec", lambda name: None)
    assert large_models.attention(auto) == "sdpa"
    with pytest.raises(ConfigError, match="install flash-attn"):
        large_models.check(auto, paper.stage("rl_3"), tmp_path)
    monkeypatch.setattr(large_models.importlib.util, "find_spec", lambda name: object())
    assert large_models.attention(auto) == "flash_attention_2"
    assert large_models.attention(Config()) == "sdpa", "platform cpu has no other"


def test_each_setting_reaches_a_key_that_verl_has():
    """Every key that is set exists in verl's defaults, but for those that carry our own sections."""
    from qwenlong.training.verl_plugin.launch import build_config

    known = build_config({})
    engine = ENGINE | {
        "experts": "grouped_mm",
        "memory": {
            "gradient_checkpointing": True, "activation_offload": True, "parameter_offload": True,
            "optimizer_offload": True, "reshard_after_forward": False, "head": "chunked_entropy",
            "head_chunk_tokens": 77, "recompute_entropy": True,
        },
        "rollout": {
            "precision": "fp8", "max_model_len": 200000, "max_batched_tokens": 4096, "max_sequences": 3,
            "chunked_prefill": False, "prefix_caching": False, "expert_parallel": True,
        },
        "start_timeout_minutes": 7,
    }  # fmt: skip
    keys = large_models.keys(Config.model_construct(engine=EngineConfig(**engine)), prompt=5, response=6)
    fsdp, rollout, model = (
        "actor_rollout_ref.actor.fsdp_config.",
        "actor_rollout_ref.rollout.",
        "actor_rollout_ref.model.",
    )
    for name, value in {
        f"{model}enable_activation_offload": True, f"{model}use_fused_kernels": False,
        f"{model}override_config._experts_implementation": "grouped_mm",
        "actor_rollout_ref.actor.entropy_from_logits_with_chunking": True,
        "actor_rollout_ref.actor.entropy_from_logits_chunk_size": 77,
        "actor_rollout_ref.actor.entropy_checkpointing": True,
        f"{fsdp}param_offload": True, f"{fsdp}optimizer_offload": True, f"{fsdp}reshard_after_forward": False,
        f"{rollout}quantization": "fp8", f"{rollout}max_model_len": 200000, f"{rollout}max_num_batched_tokens": 4096,
        f"{rollout}max_num_seqs": 3, f"{rollout}enable_chunked_prefill": False,
        f"{rollout}enable_prefix_caching": False, f"{rollout}expert_parallel_size": 4,
        "trainer.ray_wait_register_center_timeout": 420,
    }.items():  # fmt: skip
        assert keys[name] == value, name
    # Fields of verl's classes that its YAML leaves out.
    unwritten = {f"{rollout}quantization", f"{model}override_config._experts_implementation"}
    unwritten |= {f"{model}override_config.attn_implementation"}
    for name in [*keys, *loss_keys(StageConfig(loss="clip_cov")), *loss_keys(StageConfig(loss="dapo"))]:
        node = known
        for part in () if name in unwritten else name.split("."):
            assert part in node, name
            node = node[part]


@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ("group_token", {"policy_loss.loss_mode": "qwenlong_group_token"}),
        (
            "dapo",
            {
                "policy_loss.loss_mode": "vanilla", "loss_agg_mode": "token-mean", "clip_ratio_c": 10.0,
                "clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28,
            },
        ),
        (
            "gspo",
            {
                "policy_loss.loss_mode": "gspo", "loss_agg_mode": "seq-mean-token-mean",
                "clip_ratio": 3e-4, "clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4,
            },
        ),
        (
            {"kind": "clip_cov", "share": 0.5, "covariance_low": 2, "covariance_high": 3, "clip_high": 0.4},
            {
                "policy_loss.loss_mode": "clip_cov", "loss_agg_mode": "token-mean", "policy_loss.clip_cov_ratio": 0.5,
                "policy_loss.clip_cov_lb": 2.0, "policy_loss.clip_cov_ub": 3.0,
                "clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.4,
            },
        ),
    ],
    ids=["group_token", "dapo", "gspo", "clip_cov"],
)  # fmt: skip
def test_a_loss_sets_verls_keys(loss, wanted):
    found = loss_keys(StageConfig(loss=loss, aepo=None))
    assert found == {f"actor_rollout_ref.actor.{name}": value for name, value in wanted.items()}


def test_unknown_losses_and_shrunk_denominators_are_refused(tmp_path):
    file = tmp_path / "c.yaml"
    for text, word in (
        ("training: {loss: ppo}", "gspo"),
        ("training: {loss: {kind: gspo, share: 1}}", "clip_high"),
        ("training: {loss: gspo, aepo: {denominator: surviving}}", "belongs to loss group_token"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=word):
            config_files.load(file)


def test_parameters_and_memory_of_the_published_model(paper):
    count = memory.parameters(SHAPE)
    # By hand: q and o of 2048 x 4096, k and v of 2048 x 512, two norms of 128; 128 experts of three 2048 x 768; router.
    layer = 2 * 2048 * 4096 + 2 * 2048 * 512 + 256 + 128 * 3 * 2048 * 768 + 2048 * 128 + 2 * 2048
    assert count["layer"] == layer and count["all"] == 48 * layer + 2 * 151936 * 2048 + 2048
    assert round(count["all"] / 1e9, 1) == 30.5
    found = memory.training_bytes(SHAPE, paper.engine, 170000)
    assert found["weights"] == pytest.approx(16 * count["all"] / 64)
    assert found["activations"] == 22000 * 2048 * 2 * 48
    logits = memory.training_bytes(
        SHAPE,
        paper.engine.model_copy(update={"memory": paper.engine.memory.model_copy(update={"head": "logits"})}),
        170000,
    )
    assert logits["head"] == 22000 * 151936 * (3 * 2 + 2 * 4) > 40e9 > 2e9 > found["head"]
    assert sum(found.values()) < 40e9
    rollout = memory.rollout_bytes(SHAPE, paper.engine, 170000)
    assert rollout["weights"] == pytest.approx(2 * count["all"] / 4)
    assert rollout["row"] == 170000 * 48 * 2 * 1 * 128 * 2
    fp8 = paper.engine.model_copy(update={"rollout": paper.engine.rollout.model_copy(update={"precision": "fp8"})})
    assert memory.rollout_bytes(SHAPE, fp8, 170000)["weights"] < 0.53 * rollout["weights"]


def test_a_dry_run_prints_the_whole_configuration(root, tmp_path):
    def run(*options):
        return subprocess.run(
            [
                sys.executable, "-m", "qwenlong", "train", "stage", "rl_1", "--config", "configs/tiny.yaml",
                "--samples", "s.parquet", "--documents", "d.parquet", "--model", "m", "--out", "o", *options,
            ],
            cwd=root, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    done = run("--dry-run", "--expanded")
    assert done.returncode == 0, done.stderr
    whole = yaml.safe_load(done.stdout)
    assert whole["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"] == "qwenlong_group_token"
    assert whole["data"]["train_files"] == "s.parquet" and "critic" in whole
    wrong = run("--expanded")
    assert wrong.returncode == 2 and "--dry-run" in wrong.stderr


def test_an_expansion_of_another_configuration_has_its_values(tmp_path):
    config = Config.model_validate({"training": {"loss": "gspo", "aepo": None, "truncated": "drop"}})
    paths = {name: tmp_path / name for name in ("samples", "documents", "model", "state")}
    whole = expand(config, "rl_1", config.stage("rl_1"), paths)
    assert whole.actor_rollout_ref.actor.loss_agg_mode == "seq-mean-token-mean"
    assert whole.qwenlong.stage.truncated == "drop" and whole.qwenlong.stage.loss.kind == "gspo"


def test_a_rollout_engine_on_a_shared_gpu_measures_nothing_and_starts_sooner():
    def keys(**rollout):
        engine = {"platform": "cuda", "micro_batch_tokens": 65536, "rollout": rollout}
        return large_models.keys(Config.model_validate({"engine": engine}), prompt=100, response=20)

    own = "actor_rollout_ref.rollout.engine_kwargs.vllm"
    assert own not in keys() and "actor_rollout_ref.rollout.cudagraph_capture_sizes" not in keys()
    chosen = keys(cache_mb=2048, graphs=(64, 8), compile=False)
    assert chosen["actor_rollout_ref.rollout.cudagraph_capture_sizes"] == [8, 64]
    assert chosen[own]["kv_cache_memory_bytes"] == 2 * 2**30
    # verl reads it as JSON, and adds to it.
    assert json.loads(chosen[own]["compilation_config"]) == {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
