"""DocMath-Eval's rule: which number a text says, and whether it is near enough to the reference.

The authors let a language model cut the number out of the response (at most 16 tokens), take units and money words off
by a fixed list, hand the rest to eval() and compare. Here the final answer of the response takes the place of the
model's cut, and `arithmetic` that of eval(). What differs, case by case:

- Text that says no number counts 0. The authors take it for the number 0, which is right where the reference is 0.
- Where the answer as a whole says no number, but is a sentence with exactly one (years beside it left out), that one
  counts: the authors' model would have cut it out.
- What is infinite or not a number counts 0. The authors' max() and min() pass over NaN, so that to them it equals every
  reference.
- Comparisons, `and`/`or`, names and calls other than those of `arithmetic` say no number, nor does an answer of more
  than `MAX_CHARACTERS`.
- The reference is a number or a boolean (which is 1 or 0, as the authors' float() makes it). A list, which the
  published schema does not have, ends the authors' run; here it is refused when the file is read.
"""

from __future__ import annotations

import math
import re

from qwenlong.evaluation.rules.arithmetic import NoNumber, evaluate
from qwenlong.rewards.rules import numbers

#: Half the width of the band around the reference, relative to it.
TOLERANCE = 0.0015
#: A longer answer is none: the authors' model cuts out 16 tokens.
MAX_CHARACTERS = 400
#: What is taken off in this order, so that "USD" leaves a "D" behind, which is then dropped as a unit.
_MONEY = ("£", "€", "¥", "million", "billion", "thousand", "US", "USD", "RMB")
_SIGNS = "`%$°"
_NUMBER = r"[-+]?(?:[\d,]*\.*\d+)"
#: A number with a word behind or before it, or with one or two signs.
_UNITS = (
    re.compile(rf"({_NUMBER}) [^0-9 ]+$"),
    re.compile(rf"[^0-9 ]+ ({_NUMBER})$"),
    re.compile(rf"({_NUMBER})[^\d]{{1,2}}$"),
    re.compile(r"[^-+\d]{1,2}((?:[\d,]*\.*\d+))$"),
)
_POWER_OF_TEN = re.compile(r"10\^(-?\d+)")
_GROUPED = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})*|\d+)(?:\.\d+)?$")
_OPTION = re.compile(r"\([a-d]\)")
_BOOLEANS = {"true": "True", "yes": "True", "false": "False", "no": "False"}
#: Slips of scale that count: per cent, thousands, and both; each where the smaller number is below so many parts.
_SLIPS = ((100, 50), (1000, 500), (100_000, 50_000))
_YEARS = range(1900, 2100)


def expression(text: str) -> str:
    """Return what the authors' normalisation makes of an answer: an expression, "" where nothing is left."""
    text = text.strip().rstrip(".")
    for word in _MONEY:
        text = text.replace(word, "")
    for sign in "=≈":
        if sign in text:
            text = text.rpartition(sign)[2].strip()
    for sign in _SIGNS:
        text = text.replace(sign, "")
    text = _BOOLEANS.get(text, text)
    if "True" in text or "False" in text:
        text = "True" if "True" in text else "False"
    if "approximately" in text:
        text = text.replace("approximately", "").strip()
    text = text.partition(" or ")[0]
    for unit in _UNITS:
        if match := unit.match(text):
            text = match[1]
    text = _POWER_OF_TEN.sub(r"math.pow(10, \1)", text).replace(" x ", "*").replace(" × ", "*")
    if _GROUPED.match(text):
        text = text.replace(",", "")
    option = _OPTION.search(text)
    return f'"{option[0]}"' if option else text


def stated(answer: str) -> float | int | None:
    """Return the number that an answer says, None where it says none or several."""
    answer = answer.strip()
    if len(answer) > MAX_CHARACTERS or "none" in answer.lower():
        return None
    try:
        value = evaluate(expression(answer))
    except NoNumber:
        return _only_number(answer)
    if isinstance(value, complex):
        value = value.real
    # A list or an option is an answer, but no number.
    return value if isinstance(value, int | float) else None


def _only_number(answer: str) -> float | None:
    if not any(character.isalpha() for character in answer):
        return None  # no sentence: "5.3 ± 0.1", "007"
    for word in _MONEY:
        answer = answer.replace(word, "")
    found = {value for value, _ in numbers(answer)}
    if len(found) > 1:
        found = {value for value in found if value not in _YEARS}
    return found.pop() if len(found) == 1 else None


def correct(given: float | int, gold: float) -> bool:
    """Tell whether a number counts as the reference: the authors' rule, their slips of scale included.

    Right are, whatever the signs: any whole power of ten times the reference; 100, 1,000 or 100,000 times it, or that
    part of it, within 0.15%; the same when rounded up to three decimals. And with its sign: within 0.15%.
    """
    try:
        if not math.isfinite(given):
            return False
        large, small = max(abs(gold), abs(given)), min(abs(gold), abs(given))
        if small and math.log10(large / small).is_integer():
            return True
        slip = next((factor for factor, parts in _SLIPS if small <= large / parts and _near(small * factor, large)), 0)
        return bool(slip) or _up(large) == _up(small) or _near(given, gold)
    except (OverflowError, ValueError):
        return False  # beyond what a float holds


def _near(value: float, target: float) -> bool:
    width = abs(target) * TOLERANCE
    return target - width <= value <= target + width


def _up(value: float) -> float:
    return math.ceil(value * 1000) / 1000
