"""Readers of the memory agent's prompts: programs that see a prompt, nothing else, and write the reply of a model.

A reader takes a prompt apart by the templates of `qwenlong.core.templates`, finds fact sentences (`agent_items`) in
section, memory and recalled text, keeps those that may serve the question as it is asked, and writes memory, plan or
answer in the form that the prompt asks for. It knows nothing of items: the same prompt gets the same reply.

Of a chain it keeps the facts of every relation in it, until the links before them are known; so a fact that comes
too early is still there. Beside facts a memory holds notes, beginnings of the sections read, up to `notes` of its
budget: models fill theirs too, and what is written costs time.

`fallible` misses 5% of a section's facts and says "nothing to add" wrongly to 5% of the sections that have some;
`forgetful` also loses 1% of the memory's facts whenever it writes the memory anew. `narrow` errs nowhere, but keeps
only what it knows to serve: a fact of a chain that comes before the one that leads to it is lost. `terse` takes no
notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent_items import MEANING, NOT_STATED

from qwenlong import memory_agent
from qwenlong.core import seeds, templates
from qwenlong.core.files import digest_value

#: Characters of a token, about: a reader cannot count tokens, and a bound on notes need not be exact.
CHARACTERS = 2.7
_FACT = re.compile(r"\bThe ([a-z]+(?: [a-z]+)?) of ([A-Z][a-z]+) is ([A-Z][a-z]+|\d+)\.")
_MEMBER = re.compile(r"\b([A-Z][a-z]+) is (?:listed|entered) as a ([a-z]+)\.")
_CHAIN = re.compile(r"What is (the [a-z ]+ of [A-Za-z ]+)\?")
_COUNT = re.compile(r"How many names are listed as a ([a-z]+)\?")
_SENTENCE = re.compile(r"\S[^\n]{20,160}?[.!?\n]")
_SLOT = re.compile(r"\\\{([a-z_]+)\\\}")


@dataclass(frozen=True)
class Reader:
    """How a reader errs, as shares; the share of the memory's budget that notes may fill it to; what it keeps."""

    miss: float = 0.0
    nothing: float = 0.0
    forget: float = 0.0
    notes: float = 0.5
    narrow: bool = False


READERS = {
    "perfect": Reader(),
    "fallible": Reader(miss=0.05, nothing=0.05),
    "forgetful": Reader(miss=0.05, nothing=0.05, forget=0.01),
    "narrow": Reader(narrow=True),
    "terse": Reader(notes=0.0),
}


@dataclass(frozen=True)
class Fact:
    """A fact's sentence and its parts in the words of questions; a member's relation is "listed as", with the role."""

    sentence: str
    relation: str
    name: str
    value: str = ""


def facts(text: str) -> list[Fact]:
    """Return the facts of a text in its order, each once."""
    found = [(m.start(), Fact(m[0], MEANING.get(m[1], m[1]), m[2], m[3])) for m in _FACT.finditer(text)]
    found += [(m.start(), Fact(m[0], f"listed as {MEANING.get(m[2], m[2])}", m[1])) for m in _MEMBER.finditer(text)]
    return list(dict.fromkeys(fact for _, fact in sorted(found, key=lambda pair: pair[0])))


@dataclass(frozen=True)
class Problem:
    """A question as understood: the relations from `name` on, or the role that is counted."""

    name: str = ""
    relations: tuple[str, ...] = ()
    role: str = ""

    def useful(self, known: Sequence[Fact], narrow: bool = False) -> list[Fact]:
        """Return the facts that serve, or may serve: those of a link whose beginning is not known yet.

        A `narrow` reader keeps none of the latter.
        """
        if self.role:
            return [fact for fact in known if fact.relation == f"listed as {self.role}"]
        kept, at = [], self.name
        for relation in self.relations:
            here = [fact for fact in known if fact.relation == relation and at in ("", fact.name)]
            if narrow and not at:
                break
            kept += here
            at = here[0].value if at and here else ""
        return kept

    def answer(self, known: Sequence[Fact]) -> str:
        """Return the answer that facts give, "not stated" where they give none."""
        kept = self.useful(known)
        if self.role:
            return str(len({fact.name for fact in kept})) if kept else NOT_STATED
        at = self.name
        for relation in self.relations:
            at = next((fact.value for fact in kept if (fact.relation, fact.name) == (relation, at)), "")
        return at or NOT_STATED

    def wanted(self, known: Sequence[Fact]) -> str:
        """Return what to look for next, in words of the document."""
        if self.role:
            return f"Look for more names listed as a {self.role}."
        at = self.name
        for relation in self.relations:
            step = next((f.value for f in known if (f.relation, f.name) == (relation, at)), "")
            if not step:
                return f"Look for the {relation} of {at}."
            at = step
        return "All is found."


