"""How long stages took, how many tokens a second they made, and how that stands to the floor: from metrics.jsonl."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from qwenlong.audit.bundles import layout, unfinished
from qwenlong.audit.site import flops
from qwenlong.audit.site.runs import Run
from qwenlong.audit.tables import ABLATION_TABLES
from qwenlong.core.config import RL_STAGES
from qwenlong.core.errors import DataError
from qwenlong.core.files import read_json

#: Parts of a step by the name of their timer, in the order of a step.
PARTS = ("gen", "old_log_prob", "adv", "update_actor", "update_weights", "save_checkpoint")


@dataclass(frozen=True)
class StageTime:
    """A stage of one run. Seconds and rates are medians over steps after the first; minutes are of all steps.

    `floor` and `ratio` (measured / floor) are by part of a step; with `mfu` empty where card or model are not known.
    """

    run: str
    scale: str
    seed: int
    stage: str
    ablation: bool
    steps: int
    minutes: float
    parts: Mapping[str, float]
    step: float
    rollout_tokens: float | None
    training_tokens: float | None
    mfu: float | None
    floor: Mapping[str, float]
    ratio: Mapping[str, float]
    source: str
    cut: str
    """Where a training stopped that did not end; empty for all others."""

    def as_json(self) -> dict[str, Any]:
        """Return the row for tables.json."""
        return {"key": f"{self.run}.{self.stage}", **_rounded(asdict(self))}


@dataclass(frozen=True)
class TableTime:
    """Minutes of machines behind a table at one scale: training, and asking the models, over the seeds that have run.

    Each GPU of a machine counts; one without any counts once.
    """

    table: str
    scale: str
    seeds: int
    training: float
    asking: float
    wall: float | None
    """By Snakemake's clock, starts and ends included; none where no run has it."""
    machines: tuple[str, ...]
    """What the minutes are of; empty where nothing was recorded."""

    def as_json(self) -> dict[str, Any]:
        """Return the row for tables.json."""
        return {"key": f"{self.scale}.{self.table}", **_rounded(asdict(self)), "total": _kept(self.total)}

    @property
    def total(self) -> float:
        """Training and asking."""
        return self.training + self.asking


@dataclass(frozen=True)
class Held:
    """How long machines were held for a part of a run, by the records of the program that went through them."""

    run: str
    part: str
    attempts: int
    minutes: float
    complete: bool

    def as_json(self) -> dict[str, Any]:
        """Return the row for tables.json."""
        return {"key": f"{self.run}.held.{self.part}", **_rounded(asdict(self))}


def held(runs: Sequence[Run]) -> list[Held]:
    """Return the attempts of each part of each run, together.

    One whose record ends under way, as on a machine that vanished, counts as long as it was seen: at least so long.
    """
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        for file in sorted(run.folder.glob(f"{layout.RECORDS}/attempts/*.json")):
            value = read_json(file)
            if isinstance(value, dict) and isinstance(value.get("seconds"), (int, float)):
                found.setdefault((run.name, str(value.get("run", ""))), []).append(value)
    return [
        Held(
            run,
            part,
            len(many),
            sum(one["seconds"] for one in many) / 60,
            any(o.get("state") == "complete" for o in many),
        )
        for (run, part), many in sorted(found.items())
    ]


