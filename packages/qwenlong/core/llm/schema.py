"""JSON out of a reply, and its check against a schema: strict, bounded, no exception for what a model wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from qwenlong.core.errors import UsageError

#: A JSON schema, or the pydantic model that has one.
Schema: TypeAlias = Mapping[str, Any] | type[BaseModel]
#: Characters of a value shown in a fault.
SHOWN = 80
_THINKING = "</think>"
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
#: Keywords that only describe.
_SILENT = {"title", "description", "default", "examples", "$defs", "$schema", "$id"}
_KNOWN = _SILENT | {
    *("type", "enum", "const", "anyOf", "$ref", "properties", "required", "additionalProperties", "items"),
    *("minItems", "maxItems", "minLength", "maxLength", "pattern", "minimum", "maximum"),
}


def json_schema(schema: Schema) -> Mapping[str, Any]:
    """Return the JSON schema to send. Raises UsageError for keywords that `fault` does not check."""
    found = schema.model_json_schema() if isinstance(schema, type) else schema
    _refuse_unknown(found)
    return found


def _refuse_unknown(schema: Any) -> None:
    if not isinstance(schema, Mapping):
        return
    unknown = sorted(set(schema) - _KNOWN)
    if unknown and not isinstance(schema, bool):
        raise UsageError(f"schema keyword {unknown[0]!r} is not checked here; use {', '.join(sorted(_KNOWN))}")
    for name in ("properties", "$defs"):
        for part in schema.get(name, {}).values():
            _refuse_unknown(part)
    for part in (schema.get("items"), schema.get("additionalProperties"), *schema.get("anyOf", ())):
        _refuse_unknown(part)


def last_object(text: str) -> dict[str, Any] | None:
    """Return the last JSON object of a reply, after its thinking; None where there is none.

    Strict: NaN and Infinity are no numbers, and an object that names a key twice is none, since readers differ on
    which value counts.
    """
    text = text.rpartition(_THINKING)[2]
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
    found: dict[str, Any] | None = None
    position = text.find("{")
    while position >= 0:
        try:
            value, position = decoder.raw_decode(text, position)
            found = value
        except ValueError:
            position += 1
        except RecursionError:
            # A thousand braces deep, and so again from each of them: no reply that anybody asked for.
            return None
        position = text.find("{", position)
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def checked(value: Any, schema: Schema) -> tuple[Any, str | None]:
    """Return the value, a model's instance where the schema is a model, and what is wrong with it (None: nothing)."""
    try:
        text = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return None, "a string holds half a character (a lone surrogate)"
    except RecursionError:
        return None, "the object is nested too deeply"
    if not isinstance(schema, type):
        return value, fault(value, schema, schema)
    try:
        return schema.model_validate_json(text, strict=True), None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the object"
        return None, f"{where}: {first['msg']} ({len(error.errors())} faults)"


def fault(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str = "the object") -> str | None:
    """Return the first thing that is wrong with a value under a schema, None when nothing is."""
    if "$ref" in schema:
        return fault(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema:
        faults = [fault(value, option, root, where) for option in schema["anyOf"]]
        if None not in faults:
            return faults[0]
    if "const" in schema and not _equal(value, schema["const"]):
        return f"{where} = {_shown(value)} is not {schema['const']!r}"
    if "enum" in schema and not any(_equal(value, option) for option in schema["enum"]):
        return f"{where} = {_shown(value)} is none of {list(schema['enum'])}"
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where} = {_shown(value)} is no {' or '.join(kinds)}"
    if isinstance(value, dict):
        return _object_fault(value, schema, root, where)
    if isinstance(value, list):
        return _array_fault(value, schema, root, where)
    if isinstance(value, str):
        return _string_fault(value, schema, where)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{where} = {value} is out of bounds"
    return None


def _is(value: Any, kind: str) -> bool:
    # JSON's true is no number, Python's is; 1.0 is an integer in JSON.
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _object_fault(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where} has no {name!r}"
    for name, item in value.items():
        inner = properties.get(name, schema.get("additionalProperties", True))
        if inner is False:
            return f"{where} has an unknown key {_shown(name)}"
        if isinstance(inner, Mapping) and (found := fault(item, inner, root, name)):
            return found
    return None


def _array_fault(value: list[Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return f"{where} has {len(value)} items"
    for number, item in enumerate(value):
        if "items" in schema and (found := fault(item, schema["items"], root, f"{where}[{number}]")):
            return found
    return None


def _string_fault(value: str, schema: Mapping[str, Any], where: str) -> str | None:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return f"{where} has {len(value)} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return f"{where} = {_shown(value)} does not match {schema['pattern']!r}"
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
