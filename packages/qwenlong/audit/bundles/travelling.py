"""What is taken out of a run's records before they leave the machine: its folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from qwenlong.core.files import digest_value, dump_json, read_json


class Travels:
    """Takes the folders of machines out of texts: a bundle is read elsewhere, a run may be from elsewhere."""

    def __init__(self, results: Path, shown: str, sidecars: Iterable[str]) -> None:
        """Read which folders there were. `shown` takes the place of `results`; `sidecars` are patterns below it."""
        self._shown = shown
        roots = dict.fromkeys([results.resolve().as_posix(), results.as_posix()])
        # Where the run was made, as its sidecars name their outputs.
        for pattern in sidecars:
            for file in sorted(results.glob(pattern)):
                name = file.relative_to(results).as_posix().removesuffix("provenance.json").rstrip("./")
                value = read_json(file)
                recorded = value.get("output") if isinstance(value, dict) else None
                path = str(recorded.get("path", "")) if isinstance(recorded, dict) else ""
                if path.endswith(f"/{name}"):
                    roots[path.removesuffix(f"/{name}")] = None
        # Longer ones first: one may lie in another.
        pairs = [pair for root in sorted(roots, key=len, reverse=True) for pair in self._of(root)]
        self._pairs = [*pairs, (f"{Path.cwd().as_posix()}/", "")]

    def _of(self, root: str) -> list[tuple[str, str]]:
        """Return what replaces an absolute results folder, and the project's folder that it stands in."""
        if not root.startswith("/") or root == "/":
            return []
        project = root.removesuffix(self._shown)
        return [(root, self._shown), *([(project, "")] if project not in (root, "/") else [])]

    def text(self, text: str) -> str:
        """Return a text without the folders."""
        for path, instead in self._pairs:
            text = text.replace(path, instead)
        return text

    def json(self, file: Path) -> bytes:
        """Return a JSON file as it travels; a sidecar whose settings named folders gets their digest without these."""
        old = read_json(file)
        before = dump_json(old)
        after = self.text(before)
        if after == before:
            return before.encode()
        new = json.loads(after)
        used = new.get("config") if isinstance(new, dict) else None
        if isinstance(used, dict) and "values" in used:
            values, digest = old["config"]["values"], used.get("digest")
            if used["values"] != values and digest_value(values) == digest:
                used["travelled"] = digest_value(used["values"])
                after = dump_json(new)
        return after.encode()
