"""verl's FSDP2 engine on CPU."""

from __future__ import annotations

from typing import Any

import verl.workers.engine.fsdp.transformer_impl as transformer_impl
from verl.workers.engine import EngineRegistry


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device="cpu")
class CPUFSDP2Engine(transformer_impl.FSDPEngineWithLMHead):
    """FSDP2 engine without pinned-memory offload: verl asks for it for forward-only models, a CPU cannot give it."""

    def _build_fsdp_module(self, module: Any) -> Any:
        original = transformer_impl.CPUOffloadPolicy
        transformer_impl.CPUOffloadPolicy = lambda pin_memory=True: None
        try:
            module = super()._build_fsdp_module(module)
        finally:
            transformer_impl.CPUOffloadPolicy = original
        self._uses_fsdp2_cpu_offload_policy = False
        return module
