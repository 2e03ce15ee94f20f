"""Verdicts on the paper's claims at one scale, over seeds. One seed is never a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwenlong.audit import checks
from qwenlong.audit.results import Scores
from qwenlong.audit.site import entropy
from qwenlong.audit.site.cells import Source, estimate_json, file_of, found, items_of
from qwenlong.audit.site.runs import Run
from qwenlong.audit.site.statistics import Estimate, Items, difference, estimate, holm, of_seeds
from qwenlong.core.published import Claim, Published

Status = Literal["not run", "seen once", "undecided", "contradicted", "supported", "reproduced"]
STATUSES: tuple[Status, ...] = ("not run", "seen once", "undecided", "contradicted", "supported", "reproduced")
#: Points that a model may lose where the paper says that it keeps something: a difference of nothing is never shown.
KEEPS = 2.0
#: Share of steps within AEPO's band from which its claim holds.
INSIDE = 0.9
#: Why a claim cannot be tested here, whatever is run.
NOT_TESTABLE = {
    "wrong_and_right_rollouts_alike": "sets long prompts against short competition mathematics, which no task of ours "
    "is; our ROUGE-L by task stands beside Table 3",
}


@dataclass(frozen=True)
class Seed:
    """What one seed says: the paired difference of a claim's two models, or its own number."""

    run: str
    seed: int
    estimate: Estimate


@dataclass(frozen=True)
class Verdict:
    """A claim at a scale. `estimate` is the difference in points, or the number that the claim is about."""

    id: str
    scale: str
    direction: str
    paper: str
    ours: tuple[str, ...]
    status: Status
    estimate: Estimate | None
    unit: str
    p_holm: float | None
    seeds: tuple[Seed, ...]
    sources: tuple[Source, ...]
    note: str

    def as_json(self) -> dict[str, Any]:
        """Return the verdict for tables.json."""
        return {
            "key": f"{self.scale}.claims.{self.id}",
            "id": self.id,
            "scale": self.scale,
            "direction": self.direction,
            "paper": self.paper,
            "ours": list(self.ours),
            "status": self.status,
            "unit": self.unit,
            **estimate_json(self.estimate),
            "p_holm": None if self.p_holm is None else round(self.p_holm, 6),
            "by_seed": [
                {"run": one.run, "seed": one.seed} | estimate_json(one.estimate) | {"seeds": 1} for one in self.seeds
            ],
            "sources": [source.as_json() for source in self.sources],
            "note": self.note,
        }


@dataclass(frozen=True)
class _Pair:
    """First against second model over seeds."""

    estimate: Estimate
    seeds: tuple[Seed, ...]
    sources: tuple[Source, ...]


def verdicts(runs: Sequence[Run], scale: str, published: Published) -> list[Verdict]:
    """Return a verdict per claim of claims.yaml, in its order; p adjusted by Holm over the scale's claims."""
    made = [_verdict(claim, runs, scale, published) for claim in published.claims]
    tested = [None if v.estimate is None or v.estimate.seeds < 2 else v.estimate.p for v in made]
    return [replace(v, p_holm=p) for v, p in zip(made, holm(tested), strict=True)]


def _verdict(claim: Claim, runs: Sequence[Run], scale: str, published: Published) -> Verdict:
    paper = " · ".join(_shown(published.value(cell)) for cell in claim.cells)
    empty = Verdict(claim.id, scale, claim.direction, paper, (), "not run", None, "points", None, (), (), "")
    if claim.direction == "positive":
        return _rho(replace(empty, unit="ρ"), runs, published.value(claim.cells[0]))
    if claim.direction == "inside_band":
        return _band(replace(empty, paper="0.117 to 0.28", unit="share of steps"), runs)
    if claim.id in NOT_TESTABLE:
        return replace(empty, note=f"not testable here, because it {NOT_TESTABLE[claim.id]}")
    sides = [found(runs, _reader(cell)) for cell in claim.cells]
    missing = [cell for cell, side in zip(claim.cells, sides, strict=True) if not side]
    if missing:
        return replace(empty, note=f"nothing measured for {', '.join(missing)}")
    return _compare(empty, claim, runs)


def _reader(cell: str) -> Callable[[Run], Scores | None]:
    def read(run: Run) -> Scores | None:
        at = checks.scores_of(cell, run.evaluations)
        return None if at is None else at[0]

    return read


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else "–"


