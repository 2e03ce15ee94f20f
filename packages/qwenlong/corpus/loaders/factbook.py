"""World Factbook: one JSON file a country, rendered as "## Section" headings and "Field: value" lines.

Numbers and units stay as in the source. Nested fields are joined by " - " ("Area - total: 4,033 sq km"), so that the
first ": " of a line always ends the field's name.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

from qwenlong.core.records import Document
from qwenlong.corpus.sources import Source, slug

# Countries whose "conventional short form" is missing, cut off, or no name by which a question could ask for it.
_TITLES = {
    "cg": "Democratic Republic of the Congo",
    "dr": "Dominican Republic",
    "ee": "European Union",
    "gz": "Gaza Strip",
    "um": "United States Pacific Island Wildlife Refuges",
    "xx": "World",
}
_TAG = re.compile(r"<[^>]*>")
_SPACE = re.compile(r"\s+")


def wanted(member: str) -> bool:
    """Return whether the member is a country's file."""
    return "/data/" in member and member.endswith(".json")


def parse(source: Source, member: str, text: str) -> Iterator[Document]:
    """Yield the country's document. Raises ValueError when it is not the JSON that the package publishes."""
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("not a JSON object of sections")
    code = member.rsplit("/", 1)[-1].removesuffix(".json")
    title = _title(code, record)
    parts = []
    for section, fields in record.items():
        lines = [f"{name}: {value}" for name, value in _fields(fields, ())]
        if lines:
            parts.append("\n".join([f"## {_clean(section)}", *lines]))
    yield Document(
        id=f"{source.name}/{slug(title)}",
        source=source.name,
        category=source.document_category,
        title=title,
        text="\n\n".join(parts),
        n_tokens=0,
        metadata={"entity": title, "kind": "factbook", "region": member.split("/")[-2]},
        licence=source.data_licence,
    )


def _clean(value: str) -> str:
    # Break tags part sentences, other tags stand inside words' spacing already.
    return _SPACE.sub(" ", _TAG.sub(" ", html.unescape(value))).replace(" ,", ",").strip()


def _title(code: str, record: dict[str, Any]) -> str:
    if code in _TITLES:
        return _TITLES[code]
    names = record.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = _clean(str(names.get(form, {}).get("text", "")))
        if name and name.lower() != "none":
            # "Svalbard (sometimes referred to as ...)": the remark is not part of the name.
            return re.sub(r" \((?:sometimes|also) .*", "", name)
    raise ValueError(f"country {code} has no name")


def _fields(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield (field, value) in the order of the source; "text" is the value of its parent."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _fields(child, path if key == "text" else (*path, *_clean(key).split(": ")))
    elif isinstance(value, str | int | float) and path:
        text = _clean(str(value))
        # The source repeats the last label in some values ("agricultural land: arable land": "arable land: 12.4%").
        for label in (path[-1], "note"):
            if text.lower().startswith(f"{label.lower()}:"):
                text = text[len(label) + 1 :].strip()
        if text:
            yield " - ".join(_labels(path)), text


def _labels(path: tuple[str, ...]) -> Iterator[str]:
    """Yield the labels of a path without those that the next one repeats ("Languages", "Languages")."""
    for label, following in zip(path, [*path[1:], ""], strict=True):
        if not following.lower().startswith(label.lower()):
            yield label.rstrip(":")
