"""One process of the gradient comparison: verl's actor worker, driven by our trainer's own methods.

What runs is what runs in training: `QwenlongTrainer._balance_batch`, `_compute_old_log_prob`, `_compute_advantage` and
`_update_actor`, verl's `ActorRolloutRefWorker`, engine, micro-batches, loss wrapper, backward, reduction over ranks and
optimizer. Only Ray is not there: every rank runs the trainer's methods on a copy of the batch (`Store`) and hands its
own part to its worker (`Ranks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transfer_queue
from gradient_batch import ROWS, Row
from gradient_cases import TOKENS, Case
from gradient_reference import Objective, advantages
from omegaconf import OmegaConf
from tensordict import NonTensorData, TensorDict
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.losses import ppo_loss

from qwenlong.core.config import Config, StageConfig
from qwenlong.training.verl_plugin import launch
from qwenlong.training.verl_plugin.cuda_engine import StreamEngine
from qwenlong.training.verl_plugin.loss import NAME
from qwenlong.training.verl_plugin.trainer import QwenlongTrainer

PARTITION = "train"


class Store:
    """The batch by key and field, in place of TransferQueue and with its two calls that the trainer makes."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, Any]] = {}
        self.frozen = False

    def get(self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str] | None = None) -> TensorDict:
        """Return fields of some rows; those that all of them have if none is named."""
        rows = [self.rows[key] for key in keys]
        fields = select_fields or sorted(set.intersection(*(set(row) for row in rows)))
        return tu.list_of_dict_to_tensordict([{field: row[field] for field in fields} for row in rows])

    def put(
        self,
        keys: Sequence[str],
        partition_id: str,
        fields: TensorDict | None = None,
        tags: Sequence[dict[str, Any]] | None = None,
    ) -> transfer_queue.KVBatchMeta:
        """Write fields and tags of some rows; nothing while frozen."""
        if not self.frozen:
            for name, values in fields.items() if fields is not None else ():
                parts = values.unbind() if torch.is_tensor(values) else values.tolist()
                for key, value in zip(keys, parts, strict=True):
                    self.rows.setdefault(key, {})[name] = value
            for key, tag in zip(keys, tags or [], strict=False):
                self.tags[key] = tag
        return self.meta(keys)

    def meta(self, keys: Sequence[str]) -> transfer_queue.KVBatchMeta:
        """Return what the trainer holds of the rows."""
        tags = [self.tags[key] for key in keys]
        return transfer_queue.KVBatchMeta(keys=list(keys), tags=tags, partition_id=PARTITION)

    def fill(self, rows: Sequence[Row], drops: bool) -> transfer_queue.KVBatchMeta:
        """Write rows as verl's agent loop worker does. `drops`: the first trajectory's reward could not be had."""
        fields, tags, keys = [], [], []
        for row in rows:
            prompt, response = torch.tensor(row.prompt), torch.tensor(row.response)
            mask = torch.ones_like(response)
            rewards = torch.zeros(len(response))
            dropped = drops and (row.group, row.trajectory) == (rows[0].group, rows[0].trajectory)
            rewards[-1] = 0.0 if dropped else row.reward
            info = {"reward": row.reward, "dropped": dropped, "judged": False, "judge_requests": 0}
            info |= {"truncated": False, "turns": 1}
            call = {"sample": row.group, "truncated": False, "sha256": "0" * 64}
            fields.append(
                {
                    "prompts": prompt,
                    "responses": response,
                    "input_ids": torch.cat([prompt, response]),
                    "position_ids": torch.arange(len(prompt) + len(response)),
                    "response_mask": mask,
                    "loss_mask": mask,
                    "rm_scores": rewards,
                    "rollout_log_probs": torch.zeros(len(response)),
                    "task": row.task,
                    "extra_fields": {"reward_extra_info": info, "call": call, "turn_scores": [], "tool_rewards": []},
                    "uid": row.group,
                    "session_id": row.trajectory,
                    "multi_modal_inputs": {},
                }
            )
            sizes = {"prompt_len": len(prompt), "response_len": len(response), "seq_len": len(prompt) + len(response)}
            tags.append({"status": "success", "global_steps": 1, **sizes})
            keys.append(f"{row.group}_{row.trajectory}_{row.turn}")
        return self.put(keys, PARTITION, tu.list_of_dict_to_tensordict(fields), tags)


