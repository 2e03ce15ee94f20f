"""The paradigms of multi-hop questions beside plain paths: obfuscated, causal, temporal and hypothetical ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qwenlong.synthesis import causal, suppose, temporal, trade, vague
from qwenlong.synthesis.candidates import Candidate
from qwenlong.synthesis.pool import Pool

TEMPLATES: dict[str, Callable[[Pool], Iterator[Candidate]]] = (
    vague.TEMPLATES | causal.TEMPLATES | trade.TEMPLATES | temporal.TEMPLATES | suppose.TEMPLATES
)
