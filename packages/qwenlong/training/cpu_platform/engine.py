"""verl's FSDP2 engine on CPU: packs padded to a rectangle, a dense mask, logits of all their response columns."""

from __future__ import annotations

from typing import Any

import verl.workers.engine.fsdp.transformer_impl as transformer_impl
from tensordict import TensorDict
from torch import Tensor
from verl.workers.engine import EngineRegistry

from qwenlong.inference import kernels
from qwenlong.training import packing
from qwenlong.training.token_statistics import token_statistics
from qwenlong.training.verl_plugin import engine


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device="cpu")
class CPUFSDP2Engine(engine.PackedEngine):
    """FSDP2 engine for CPUs.

    Without pinned-memory offload: verl asks for it for forward-only models, a CPU cannot give it.
    """

    def _build_fsdp_module(self, module: Any) -> Any:
        kernels.choose(module, cpu=True)
        with engine.replaced(transformer_impl, "CPUOffloadPolicy", lambda pin_memory=True: None):
            module = super()._build_fsdp_module(module)
        self._uses_fsdp2_cpu_offload_policy = False
        return module

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the packs of a micro-batch as model inputs, and what finds their response tokens again."""
        self.check_request(micro_batch)
        packs = packing.pack(engine.rows_of(micro_batch["prompts"]), engine.rows_of(micro_batch["responses"]))
        inputs = {
            "input_ids": packs.input_ids,
            "position_ids": packs.position_ids,
            "attention_mask": packs.attention_mask,
            "logits_to_keep": packs.columns,
        }
        return inputs, {"packs": packs}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, Tensor]:
        """Return log-probabilities and entropies as verl lays them out (`engine.laid_out`)."""
        packs: packing.Packs = output_args["packs"]
        logits = output.logits[packs.pack, packs.column].float()
        logits = logits / engine.temperatures(micro_batch)[:, None]
        chosen, entropy = token_statistics(logits, packs.labels, engine.wants_entropy(micro_batch))
        values = {"log_probs": chosen} | ({"entropy": entropy} if entropy is not None else {})
        return engine.laid_out(values, micro_batch)
