"""The judge of benchmark answers: what it is asked, what it said, and where that is kept (SPEC section 6).

Each reply is on disk before the next step: a killed run asks again only what was in flight. A judgement is known by
the digest of what the judge was shown, so that a file of them scores the same responses again without a network.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import DataError, QwenlongError
from qwenlong.core.files import digest_value, read_jsonl, sha256_file, write_jsonl
from qwenlong.core.records import Record
from qwenlong.evaluation.interface import Ask
from qwenlong.evaluation.predictions import Answered
from qwenlong.rewards import judge

if TYPE_CHECKING:
    from qwenlong.core.llm import Outcome, Request

FOLDER = Path(__file__).parent / "prompts" / "v1"
#: Output limit of the judge in tokens; a reply that reaches it has no verdict. llm.evaluation_judge may lower it.
MAX_TOKENS = 4096
#: Characters of an answer that the judge sees: the beginning.
MAX_ANSWER_CHARACTERS = 8000
#: Replies asked for: one without a verdict is asked for once more, with another seed.
TRIES = 2
#: Kinds of outcome that say nothing about the answer: the same command asks again.
FAILED = frozenset({"unavailable", "denied", "not_asked", "missing"})


@dataclass(frozen=True)
class Question:
    """What a judge is asked about one response; `name` tells the asks of a response apart."""

    id: str
    name: str
    ask: Ask


class Judgement(Record):
    """What a judge said. `error` says why there is no verdict; `prompt` is the digest of what it was shown."""

    id: str
    ask: str
    criterion: str
    template: str
    model: str
    prompt: str
    text: str
    verdict: bool | None
    error: str | None = None
    detail: str = ""
    tries: int = 1

    @property
    def failed(self) -> bool:
        """Tell whether the judge, not its reply, is at fault."""
        return self.error in FAILED


@dataclass(frozen=True)
class Judgements:
    """All that one judge was asked about a benchmark's responses."""

    model: str
    found: Mapping[tuple[str, str], Judgement]
    """By prediction id and name of the ask."""

    def of(self, prediction: str, asks: Iterable[str]) -> dict[str, Judgement]:
        """Return the judgements on a response."""
        return {name: self.found[prediction, name] for name in asks}

    def summary(self) -> dict[str, Any]:
        """Return what scores.json says of the judge."""
        every = self.found.values()
        kinds = Counter(one.error for one in every if one.error is not None and not one.failed)
        return {
            "model": self.model,
            "templates": {one.criterion: one.template for one in sorted(every, key=lambda one: one.criterion)},
            "asked": len(self.found),
            "yes": sum(one.verdict is True for one in every),
            "no": sum(one.verdict is False for one in every),
            "no_verdict": {str(kind): kinds[kind] for kind in sorted(kinds, key=str)},
            "failed": sum(one.failed for one in every),
        }


def folder_of(criterion: str) -> Path:
    """Return where a criterion's template is: with the benchmarks, or with the rewards, which judge equivalence."""
    return FOLDER if (FOLDER / f"{criterion}.txt").is_file() else judge.FOLDER


@cache
def template_digest(criterion: str) -> str:
    """Return the SHA-256 of a criterion's template."""
    return sha256_file(folder_of(criterion) / f"{criterion}.txt")


def prompt(ask: Ask) -> list[dict[str, str]]:
    """Return the judge's messages. Nothing in them that is not the template's can spell a verdict or end a fence.

    Raises UsageError naming the criterion when it has no template.
    """
    return judge.prompt(
        ask.question,
        ask.gold,
        ask.answer,
        template=ask.criterion,
        folder=folder_of(ask.criterion),
        longest=MAX_ANSWER_CHARACTERS,
    )


def questions(answered: Sequence[Answered]) -> list[Question]:
    """Return everything that a judge is to be asked, in order."""
    return [
        Question(name, ask, wanted)
        for one in answered
        for name, sample, prediction in one.responses
        if prediction is not None and prediction.error is None
        for ask, wanted in one.item.variant(sample).asks(prediction.response).items()
    ]


