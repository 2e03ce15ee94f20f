"""Between stages: difficulty-aware retrospective sampling (SPEC section 2, as in QwenLong-L1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from qwenlong.core.errors import DataError
from qwenlong.core.records import Sample
from qwenlong.core.seeds import rng


@dataclass(frozen=True)
class Selection:
    """What a stage trains on, and why the rest does not belong to it. All ids."""

    samples: list[Sample]
    #: Mean reward of at least `solved_above`.
    solved: list[str] = field(default_factory=list)
    #: Solved, but kept as the hardest of a task that would be gone otherwise.
    kept_although_solved: list[str] = field(default_factory=list)
    #: In the data of an earlier stage and drawn to stay.
    carried: list[str] = field(default_factory=list)
    #: In the data of an earlier stage and not drawn.
    left_behind: list[str] = field(default_factory=list)
    #: Weight of every earlier sample that is not solved.
    weights: dict[str, float] = field(default_factory=dict)


def weight(sample: Sample) -> float:
    """Return the inverse of the mean reward; half a success in k rollouts stands for none."""
    if sample.difficulty is None:
        raise DataError(f"sample {sample.id} has no difficulty; score it before it is selected")
    return 1.0 / max(sample.difficulty.pass_at_k, 0.5 / sample.difficulty.k)


def select(
    samples: Sequence[Sample], earlier: Collection[str], *, solved_above: float, carry_share: float, seed: int
) -> Selection:
    """Return a stage's training data from samples scored by the model that enters it.

    Solved samples are dropped. What no earlier stage trained on stays; of the `earlier` ids, `carry_share` (rounded
    up) is drawn without replacement, weighted by the inverse mean reward. Every task that is there keeps at least
    one sample: its hardest when all are solved or left behind. Order is that of `samples`; the draw depends on ids,
    not on order. Raises DataError for a sample without difficulty.
    """
    weights = {sample.id: weight(sample) for sample in samples}
    reward = {sample.id: sample.difficulty.pass_at_k for sample in samples if sample.difficulty is not None}
    solved = {sample.id for sample in samples if reward[sample.id] >= solved_above}
    old = [sample.id for sample in samples if sample.id in earlier and sample.id not in solved]

    # Exponential races give a weighted draw without replacement; one number per id, whatever the others are.
    race = {name: rng(seed, "carry", name).expovariate(1.0) / weights[name] for name in old}
    n_carried = -int(-carry_share * len(old) // 1)
    carried = set(sorted(old, key=lambda name: (race[name], name))[:n_carried])
    chosen = {sample.id for sample in samples if sample.id not in solved and sample.id not in earlier} | carried

    by_task: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample.id)
    rescued = set()
    for names in by_task.values():
        if not chosen.intersection(names):
            rescued.add(min(names, key=lambda name: (reward[name], name)))
    chosen |= rescued
    carried |= rescued.intersection(old)
    return Selection(
        samples=[sample for sample in samples if sample.id in chosen],
        solved=sorted(solved),
        kept_although_solved=sorted(rescued & solved),
        carried=sorted(carried),
        left_behind=sorted(set(old) - carried),
        weights={name: weights[name] for name in sorted(old)},
    )
