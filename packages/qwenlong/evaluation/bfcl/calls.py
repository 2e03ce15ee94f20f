"""Tool calls in a model's message, read as data: Python calls in a list, or JSON in <tool_call> tags.

Nothing is evaluated. What counts as a call follows the official harness, since a message that is none is the answer.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Above this many characters a text is read as calls only if it begins and ends like some.
_LONG = 20_000
#: Above this many characters it is not read: a list of calls as long as that is refused as a whole.
MAX_CHARACTERS = 200_000
_BEGINS = re.compile(r"[\[\s]*[^\W\d][\w.]*\s*\(")
_ENDS = re.compile(r"\)[\s,]*\]?\s*\Z")
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
#: A word behind an opening fence that names a language; with it the fence would be no list.
_FENCE = re.compile(r"`{3}(?:python|json|tool_code|tool_call)?[ \t]*\n")
_BROKEN = (SyntaxError, ValueError, MemoryError, RecursionError)


@dataclass(frozen=True)
class Call:
    """One call as the model wrote it. `problem` says why it cannot be run, if so."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


class _Unsupported(Exception):
    """An expression by which a text is no list of calls."""


def parse(message: str) -> list[Call]:
    """Return the calls of a message, in order; none when it is a text for the user. Never raises; linear in length."""
    if _OPEN in message:
        return _tagged(message)
    text = message.strip()
    fence = _FENCE.match(text)
    text = (text[fence.end() :] if fence else text).strip("`\n ")
    if len(text) > _LONG:
        if not (_BEGINS.match(text) and _ENDS.search(text[-100:])):
            return []
        if len(text) > MAX_CHARACTERS:
            return [Call("", problem=f"a list of calls of {len(text)} characters; at most {MAX_CHARACTERS} are read")]
    listed = f"{'' if text.startswith('[') else '['}{text}{'' if text.endswith(']') else ']'}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            body = ast.parse(listed, mode="eval").body
        if not isinstance(body, ast.List | ast.Tuple | ast.Set):
            return []
        return [_call(element) for element in body.elts]
    except (_Unsupported, *_BROKEN):
        return []


def _tagged(message: str) -> list[Call]:
    """Return the calls inside closed tags; what is no JSON object with a name is passed over."""
    found = []
    for part in message.split(_OPEN)[1:]:
        body, closed, _ = part.partition(_CLOSE)
        if not closed:
            continue
        try:
            value = json.loads(body)
            arguments = value.get("arguments", {}) if isinstance(value, dict) else None
            if isinstance(arguments, str):
                arguments = json.loads(arguments)
        except _BROKEN:
            continue
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            if isinstance(arguments, dict):
                found.append(Call(value["name"], arguments))
            else:
                found.append(Call(value["name"], problem="the arguments are no object"))
    return found


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call):
        raise _Unsupported
    arguments: dict[str, Any] = {}
    problem = "give every argument by its name" if node.args else ""
    for keyword in node.keywords:
        value, literal = _value(keyword.value)
        if keyword.arg is None:
            problem = "arguments cannot be unpacked"
        elif not literal:
            problem = f"the value of {keyword.arg} is no literal"
        else:
            arguments[keyword.arg] = value
    return Call(_name(node.func), arguments, problem)


def _name(node: ast.expr) -> str:
    """Return the dotted name of what is called; empty for what has none, which no tool is."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def _value(node: ast.expr) -> tuple[Any, bool]:
    """Return a value and whether it is a literal. Raises _Unsupported for what the official harness cannot read."""
    if isinstance(node, ast.Constant):
        return ("...", True) if node.value is Ellipsis else (node.value, True)
    if isinstance(node, ast.Name):
        # A bare word is taken for the text that it spells.
        return node.id, True
    if isinstance(node, ast.UnaryOp):
        if not isinstance(node.operand, ast.Constant) or not isinstance(node.operand.value, int | float | complex):
            raise _Unsupported
        return -node.operand.value, True
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(element) for element in node.elts]
        return [value for value, _ in values], all(literal for _, literal in values)
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise _Unsupported
        keys = [_value(key) for key in node.keys if key is not None]
        values = [_value(value) for value in node.values]
        pairs = zip(keys, values, strict=True)
        return {str(key): value for (key, _), (value, _) in pairs}, all(literal for _, literal in keys + values)
    if isinstance(node, ast.BinOp | ast.Call | ast.Subscript):
        return None, False
    raise _Unsupported
