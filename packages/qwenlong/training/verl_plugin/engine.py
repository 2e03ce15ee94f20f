"""verl's FSDP2 engine over packs: rows of a group share their prompt, logits are made for response tokens only.

`PackedEngine` holds what CPU and CUDA share: micro-batches of whole groups, the same number of them on every rank,
no work for rows that cannot move the policy, and verl's layout of results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import verl.workers.engine.fsdp.transformer_impl as transformer_impl
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.engine.utils import prepare_micro_batches

from qwenlong.training import packing

#: Key of a batch that says: rows of weight 0 need no forward pass. Only true of losses without KL or entropy terms.
SKIP_IDLE = "qwenlong_skip_idle"


class PackedEngine(transformer_impl.FSDPEngineWithLMHead):
    """FSDP2 engine whose micro-batches are packs. Subclasses say what the model is given and what becomes of it."""

    #: Whether packs are padded to a rectangle (`packing.pack`) or follow one another (`packing.stream`).
    padded = True

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> Any:
        """Run the batch in micro-batches that keep rows of one prompt together."""

        def split(data: TensorDict, **_: Any) -> tuple[list[TensorDict], list[list[int]] | None]:
            return self._micro_batches(data, forward_only)

        with replaced(transformer_impl, "prepare_micro_batches", split):
            return super().forward_backward_batch(data, loss_function, forward_only)

    def _micro_batches(self, data: TensorDict, forward_only: bool) -> tuple[list[TensorDict], list[list[int]] | None]:
        if not tu.get_non_tensor_data(data=data, key="use_dynamic_bsz", default=True):
            batches, indices = prepare_micro_batches(data=data, dp_group=self.get_data_parallel_group())
            return batches, indices
        # Ranks that share a row hold as many times more of it together.
        limit = int(tu.get_non_tensor_data(data=data, key="max_token_len_per_gpu", default=0))
        limit *= self.ulysses_sequence_parallel_size
        prompts, responses = rows_of(data["prompts"]), rows_of(data["responses"])
        busy = list(range(len(prompts)))
        idle: list[int] = []
        if not forward_only and tu.get_non_tensor_data(data=data, key=SKIP_IDLE, default=False):
            moving = [bool((row != 0).any()) for row in data["advantages"].cpu().unbind()]
            idle = sorted((n for n in busy if not moving[n]), key=lambda n: len(prompts[n]) + len(responses[n]))
            busy = [n for n in busy if moving[n]]
        parts = self._parts(prompts, responses, busy, limit)
        count = self._agreed(len(parts))
        if len(busy) < count:  # a rank with too little to do takes the shortest of what could have been left out
            busy = sorted(busy + idle[: count - len(busy)])
            parts = self._parts(prompts, responses, busy, limit)
        parts = packing.at_least(parts, count)
        return [tu.index_select_tensor_dict(data, part) for part in parts], parts

    def _parts(self, prompts: list[Tensor], responses: list[Tensor], rows: list[int], limit: int) -> list[list[int]]:
        if not rows:
            return []
        chosen = [prompts[n] for n in rows], [responses[n] for n in rows]
        return [[rows[i] for i in part] for part in packing.micro_batches(*chosen, limit, padded=self.padded)]

    def _agreed(self, count: int) -> int:
        """Return the largest number of micro-batches of any rank, at least one."""
        if self.get_data_parallel_size() == 1:
            return max(1, count)
        largest = torch.tensor([max(1, count)], device=transformer_impl.get_device_id())
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX, group=self.get_data_parallel_group())
        return int(largest.item())

    def check_request(self, micro_batch: TensorDict) -> None:
        """Raise NotImplementedError for what packs do not offer."""
        for key in ("use_fused_kernels", "distillation_use_topk", "calculate_sum_pi_squared"):
            if tu.get_non_tensor_data(data=micro_batch, key=key, default=False):
                raise NotImplementedError(f"{key} is not there with packed rows; set it to False, or engine.packed")


def rows_of(nested: Tensor) -> list[Tensor]:
    """Return the rows of a nested tensor, on the CPU."""
    lengths = nested.offsets().diff().tolist()
    return list(nested.values().cpu().split(lengths))


def wants_entropy(micro_batch: TensorDict) -> bool:
    """Tell whether verl asks for entropies."""
    return bool(tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False))


def temperatures(micro_batch: TensorDict) -> Tensor:
    """Return the sampling temperature of each response token of a micro-batch, row by row, [C] float32."""
    lengths = micro_batch["responses"].offsets().diff()
    temperature = micro_batch["temperature"]
    if not isinstance(temperature, Tensor):
        temperature = torch.full((len(lengths),), float(temperature), device=lengths.device)
    return temperature.to(torch.float32).repeat_interleave(lengths)


def laid_out(values: dict[str, Tensor], micro_batch: TensorDict) -> dict[str, Tensor]:
    """Return values of response tokens, row by row, as verl lays them out: nested over prompt and response.

    The value of a token stands one place before it; places that predict prompt tokens hold 0.
    """
    rows = micro_batch["input_ids"].offsets()
    lengths = micro_batch["responses"].offsets().diff()
    within = torch.arange(int(lengths.sum()), device=lengths.device) - (lengths.cumsum(0) - lengths).repeat_interleave(
        lengths
    )
    places = (rows[1:] - lengths - 1).repeat_interleave(lengths) + within
    total = int(rows[-1])
    return {
        name: torch.nested.nested_tensor_from_jagged(value.new_zeros(total).index_put((places,), value), rows)
        for name, value in values.items()
    }


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module for a while."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
