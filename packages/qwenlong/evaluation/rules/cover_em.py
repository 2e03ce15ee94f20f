"""Cover exact match of open questions, strict and loose, and what a judge is asked where it fails.

The prediction is the final answer behind the thinking (rewards.extract.final_answer), compared word by word after the
normalisation of the reward rules: case, punctuation, articles and thousands separators left out. Whole words only:
"1" is not in "1912", nor "no" in "Nolan". An empty side never matches, nor does an empty list ("[]"); a gold of signs
alone ("....-") is matched by the same signs.

**No answer may list the document.** A final answer of more than 40 words, or twice the words of the gold where that is
more, matches nothing. An answer that says the gold with a sentence around it stays below; a longer one is not lost
either, since it goes to the judge as any other without a match does. Above `characters_allowed` there is no answer at
all, and the judge is not asked: it would be shown a piece of the document with the gold in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from qwenlong.evaluation.interface import Ask
from qwenlong.rewards.extract import MAX_BARE_WORDS, after_thinking, final_answer, marked
from qwenlong.rewards.judge import MAX_ANSWER_CHARACTERS
from qwenlong.rewards.rules import ARTICLES, covers, normalise

#: A final answer may have so many times the length of the gold.
MAX_TIMES = 2
#: What says nothing where a text has no words.
_WRAPPERS = re.compile(r"[\s\[\](){}\"'`*]+")
STRICT, LOOSE, JUDGE, PAPER = "cover_em_strict", "cover_em_loose", "judge", "paper"


def _words_allowed(gold: Sequence[str]) -> int:
    return max(MAX_BARE_WORDS, MAX_TIMES * len(gold))


def characters_allowed(golds: Sequence[str]) -> int:
    """Return the most characters that an answer may have."""
    return max(MAX_ANSWER_CHARACTERS, MAX_TIMES * max(map(len, golds), default=0))


def match(answer: str, golds: Sequence[str]) -> tuple[bool, bool]:
    """Return whether `answer` matches any gold: strict (gold in answer), loose (either in the other)."""
    if len(answer) > characters_allowed(golds):
        return False, False
    said, strict, loose = normalise(answer), False, False
    for gold in golds:
        wanted = normalise(gold)
        if len(said) <= _words_allowed(wanted):
            strict = strict or _within(wanted, said, gold, answer) or _same_signs(answer, gold)
            # An answer of articles alone says nothing, whatever gold holds one.
            loose = loose or strict or (not ARTICLES.issuperset(said) and _within(said, wanted, answer, gold))
    return strict, loose


def _within(inner: list[str], outer: list[str], inner_text: str, outer_text: str) -> bool:
    """Return rules.covers of two texts whose words are known already."""
    if ARTICLES.issuperset(inner):
        return covers(outer_text, inner_text)
    return f" {' '.join(inner)} " in f" {' '.join(outer)} "


def _same_signs(answer: str, gold: str) -> bool:
    if any(map(str.isalnum, gold)):
        return False
    signs = _WRAPPERS.sub("", gold)
    return bool(signs) and signs == _WRAPPERS.sub("", answer)


def score(response: str, golds: Sequence[str]) -> dict[str, float]:
    """Return both values of a response. Unfinished thinking is never an answer. Never raises, linear in its length."""
    answer = final_answer(response)
    strict, loose = (False, False) if answer is None else match(answer, golds)
    return {STRICT: float(strict), LOOSE: float(loose)}


def asks(response: str, question: str, golds: Sequence[str]) -> dict[str, Ask]:
    """Return the question to the judge whether the answer says the same as a gold.

    None where strict cover-EM decided, where nothing is answered, or only at a length that no answer has. The judge
    sees all that follows the answer sentence, since a list may stand on several lines, or else the final answer.
    """
    answer = final_answer(response)
    if answer is None or match(answer, golds)[0]:
        return {}
    limit = characters_allowed(golds)
    tail = marked(after_thinking(response) or "")
    if tail and "\n" in tail and len(tail) <= limit:
        answer = tail
    return {JUDGE: Ask(question, tuple(golds), answer)} if len(answer) <= limit else {}


def judged(values: Mapping[str, float], verdicts: Mapping[str, bool | None]) -> dict[str, float]:
    """Return `judge` (what the judge adds: 0 where it was not asked or gave no verdict) and `paper`, the larger."""
    added = float(verdicts.get(JUDGE) is True)
    return {JUDGE: added, PAPER: max(values[STRICT], added)}
