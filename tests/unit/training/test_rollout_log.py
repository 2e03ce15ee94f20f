"""Records of rollouts: written per step, joined, read, shown."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from qwenlong.core.errors import DataError
from qwenlong.training import rollout_log
from qwenlong.training.commands import app
from qwenlong.training.rollout_log import Record


def record(step: int = 1, rollout: int = 0, turn: int = 0, **values) -> Record:
    made = Record(
        step=step, uid=f"s{step}p0i4", sample="doc-4", task="doc_multi_hop", rollout=rollout, turn=turn,
        n_prompt_tokens=370, n_response_tokens=3, truncated=False, reward=float(rollout % 2), dropped=False,
        judged=False, advantage=0.5, entropy=0.25, masked=False, masked_tokens=0,
        sha256=rollout_log.digest([rollout, step, turn]), token_ids=[rollout, step, turn], text=f"t{rollout}",
    )  # fmt: skip
    return replace(made, **values)


def test_a_step_is_written_in_one_order_and_read_back(tmp_path: Path) -> None:
    rows = [record(rollout=r, turn=t) for r in range(3) for t in range(2)]
    bare = replace(rows[0], uid="s1p1i5", token_ids=None, text=None, advantage=None, dropped=True)
    file = rollout_log.write_step(tmp_path, 1, [*reversed(rows), bare])
    assert file == tmp_path / "rollouts/step_000001.parquet"
    first = file.read_bytes()
    assert list(rollout_log.read(file)) == [*rows, bare]
    rollout_log.write_step(tmp_path, 1, [bare, *rows])
    assert file.read_bytes() == first and [f.name for f in file.parent.iterdir()] == [file.name]
    # A repeated step replaces its own file and no other.
    rollout_log.write_step(tmp_path, 2, [record(step=2)])
    rollout_log.write_step(tmp_path, 1, rows[:1])
    assert list(rollout_log.read(tmp_path)) == [rows[0], record(step=2)]


def test_the_digest_is_that_of_little_endian_integers() -> None:
    ids = [0, 5, 151935]
    assert rollout_log.digest(ids) == hashlib.sha256(struct.pack("<3i", *ids)).hexdigest()
    assert rollout_log.digest([]) == hashlib.sha256(b"").hexdigest() != rollout_log.digest([0])


def test_steps_are_joined_and_missing_ones_named(tmp_path: Path) -> None:
    for step in (1, 2, 4, 7):
        rollout_log.write_step(tmp_path, step, [record(step=step, rollout=r) for r in range(2)])
    found = rollout_log.join(tmp_path, tmp_path / "policy/rollouts.parquet", 5)
    # Step 7 is beyond the stage's end.
    assert found == {"rows": 6, "missing": [3, 5]}
    joined = list(rollout_log.read(tmp_path / "policy"))
    assert [r.step for r in joined] == [1, 1, 2, 2, 4, 4]
    assert pq.ParquetFile(tmp_path / "policy/rollouts.parquet").num_row_groups == 3
    assert rollout_log.join(tmp_path / "nothing", tmp_path / "none.parquet", 2) == {"rows": 0, "missing": [1, 2]}
    rollout_log.path_of(tmp_path, 2).write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"step_000002.parquet holds no rollout records"):
        rollout_log.join(tmp_path, tmp_path / "again.parquet", 5)
    assert not (tmp_path / "again.parquet").exists()


def test_digests_of_an_earlier_try(tmp_path: Path) -> None:
    file = rollout_log.write_step(tmp_path, 3, [record(step=3, rollout=r) for r in range(2)])
    uid = "s3p0i4"
    assert rollout_log.read_digests(file) == {(uid, r, 0): rollout_log.digest([r, 3, 0]) for r in range(2)}
    file.write_bytes(b"half")
    assert rollout_log.read_digests(file) == rollout_log.read_digests(tmp_path / "none") == {}


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=4), st.tuples(st.sampled_from("xyz"), st.booleans())),
    st.integers(0, 9),
    st.integers(0, 20),
)
def test_groups_that_are_kept(groups: dict[str, tuple[str, bool]], count: int, step: int) -> None:
    """As many as asked for, tasks in turn, groups with right and wrong rollouts first."""
    chosen = rollout_log.shown_groups(groups, count, step)
    assert len(chosen) == len(set(chosen)) == min(count, len(groups)) and set(chosen) <= set(groups)
    assert chosen == rollout_log.shown_groups(dict(reversed(groups.items())), count, step)
    sizes = {task: sum(groups[uid][0] == task for uid in chosen) for task, _ in groups.values()}
    there = {task: sum(t == task for t, _ in groups.values()) for task in sizes}
    for task, size in sizes.items():
        mixed = sum(groups[uid][1] for uid in chosen if groups[uid][0] == task)
        assert mixed == min(size, sum(m for t, m in groups.values() if t == task))
        # A task has fewer than another only where it has no more, or by one.
        assert all(size + 1 >= other or size == there[task] for other in sizes.values())


def test_over_steps_every_task_is_kept() -> None:
    groups = {f"{task}{n}": (task, False) for task in "abcde" for n in range(3)}
    assert {rollout_log.shown_groups(groups, 1, step)[0][0] for step in range(5)} == set("abcde")


def test_long_responses_are_cut_in_the_middle() -> None:
    assert rollout_log.cut("x" * 10, 10) == "x" * 10
    assert rollout_log.cut("a" * 50 + "b" * 50, 20) == "a" * 10 + " … (80 characters) … " + "b" * 10
    columns = rollout_log.table([record(text="y" * 5000), record(text=None, token_ids=None)])
    assert len(columns["response"]) == 1 and len(columns["response"][0]) < 2100 and "token_ids" not in columns
    assert rollout_log.table([record(text=None)]) == {}


RUN = CliRunner()


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    for step in (1, 2):
        rows = [record(step=step, rollout=r) for r in range(3)]
        rows[2] = replace(rows[2], text="\x1b[31mred\x1b[0m\u202e", truncated=True, masked=True)
        rows.append(replace(rows[0], uid=f"s{step}p1i7", task="dialogue_memory", text=None, token_ids=None))
        rollout_log.write_step(tmp_path, step, rows)
    return tmp_path


def show(*words: object):
    return RUN.invoke(app, ["rollouts", *map(str, words)])


def test_rollouts_on_a_terminal(stage: Path) -> None:
    done = show(stage)
    assert done.exit_code == 0 and done.stdout.count("reward") == 6
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout and "[cut off, masked]" in done.stdout
    done = show(stage, "--step", 2, "--wrong")
    assert done.exit_code == 0 and done.stdout.count("reward 0.000") == 2 and "step 1 " not in done.stdout
    assert show(stage, "--limit", 1).stdout.count("reward") == 1


def test_rollouts_as_json(stage: Path) -> None:
    done = show(stage, "--json", "--task", "dialogue_memory")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0 and [row["step"] for row in rows] == [1, 2]
    assert rows[0]["text"] is None and set(rows[0]) == set(asdict(record()))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--task", "poetry"], 2, "--task = 'poetry' is unknown; name one of"),
        (["--step", "9"], 1, "no rollout with a text for step 9"),
        (["--task", "dialogue_memory"], 1, "ask for less, or for --json"),
        (["--limit", "0"], 2, "limit"),
    ],
)
def test_nothing_to_show_is_said(stage: Path, words: list[str], code: int, said: str) -> None:
    done = show(stage, *words)
    assert done.exit_code == code and said in " ".join(done.output.split())


def test_a_folder_without_records_and_a_damaged_file(tmp_path: Path) -> None:
    done = show(tmp_path)
    assert done.exit_code == 1 and "no rollout records in" in done.output
    (tmp_path / "rollouts.parquet").write_bytes(b"PAR1")
    assert show(tmp_path).exit_code == 1 and "holds no rollout records" in show(tmp_path).output
    (tmp_path / "rollouts.parquet").unlink()
    pq.write_table(
        pq.read_table(rollout_log.write_step(tmp_path, 1, [record()])).drop(["reward"]), tmp_path / "x.parquet"
    )
    assert show(tmp_path / "x.parquet").exit_code == 1
