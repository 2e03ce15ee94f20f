"""Documents of real text with facts among their sentences, and questions about them.

Facts are sentences of two forms, about names that no corpus has:

    The keeper of Vorlune is Maddrin.        The berth code of Vorlune is 4711.        Vorlune is listed as a pilot.

Half of them say it in other words than the question ("The custodian of Vorlune …", "… is entered as a steersman."), so
that only the name, if the question has it, leads a search by words to them.

A document has `PER_KIND` questions of each kind and the facts of all of them, each fact's place drawn uniformly:

- retrieval: one fact;
- multi_hop: a chain of two or three facts in any order, so that what a fact is good for may be known only later;
- counting: how many names are listed as something, two to seven.

`LAST` of the questions of a kind have evidence in the document's last tenth, the other answerable ones have none there;
`UNANSWERABLE` of them miss a fact. Retrieval and hops have `DISTRACTORS` facts of the same relation about other names.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwenlong.core import seeds
from qwenlong.core.records import Document as Text

KINDS = ("retrieval", "multi_hop", "counting")
PER_KIND = 2
LAST, UNANSWERABLE, DISTRACTORS = 0.3, 0.2, 2
NOT_STATED = "not stated"
#: Relations to numbers, to names, and what names are listed as: as questions say it, and as half of the facts do.
NUMBERS = {
    "access code": "entry cipher",
    "berth code": "mooring mark",
    "survey score": "inspection grade",
    "filing mark": "archive sign",
    "tide mark": "flood level",
    "ledger page": "account leaf",
    "toll rate": "passage fee",
}
PEOPLE = {
    "keeper": "custodian",
    "patron": "sponsor",
    "founder": "originator",
    "rival": "opponent",
    "archivist": "recorder",
    "supplier": "purveyor",
    "guardian": "protector",
    "successor": "follower",
    "tutor": "instructor",
    "lodger": "boarder",
}
ROLES = {
    "pilot": "steersman",
    "lighthouse": "beacon",
    "glassmaker": "glazier",
    "ferry": "crossing",
    "surveyor": "measurer",
    "foundry": "smeltery",
    "beekeeper": "apiarist",
    "granary": "storehouse",
}
#: Word → the word of questions.
MEANING = {word: name for pair in (NUMBERS, PEOPLE, ROLES) for name, other in pair.items() for word in (name, other)}
_START = ("V", "M", "Tr", "K", "Br", "D", "Sk", "Gl", "P", "Th", "Z", "Dr", "Fl", "Qu", "N", "H")
_MIDDLE = ("or", "ad", "il", "un", "em", "ys", "ar", "ob", "ek", "ul", "iv", "og")
_END = ("lune", "drin", "vane", "mott", "skar", "tillo", "wick", "bane", "rath", "quist", "dell", "phar")
_BORDER = re.compile(r"(?<=[a-z]{2}[.!?])\s+(?=[A-Z])|\n\n+")


@dataclass(frozen=True)
class Question:
    """A question with its one right answer; `places` are the shares of the document before its evidence."""

    id: str
    kind: str
    text: str
    answer: str
    places: tuple[float, ...]


@dataclass(frozen=True)
class Document:
    """A document and its questions."""

    id: str
    text: str
    questions: tuple[Question, ...]


def names(random_: random.Random, taken: set[str]) -> Iterator[str]:
    """Yield names, none twice."""
    while True:
        name = random_.choice(_START) + random_.choice(_MIDDLE) + random_.choice(_MIDDLE) + random_.choice(_END)
        if name not in taken:
            taken.add(name)
            yield name


def _shares(total: int, random_: random.Random) -> list[str]:
    """Return for each question of a kind where its evidence is: "last" tenth, "none" (unanswerable), "before"."""
    last, none = round(LAST * total), round(UNANSWERABLE * total)
    where = ["last"] * last + ["none"] * none + ["before"] * (total - last - none)
    random_.shuffle(where)
    return where


class _Maker:
    """The facts and questions of one document."""

    def __init__(self, document: str, random_: random.Random, taken: set[str]) -> None:
        self._document, self._random = document, random_
        self._names = names(random_, taken)
        self._relations = random_.sample(list(PEOPLE), len(PEOPLE))
        self._numbers = random_.sample(list(NUMBERS), len(NUMBERS))
        self._roles = random_.sample(list(ROLES), len(ROLES))
        self.facts: list[tuple[float, str]] = []

    def _places(self, n: int, where: str) -> tuple[float, ...]:
        places = [self._random.uniform(0.0, 0.9) for _ in range(n)]
        if where == "last" and places:
            places[self._random.randrange(n)] = self._random.uniform(0.905, 1.0)
        return tuple(places)

    def _put(self, places: Sequence[float], sentences: Sequence[str]) -> None:
        self.facts += zip(places, sentences, strict=True)

    def _fact(self, relation: str, name: str, value: str) -> str:
        word = self._random.choice((relation, (NUMBERS | PEOPLE)[relation]))
        return f"The {word} of {name} is {value}."

    def _member(self, name: str, role: str) -> str:
        return self._random.choice((f"{name} is listed as a {role}.", f"{name} is entered as a {ROLES[role]}."))

    def _distract(self, relation: str, number: bool) -> None:
        for _ in range(DISTRACTORS):
            value = self._number() if number else next(self._names)
            self._put([self._random.random()], [self._fact(relation, next(self._names), value)])

    def _number(self) -> str:
        return str(self._random.randrange(1000, 10000))

    def retrieval(self, number: int, where: str) -> Question:
        """One fact: a name's number."""
        relation, name, value = self._numbers.pop(), next(self._names), self._number()
        places = self._places(1 if where != "none" else 0, where)
        self._put(places, [self._fact(relation, name, value)] * len(places))
        self._distract(relation, number=True)
        asked = f"What is the {relation} of {name}?"
        return self._question("retrieval", number, asked, value if places else NOT_STATED, places)

    def multi_hop(self, number: int, where: str) -> Question:
        """A chain from name to name to a number, its facts in any order."""
        hops = self._random.choice((2, 3))
        relations = [self._relations.pop() for _ in range(hops - 1)] + [self._numbers.pop()]
        chain = [next(self._names) for _ in range(hops)] + [self._number()]
        sentences = [self._fact(r, a, b) for r, a, b in zip(relations, chain, chain[1:], strict=False)]
        if where == "none":
            sentences.pop(self._random.randrange(hops))
        places = self._places(len(sentences), where)
        self._put(places, sentences)
        for relation in relations:
            self._distract(relation, number=relation is relations[-1])
        asked = " of ".join(f"the {relation}" for relation in reversed(relations))
        answer = chain[-1] if where != "none" else NOT_STATED
        return self._question("multi_hop", number, f"What is {asked} of {chain[0]}?", answer, places)

    def counting(self, number: int, where: str) -> Question:
        """How many names are listed as something."""
        role = self._roles.pop()
        places = self._places(0 if where == "none" else self._random.randint(2, 7), where)
        self._put(places, [self._member(next(self._names), role) for _ in places])
        answer = str(len(places)) if places else NOT_STATED
        return self._question("counting", number, f"How many names are listed as a {role}?", answer, places)

    def _question(self, kind: str, number: int, text: str, answer: str, places: tuple[float, ...]) -> Question:
        return Question(f"{self._document}/{kind}{number}", kind, text, answer, places if answer != NOT_STATED else ())