class Ranks:
    """The worker group as the trainer sees it: this rank's worker gets its part, answers are put together."""

    def __init__(self, store: Store, worker: ActorRolloutRefWorker, own_tokens: bool) -> None:
        self.store, self.worker, self.own_tokens = store, worker, own_tokens
        self.engine = worker.actor.engine
        self._dispatch_info = {"actor": list(range(self.engine.get_data_parallel_size()))}

    def part(self, batch: transfer_queue.KVBatchMeta) -> TensorDict:
        """Return the rows of this rank (ranks that share rows get the same), with the batch's own settings beside."""
        own = batch.chunk(self.engine.get_data_parallel_size())[self.engine.get_data_parallel_rank()]
        data = self.store.get(own.keys, PARTITION)
        for name, value in own.extra_info.items():
            if isinstance(value, NonTensorData):
                data[name] = value
            else:
                tu.assign_non_tensor_data(tensor_dict=data, key=name, val=value)
        return data

    def compute_log_prob(self, batch: transfer_queue.KVBatchMeta) -> transfer_queue.KVBatchMeta:
        """Write log-probabilities and entropies of all ranks to the store."""
        output = self.worker.compute_log_prob(self.part(batch))
        # Copies: a view of a row would be pickled with the whole batch behind it.
        names = ("log_probs", "entropy")
        mine = None
        if output is not None:
            mine = {name: [row.cpu().clone() for row in output[name].unbind()] for name in names}
        everyone = _gathered(mine)
        # By place: verl gives rows that pad a random name, another one on each rank here.
        for name in names:
            values = [value for one in everyone for value in one[name]]
            for key, value in zip(batch.keys, values, strict=True):
                self.store.rows[key][name] = value
        return batch

    def update_actor(self, batch: transfer_queue.KVBatchMeta) -> TensorDict:
        """Run this rank's part of the update and return its metrics."""
        data = self.part(batch)
        if self.own_tokens:
            # A fault: each rank divides by the tokens of a group among its own rows, and ranks are averaged.
            own, whole = _tokens(data), _tokens(self.store.get(batch.keys, PARTITION, ["uid", "response_mask"]))
            ranks = self.engine.get_data_parallel_size()
            factors = [whole[group] / own[group] / ranks for group in data["uid"]]
            rows = [row * factor for row, factor in zip(data["advantages"].unbind(), factors, strict=True)]
            data["advantages"] = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        output = self.worker.update_actor(data)
        # Of ranks that share rows one answers.
        everyone = _gathered(output)
        return everyone[0] if output is None else output


def _gathered(mine: Any) -> list[Any]:
    """Return what the ranks have that have anything, in their order."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return [one for one in everyone if one is not None]


def _tokens(data: TensorDict) -> dict[str, int]:
    """Return the response tokens of each group among some rows."""
    found: dict[str, int] = {}
    for group, mask in zip(data["uid"], data["response_mask"].unbind(), strict=True):
        found[group] = found.get(group, 0) + int(mask.sum())
    return found


def configuration(
    settings: dict[str, Any], model: Path, device: str, micro: int | None, dtype: str, sequence: int = 1
) -> Any:
    """Return verl's configuration as a stage of training makes it; learning rate 0, so that cases share a worker.

    `sequence` ranks share a row, also on cpu, which the project's own settings refuse.
    """
    settings_of_run = Config.model_validate(
        {
            "run": {"seed": 3},
            "engine": {
                "platform": device,
                "gpus_per_node": dist.get_world_size(),
                "micro_batch_tokens": 200_000,  # the check of sizes looks at stages that are not run here
                "dtype": dtype,
            },
        }
    )
    place = model.parent
    values = launch.overrides(
        settings_of_run,
        StageConfig.model_validate(settings),
        samples=place / "samples.parquet",
        documents=place / "documents.parquet",
        model=model,
        state=place,
        resume=None,
    )
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    values[f"{actor}.optim.lr"] = 0.0
    if sequence > 1:
        values[f"{actor}.ulysses_sequence_parallel_size"] = sequence
        values["actor_rollout_ref.model.use_remove_padding"] = True
    values[f"{actor}.ppo_max_token_len_per_gpu"] = values[f"{rollout}.log_prob_max_token_len_per_gpu"] = TOKENS
    if micro is not None:
        values |= {
            f"{actor}.use_dynamic_bsz": False,
            f"{actor}.ppo_micro_batch_size_per_gpu": micro,
            f"{rollout}.log_prob_use_dynamic_bsz": False,
            f"{rollout}.log_prob_micro_batch_size_per_gpu": micro,
        }
    # As `build_config` does; reading verl's files costs most of a case, so it is done once.
    config = deepcopy(_defaults())
    for name, value in values.items():
        OmegaConf.update(config, name, value, merge=False, force_add=True)
    return config


@cache
def _defaults() -> Any:
    return launch.build_config({})


@contextmanager
def _engine_class(name: str) -> Iterator[None]:
    """Let verl's registry give its own FSDP2 engine ("stock"), or streams on any device, for the project's ("ours")."""
    original = EngineRegistry.__dict__["get_engine_cls"]
    if name != "ours":
        chosen = FSDPEngineWithLMHead if name == "stock" else StreamEngine
        EngineRegistry.get_engine_cls = classmethod(lambda cls, model_type, backend: chosen)
    try:
        yield
    finally:
        EngineRegistry.get_engine_cls = original


class Actor:
    """verl's worker with one engine and one model; the gradient of an update is kept as it is before clipping."""

    def __init__(self, config: Any, engine: str) -> None:
        with _engine_class(engine):
            self.worker = ActorRolloutRefWorker(
                config=config.actor_rollout_ref, role="actor", distillation_config=config.get("distillation")
            )
            self.worker.init_model()
        self.engine = self.worker.actor.engine
        self.gradient: dict[str, torch.Tensor] = {}
        step = self.engine.optimizer_step

        def kept() -> Any:
            self.gradient = {
                name: _whole(p.grad if p.grad is not None else torch.zeros_like(p))
                for name, p in self.engine.module.named_parameters()
            }
            return step()

        self.engine.optimizer_step = kept

    @property
    def eos(self) -> int:
        """The token of padding rows."""
        return int(self.worker.actor.model_config.tokenizer.eos_token_id)

    def settle(self, config: Any) -> None:
        """Take micro-batches and loss from a configuration, as the worker does when it starts."""
        actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
        engine = self.worker.actor.engine_config
        engine.use_dynamic_bsz = actor.use_dynamic_bsz
        engine.max_token_len_per_gpu = actor.ppo_max_token_len_per_gpu
        engine.micro_batch_size_per_gpu = actor.ppo_micro_batch_size_per_gpu
        engine.infer_max_token_len_per_gpu = rollout.log_prob_max_token_len_per_gpu
        engine.infer_micro_batch_size_per_gpu = rollout.log_prob_micro_batch_size_per_gpu
        self.worker.set_loss_fn(partial(ppo_loss, config=omega_conf_to_dataclass(actor)))


