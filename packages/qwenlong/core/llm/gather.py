"""Many questions to one endpoint, resumable: what was answered stands in a journal and is not asked again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from qwenlong.core.errors import DataError
from qwenlong.core.llm.asking import Outcome, Request, ask, interpret
from qwenlong.core.llm.client import Client
from qwenlong.core.llm.crew import Outages, crew
from qwenlong.core.llm.journal import Journal
from qwenlong.core.llm.usage import counted
from qwenlong.core.logs import get
from qwenlong.core.progress import Progress

ItemT = TypeVar("ItemT")
T = TypeVar("T")
_LOG = get("qwenlong.core.llm")


async def gather(
    client: Client,
    items: Sequence[ItemT],
    make_request: Callable[[ItemT], Request],
    parse: Callable[[ItemT, Any], T],
    journal: Path,
    *,
    key: Callable[[ItemT], str],
    description: str = "asking",
) -> list[Outcome[T]]:
    """Return an Outcome per item, in the order of the items; raises nothing that an endpoint or a model did.

    `key` gives an item's id, `make_request` its request (made when its turn comes), `parse` its value from the reply's
    text or, with a schema, from the object; `parse` may raise `Refused`. It must be pure: for an item that the journal
    holds it reads the stored reply again. An item counts as done under its id and the digest of its request: values
    and refusals are kept, outages are asked again by the next call. After one "denied", or many outages in a row, the
    rest is "not_asked". Raises DataError when two items have one id, and what `Journal` raises.
    """
    ids = [key(item) for item in items]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"two items have the id {twice!r}; give each its own, or the journal mixes them up")
    outcomes: list[Outcome[T]] = [Outcome(error="not_asked")] * len(items)
    outages = Outages(client.endpoint.concurrency)
    unanswered = refused = 0
    todo = iter([(place, name, item) for place, (name, item) in enumerate(zip(ids, items, strict=True))])
    with Journal(journal) as book, Progress(description, len(items), "items") as progress:

        async def work() -> None:
            nonlocal unanswered, refused
            for place, name, item in todo:
                if not outages.given_up:
                    outcome = await _one(client, name, item, make_request(item), parse, book)
                    outcomes[place] = outcome
                    if outcome.outage:
                        unanswered += 1
                        outages.failed(outcome.detail, denied=outcome.error == "denied")
                    else:
                        refused += not outcome.ok
                        outages.answered()
                progress.advance(refused=refused, outages=unanswered)

        await crew(work, min(client.endpoint.concurrency, len(items)))
    if outages.given_up:
        left = sum(outcome.error == "not_asked" for outcome in outcomes)
        _LOG.warning("%s: gave up with %d items left: %s", description, left, outages.reason)
    return outcomes


async def _one(
    client: Client, name: str, item: ItemT, request: Request, parse: Callable[[ItemT, Any], T], book: Journal
) -> Outcome[T]:
    most = client.endpoint.max_tokens
    if most is not None and most < request.max_tokens:
        # Here, too: a reply that was cut off under a smaller limit is asked for again under a larger one.
        request = replace(request, max_tokens=most)
    digest = request.digest(client.endpoint.model)
    known = book.get(name, digest)
    if known is not None and known.get("error") is None:
        return interpret(known["text"], "stop", request.schema, lambda value: parse(item, value), known["tries"])[0]
    if known is not None:
        kept: Outcome[T] = Outcome(error=known["error"], detail=known["detail"], tries=known["tries"])
        if not kept.outage:
            return kept
    with counted() as usage:
        outcome = await ask(client, request, lambda value: parse(item, value))
    book.add(
        {
            "id": name,
            "request": digest,
            "text": outcome.text,
            "error": outcome.error,
            "detail": outcome.detail,
            "tries": outcome.tries,
            "usage": usage.snapshot(),
        }
    )
    return outcome


def spent(journal: Path) -> list[dict[str, Any]]:
    """Return the usage of each finished item of a journal, outages included; empty where there is no journal yet."""
    if not journal.is_file():
        return []
    with Journal(journal) as book:
        return [entry["usage"] for entry in book.entries() if "usage" in entry]
