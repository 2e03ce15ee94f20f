"""The one module that verl loads (VERL_USE_EXTERNAL_MODULES), in every process: registers everything of ours."""

from __future__ import annotations

import os

if os.environ.get("VERL_PLATFORM", "").lower() == "cpu":
    import qwenlong.training.cpu_platform.engine
    import qwenlong.training.cpu_platform.rollout

import qwenlong.training.verl_plugin.agent_loops
import qwenlong.training.verl_plugin.loss  # noqa: F401
