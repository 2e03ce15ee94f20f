"""Questions of walks in a model's words, where it keeps what they ask; the rules' wording stays in all other cases."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from qwenlong.core import templates
from qwenlong.core.config import Config, GraphConfig
from qwenlong.core.files import write_json
from qwenlong.core.llm import Outcome, Refused, Request, gather
from qwenlong.core.records import Document, Sample
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.synthesis import agents, extend, names
from qwenlong.synthesis.decontaminate import Seen
from qwenlong.synthesis.run import Result

FOLDER = Path(__file__).parent / "prompts" / "v1"
#: Outputs in the order in which their questions are compared, with the side each is from.
SETS = {"samples": "train", "memory": "train", "heldout": "heldout", "heldout_long": "heldout"}
_INITIALS = re.compile(r"(?:\b[A-Z]\. ?){2,}")
#: Times as long as the rules' wording that a rewritten question may be.
MAX_GROWTH = 2


class Rewritten(BaseModel):
    """All of one reply."""

    model_config = ConfigDict(extra="forbid")
    question: Annotated[str, Field(min_length=10, max_length=2000)]


def kept_words(question: str) -> list[str]:
    """Return what a rewritten question must hold as it is: words with a capital inside a sentence, numbers, initials.

    The letters that name a path's steps ("Let A be …") may go.
    """
    found = [" ".join(run.split()) for run in _INITIALS.findall(question)]
    for sentence in re.split(r"(?<=[.?!]) ", question):
        spoken = names.words(sentence)
        found += [w for n, w in enumerate(spoken) if re.search(r"\d", w) or (n > 0 and w[0].isupper() and len(w) > 1)]
    return found


def _stands(kept: str, text: str) -> bool:
    return kept in text if "." in kept else kept in names.words(text)


def fault(original: Sample, text: str) -> str:
    """Return why a rewritten question cannot stand, "" when it can."""
    if not all(_stands(word, text) for word in kept_words(original.question)):
        return "lost_names"
    if not all(_stands(word, original.question) for word in kept_words(text)):
        return "added_names"
    flat = set(names.form(text))
    if any(set(names.form(answer)) - names.ARTICLES <= flat for answer in original.answers):
        return "holds_answer"
    if not text.endswith("?") or len(text) > MAX_GROWTH * len(original.question):
        return "no_question"
    return ""


def rewrite(config: Config, result: Result, tokenizer: Tokenizer, folder: Path) -> Result:
    """Return the result with the questions of its walks rewritten by `synthesis.graph.rewriter`, where that is set.

    Journal, cache and usage lie in `folder`/rewrite: the same command asks nothing twice. What an outage or a refusal
    leaves keeps its wording; the funnel counts it. A rewritten prompt stays within its length.
    """
    settings = config.synthesis.graph
    if settings.rewriter is None:
        return result
    todo = [s for name in SETS for s in getattr(result, name) if s.template.startswith("walk_")]
    outcomes = asyncio.run(_asked(settings, todo, config.run.seed, folder / "rewrite"))
    replies = {sample.id: outcome for sample, outcome in zip(todo, outcomes, strict=True)}
    documents = {document.id: document for document in result.documents}
    counts: Counter[str] = Counter()
    seen = {"train": Seen(), "heldout": Seen()}
    for name, side in SETS.items():
        seen[side].update(templates.full_question(sample) for sample in getattr(result, name))
    made: dict[str, Any] = {}
    for name, side in SETS.items():
        made[name] = [
            _placed(sample, replies[sample.id], documents, tokenizer, seen, side, name, counts)
            if sample.id in replies
            else sample
            for sample in getattr(result, name)
        ]
    funnel = {**result.funnel, "rewritten": {"prompts": templates.digest(FOLDER), **dict(sorted(counts.items()))}}
    return replace(result, funnel=funnel, **made)


async def _asked(settings: GraphConfig, samples: Sequence[Sample], seed: int, folder: Path) -> list[Outcome[str]]:
    assert settings.rewriter is not None
    journal = folder / "rewriter.jsonl"

    def request(sample: Sample) -> Request:
        values = {"question": sample.question, "fence": agents.fence([sample.question])}
        prompt = templates.fill("rewrite", values, FOLDER)
        message = [{"role": "user", "content": prompt}]
        return Request(message, settings.rewriter_tokens, derive(seed, "rewrite", sample.id), schema=Rewritten)

    def read(sample: Sample, reply: Rewritten) -> str:
        text = " ".join(reply.question.split())
        reason = fault(sample, text)
        if reason:
            raise Refused(reason, again=True)
        return text

    async with agents.clients({"rewriter": settings.rewriter}, folder / "cache") as clients:
        try:
            return await gather(
                clients["rewriter"],
                samples,
                request,
                read,
                journal,
                key=lambda sample: sample.id,
                description="rewrite",
            )
        finally:
            write_json(folder / "usage.json", agents.usage(clients, {"rewriter": journal}))


def _placed(
    sample: Sample,
    outcome: Outcome[str],
    documents: Mapping[str, Document],
    tokenizer: Tokenizer,
    seen: Mapping[str, Seen],
    side: str,
    output: str,
    counts: Counter[str],
) -> Sample:
    """Return the sample with its new question; with the old one where that repeats another or no longer fits."""
    counts["asked"] += 1
    if outcome.value is None:
        counts[outcome.error or "malformed"] += 1
        return sample
    text = outcome.value
    other = "heldout" if side == "train" else "train"
    if any(one.repeats(text) for one in seen.values()) or seen[other].overlaps(text):
        counts["repeated"] += 1
        return sample
    shown = [documents[name] for name in sample.documents]
    made = extend.renamed(
        sample.model_copy(update={"question": text, "checks": sample.checks | {"rewritten": True}}), shown, tokenizer
    )
    at_least, of_context = output == "heldout_long", output == "memory"
    target = int(sample.checks["length_target"])
    if not of_context and (made.n_tokens < target if at_least else made.n_tokens > target):
        counts["too_long"] += 1
        return sample
    seen[side].add(text)
    counts["rewritten"] += 1
    return made
