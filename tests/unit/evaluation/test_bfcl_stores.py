"""The three memories: the published tools, the published limits, errors as results, plain state."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.evaluation.benchmarks.bfcl_v4_memory import MEMORIES
from qwenlong.evaluation.bfcl import bm25, records
from qwenlong.evaluation.bfcl.calls import Call
from qwenlong.evaluation.bfcl.key_value import KeyValue
from qwenlong.evaluation.bfcl.store import Store
from qwenlong.evaluation.bfcl.summary import CHARACTERS, Summary
from qwenlong.evaluation.bfcl.vector import Vector

DATA = Path(__file__).parents[2] / "data" / "benchmarks" / "bfcl_v4_memory"

#: Of the official harness's search (rank_bm25 0.2.2) over these keys, run once: score and key, best first.
KEYS = ["user_name", "user_age", "order_espresso_machine", "discount_for_new_users", "name_of_dog"]
OFFICIAL = {
    "user name": [
        (4.718629830017127, "user_name"),
        (3.4579272036766735, "user_age"),
        (3.2616240265648386, "name_of_dog"),
        (2.1972245773362196, "order_espresso_machine"),
        (2.1972245773362196, "discount_for_new_users"),
    ],
    "espresso": [
        (3.527720200660081, "order_espresso_machine"),
        (1.791759469228055, "user_name"),
        (1.791759469228055, "user_age"),
        (1.791759469228055, "discount_for_new_users"),
        (1.791759469228055, "name_of_dog"),
    ],
    "name Name of the dog": [
        (11.38146387711362, "name_of_dog"),
        (8.302148768473236, "user_name"),
        (5.780743515792329, "user_age"),
        (5.780743515792329, "order_espresso_machine"),
        (5.780743515792329, "discount_for_new_users"),
    ],
    "unknown": [(0.0, key) for key in KEYS],
    "": [(0.0, key) for key in KEYS],
}


def run(store: Store, name: str, **arguments: Any) -> Any:
    return json.loads(store.run(Call(name, arguments)))


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_tools_are_those_of_the_documents(memory: str) -> None:
    """Names, parameters, which are needed, and defaults."""
    tools = MEMORIES[memory]().tools()
    documents = {tool.name: tool for tool in records.read_tools(DATA, memory)}
    assert set(tools) == set(documents)
    for name, tool in tools.items():
        parameters = inspect.signature(tool).parameters
        described = documents[name].parameters
        assert list(parameters) == list(described["properties"])
        assert [n for n, p in parameters.items() if p.default is p.empty] == described["required"]
        defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
        assert defaults == {n: p["default"] for n, p in described["properties"].items() if "default" in p}


@pytest.mark.parametrize(("part", "entries", "characters"), [("core", 7, 300), ("archival", 50, 2000)])
def test_key_value_limits(part: str, entries: int, characters: int) -> None:
    store = KeyValue()
    assert run(store, f"{part}_memory_add", key="k", value="x" * characters) == {"status": "added"}
    assert "characters" in run(store, f"{part}_memory_add", key="l", value="x" * (characters + 1))["error"]
    assert "characters" in run(store, f"{part}_memory_replace", key="k", value="x" * (characters + 1))["error"]
    assert "taken" in run(store, f"{part}_memory_add", key="k", value="y")["error"]
    for key in ("Key", "a b", "1a", "a__b", "a_", "", "ä", "a\n"):
        assert "snake_case" in run(store, f"{part}_memory_add", key=key, value="y")["error"]
    for number in range(1, entries):
        assert run(store, f"{part}_memory_add", key=f"k_{number}", value=number) == {"status": "added"}
    assert "full" in run(store, f"{part}_memory_add", key="more", value="y")["error"]
    assert run(store, f"{part}_memory_retrieve", key="k_3") == {"value": "3"}
    assert len(run(store, f"{part}_memory_list_keys")["keys"]) == entries
    assert run(store, f"{part}_memory_remove", key="k_3") == {"status": "removed"}
    assert "error" in run(store, f"{part}_memory_remove", key="k_3")
    assert run(store, f"{part}_memory_clear") == {"status": "cleared"}
    assert run(store, f"{part}_memory_key_search", query="k") == {"ranked_results": []}


def test_bm25_gives_the_values_of_the_official_harness() -> None:
    for query, expected in OFFICIAL.items():
        found = bm25.ranked(query, KEYS)
        assert [key for _, key in found] == [key for _, key in expected]
        assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-12)


def test_vector_memory() -> None:
    store = Vector()
    assert run(store, "core_memory_add", text="The cat sleeps on the sofa.") == {"id": 0}
    assert run(store, "core_memory_add", text="Quarterly revenue grew by nine percent.") == {"id": 1}
    found = run(store, "core_memory_retrieve", query="a sleeping cat", top_k=1)["result"]
    assert [(entry["id"], entry["text"]) for entry in found] == [(0, "The cat sleeps on the sofa.")]
    assert run(store, "core_memory_update", vec_id=0, new_text="The bank's revenue fell.") == {
        "status": "entry 0 updated"
    }
    assert {e["id"] for e in run(store, "core_memory_retrieve", query="revenue")["result"]} == {0, 1}
    assert run(store, "core_memory_remove", vec_id=0) == {"status": "entry 0 removed"}
    assert run(store, "core_memory_add", text="new") == {"id": 2}
    assert run(store, "core_memory_retrieve_all") == {
        "result": [{"id": 1, "text": "Quarterly revenue grew by nine percent."}, {"id": 2, "text": "new"}]
    }
    for number in range(5):
        run(store, "core_memory_add", text=f"entry {number}")
    assert "full" in run(store, "core_memory_add", text="more")["error"]
    assert "characters" in run(store, "core_memory_update", vec_id=1, new_text="x" * 301)["error"]
    for bad in (0, -1, 1.5, "2", True, [1]):
        assert "error" in run(store, "core_memory_retrieve", query="x", top_k=bad)
    assert "error" in run(store, "core_memory_remove", vec_id=99)
    again = Vector()
    again.load(json.loads(json.dumps(store.state())))
    assert again.state() == store.state()
    assert run(again, "core_memory_retrieve", query="entry") == run(store, "core_memory_retrieve", query="entry")
    assert run(store, "core_memory_clear") == {"status": "cleared"}
    assert run(store, "core_memory_add", text="x") == {"id": 0}
    assert run(store, "archival_memory_retrieve", query="x") == {"result": []}


def test_summary_cannot_be_multiplied_beyond_its_limit() -> None:
    store = Summary()
    assert "empty" in run(store, "memory_retrieve")["error"]
    assert run(store, "memory_append", text="ab" * 2500) == {"status": "appended"}
    assert "characters" in run(store, "memory_replace", old_text="a", new_text="x" * 10_000)["error"]
    assert "characters" in run(store, "memory_replace", old_text="", new_text="xx")["error"]
    assert run(store, "memory_replace", old_text="a", new_text="") == {"status": "updated"}
    assert store.text == "b" * 2500
    assert "characters" in run(store, "memory_append", text="x" * 7501)["error"]
    assert run(store, "memory_append", text="x" * 7500) == {"status": "appended"}
    assert "characters" in run(store, "memory_update", text="x" * 10_001)["error"]
    assert "not stand" in run(store, "memory_replace", old_text="nowhere", new_text="x")["error"]
    assert run(store, "memory_clear") == {"status": "cleared"}


_ANY: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["k", "key_a", "x" * 2001, "x" * 10_001, "\ud800"]),
    st.integers(-2, 60),
    st.sampled_from([10**30, float("nan"), None, True, [1], {"a": 1}, b"x", 1j]),
)


@st.composite
def _calls(draw: st.DrawFn, memory: str) -> list[Call]:
    tools = MEMORIES[memory]().tools()
    names = [*tools, "__init__", "state", "load", "tools", ""]
    found = []
    for name in draw(st.lists(st.sampled_from(names), max_size=25)):
        known = list(inspect.signature(tools[name]).parameters) if name in tools else []
        found.append(Call(name, draw(st.dictionaries(st.sampled_from([*known, "self"]), _ANY, max_size=3))))
    return found


@pytest.mark.parametrize("memory", MEMORIES)
@settings(max_examples=60)
@given(data=st.data())
def test_no_call_breaks_a_memory(memory: str, data: st.DataObject) -> None:
    """Every result is JSON that UTF-8 can carry, the limits hold, and the state comes back from its JSON."""
    store = MEMORIES[memory]()
    for call in data.draw(_calls(memory)):
        json.loads(store.run(call).encode().decode())
    again = MEMORIES[memory]()
    again.load(json.loads(json.dumps(store.state())))
    assert again.state() == store.state()
    assert again.visible() == store.visible()
    store.visible().encode()
    if isinstance(store, Summary):
        assert len(store.text) <= CHARACTERS
    else:
        parts = [store.core, store.archival]  # type: ignore[attr-defined]
        for part in parts:
            texts = part.values if isinstance(store, KeyValue) else part.texts
            assert len(texts) <= part.entries
            assert all(len(text) <= part.characters for text in texts.values())
