"""One RL stage from start to end: verl's configuration, Ray, training, export. Runs in the calling process."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

from qwenlong.core.config import Config, StageConfig
from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import (
    atomic_directory,
    digest_path,
    digest_value,
    disk_full,
    read_json,
    remove_partials,
    write_json,
)
from qwenlong.core.llm.places import anchored
from qwenlong.core.processes import lock
from qwenlong.core.seeds import derive
from qwenlong.core.tracking import flatten
from qwenlong.training import rollout_log, similarity
from qwenlong.training.divergence import Diverged
from qwenlong.training.verl_plugin import large_models, weight_address
from qwenlong.training.verl_plugin.checkpoint import METRICS, latest, step_of
from qwenlong.training.verl_plugin.objective import loss_keys
from qwenlong.training.verl_plugin.preemption import WATCH, Preempted

MODULES = "qwenlong.training.verl_plugin.register"
#: Free bytes below which a failure is put down to the disk.
_FULL = 2**20
CPU_PLATFORM = "qwenlong.training.cpu_platform.platform"
CUDA_ENGINE = "qwenlong.training.verl_plugin.cuda_engine"


def environment(config: Config) -> dict[str, str]:
    """Return the environment variables that every process of the run needs before it imports verl."""
    cpu = config.engine.platform == "cpu"
    ours = [CPU_PLATFORM, MODULES] if cpu else [MODULES, *[CUDA_ENGINE] * config.engine.packs]
    # Modules that the environment names already are somebody's own extension: kept, and loaded after ours.
    named = [m.strip() for m in os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",")]
    variables = {
        "VERL_USE_EXTERNAL_MODULES": ",".join(dict.fromkeys([*ours, *(m for m in named if m)])),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_DASHBOARD": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # An idle worker for each core, none of which is used: verl's have an environment of their own.
        "RAY_prestart_worker_first_driver": "0",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "disabled",
        "TQ_NUM_THREADS": str(min(8, os.cpu_count() or 1)),
        "PYTHONHASHSEED": "0",
        # verl warns about each engine that is not installed, in every process.
        "PYTHONWARNINGS": "ignore::UserWarning",
        "VERL_LOGGING_LEVEL": os.environ.get("VERL_LOGGING_LEVEL", "WARNING"),
    }
    if cpu:
        variables |= {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
        variables["OMP_WAIT_POLICY"] = "PASSIVE"
        variables["QWENLONG_ROLLOUT_THREADS"] = variables["OMP_NUM_THREADS"]
    else:
        variables[large_models.COLLECTIVE_TIMEOUT] = str(config.engine.collective_timeout_minutes)
    return variables | config.engine.ray.variables()


def overrides(
    config: Config, stage: StageConfig, *, samples: Path, documents: Path, model: Path, state: Path, resume: Path | None
) -> dict[str, Any]:
    """Return verl's keys that differ from its defaults, by dotted name. Paths must be absolute."""
    engine = config.engine
    cpu = engine.platform == "cpu"
    memory = stage.memory
    prompt, response = stage.row_limits
    # Rows differ in number and length (turns!), so micro-batches are filled by tokens, at least one whole row each.
    # verl multiplies the number by the sequence-parallel size.
    micro = max(engine.micro_batch_tokens, -(-(prompt + response) // engine.sequence_parallel))
    precision = {"float32": "fp32", "bfloat16": "bf16"}[engine.dtype]
    actor = "actor_rollout_ref.actor"
    rollout = "actor_rollout_ref.rollout"
    seed = derive(config.run.seed, "verl") % 2**31
    return {
        "data.train_files": str(samples),
        "data.val_files": str(samples),
        "data.train_batch_size": stage.batch_prompts,
        "data.max_prompt_length": prompt,
        "data.max_response_length": response,
        "data.dataloader_num_workers": 0,
        "data.filter_overlong_prompts": False,
        "data.custom_cls.path": "pkg://qwenlong.training.verl_plugin.dataset",
        "data.custom_cls.name": "SampleDataset",
        "data.qwenlong": {
            "documents": str(documents),
            "tokenizer": str(model),
            "max_input_tokens": stage.max_input_tokens,
            "max_output_tokens": stage.max_output_tokens,
            "memory": memory.model_dump() if memory is not None else None,
            "judge": config.llm.reward_judge.model_dump() if config.llm.reward_judge else None,
            "seed": config.run.seed,
        },
        "actor_rollout_ref.model.path": str(model),
        "actor_rollout_ref.model.use_remove_padding": not cpu,
        f"{actor}.strategy": "fsdp2",
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.use_torch_compile": False,
        f"{actor}.fsdp_config.model_dtype": "fp32",
        f"{actor}.fsdp_config.mixed_precision": {
            "param_dtype": precision,
            "reduce_dtype": "fp32",
            "buffer_dtype": "fp32",
        },
        f"{actor}.fsdp_config.seed": seed,
        f"{actor}.ulysses_sequence_parallel_size": engine.sequence_parallel,
        f"{actor}.ppo_mini_batch_size": stage.batch_prompts,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": micro,
        f"{actor}.ppo_epochs": 1,
        f"{actor}.shuffle": False,
        f"{actor}.data_loader_seed": seed,
        f"{actor}.optim.lr": stage.learning_rate,
        f"{actor}.optim.lr_scheduler_type": "constant",
        f"{actor}.optim.lr_warmup_steps": 0,
        f"{actor}.grad_clip": stage.max_grad_norm,
        f"{actor}.use_kl_loss": False,
        f"{actor}.entropy_coeff": 0,
        f"{rollout}.name": "hf_cpu" if cpu else "vllm",
        f"{rollout}.n": stage.group_size,
        f"{rollout}.temperature": stage.temperature,
        f"{rollout}.top_p": stage.top_p,
        f"{rollout}.seed": seed,
        f"{rollout}.tensor_model_parallel_size": engine.tensor_parallel,
        f"{rollout}.gpu_memory_utilization": engine.gpu_memory_utilization,
        f"{rollout}.enforce_eager": engine.enforce_eager,
        f"{rollout}.free_cache_engine": engine.release_rollout_memory and not cpu,
        f"{rollout}.log_prob_use_dynamic_bsz": True,
        f"{rollout}.log_prob_max_token_len_per_gpu": micro,
        f"{rollout}.agent.num_workers": 1 if cpu else engine.nodes * engine.rollout.agent_workers,
        f"{rollout}.agent.default_agent_loop": "qwenlong_memory" if memory is not None else "qwenlong_single",
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": False,
        # Rewards come from the agent loop, so verl's own reward workers have nothing to do.
        "reward.num_workers": 0,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "trainer.v1.trainer_mode": "qwenlong",
        "trainer.device": engine.platform,
        "trainer.n_gpus_per_node": engine.gpus_per_node,
        "trainer.nnodes": engine.nodes,
        # MLflow has its metrics from the trainer, through the stage's own run: verl's logger ends with the server.
        "trainer.logger": ["console"],
        "trainer.project_name": config.run.name,
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.total_epochs": 10**9,
        "trainer.total_training_steps": stage.steps,
        "trainer.save_freq": stage.save_every,
        "trainer.default_local_dir": str(state),
        "trainer.resume_mode": "resume_path" if resume is not None else "disable",
        "trainer.resume_from_path": str(resume) if resume is not None else None,
        "ray_kwargs.ray_init.num_cpus": max(8, (os.cpu_count() or 1)) if engine.nodes == 1 else None,
        "ray_kwargs.ray_init.num_gpus": engine.gpus_per_node if cpu else None,
        "ray_kwargs.ray_init.include_dashboard": False,
        "ray_kwargs.ray_init.object_store_memory": engine.object_store_mb * 2**20 if engine.nodes == 1 else None,
        "qwenlong": {
            "stage": stage.model_dump(mode="json"),
            "seed": derive(config.run.seed, "sampler"),
            "metrics": str(state / "metrics.jsonl"),
            "packed": engine.packs,
        },
        **loss_keys(stage),
        **large_models.keys(config, prompt=prompt, response=response),
    }


def build_config(values: dict[str, Any]) -> Any:
    """Return verl's whole configuration with `values` set. Raises QwenlongError when verl is not installed."""
    import importlib.util

    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise QwenlongError("verl is not installed; install the lock file of this platform (make setup)")
    folder = Path(list(spec.submodule_search_locations)[0]) / "trainer" / "config"
    with initialize_config_dir(str(folder), version_base=None):
        config = compose("ppo_trainer")
    OmegaConf.set_struct(config, False)
    for name, value in values.items():
        OmegaConf.update(config, name, value, merge=False, force_add=True)
    return config


class Stage:
    """One stage's identity, state folder and progress."""

    def __init__(
        self, name: str, config: Config, stage: StageConfig, *, samples: Path, documents: Path, model: Path, out: Path
    ) -> None:
        self.name, self.config, self.stage = name, config, stage
        self.samples, self.documents, self.model = samples.resolve(), documents.resolve(), model.resolve()
        self.out = out
        # Checkpoints belong to these inputs and settings; others' are not resumed.
        self.key = digest_value(
            {
                # When to stop and to save is no property of a checkpoint: with other bounds the stage goes on from it.
                "stage": stage.model_dump(mode="json", exclude={"divergence", "save_every"}),
                "seed": config.run.seed,
                "inputs": [digest_path(p) for p in (samples, documents, model)],
            }
        )[:16]
        root = Path(config.run.results).resolve() / "state" / "stages" / name
        # Two trainers on one folder would write into each other's checkpoints.
        lock(root.with_suffix(".lock"), f"trainer of {name}", root)
        self.state = root / self.key
        for stale in root.glob("*"):
            if stale.name != self.key:
                shutil.rmtree(stale, ignore_errors=True)
        self.state.mkdir(parents=True, exist_ok=True)

    def attempts(self) -> list[dict[str, int]]:
        """Return what earlier tries did: the step they began after and the last step they finished."""
        file = self.state / "attempts.json"
        return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []

    def _steps_logged(self) -> list[dict[str, Any]]:
        file = self.state / "metrics.jsonl"
        if not file.is_file():
            return []
        lines = []
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break  # a kill can cut the last line short
        return lines

    def prepare(self) -> Path | None:
        """Return the checkpoint to resume from, none to start afresh; metrics of repeated steps are removed."""
        remove_partials(self.state)
        resume = latest(self.state)
        step = step_of(resume) if resume is not None else 0
        logged = self._steps_logged()
        reached = max((int(line["step"]) for line in logged), default=0)
        attempts = self.attempts()
        if attempts:
            attempts[-1]["reached"] = max(reached, step, attempts[-1]["after"])
            repeated = attempts[-1]["reached"] - step
            print(
                f"{self.name}: resuming at step k = {step} of {self.stage.steps}; "
                f"steps repeated: {repeated} (the last try had finished step {attempts[-1]['reached']})",
                file=sys.stderr,
            )
        kept = [line for line in logged if int(line["step"]) <= step]
        if resume is not None and all(int(line["step"]) != step for line in kept):
            kept.append(json.loads((resume / METRICS).read_text(encoding="utf-8")))
        from qwenlong.core.files import write_text

        write_text(self.state / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        write_json(self.state / "attempts.json", [*attempts, {"after": step, "reached": step}])
        return resume

    def export(self) -> dict[str, Any]:
        """Write the final policy's shards and the stage's record to `out`. Raises DataError when it is not done."""
        final = latest(self.state)
        if final is None or step_of(final) != self.stage.steps:
            found = step_of(final) if final else "none"
            raise DataError(
                f"{self.name} ended without a checkpoint of step {self.stage.steps} (newest: {found}); "
                "see the log above, then run the same command again"
            )
        attempts = self.attempts()
        attempts[-1]["reached"] = self.stage.steps
        summary: dict[str, Any] = {"stage": self.name, "steps": self.stage.steps, "attempts": attempts, "key": self.key}
        with atomic_directory(self.out) as partial:
            for file in sorted((final / "actor").rglob("*")):
                # Optimizer and random states serve resuming only; what goes on is the policy.
                if file.is_file() and not file.name.startswith(("optim_", "extra_state_")):
                    target = partial / "actor" / file.relative_to(final / "actor")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
            shutil.copyfile(self.state / "metrics.jsonl", partial / "metrics.jsonl")
            table = partial / rollout_log.TABLE
            summary["rollouts"] = rollout_log.join(self.state, table, self.stage.steps)
            alike = similarity.measure(lambda: rollout_log.read(table, texts=True), self.config.run.seed)
            write_json(partial / similarity.FILE, alike)
            write_json(partial / "stage.json", summary)
        return summary


def train(stage: Stage, run: Any) -> dict[str, Any]:
    """Train a stage to its last step, resuming where a checkpoint is whole, and export it. `run`: its MLflow run."""
    large_models.check(stage.config, stage.stage, stage.model)
    resume = stage.prepare()
    if resume is None or step_of(resume) < stage.stage.steps:
        variables = environment(stage.config)
        os.environ.update(variables)
        values = overrides(
            stage.config,
            stage.stage,
            samples=stage.samples,
            documents=stage.documents,
            model=stage.model,
            state=stage.state,
            resume=resume,
        )
        values["trainer.experiment_name"] = stage.name
        if judge := stage.config.llm.reward_judge:
            # Ray's workers have working folders of their own.
            values["data.qwenlong"]["judge"] = anchored(judge).model_dump()
        verl = build_config(values)
        if run is not None:
            run.log_params(flatten({"verl": values}))
        try:
            _run(verl, variables, stage.config.run.grace_seconds)
        except Preempted as error:
            if run is not None:
                run.set_tags({"qwenlong.preempted": error.said})
            raise
        except Diverged as error:
            if run is not None:
                run.set_tags({"qwenlong.stopped": error.reason, "qwenlong.stopped_because": str(error)})
            raise
        except Exception as error:
            if WATCH.told:
                # Ray's processes were signalled as well, and took the step with them.
                raise Preempted("ended by SIGTERM, and so were Ray's processes") from error
            # torch and Ray report a full disk in words of their own, with no error number.
            if "No space left" in str(error) or shutil.disk_usage(stage.state).free < _FULL:
                latest(stage.state)  # removes the checkpoint that was under way
                raise disk_full(stage.state) from error
            raise
    summary = stage.export()
    if run is not None:
        run.log_metrics(similarity.metrics(read_json(stage.out / similarity.FILE)), stage.stage.steps)
    return summary


def _run(config: Any, variables: dict[str, str], grace: float) -> None:
    import ray
    from omegaconf import OmegaConf

    # Imported here: verl reads the environment above at import.
    from verl.trainer.main_ppo import TaskRunnerV1
    from verl.utils.config import validate_config

    import qwenlong.training.verl_plugin.trainer  # noqa: F401  registers itself

    validate_config(config=config, use_reference_policy=False, use_critic=False)
    given: Any = OmegaConf.to_container(config.ray_kwargs.ray_init)
    init: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    variables = variables | {"TRANSFER_QUEUE_ENABLE": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    variables[weight_address.TOKEN] = secrets.token_hex(8)
    init["runtime_env"] = {"env_vars": variables}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        init = {"runtime_env": init["runtime_env"], "address": address}
    else:
        init["_temp_dir"] = _short_temporary_folder()
        # verl leaves a lock file per checkpoint in the temporary folder; this one is removed at the end.
        variables["TMPDIR"] = init["_temp_dir"]
    ray.init(log_to_driver=True, **init)
    WATCH.install(grace)
    try:
        # The runner's own class, in this process: as a Ray actor it would import everything once more.
        runner = TaskRunnerV1.__ray_metadata__.modified_class()
        runner.run(config)
    finally:
        WATCH.cancel()
        ray.shutdown()
        if not address:
            shutil.rmtree(init["_temp_dir"], ignore_errors=True)


def _short_temporary_folder() -> str:
    import tempfile

    # Ray puts sockets below it, whose paths are limited to about 100 characters.
    return tempfile.mkdtemp(prefix="ql-ray-")
