"""Every setting that the paper leaves out, walked from the configuration's own descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from qwenlong.core.config import RL_STAGES, Config

MARK = "[assumed"


@dataclass(frozen=True)
class Assumption:
    """A setting with its value in this run and what its description says."""

    key: str
    value: Any
    text: str


def _walk(section: BaseModel, prefix: str) -> Iterator[Assumption]:
    # A mark in a section's own description speaks for all of its keys.
    whole = MARK in (type(section).__doc__ or "")
    for name, field in type(section).model_fields.items():
        value, text = getattr(section, name), field.description or ""
        if isinstance(value, BaseModel):
            if MARK in text:
                given = value.model_dump(mode="json", exclude_unset=True)
                yield Assumption(f"{prefix}{name}", given, text)
            yield from _walk(value, f"{prefix}{name}.")
        elif MARK in text or whole:
            shown = text if MARK in text else f"{text} {(type(section).__doc__ or '').split('. ')[-1]}"
            yield Assumption(f"{prefix}{name}", value, " ".join(shown.split()))


def listing(config: Config) -> list[Assumption]:
    """Return all assumed settings with their values, and a stage's own where they differ from `training`."""
    found = list(_walk(config, ""))
    general = {a.key.removeprefix("training."): a.value for a in found if a.key.startswith("training.")}
    for name in RL_STAGES:
        found += [
            Assumption(f"stages.{name}.{a.key}", a.value, a.text)
            for a in _walk(config.stage(name), "")
            if a.key not in general or general[a.key] != a.value
        ]
    return found
