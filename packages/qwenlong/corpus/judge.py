"""The LLM judge of documents' quality (SPEC section 2); off on a laptop, which has no endpoint.

A document leaves only on a verdict of its own: [[NO]] on the last line of the reply. A reply without a verdict keeps
it, and so does an outage, which leaves it open: the same command asks again, and nothing else twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core.config import Config, EndpointConfig
from qwenlong.core.errors import ConfigError, QwenlongError
from qwenlong.core.llm.material import fence, last_verdict, unspelled
from qwenlong.core.records import Document

if TYPE_CHECKING:
    from qwenlong.core.llm import Outcome, Request

PROMPTS = Path(__file__).parent / "prompts" / "v2"
#: Characters of a document that the judge sees; quality shows in the beginning.
SHOWN = 6000
#: Output limit; a reply that reaches it has no verdict.
MAX_TOKENS = 1024
#: Replies asked for, each with another seed, until one ends with a verdict.
TRIES = 3


def verdict(reply: str) -> bool | None:
    """Return True for a reply whose last line is [[YES]], False for [[NO]], None for anything else."""
    own = reply.rpartition("</think>")[2]
    return None if "<think>" in own else last_verdict(own)


def endpoint(config: Config) -> EndpointConfig:
    """Return the judge's endpoint. Raises ConfigError naming the key when there is none."""
    if config.llm.generator is None:
        raise ConfigError(
            "corpus.judge_filter = true needs llm.generator = {base_url, model}; name an endpoint, or set it to false"
        )
    return config.llm.generator


def folder(config: Config) -> Path:
    """Return where `corpus build` keeps what the judge said: outside the outputs, which a failed job loses."""
    return Path(config.run.results) / "state" / "corpus_judge"


def judge(
    documents: Sequence[Document],
    asked: EndpointConfig,
    seed: int,
    state: Path,
    used: list[dict[str, Any]],
    journal: str = "judge",
) -> list[Outcome[bool]]:
    """Return the verdict on each document, or what went wrong instead; raises nothing that a reply or an outage is.

    `state` takes the journal of this name and the cache of replies; `used` gets what this call used. Raises
    QwenlongError when another process writes the same journal.
    """
    return asyncio.run(_ask(documents, asked, seed, state, used, state / f"{journal}.jsonl"))


def write_usage(state: Path, used: Sequence[Mapping[str, Any]]) -> None:
    """Write usage.json: what this run used, and what all runs of the journals there used together."""
    from qwenlong.core.files import write_json
    from qwenlong.core.llm import spent, total

    everything = [entry for journal in sorted(state.glob("*.jsonl")) for entry in spent(journal)]
    write_json(state / "usage.json", {"this_run": total(used), "all_runs": total(everything)})


def counts(outcomes: Sequence[Outcome[bool]]) -> dict[str, Any]:
    """Return how many were asked, found fit, unfit, without a verdict (by kind) and open; they add up to `asked`."""
    kinds = Counter(one.error for one in outcomes if one.error is not None and not one.outage)
    return {
        "asked": len(outcomes),
        "fit": sum(one.value is True for one in outcomes),
        "unfit": sum(one.value is False for one in outcomes),
        "no_verdict": {kind: kinds[kind] for kind in sorted(kinds)},
        "open": sum(one.outage for one in outcomes),
    }


def complete(left: int, state: Path) -> None:
    """Raise QwenlongError (exit code 1) when an outage left documents open; what was answered is kept."""
    if left:
        raise QwenlongError(
            f"{left} documents are not judged: the endpoint gave no reply, and they stay in for now. What was answered "
            f"is kept in {state}; run the same command again when the endpoint answers"
        )


def _request(document: Document, seed: int) -> Request:
    from qwenlong.core.llm import Request
    from qwenlong.core.seeds import derive
    from qwenlong.core.templates import fill

    values = {"category": document.category, "title": document.title, "text": document.text[:SHOWN]}
    values = {name: unspelled(value) for name, value in values.items()}
    prompt = fill("quality", values | {"fence": fence(list(values.values()))}, PROMPTS)
    return Request(
        [{"role": "user", "content": prompt}], MAX_TOKENS, derive(seed, "corpus_judge", document.id), tries=TRIES
    )


def _read(_: Document, text: str) -> bool:
    from qwenlong.core.llm import Refused

    found = verdict(text)
    if found is None:
        raise Refused("unparsed", f"the last line is {text.strip()[-60:]!r}", again=True)
    return found


async def _ask(
    documents: Sequence[Document],
    asked: EndpointConfig,
    seed: int,
    state: Path,
    used: list[dict[str, Any]],
    journal: Path,
) -> list[Outcome[bool]]:
    from qwenlong.core.llm import Client, gather

    async with Client(asked, state / "cache") as client:
        try:
            return await gather(
                client,
                documents,
                lambda document: _request(document, seed),
                _read,
                journal,
                key=lambda document: document.id,
                description="judge documents",
            )
        finally:
            # A run that fails has cost something too.
            used.append(client.usage.snapshot())
