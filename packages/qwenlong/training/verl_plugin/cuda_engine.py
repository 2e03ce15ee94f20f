"""verl's FSDP2 engine on CUDA: one stream of packs, FlexAttention over the blocks it needs, logits in chunks.

Takes the place of verl's own engine where `engine.packed` is set. Nothing is padded, no prompt is computed twice, and
no more than `token_statistics.CHUNK` rows of float32 logits are alive at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.workers.engine import EngineRegistry

from qwenlong.inference import kernels
from qwenlong.training import packing, sequence_parallel, stream_model
from qwenlong.training.block_mask import BLOCK
from qwenlong.training.verl_plugin import engine


class StreamEngine(engine.PackedEngine):
    """FSDP2 engine for CUDA over streams, on one rank or several that share each stream. No fused kernels of verl's."""

    padded = False

    def _build_fsdp_module(self, module: Any) -> Any:
        kernels.choose(module, cpu=False)
        self._head = stream_model.prepare(module, self.ulysses_parallel_group)
        return super()._build_fsdp_module(module)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the stream of a micro-batch as model inputs; the head is told what to return."""
        self.check_request(micro_batch)
        device = micro_batch["input_ids"].device
        prompts, responses = engine.rows_of(micro_batch["prompts"]), engine.rows_of(micro_batch["responses"])
        ranks = self.ulysses_sequence_parallel_size
        stream = packing.stream(prompts, responses, multiple=BLOCK * ranks)
        labels, temperatures = stream.labels.to(device), engine.temperatures(micro_batch)
        inputs = stream_model.inputs(stream, device)
        mine = None
        if ranks > 1:
            rank = torch.distributed.get_rank(self.ulysses_parallel_group)
            inputs, mine = stream_model.part_of_inputs(inputs, rank, ranks)
            labels, temperatures = labels[mine], temperatures[mine]
        self._head.request = stream_model.Request(labels, temperatures, engine.wants_entropy(micro_batch))
        return inputs, {"mine": mine}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        """Return log-probabilities and entropies as verl lays them out (`engine.laid_out`)."""
        chosen, entropy = output.logits[0].unbind(-1)
        values = {"log_probs": chosen}
        if engine.wants_entropy(micro_batch):
            values["entropy"] = entropy.detach()
        mine = output_args["mine"]
        if mine is not None:
            group = self.ulysses_parallel_group
            values = {name: sequence_parallel.together(value, mine, group) for name, value in values.items()}
        return engine.laid_out(values, micro_batch)


# verl's own engine holds the place already, and its decorator refuses a second one.
EngineRegistry._engines["language_model"]["fsdp2"]["cuda"] = StreamEngine
