"""verl's whole configuration of each RL stage, as it would run, for reading, comparing and checking without a GPU."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from qwenlong.core.config import PARENTS, RL_STAGES, SCORED_STAGES, Config, StageConfig
from qwenlong.core.errors import ConfigError
from qwenlong.core.files import write_text
from qwenlong.training.verl_plugin import launch


def _inputs(config: Config, name: str) -> dict[str, Path]:
    """Return where the workflow has a stage's files, from the project's root: the paths of no machine."""
    results = Path(config.run.results)
    samples = {stage: results / "stages" / stage / "score" / "train.parquet" for stage in SCORED_STAGES} | {
        "memory_rl": results / "synthesis" / "memory.parquet",
        "naive_grpo": results / "bins" / "samples.parquet",
    }
    return {
        "samples": samples[name],
        "documents": results / "synthesis" / "documents.parquet",
        "model": results / "models" / PARENTS[name],
        "state": results / "state" / "stages" / name,
    }


def expand(config: Config, name: str, stage: StageConfig, inputs: dict[str, Path]) -> Any:
    """Return verl's whole configuration of a stage with our keys, references resolved."""
    from omegaconf import OmegaConf

    values = launch.overrides(config, stage, resume=None, **inputs) | {"trainer.experiment_name": name}
    whole = launch.build_config(values)
    OmegaConf.resolve(whole)
    return whole


def validate(whole: Any, name: str) -> None:
    """Let verl's own validator and its configuration classes read a whole configuration; no GPU, no model.

    Raises ConfigError with verl's words.
    """
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints that all is well
            validate_config(config=whole, use_reference_policy=False, use_critic=False)
        for part in (whole.actor_rollout_ref.actor, whole.actor_rollout_ref.rollout, whole.algorithm):
            omega_conf_to_dataclass(part)
    except Exception as error:  # assertions, value errors, hydra's own
        raise ConfigError(
            f"{name}: verl does not accept its configuration: {error}; change the key it names"
        ) from error


def _of_no_machine(value: Any) -> Any:
    """Return a configuration in which verl's defaults for parts that are not used name no folder of a machine."""
    if isinstance(value, dict):
        return {key: _of_no_machine(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_of_no_machine(entry) for entry in value]
    if isinstance(value, str) and value.startswith(("/", "~/")):
        return f"<machine>/{value.split('/', 2 if value.startswith('/') else 1)[-1]}"
    return value


def write(config: Config, source: str, out: Path, *, check: bool = True) -> list[Path]:
    """Write `<out>/<stage>.yaml` for every RL stage of a configuration read from `source`; return the files."""
    import yaml
    from omegaconf import OmegaConf

    written = []
    for name in RL_STAGES:
        whole = expand(config, name, config.stage(name), _inputs(config, name))
        if check:
            validate(whole, name)
        head = f"# Generated: qwenlong train expand --config {source} --out {out.as_posix()}\n"
        plain = _of_no_machine(OmegaConf.to_container(whole))
        text = yaml.safe_dump(plain, sort_keys=True, allow_unicode=True, width=120)
        write_text(out / f"{name}.yaml", head + text)
        written.append(out / f"{name}.yaml")
    return written
