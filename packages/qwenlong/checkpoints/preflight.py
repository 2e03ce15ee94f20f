"""What is checked before a merge reads a weight: that it may write where it shall, and that the models match."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.files import read_json

#: Settings of config.json that say what the numbers in a weight mean: equal shapes do not make them equal.
_MEANING = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "num_experts_per_tok",
)


def check_out(out: Path, inputs: Mapping[str, Path], option: str = "--out") -> None:
    """Raise UsageError when `out` is a file, or when writing it would replace an input or write into one.

    `inputs` are directories by the option that named them. Raises QwenlongError when nothing can be made there.
    """
    if out.name in ("", ".."):
        raise UsageError(f"{option} {out} is where you are or above; name a directory that is new, or one to replace")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{option} {out} is a file; name a directory that is new, or one to replace")
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise UsageError(f"{option} {out} lies below {above}, which is a file; name another directory")
    target = out.resolve()
    for name, path in inputs.items():
        source = path.resolve()
        if target == source:
            raise UsageError(
                f"{option} {out} is the directory of {name}, one of the inputs; write to another directory"
            )
        if target in source.parents:
            raise UsageError(f"{option} {out} holds {name} {path}, which would be replaced; write to another directory")
        if source in target.parents:
            raise UsageError(f"{option} {out} lies inside {name} {path}; write to another directory")
    try:
        # Permissions do not tell it: of a read-only file system, or of the superuser's who may still not write there.
        Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=above)).rmdir()
    except OSError as error:
        raise QwenlongError(
            f"cannot write {out}: {error.strerror} in {above}; choose another folder or mend its permissions"
        ) from error


def check_architectures(base: Path, experts: Sequence[Path]) -> None:
    """Raise DataError when a config.json cannot be read, or says another architecture than that of `base`.

    Settings that one of the two leaves out are not compared.
    """
    wanted = _config(base)
    for number, expert in enumerate(experts, 1):
        found = _config(expert)
        for key in _MEANING:
            left, right = wanted.get(key), found.get(key)
            if left is not None and right is not None and left != right:
                raise DataError(
                    f"{key} is {right!r} in expert {number} ({expert / 'config.json'}), {left!r} in the base; "
                    "merge checkpoints of one architecture"
                )


def check_state(state: Path | None) -> None:
    """Raise UsageError when the state folder is a file."""
    if state is not None and state.exists() and not state.is_dir():
        raise UsageError(f"--state {state} is a file; name a directory")


def _config(directory: Path) -> dict[str, Any]:
    value = read_json(directory / "config.json")
    if not isinstance(value, dict):
        raise DataError(f"{directory / 'config.json'} holds no object; copy it from the model that was trained")
    return value
