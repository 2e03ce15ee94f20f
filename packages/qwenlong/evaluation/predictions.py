"""Stored predictions: read line by line, and brought together with the items that they answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from qwenlong.core.errors import DataError
from qwenlong.core.records import Prediction
from qwenlong.evaluation.interface import Item

#: What `prediction_id` adds to the id of an item that is asked several times.
SAMPLE = re.compile(r"@(\d{1,9})\Z", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """The predictions of a file, and the line (from 1) of each."""

    path: Path
    predictions: list[Prediction]
    lines: list[int]


@dataclass(frozen=True)
class Answered:
    """An item with its responses, as many as any other item of the benchmark has; none stands for a missing one."""

    item: Item
    responses: tuple[tuple[str, int, Prediction | None], ...]
    """Prediction id, sample number (from 0), prediction."""


def prediction_id(item: str, sample: int, samples: int) -> str:
    """Return the id of the prediction number `sample` (from 0) of an item that is asked `samples` times."""
    return item if samples == 1 else f"{item}@{sample}"


def read(path: Path) -> Stored:
    """Read predictions.jsonl. Raises DataError naming the file, the line and what is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give the predictions.jsonl of a run") from error
    predictions, lines = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            predictions.append(_prediction(line, f"{path}, line {number}"))
            lines.append(number)
    if not predictions:
        raise DataError(f"{path} holds no prediction; run the benchmark first")
    return Stored(path, predictions, lines)


def _prediction(line: bytes, where: str) -> Prediction:
    try:
        # A file from elsewhere may begin with a byte order mark.
        return Prediction.model_validate_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 (byte {error.start + 1} of the line); convert the file") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        needed = ", ".join(name for name, field in Prediction.model_fields.items() if field.is_required())
        raise DataError(f"{where}: {key}: {first['msg']}; a prediction has {needed}") from error


def match(items: Sequence[Item], predictions: Sequence[Prediction], stored: Stored | None = None) -> list[Answered]:
    """Return every item with its responses, in the order of the items.

    Where one item has n predictions all have n responses: what is missing was attempted and has none. Raises DataError
    for a prediction of an unknown item and for two of the same response, naming file and line where they are `stored`.
    """
    found: dict[str, dict[int, Prediction]] = {item.id: {} for item in items}
    if len(found) != len(items):
        raise DataError("the examples name the same id twice; give every item an id of its own")
    for place, prediction in enumerate(predictions):
        where = "" if stored is None else f"{stored.path}, line {stored.lines[place]}: "
        name, sample = prediction.id, 0
        if name not in found and (suffix := SAMPLE.search(name)):
            name, sample = name[: suffix.start()], int(suffix[1])
        if name not in found:
            raise DataError(
                f"{where}prediction {prediction.id[:200]!r} is of no item of the examples; give the examples of its run"
            )
        if sample in found[name]:
            raise DataError(f"{where}prediction {prediction.id[:200]!r} stands twice; remove one of them")
        found[name][sample] = prediction
    samples = max((len(responses) for responses in found.values()), default=0) or 1
    return [_answered(item, found[item.id], samples) for item in items]


def _answered(item: Item, given: dict[int, Prediction], samples: int) -> Answered:
    free = [number for number in range(samples) if number not in given]
    # A file may skip numbers: no more are missing than other items have.
    missing = [(prediction_id(item.id, number, samples), number, None) for number in free[: samples - len(given)]]
    return Answered(item, (*((given[number].id, number, given[number]) for number in sorted(given)), *missing))