def _compare(empty: Verdict, claim: Claim, runs: Sequence[Run]) -> Verdict:
    cells = claim.cells
    increasing = claim.direction == "increasing"
    pairs = [(cells[0], cells[1])] if not increasing else list(zip(cells[1:], cells, strict=False))
    found_pairs = [_pair(first, second, runs) for first, second in pairs]
    if any(pair is None for pair in found_pairs):
        return replace(empty, note="no seed has both models with items in common")
    known = [pair for pair in found_pairs if pair is not None]
    states = [_status(claim, pair.estimate) for pair in known]
    weakest = min(range(len(known)), key=lambda place: STATUSES.index(states[place]))
    if "contradicted" in states and states[weakest] != "seen once":
        weakest = states.index("contradicted")
    pair = known[weakest]
    # Of the seeds that have all: otherwise they would not differ by what is estimated.
    whole = [run for run in runs if all(checks.scores_of(cell, run.evaluations) for cell in cells)]
    shown = [_mean(cell, whole or runs) for cell in cells]
    notes = ["the weakest of the steps is shown"] if len(known) > 1 else []
    if any(cell.endswith(".mrcr") for cell in cells):
        notes.append("dialogue_memory stands in for MRCR")
    if pair.estimate.n < checks.MIN_ITEMS:
        notes.append(f"{pair.estimate.n} common items, too few to tell")
    if claim.direction == "not_less":
        notes.append(f"counts as kept where the whole interval lies above -{KEEPS:g} points")
    if states[weakest] == "seen once":
        value = pair.estimate.value
        agrees = value >= 0 if claim.direction == "not_less" else (-value if claim.direction == "less" else value) > 0
        notes.insert(0, "as claimed, in one run" if agrees else "not as claimed, in one run")
    elif side := _outside(claim.margin, pair.estimate):
        notes.append(f"the paper's difference, {claim.margin:+.2f}, lies {side} the interval")
    return replace(
        empty,
        ours=tuple(shown),
        status=states[weakest],
        estimate=pair.estimate,
        seeds=pair.seeds,
        sources=tuple(dict.fromkeys(source for one in known for source in one.sources)),
        note="; ".join(notes),
    )


def _outside(margin: float | None, value: Estimate) -> str:
    """Say on which side of our interval the paper's difference lies; empty inside it, and where nothing is known."""
    if margin is None or value.low is None or value.high is None or value.n < checks.MIN_ITEMS:
        return ""
    return "above" if margin > value.high else "below" if margin < value.low else ""


def _pair(first: str, second: str, runs: Sequence[Run]) -> _Pair | None:
    differences: dict[int, tuple[Run, Items]] = {}
    sources: list[Source] = []
    for run in runs:
        sides = [checks.scores_of(cell, run.evaluations) for cell in (first, second)]
        if run.seed in differences or sides[0] is None or sides[1] is None:
            continue
        column = sides[0][1]
        parts = difference(*(items_of(side[0], column) for side in sides if side is not None))
        if parts:
            differences[run.seed] = (run, parts)
            sources += [_source(cell, run) for cell in (first, second)]
    if not differences:
        return None
    seeds = [
        Seed(run.name, seed, estimate([items]).scaled(100.0)) for seed, (run, items) in sorted(differences.items())
    ]
    try:
        whole = estimate([items for _, (_, items) in sorted(differences.items())]).scaled(100.0)
    except ValueError:
        return None
    return _Pair(whole, tuple(seeds), tuple(sorted(sources, key=lambda source: (source.seed, source.file))))


def _source(cell: str, run: Run) -> Source:
    table, row, column = (*cell.split("."), "", "")[:3]
    agent = column.startswith("memory_agent")
    model, ablation = checks.model_of(table, row)
    return Source(run.name, run.seed, file_of(model, ablation, "heldout_long" if agent else "heldout"))


def _mean(cell: str, runs: Sequence[Run]) -> str:
    column = next(at[1] for run in runs if (at := checks.scores_of(cell, run.evaluations)) is not None)
    try:
        return f"{100 * estimate([items_of(scores, column) for _, scores in found(runs, _reader(cell))]).value:.1f}"
    except ValueError:
        return "–"


