"""Which documents are for training and which are held out: whole entities, so that no section leaks across."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from qwenlong.core.errors import DataError
from qwenlong.core.records import Document
from qwenlong.core.seeds import SEEDS, derive
from qwenlong.synthesis import parse


def split(documents: Sequence[Document], heldout_share: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Return (training, held-out) documents, each sorted by id.

    An entity is held out when a hash of seed, source and name, taken as a number in [0, 1), is below `heldout_share`:
    which ones are does not depend on what else is in the corpus. Per source at least one is held out where there are
    two, and one stays. Raises DataError when there are no documents.
    """
    if not documents:
        raise DataError("the corpus has 0 documents; check corpus.sources and what corpus.json says was dropped")
    entities: dict[str, set[str]] = defaultdict(set)
    for document in documents:
        entities[document.source].add(parse.entity(document))
    heldout: set[tuple[str, str]] = set()
    for source, names in entities.items():
        ranked = sorted(names, key=lambda name: (derive(seed, "split", source, name), name))
        below = sum(derive(seed, "split", source, name) < heldout_share * SEEDS for name in names)
        keep = min(max(below, 1), len(ranked) - 1)
        heldout |= {(source, name) for name in ranked[:keep]}
    train: list[Document] = []
    test: list[Document] = []
    for document in sorted(documents, key=lambda d: d.id):
        (test if (document.source, parse.entity(document)) in heldout else train).append(document)
    return train, test
