"""Blind screening without a model: what a question gives away, and what always guessing the same would get right."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Protocol

from qwenlong.rewards.guessing import tail
from qwenlong.rewards.rules import covers, numbers
from qwenlong.synthesis.decontaminate import normalised

LETTERS = "ABCDEFGHIJ"
#: Right guesses of one rule in one template that are too few to speak of a share.
FEW = 3
#: Right guesses that make a template's commonest answer a rule.
COMMON = 5
#: A rule among options counts while chance alone does as well with at most this probability.
ALPHA = 0.01
#: Numbers in a question that are put together, at most.
MAX_NUMBERS = 6
# A number that bounds or dates something is no answer that the question gives away.
_BOUND = re.compile(
    r"(?:\b(?:above|below|over|under|than|least|most|in|since|until|before|after|from|to|by|number)|[<>])\W*$"
)
_LIST = re.compile(r"\b(?:or|than)\b|\b[Ww]hich of\b|\b[Bb]etween\b")
_BEFORE = re.compile(r"(?:[,:;(]|\b(?:or|and|of|than|between|that))\s*[\"'“]?\s*$")
_AFTER = re.compile(r"^\s*[\"'”]?\s*(?:[,;?)]|$|\b(?:or|and|than)\b)")
_YEAR = re.compile(r"(?:1[5-9]|20)\d\d")


class Asked(Protocol):
    """What a candidate and a sample show of a question."""

    @property
    def task(self) -> str:
        """Task."""

    @property
    def template(self) -> str:
        """Template and version."""

    @property
    def question(self) -> str:
        """The question, without its options."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Gold answers; a letter where there are options."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Options."""

    @property
    def answer_prefix(self) -> str:
        """What a message must start with."""


def right(asked: Asked) -> str:
    """Return the gold answer's text: the right option's, or the message without its prefix."""
    answer = asked.answers[0]
    if asked.choices and answer in LETTERS[: len(asked.choices)]:
        return asked.choices[LETTERS.index(answer)]
    return answer.removeprefix(asked.answer_prefix).strip()


def by_itself(asked: Asked) -> str:
    """Return the rule that answers a question from its own words, "" when none does.

    "in_question": the answer stands there, and not as one of several that it offers. "computed": it is the sum,
    difference, product, quotient or mean of the numbers there.
    """
    if _in_question(asked):
        return "in_question"
    return "computed" if _computed(asked) else ""


def _in_question(asked: Asked) -> bool:
    answer, question = right(asked), asked.question
    # One option of several that the question names is as good as another.
    if not covers(question, answer) or any(o != answer and covers(question, o) for o in asked.choices):
        return False
    words = r"\W+".join(re.escape(word) for word in normalised(answer).split())
    places = list(re.finditer(rf"(?<!\w){words}(?!\w)", question, re.IGNORECASE))
    is_number = len(numbers(answer)) == 1 and len(answer.split()) == 1
    for place in places:
        before, after = question[: place.start()], question[place.end() :]
        offered = _LIST.search(question) and _BEFORE.search(before) and _AFTER.search(after)
        if not offered and not (is_number and _BOUND.search(before)):
            return True
    return not places


def _computed(asked: Asked) -> bool:
    gold = numbers(right(asked))
    if len(gold) != 1:
        return False
    given = [value for value, _ in numbers(_YEAR.sub(" ", asked.question))]
    if not 2 <= len(given) <= MAX_NUMBERS:
        return False
    results = {sum(given), math.prod(given), sum(given) / len(given)}
    for one, two in combinations(given, 2):
        results |= {abs(one - two)} | {a / b for a, b in ((one, two), (two, one)) if b}
    value = gold[0][0]
    return any(math.isclose(value, result, rel_tol=1e-3, abs_tol=1e-9) for result in results)


def guesses(asked: Asked) -> Iterator[tuple[str, str]]:
    """Yield the rules of guessing that get a question right, each as (rule, what it always says)."""
    if not asked.choices:
        yield "commonest", normalised(right(asked))
        return
    yield "commonest", normalised(right(asked))
    yield "position", asked.answers[0]
    sizes = [len(option) for option in asked.choices]
    for rule, end in (("longest", max(sizes)), ("shortest", min(sizes))):
        if sizes.count(end) == 1 and len(right(asked)) == end:
            yield rule, rule


class Balance:
    """Keeps what guessing gets right in each template at or below a share, as samples are taken one by one."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._hits: Counter[tuple[str, str, str]] = Counter()
        self._sizes: Counter[str] = Counter()

    def exceeded_by(self, asked: Asked) -> bool:
        """Tell whether with this question some rule would get more than the share right."""
        bound = max(FEW, math.floor(self._share * (self._sizes[asked.template] + 1)))
        return any(self._hits[asked.template, *guess] + 1 > bound for guess in guesses(asked))

    def add(self, asked: Asked) -> None:
        """Take a question."""
        self._sizes[asked.template] += 1
        self._hits.update((asked.template, *guess) for guess in guesses(asked))


def by_rule(samples: Sequence[Asked], share: float) -> dict[int, str]:
    """Return the places of the samples that can be answered without reading, with the rule that does.

    Beside the questions that give themselves away: where one rule of guessing gets more than `share` of a template's
    samples of a task right, all that it gets right. Among options that must be more than chance would (ALPHA); a
    commonest answer must stand there COMMON times.
    """
    found = {place: rule for place, sample in enumerate(samples) if (rule := by_itself(sample))}
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        groups[sample.task, sample.template].append(place)
    for members in groups.values():
        hits: dict[tuple[str, str], list[int]] = defaultdict(list)
        for place in members:
            for guess in guesses(samples[place]):
                hits[guess].append(place)
        options = [len(samples[place].choices) for place in members if samples[place].choices]
        for (rule, _), places in sorted(hits.items()):
            if len(places) <= share * len(members):
                continue
            if rule == "commonest":
                proven = len(places) >= COMMON
            else:
                proven = tail(len(places), len(members), 1 / min(options)) <= ALPHA
            for place in places if proven else ():
                found.setdefault(place, rule)
    return found
