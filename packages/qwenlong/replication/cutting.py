"""What of a pack can be used when only its first parts are there, and with what work must not go on then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qwenlong.replication import choosing, tensors


def cut(blobs: Sequence[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Return what does not lie whole in the first `size` bytes, and weights that nothing is there to read against."""
    found, end = [], 0
    for blob in blobs:
        end += blob["size"]
        if end > size:
            found.append(blob)
    while True:
        gone = _gone(found)
        more = [one for one in blobs if one.get("reference") in gone and one not in found and not here(one)]
        if not more:
            return [one for one in blobs if one in found]
        found += more


def here(weights: dict[str, Any]) -> bool:
    """Tell whether these very weights lie in their place already."""
    file = Path(weights["name"])
    return file.is_file() and tensors.digest(file) == weights.get("digest")


def _gone(blobs: Iterable[dict[str, Any]]) -> set[str]:
    return {one["name"] for one in blobs if one["kind"] == "weights" and not here(one)}


def unusable(blobs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the folders of models whose weights are among what was cut off, and not here, with their policies.

    Those that nothing read when they were packed, too: what reads them may have been cut off.
    """
    models = [Path(name).parent for name in sorted(_gone(blobs))]
    return [str(folder) for model in models for folder in (model, choosing.policy(model))]


def names(blobs: Iterable[dict[str, Any]]) -> list[str]:
    """Return names of weights and groups of records, each once."""
    return list(dict.fromkeys(str(one["name"]) for one in blobs))
