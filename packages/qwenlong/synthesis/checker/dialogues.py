"""Messages of conversations, found anew from the question's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from qwenlong.core.records import Sample
from qwenlong.synthesis.checker.texts import ORDINALS, messages
from qwenlong.synthesis.checker.view import View

_FROM_THE_END = {"last": -1, "second-to-last": -2, "third-to-last": -3}
#: (speaker, message) of a conversation.
Said = list[tuple[str, str]]


@dataclass(frozen=True)
class Form:
    """Words of a question, the messages that it describes (its needles), and which of them it asks for."""

    pattern: str
    needles: Callable[[re.Match[str], Said], list[str]]
    chosen: Callable[[re.Match[str], list[str]], list[str]]


def _of_speaker(match: re.Match[str], said: Said) -> list[str]:
    return [text for name, text in said if name == match["name"]]


def _all(_: re.Match[str], said: Said) -> list[str]:
    return [text for _, text in said]


def _holding(match: re.Match[str], said: Said) -> list[str]:
    return [text for _, text in said if match["word"] in re.split(r"\W+", text.lower())]


def _counted(match: re.Match[str], needles: list[str]) -> list[str]:
    place = int(match["place"]) if match["place"].isdecimal() else ORDINALS.get(match["place"], 0)
    return needles[place - 1 : place] if place > 0 else []


def _from_the_end(match: re.Match[str], needles: list[str]) -> list[str]:
    place = _FROM_THE_END.get(match["place"], 0)
    return [needles[place]] if place and len(needles) >= -place else []


def _beside(match: re.Match[str], needles: list[str]) -> list[str]:
    step = 1 if match["side"] == "after" else -1
    places = [n + step for n, text in enumerate(needles) if text == match["quoted"]]
    return [needles[n] for n in places if 0 <= n < len(needles)]


#: Forms by template name without version.
FORMS = {
    "nth_message": Form(
        r'Reproduce the (?P<place>[a-z]+) message of (?P<name>.+?) in "(?P<title>.+)"\.', _of_speaker, _counted
    ),
    "last_message": Form(
        r'Reproduce the (?P<place>[a-z-]+) message of (?P<name>.+?) in "(?P<title>.+)"\.', _of_speaker, _from_the_end
    ),
    "neighbour_message": Form(
        r'Reproduce the message that comes right (?P<side>after|before) "(?P<quoted>.+)" in "(?P<title>[^"]+)"\.',
        _all,
        _beside,
    ),
    "mentioning_message": Form(
        r'Reproduce the (?P<place>[a-z]+) message in "(?P<title>.+)" that mentions the word "(?P<word>\w+)"\.',
        _holding,
        _counted,
    ),
    "numbered_message": Form(r'Reproduce the message number (?P<place>\d+) in "(?P<title>.+)"\.', _all, _counted),
}


def _asked(sample: Sample, shown: View) -> tuple[Form, re.Match[str], list[Said]] | None:
    """Return the question's form and the conversations of its title."""
    form = FORMS[sample.template.partition("@")[0]]
    match = re.fullmatch(form.pattern, sample.question)
    if match is None:
        return None
    return form, match, [messages(d) for d in shown.documents if d.title == match["title"]]


def message(sample: Sample, shown: View) -> set[str]:
    """The message that a question describes, after the prefix that the instruction asks for.

    Two conversations of one title make two answers, or none when both give the same.
    """
    asked = _asked(sample, shown)
    if asked is None or not sample.answer_prefix or f" {sample.answer_prefix} (" not in sample.instruction:
        return set()
    form, match, conversations = asked
    texts = {text for said in conversations for text in form.chosen(match, form.needles(match, said))}
    return {f"{sample.answer_prefix} {text}" for text in texts} if len(conversations) == 1 or len(texts) > 1 else set()


def needles(sample: Sample, shown: View) -> int:
    """Count the messages that the question describes: the one that it asks for and those beside which it stands."""
    asked = _asked(sample, shown)
    return sum(len(asked[0].needles(asked[1], said)) for said in asked[2]) if asked else 0
