"""Which part of a long chat is the document, and which the question: the server's rule.

1. The request's field `qwenlong: {"document", "question"}` says it; without its question the last user message asks.
2. A last user message that is short, with long ones before it, is the question; what was said before it, in its order,
   is the document.
3. A last user message that is long holds both. In this order:
   a. Text between <document> tags (or <documents>, <context>, <text>, <article>, <book>), triple quotes or code fences,
      if it is more than half of the message and little stands around it, is the document; what stands around it asks.
   b. From the last line that begins with "Question:" on (Query, Problem, Task, Request, Instructions; 问题; lines of
      several of these words belong together), or a first paragraph that begins so.
   c. A short first paragraph that ends with a colon, with the last one if that is short and has a question mark. Else a
      short first paragraph with a question mark, with the last one if that is short. Else the last paragraph if it is
      short, else the first. With a single paragraph, lines stand for paragraphs.
Short system messages are put before the question; they say how to answer. Short means at most `limit` tokens. Nothing
is dropped but tags, quotes and fences: what is not the question is the document, to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from qwenlong.core.errors import UsageError

Count = Callable[[str], int]
#: Share of the window that a question may take.
QUESTION_SHARE = 8
#: Characters per token above which a text is long without being counted.
_SURELY_LONG = 64
_OPENING = re.compile(r"<(document|documents|context|text|article|book)(?:\s[^<>]*)?>", re.IGNORECASE)
_FENCE = re.compile(r"^(`{3,8}|\"{3}|'{3})", re.MULTILINE)
_WORDS = "question|query|problem|task|request|instructions?|问题|問題"
_MARKER = re.compile(rf"^[#*_ \t]*({_WORDS})[*_ \t]*[:：]", re.IGNORECASE | re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_LINE = re.compile(r"\n\s*")
_MARKS = ("?", "？", "؟")
_COLONS = (":", "：")
_REMEDY = (
    'put the question into a message of its own after the document, or send "qwenlong": {"document": …, "question": …}'
)


@dataclass(frozen=True)
class Asked:
    """A long chat taken apart. `rule` names what decided: field, messages, block, marker, paragraphs."""

    document: str
    question: str
    rule: str


def find(
    messages: Sequence[dict[str, str]],
    count: Count,
    limit: int,
    *,
    document: str | None = None,
    question: str | None = None,
) -> Asked:
    """Return document and question of a chat of roles and texts.

    `document` and `question` are those of the request's own field, `count` counts tokens, `limit` is the most that a
    question may have. Raises UsageError where no question can be found, with the way to name it.
    """

    def short(text: str) -> bool:
        return len(text) <= _SURELY_LONG * limit and count(text) <= limit

    system = [m["content"] for m in messages if m["role"] == "system" and short(m["content"])]
    rules = "\n".join(text for text in system if text.strip())
    # Instructions that leave no room for a question are read, not repeated in every turn.
    rules = rules if short(rules) else ""
    said = [m for m in messages if not (rules and m["role"] == "system" and short(m["content"])) and m["content"]]
    last = next((n for n in reversed(range(len(said))) if said[n]["role"] == "user"), None)
    own = said[last]["content"] if last is not None else ""
    if document is not None:
        return _checked(document, question or own, rules, "field", short)
    if last is None or not own.strip():
        raise UsageError(f"the chat is longer than the window and has no question of the user; {_REMEDY}")
    # What follows the last question (a prefilled answer, a tool's result) was read on its way.
    others = [m for n, m in enumerate(said) if n != last]
    before = _conversation(others)
    if short(own):
        if not before:
            raise UsageError(f"the window leaves no room for this chat, and no part of it is a document; {_REMEDY}")
        return _checked(before, own, rules, "messages", short)
    inside, asked, rule = _within(own, short)
    return _checked(f"{before}\n\n{inside}" if before else inside, asked, rules, rule, short)


def _conversation(messages: Sequence[dict[str, str]]) -> str:
    """Return messages as one text; with several of them, roles stand before the assistant's."""
    return "\n\n".join(
        f"{m['role'].capitalize()}: {m['content']}" if m["role"] != "user" and len(messages) > 1 else m["content"]
        for m in messages
    )


