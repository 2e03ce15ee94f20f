"""verl's FSDP2 engine on CPU: rows of a group share their prompt, logits are made for response tokens only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import verl.workers.engine.fsdp.transformer_impl as transformer_impl
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine import EngineRegistry

from qwenlong.inference import kernels
from qwenlong.training.cpu_platform import shared_prompts


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device="cpu")
class CPUFSDP2Engine(transformer_impl.FSDPEngineWithLMHead):
    """FSDP2 engine for CPUs.

    Without pinned-memory offload: verl asks for it for forward-only models, a CPU cannot give it.
    """

    def _build_fsdp_module(self, module: Any) -> Any:
        kernels.choose(module, cpu=True)
        with _replaced(transformer_impl, "CPUOffloadPolicy", lambda pin_memory=True: None):
            module = super()._build_fsdp_module(module)
        self._uses_fsdp2_cpu_offload_policy = False
        return module

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> Any:
        """Run the batch in micro-batches that keep rows of one prompt together.

        With several ranks verl splits it, since all of them need the same number of micro-batches, and where a number
        of rows is asked for.
        """
        by_tokens = tu.get_non_tensor_data(data=data, key="use_dynamic_bsz", default=True)
        if self.get_data_parallel_size() > 1 or not by_tokens:
            return super().forward_backward_batch(data, loss_function, forward_only)
        with _replaced(transformer_impl, "prepare_micro_batches", _micro_batches):
            return super().forward_backward_batch(data, loss_function, forward_only)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the packs of a micro-batch as model inputs, and what finds their response tokens again."""
        for key in ("use_fused_kernels", "distillation_use_topk", "calculate_sum_pi_squared"):
            if tu.get_non_tensor_data(data=micro_batch, key=key, default=False):
                raise NotImplementedError(f"{key} is not there on CPU; set it to False")
        packs = shared_prompts.pack(_lists(micro_batch["prompts"]), _lists(micro_batch["responses"]))
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
        """Return log-probabilities and entropies as verl lays them out: nested over prompt and response.

        The value of a token stands one place before it; places that predict prompt tokens hold 0.
        """
        packs: shared_prompts.Packs = output_args["packs"]
        rows = micro_batch["input_ids"].offsets()
        lengths = micro_batch["responses"].offsets().diff()
        temperature = micro_batch["temperature"]
        if not isinstance(temperature, Tensor):
            temperature = torch.full((len(lengths),), float(temperature))
        logits = output.logits[packs.pack, packs.column].float()
        logits = logits / temperature.to(torch.float32).repeat_interleave(lengths)[:, None]
        wanted = tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False)
        chosen, entropy = shared_prompts.token_statistics(logits, packs.labels, bool(wanted))
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        places = (rows[1:] - lengths - 1).repeat_interleave(lengths) + within
        values = {"log_probs": chosen} | ({"entropy": entropy} if entropy is not None else {})
        total = int(rows[-1])
        return {
            name: torch.nested.nested_tensor_from_jagged(value.new_zeros(total).index_put((places,), value), rows)
            for name, value in values.items()
        }


def _lists(nested: Tensor) -> list[list[int]]:
    return [row.tolist() for row in nested.unbind()]


def _micro_batches(data: TensorDict, **_: Any) -> tuple[list[TensorDict], list[list[int]]]:
    limit = int(tu.get_non_tensor_data(data=data, key="max_token_len_per_gpu", default=0))
    parts = shared_prompts.micro_batches(_lists(data["prompts"]), _lists(data["responses"]), limit)
    return [tu.index_select_tensor_dict(data, part) for part in parts], parts


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module for a while."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
