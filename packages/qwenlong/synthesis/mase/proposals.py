"""What a proposer may write, and what of it the documents bear out: a quote that is not found again fells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from qwenlong.core.llm import Refused
from qwenlong.core.records import Document, Evidence, Task
from qwenlong.core.seeds import rng
from qwenlong.core.templates import ANSWER_INSTRUCTION
from qwenlong.synthesis import choice, parse
from qwenlong.synthesis.agents import locate, plain
from qwenlong.synthesis.candidates import LETTER_INSTRUCTION
from qwenlong.synthesis.decontaminate import normalised
from qwenlong.synthesis.dialogue import _LETTERS, _ordinal
from qwenlong.synthesis.mase.clusters import Cluster

Text = Annotated[str, Field(min_length=1, max_length=1000)]
#: Needles of a dialogue question by round (MRCR), and passages that a question needs at least by round.
NEEDLES = (2, 4, 8)
PASSAGES = (1, 2, 3)
#: How many times more words the longer of two options may have.
LENGTHS = 4
#: Longest answer or option that is copied from a document.
MAX_ANSWER_WORDS = 12


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Quote(_Form):
    """A passage of a document, which is named by its number as shown, from 1."""

    document: int
    quote: Text


class Plain(_Form):
    """A question with its answer."""

    question: Text
    answer: Text
    evidence: Annotated[list[Quote], Field(min_length=1, max_length=8)]
    reasoning: Annotated[list[Text], Field(min_length=1, max_length=12)]


class Choice(Plain):
    """A question whose wrong options stand in the documents too."""

    distractors: Annotated[list[Quote], Field(min_length=3, max_length=3)]


class Dialogue(_Form):
    """Messages of one speaker that have something in common."""

    document: int
    speaker: Text
    description: Text
    messages: Annotated[list[Text], Field(min_length=2, max_length=8)]


Proposal: TypeAlias = Plain | Choice | Dialogue


@dataclass(frozen=True)
class Kind:
    """A type of question: the task it trains, its name in records, the form of a proposal, where the answer stands.

    `extractive`: the answer must stand in a quote; `exact`: whether two answers agree needs no verifier.
    """

    task: Task
    question_type: str
    form: type[Plain] | type[Choice] | type[Dialogue]
    form_template: str
    extractive: bool = False
    exact: bool = False


KINDS: Mapping[str, Kind] = {
    "dialogue_memory": Kind("dialogue_memory", "dialogue needle", Dialogue, "form_dialogue", exact=True),
    "in_context_learning": Kind("reading_comprehension", "long in-context learning", Plain, "form_plain"),
    "multiple_choice": Kind("multiple_choice", "multiple choice", Choice, "form_choice", extractive=True, exact=True),
    "reading_comprehension": Kind(
        "reading_comprehension", "reading comprehension", Plain, "form_plain", extractive=True
    ),
    "viewpoint": Kind("reading_comprehension", "viewpoint", Plain, "form_plain"),
}


@dataclass(frozen=True)
class Item:
    """One question to be proposed: of which cluster and kind, in which round (from 1), which of several."""

    cluster: Cluster
    kind: str
    round: int
    number: int

    @property
    def id(self) -> str:
        """Return the name that journals know the item by."""
        return f"round{self.round}/{self.cluster.id}/{self.kind}/{self.number}"

    @property
    def passages(self) -> int:
        """Return how many separate passages the question must need."""
        return PASSAGES[min(self.round, len(PASSAGES)) - 1]


@dataclass(frozen=True)
class Grounded:
    """A proposal that the documents bear out, with the spans of its quotes."""

    question: str
    answer: str
    evidence: tuple[Evidence, ...]
    reasoning: tuple[str, ...]
    instruction: str = ANSWER_INSTRUCTION
    choices: tuple[str, ...] = ()
    answer_prefix: str = ""
    n_needles: int = 0


def needles(item_round: int, cluster: Cluster, shown: int) -> int:
    """Return how many needles a cluster's conversations allow in a round: 2, 4, 8, or 0 for none."""
    most = 0
    for document in cluster.documents:
        counts: dict[str, int] = {}
        for said in _messages(document, shown):
            counts[said.speaker] = counts.get(said.speaker, 0) + 1
        most = max(most, *counts.values(), 0)
    wanted = NEEDLES[min(item_round, len(NEEDLES)) - 1]
    return max((n for n in NEEDLES if n <= min(wanted, most)), default=0)


def ground(item: Item, proposal: Proposal, shown: int, seed: int) -> Grounded:
    """Return the proposal with the spans of its quotes; only the first `shown` characters of a document count.

    Raises Refused: "ungrounded" when a quote does not stand in its document, or the answer not in a quote where it
    must; "leaked" when the question gives the answer away; "implausible" when a wrong option is of another kind than
    the right one; "too_easy" when it rests on fewer passages than its round asks for.
    """
    if isinstance(proposal, Dialogue):
        return _dialogue(item, proposal, shown, seed)
    kind = KINDS[item.kind]
    spans = [_span(item.cluster, quote, shown) for quote in proposal.evidence]
    answer = " ".join(proposal.answer.split())
    if kind.extractive:
        if len(answer.split()) > MAX_ANSWER_WORDS:
            raise Refused("ungrounded", f"an answer of {len(answer.split())} words is no phrase")
        if not any(plain(answer) in plain(quote.quote) for quote in proposal.evidence):
            raise Refused("ungrounded", f"the answer {answer[:60]!r} stands in no quote")
    if f" {normalised(answer)} " in f" {normalised(proposal.question)} ":
        raise Refused("leaked", f"the question holds its answer {answer[:60]!r}")
    if _separate(spans) < item.passages:
        raise Refused("too_easy", f"{_separate(spans)} passages, round {item.round} asks for {item.passages}")
    made = Grounded(" ".join(proposal.question.split()), answer, tuple(spans), tuple(proposal.reasoning))
    return _choice(item, proposal, made, shown, seed) if isinstance(proposal, Choice) else made


