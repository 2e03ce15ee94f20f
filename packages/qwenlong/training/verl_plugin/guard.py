"""Early stop of a run that has diverged: the detector's verdict as an error that names a checkpoint to go back to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qwenlong.core.config import DivergenceConfig
from qwenlong.training.divergence import Detector, Diverged, Verdict
from qwenlong.training.verl_plugin.checkpoint import newest_before

STATE = "divergence.json"


class Guard:
    """Watches the steps of one stage whose checkpoints lie in `root`. Without a configuration it lets all pass."""

    def __init__(self, config: DivergenceConfig | None, root: Path) -> None:
        self.root = root
        self._detector = Detector(config) if config is not None else None

    @property
    def back_to(self) -> int | None:
        """A streak is under way: the newest checkpoint of an earlier step than this is known to be good. Else none."""
        since = self._detector.since if self._detector is not None else None
        return _before(since) if since is not None else None

    def verdict(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        """Take a step's metrics and return why to stop, none to go on."""
        return self._detector.update(step, metrics) if self._detector is not None else None

    def error(self, verdict: Verdict) -> Diverged:
        """Return the error of a verdict: step, values, bounds, the last good checkpoint, what to change."""
        good = newest_before(self.root, _before(verdict.since))
        where = (
            f"The last checkpoint known to be good is {good}; copy it away before settings are changed, since those of "
            "other settings are removed"
            if good is not None
            else "No checkpoint is known to be good (one is when the step after it was well); a smaller "
            "training.save_every makes more of them"
        )
        return Diverged(
            f"stopped at step {verdict.step}, diverged since step {verdict.since} ({verdict.rule}): {verdict.text}. "
            f"{where}. To go on: {verdict.remedy}. training.divergence: null turns this off",
            verdict.rule,
        )

    def save(self, folder: Path) -> None:
        """Write the detector's history into a checkpoint."""
        state = self._detector.state_dict() if self._detector is not None else None
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take the history up again; a checkpoint written without one begins anew."""
        file = folder / STATE
        state = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if self._detector is not None and state is not None:
            self._detector.load_state_dict(state)


def _before(since: int) -> int:
    """Return the step before which checkpoints are known to be good: step k + 1 measures the weights of step k."""
    return since - 1