def _kept(value: float) -> float:
    return float(f"{value:.6g}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return _kept(value) if isinstance(value, float) else value


def stages(runs: Sequence[Run]) -> list[StageTime]:
    """Return every stage and ablation row that has metrics, runs in order."""
    rows = []
    for run in runs:
        for name, ablation in unfinished.trainings(run.config):
            metrics = run.metrics(name, ablation)
            if metrics:
                rows.append(_stage(run, name, ablation, metrics))
    return rows


def _stage(run: Run, name: str, ablation: bool, metrics: Sequence[Mapping[str, float]]) -> StageTime:
    warm = metrics[1:] or metrics

    def middle(key: str) -> float | None:
        values = [row[key] for row in warm if key in row]
        return median(values) if values else None

    parts = {part: value for part in PARTS if (value := middle(f"timing_s/{part}")) is not None}
    step = middle("timing/step") or middle("timing_s/step") or 0.0
    load = _load(warm)
    made = [
        r["response_length/mean"] * r["rollout/trajectories"] * r.get("rollout/turns_mean", 1.0) / r["timing_s/gen"]
        for r in warm
        if r.get("timing_s/gen") and {"response_length/mean", "rollout/trajectories"} <= r.keys()
    ]
    learned = [
        r["perf/total_num_tokens"] / r["timing_s/update_actor"]
        for r in warm
        if r.get("timing_s/update_actor") and "perf/total_num_tokens" in r
    ]
    floor: dict[str, float] = {}
    mfu = None
    of, card = _model(run), flops.card(str(run.record["environment"].get("device", "")))
    if load is not None and of is not None and card is not None:
        devices = int(run.record["environment"].get("devices", 1))
        floor = {part: value / devices for part, value in flops.floors(of, load, *card).items()}
        if parts.get("update_actor"):
            mfu = 3 * sum(flops.forward(of, load)) / (parts["update_actor"] * devices * card[0])
    return StageTime(
        run.name,
        run.scale,
        run.seed,
        name,
        ablation,
        len(metrics),
        _minutes(metrics),
        parts,
        step,
        median(made) if made else None,
        median(learned) if learned else None,
        mfu,
        floor,
        {part: parts[part] / floor[part] for part in floor if parts.get(part) and floor[part]},
        run.metrics_file(name, ablation),
        run.cut(name, ablation),
    )


def _minutes(metrics: Sequence[Mapping[str, float]]) -> float:
    return sum(row.get("timing/step", row.get("timing_s/step", 0.0)) for row in metrics) / 60


def _load(rows: Sequence[Mapping[str, float]]) -> flops.Load | None:
    keys = ("rollout/groups", "rollout/trajectories", "prompt_length/mean", "response_length/mean")
    if not all(key in row for row in rows for key in keys):
        return None
    groups, trajectories, prompt, response = (median([row[key] for row in rows]) for key in keys)
    turns = median([row.get("rollout/turns_mean", 1.0) for row in rows])
    # Turns of a memory agent have prompts of their own; rows of a group share theirs.
    return flops.Load(groups if turns <= 1 else trajectories * turns, prompt, trajectories * turns, response)


def _model(run: Run) -> flops.Shape | None:
    file = run.folder / "models" / "base" / "config.json"
    value = read_json(file) if file.is_file() else None
    return flops.shape(value) if isinstance(value, dict) else None


def tables(runs: Sequence[Run], scale: str) -> list[TableTime]:
    """Return the minutes of Table 10 and of each ablation table at a scale; a row of two tables counts in both."""
    members: dict[str, set[tuple[str, bool]]] = {"table10": {(name, False) for name in RL_STAGES}}
    for run in runs:
        for row in run.rows:
            for name in row.tables:
                if name in ABLATION_TABLES:
                    members.setdefault(name, set()).add((row.name, True))
    found = []
    for table, rows in members.items():
        training = asking = wall = 0.0
        seeds, clocked = set(), False
        machines: dict[str, None] = {}
        for run in runs:
            cards = int(run.record["environment"].get("devices", 1))
            mine = cards * sum(_minutes(run.metrics(name, ablation)) for name, ablation in sorted(rows))
            patterns = [f"ablations/{name}/evaluation/*/run.json" for name, ablation in sorted(rows) if ablation]
            asked = cards * sum(_seconds(run, p) for p in patterns or ["evaluation/*/*/run.json"]) / 60
            clock = _clock(run, rows)
            training, asking = training + mine, asking + asked
            if clock is not None:
                wall, clocked = wall + clock, True
            if mine or asked:
                seeds.add(run.seed)
                machines |= dict.fromkeys(filter(None, [str(run.record["environment"].get("device", ""))]))
        if seeds:
            clock = wall if clocked else None
            found.append(TableTime(table, scale, len(seeds), training, asking, clock, tuple(machines)))
    return found


def _seconds(run: Run, pattern: str) -> float:
    total = 0.0
    for file in sorted(run.folder.glob(pattern)):
        value = read_json(file)
        seconds = value.get("seconds") if isinstance(value, dict) else None
        if not isinstance(seconds, (int, float)):
            raise DataError(f"{file.relative_to(run.folder)} of run {run.name} says no seconds; bundle its run again")
        total += seconds
    return total


def _clock(run: Run, rows: set[tuple[str, bool]]) -> float | None:
    """Return minutes of Snakemake's clock of the training rules; none where it kept none."""
    seconds = []
    for name, ablation in sorted(rows):
        file = run.folder / "benchmarks" / (f"ablations/{name}-train.tsv" if ablation else f"{name}.tsv")
        if file.is_file():
            lines = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")), delimiter="\t"))
            seconds += [float(line["s"]) for line in lines if line.get("s", "").replace(".", "", 1).isdigit()]
    return sum(seconds) / 60 if seconds else None