def _span(cluster: Cluster, quote: Quote, shown: int, least: int | None = None) -> Evidence:
    if not 1 <= quote.document <= len(cluster.documents):
        raise Refused("ungrounded", f"there is no document {quote.document}")
    document = cluster.documents[quote.document - 1]
    bounds = {} if least is None else {"least": least}
    found = locate(document.text, quote.quote, shown, **bounds)
    if found is None:
        raise Refused("ungrounded", f"{quote.quote[:60]!r} does not stand in document {quote.document}")
    return Evidence(document=document.id, start=found[0], end=found[1])


def _separate(spans: Sequence[Evidence]) -> int:
    """Return how many of the spans do not overlap: the same passage twice is one passage."""
    count, last = 0, ("", 0)
    for span in sorted(spans, key=lambda s: (s.document, s.end)):
        if span.document != last[0] or span.start >= last[1]:
            count, last = count + 1, (span.document, span.end)
    return count


def _choice(item: Item, proposal: Choice, made: Grounded, shown: int, seed: int) -> Grounded:
    wrong = []
    for quote in proposal.distractors:
        _span(item.cluster, quote, shown, least=1)
        wrong.append(" ".join(quote.quote.split()))
    options = [made.answer, *wrong]
    for place, option in enumerate(options):
        if len(option.split()) > MAX_ANSWER_WORDS:
            raise Refused("ungrounded", f"an option of {len(option.split())} words is no phrase")
        if any(choice._same(option, other) for other in options[:place]):
            raise Refused("ungrounded", f"option {option[:60]!r} says the same as another")
    for option in wrong:
        if not plausible(made.answer, option):
            raise Refused("implausible", f"option {option[:60]!r} is of another kind than {made.answer[:60]!r}")
    place = rng(seed, "mase", "letter", item.id).randrange(len(options))
    choices = (*wrong[:place], made.answer, *wrong[place:])
    letter = choice.LETTERS[place]
    chain = (*made.reasoning, f"That is option {letter}.")
    return Grounded(made.question, letter, made.evidence, chain, LETTER_INSTRUCTION, choices)


def plausible(right: str, wrong: str) -> bool:
    """Tell whether a wrong option could be taken for the right one by its form.

    Both are numbers or neither is, and neither is several times longer: a reader who sees no document should not be
    able to tell them apart.
    """
    if any(c.isdigit() for c in right) != any(c.isdigit() for c in wrong):
        return False
    one, other = len(right.split()), len(wrong.split())
    return max(one, other) <= LENGTHS * min(one, other)


def _messages(document: Document, shown: int) -> list[parse.Said]:
    # A message that is cut in the middle is none.
    return [said for said in parse.messages(document) if said.end <= shown]


def _dialogue(item: Item, proposal: Dialogue, shown: int, seed: int) -> Grounded:
    if not 1 <= proposal.document <= len(item.cluster.documents):
        raise Refused("ungrounded", f"there is no document {proposal.document}")
    document = item.cluster.documents[proposal.document - 1]
    said = [s for s in _messages(document, shown) if s.speaker == proposal.speaker.strip()]
    found: dict[int, parse.Said] = {}
    for message in proposal.messages:
        at = next((n for n, s in enumerate(said) if n not in found and plain(s.text) == plain(message)), None)
        if at is None:
            raise Refused("ungrounded", f"{proposal.speaker!r} does not say {message[:60]!r} in {document.title!r}")
        found[at] = said[at]
    if len(found) != needles(item.round, item.cluster, shown):
        raise Refused("ungrounded", f"{len(found)} messages, {needles(item.round, item.cluster, shown)} were asked for")
    description = " ".join(proposal.description.split()).rstrip(".")
    if any(plain(s.text) in plain(description) for s in found.values()):
        raise Refused("leaked", "the description repeats a message")
    ordered = [found[at] for at in sorted(found)]
    random = rng(seed, "mase", "needle", item.id)
    place = random.randrange(len(ordered))
    prefix = "".join(random.choice(_LETTERS) for _ in range(4)) + ":"
    question = (
        f'Reproduce the {_ordinal(place + 1)} message of {ordered[place].speaker} in "{document.title}" '
        f"that {description}."
    )
    return Grounded(
        question,
        f"{prefix} {ordered[place].text}",
        # The needle first: the others are what it could be mistaken for.
        tuple(
            Evidence(document=s.document, start=s.start, end=s.end)
            for s in (ordered[place], *ordered[:place], *ordered[place + 1 :])
        ),
        (f"The {_ordinal(place + 1)} such message of {ordered[place].speaker}: {ordered[place].text}",),
        f'Write the final answer as "Therefore, the answer is {prefix} (exact message)".',
        answer_prefix=prefix,
        n_needles=len(ordered),
    )
