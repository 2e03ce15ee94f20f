"""Environment variables that a configuration may set for processes that the run starts."""

from __future__ import annotations

import re
from collections.abc import Callable

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def variables(
    setter: str, names: tuple[str, ...], prefixes: tuple[str, ...]
) -> Callable[[dict[str, str]], dict[str, str]]:
    """Return a validator of names of variables; `setter` sets `names`, and those that begin with `prefixes`, itself."""

    def check(value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if name in names or name.startswith(prefixes):
                raise ValueError(f"{name} is set by {setter}; leave it out")
        return value

    return check
