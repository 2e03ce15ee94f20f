"""The same wrong scorers as for AIME24."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_place = importlib.util.spec_from_file_location("wrong_aime24", Path(__file__).with_name("wrong_aime24.py"))
assert _place is not None and _place.loader is not None
_module = importlib.util.module_from_spec(_place)
_place.loader.exec_module(_module)
WRONG = _module.WRONG
