"""verl's synchronous trainer with task-balanced batches, task-level advantages, AEPO and whole checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import OmegaConf, open_dict
from tensordict import TensorDict
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils import tensordict_utils as tu
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict
from verl.workers.utils.padding import response_to_nested

from qwenlong.core.config import StageConfig
from qwenlong.core.seeds import derive
from qwenlong.training.balance import by_group
from qwenlong.training.batch import Rows, plan, settle_truncated, shuffled
from qwenlong.training.divergence import ENTROPY
from qwenlong.training.verl_plugin.checkpoint import METRICS, finish, prune
from qwenlong.training.verl_plugin.dataset import SampledLoader
from qwenlong.training.verl_plugin.engine import SKIP_IDLE
from qwenlong.training.verl_plugin.guard import Guard
from qwenlong.training.verl_plugin.judging import Silence, outcome_metrics
from qwenlong.training.verl_plugin.preemption import WATCH
from qwenlong.training.verl_plugin.recording import Recorder, StageLog

NAME = "qwenlong"


@register_trainer(NAME)
class QwenlongTrainer(PPOTrainerSync):
    """AEPO on verl's V1 trainer. Settings live under `config.qwenlong` (see `launch.build_config`)."""

    def __init__(self, config: Any) -> None:
        from qwenlong.training.aepo import EntropyController

        settings: Any = OmegaConf.to_container(config.qwenlong, resolve=True)
        self.stage = StageConfig.model_validate(settings["stage"])
        self.seed = int(settings["seed"])
        self.metrics_file = Path(settings["metrics"])
        tokenizer = str(config.data.qwenlong.tokenizer)
        self.recorder = Recorder(self.metrics_file.parent, self.stage.log_rollout_groups, tokenizer)
        aepo = self.stage.aepo
        self.controller = EntropyController(aepo.low, aepo.high) if aepo is not None else None
        self.guard = Guard(self.stage.divergence, Path(config.trainer.default_local_dir))
        with open_dict(config):
            # The base class branches on the name of its own mode.
            config.trainer.v1.trainer_mode = "sync"
        self._saved_step = -1
        self._judge_silence = Silence()
        self.train_dataloader_it: Any = None
        super().__init__(config)
        # verl looks for finished rollouts every two seconds; a step on a small model takes less.
        self.replay_buffer.poll_interval = 0.05

    # ---- data ----

    def _init_dataloader(self) -> None:
        from qwenlong.training.sampler import ShuffledSampler, TaskBalancedSampler

        super()._init_dataloader()
        tasks = self.train_dataset.tasks
        size = int(self.config.data.train_batch_size)
        kind = TaskBalancedSampler if self.stage.balanced else ShuffledSampler
        self.train_dataloader = SampledLoader(self.train_dataset, kind(tasks, size, self.seed), size)
        # Epochs are the sampler's business; verl counts steps only.
        self.steps_per_epoch = self.total_training_steps

    def _fetch_one_gen_batch(self) -> TensorDict:
        if self.train_dataloader_it is None:
            self.train_dataloader_it = iter(self.train_dataloader)
        try:
            batch = next(self.train_dataloader_it)
        except StopIteration:
            self.train_dataloader_it = iter(self.train_dataloader)
            batch = next(self.train_dataloader_it)
        # Named by step, place and sample, not at random: seeds of rollouts derive from it. No underscore: verl splits
        # its keys there.
        batch["uid"] = np.array(
            [f"s{self.global_steps}p{p}i{i}" for p, i in zip(batch.pop("position"), batch["index"], strict=True)],
            dtype=object,
        )
        return tu.get_tensordict(batch)

    # ---- batch ----

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        # One batch is one optimizer step whatever the number of turns (SPEC: strictly on-policy), so rows need only
        # divide among ranks, not into mini-batches.
        return dp_size

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # Rollouts arrive in any order; sorted, the sums of a step do not depend on it.
        batch.reorder(sorted(range(len(batch.keys)), key=lambda i: batch.keys[i]))
        batch = super()._balance_batch(batch, metrics, *args, **kwargs)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        if ranks > 1 and self.config.qwenlong.packed:
            groups = [_split_key(key)[0] for key in batch.keys]
            parts = by_group(groups, [int(tag["seq_len"]) for tag in batch.tags], ranks)
            batch.reorder([row for part in parts for row in part])
        return batch

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["response_mask", "rm_scores", "entropy", "task", "extra_fields"],
        )
        nested_mask = data["response_mask"]
        extra = _plain(data["extra_fields"])
        info = [fields["reward_extra_info"] for fields in extra]
        tasks = [str(task) for task in _plain(data["task"])]
        padded = TensorDict(
            {name: data[name] for name in ("response_mask", "rm_scores", "entropy")}, batch_size=len(batch)
        ).to_padded_tensor()
        padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        parts = [_split_key(key) for key in batch.keys]
        self._check_complete(parts, padding)

        rows = Rows(
            group=[uid for uid, _, _ in parts],
            trajectory=[f"{uid}_{session}" for uid, session, _ in parts],
            turn=[turn for _, _, turn in parts],
            task=tasks,
            rewards=padded["rm_scores"].sum(-1).double(),
            dropped=[bool(entry["dropped"]) for entry in info],
            padding=padding,
            entropies=padded["entropy"].float(),
            response_mask=padded["response_mask"].bool(),
            truncated=[bool(entry["truncated"]) for entry in info],
        )
        if not bool(torch.isfinite(rows.entropies[rows.response_mask]).all()):
            # Before the batch is planned, which would refuse them without saying what became of the run.
            self._watch(metrics | {ENTROPY: float("nan")})
        rows, counted = settle_truncated(rows, self.stage.truncated)
        if self.stage.shuffle_rewards:
            rows = shuffled(rows, derive(self.seed, "shuffled rewards", self.global_steps))
        result = plan(rows, self.stage, self.controller)
        self._empty = result.empty
        live = [(entry, name) for entry, name, pad in zip(info, rows.trajectory, padding, strict=True) if not pad]
        outcome = outcome_metrics([entry for entry, _ in live], [name for _, name in live])
        metrics.update(result.metrics | counted | outcome)
        self._judge_silence.update(metrics)
        metrics.update(self.recorder.record(self.global_steps, batch, rows, result, extra))

        weights = response_to_nested(result.weights, nested_mask)
        fields = TensorDict({"advantages": weights, "returns": weights.clone()}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _check_complete(self, parts: list[tuple[str, int, int]], padding: list[bool]) -> None:
        """Raise when rollouts are missing: verl itself would go on without a failed agent loop's rows."""
        found = {(uid, session) for (uid, session, _), pad in zip(parts, padding, strict=True) if not pad}
        wanted = int(self.config.data.train_batch_size) * int(self.config.actor_rollout_ref.rollout.n)
        if len(found) != wanted:
            raise RuntimeError(
                f"step {self.global_steps}: {len(found)} of {wanted} rollouts came back; "
                "the agent loop's error stands above in this log"
            )

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        self._step_metrics = metrics
        if self._empty:
            # Nothing to learn from: loss 0. No optimizer step either, since Adam would move on its momentum.
            metrics.update({"actor/pg_loss": 0.0, "actor/grad_norm": 0.0})
            self._watch(metrics)
            return batch
        actor = self.config.actor_rollout_ref.actor
        batch.extra_info.update(
            {
                "calculate_entropy": False,
                "distillation_use_topk": False,
                "distillation_only": False,
                # What verl's own losses over rows divide by: rows that only fill up are none.
                "global_batch_size": sum(not tag.get("is_padding", False) for tag in batch.tags),
                "mini_batch_size": len(batch),
                "epochs": 1,
                "seed": actor.data_loader_seed,
                "dataloader_kwargs": {"shuffle": False},
                "temperature": self.config.actor_rollout_ref.rollout.temperature,
                SKIP_IDLE: self.stage.loss.kind == "group_token",
            }
        )
        output = rename_dict(self.actor_rollout_wg.update_actor(batch)["metrics"], "actor/")
        output.pop("actor/mfu", None)
        metrics.update(reduce_metrics(output))
        self._watch(metrics)
        return batch

    def _watch(self, metrics: dict[str, Any]) -> None:
        """Raise Diverged when the run is to stop, after the update and before a checkpoint; its metrics are kept."""
        found = self.guard.verdict(self.global_steps, _numbers(metrics))
        if found is not None:
            self._append_metrics(metrics)
            self.logger.log(data=_numbers(metrics), step=self.global_steps)
            raise self.guard.error(found)

    # ---- records and checkpoints ----

    def on_train_begin(self) -> None:
        """Send verl's metrics to the stage's run, too; verl's own logger would end the run, and end with the server."""
        super().on_train_begin()
        self.logger.logger["stage"] = StageLog()

    def on_step_begin(self) -> None:
        """End here when the process was told to end, see `preemption`."""
        WATCH.next_step(saved=self._saved_step == self.global_steps - 1)
        super().on_step_begin()

    def on_step_end(self) -> None:
        """Save a step that will be the last for now."""
        if WATCH.told and self._saved_step != self.global_steps:
            self._save_checkpoint()
        super().on_step_end()

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], timing_raw: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, **kwargs)
        self._append_metrics({"timing/step": float(timing_raw.get("step", 0.0))} | metrics)

    def _append_metrics(self, metrics: dict[str, Any]) -> None:
        line = {"step": self.global_steps} | _numbers(metrics)
        with self.metrics_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _save_checkpoint(self) -> None:
        super()._save_checkpoint()
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        state = self.controller.state_dict() if self.controller is not None else None
        (folder / "controller.json").write_text(json.dumps(state), encoding="utf-8")
        self.guard.save(folder)
        # verl logs a step after its checkpoint: a kill between the two must not lose the step's line.
        line = {"step": self.global_steps} | _numbers(self._step_metrics)
        (folder / METRICS).write_text(json.dumps(line), encoding="utf-8")
        finish(folder)
        self._saved_step = self.global_steps
        prune(folder.parent, keep=2, before=self.guard.back_to)
        self.recorder.publish(self.global_steps)

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if not self.global_steps:
            return
        folder = Path(self.config.trainer.resume_from_path)
        self.guard.load(folder)
        if self.controller is not None:
            self.controller.load_state_dict(json.loads((folder / "controller.json").read_text(encoding="utf-8")))


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the metrics that are single numbers, sorted by name."""
    return {
        name: float(value)
        for name, value in sorted(metrics.items())
        if isinstance(value, int | float | np.number) or (torch.is_tensor(value) and value.numel() == 1)
    }


def _plain(values: Any) -> list[Any]:
    """Return the Python values of a non-tensor field."""
    return [getattr(value, "data", value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def _split_key(key: str) -> tuple[str, int, int]:
    """Return (uid, session, turn) of verl's key "uid_session_turn"."""
    uid, session, turn = key.rsplit("_", 2)
    return uid, int(session), int(turn)


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
