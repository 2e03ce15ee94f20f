"""Groups stay together on a rank where they can, and ranks get the same number of rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenlong.training.balance import by_group


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 500)), min_size=1, max_size=60), st.integers(1, 5))
def test_every_row_once_and_as_many_each(rows: list[tuple[int, int]], ranks: int) -> None:
    rows = rows * ranks
    parts = by_group([group for group, _ in rows], [size for _, size in rows], ranks)
    assert sorted(row for part in parts for row in part) == list(range(len(rows)))
    assert {len(part) for part in parts} == {len(rows) // ranks}


def test_groups_are_whole_and_tokens_even() -> None:
    groups = [g for g in range(8) for _ in range(4)]
    sizes = [100 * (g + 1) for g in groups]
    parts = by_group(groups, sizes, 2)
    assert all(
        groups.count(g) == [groups[row] for row in part].count(g) for part in parts for g in {groups[r] for r in part}
    )
    loads = [sum(sizes[row] for row in part) for part in parts]
    assert loads[0] == loads[1]


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows"):
        by_group(["a", "a", "b"], [1, 1, 1], 2)
