"""Documents that were made to harm, or are no text: refused with a message, or made harmless.

Text is data. A document may tell a model what to do, and stays as it is: prompts quote it under a heading, and rewards
are computed from answers. What it must not do is to leave its place in the prompt, so the tokens and tags by which chat
templates and our own prompts mark their parts are written in a way that no tokenizer or parser takes for them.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from qwenlong.core.config import LimitsConfig
from qwenlong.core.reading import Refused
from qwenlong.core.records import Document

log = logging.getLogger(__name__)
#: Tags that chat templates, reasoning models and the prompts of this project (core/prompts) give a meaning.
TAGS = (
    ("answer", "assistant", "format", "memory", "plan", "question", "system", "think", "thinking", "tool_call")
    + ("tool_response", "tools", "user")
    # Gemma, Llama 2, T5 and older tokenizers.
    + ("bos", "end_of_turn", "eos", "pad", "s", "start_of_turn", "unk")
)
# It begins with one of two characters and asks for case late: searching is several times faster so.
_TOKEN = re.compile(
    r"[<\[](?:(?<=<)(?:"
    # <|im_start|>, and the same with the wide bars of DeepSeek
    r"[|｜](?=[^\s<>|｜][^<>|｜\n]{0,63}[|｜]>)"
    rf"|(?=/?(?i:{'|'.join(TAGS)})(?:\s[^<>\n]{{0,64}})?/?>)"
    r"|<(?=/?SYS>>))"
    r"|(?<=\[)(?=/?INST\]))"
)
#: Characters that no reader sees but a tokenizer does, or that turn the order in which text is shown.
_INVISIBLE = re.compile("[\U000e0000-\U000e007f\u202a-\u202e\u2066-\u2069]")
#: Control characters without tab and line feed, the replacement character, halves of surrogate pairs.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\ud800-\udfff]")
#: Longest title, in characters.
MAX_TITLE = 300


@dataclass
class Losses:
    """What of a source was dropped, by reason, what was made harmless, and the messages that say so."""

    source: str
    dropped: Counter[str] = field(default_factory=Counter)
    neutralised: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    #: Messages that are kept; the counts are complete.
    MAX_MESSAGES = 20

    def drop(self, reason: str, message: str, *, what: str = "the document is dropped") -> None:
        """Count a drop and tell it, with the source's name, printable and on one line.

        The first MAX_MESSAGES are kept and logged as warnings; a million bad records must not fill a disk.
        """
        self.dropped[reason] += 1
        said = printable(f"source {self.source}, {message}; {what}")
        if len(self.messages) < self.MAX_MESSAGES:
            self.messages.append(said)
            log.warning("%s", said)
        else:
            log.debug("%s", said)


def printable(text: str) -> str:
    """Return text for a message: control characters, invisible ones and lone surrogates as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def neutralise(text: str) -> tuple[str, bool, bool]:
    """Return (text, whether control tokens were in it, whether invisible characters were).

    A token gets a blank after its bracket (`<| im_start|>`, `< think>`); invisible characters are removed, first, since
    they may stand inside a token. Doing it twice changes nothing more.
    """
    plain = text if text.isascii() else _INVISIBLE.sub("", text)
    clean = _TOKEN.sub(lambda match: match[0] + " ", plain)
    return clean, clean != plain, plain != text


def plain_title(text: str) -> str:
    """Return a title of one line, without control characters and tokens, of at most MAX_TITLE characters."""
    shown = " ".join(CONTROL.sub(" ", text).split())
    return neutralise(unicodedata.normalize("NFC", shown[:MAX_TITLE]))[0]


def examine(document: Document, limits: LimitsConfig, losses: Losses) -> Document:
    """Return the document made harmless, counted in `losses`. Raises Refused for what cannot be made so.

    Reasons: `too_big`, `long_line`, `control_characters`, and `control_tokens` when limits.control_tokens is "drop".
    """
    text = document.text
    if len(text) > limits.max_document_characters:
        raise Refused(
            "too_big",
            f"has {len(text)} characters, above corpus.limits.max_document_characters = "
            f"{limits.max_document_characters}; split it, or raise the bound",
        )
    if len(text) > limits.max_line_characters:
        longest, start = _longest_line(text)
        if longest > limits.max_line_characters:
            number = text.count("\n", 0, start) + 1
            raise Refused(
                "long_line",
                f"line {number} has {longest} characters, above corpus.limits.max_line_characters = "
                f"{limits.max_line_characters}; break the line, or raise the bound",
            )
    if control := CONTROL.search(text):
        raise Refused(
            "control_characters",
            f"holds the character U+{ord(control[0]):04X} at {control.start()}, which is no text; remove it, or "
            "convert the file to UTF-8 text",
        )
    if limits.control_tokens == "keep":
        return document
    clean, tokens, invisible = neutralise(text)
    if tokens and limits.control_tokens == "drop":
        plain = _INVISIBLE.sub("", text)
        found = _TOKEN.search(plain)
        shown = plain[found.start() : found.start() + 40] if found else ""
        raise Refused(
            "control_tokens",
            f"holds a control token at {shown!r}; set corpus.limits.control_tokens to neutralise to keep it",
        )
    title = neutralise(document.title)[0]
    if not (tokens or invisible) and title == document.title:
        return document
    losses.neutralised.update(
        name
        for name, there in (
            ("control_tokens", tokens or title != document.title),
            ("invisible_characters", invisible),
        )
        if there
    )
    return document.model_copy(update={"text": clean, "title": title})


def _longest_line(text: str) -> tuple[int, int]:
    """Return (length, start) of the longest line, without a list of all lines."""
    best, at, start = 0, 0, 0
    while start <= len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if end - start > best:
            best, at = end - start, start
        start = end + 1
    return best, at
