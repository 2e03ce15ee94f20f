"""Entropy in training: which trainings the claims of Figures 9 and 11 are read from.

Figure 9 shows GRPO without AEPO, which is trained twice with the same settings but for lengths and steps: as the stage
that the recipe is compared with, and as the first row of the ablations. Both count, so that none is chosen.
"""

from __future__ import annotations

from qwenlong.audit import checks
from qwenlong.audit.site.runs import Run

#: A training: the name of a stage, or of a row of the ablations (True).
Training = tuple[str, bool]
_PLAIN: tuple[Training, ...] = (("naive_grpo", False), ("grpo", True))
#: The row of the ablations that trains with AEPO, beside the recipe's stages (Table 5).
AEPO = "aepo"


def plain(run: Run) -> dict[Training, list[tuple[float, float]]]:
    """Return entropy (nats) and gradient norm by step of a run's trainings of GRPO without AEPO that have any."""
    return {one: points for one in _PLAIN if (points := checks.gradient_steps(run.metrics(*one)))}