def _whole(value: torch.Tensor) -> torch.Tensor:
    full = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full.detach().to("cpu", torch.float64)


def update(actor: Actor, case: Case, rows: list[Row], objective: Objective, config: Any) -> dict[str, float]:
    """Run one step of training on `rows` and return its metrics; `actor.gradient` then holds its gradient."""
    store = Store()
    transfer_queue.kv_batch_get, transfer_queue.kv_batch_put = store.get, store.put
    loss_mode = "vanilla" if case.wrong == "token-mean" else NAME
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == NAME
    config.actor_rollout_ref.actor.policy_loss.loss_mode = loss_mode
    actor.settle(config)
    trainer = QwenlongTrainer(config)
    trainer.global_steps = 1
    trainer.actor_rollout_wg = Ranks(store, actor.worker, case.wrong == "own tokens")
    trainer.tokenizer = actor.worker.actor.model_config.tokenizer
    metrics: dict[str, Any] = {}
    batch = store.fill(rows, case.drops)
    if case.pads:
        batch = upsample_batch_to_divisible_size(batch, -(-len(rows) // ROWS) * ROWS, actor.eos)
    batch = trainer._balance_batch(batch, metrics)
    batch = _extend(trainer._compute_old_log_prob(batch, metrics), batch)
    if case.shifted:
        for row in rows:
            fields = store.rows[f"{row.group}_{row.trajectory}_{row.turn}"]
            fields["old_log_probs"] = fields["old_log_probs"] - torch.tensor(row.shift).to(fields["old_log_probs"])
    if case.wrong == "mask lost":
        # The weights in the store are those of a step without AEPO; what the masking step writes does not arrive.
        masking, trainer.stage = trainer.stage, trainer.stage.model_copy(update={"aepo": None})
        controller, trainer.controller = trainer.controller, None
        trainer._compute_advantage(batch, metrics)
        trainer.stage, trainer.controller, store.frozen = masking, controller, True
    batch = _extend(trainer._compute_advantage(batch, metrics), batch)
    if case.wrong == "token-mean":
        _write_advantages(store, rows, objective)
    actor.gradient = {}
    trainer._update_actor(batch, metrics)
    assert actor.gradient, f"{case.name}: the trainer made no update"
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def _extend(after: Any, before: Any) -> Any:
    """Carry the batch's settings on, as TransferQueue's metadata do."""
    after.extra_info.update(before.extra_info)
    return after


def _write_advantages(store: Store, rows: Sequence[Row], objective: Objective) -> None:
    """Put plain advantages where verl's own loss looks for them."""
    of = advantages(rows, replace(objective, masks_above=None))
    for row in rows:
        fields = store.rows[f"{row.group}_{row.trajectory}_{row.turn}"]
        fields["advantages"] = torch.full_like(fields["advantages"], of[row.group, row.trajectory])
