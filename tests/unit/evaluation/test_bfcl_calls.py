"""Tool calls out of a model's message: read as data, never run, never a crash."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.evaluation.bfcl import calls
from qwenlong.evaluation.bfcl.calls import Call


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("[f(a='x', b=2), g()]", [Call("f", {"a": "x", "b": 2}), Call("g")]),
        ("f(a=-1.5)", [Call("f", {"a": -1.5})]),
        ("f(a=1), g(b=None)", [Call("f", {"a": 1}), Call("g", {"b": None})]),
        ("```\n[f()]\n```", [Call("f")]),
        ("```python\n[f()]\n```", [Call("f")]),
        ("MemoryAPI.f(a=word)", [Call("MemoryAPI.f", {"a": "word"})]),
        ("f(a=[1, ('x',), {'k': True}])", [Call("f", {"a": [1, ["x"], {"k": True}]})]),
        ("f(1)", [Call("f", problem="give every argument by its name")]),
        ("f(a=g())", [Call("f", problem="the value of a is no literal")]),
        ("f(a=1 + 1)", [Call("f", problem="the value of a is no literal")]),
        ("f(**{'a': 1})", [Call("f", problem="arguments cannot be unpacked")]),
        ("(lambda: 0)()", [Call("")]),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [Call("f", {"a": 1})]),
        ('Well. <tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call> Done.', [Call("f", {"a": 1})]),
        ('<tool_call>{"name": "f", "arguments": 3}</tool_call>', [Call("f", problem="the arguments are no object")]),
        ('<tool_call>{"name": "f"', []),
        ("<tool_call>no JSON</tool_call>", []),
        ("", []),
        ("[]", []),
        ("Seattle", []),
        ("35", []),
        ("{'answer': 'Seattle', 'context': 'x'}", []),
        ("Let me see: [f()]", []),
        ("[f() for x in y]", []),
        ("[f(a=f'{1}')]", []),
        ("f(a=lambda: 0)", []),
        ("f(a=b'\\x00' if 1 else 2)", []),
        ("\0", []),
        ("\ud800()", []),
    ],
)
def test_what_is_a_call(message: str, found: list[Call]) -> None:
    assert calls.parse(message) == found


def test_nothing_is_evaluated(tmp_path: Any) -> None:
    """What would leave a trace leaves none, in whichever way it is written."""
    trace = tmp_path / "trace"
    for value in (f"open({str(trace)!r}, 'w')", f"__import__('pathlib').Path({str(trace)!r}).touch()", "1 / 0", "x[0]"):
        calls.parse(f"[f(a={value})]")
        calls.parse(value)
    assert not trace.exists()


_VALUES = st.one_of(
    st.text(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
)
_NAMES = st.sampled_from(["core_memory_add", "memory_append", "f"])
_ARGUMENTS = st.dictionaries(st.sampled_from(["key", "value", "text", "k"]), _VALUES, max_size=3)


@settings(max_examples=200)
@given(st.lists(st.tuples(_NAMES, _ARGUMENTS), min_size=1, max_size=4))
def test_both_forms_come_back_as_they_were_written(wanted: list[tuple[str, dict[str, Any]]]) -> None:
    found = [Call(name, arguments) for name, arguments in wanted]
    listed = ", ".join(f"{n}({', '.join(f'{k}={v!r}' for k, v in a.items())})" for n, a in wanted)
    assert calls.parse(f"[{listed}]") == found
    tagged = [f"<tool_call>{json.dumps({'name': n, 'arguments': a})}</tool_call>" for n, a in wanted]
    # A text that closes the tag itself ends it there.
    if not any("tool_call" in str(value) for _, a in wanted for value in a.values()):
        assert calls.parse("\n".join(tagged)) == found


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from(list("f(a=)[]{},'\"\\.*-1 \n`<>/tool_call\0\ud800é")), max_size=60) | st.text())
def test_any_text_is_read_or_left(text: str) -> None:
    for call in calls.parse(text):
        assert isinstance(call.name, str)


def test_long_and_deep_lists_are_bounded() -> None:
    """As long as is read at all: seconds; longer: one refusal."""
    size = calls.MAX_CHARACTERS - 20
    shapes = [
        "[" * (size // 2) + "]" * (size // 2),
        "-" * size + "1",
        "1+" * (size // 2) + "1",
        "not " * (size // 4) + "1",
    ]
    shapes += [
        "{1:" * (size // 4) + "1" + "}" * (size // 4),
        "b" + "[0]" * (size // 3),
        "'a'" * (size // 3),
        "9" * size,
    ]
    for shape in shapes:
        began = time.process_time()
        calls.parse(f"f(a={shape})")
        assert time.process_time() - began < 5
    (refused,) = calls.parse("[" + "f(a=1)," * 40_000 + "]")
    assert "at most" in refused.problem
