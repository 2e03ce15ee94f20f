"""What the three agents are asked, and how their replies are read. Everything that they see or write is data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from qwenlong.core.config import MaseConfig
from qwenlong.core.llm import Refused, Request
from qwenlong.core.records import Document
from qwenlong.core.seeds import derive
from qwenlong.core.templates import fill, render_choices
from qwenlong.rewards.judge import parse_verdict
from qwenlong.synthesis import choice
from qwenlong.synthesis.agents import fence, plain, unspelled
from qwenlong.synthesis.mase.proposals import KINDS, Grounded, Item, needles

FOLDER = Path(__file__).parent / "prompts" / "v1"
#: Levels of difficulty that there are templates for; later rounds stay at the last.
LEVELS = 3
MAX_ANSWER = 2000
_LETTER = re.compile(r"\W*(?P<letter>[A-D])(?:[).:\s]\s*(?P<text>.*))?", re.DOTALL)


class Answer(BaseModel):
    """What a solver writes."""

    model_config = ConfigDict(extra="forbid")
    found: bool
    answer: Annotated[str, Field(max_length=MAX_ANSWER)]


@dataclass(frozen=True)
class Posed:
    """An item with its grounded proposal and, later, the solver's answer."""

    item: Item
    proposal: Grounded
    answer: str = ""

    @property
    def id(self) -> str:
        """Return the item's id."""
        return self.item.id


def propose(item: Item, history: Sequence[Grounded], config: MaseConfig, seed: int) -> Request:
    """Return the request to the proposer."""
    kind = KINDS[item.kind]
    shown, mark = _documents(item.cluster.documents, config.document_characters)
    count = needles(item.round, item.cluster, config.document_characters)
    values = {
        "documents": shown,
        "fence": mark,
        "rules": fill(f"rules_{item.kind}", {"needles": count}, FOLDER),
        "level": fill(f"level_{min(item.round, LEVELS)}", {}, FOLDER),
        "history": "\n".join(f"- {one.question} Answer: {_shown(one)}" for one in history) or "(none yet)",
        "form": fill(kind.form_template, {}, FOLDER),
    }
    return Request(
        _user(fill("proposer", values, FOLDER)),
        config.proposer_tokens,
        derive(seed, "mase", "propose", item.id),
        temperature=config.proposer_temperature,
        schema=kind.form,
        tries=config.tries,
    )


def solve(posed: Posed, config: MaseConfig, seed: int) -> Request:
    """Return the request to the solver, who sees neither the proposed answer nor the quotes."""
    shown, mark = _documents(posed.item.cluster.documents, config.document_characters)
    values = {
        "documents": shown,
        "fence": mark,
        "question": posed.proposal.question,
        "choices": render_choices(posed.proposal.choices),
        "instruction": _instruction(posed.proposal),
    }
    return Request(
        _user(fill("solver", values, FOLDER)),
        config.solver_tokens,
        derive(seed, "mase", "solve", posed.id),
        schema=Answer,
        tries=config.tries,
    )


def read_answer(_: Posed, answer: Answer) -> str:
    """Return the solver's answer. Raises Refused "unsolved" when it found none."""
    text = answer.answer.strip()
    if not answer.found or not text:
        raise Refused("unsolved", "the solver found no answer")
    return text


def agrees_exactly(posed: Posed) -> bool:
    """Tell whether the solver's answer is the proposed one, for kinds where that is no matter of opinion."""
    proposal, said = posed.proposal, posed.answer
    if proposal.choices:
        match = _LETTER.fullmatch(said)
        right = proposal.choices[choice.LETTERS.index(proposal.answer)]
        if match is None or plain(said) == plain(right):
            return plain(said) == plain(right)
        # A letter beside another option's text is no answer.
        return match["letter"] == proposal.answer and plain(match["text"] or right) == plain(right)
    message = proposal.answer.removeprefix(proposal.answer_prefix)
    return plain(said.removeprefix(proposal.answer_prefix)) == plain(message)


def quotes(posed: Posed) -> tuple[str, ...]:
    """Return the text of each span of evidence."""
    by_id = {document.id: document for document in posed.item.cluster.documents}
    return tuple(by_id[span.document].text[span.start : span.end] for span in posed.proposal.evidence)


def verify(posed: Posed, config: MaseConfig, seed: int) -> Request:
    """Return the request to the verifier; no value can spell a verdict or the fence."""
    values = {
        "question": posed.proposal.question,
        "evidence": "\n".join(quotes(posed)),
        "reference": posed.proposal.answer,
        "answer": posed.answer[:MAX_ANSWER],
    }
    values = {name: unspelled(value) for name, value in values.items()}
    return Request(
        _user(fill("verifier", values | {"fence": fence(list(values.values()))}, FOLDER)),
        config.verifier_tokens,
        derive(seed, "mase", "verify", posed.id),
        tries=config.tries,
    )


def read_verdict(_: Posed, text: Any) -> bool:
    """Return the verdict on the reply's own last line. Raises Refused "no_verdict" when that line holds none."""
    verdict = parse_verdict(text)
    if verdict is None:
        raise Refused("no_verdict", f"the last line is {text.strip()[-60:]!r}", again=True)
    return verdict


def _shown(proposal: Grounded) -> str:
    """Return the answer in words: a letter says nothing without its options."""
    return proposal.choices[choice.LETTERS.index(proposal.answer)] if proposal.choices else proposal.answer


def _instruction(proposal: Grounded) -> str:
    if proposal.choices:
        return "The answer is the letter of the right option."
    if proposal.answer_prefix:
        return f'The answer is "{proposal.answer_prefix}" followed by the exact message.'
    return "The answer is as short as the question allows."


def _documents(documents: Sequence[Document], characters: int) -> tuple[str, str]:
    """Return the documents as the agents see them, and the fence around each."""
    texts = [f"{document.title}\n{document.text[:characters]}" for document in documents]
    mark = fence(texts)
    return "\n".join(f"Document {n}:\n{mark}\n{text}\n{mark}" for n, text in enumerate(texts, 1)), mark


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
