"""The vector memory: texts under running numbers, found by similarity.

Vectors are those of `core.embeddings`, which need no model hub; the official harness embeds with a sentence
transformer, so the similarities that a model sees, and at times their order, are other ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qwenlong.evaluation.bfcl import store
from qwenlong.evaluation.bfcl.store import Refused, Result, Store

if TYPE_CHECKING:
    import numpy as np


class _Part:
    """One of the two parts: texts by number; a number is never given twice until the part is cleared."""

    def __init__(self, name: str, entries: int, characters: int) -> None:
        self.name, self.entries, self.characters = name, entries, characters
        self.clear()

    def add(self, text: str) -> Result:
        text = store.text_of(text, "text")
        store.check_length(text, self.characters)
        store.check_room(len(self.texts), self.entries, self.name)
        number = self.next_id
        self.next_id += 1
        self.texts[number] = text
        return {"id": number}

    def remove(self, vec_id: int) -> Result:
        number = self._known(vec_id)
        del self.texts[number]
        self._vectors.pop(number, None)
        return {"status": f"entry {number} removed"}

    def update(self, vec_id: int, new_text: str) -> Result:
        number, text = self._known(vec_id), store.text_of(new_text, "new_text")
        store.check_length(text, self.characters)
        self.texts[number] = text
        self._vectors.pop(number, None)
        return {"status": f"entry {number} updated"}

    def clear(self) -> Result:
        self.texts: dict[int, str] = {}
        self.next_id = 0
        self._vectors: dict[int, np.ndarray] = {}
        return {"status": "cleared"}

    def retrieve(self, query: str, top_k: int | None = 5) -> Result:
        from qwenlong.core import embeddings

        most = 5 if top_k is None else store.count_of(top_k, "top_k", 1)
        missing = [number for number in self.texts if number not in self._vectors]
        rows = embeddings.embed([store.text_of(query, "query"), *(self.texts[number] for number in missing)])
        self._vectors.update(zip(missing, rows[1:], strict=True))
        # Rounded: the last bits of a sum are the processor's business, and would change the prompt.
        found = {number: round(float(self._vectors[number] @ rows[0]), 6) for number in self.texts}
        best = sorted(found, key=lambda number: (-found[number], number))[:most]
        return {"result": [{"id": n, "similarity_score": found[n], "text": self.texts[n]} for n in best]}

    def retrieve_all(self) -> Result:
        return {"result": [{"id": number, "text": text} for number, text in self.texts.items()]}

    def state(self) -> dict[str, Any]:
        return {"next_id": self.next_id, "store": {str(number): text for number, text in self.texts.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        self.clear()
        self.texts = {int(number): text for number, text in state["store"].items()}
        self.next_id = state["next_id"]

    def _known(self, vec_id: object) -> int:
        number = store.count_of(vec_id, "vec_id", 0)
        if number not in self.texts:
            raise Refused(f"there is no entry {number}")
        return number


class Vector(Store):
    """`memory_vector`: seven entries of 300 characters in the prompt, fifty of 2000 behind it."""

    def __init__(self) -> None:
        self.core = _Part("core", store.CORE_ENTRIES, store.CORE_CHARACTERS)
        self.archival = _Part("archival", store.ARCHIVAL_ENTRIES, store.ARCHIVAL_CHARACTERS)

    def tools(self) -> Mapping[str, Callable[..., Result]]:
        """Return the tools by name."""
        names = ("add", "remove", "update", "clear", "retrieve", "retrieve_all")
        return {
            f"{part.name}_memory_{name}": getattr(part, name) for part in (self.core, self.archival) for name in names
        }

    def state(self) -> dict[str, Any]:
        """Return both parts, without vectors."""
        return {"core_memory": self.core.state(), "archival_memory": self.archival.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace both parts."""
        self.core.load(state["core_memory"])
        self.archival.load(state["archival_memory"])

    def visible(self) -> str:
        """Return the core part as JSON, by number."""
        return json.dumps(self.core.texts, ensure_ascii=False, indent=4) if self.core.texts else ""
