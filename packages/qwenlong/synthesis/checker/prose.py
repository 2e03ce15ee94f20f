"""Answers of the questions about prose, found anew: every text that fills the gap, every sentence that follows."""

from __future__ import annotations

import re

from qwenlong.core.records import Sample
from qwenlong.synthesis.checker.view import View

#: Longest filling of a gap that is looked at, in characters.
_LONGEST = 80


def gap(sample: Sample, shown: View) -> set[str]:
    """Texts that stand between the words on both sides of the gap, in any document."""
    match = re.fullmatch(r'Which (?:number|name) fills the gap: "(.+)"\?', sample.question, re.DOTALL)
    if match is None or match[1].count("____") != 1:
        return set()
    before, after = (part.strip() for part in match[1].split("____"))
    pattern = re.compile(rf"{re.escape(before)} (\S.{{0,{_LONGEST}}}?)\s?{re.escape(after)}")
    return {found[1] for d in shown.documents for found in pattern.finditer(" ".join(d.text.split()))}


def next_sentence(sample: Sample, shown: View) -> set[str]:
    """Sentences right after the quoted one: what follows it up to the next end of a sentence."""
    match = re.fullmatch(r'Which sentence comes right after "(.+)"\?', sample.question, re.DOTALL)
    found = set()
    for document in shown.documents if match else ():
        for paragraph in re.split(r"\n\s*\n", document.text):
            text = " ".join(paragraph.split())
            for place in re.finditer(re.escape(match[1]), text) if match else ():
                following = re.match(r"\s+([^.!?]+[.!?][\"')\]]?)(?=\s|\Z)", text[place.end() :])
                if following:
                    found.add(following[1])
    return found
