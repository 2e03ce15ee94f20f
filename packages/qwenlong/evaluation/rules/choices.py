"""The option letter that a response names, by the official rule of each multiple-choice benchmark.

All take the text after the thinking, never raise, and are linear in it.
"""

from __future__ import annotations

import re

from qwenlong.rewards.extract import final_answer
from qwenlong.rewards.rules import choice_letter

LETTERS = "ABCDEFGHIJ"

_LONGBENCH = (
    re.compile(r"The correct answer is \(([A-D])\)"),
    re.compile(r"The correct answer is ([A-D])"),
)
_GPQA = re.compile(r"(?i)Answer[ \t]*:[ \t]*\$?([A-D])\$?")
_MMLU_IS = re.compile(r"answer is \(?([A-J])")
# Looks ahead, so that "answer: Answer: B" is met twice, as the official pattern's backtracking meets it.
_MMLU_COLON = re.compile(r"[aA]nswer:(?=\s*+([A-J]))")
_MMLU_LAST = re.compile(r".*\b([A-J])\b", re.DOTALL)


def longbench_v2(text: str) -> str | None:
    """Return the letter of LongBench-V2's rule (A-D); None where it finds none.

    Stars dropped, the first "The correct answer is (X)", else the first without parentheses; case matters.
    """
    text = text.replace("*", "")
    return next((match[1] for pattern in _LONGBENCH if (match := pattern.search(text))), None)


def gpqa(text: str) -> str | None:
    """Return the letter (A-D) after the first "Answer:", as it is written: "answer: b" gives "b"; None without one.

    The rule of openai/simple-evals, where a lower-case letter is a wrong answer.
    """
    match = _GPQA.search(text)
    return match[1] if match else None


def mmlu_pro(text: str) -> str | None:
    """Return the letter (A-J) of MMLU-Pro's three rules in turn; None where none finds one.

    The first "answer is (X)"; of the first line with "answer: X" the last such; the last letter that stands alone (the
    article "A" and the pronoun "I" are such letters too). The official patterns of the second and third rule take the
    square of the text's length, and these give the same letter.
    """
    match = _MMLU_IS.search(text)
    if match:
        return match[1]
    first = _MMLU_COLON.search(text)
    if first:
        end = text.find("\n", first.start())
        # The line holds the word; blanks and letter after it may stand on later lines.
        found = first
        for later in _MMLU_COLON.finditer(text, first.end()):
            if 0 <= end < later.start():
                break
            found = later
        return found[1]
    match = _MMLU_LAST.match(text)
    return match[1] if match else None


def named(text: str, options: int) -> str | None:
    r"""Return the letter that the final answer names in any usual form, such as \boxed{B} or "option b"; None for none.

    `options` is how many letters there are, from A.
    """
    answer = final_answer(text)
    letter = None if answer is None else choice_letter(answer)
    return letter if letter is not None and letter in LETTERS[:options] else None
