"""The files of a synthesis folder, as the checker reads them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from qwenlong.core.errors import DataError
from qwenlong.core.files import read_parquet
from qwenlong.core.records import Document, Sample

#: Files of a synthesis folder that hold samples, and the side of the split each is from.
FILES = {"samples": "train", "memory": "train", "heldout": "heldout", "heldout_long": "heldout"}


def load(folder: Path) -> tuple[dict[str, list[Sample]], dict[str, Document]]:
    """Read a synthesis folder.

    Raises DataError naming a missing or broken file, an id that two documents have, or a folder without samples.
    """
    missing = [f"{name}.parquet" for name in (*FILES, "documents") if not (folder / f"{name}.parquet").is_file()]
    if missing:
        lacks = f"has no {', '.join(missing)}" if folder.is_dir() else "is no folder"
        raise DataError(f"{folder} {lacks}; give the folder that `qwenlong synthesize run` wrote, or run it again")
    sets = {name: read_parquet(folder / f"{name}.parquet", Sample) for name in FILES}
    documents = read_parquet(folder / "documents.parquet", Document)
    twice = [name for name, count in Counter(document.id for document in documents).items() if count > 1]
    if twice:
        raise DataError(
            f"{folder / 'documents.parquet'}: {len(twice)} ids stand there twice ({twice[0]}); run it again"
        )
    if not any(sets.values()):
        raise DataError(f"{folder} holds no sample in {', '.join(f'{name}.parquet' for name in FILES)}; run it again")
    return sets, {document.id: document for document in documents}
