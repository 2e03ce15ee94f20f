"""Messages of conversations, found anew from the question's words."""

from __future__ import annotations

import re
from collections.abc import Callable

from qwenlong.core.records import Sample
from qwenlong.synthesis.checker.texts import ORDINALS, messages
from qwenlong.synthesis.checker.view import View

_FROM_THE_END = {"last": -1, "second-to-last": -2, "third-to-last": -3}
#: (speaker, message) of a conversation.
Said = list[tuple[str, str]]


def _answers(sample: Sample, shown: View, pattern: str, find: Callable[[re.Match[str], Said], list[str]]) -> set[str]:
    """Return what `find` gives in every conversation of the title, with the prefix that the instruction asks for."""
    match = re.fullmatch(pattern, sample.question)
    if match is None or not sample.answer_prefix or sample.answer_prefix not in sample.instruction:
        return set()
    conversations = [messages(d) for d in shown.documents if d.title == match["title"]]
    return {f"{sample.answer_prefix} {text}" for said in conversations for text in find(match, said)}


def _at(said: list[str], place: int) -> list[str]:
    return [said[place]] if -len(said) <= place < len(said) else []


def nth_message(sample: Sample, shown: View) -> set[str]:
    """The message at a place among a speaker's."""
    return _answers(
        sample,
        shown,
        r'Reproduce the (?P<place>\w+) message of (?P<name>.+?) in "(?P<title>.+)"\.',
        lambda m, said: _at([text for name, text in said if name == m["name"]], ORDINALS.get(m["place"], 10**9) - 1),
    )


def last_message(sample: Sample, shown: View) -> set[str]:
    """The message at a place from the end among a speaker's."""
    return _answers(
        sample,
        shown,
        r'Reproduce the (?P<place>[\w-]+) message of (?P<name>.+?) in "(?P<title>.+)"\.',
        lambda m, said: _at([text for name, text in said if name == m["name"]], _FROM_THE_END.get(m["place"], 10**9)),
    )


def neighbour_message(sample: Sample, shown: View) -> set[str]:
    """The messages beside any that reads as quoted."""
    pattern = r'Reproduce the message that comes right (?P<side>after|before) "(?P<quoted>.+)" in "(?P<title>[^"]+)"\.'

    def beside(match: re.Match[str], said: Said) -> list[str]:
        step = 1 if match["side"] == "after" else -1
        places = [n + step for n, (_, text) in enumerate(said) if text == match["quoted"]]
        return [said[n][1] for n in places if 0 <= n < len(said)]

    return _answers(sample, shown, pattern, beside)


def mentioning_message(sample: Sample, shown: View) -> set[str]:
    """The message at a place among those that hold a word."""
    pattern = r'Reproduce the (?P<place>\w+) message in "(?P<title>.+)" that mentions the word "(?P<word>\w+)"\.'

    def found(match: re.Match[str], said: Said) -> list[str]:
        holding = [text for _, text in said if match["word"] in re.split(r"\W+", text.lower())]
        return _at(holding, ORDINALS.get(match["place"], 10**9) - 1)

    return _answers(sample, shown, pattern, found)


def numbered_message(sample: Sample, shown: View) -> set[str]:
    """The message at a place among all."""
    return _answers(
        sample,
        shown,
        r'Reproduce the message number (?P<place>\d+) in "(?P<title>.+)"\.',
        lambda m, said: _at([text for _, text in said], int(m["place"]) - 1),
    )
