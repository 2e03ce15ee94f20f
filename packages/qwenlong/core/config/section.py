"""What all sections of the configuration share."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, defaults are validated, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def plain_name(value: str) -> str:
    """Return `value` if it can name files and runs. Raises ValueError otherwise."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise ValueError(f"{value!r} is not a plain name; use lower-case letters, digits, '-' and '_'")
    return value
