"""The judge over shards: asked about what filters and deduplication left, shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core.config import EndpointConfig
from qwenlong.core.files import sha256_file
from qwenlong.corpus import judge, shard_files

if TYPE_CHECKING:
    from qwenlong.core.llm import Outcome


def drop_unfit(
    paths: Sequence[Path],
    signed: Sequence[Path],
    rows: Sequence[list[int]],
    endpoint: EndpointConfig,
    seed: int,
    state: Path,
) -> dict[str, Any]:
    """Add the rows that the judge finds unfit to each shard's dropped `rows`; return `judge.counts` of all.

    A shard's journal is named by its content: the order of the shards changes nothing of what is paid for. When the
    judge gave up within one shard, the others are left for another run.
    """
    from qwenlong.core.llm import Outcome

    said: list[Outcome[bool]] = []
    used: list[dict[str, Any]] = []
    down = False
    try:
        for path, sign, drops in zip(paths, signed, rows, strict=True):
            stay = _staying(sign, drops)
            taken = [(row, one) for row, one in enumerate(shard_files.documents(path)) if row in stay]
            if down:
                said += [Outcome(error="not_asked")] * len(taken)
                continue
            verdicts = judge.judge([one for _, one in taken], endpoint, seed, state, used, sha256_file(path)[:16])
            drops += [row for (row, _), outcome in zip(taken, verdicts, strict=True) if outcome.value is False]
            # Without the texts, of which there may be millions.
            said += [replace(outcome, text="", detail="") for outcome in verdicts]
            down = any(outcome.error in ("denied", "not_asked") for outcome in verdicts)
    finally:
        judge.write_usage(state, used)
    return judge.counts(said)


def _staying(signed: Path, dropped: Sequence[int]) -> set[int]:
    """Return the rows of a shard that passed the filters and repeat nothing."""
    import pyarrow.parquet as pq

    return set(pq.read_table(signed, columns=["row"]).column("row").to_pylist()) - set(dropped)
