"""Rows of a batch to data-parallel ranks, groups kept together: a prompt is computed once only where its rows meet."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from qwenlong.training.advantages import members_of


def by_group(groups: Sequence[Hashable], sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Return the rows of each rank: the same number each, groups whole where they fit, tokens about even.

    Args:
        groups: N group labels; the rows of one prompt share one.
        sizes: N tokens of each row.
        ranks: number of ranks; divides N.

    Groups go, largest first, to the rank with the fewest tokens that has room for them; one that fits nowhere is
    split. The order of rows within a rank is theirs in the batch. Raises ValueError when `ranks` does not divide N.
    """
    if len(groups) != len(sizes) or ranks < 1 or len(groups) % ranks:
        raise ValueError(f"{len(groups)} rows, {len(sizes)} sizes, {ranks} ranks: ranks must divide the rows")
    room = [len(groups) // ranks] * ranks
    load = [0] * ranks
    taken: list[list[int]] = [[] for _ in range(ranks)]
    queue = sorted(members_of(groups).values(), key=lambda rows: (-sum(sizes[row] for row in rows), rows[0]))
    for rows in queue:
        rest = rows
        while rest:
            fitting = [rank for rank in range(ranks) if room[rank] >= len(rest)]
            rank = min(fitting or range(ranks), key=lambda rank: (load[rank] if fitting else -room[rank], rank))
            part, rest = rest[: room[rank]], rest[room[rank] :]
            taken[rank] += part
            room[rank] -= len(part)
            load[rank] += sum(sizes[row] for row in part)
    return [sorted(rows) for rows in taken]