def _checked(document: str, question: str, rules: str, rule: str, short: Callable[[str], bool]) -> Asked:
    if not question.strip():
        raise UsageError(f"a document came without a question; {_REMEDY}")
    if not document.strip():
        raise UsageError(f"the document is empty; {_REMEDY}")
    if not short(question):
        raise UsageError(f"the question alone is longer than an eighth of the window; {_REMEDY}")
    whole = f"{rules}\n\n{question.strip()}" if rules else question.strip()
    return Asked(document, whole if short(whole) else question.strip(), rule)


def _within(text: str, short: Callable[[str], bool]) -> tuple[str, str, str]:
    """Return document, question and rule of a message that holds both."""
    for start, begin, end, stop in _blocks(text):
        if 2 * (end - begin) > len(text):
            around = (text[:start], text[stop:])
            # Two slices before any strip: both can be as long as the message.
            if all(short(part) for part in around):
                asked = "\n\n".join(part.strip() for part in around if part.strip())
                if asked:
                    return text[begin:end], asked, "block"
    text = text.strip()
    place = _marked(text, short)
    if place:
        return text[:place], text[place:], "marker"
    first, last = _ends(text)
    if not first:
        raise UsageError(f"no question can be told from the document in a message of one piece; {_REMEDY}")
    head, tail = (piece if short(piece) else "" for piece in (first, last))
    rule = "paragraphs"
    if head and _MARKER.match(head):
        tail, rule = "", "marker"
    elif head.rstrip().endswith(_COLONS):
        tail = tail if any(mark in tail for mark in _MARKS) else ""
    elif tail and not any(mark in head for mark in _MARKS):
        head = ""
    if not head and not tail:
        raise UsageError(f"the message neither begins nor ends with a short paragraph that asks; {_REMEDY}")
    asked = "\n\n".join(piece.strip() for piece in (head, tail) if piece)
    return text[len(head) : len(text) - len(tail)], asked, rule


def _blocks(text: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield spans of blocks, each in linear time: where it starts, its inside begins and ends, and it stops."""
    seen = set()
    for opening in _OPENING.finditer(text):
        tag = opening[1].lower()
        if tag in seen:
            continue
        seen.add(tag)
        closing = _last(re.compile(rf"</{tag}\s*>", re.IGNORECASE), text, opening.end())
        if closing is not None:
            yield opening.start(), opening.end(), closing.start(), closing.end()
    for fence in _FENCE.finditer(text):
        if fence[1][:3] not in seen:
            seen.add(fence[1][:3])
            line = text.find("\n", fence.end())
            closing = _last(re.compile(rf"{fence[1]}[ \t]*$", re.MULTILINE), text, line) if line >= 0 else None
            if closing is not None:
                # The name of a language may follow backquotes; after quotes the text goes on at once.
                begin = line + 1 if fence[1].startswith("`") else fence.end()
                yield fence.start(), begin, closing.start(), closing.end()


def _last(pattern: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text, start):
        found = match
    return found


def _marked(text: str, short: Callable[[str], bool]) -> int:
    """Return where the last lines that name a question begin, 0 where none do or the rest is long."""
    place, words = 0, set()
    for match in reversed(list(_MARKER.finditer(text))):
        word = match[1].lower()
        # The same word again is another question, one of the document's own.
        if word in words or not match.start() or not short(text[match.start() :]):
            break
        words.add(word)
        place = match.start()
    return place


def _ends(text: str) -> tuple[str, str]:
    """Return the first and the last paragraph with the blank beside them, or lines; empty where there is one piece."""
    for border in (_PARAGRAPH, _LINE):
        first = border.search(text)
        last = _last(border, text, 0)
        if first is not None and last is not None:
            return text[: first.end()], text[last.end() :]
    return "", ""
