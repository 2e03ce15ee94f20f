"""Questions from paths, by rule: the words that stand between two names in a quote say how one relates to the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qwenlong.synthesis import names, relations
from qwenlong.synthesis.agents import plain
from qwenlong.synthesis.graph import Edge
from qwenlong.synthesis.intake import node_name, places
from qwenlong.synthesis.merged import Merged, Step

#: Words between two names of a quote, at most, that are taken as the predicate.
MAX_PREDICATE = 6
#: Up to so many hops are one sentence; beyond, the question names the steps one after the other.
NESTED_HOPS = 2
#: Characters between a step's words and its end, at most: an article, a title, an apposition's first word.
REACH = 12
_IRREGULAR = frozenset(
    {
        *("became", "began", "bought", "brought", "built", "came", "chose", "drew", "fell", "fought"),
        *("found", "gave", "gained", "grew", "had", "has", "held", "hid", "is", "keeps"),
        *("kept", "knew", "lay", "led", "left", "lent", "lies", "lost", "made", "met"),
        *("owns", "paid", "ran", "rose", "said", "sat", "saw", "sold", "sang", "sent"),
        *("set", "shot", "spoke", "spent", "stood", "swam", "taught", "took", "told", "was"),
        *("went", "won", "wore", "wrote"),
    }
)
#: Participles that with a preposition say what something is, not what it did.
_STATES = frozenset(
    {
        *("located", "situated", "based", "born", "buried", "named", "known", "married", "built", "made"),
        *("held", "written", "published", "housed", "founded", "established", "elected", "appointed", "awarded"),
        *(
            "connected",
            "composed",
            "related",
            "dedicated",
            "attached",
            "opposed",
            "divided",
            "used",
            "kept",
            "found",
            "lost",
        ),
        *("painted", "designed", "owned", "carved", "forged", "created", "led"),
    }
)


@dataclass(frozen=True)
class Phrase:
    """A predicate ("was born in") or, with `noun`, what the target is to the source ("capital")."""

    text: str
    noun: bool = False


def predicate(edge: Edge, quote: str) -> str | None:
    """Return the words of a quote between subject and object, when they are the relation's words and few others."""
    flat = plain(quote)
    subject, target = (plain(node_name(end)) for end in (edge.source, edge.target))
    wanted = set(relations.form(edge.relation)) - {"be"}
    for _, stop in places(subject, flat):
        for start, _ in places(target, flat):
            between = flat[stop:start].strip() if start > stop else ""
            between = re.sub(r" (?:the|a|an)$", "", between)
            if not re.fullmatch(r"[\w' -]+", between) or len(between.split()) > MAX_PREDICATE:
                continue
            if set(relations.form(between)) - {"be"} == wanted:
                return between
    return None


def phrase(edge: Edge, quote: str) -> Phrase:
    """Return how to say an extracted relation in English."""
    said = predicate(edge, quote)
    if said is not None:
        return Phrase(said)
    tokens = [names.fold(word) for word in names.words(edge.relation)]
    text = " ".join(tokens)
    last, first = tokens[-1], tokens[0]
    verb = first.endswith(("ed", "es")) or first in _IRREGULAR or (first.endswith("s") and not first.endswith("ss"))
    if first in relations.BE | relations.HAVE:
        return Phrase(text)
    if last in relations.PREPOSITIONS:
        # "founded by" and "born in" are states, "moved to" is not; "capital of" is a noun.
        state = (last == "by" and not first.endswith("s")) or first in _STATES
        return Phrase(f"was {text}" if state else text if verb else f"is the {text}")
    return Phrase(text) if verb else Phrase(text, noun=True)


def told_twice(step: Step, quote: str, aliases: Sequence[str], text: str) -> bool:
    """Tell whether a text says a step's words of the same start, but not of the same end.

    An extractor that read one of two such sentences would make a question of two answers.
    """
    said = predicate(step.link.edge, quote)
    if step.link.rule or said is None:
        return False
    flat, end = plain(text), plain(step.surface(end=True))
    for name in {plain(alias) for alias in (*aliases, step.surface(end=False))}:
        subject, words = re.escape(name), re.escape(said)
        if step.direction == "out":
            found = re.finditer(rf"(?<!\w){subject} {words}(?!\w)", flat)
            around = [flat[match.end() : match.end() + len(end) + REACH] for match in found]
        else:
            found = re.finditer(rf"(?<!\w){words} (?:(?:the|an?) )?{subject}(?!\w)", flat)
            around = [flat[max(0, match.start() - len(end) - REACH) : match.start()] for match in found]
        if not all(places(end, near) for near in around):
            return True
    return False


