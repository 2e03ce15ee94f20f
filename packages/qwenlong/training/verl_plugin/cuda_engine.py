"""verl's FSDP2 engine on CUDA: one stream of packs, FlexAttention over the blocks it needs, logits in chunks.

Takes the place of verl's own engine where `engine.packed` is set. Nothing is padded, no prompt is computed twice, and
no more than `token_statistics.CHUNK` rows of float32 logits are alive at a time.
"""

from __future__ import annotations

from typing import Any

from tensordict import TensorDict
from torch import Tensor
from verl.workers.engine import EngineRegistry

from qwenlong.inference import kernels
from qwenlong.training import packing, stream_model
from qwenlong.training.block_mask import BLOCK
from qwenlong.training.verl_plugin import engine


class StreamEngine(engine.PackedEngine):
    """FSDP2 engine for CUDA over streams. No sequence parallelism, no fused kernels of verl's."""

    padded = False

    def _build_fsdp_module(self, module: Any) -> Any:
        if self.use_ulysses_sp:
            raise NotImplementedError("packed rows cannot be split over a sequence; set engine.packed to false")
        kernels.choose(module, cpu=False)
        self._head = stream_model.prepare(module)
        return super()._build_fsdp_module(module)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the stream of a micro-batch as model inputs; the head is told what to return."""
        self.check_request(micro_batch)
        device = micro_batch["input_ids"].device
        prompts, responses = engine.rows_of(micro_batch["prompts"]), engine.rows_of(micro_batch["responses"])
        stream = packing.stream(prompts, responses, multiple=BLOCK)
        self._head.request = stream_model.Request(
            stream.labels.to(device), engine.temperatures(micro_batch), engine.wants_entropy(micro_batch)
        )
        return stream_model.inputs(stream, device), {}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        """Return log-probabilities and entropies as verl lays them out (`engine.laid_out`)."""
        chosen, entropy = output.logits[0].unbind(-1)
        values = {"log_probs": chosen}
        if engine.wants_entropy(micro_batch):
            values["entropy"] = entropy.detach()
        return engine.laid_out(values, micro_batch)


# verl's own engine holds the place already, and its decorator refuses a second one.
EngineRegistry._engines["language_model"]["fsdp2"]["cuda"] = StreamEngine
