"""Metrics of stages and rows that began and did not end: curves of what ran, never a model that is evaluated.

In a results folder they lie in the state of the stage, in a bundle in `unfinished/`, so that nothing takes them for
those of a policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qwenlong.audit.bundles import foreign
from qwenlong.audit.results import read_metrics
from qwenlong.core.config import RL_STAGES, AblationRow, Config

#: Folder of a bundle's run.
FOLDER = "unfinished"
#: All files in it.
PATTERN = f"{FOLDER}/*/*/metrics.jsonl"


def policy_file(name: str, ablation: bool) -> str:
    """Return where the metrics of a finished stage or row lie, below the results folder."""
    return f"{'ablations' if ablation else 'stages'}/{name}/policy/metrics.jsonl"


def file_of(name: str, ablation: bool) -> str:
    """Return where the metrics of an unfinished stage or row lie, below a bundle's run."""
    return f"{FOLDER}/{'ablations' if ablation else 'stages'}/{name}/metrics.jsonl"


def trainings(config: Config) -> list[tuple[str, bool]]:
    """Return what a configuration trains: name, and whether it is an ablation row."""
    rows = [(row.name, True) for row in config.ablations.rows if isinstance(row, AblationRow)]
    return [*((stage, False) for stage in RL_STAGES), *rows]


def found(results: Path, config: Config) -> Iterator[tuple[str, Path | None, str]]:
    """Yield the name in a bundle, the file in the results folder, and a reason where it is left out (no file then).

    One whose rollouts were sampled with other weights is left out, as finished ones are.
    """
    for name, ablation in trainings(config):
        if (results / policy_file(name, ablation)).is_file():
            continue
        label = f"ablation_{name}" if ablation else name
        # A stage that was begun anew with other settings leaves nothing of the earlier try.
        for file in sorted((results / "state" / "stages" / label).glob("*/metrics.jsonl"))[:1]:
            if not read_metrics(file):
                continue
            which, bound = foreign.steps(file, config)
            if which:
                yield (
                    file_of(name, ablation),
                    None,
                    f"{label}, not finished, is left out: rollouts of step {which} were not sampled with its weights "
                    f"(correlation below rollout_correlation {bound})",
                )
            else:
                yield file_of(name, ablation), file, ""
