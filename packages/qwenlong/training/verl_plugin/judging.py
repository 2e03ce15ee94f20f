"""The judge inside training: how it is reached from Ray workers, what is logged, when the run gives up on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import QwenlongError
from qwenlong.core.llm import Client

#: Steps running in which the judge gave no verdict at all, after which training stops.
SILENT_STEPS = 3


def client(endpoint: Mapping[str, Any], workers: int) -> Client:
    """Return one worker's client. The workers share what the endpoint allows, so each gets its part of it."""
    settings = EndpointConfig.model_validate(endpoint)
    parts = {
        name: max(1, value // workers)
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute")
        if (value := getattr(settings, name)) is not None
    }
    return Client(settings.model_copy(update=parts))


def outcome_metrics(info: Sequence[Mapping[str, Any]], trajectories: Sequence[str]) -> dict[str, float]:
    """Return what is logged of a step's trajectories, each counted once however many turns (rows) it has.

    `info` holds what the agent loop said of each row that is no padding, `trajectories` the trajectory of each.
    """
    each = list(dict(zip(trajectories, info, strict=True)).values())
    size = max(1, len(each))
    return {
        "rollout/truncated_share": sum(bool(one["truncated"]) for one in each) / size,
        "rollout/turns_mean": sum(int(one["turns"]) for one in each) / size,
        "judge/calls": sum(bool(one["judged"]) for one in each),
        "judge/failed": sum(bool(one["judged"]) and bool(one["dropped"]) for one in each),
        "judge/requests": sum(int(one["judge_requests"]) for one in each),
    }


class Silence:
    """Counts steps in which the judge was asked and never decided."""

    def __init__(self) -> None:
        self._steps = 0

    def update(self, metrics: Mapping[str, float]) -> None:
        """Take a step's metrics. Raises QwenlongError after SILENT_STEPS such steps running.

        A step without questions says nothing and changes nothing. Dropped rollouts alone would let a stage end
        "trained" on those samples only for which no judge is needed.
        """
        calls, failed = metrics["judge/calls"], metrics["judge/failed"]
        if calls:
            self._steps = self._steps + 1 if failed == calls else 0
        if self._steps >= SILENT_STEPS:
            raise QwenlongError(
                f"the judge decided none of the {calls:g} answers it was asked about, and so for {SILENT_STEPS} steps; "
                "check llm.reward_judge (server, model, key), then run the same command again: it resumes at the last "
                "checkpoint"
            )
