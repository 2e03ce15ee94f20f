"""Where the published files of a benchmark are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Published files: hub data set, pinned revision, files with their sha256 (empty: not known to this project)."""

    hub: str
    """Data set id on the Hugging Face hub."""
    files: tuple[str, ...] = ()
    """Paths in the data set."""
    revision: str = "main"
    sha256: tuple[str, ...] = ()
    """Of each file, in order."""
    gated: bool = False
    """Whether its terms must be accepted on the hub first."""
    obtain: str = ""
    """How to get it where the hub is not enough."""
    licence: str = ""
    records: int = 0
    """Records in the files together; 0: not known."""
