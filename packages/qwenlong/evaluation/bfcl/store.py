"""What the three memories have in common: tools by name, errors as results, a state that is plain JSON."""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from qwenlong.evaluation.bfcl.calls import Call

#: Entries and characters of an entry of the two memories with entries, as in the official harness.
CORE_ENTRIES, CORE_CHARACTERS = 7, 300
ARCHIVAL_ENTRIES, ARCHIVAL_CHARACTERS = 50, 2000
#: No number that a call may hold is as large; Python does not even write those of thousands of digits.
_LARGE = 10**18

Result = dict[str, Any]


class Refused(Exception):
    """A call that the memory does not carry out; the message goes to the model."""


class Store(ABC):
    """A memory and its tools. Values come from a model: everything wrong with them becomes an error result."""

    @abstractmethod
    def tools(self) -> Mapping[str, Callable[..., Result]]:
        """Return the tools by name; their parameters are those of the tool documents."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the content as plain JSON values that share nothing with the memory."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Replace the content by what `state` returned."""

    @abstractmethod
    def visible(self) -> str:
        """Return what of the memory stands in the prompt; empty when there is nothing."""

    def run(self, call: Call) -> str:
        """Carry out a call; return its result as JSON. Never raises for anything that a call can hold."""
        try:
            return json.dumps(self._result(call), ensure_ascii=False)
        except Refused as refusal:
            return json.dumps({"error": str(refusal)}, ensure_ascii=False)

    def _result(self, call: Call) -> Result:
        tool = self.tools().get(call.name)
        if tool is None:
            raise Refused(call.problem or f"there is no function {call.name[:100]!r}")
        if call.problem:
            raise Refused(call.problem)
        parameters = inspect.signature(tool).parameters
        for name in call.arguments:
            if name not in parameters:
                raise Refused(f"{call.name} has no parameter {name[:100]!r}")
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in call.arguments:
                raise Refused(f"{call.name} needs the parameter {name!r}")
        return tool(**call.arguments)


def text_of(value: object, name: str) -> str:
    """Return a text argument; numbers become text. Raises Refused for anything else."""
    if isinstance(value, str):
        # Halves of surrogate pairs can come out of JSON escapes; no prompt can carry them.
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGE):
        return str(value)
    raise Refused(f"{name} must be a string, not {type(value).__name__}")


def count_of(value: object, name: str, least: int) -> int:
    """Return a whole number. Raises Refused for anything else and for one below `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(f"{name} must be an integer, not {type(value).__name__}")
    if not least <= value < _LARGE:
        raise Refused(f"{name} must be at least {least}, and no number of that size")
    return value


def check_length(text: str, most: int) -> None:
    """Raises Refused for a text of more than `most` characters."""
    if len(text) > most:
        raise Refused(f"the entry would have {len(text)} characters; at most {most} are kept, shorten it")


def check_room(entries: int, most: int, memory: str) -> None:
    """Raises Refused when a memory of `most` entries is full."""
    if entries >= most:
        raise Refused(f"the {memory} memory is full with {most} entries; remove some first")
