"""What tables are written as."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType


class Format(StrEnum):
    """A format of `qwenlong evaluate tables`."""

    MD = "md"
    LATEX = "latex"
    HTML = "html"
    CSV = "csv"


#: Formats by what a file's name ends with.
ENDINGS = MappingProxyType({".md": Format.MD, ".tex": Format.LATEX, ".html": Format.HTML, ".csv": Format.CSV})
