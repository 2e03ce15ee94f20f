"""The cases of the gradient comparison, and what each must give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gradient_batch import GROUP_SIZE, ROWS, Row, load

TEMPERATURE = 0.7
#: Tokens of a micro-batch where it is filled by tokens; the longest row has 174.
TOKENS = 256


@dataclass(frozen=True)
class Case:
    """One update. `wrong` names a deliberate fault that the comparison must reject."""

    name: str
    layout: str = "flat"
    kind: str = "task_std"
    micro: int | None = 3
    """Rows of a micro-batch, none: by tokens."""
    aepo: tuple[float, float] | None = None
    """Band of the batch entropy in nats."""
    clip: tuple[str, str] | None = None
    """Level and side; the threshold is put where the batch's entropies leave the widest gap."""
    shifted: bool = False
    drops: bool = False
    pads: bool = False
    wrong: str | None = None

    def rows(self, ranks: int) -> list[Row]:
        """Return the batch: 24 rows a rank, fewer where verl has to pad."""
        count = ROWS * ranks
        if self.pads:
            # Whole trajectories only: a flat batch lacks a group, a memory batch the last turn of the last trajectory.
            count -= GROUP_SIZE if self.layout == "flat" else 1
        return load(self.layout, count)


#: Entropies of any model lie above the first band and below the second.
MASKS, OPEN = (0.0, 1e-6), (1e6, 1e7)
_MICRO = (1, 3, 8, None)


def _micro_name(micro: int | None) -> str:
    return "by tokens" if micro is None else f"{micro} row" + ("s" if micro > 1 else "")


def _named(case: Case, words: str) -> Case:
    return replace(case, name=f"{words}, {case.layout}, {_micro_name(case.micro)}")


def cases(ranks: int, brief: bool = False) -> list[Case]:
    """Return the cases of a number of ranks; `brief`: those in which AEPO masks, and the wrong ones."""
    one = Case("")
    found = []
    for layout in ("flat", "memory"):
        for micro in _MICRO:
            base = replace(one, layout=layout, micro=micro, kind="task_std" if layout == "flat" else "grpo")
            found += [
                _named(base, "AEPO off"),
                _named(replace(base, aepo=MASKS), "AEPO masks"),
            ]
    for layout in ("flat", "memory"):
        for micro in (3, None):
            base = replace(one, layout=layout, micro=micro, pads=True)
            found.append(_named(replace(base, aepo=MASKS), "padding rows, AEPO masks"))
    tokens = replace(one, micro=None)
    found += [
        _named(replace(one, aepo=OPEN), "AEPO open"),
        _named(replace(one, kind="grpo"), "grpo"),
        _named(replace(one, kind="batch_std"), "batch_std"),
        _named(replace(one, layout="memory", kind="task_std"), "task_std"),
        _named(replace(tokens, drops=True), "a dropped rollout"),
        _named(replace(tokens, layout="memory", drops=True), "a dropped trajectory"),
        _named(replace(one, shifted=True), "off-policy"),
        _named(replace(tokens, shifted=True, aepo=MASKS), "off-policy, AEPO masks"),
        _named(replace(tokens, clip=("token", "high")), "token clipping, high"),
        _named(replace(one, clip=("sequence", "low")), "sequence clipping, low"),
    ]
    found += [_named(replace(tokens, wrong="token-mean"), "wrong: verl's token-mean")]
    found += [_named(replace(one, aepo=MASKS, wrong="mask lost"), "wrong: mask not written back")]
    if ranks > 1:
        # One rank's own token count is the batch's.
        found += [_named(replace(one, wrong="own tokens"), "wrong: ranks divide by their own tokens")]
    return [case for case in found if not brief or case.aepo == MASKS or case.wrong]


def stage(case: Case, rows: list[Row], threshold: float | None) -> dict[str, Any]:
    """Return the settings of the RL stage of a case, as a configuration file would have them."""
    return {
        "max_input_tokens": 128,
        "max_output_tokens": 64,
        "steps": 1,
        "batch_prompts": len({row.group for row in rows}),
        "group_size": GROUP_SIZE,
        "learning_rate": 1e-3,
        "temperature": TEMPERATURE,
        "log_rollout_groups": 0,
        "advantage": case.kind,
        "aepo": {"low": case.aepo[0], "high": case.aepo[1]} if case.aepo else None,
        "clipping": {"level": case.clip[0], "side": case.clip[1], "threshold": threshold} if case.clip else None,
        "memory": {"chunk_tokens": 64, "memory_tokens": 64, "answer_tokens": 64} if case.layout == "memory" else None,
    }