def _insert(text: str, facts: Sequence[tuple[float, str]]) -> str:
    """Return `text` with sentences at the borders of sentences nearest to their places."""
    borders = [match.start() for match in _BORDER.finditer(text)] or [len(text)]
    at: dict[int, list[str]] = {}
    for place, sentence in facts:
        # From 0.9 on, the border behind counts: rounding must not take evidence out of the last tenth, or into it.
        wanted = place * len(text)
        inside = [b for b in borders if (b > 0.9 * len(text)) == (place > 0.9)] or borders
        at.setdefault(min(inside, key=lambda b: abs(b - wanted)), []).append(sentence)
    parts, before = [], 0
    for border in sorted(at):
        parts += [text[before:border], " ", " ".join(at[border])]
        before = border
    return "".join([*parts, text[before:]])


def make(texts: Sequence[Text], documents: int, characters: int, seed: int) -> list[Document]:
    """Return documents of `characters` characters of `texts`, each text used once, with their questions.

    Raises ValueError when the texts are too short together.
    """
    random_ = seeds.rng(seed, "agent_items")
    pool = random_.sample(list(texts), len(texts))
    taken: set[str] = set()
    where = {kind: _shares(PER_KIND * documents, random_) for kind in KINDS}
    made = []
    for number in range(documents):
        text = ""
        while len(text) < characters:
            if not pool:
                raise ValueError(f"the corpus lasts for {number} of {documents} documents of {characters} characters")
            text += pool.pop().text.strip() + "\n\n"
        text = text[:characters]
        maker = _Maker(f"d{number:02}", random_, taken)
        questions = [getattr(maker, kind)(n, where[kind].pop()) for kind in KINDS for n in range(PER_KIND)]
        made.append(Document(f"d{number:02}", _insert(text, maker.facts), tuple(questions)))
    return made