def _status(claim: Claim, value: Estimate) -> Status:
    """Judge a difference: the sign of "less" is turned; "not_less" has a margin below zero, see KEEPS."""
    if value.seeds < 2:
        return "seen once"
    if value.low is None or value.high is None or value.n < checks.MIN_ITEMS:
        return "undecided"
    low, high = (-value.high, -value.low) if claim.direction == "less" else (value.low, value.high)
    if high < 0:
        return "contradicted"
    if not (low > -KEEPS if claim.direction == "not_less" else low > 0):
        return "undecided"
    # In size, too: the paper's own difference lies in our interval, which is not so wide that any size would.
    margin = claim.margin
    inside = margin is not None and not _outside(margin, value) and value.high - value.low <= 2 * abs(margin)
    return "reproduced" if inside else "supported"


def _rho(empty: Verdict, runs: Sequence[Run], paper: Any) -> Verdict:
    """Spearman's rho of entropy and gradient norm within each training of plain GRPO.

    Of a seed's trainings, and then of seeds, the mean on Fisher's scale.
    """
    seeds: list[Seed] = []
    sources: list[Source] = []
    cut: list[str] = []
    steps = 0
    for run in runs:
        rhos = {one: (checks.entropy_norm_rho(points), len(points)) for one, points in entropy.plain(run).items()}
        trained = {one: known for one, known in rhos.items() if not math.isnan(known[0])}
        if not trained or any(one.seed == run.seed for one in seeds):
            continue
        n = sum(count for _, count in trained.values())
        value = _through_fisher([rho for rho, _ in trained.values()], n).value
        seeds.append(Seed(run.name, run.seed, Estimate(value, None, None, None, n, 1)))
        sources += [Source(run.name, run.seed, run.metrics_file(*training)) for training in trained]
        cut += [f"{run.name}: {one[0]} stopped at {where}" for one in trained if (where := run.cut(*one))]
        steps += n
    if not seeds:
        return replace(empty, note="three steps of plain GRPO that differ are needed")
    whole = _through_fisher([one.estimate.value for one in seeds], steps)
    status: Status = "seen once" if len(seeds) < 2 else "undecided"
    if whole.low is not None and whole.high is not None and whole.high < 0:
        status = "contradicted"
    elif whole.low is not None and whole.high is not None and whole.low > 0:
        status = "reproduced" if whole.low <= float(paper) <= whole.high else "supported"
    note = "; ".join([f"Spearman's ρ within trainings of plain GRPO, {steps} steps in {len(sources)} of them", *cut])
    ours = tuple(f"{one.estimate.value:.2f}" for one in seeds)
    return replace(
        empty, ours=ours, status=status, estimate=whole, seeds=tuple(seeds), sources=tuple(sources), note=note
    )


def _through_fisher(values: Sequence[float], n: int) -> Estimate:
    turned = of_seeds([math.atanh(min(max(value, -0.999999), 0.999999)) for value in values], n)

    def back(value: float | None) -> float | None:
        return None if value is None else math.tanh(value)

    return Estimate(math.tanh(turned.value), back(turned.low), back(turned.high), turned.p, n, len(values))


def _band(empty: Verdict, runs: Sequence[Run]) -> Verdict:
    """AEPO holds entropy in its band: the share of steps within it since the first masked one, each seed for itself."""
    seeds: list[Seed] = []
    sources: list[Source] = []
    counted = 0
    for run in runs:
        inside, steps, files = checks.steps_in_band(run.folder, run.config, row=entropy.AEPO)
        if not steps or any(one.seed == run.seed for one in seeds):
            continue
        seeds.append(Seed(run.name, run.seed, Estimate(inside / steps, None, None, None, steps, 1)))
        sources += [Source(run.name, run.seed, file) for file in files]
        counted += steps
    if not seeds:
        return replace(empty, note="no training's entropy crossed its upper bound: the controller was not exercised")
    shares = [one.estimate.value for one in seeds]
    if len(seeds) < 2:
        status: Status = "seen once"
    elif all(share >= INSIDE for share in shares):
        status = "supported"
    else:
        status = "contradicted" if all(share < INSIDE for share in shares) else "undecided"
    whole = Estimate(sum(shares) / len(shares), min(shares), max(shares), None, counted, len(seeds))
    note = (
        f"steps within {checks.SWING:.0%} of the band since the first masked one; holds where every seed has "
        f"{INSIDE:.0%}; the range is that of the seeds"
    )
    ours = tuple(f"{share:.0%}" for share in shares)
    return replace(
        empty, ours=ours, status=status, estimate=whole, seeds=tuple(seeds), sources=tuple(sources), note=note
    )


def counts(found_verdicts: Sequence[Verdict]) -> Mapping[str, int]:
    """Return how many claims have each status."""
    return {status: sum(verdict.status == status for verdict in found_verdicts) for status in STATUSES}
