"""Which of the paper's claims hold in our own results: the direction, with the noise of our sample sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qwenlong.audit.results import Scores, read_metrics
from qwenlong.audit.tables import COUNTERPARTS, TABLE10_ROWS, Evaluations
from qwenlong.core.config import RL_STAGES, AblationRow, Config
from qwenlong.core.published import Claim, Published

#: seen: as claimed, beyond noise. leaning, against: as claimed or not, within noise. contradicted: opposite, beyond it.
Verdict = Literal["seen", "leaning", "against", "contradicted", "not measured"]
_MODELS = {row: model for model, row in TABLE10_ROWS.items()}
_TABLE7 = {"qwenlong_l1_5_30b_a3b": "rl_4", "qwen3_30b_a3b_thinking_2507": "base"}
#: How far beyond its band AEPO's entropy may swing: the paper's own Figure 11 does by a fifth of each bound.
SWING = 0.2
#: Common items below which no difference counts as beyond noise: the normal interval means nothing there.
MIN_ITEMS = 20


@dataclass(frozen=True)
class Check:
    """A claim beside our numbers. `difference` is in points where the claim compares scores."""

    id: str
    direction: str
    paper: str
    ours: str
    difference: float | None
    ci95: tuple[float, float] | None
    verdict: Verdict
    note: str

    def as_json(self) -> dict[str, Any]:
        """Return the check for tables.json."""
        return asdict(self)


def paired(first: Scores, second: Scores, tasks: Sequence[str]) -> tuple[float, float, int]:
    """Return first - second over the items both have, its standard error, and the number of items.

    In points; tasks weigh the same; the error is that of paired differences within tasks (ddof 1, infinite where a
    task has one item). Raises ValueError when no task has common items.
    """
    means, variances, n = [], [], 0
    for task in tasks:
        a, b = first.items.get(task, {}), second.items.get(task, {})
        values = np.array([100 * (a[name] - b[name]) for name in sorted(set(a) & set(b))])
        if len(values) == 0:
            continue
        means.append(float(values.mean()))
        variances.append(float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.inf)
        n += len(values)
    if not means:
        raise ValueError("no item is scored in both")
    return float(np.mean(means)), math.sqrt(sum(variances)) / len(means), n


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; nan when one side is constant."""

    def ranks(values: Sequence[float]) -> Any:
        array = np.asarray(values, dtype=np.float64)
        return np.array([(array < v).sum() + ((array == v).sum() + 1) / 2 for v in array])

    a, b = ranks(x), ranks(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def gradient_steps(rows: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    """Return (entropy, gradient norm) of the steps that had a gradient: a step that was skipped has a norm of 0."""
    keys = ("aepo/entropy", "actor/grad_norm")
    taken = [row for row in rows if not row.get("aepo/skipped")]
    return [(row[keys[0]], row[keys[1]]) for row in taken if set(keys) <= row.keys()]


def entropy_norm_rho(points: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's rho of entropy and gradient norm; nan for less than three steps, or where one is constant."""
    return spearman(*zip(*points, strict=True)) if len(points) > 2 else math.nan


def check_all(evaluations: Evaluations, config: Config, published: Published) -> list[Check]:
    """Return a check per claim, in the order of claims.yaml."""
    return [_check(claim, evaluations, config, published) for claim in published.claims]


def _check(claim: Claim, evaluations: Evaluations, config: Config, published: Published) -> Check:
    paper = " · ".join(_number(published.value(cell)) for cell in claim.cells)
    if claim.direction == "positive":
        return _entropy_tracks_norm(claim, paper, evaluations.results)
    if claim.direction == "inside_band":
        return _entropy_in_band(claim, "0.117 to 0.28", evaluations.results, config)
    found = [scores_of(cell, evaluations) for cell in claim.cells]
    missing = [cell for cell, scores in zip(claim.cells, found, strict=True) if scores is None]
    if missing:
        note = f"nothing measured for {', '.join(missing)}"
        if claim.id == "wrong_and_right_rollouts_alike":
            # The claim sets long prompts against competition mathematics, which no task of ours stands for.
            note = "no task of short prompts here; ours by task stand beside Table 3, under Training"
        return Check(claim.id, claim.direction, paper, "", None, None, "not measured", note)
    return _compare(claim, paper, [entry for entry in found if entry is not None])


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else "–"


def model_of(table: str, row: str) -> tuple[str, bool]:
    """Return our model of a published row, and whether it is an ablation's."""
    if table in ("table10", "table7"):
        return (_MODELS if table == "table10" else _TABLE7).get(row, ""), False
    return row, row != "base"


def scores_of(cell: str, evaluations: Evaluations) -> tuple[Scores, str] | None:
    """Return our scores for a published cell, with our column."""
    table, row, column = (*cell.split("."), "", "")[:3]
    ours = COUNTERPARTS.get(column)
    if ours is None:
        return None
    model, ablation = model_of(table, row)
    agent = ours == "memory_agent"
    scores = evaluations.scores(model, ablation=ablation, agent=agent) if model else None
    return None if scores is None else (scores, "avg" if ours == "memory_agent" else ours)


def _compare(claim: Claim, paper: str, found: Sequence[tuple[Scores, str]]) -> Check:
    """Judge "greater", "less", "not_less" (first against second) and "increasing" (each against the one before)."""
    pairs = [(found[0], found[1])] if claim.direction != "increasing" else list(zip(found[1:], found, strict=False))
    sign = -1.0 if claim.direction == "less" else 1.0
    shown = []
    for scores, column in found:
        value = scores.cell(column).value
        shown.append("–" if value is None else f"{value:.1f}")
    verdicts: list[Verdict] = []
    results: list[tuple[float, float]] = []
    items: list[int] = []
    for (first, column), (second, _) in pairs:
        tasks = tuple(first.items) if column == "avg" else (column,)
        try:
            difference, error, n = paired(first, second, tasks)
        except ValueError:
            ours, note = " · ".join(shown), "no common items"
            return Check(claim.id, claim.direction, paper, ours, None, None, "not measured", note)
        results.append((difference, error))
        items.append(n)
        beyond = n >= MIN_ITEMS and abs(difference) > 1.96 * error
        agrees = difference == 0 and claim.direction == "not_less" or sign * difference > 0
        verdicts.append(("seen" if beyond else "leaning") if agrees else "contradicted" if beyond else "against")
    order: list[Verdict] = ["contradicted", "against", "leaning", "seen"]
    verdict = min(verdicts, key=order.index)
    difference, error = results[verdicts.index(verdict)]
    interval = None
    if math.isfinite(error):
        interval = (round(difference - 1.96 * error, 4), round(difference + 1.96 * error, 4))
    column = found[0][1]
    notes = ["dialogue_memory stands in for MRCR"] if column == "dialogue_memory" else []
    notes += ["the weakest of the steps is shown"] if len(pairs) > 1 else []
    notes += [f"{min(items)} common items, too few to tell"] if min(items) < MIN_ITEMS else []
    return Check(
        claim.id, claim.direction, paper, " · ".join(shown), round(difference, 4), interval, verdict, "; ".join(notes)
    )


def _entropy_tracks_norm(claim: Claim, paper: str, results: Path) -> Check:
    # Without AEPO, as the figure shows it.
    points = gradient_steps(read_metrics(results / "stages" / "naive_grpo" / "policy" / "metrics.jsonl"))
    rho = entropy_norm_rho(points)
    if math.isnan(rho):
        note = f"{len(points)} steps of naive_grpo; three that differ are needed"
        return Check(claim.id, claim.direction, paper, "", None, None, "not measured", note)
    # Fisher's transform; below five steps no interval excludes zero.
    width = 1.96 / math.sqrt(len(points) - 3) if len(points) > 4 else math.inf
    beyond = abs(math.atanh(min(max(rho, -0.999999), 0.999999))) > width
    verdict: Verdict = ("seen" if beyond else "leaning") if rho > 0 else "contradicted" if beyond else "against"
    note = f"Spearman's rho over {len(points)} steps of naive_grpo"
    return Check(claim.id, claim.direction, paper, f"{rho:.2f}", None, None, verdict, note)


def steps_in_band(results: Path, config: Config, *, row: str | None = None) -> tuple[int, int, list[str]]:
    """Return the steps within AEPO's band and its swing, all steps since a training's first masked one, and the files.

    Trainings are the stages and, where it is given, a row of `ablations`; files are metrics below `results`.
    """
    trainings = {f"stages/{name}/policy/metrics.jsonl": config.stage(name).aepo for name in RL_STAGES}
    if row is not None and any(isinstance(one, AblationRow) and one.name == row for one in config.ablations.rows):
        trainings[f"ablations/{row}/policy/metrics.jsonl"] = config.ablation(row).aepo
    inside = outside = 0
    files = []
    for file, band in trainings.items():
        if band is None:
            continue
        masked = False
        for step in read_metrics(results / file):
            if "aepo/entropy" not in step:
                continue
            # Before the first masked step the controller has done nothing yet.
            if step.get("aepo/masked", 0.0) and not masked:
                masked = True
                files.append(file)
            if masked:
                within = band.low * (1 - SWING) <= step["aepo/entropy"] <= band.high * (1 + SWING)
                inside, outside = inside + within, outside + (not within)
    return inside, inside + outside, files


def _entropy_in_band(claim: Claim, paper: str, results: Path, config: Config) -> Check:
    inside, steps, files = steps_in_band(results, config)
    switches = len(files)
    if not switches:
        note = "no stage's entropy crossed its upper bound: the controller was not exercised"
        return Check(claim.id, claim.direction, paper, "", None, None, "not measured", note)
    share = inside / steps
    few = steps < 20
    verdict: Verdict = ("leaning" if few else "seen") if share >= 0.9 else ("against" if few else "contradicted")
    note = f"steps within {SWING:.0%} of the band since the first masked one, of {steps}, {switches} stages"
    return Check(claim.id, claim.direction, paper, f"{share:.0%}", None, None, verdict, note)
