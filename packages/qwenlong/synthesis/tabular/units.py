"""Unit and scale as a table states them: in a head's brackets or tail, or in the line above or below the table."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LIST = (
    "usd eur gbp jpy chf inr cad aud us dollar dollars euro euros pound pounds rupees cents cent yen "
    "thousand thousands million millions billion billions trillion trillions crore lakh mn bn tn m k b "
    "% percent percentage pct per of in "
    "kg g mg lb lbs t ton tons tonne tonnes oz ounces km m cm mm mi mile miles ft feet foot inch inches yards "
    "s sec second seconds ms min mins minute minutes h hr hrs hour hours day days week weeks month months year years "
    "yr yrs l ml liter liters litre litres gallon gallons barrels mpg mph kmh km/h m/s kw kwh mw mwh gwh twh hp w v "
    "c f °c °f k celsius fahrenheit degrees deg people persons capita inhabitants ha hectares acres acre sq "
    "km2 km² m2 m² bu bushels ppm ppb db hz mb gb kb mmhg mg/dl kg/ha 100 1000 1,000 100,000 000 000s 000's"
)
_WORDS = frozenset(_LIST.split())
_BRACKETS = re.compile(r"(?P<name>.*\S)\s*[(\[](?P<unit>[^()\[\]]{1,40})[)\]]")
_TAIL = re.compile(r"(?P<name>.*\S),\s+(?:in\s+)?(?P<unit>[^,]{1,40})")
_SCALE = r"(?:thousands|millions|billions|crores?|lakhs?)"
_MONEY = r"(?:(?:US|U\.S\.) )?(?:dollars|euros|pounds|rupees|yen|USD|EUR|GBP|JPY|CHF|INR|\$|€|£)"
_CAPTION = re.compile(
    rf"\bin (?P<unit>{_MONEY} {_SCALE}|{_SCALE} of {_MONEY}|{_SCALE}|{_MONEY}|%|percent)(?!\w)", re.IGNORECASE
)


def is_unit(text: str) -> bool:
    """Tell whether all words of a text are units, scales, or what joins them."""
    words = re.findall(r"[^\s/]+", text.casefold().replace("$", " usd ").replace("€", " eur ").replace("£", " gbp "))
    words = [word.strip(".'`’") for word in words]
    return bool(words) and all(word in _WORDS for word in words) and not {"in", "of", "per"} >= set(words)


def of_head(head: str) -> str:
    """Return the unit that a column's head states, "" for none: "Revenue (USD millions)", "Weight, kg", "% of GDP"."""
    for form in (_BRACKETS, _TAIL):
        match = form.fullmatch(head)
        if match and is_unit(match["unit"]):
            return " ".join(match["unit"].removeprefix("in ").split())
    lower = head.casefold()
    if "%" in head or re.search(r"\b(?:percent|pct)\b", lower):
        return "%"
    return ""


def of_caption(around: Sequence[str]) -> str | None:
    """Return the unit that the lines beside a table state for all of it, "" for none.

    None when they do not agree or make exceptions: then no column without a unit of its own has a sure one.
    """
    found = []
    for line in around:
        for match in _CAPTION.finditer(line):
            if re.search(r"\b(?:except|unless|other than)\b", line, re.IGNORECASE):
                return None
            found.append(" ".join(match["unit"].split()))
    different = {unit.casefold() for unit in found}
    return None if len(different) > 1 else found[0] if found else ""
