"""What all generators that ask a language model share: clients, fences around material, quotes found in documents."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core.config import Config, EndpointConfig
from qwenlong.core.errors import ConfigError
from qwenlong.core.llm import Client, Limits, spent, total
from qwenlong.core.llm.material import fence as fence
from qwenlong.core.llm.material import unspelled as unspelled

if TYPE_CHECKING:
    from qwenlong.synthesis.candidates import Candidate

#: Shorter quotes, in characters, stand in almost any text and prove nothing.
MIN_QUOTE = 8


@dataclass
class Result:
    """Accepted candidates, the count of each step, and how many items an outage left open."""

    candidates: list[Candidate]
    funnel: dict[str, Any]
    unavailable: int


def endpoint(config: Config, key: str, *wanted: EndpointConfig | None) -> EndpointConfig:
    """Return the first endpoint that is set, llm.generator last. Raises ConfigError naming `key` when none is."""
    for found in (*wanted, config.llm.generator):
        if found is not None:
            return found
    raise ConfigError(
        f"{key} and llm.generator are not set, and this needs a language model; "
        "set one of them to {base_url, model}, see docs/llm.md"
    )


@asynccontextmanager
async def clients(endpoints: Mapping[str, EndpointConfig], cache: Path) -> AsyncIterator[dict[str, Client]]:
    """Yield a client per role. Roles of one endpoint keep its limits together; each has its own usage and cache."""
    limits: dict[str, Limits] = {}
    async with AsyncExitStack() as stack:
        made = {}
        for role, one in endpoints.items():
            shared = limits.setdefault(one.model_dump_json(), Limits(one))
            made[role] = await stack.enter_async_context(Client(one, cache / role, limits=shared))
        yield made


def usage(used: Mapping[str, Client], journals: Mapping[str, Path]) -> dict[str, Any]:
    """Return what this run used by role, and what all runs of these journals used together."""
    return {
        "this_run": {role: client.usage.snapshot() for role, client in used.items()},
        "all_runs": {role: total(spent(journal)) for role, journal in journals.items()},
    }


def locate(text: str, quote: str, stop: int | None = None, least: int = MIN_QUOTE) -> tuple[int, int] | None:
    """Return the span of the first place where `quote` stands in `text` before `stop`; None when it does not.

    Word for word and sign for sign; only white space may differ, since models join the lines that they quote. A quote
    of fewer than `least` characters counts as absent.
    """
    words = quote.split()
    if len(" ".join(words)) < least:
        return None
    shown = text if stop is None else text[:stop]
    start = shown.find(quote.strip())
    if start >= 0:
        return start, start + len(quote.strip())
    match = re.search(r"\s+".join(map(re.escape, words)), shown)
    return None if match is None else match.span()


def plain(text: str) -> str:
    """Return a text's words and signs, lower-case, single spaces between them, for comparison."""
    return " ".join(text.casefold().split())
