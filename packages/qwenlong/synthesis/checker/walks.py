"""Questions over triples that a model read out of prose: what of them can be proved from the text, and is.

Whether "Orr built the bridge" follows from a sentence is the model's reading: no rule derives it again, so these
answers count as not derivable. That each step is quoted, names both its ends, leads on to the next, and finds no second
end in any document shown can be proved; where it fails, it is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.checker.view import entity

_STEP = re.compile(r'(?P<head>.+?) — (?P<relation>.+?) — (?P<tail>.+?): "(?P<quote>.+)"', re.DOTALL)
#: Words that stand between two ends of a quote, at most, when they are looked for in other places.
MAX_BETWEEN = 6
_PRONOUNS = frozenset({"it", "he", "she", "they", "this", "that", "who", "which", "there", "and", "but"})


@dataclass(frozen=True)
class _Said:
    head: str
    relation: str
    tail: str
    quote: str
    home: Document

    @property
    def ends(self) -> tuple[str, str]:
        return self.head, self.tail


def is_walk(sample: Sample) -> bool:
    """Tell whether a sample is over extracted triples."""
    return sample.template.startswith("walk_")


def faults(sample: Sample, shown: Sequence[Document]) -> str:
    """Return what of a walk's reasoning the documents do not bear out, "" when they bear all of it out."""
    if not is_walk(sample):
        return ""
    texts = {document.id: document for document in shown}
    if not len(sample.reasoning_chain) == len(sample.evidence) == sample.n_hops:
        return f"{len(sample.reasoning_chain)} steps and {len(sample.evidence)} spans for {sample.n_hops} hops"
    steps = []
    for number, (line, span) in enumerate(zip(sample.reasoning_chain, sample.evidence, strict=True), 1):
        matched = _STEP.fullmatch(line)
        home = texts.get(span.document)
        if matched is None or home is None:
            return f"step {number} is no quoted triple of a document shown: {line!r}"
        head, relation, tail, quote = (_flat(part) for part in matched.groups())
        step = _Said(head, relation, tail, quote, home)
        fault = _quoted(step, home.text[span.start : span.end])
        if fault:
            return f"step {number}: {fault}"
        steps.append(step)
    return _path(sample, steps, shown)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _words(name: str) -> list[str]:
    return [word for word in re.findall(r"\w+", name.casefold()) if word not in ("the", "a", "an")]


def _holds(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(_flat(name).casefold())}(?!\w)", _flat(text).casefold()) is not None


def _quoted(step: _Said, evidence: str) -> str:
    if _flat(evidence) not in step.quote:
        return f"the evidence {_flat(evidence)!r} is not what it quotes, {step.quote!r}"
    # Of a structured source the document's subject is one end, and its title names it.
    subjects = (entity(step.home), step.home.title) if step.home.metadata.get("kind") == "factbook" else ()
    lost = [end for end in step.ends if not _holds(evidence, end) and end not in subjects]
    return f"the evidence does not name {lost[0]!r}" if lost else ""


def _alike(one: str, other: str) -> bool:
    left, right = set(_words(one)), set(_words(other))
    initials = {word[0] for word in left | right}
    return left <= right or right <= left or bool(left & right and all(w[0] in initials for w in left ^ right))


def _path(sample: Sample, steps: Sequence[_Said], shown: Sequence[Document]) -> str:
    """Return why the steps do not lead from the question to the answer one after the other, each to one end."""
    asked = set(_words(sample.question))
    ends = [end for end in steps[-1].ends if any(_words(end) == _words(gold) for gold in sample.answers)]
    if not ends or len(sample.answers) != 1:
        return f"the last step does not end at {list(sample.answers)}"
    reached = ends[0]
    # Backwards from the answer: the other end of a step is an end of the step before.
    for number in range(len(steps), 0, -1):
        step = steps[number - 1]
        if set(_words(reached)) <= asked:
            return f"the question gives away {reached!r}"
        fault = _second(step, forward=reached == step.tail, shown=shown)
        if fault:
            return f"step {number}: {fault}"
        start = step.head if reached == step.tail else step.tail
        if number > 1:
            before = [end for end in steps[number - 2].ends if _alike(end, start)]
            if not before:
                return f"step {number} starts at {start!r}, at which step {number - 1} does not end"
            reached = before[0]
    named = set(_words(start)) <= asked
    if bool(sample.checks.get("obfuscation")) == named:
        return f"the question {'names' if named else 'does not name'} {start!r}, where the path starts"
    return ""


def _second(step: _Said, *, forward: bool, shown: Sequence[Document]) -> str:
    """Return a second end that a document gives a step in the very words of its quote, "" when there is none."""
    head, tail = (re.escape(_flat(end)) for end in step.ends)
    found = re.search(rf"(?<!\w){head}((?: [\w'-]+){{1,{MAX_BETWEEN}}}) {tail}(?!\w)", step.quote, re.IGNORECASE)
    if found is None:
        return ""
    said = re.escape(re.sub(r" (?:the|an?)$", "", found[1]))
    if forward:
        told = re.compile(rf"(?<!\w){head}{said} (?P<other>[^.;:!?\n]{{1,80}})", re.IGNORECASE)
        wanted = step.tail
    else:
        name = r"[A-Z][\w'-]+(?: (?:of |de |von |van )?[A-Z][\w'-]+)*"
        told = re.compile(rf"(?P<other>{name}){said}(?: the| an?)? {tail}(?!\w)")
        wanted = step.head
    for document in shown:
        for match in told.finditer(_flat(document.text)):
            other = match["other"]
            # A place is no second date; "it" and "who" are the same one.
            same = _alike(other, wanted) or _holds(other, wanted) or other.casefold() in _PRONOUNS
            if not same and other[0].isdigit() == _flat(wanted)[0].isdigit():
                return f"{document.id!r} says {match.group()!r} too"
    return ""