def understand(question: str) -> Problem:
    """Return what a question asks. Raises ValueError for a form that items do not have."""
    counted = _COUNT.search(question)
    if counted:
        return Problem(role=counted[1])
    chain = _CHAIN.search(question)
    if not chain:
        raise ValueError(f"a question of another form: {question[:80]!r}")
    *links, name = chain[1].split(" of ")
    return Problem(name, tuple(link.removeprefix("the ") for link in reversed(links)))


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    """Return the agent's templates as patterns with a group a slot."""
    folders = (templates.FOLDER / templates.VERSION, Path(memory_agent.__file__).parent / "prompts")
    patterns = {}
    for file in sorted(file for folder in folders for file in folder.glob("memory_*.txt")):
        patterns[file.stem] = re.compile(
            _SLOT.sub(r"(?P<\1>.*?)", re.escape(file.read_text(encoding="utf-8").strip())), re.DOTALL
        )
    return patterns


#: Templates that are prompts of their own; the others are parts of them.
_PROMPTS = ("split", "update", "update_gains", "update_section_first", "merge", "answer", "answer_recall")


def recognise(prompt: str) -> tuple[str, dict[str, str]]:
    """Return a prompt's template and the values of its slots; of a repeated one, those of the prompt that it repeats.

    Raises ValueError for a prompt of no template.
    """
    patterns, text = _patterns(), prompt.strip()
    if "memory_repair" in patterns:
        text = re.sub(rf"\n\n{patterns['memory_repair'].pattern}\Z", "", text, count=1)
    for name in _PROMPTS:
        pattern = patterns.get(f"memory_{name}")
        # Empty slots at its end are stripped from a prompt with the line break before them.
        match = (pattern.fullmatch(text) or pattern.fullmatch(f"{text}\n")) if pattern else None
        if match:
            return name, match.groupdict()
    raise ValueError(f"a prompt of no template: {prompt[:80]!r}")


def reply(prompt: str, limit: int, reader: Reader, seed: int) -> str:
    """Return a reader's reply of `limit` tokens at most, about. Raises ValueError for a prompt that it cannot read."""
    template, slots = recognise(prompt)
    if template == "split":
        # Requests of the items are the question, then, on a line of its own, how to write the answer.
        question, _, form = slots["query"].partition("\n")
        return f"<question>{question}</question>\n<format>{form}</format>"
    problem = understand(slots["question"])
    if template.startswith("answer"):
        # Nothing tells where the memory ends and the instruction begins, and neither holds what is not to be read.
        return f"Therefore, the answer is ({problem.answer(facts(' '.join(slots.values())))})."
    drawn = _Draws(seed, digest_value(prompt))
    room = int(limit * reader.notes * CHARACTERS)
    if template == "merge":
        held = _held(facts(f"{slots['memories']}\n{slots['recalled']}"), reader, drawn)
        return _written(problem, problem.useful(held, reader.narrow), [], room)
    memory = f"{slots['memory']}\n{slots.get('recalled', '')}"
    seen = [f for f in facts(slots["section"]) if not drawn.happens(reader.miss, "miss", f.sentence)]
    kept = problem.useful(list(dict.fromkeys([*facts(memory), *seen])), reader.narrow)
    offers = slots.get("offers", "")
    if "<nothing/>" in offers and (
        set(kept) <= set(facts(slots["memory"])) or drawn.happens(reader.nothing, "nothing")
    ):
        return "<nothing/>"
    kept = problem.useful(_held(kept, reader, drawn, fresh=seen), reader.narrow)
    said = _written(problem, kept, _notes(slots["memory"], slots["section"]), room)
    solved = not problem.role and problem.answer(kept) != NOT_STATED
    return f"{said}\n<done/>" if solved and "<done/>" in offers else said


@dataclass(frozen=True)
class _Draws:
    """Chances that depend on seed, prompt and what is at stake."""

    seed: int
    prompt: str

    def happens(self, share: float, *what: str) -> bool:
        return share > 0 and seeds.rng(self.seed, "reader", self.prompt, *what).random() < share


def _held(known: Sequence[Fact], reader: Reader, drawn: _Draws, fresh: Sequence[Fact] = ()) -> list[Fact]:
    """Return what is not lost in writing; facts that were just read are not."""
    return [f for f in known if f in fresh or not drawn.happens(reader.forget, "forget", f.sentence)]


def _notes(memory: str, section: str) -> list[str]:
    """Return notes, the latest first: a sentence of the section, then those of the memory."""
    found = _SENTENCE.search(_MEMBER.sub("", _FACT.sub("", section)))
    old = memory.partition("Notes:\n")[2].split("\n")
    return [line for line in [" ".join(found[0].split()) if found else "", *old] if line]


def _written(problem: Problem, kept: Sequence[Fact], notes: Iterable[str], room: int) -> str:
    """Return memory and plan; notes as far as memory and plan stay within `room` characters."""
    plan = problem.wanted(kept)
    lines = [fact.sentence for fact in kept] or ["Nothing that serves the problem yet."]
    used = len("\n".join([*lines, plan]))
    noted: list[str] = []
    for note in notes:
        used += len(note)
        if used > room:
            break
        noted.append(note)
    shown = ["Notes:", *noted] if noted else []
    return "\n".join(["<memory>", *lines, *shown, "</memory>", f"<plan>{plan}</plan>"])
