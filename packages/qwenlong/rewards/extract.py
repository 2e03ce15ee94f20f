"""The final answer of a response: what stands after the thinking, in the form the instructions ask for."""

from __future__ import annotations

import re

#: Thinking tags as models write them, in any case and with blanks.
_TAG = re.compile(r"<\s*+(/?)\s*+think\s*+>", re.IGNORECASE)
_BRACE = re.compile(r"\\boxed\s*+\{|[{}]")
#: A last line longer than this is running text, not a short answer, unless a marker introduces it.
MAX_BARE_WORDS = 40
# The published quick start's sentence (SPEC section 6); the shorter form only where the full one is missing.
_MARKERS = (
    re.compile(r"therefore,?\s+the\s+(?:final\s+|correct\s+)?answer\s+is\b[ \t]*:?(?:\*\*?(?=\s|\Z))?", re.IGNORECASE),
    re.compile(r"\bthe\s+(?:final\s+|correct\s+)?answer\s+is\b[ \t]*:?(?:\*\*?(?=\s|\Z))?", re.IGNORECASE),
)
_SPECIAL = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id)\|>.*\Z", re.DOTALL)
#: A full stop that ends the text, not an ellipsis and not one of "U.S.".
_FULL_STOP = re.compile(r"(?<!\.)(?<!\.\w)[.。]\Z")
_PAIRS = {"(": ")", "*": "*", "`": "`", '"': '"', "'": "'", "“": "”", "$": "$"}


def after_thinking(response: str) -> str | None:
    """Return the text after the thinking block; None while the thinking is unfinished.

    A response without thinking tags is returned whole. Text from an end-of-turn token on is no part of it.
    """
    text = _SPECIAL.sub("", response)
    tags = list(_TAG.finditer(text))
    if tags and not tags[-1][1]:
        return None
    return text[tags[-1].end() :].strip() if tags else text.strip()


def last_boxed(text: str) -> str | None:
    r"""Return what the complete \boxed{...} that begins last holds, braces balanced. Linear in the text."""
    opened: list[re.Match[str]] = []
    best: tuple[int, int] | None = None
    first = text.find("\\boxed")
    if first < 0:
        return None
    for brace in _BRACE.finditer(text, first):
        if brace[0] != "}":
            opened.append(brace)
        elif opened:
            start = opened.pop()
            if start[0] != "{" and (best is None or start.end() > best[0]):
                best = start.end(), brace.start()
    if best is None:
        return None
    inner = text[best[0] : best[1]].strip()
    wrapped = re.fullmatch(r"\\(?:text|mathrm|textbf)\{(.*)\}", inner, re.DOTALL)
    return wrapped[1] if wrapped else inner


def unwrap(text: str) -> str:
    """Strip white space, a final full stop and balanced wrappers such as (…), **…** or quotes."""
    text = text.strip()
    while True:
        bare = text[:-1].rstrip() if _FULL_STOP.search(text) else text
        inner = _inside(bare)
        if inner is None:
            return bare
        text = inner


def _inside(text: str) -> str | None:
    """Return what one pair of marks wraps; None when the first and last mark are no pair, as in "(a) and (b)"."""
    closing = _PAIRS.get(text[:1], "")
    if not closing or len(text) < 3 or not text.endswith(closing):
        return None
    depth = 1
    if closing == "*":
        # All stars at once: one pair at a time would cost the square of their number.
        ends = len(text) - len(text.lstrip("*")), len(text) - len(text.rstrip("*"))
        depth = min(*ends, (len(text) - 1) // 2)
    inner = text[depth:-depth]
    # What is left of stars on one side is part of the text; any other mark inside belongs to a pair of its own.
    clean = inner.strip("*") if closing == "*" else inner
    return None if closing in clean else inner.strip()


def marked(text: str) -> str | None:
    """Return all that follows the last answer marker, several lines included; None without a marker."""
    for marker in _MARKERS:
        found = list(marker.finditer(text))
        if found:
            return text[found[-1].end() :].strip()
    return None


def final_answer(response: str) -> str | None:
    r"""Return the final answer; None when the thinking is unfinished or nothing is answered.

    In this order: the line after the last "Therefore, the answer is"; the last \boxed{}; the last non-empty line, if
    it is short. Nothing inside a thinking block is ever an answer.
    """
    text = after_thinking(response)
    if not text:
        return None
    tail = marked(text)
    if tail is not None:
        line = next((part.strip() for part in tail.splitlines() if part.strip("* \t")), "")
        if not line.startswith("*"):
            line = line.rstrip("*")  # the sentence as a whole was emphasised
        boxed = last_boxed(line)
        return (unwrap(boxed if boxed is not None else line)) or None
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip() or None
    last = [line for line in text.splitlines() if line.strip()][-1]
    return (unwrap(last) or None) if len(last.split()) <= MAX_BARE_WORDS else None
