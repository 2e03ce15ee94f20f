"""JSON arrays of any length, item by item."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from qwenlong.core.reading import Refused, check_depth, load_json, no_constant, too_deep

#: Characters read at a time.
_BLOCK = 1 << 16
#: Characters that a number may lack and still look like one with something behind it.
_NUMBER = 8
_BLANK = re.compile(r"[ \t\n\r]*")


def json_items(read: Callable[[int], str], max_depth: int, max_item: int) -> Iterator[Any]:
    """Yield the items of a JSON array one by one; of any other JSON value, the value itself.

    `read` is that of a text file: up to so many characters, "" at the end. One item is held at a time.
    Raises Refused: what load_json raises, with the item's number, and `too_big` for an item, or a value that is no
    array, of more than `max_item` characters.
    """
    text = ""
    while not text and (block := read(_BLOCK)):
        text = block.lstrip(" \t\n\r")
    if text.startswith("["):
        yield from _items(read, text, max_depth, max_item)
        return
    text += read(max(0, max_item + 1 - len(text)))
    if len(text) > max_item:
        raise Refused("too_big", f"is one JSON value of more than {max_item} characters; write it as JSON lines")
    yield load_json(text, max_depth)


def _items(read: Callable[[int], str], text: str, max_depth: int, max_item: int) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_constant=no_constant)
    number, at, ended = 1, 1, False
    while True:
        at = _blank(text, at)
        if number == 1 and text[at : at + 1] == "]":
            break
        reason, follows = "it ends inside", ""
        try:
            value, end = decoder.raw_decode(text, at)
            end = _blank(text, end)
            # An item is over where something follows it: 12 may go on as 123.
            follows = text[end : end + 1]
        except RecursionError as error:
            raise Refused("too_deep", f"(item {number}) {too_deep(max_depth)}") from error
        except json.JSONDecodeError as error:
            # Wrong, or cut by the end of what was read so far.
            reason = error.msg
        except ValueError as error:
            raise Refused("unreadable", f"is not JSON that can be used (item {number}: {error}); mend it") from error
        if follows in (",", "]"):
            check_depth(value, max_depth)
            yield value
            at, number = end + 1, number + 1
            if follows == "]":
                break
            continue
        # "1" and "." may be the beginning of a number whose rest was not read yet.
        if ended or (follows and len(text) - end > _NUMBER):
            reason = f"{follows!r} behind it" if follows else reason
            raise Refused("unreadable", f"is not JSON (item {number} of its array: {reason}); mend it")
        text, at = text[at:], 0
        if len(text) > max_item:
            raise Refused(
                "too_big",
                f"has an item of more than {max_item} characters, or no JSON (item {number}: {reason}); mend it",
            )
        # As much again: an item is read a few times over, not once a block.
        block = read(max(_BLOCK, len(text)))
        text, ended = text + block, not block
    at += number == 1  # The bracket of an empty array.
    rest = text[at:]
    while rest.strip(" \t\n\r") == "" and (rest := read(_BLOCK)):
        pass
    if rest.strip():
        raise Refused("unreadable", "is not JSON (text behind its array); mend it")


def _blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at
