"""Reward rules: one pure function per task, each from text to [0, 1] (SPEC section 3)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from qwenlong.core.records import TASKS
from qwenlong.rewards.extract import after_thinking, final_answer, marked, unwrap
from qwenlong.rewards.similarity import ratio

#: Largest relative error at which a number with decimals still counts as equal; whole numbers must be exact.
RELATIVE_TOLERANCE = 0.0015

_SCALES = {
    "thousand": 1e3,
    "million": 1e6,
    "mn": 1e6,
    "billion": 1e9,
    "bn": 1e9,
    "trillion": 1e12,
}
_NUMBER = re.compile(
    r"(?<![\w.,])(?<!\w-)(?P<sign>[-+−–])?\s?(?:[$€£¥]\s?)?"
    r"(?P<digits>\d{1,3}(?:[,\u00a0\u2009\u202f]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<exponent>[eE][-+]?\d+)?"
    r"(?:\s?(?P<scale>thousand|million|billion|trillion|mn|bn)\b)?(?![\d])(?=[^\w]|[a-zA-Z%°]|$)"
)
_SEPARATOR = re.compile(r"[,\u00a0\u2009\u202f]")
_CONTEXT_YEAR = re.compile(
    r"\b(?:in|of|for|year|by|from|since|FY|to|and|between)\s+((?:19|20)\d\d)\b(?!\s*(?:%|million|billion))"
)
_WHOLE_NUMBER = re.compile(
    r"\s*[-+−–]?\s?(?:[$€£¥]\s?)?[\d.,]+(?:[eE][-+]?\d+)?\s*(?:(?:thousand|million|billion|trillion|mn|bn)\b)?"
    r"\s*[%°]?(?:\s*+[A-Za-z$€£¥./²³%-]++){0,4}\s*"
)
_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])")
_MAX_MARKS = 30
#: Words that say nothing beside others.
ARTICLES = frozenset({"a", "an", "the"})


def _words(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", _stream_safe(text)).casefold().replace("−", "-")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = _CJK.sub(r" \1 ", text)
    # Words keep what tells them apart: 3.5 from 3, -5 from 5, C++ and C# from C, foo.bar from foo.
    return re.findall(r"(?<![\w.])-\d+(?:\.\d+)*|\w+(?:\.(?=\w)\w+)*[+#]*", text)


def _stream_safe(text: str) -> str:
    """Break runs of more than 30 combining marks (Unicode's stream-safe format).

    No language has such runs, and to put the marks of one in order takes the square of its length.
    """
    if text.isascii():
        return text
    parts, run = [], 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _MAX_MARKS:
            parts.append("\u034f")
            run = 1
        parts.append(character)
    return "".join(parts)


def normalise(text: str) -> list[str]:
    """Return the words of a text, case, punctuation, thousands separators and articles left out.

    A text of articles only keeps them, so that it does not become empty.
    """
    words = _words(text)
    return [word for word in words if word not in ARTICLES] or words


def covers(answer: str, gold: str) -> bool:
    """Tell whether `gold` stands in `answer` as whole words, in order and unbroken. An empty side never matches."""
    inner = normalise(gold)
    outer = normalise(answer) if any(word not in ARTICLES for word in inner) else _words(answer)
    if not inner:
        return False
    # No word holds a blank, so that one search in C finds whole words only.
    return f" {' '.join(inner)} " in f" {' '.join(outer)} "


def numbers(text: str) -> list[tuple[float, bool]]:
    """Return the numbers in a text as (value, is written with decimals), scale words applied; "G20" holds none."""
    found = []
    for match in _NUMBER.finditer(text):
        digits = _SEPARATOR.sub("", match["digits"])
        scale = _SCALES.get((match["scale"] or "").lower(), 1.0)
        value = float(digits + (match["exponent"] or "")) * scale
        negative = match["sign"] in ("-", "−", "–")
        found.append((-value if negative else value, "." in digits or match["exponent"] is not None or scale > 1))
    return found


def _equal(value: float, gold: float, decimal: bool) -> bool:
    if not (math.isfinite(value) and math.isfinite(gold)):
        return False
    if not decimal:
        return value == gold
    return abs(value - gold) <= RELATIVE_TOLERANCE * abs(gold) + 1e-9


def _multiple_choice(response: str, answers: Sequence[str], **_: Any) -> float:
    answer = final_answer(response)
    if answer is None:
        return 0.0
    letter = choice_letter(answer)
    return float(letter is not None and letter in {choice_letter(gold) for gold in answers})


def choice_letter(text: str) -> str | None:
    """Return the one option letter that a text names: "B", "(b)", "B) Paris", "option B"; None for several or none."""
    text = unwrap(text)
    if re.fullmatch(r"[A-Ja-j]", text):
        return text.upper()
    match = re.match(r"\W*+(?:(?i:option|choice|answer)\W*+)?([A-Ja-j])(?=[).:\]*}]|\s*[-–]\s|\s*$)", text)
    if match is None:
        return None
    rest = text[match.end() :]
    # "(A) or (B)" names two; an option's own text may hold letters, so only marked ones count.
    if re.search(r"\([A-J]\)|\b(?:or|and|/)\s*\(?[A-J]\b(?![\w'’])", rest):
        return None
    return match.group(1).upper()


def _corpus_numerical(response: str, answers: Sequence[str], **_: Any) -> float:
    answer = final_answer(response)
    if answer is None:
        return 0.0
    return float(any(_number_matches(answer, gold) for gold in answers))


def _number_matches(answer: str, gold: str) -> bool:
    target = numbers(gold)
    if len(target) != 1 or not _WHOLE_NUMBER.fullmatch(gold):
        return covers(answer, gold)  # the answer is a name
    value, decimal = target[0]
    years = {float(year) for year in _CONTEXT_YEAR.findall(answer)}
    given = {number for number, _ in numbers(answer)}
    # A year that only says when is no second answer; any other second number is hedging.
    given = {number for number in given if number == value or number not in years}
    return len(given) == 1 and _equal(given.pop(), value, decimal)


def _cover(response: str, answers: Sequence[str], **_: Any) -> float:
    answer = final_answer(response)
    return float(answer is not None and any(covers(answer, gold) for gold in answers))


def _dialogue_memory(response: str, answers: Sequence[str], *, answer_prefix: str = "", **_: Any) -> float:
    text = after_thinking(response)
    if not text:
        return 0.0
    # As in MRCR the response itself starts with the prefix; ours may stand after the answer sentence.
    tail = marked(text)
    candidates = [text, *([tail, unwrap(tail)] if tail else [])]
    started = next((c for c in candidates if c.startswith(answer_prefix)), None)
    if started is None:
        return 0.0
    if not answer_prefix and tail:
        started = tail
    given = started.removeprefix(answer_prefix).strip()
    return max(
        (ratio(given, gold.removeprefix(answer_prefix).strip()) for gold in answers),
        default=0.0,
    )


_RULES: dict[str, Callable[..., float]] = {
    "multiple_choice": _multiple_choice,
    "corpus_numerical": _corpus_numerical,
    "doc_multi_hop": _cover,
    "reading_comprehension": _cover,
    "dialogue_memory": _dialogue_memory,
}


def score(task: str, response: str, answers: Sequence[str], **fields: Any) -> float:
    """Return the reward of `response` in [0, 1] by the rule of its task.

    Fields: `answer_prefix` for dialogue_memory. Others are ignored, so that a whole sample may be passed.
    Raises ValueError for an unknown task, TypeError when `answers` is one string.
    """
    if task not in _RULES:
        raise ValueError(f"no reward rule for task {task!r}; the tasks are {', '.join(TASKS)}")
    if isinstance(answers, str):
        raise TypeError("answers is a string; give a sequence of strings")
    return _RULES[task](response, answers, **fields)
