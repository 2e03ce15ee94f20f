"""Text that cannot be taken for the prompt's own: tags, control tokens and headings made harmless, still readable.

A document may hold `</memory>`, `<|im_end|>` or a line `Section 3 of 9:`. Angle brackets of what the prompts and the
chat template give a meaning become ‹ and ›; a line that looks like a heading of the prompt is shown as a quotation,
behind "> ". Everything else stays as it is, and what was made harmless once is not changed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

#: Tags that prompts and replies of the agent use, and those of chat templates that are no control tokens of their own.
TAGS = (
    *("memory", "plan", "question", "format", "section", "nothing", "done"),
    *("think", "tool_call", "tool_response", "tools"),
)
# Bare tags only: <section class="x"> of a web page is none of the prompt's. On one line: the mark of a quotation in the
# next line must not close one.
_TAG = rf"<[ \t]*/?[ \t]*(?:{'|'.join(TAGS)})[ \t]*/?[ \t]*>"
# <|im_end|> and its like in the chat templates of most models, the fullwidth bars included.
_CONTROL = r"<[|｜][^<>\s]{1,64}[|｜]>"
_SLOT = re.compile(r"\\\{[a-z_]+\\\}")
_BRACKETS = str.maketrans("<>[]", "‹›⟦⟧")


@cache
def _pattern(control: tuple[str, ...], headings: tuple[str, ...]) -> re.Pattern[str]:
    exact = [re.escape(token) for token in sorted(control, key=len, reverse=True)]
    tags = "|".join([_CONTROL, f"(?i:{_TAG})", *exact])
    heads = "|".join(f"(?:{heading})" for heading in headings) or r"(?!)"
    return re.compile(rf"(?P<tag>{tags})|(?P<head>^[ \t]*(?:{heads}))", re.MULTILINE)


def _harmless(match: re.Match[str]) -> str:
    found = match.group()
    if match["head"] is not None:
        return f"> {found}"
    changed = found.translate(_BRACKETS)
    # A control token without brackets is broken by a mark that no reader sees.
    return changed if changed != found else f"{found[0]}\u2060{found[1:]}"


def neutralise(text: str, control: tuple[str, ...] = (), headings: tuple[str, ...] = ()) -> str:
    """Return `text` with tags, control tokens and headings of the prompt made harmless.

    `control` are the control tokens of the model's tokenizer (`Tokenizer.control_tokens`), beside those of the form
    <|name|> that are always found; `headings` are those of the templates in use (`headings`).
    """
    return _pattern(control, headings).sub(_harmless, text)


def _slot(name: str) -> str:
    return r"[0-9]+" if "index" in name or "total" in name else r"[^\n]{1,80}?"


def headings(templates: Iterable[str]) -> tuple[str, ...]:
    """Return the headings of templates, as `neutralise` takes them.

    A heading is a line that ends in a colon ("Memory:", "Section {index} of {total}:"), or the words up to the colon
    in a line of which the rest is a slot ("Problem: {question}").
    """
    found: dict[str, None] = {}
    for line in (line.strip() for template in templates for line in template.splitlines()):
        title, colon, rest = line.partition(":")
        if colon and len(title) <= 80 and re.fullmatch(r"\s*(\{[a-z_]+\})?", rest):
            escaped = _SLOT.sub(lambda slot: _slot(slot.group()), re.escape(title))
            found[f"{escaped}:" + ("" if rest.strip() else r"[ \t]*$")] = None
    return tuple(found)
