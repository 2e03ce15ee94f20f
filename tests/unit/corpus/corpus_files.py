"""Real files of every format that folders may hold, and a build of one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenlong.core.config import Config, CorpusConfig, FolderConfig
from qwenlong.core.records import Document
from qwenlong.corpus.folders import Folder
from qwenlong.corpus.hostile import Losses
from qwenlong.corpus.origins import documents

PROSE = "The old ferry crosses the river twice a day, and in winter it waits for the ice to break. "


def folder(path: Path, **values: Any) -> FolderConfig:
    """Return the settings of a folder named `notes`."""
    settings = {"name": "notes", "path": str(path), "category": "general", "licence": "CC0-1.0"}
    return FolderConfig.model_validate(settings | values)


def read(path: Path, limits: dict[str, Any] | None = None, **values: Any) -> tuple[list[Document], Losses]:
    """Return the documents of a folder after the guard, and what was lost."""
    corpus = CorpusConfig.model_validate({"sources": (), "limits": limits or {}})
    losses = Losses("notes")
    origin = Folder(folder(path, **values), corpus)
    origin.check()
    return list(documents(origin, corpus, losses)), losses


def config(**corpus: Any) -> Config:
    """Return a configuration without packages and tracking."""
    return Config.model_validate({"corpus": {"sources": ()} | corpus, "tracking": {"enabled": False}})


def pdf(pages: list[str], password: str | None = None) -> bytes:
    """Return a PDF of one line of text a page, written by hand and, with a password, encrypted by pypdf."""
    import io

    import pypdf

    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for text in pages:
        content = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects) + 2} 0 R "
            "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(pages)} >>"
    data, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    data += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n".encode() + (
        f"startxref\n{len(data)}\n%%EOF\n".encode()
    )
    if password is None:
        return data
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()
