"""Models that learnt from rollouts of other weights than their own: nothing is said of them."""

from __future__ import annotations

from pathlib import Path

from qwenlong.audit.results import read_metrics
from qwenlong.core.config import Config, DivergenceConfig
from qwenlong.core.rollout_fit import foreign


def steps(file: Path, config: Config) -> tuple[str, float | None]:
    """Return the steps of a metrics.jsonl whose rollouts were sampled with other weights ("3, 5"; empty where none
    were), and the configuration's bound that tells them.
    """
    bound = (config.training.divergence or DivergenceConfig()).rollout_correlation
    if bound is None:
        return "", None
    return ", ".join(str(int(row["step"])) for row in read_metrics(file) if foreign(row, bound)), bound


def taught_by_others(results: Path, config: Config) -> dict[str, str]:
    """Return, by folder (stages/rl_3, ablations/grpo, evaluation/rl_4 ...), why what is made there is left out.

    A stage is left out by its own steps, what descends from it with it.
    """
    found: dict[str, str] = {}
    for policy in sorted([*results.glob("stages/*/policy"), *results.glob("ablations/*/policy")]):
        which, bound = steps(policy / "metrics.jsonl", config)
        if which:
            name = policy.parent.relative_to(results).as_posix()
            found[name] = (
                f"{name} is left out: rollouts of step {which} were not sampled with its weights (correlation below "
                f"rollout_correlation {bound}); train it again"
            )
    merges = [row.name for row in config.ablations.merges]
    made_from = config.parents()

    def reason(model: str) -> str | None:
        return found.get(f"stages/{model}") or next(filter(None, map(reason, made_from.get(model, ()))), None)

    for model in made_from:
        if (why := reason(model)) is not None:
            found[f"{'ablations' if model in merges else 'evaluation'}/{model}"] = found[f"stages/{model}"] = why
    return found
