"""Whether a run has diverged, from the metrics of its steps. Pure: no files, no verl."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenlong.core.config import DivergenceConfig
from qwenlong.core.errors import QwenlongError
from qwenlong.core.rollout_fit import CORRELATION, GAP, foreign

#: Metrics that are read, by what they measure.
REWARD, ENTROPY, GRADIENT, TRUNCATED, LOSS = (
    "reward/mean",
    "aepo/entropy",
    "actor/grad_norm",
    "rollout/truncated_share",
    "actor/pg_loss",
)
_REMEDY = {
    "nonfinite": "lower training.learning_rate or training.max_grad_norm, or compute in engine.dtype float32",
    "reward": "lower training.learning_rate, narrow the AEPO band, or loosen training.divergence.reward_share",
    "entropy": "lower training.learning_rate or aepo.high, or loosen training.divergence.entropy_multiple",
    "grad_norm": "lower training.learning_rate, or raise training.divergence.grad_norm",
    "rollout": "run the same command; where it comes back, look for what else gives weights to the rollout engine on "
    "this machine, or loosen training.divergence.rollout_correlation for a rollout engine of low precision",
    "truncated": "raise max_output_tokens, set training.truncated to zero_reward, or loosen "
    "training.divergence.truncated_share",
}


@dataclass(frozen=True)
class Verdict:
    """Why a run is to stop: the rule, the step, the first step of the streak, and a sentence with the values."""

    rule: str
    step: int
    since: int
    text: str

    @property
    def remedy(self) -> str:
        """What to change."""
        return _REMEDY[self.rule]


class Diverged(QwenlongError):
    """A run that stopped itself. `reason` is the rule's name, for tags."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Detector:
    """Rules of `DivergenceConfig` over the steps of a run, resumable by `state_dict`."""

    def __init__(self, config: DivergenceConfig) -> None:
        self.config = config
        self._recent: dict[str, list[float]] = {}
        self._start: dict[str, list[float]] = {}
        self._best: float | None = None
        self._since: dict[str, int] = {}

    def update(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        """Take the metrics of a step and return why to stop, or none. Steps come in order.

        Metrics that a step lacks (a skipped update has no loss) leave their rule as it was.
        """
        if self.config.nonfinite:
            for name in (LOSS, GRADIENT, ENTROPY):
                value = metrics.get(name)
                if value is not None and not math.isfinite(value):
                    return Verdict("nonfinite", step, step, f"{name} = {value}; nothing finite can be learnt from here")
        verdicts = [
            self._rollout(step, metrics),
            self._reward(step, metrics),
            self._entropy(step, metrics),
            self._gradient(step, metrics),
            self._truncated(step, metrics),
        ]
        return next((v for v in verdicts if v is not None), None)

    @property
    def since(self) -> int | None:
        """The first step of the longest streak under way, none while all is well."""
        return min(self._since.values(), default=None)

    def _mean(self, name: str, metrics: Mapping[str, float]) -> float | None:
        """Return the mean over the window, none before it is full; the first window is kept as the start."""
        value = metrics.get(name)
        if value is None or not math.isfinite(value):
            return None
        start = self._start.setdefault(name, [])
        if len(start) < self.config.window:
            start.append(float(value))
        recent = self._recent.setdefault(name, [])
        recent.append(float(value))
        del recent[: -self.config.window]
        return math.fsum(recent) / len(recent) if len(recent) == self.config.window else None

    def _began(self, name: str) -> float:
        return math.fsum(self._start[name]) / len(self._start[name])

    def _streak(self, rule: str, step: int, holds: bool, text: str) -> Verdict | None:
        if not holds:
            self._since.pop(rule, None)
            return None
        since = self._since.setdefault(rule, step)
        steps = step - since + 1
        if steps < self.config.patience:
            return None
        return Verdict(rule, step, since, f"{text}, for {steps} steps (patience {self.config.patience})")

    def _rollout(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        bound = self.config.rollout_correlation
        if bound is None or not foreign(metrics, bound):
            return None
        text = (
            "rollouts are not the policy's: probabilities of their tokens there and here correlate by "
            f"{metrics[CORRELATION]:.4g}, below rollout_correlation {bound}, and differ by {metrics[GAP]:.2g}"
        )
        return Verdict("rollout", step, step, text)

    def _reward(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        mean, share = self._mean(REWARD, metrics), self.config.reward_share
        if mean is None or share is None:
            return None
        self._best = mean if self._best is None else max(self._best, mean)
        bound = share * self._best
        text = f"mean reward {mean:.4g} is below {bound:.4g} = reward_share {share} of its best {self._best:.4g}"
        return self._streak("reward", step, self._best >= self.config.reward_floor and mean < bound, text)

    def _entropy(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        mean, multiple = self._mean(ENTROPY, metrics), self.config.entropy_multiple
        if mean is None or multiple is None:
            return None
        began = self._began(ENTROPY)
        bound = max(multiple * began, self.config.entropy_floor)
        text = (
            f"batch entropy {mean:.4g} is above {bound:.4g} nats, the larger of entropy_multiple {multiple} of its "
            f"start {began:.4g} and entropy_floor {self.config.entropy_floor}"
        )
        return self._streak("entropy", step, mean > bound, text)

    def _gradient(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        value, bound = metrics.get(GRADIENT), self.config.grad_norm
        if value is None or bound is None:
            return None
        text = f"gradient norm {value:.4g} is above grad_norm {bound:.4g}"
        return self._streak("grad_norm", step, value > bound, text)

    def _truncated(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        mean, bound = self._mean(TRUNCATED, metrics), self.config.truncated_share
        if mean is None or bound is None:
            return None
        began = self._began(TRUNCATED)
        text = f"{mean:.1%} of responses are cut off, at or above truncated_share {bound} (start: {began:.1%})"
        return self._streak("truncated", step, mean >= bound and began < bound, text)

    def state_dict(self) -> dict[str, Any]:
        """Return the history as JSON values. Bounds are not part of it: they belong to the configuration."""
        return {"recent": self._recent, "start": self._start, "best": self._best, "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a history. Raises ValueError for anything that `state_dict` does not write."""
        try:
            recent = {str(name): [float(v) for v in values] for name, values in state["recent"].items()}
            start = {str(name): [float(v) for v in values] for name, values in state["start"].items()}
            best = None if state["best"] is None else float(state["best"])
            since = {str(name): int(step) for name, step in state["since"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{state!r} is not a divergence state ({error}); use what state_dict returns") from error
        # A window made shorter since then applies at once.
        self._recent = {name: values[-self.config.window :] for name, values in recent.items()}
        self._start, self._best, self._since = start, best, since
