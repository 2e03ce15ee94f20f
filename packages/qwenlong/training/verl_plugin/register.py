"""The one module that verl loads (VERL_USE_EXTERNAL_MODULES), in every process: registers everything of ours."""

from __future__ import annotations

import os

if os.environ.get("VERL_PLATFORM", "").lower() == "cpu":
    import qwenlong.training.cpu_platform.engine
    import qwenlong.training.cpu_platform.rollout

import qwenlong.training.verl_plugin.agent_loops
import qwenlong.training.verl_plugin.loss  # noqa: F401
from qwenlong.training.verl_plugin import weight_address

weight_address.register()

if minutes := os.environ.get("QWENLONG_COLLECTIVE_TIMEOUT_MINUTES"):
    from datetime import timedelta

    from torch.distributed import distributed_c10d

    # verl opens its process group and every mesh with torch's default; its own key `nccl_timeout` is read by nothing.
    distributed_c10d.default_pg_nccl_timeout = timedelta(minutes=int(minutes))