def ask(wanted: Sequence[Question], endpoint: EndpointConfig, journal: Path, cache: Path) -> Judgements:
    """Ask the judge everything; what the journal or the cache of replies holds is not asked again.

    Raises nothing that the judge or its endpoint did but QwenlongError where it refused every request.
    """
    outcomes = asyncio.run(_ask(wanted, endpoint, journal, cache)) if wanted else []
    if outcomes and all(outcome.error == "rejected" for outcome in outcomes):
        journal.unlink(missing_ok=True)
        raise QwenlongError(f"the judge refused every request; the first: {outcomes[0].detail}")
    made = zip(wanted, outcomes, strict=True)
    found = {(one.id, one.name): _judgement(one, endpoint.model, outcome) for one, outcome in made}
    return Judgements(endpoint.model, found)


def _judgement(question: Question, model: str, outcome: Outcome[bool]) -> Judgement:
    return Judgement(
        id=question.id,
        ask=question.name,
        criterion=question.ask.criterion,
        template=template_digest(question.ask.criterion),
        model=model,
        prompt=digest_value(prompt(question.ask)),
        text=outcome.text,
        verdict=outcome.value,
        error=outcome.error,
        detail=outcome.detail,
        tries=outcome.tries,
    )


async def _ask(wanted: Sequence[Question], endpoint: EndpointConfig, journal: Path, cache: Path) -> list[Outcome[bool]]:
    from qwenlong.core.llm import Client, gather

    async with Client(endpoint, cache) as client:
        return await gather(
            client,
            wanted,
            _request,
            lambda _, text: _read(text),
            journal,
            key=lambda one: f"{one.name}#{one.id}",
            description="judge answers",
        )


def _request(question: Question) -> Request:
    from qwenlong.core.llm import Request

    # The same seed for every question: equal answers of two models are judged once, by the same reply.
    return Request(prompt(question.ask), MAX_TOKENS, seed=0, tries=TRIES)


def _read(text: str) -> bool:
    from qwenlong.core.llm import Refused

    verdict = judge.parse_verdict(text)
    if verdict is None:
        raise Refused("unparsed", f"the last line is {text.strip()[-60:]!r}", again=True)
    return verdict


def write(path: Path, judgements: Judgements) -> None:
    """Write judgements.jsonl, in the order of the predictions."""
    write_jsonl(path, judgements.found.values())


def read(path: Path, wanted: Sequence[Question]) -> Judgements:
    """Return the stored judgements on what is wanted; "missing" is the error of those that are not there.

    A stored text is read again, so that the verdict is this version's. Raises DataError naming file and line, and for a
    file of several judges.
    """
    stored = read_jsonl(path, Judgement)
    models = sorted({one.model for one in stored})
    if len(models) > 1:
        raise DataError(f"{path} holds judgements of {', '.join(models)}; give a file of one judge")
    # By what the judge was shown: equal answers share a judgement, and one on a text that changed serves nobody.
    known = {one.prompt: one for one in stored if not one.failed}
    model = models[0] if models else ""
    found = {}
    for question in wanted:
        shown = digest_value(prompt(question.ask))
        one = known.get(shown)
        values = {"id": question.id, "ask": question.name, "criterion": question.ask.criterion}
        if one is None:
            values |= {"template": template_digest(question.ask.criterion), "model": model, "prompt": shown}
            missing = {"error": "missing", "detail": f"{path} has no judgement on it"}
            found[question.id, question.name] = Judgement(**values, **missing, text="", verdict=None, tries=0)
        else:
            found[question.id, question.name] = _again(one.model_copy(update=values))
    return Judgements(model, found)


def _again(one: Judgement) -> Judgement:
    if one.error not in (None, "unparsed"):
        return one
    verdict = judge.parse_verdict(one.text)
    return one.model_copy(update={"verdict": verdict, "error": "unparsed" if verdict is None else None})
