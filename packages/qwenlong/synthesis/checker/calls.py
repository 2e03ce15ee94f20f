"""Failures along calls, found anew in the source files shown: every function of the file that the question allows."""

from __future__ import annotations

import re
from collections import defaultdict

from qwenlong.core.records import Document, Sample
from qwenlong.synthesis.checker.texts import definitions
from qwenlong.synthesis.checker.view import View

_FORMS = (
    r"If (?P<cause>\w+) always raised an error when called, which function defined in (?P<path>.+) could fail "
    r"(?:because of it|through (?P<through>\w+))\?",
    r"Suppose (?P<caller>\w+) no longer called (?P<called>\w+)\. If (?P<cause>\w+) then always raised an error when "
    r"called, which function defined in (?P<path>.+) could still fail because of it\?",
    r"(?P<failing>\w+) fails because a function that it calls, directly or through others, raises an error\. Which "
    r"function defined in (?P<path>.+) can be the cause\?",
)
_QUOTES = '"""'


def _continued(document: Document) -> tuple[str, str]:
    """Return (function, code) that goes on from the section before, as the title says; ("", "") for none."""
    named = re.search(r" – (\w+) \(\d+\)$", document.title)
    if named is None:
        return "", ""
    lines: list[str] = []
    for line in document.text.split("\n"):
        if lines and line[:1] not in ("", " ", ")"):
            break
        lines.append(line)
    code = "\n".join(line for line in lines if not line.lstrip().startswith((">>>", "...")))
    if code.count(_QUOTES) % 2:
        code = code.partition(_QUOTES)[2]
    return named[1], code


def _called(code: str) -> set[str]:
    plain = re.sub(rf"{_QUOTES}.*?(?:{_QUOTES}|\Z)", "", code, flags=re.DOTALL)
    return set(re.findall(r"(?<![\w.])(?:nx\.)?(\w+)\(", plain))


def _reach(start: str, steps: dict[str, set[str]]) -> set[str]:
    """Return the start and everything that steps lead to from it."""
    found, new = {start}, {start}
    while new:
        new = {after for name in new for after in steps.get(name, ())} - found
        found |= new
    return found


def causal(sample: Sample, shown: View) -> set[str]:
    """Functions of the file that can fail with the cause, or can be the cause."""
    match = next((m for form in _FORMS if (m := re.fullmatch(form, sample.question))), None)
    if match is None:
        return set()
    asked = match.groupdict()
    gone = (asked.get("caller"), asked.get("called"))
    there = gone[0] is None
    inside: set[str] = set()
    callers: dict[str, set[str]] = defaultdict(set)
    called: dict[str, set[str]] = defaultdict(set)
    for document in (d for d in shown.documents if d.metadata.get("kind") == "code"):
        here = definitions(document)
        if str(document.metadata.get("path", document.title)) == asked["path"]:
            inside |= {name for name, _ in here}
        for name, code in [*here, _continued(document)]:
            for other in _called(code) - {name}:
                # What is supposed to be gone must be there.
                there = there or (name, other) == gone
                if name and (name, other) != gone:
                    called[name].add(other)
                    callers[other].add(name)
    if not there:
        return set()
    if asked.get("failing"):
        return inside & _reach(asked["failing"], called)
    through = asked.get("through")
    if through:
        return inside & (_reach(through, callers) - {through}) if through in _reach(asked["cause"], callers) else set()
    return inside & _reach(asked["cause"], callers)
