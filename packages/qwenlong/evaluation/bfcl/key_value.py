"""The key-value memory: a small part that is always in the prompt, a large one that is looked up by key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from qwenlong.evaluation.bfcl import bm25, store
from qwenlong.evaluation.bfcl.store import Refused, Result, Store

_KEY = re.compile(r"[a-z]+(?:_[a-z0-9]+)*")


class _Part:
    """One of the two parts: texts by key, in the order in which they came."""

    def __init__(self, name: str, entries: int, characters: int) -> None:
        self.name, self.entries, self.characters = name, entries, characters
        self.values: dict[str, str] = {}

    def add(self, key: str, value: str) -> Result:
        key, value = store.text_of(key, "key"), store.text_of(value, "value")
        store.check_room(len(self.values), self.entries, self.name)
        store.check_length(value, self.characters)
        if not _KEY.fullmatch(key):
            raise Refused("a key is snake_case: lower-case words, joined by single underscores")
        if key in self.values:
            raise Refused("this key is taken; replace its value, or use another key")
        self.values[key] = value
        return {"status": "added"}

    def remove(self, key: str) -> Result:
        del self.values[self._known(key)]
        return {"status": "removed"}

    def replace(self, key: str, value: str) -> Result:
        known, value = self._known(key), store.text_of(value, "value")
        store.check_length(value, self.characters)
        self.values[known] = value
        return {"status": "replaced"}

    def clear(self) -> Result:
        self.values.clear()
        return {"status": "cleared"}

    def retrieve(self, key: str) -> Result:
        return {"value": self.values[self._known(key)]}

    def retrieve_all(self) -> Result:
        return dict(self.values)

    def list_keys(self) -> Result:
        return {"keys": list(self.values)}

    def key_search(self, query: str, k: int = 5) -> Result:
        most = store.count_of(k, "k", 0)
        return {"ranked_results": bm25.ranked(store.text_of(query, "query"), list(self.values))[:most]}

    def _known(self, key: object) -> str:
        name = store.text_of(key, "key")
        if name not in self.values:
            raise Refused("no entry has this key")
        return name


class KeyValue(Store):
    """`memory_kv`: seven entries of 300 characters in the prompt, fifty of 2000 behind it."""

    def __init__(self) -> None:
        self.core = _Part("core", store.CORE_ENTRIES, store.CORE_CHARACTERS)
        self.archival = _Part("archival", store.ARCHIVAL_ENTRIES, store.ARCHIVAL_CHARACTERS)

    def tools(self) -> Mapping[str, Callable[..., Result]]:
        """Return the tools by name. Only the part in the prompt can be read as a whole."""
        names = ("add", "remove", "replace", "clear", "retrieve", "list_keys", "key_search")
        found = {
            f"{part.name}_memory_{name}": getattr(part, name) for part in (self.core, self.archival) for name in names
        }
        return found | {"core_memory_retrieve_all": self.core.retrieve_all}

    def state(self) -> dict[str, Any]:
        """Return both parts."""
        return {"core_memory": dict(self.core.values), "archival_memory": dict(self.archival.values)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace both parts."""
        self.core.values, self.archival.values = dict(state["core_memory"]), dict(state["archival_memory"])

    def visible(self) -> str:
        """Return the core part as JSON."""
        return json.dumps(self.core.values, ensure_ascii=False, indent=4) if self.core.values else ""
