"""A run in parts: which items a part asks, and the parts put together again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qwenlong.core import seeds
from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import read_json, read_jsonl
from qwenlong.core.records import Prediction
from qwenlong.evaluation.interface import Item

T = TypeVar("T")
ItemT = TypeVar("ItemT", bound=Item)
#: Keys of run.json that must be the same in all parts.
SAME = ("benchmark", "model", "settings", "templates", "tokenizer", "data", "documents", "limit", "items")
#: Keys of run.json that are counts.
_SUMS = ("prompt_tokens", "response_tokens", "calls", "errors", "replayed_turns")


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def part(self, items: Sequence[T]) -> list[T]:
        """Return every `of`-th item from the `number`-th on: all kinds of items in all parts."""
        return list(items[self.number - 1 :: self.of])


def parse(text: str) -> Shard:
    """Return the shard that "I/N" names. Raises UsageError where it names none."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text!r}: give I/N with I from 1 to N, such as 1/4")
    return Shard(int(match[1]), int(match[2]))


def drawn(items: Sequence[ItemT], limit: int | None, seed: int, benchmark: str) -> Sequence[ItemT]:
    """Return `limit` items drawn by the seed, in their order; those of a smaller limit are among them."""
    if limit is None or limit >= len(items):
        return items
    ranks = sorted(range(len(items)), key=lambda n: seeds.derive(seed, "evaluation", benchmark, "limit", items[n].id))
    return [items[n] for n in sorted(ranks[:limit])]


@dataclass(frozen=True)
class Merged:
    """All parts as the whole run would have left them. `first` is the run.json of one part."""

    predictions: list[Prediction]
    timings: list[dict[str, Any]]
    run: dict[str, Any]
    first: Mapping[str, Any]


def merged(folders: Sequence[Path]) -> Merged:
    """Return the parts of one run as one.

    Raises DataError where a part is missing, there twice, of another run, or does not hold what it should.
    """
    runs: dict[int, tuple[Path, Mapping[str, Any]]] = {}
    for folder in folders:
        run = read_json(folder / "run.json")
        part = run.get("shard") if isinstance(run, dict) else None
        if not isinstance(part, str):
            raise DataError(f"{folder}/run.json is of no shard; give the folders of `evaluate run --shard I/N`")
        number = parse(part).number
        if number in runs:
            raise DataError(f"{folder} and {runs[number][0]} are both shard {part}; give each once")
        runs[number] = (folder, run)
    first_folder, first = next(iter(runs.values()))
    count = parse(first["shard"]).of
    for folder, run in runs.values():
        if parse(run["shard"]).of != count:
            raise DataError(f"{folder} is shard {run['shard']}, {first_folder} is {first['shard']}: two divisions")
        for key in SAME:
            if run.get(key) != first.get(key):
                raise DataError(
                    f"{folder} and {first_folder} are parts of two runs: {key} is {str(run.get(key))[:120]!r} and "
                    f"{str(first.get(key))[:120]!r}"
                )
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in runs]
    if missing:
        raise DataError(f"shards {', '.join(missing)} are missing; run them, then merge all {count}")
    samples, total = int(first["settings"]["samples"]), int(first["items"])
    whole: list[Prediction | None] = [None] * (total * samples)
    for number, (folder, _) in runs.items():
        rows = read_jsonl(folder / "predictions.jsonl", Prediction)
        places = [n * samples + k for n in range(number - 1, total, count) for k in range(samples)]
        if len(rows) != len(places):
            raise DataError(
                f"{folder}/predictions.jsonl holds {len(rows)} predictions, not {len(places)}; run it again"
            )
        for place, row in zip(places, rows, strict=True):
            whole[place] = row
    predictions = [row for row in whole if row is not None]
    if len({row.id for row in predictions}) < len(predictions):
        raise DataError("a prediction stands in two shards; run them again on the same data")
    parts = [run for _, (_, run) in sorted(runs.items())]
    details = {key: first.get(key) for key in SAME}
    details |= {key: sum(int(run.get(key, 0)) for run in parts) for key in _SUMS}
    details["seconds"] = max(float(run.get("seconds", 0.0)) for run in parts)
    details["updates"] = _added([run.get("updates", {}) for run in parts])
    details["shards"] = count
    timings = _timings([folder for _, (folder, _) in sorted(runs.items())], predictions)
    return Merged(predictions, timings, details, first)


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(one.get(name, 0) for one in counts) for name in sorted({name for one in counts for name in one})}


def _timings(folders: Sequence[Path], predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for folder in folders:
        file = folder / "timings.jsonl"
        for line in file.read_text(encoding="utf-8").split("\n") if file.is_file() else ():
            if line:
                row = json.loads(line)
                rows[row["id"]] = row
    return [rows[one.id] for one in predictions if one.id in rows]
