"""The LLM judge of documents' quality (SPEC section 2); off on a laptop, which has no endpoint."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from qwenlong.core.config import Config, EndpointConfig
from qwenlong.core.errors import ConfigError
from qwenlong.core.records import Document

PROMPTS = Path(__file__).parent / "prompts" / "v1"
#: Characters of a document that the judge sees; quality shows in the beginning.
SHOWN = 6000
_VERDICT = re.compile(r"\[\[(YES|NO)\]\]\s*$")


def verdict(reply: str) -> bool | None:
    """Return True for a reply that ends with [[YES]], False for [[NO]], None for anything else."""
    match = _VERDICT.search(reply)
    return None if match is None else match[1] == "YES"


def judge(documents: Sequence[Document], config: Config) -> list[bool | None]:
    """Return for each document whether `llm.generator` finds it fit; None where the reply holds no verdict.

    Replies are cached under the run's results, so that an interrupted build asks nothing twice. Raises ConfigError
    without an endpoint, core.llm.LLMError when it fails.
    """
    if config.llm.generator is None:
        raise ConfigError(
            "corpus.judge_filter = true needs llm.generator = {base_url, model}; name an endpoint, or set it to false"
        )
    return asyncio.run(_ask(documents, config, config.llm.generator))


async def _ask(documents: Sequence[Document], config: Config, endpoint: EndpointConfig) -> list[bool | None]:
    from qwenlong.core.llm import Client
    from qwenlong.core.progress import Progress
    from qwenlong.core.seeds import derive
    from qwenlong.core.templates import fill

    cache = Path(config.run.results) / "state" / "corpus_judge"
    async with Client(endpoint, cache) as client:
        with Progress("judge documents", len(documents), "documents") as progress:

            async def one(document: Document) -> bool | None:
                values = {"category": document.category, "title": document.title, "text": document.text[:SHOWN]}
                prompt = fill("quality", values, PROMPTS)
                reply = await client.chat(
                    [{"role": "user", "content": prompt}],
                    max_tokens=1024,
                    temperature=0.0,
                    top_p=1.0,
                    seed=derive(config.run.seed, "corpus_judge", document.id) % 2**31,
                )
                progress.advance()
                return verdict(reply.text)

            return await asyncio.gather(*map(one, documents))
