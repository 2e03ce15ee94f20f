"""What a stage rolled out, a Parquet file a step: one row per model call, a digest of its tokens, some of its text.

Records and files only: verl's batch is turned into records by `verl_plugin.recording`.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwenlong.core.errors import DataError
from qwenlong.core.files import atomic_file

#: Folder of a stage's state with a file per step, and the table beside its policy.
FOLDER, TABLE = "rollouts", "rollouts.parquet"
#: Reward from which a rollout counts as right.
RIGHT = 0.5
#: Characters of a response in a table of MLflow; the middle of a longer one is left out.
SHOWN = 2000
_STEP = re.compile(r"step_(\d+)\.parquet")


@dataclass(frozen=True)
class Record:
    """One model call. `advantage` is none where the rollout was dropped; `entropy` is in nats per token.

    `masked`: AEPO or clipping took the whole rollout out of the update; `masked_tokens`: response tokens taken out.
    `sha256`: of the response's ids as little-endian int32. `token_ids` and `text` are kept for some groups only.
    """

    step: int
    uid: str
    sample: str
    task: str
    rollout: int
    turn: int
    n_prompt_tokens: int
    n_response_tokens: int
    truncated: bool
    reward: float
    dropped: bool
    judged: bool
    advantage: float | None
    entropy: float
    masked: bool
    masked_tokens: int
    sha256: str
    token_ids: Sequence[int] | None = None
    text: str | None = None


def _schema() -> Any:
    import pyarrow as pa

    kinds = {
        "step": pa.int32(), "uid": pa.string(), "sample": pa.string(), "task": pa.string(), "rollout": pa.int32(),
        "turn": pa.int32(), "n_prompt_tokens": pa.int32(), "n_response_tokens": pa.int32(), "truncated": pa.bool_(),
        "reward": pa.float64(), "dropped": pa.bool_(), "judged": pa.bool_(), "advantage": pa.float64(),
        "entropy": pa.float64(), "masked": pa.bool_(), "masked_tokens": pa.int32(), "sha256": pa.string(),
        "token_ids": pa.list_(pa.int32()), "text": pa.string(),
    }  # fmt: skip
    return pa.schema(list(kinds.items()))


def digest(token_ids: Sequence[int]) -> str:
    """Return the hex SHA-256 of token ids as little-endian int32."""
    return hashlib.sha256(np.asarray(token_ids, dtype="<i4").tobytes()).hexdigest()


def shown_groups(groups: Mapping[str, tuple[str, bool]], count: int, step: int) -> list[str]:
    """Return the `count` groups whose tokens and text are kept, of {uid: (task, rewards differ)}.

    Tasks take turns, beginning with another one each step; within a task groups whose rewards differ come first, since
    they show right and wrong rollouts of one prompt. The choice depends on nothing else.
    """
    by_task: dict[str, list[str]] = defaultdict(list)
    for uid, (task, _) in sorted(groups.items(), key=lambda item: (not item[1][1], item[0])):
        by_task[task].append(uid)
    tasks = sorted(by_task)
    turned = tasks[step % len(tasks) :] + tasks[: step % len(tasks)] if tasks else []
    chosen: list[str] = []
    while len(chosen) < count and any(by_task.values()):
        for task in turned:
            if by_task[task] and len(chosen) < count:
                chosen.append(by_task[task].pop(0))
    return sorted(chosen)


def path_of(folder: Path, step: int) -> Path:
    """Return the file of a step in a stage's state folder."""
    return folder / FOLDER / f"step_{step:06d}.parquet"


def write_step(folder: Path, step: int, records: Iterable[Record]) -> Path:
    """Write a step's records to a stage's state folder, atomically, in order of uid, rollout and turn.

    The file of an earlier try of the step is replaced. Raises QwenlongError when the disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [asdict(r) for r in sorted(records, key=lambda r: (r.uid, r.rollout, r.turn))]
    file = path_of(folder, step)
    with atomic_file(file) as partial:
        pq.write_table(pa.Table.from_pylist(rows, _schema()), partial, compression="zstd")
    return file


def read_digests(file: Path) -> dict[tuple[str, int, int], str]:
    """Return {(uid, rollout, turn): digest} of a step's file; empty when it is not there or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(file, columns=["uid", "rollout", "turn", "sha256"]).to_pydict()
    except (OSError, pa.ArrowException):
        return {}
    return dict(
        zip(zip(columns["uid"], columns["rollout"], columns["turn"], strict=True), columns["sha256"], strict=True)
    )


def join(folder: Path, target: Path, steps: int) -> dict[str, Any]:
    """Write the records of steps 1 to `steps` to one table, a row group a step, and return what is in it.

    Files are read one at a time. Returns {"rows", "missing"}: steps without a file, since a policy that was trained is
    worth more than its records. Raises DataError naming a file that is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, missing = 0, []
    with atomic_file(target) as partial, pq.ParquetWriter(partial, _schema(), compression="zstd") as writer:
        for step in range(1, steps + 1):
            file = path_of(folder, step)
            if not file.is_file():
                missing.append(step)
                continue
            try:
                table = pq.read_table(file).cast(_schema())
            except (pa.ArrowException, OSError, ValueError) as error:
                said = " ".join(str(error).split())
                raise DataError(f"{file} holds no rollout records ({said}); remove it, it is not needed") from error
            writer.write_table(table)
            rows += table.num_rows
    return {"rows": rows, "missing": missing}


def files_of(place: Path) -> list[Path]:
    """Return the files with records: of a policy's folder, a stage's state folder, or the file itself.

    Raises DataError when there are none.
    """
    if place.is_file():
        return [place]
    for folder in (place, place / FOLDER):
        if (folder / TABLE).is_file():
            return [folder / TABLE]
        found = sorted(file for file in folder.glob("step_*.parquet") if _STEP.fullmatch(file.name))
        if found:
            return found
    raise DataError(
        f"no rollout records in {place}; give a policy's folder (results/<run>/stages/<stage>/policy), or the state "
        "folder of a stage that is under way (results/<run>/state/stages/<stage>/<key>)"
    )


def read(
    place: Path, *, step: int | None = None, task: str | None = None, wrong: bool = False, texts: bool = False
) -> Iterator[Record]:
    """Yield records in order, a row group at a time; of one step, of one task, wrong ones, ones with text only.

    Raises DataError when there are none at all, or a file is not what it should be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files_of(place):
        try:
            source = pq.ParquetFile(file)
            for number in range(source.num_row_groups):
                for row in source.read_row_group(number).cast(_schema()).to_pylist():
                    if (
                        (step is None or row["step"] == step)
                        and (task is None or row["task"] == task)
                        and (not wrong or (row["reward"] < RIGHT and not row["dropped"]))
                        and (not texts or row["text"] is not None)
                    ):
                        yield Record(**row)
        except (pa.ArrowException, OSError, ValueError) as error:
            said = " ".join(str(error).split())
            raise DataError(f"{file} holds no rollout records ({said}); run its stage again") from error


def cut(text: str, limit: int = SHOWN) -> str:
    """Return a text of at most about `limit` characters: beginning and end, and how much was left out between."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … ({len(text) - 2 * half} characters) … {text[-half:]}"


def table(records: Iterable[Record]) -> dict[str, list[Any]]:
    """Return the records that have a text as columns for people, responses cut; empty when none has."""
    columns: dict[str, list[Any]] = {}
    for record in records:
        if record.text is None:
            continue
        row = {k: v for k, v in asdict(record).items() if k not in ("token_ids", "text", "sha256")}
        for name, value in (row | {"response": cut(record.text)}).items():
            columns.setdefault(name, []).append(value)
    return columns
