"""Small real archives, their registry and a configuration, for the tests of the corpus."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

from qwenlong.core.config import Config
from qwenlong.core.files import sha256_file
from qwenlong.corpus.sources import COLUMNS

CAPITALS = {
    "fr": ("France", "Paris", "68,374,591"),
    "de": ("Germany", "Berlin", "84,119,100"),
    "es": ("Spain", "Madrid", "47,280,433"),
    "it": ("Italy", "Rome", "60,964,931"),
}


def country(code: str) -> str:
    """Return a country's JSON in the package's shape."""
    name, capital, people = CAPITALS[code]
    return json.dumps(
        {
            "Introduction": {"Background": {"text": f"{name} has a long history. <br><br>It goes on, in {capital}."}},
            "Geography": {"Area": {"total ": {"text": f"{len(name)}43,801 sq km"}, "land": {"text": "40,427 sq km"}}},
            "People and Society": {
                "Population": {"total": {"text": f"{people} (2024 est.)"}},
                "Languages": {"Languages": {"text": f"the language of {name} (official)"}},
                "Land use": {"farms: arable land": {"text": f"arable land: {len(capital)}.4% (2023 est.)"}},
            },
            "Government": {
                "Country name": {"conventional short form": {"text": name}},
                "Capital": {"name": {"text": capital}, "note": f"<strong>note:</strong> {capital} is&nbsp;old"},
            },
        }
    )


def wheel(path: Path, members: dict[str, str | bytes]) -> Path:
    """Write a zip archive with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def sdist(path: Path, members: dict[str, str | bytes]) -> Path:
    """Write a tar.gz archive with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            content = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def registry(path: Path, files: dict[str, tuple[Path, str, str]]) -> Path:
    """Write a table of sources: name -> (file, category, loader)."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for name, (file, category, loader) in files.items():
            digest = sha256_file(file) if file.exists() else "0" * 64
            package = file.name.split("-")[0].replace("_", "-")
            writer.writerow([name, package, "pip", "1.0", file.name, digest, category, loader, "MIT", "MIT", ""])
    return path


def config(table: Path, *names: str, **values: object) -> Config:
    """Return a configuration with these sources and corpus settings; nothing is tracked."""
    corpus = {"registry": str(table), "sources": names, "min_characters": 40} | values
    return Config.model_validate({"corpus": corpus, "tracking": {"enabled": False}})


def factbook(folder: Path, extra: dict[str, str | bytes] | None = None) -> Path:
    """Write a factbook wheel into the cache place of the source `facts`."""
    members: dict[str, str | bytes] = {f"book/data/europe/{code}.json": country(code) for code in CAPITALS}
    return wheel(folder / "facts" / "book-1.0-py3-none-any.whl", members | (extra or {}))
