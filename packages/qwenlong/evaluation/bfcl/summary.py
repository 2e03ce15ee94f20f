"""The recursive summary: one text that the model writes on, all of it in the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwenlong.evaluation.bfcl import store
from qwenlong.evaluation.bfcl.store import Refused, Result, Store

#: Characters that the text may have.
CHARACTERS = 10_000


class Summary(Store):
    """`memory_rec_sum`: a text of at most 10,000 characters.

    Other than in the official harness, replacing is held to the limit as a whole: there, only the new part is, and one
    call could multiply the text.
    """

    def __init__(self) -> None:
        self.text = ""

    def tools(self) -> Mapping[str, Callable[..., Result]]:
        """Return the tools by name."""
        return {
            "memory_append": self._append,
            "memory_update": self._update,
            "memory_clear": self._clear,
            "memory_replace": self._replace,
            "memory_retrieve": self._retrieve,
        }

    def state(self) -> dict[str, Any]:
        """Return the text."""
        return {"memory": self.text}

    def load(self, state: Mapping[str, Any]) -> None:
        """Replace the text."""
        self.text = str(state["memory"])

    def visible(self) -> str:
        """Return the text."""
        return self.text

    def _append(self, text: str) -> Result:
        return self._set(self.text + store.text_of(text, "text"), "appended")

    def _update(self, text: str) -> Result:
        return self._set(store.text_of(text, "text"), "updated")

    def _clear(self) -> Result:
        return self._set("", "cleared")

    def _replace(self, old_text: str, new_text: str) -> Result:
        old, new = store.text_of(old_text, "old_text"), store.text_of(new_text, "new_text")
        if old not in self.text:
            raise Refused("old_text does not stand in the memory")
        # Counted before it is made: many places times a long text would not fit into this process.
        length = len(self.text) + self.text.count(old) * (len(new) - len(old))
        if length > CHARACTERS:
            raise Refused(f"the memory would have {length} characters; at most {CHARACTERS} are kept, shorten it")
        return self._set(self.text.replace(old, new), "updated")

    def _retrieve(self) -> Result:
        if not self.text:
            raise Refused("the memory is empty")
        return {"memory_content": self.text}

    def _set(self, text: str, status: str) -> Result:
        store.check_length(text, CHARACTERS)
        self.text = text
        return {"status": status}
