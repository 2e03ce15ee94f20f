"""A client for OpenAI-compatible endpoints, and what makes many requests bearable (docs/llm.md).

`Client.chat` sends one request: retries with growing pauses, time-outs, limits per minute, a cache on disk, usage and
cost. `structured` gives validated JSON or a refusal as data. `gather` maps items over an endpoint, resumable through
a journal.
"""

from __future__ import annotations

from qwenlong.core.llm.asking import OUTAGES, Outcome, Refused, Request, ask, structured
from qwenlong.core.llm.client import MAX_PAUSE, Client
from qwenlong.core.llm.errors import LLMError, Rejected, Unavailable
from qwenlong.core.llm.gather import gather, spent
from qwenlong.core.llm.journal import Journal
from qwenlong.core.llm.limits import Limits
from qwenlong.core.llm.reply import Reply
from qwenlong.core.llm.usage import Usage, total

__all__ = [
    "MAX_PAUSE",
    "OUTAGES",
    "Client",
    "Journal",
    "LLMError",
    "Limits",
    "Outcome",
    "Refused",
    "Rejected",
    "Reply",
    "Request",
    "Unavailable",
    "Usage",
    "ask",
    "gather",
    "spent",
    "structured",
    "total",
]