def with_article(name: str, quote: str) -> str:
    """Return a name with "the" where its quote has it."""
    if name.startswith("The "):
        return f"the {name[4:]}"
    return f"the {name}" if any(plain(quote)[:start].endswith("the ") for start, _ in places(name, quote)) else name


def paradigm(graph: Merged, steps: Sequence[Step]) -> Literal["causal", "temporal", "multi-fact"]:
    """Return the paradigm of a path: causal or temporal where any of its relations is, or its ends are dates."""
    wordings = [
        (step.link.relation,) if step.link.rule else graph.resolution.wordings.get(step.link.relation, ())
        for step in steps
    ]
    if any(relations.causal(said) for said, step in zip(wordings, steps, strict=True) if not step.link.rule):
        return "causal"
    dates = names.year_of(steps[0].surface(end=False)) or names.year_of(steps[-1].surface(end=True))
    return "temporal" if dates is not None or any(relations.temporal(said) for said in wordings) else "multi-fact"


def question(steps: Sequence[Step], quotes: Sequence[str], start: str) -> str:
    """Return the question that a path answers, from `start` (a name, or a vaguer description of it)."""
    subject = start
    lead: list[str] = []
    clauses = all(_clause(step, quote) for step, quote in zip(steps, quotes, strict=True))
    nested = len(steps) <= NESTED_HOPS and not clauses
    for number, (step, quote) in enumerate(zip(steps[:-1], quotes[:-1], strict=True)):
        described = _described(step, quote, subject)
        if nested:
            subject = described
        else:
            subject = "ABCDEFGHIJ"[number]
            lead.append(f"Let {subject} be {described}".rstrip(".") + ".")
    return " ".join([*lead, _asked(steps[-1], quotes[-1], subject)])


def _clause(step: Step, quote: str) -> bool:
    """Tell whether a step is said as "what X built": one such clause within another is hard to read."""
    return not step.link.rule and step.direction == "out" and not phrase(step.link.edge, quote).noun


def _described(step: Step, quote: str, of: str) -> str:
    """Return a noun phrase for the node that a step reaches from the node described by `of`."""
    edge, out = step.link.edge, step.direction == "out"
    if step.link.rule:
        if edge.relation == "borders":
            return f"the country that has a {edge.qualifier} border with {of}"
        return f"the {edge.relation} of {of}" if out else f"the country whose {edge.relation} is {of}"
    said = phrase(edge, quote)
    if said.noun:
        return f"the {said.text} of {of}" if out else f"the one whose {said.text} is {of}"
    return f"what {of} {said.text}" if out else f"the one that {said.text} {of}"


def _asked(step: Step, quote: str, of: str) -> str:
    edge, out = step.link.edge, step.direction == "out"
    if step.link.rule:
        if edge.relation == "borders":
            return f"Which country has a {edge.qualifier} border with {of}?"
        return f"What is the {edge.relation} of {of}?" if out else f"Which country is it whose {edge.relation} is {of}?"
    said = phrase(edge, quote)
    if said.noun:
        return f"What is the {said.text} of {of}?" if out else f"Who or what has {of} as its {said.text}?"
    if not out:
        return f"Who or what {said.text} {of}?"
    timed = re.sub(r" (?:in|on)$", "", said.text)
    dated = timed != said.text and names.year_of(step.surface(end=True)) is not None
    verb, _, rest = (timed if dated else said.text).partition(" ")
    if verb in relations.BE and (rest or dated):
        return f"{'When' if dated else 'What'} {verb} {of} {rest}".rstrip() + "?"
    return f"When was it that {of} {timed}?" if dated else f"What is it that {of} {said.text}?"


def vague(surface: str) -> str | None:
    """Return a vaguer description of a date or of a name of several words, None for what has none.

    What it fits is for the graph to say (`Merged.described`).
    """
    year = names.year_of(surface)
    if year is not None:
        decade = year // 10 * 10
        one = "a year" if re.fullmatch(r"\d{4}", surface.strip()) else "a date in the years"
        return f"{one} from {decade} to {decade + 9}"
    initials = names.initials(surface)
    return None if initials is None else f"someone or something with the initials {initials}"
