"""JSON out of replies: what a model writes is data, and what is wrong with it too."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from qwenlong.core.config import EndpointConfig
from qwenlong.core.errors import UsageError
from qwenlong.core.llm import Client, Outcome, Request, ask, structured
from qwenlong.core.llm.schema import checked, json_schema, last_object

MESSAGES = [{"role": "user", "content": "Which year?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "year": {"type": "integer", "minimum": 1000, "maximum": 2100},
        "sure": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 9}, "maxItems": 2},
        "kind": {"enum": ["a", "b", None]},
    },
    "required": ["year"],
    "additionalProperties": False,
}


class Year(BaseModel):
    model_config = ConfigDict(extra="forbid")
    year: int = Field(ge=1000)
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"year": 1912}', {"year": 1912}),
        ('```json\n{"year": 1912}\n```', {"year": 1912}),
        ('First {"year": 1911}, no: {"year": 1912}. Done {not json}', {"year": 1912}),
        ('<think>{"year": 1}</think>{"year": 2}', {"year": 2}),
        ('<think>{"year": 1}</think>none', None),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
        ('{{"a": 1}', {"a": 1}),
        ('{"a": "}{"} tail', {"a": "}{"}),
        ('{"a": NaN}', None),
        ('{"a": Infinity}', None),
        ('{"a": 1, "a": 2}', None),
        ('{"a": 1', None),
        ("[1, 2]", None),
        # Thinking that quotes an object, or an object that quotes the mark? Nobody can tell, so neither is taken.
        ('{"a": "</think>"}', None),
        ('{"a": 1}{"b": "</think> {\\"a\\": 2}"}', None),
        ("", None),
        ("{" * 50_000, None),
        ('{"a":' * 20_000, None),
        ('{"a": ' + "9" * 10_000 + "}", None),
    ],
)
def test_the_last_object_of_a_reply(text: str, found: Any) -> None:
    assert last_object(text) == found


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=4))
def test_an_object_is_found_behind_any_text(before: str, value: dict[str, Any]) -> None:
    # The end of the thinking counts wherever it stands, in a string too: the next test.
    assume("</think>" not in json.dumps(value))
    assert last_object(before.replace("{", "") + "\n" + json.dumps(value)) == value
    last_object(before)  # and never an exception


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"year": 1912}, None),
        ({"year": 1912, "names": ["x", "y"], "sure": True, "kind": None}, None),
        ({"year": "1912"}, "year = '1912' is no integer"),
        ({"year": True}, "year = True is no integer"),
        ({"year": 12}, "year = 12 is out of bounds"),
        ({}, "the object has no 'year'"),
        ({"year": 1912, "sure": 1}, "sure = 1 is no boolean"),
        ({"year": 1912, "more": 1}, "the object has an unknown key 'more'"),
        ({"year": 1912, "names": ["x", ""]}, r"names\[1\] has 0 characters"),
        ({"year": 1912, "names": ["x", "y", "z"]}, "names has 3 items"),
        ({"year": 1912, "kind": "c"}, "kind = 'c' is none of"),
        ({"year": 1912, "names": ["\ud800"]}, "half a character"),
    ],
)
def test_schema_faults_name_the_place(value: Any, fault: str | None) -> None:
    import re

    found = checked(value, SCHEMA)[1]
    assert found is None if fault is None else found is not None and re.search(fault, found)


def test_models_are_validated_strictly() -> None:
    assert checked({"year": 1912, "names": ["x"]}, Year) == (Year(year=1912, names=("x",)), None)
    assert "year" in str(checked({"year": "1912"}, Year)[1])
    assert "more" in str(checked({"year": 1912, "more": 1}, Year)[1])


def test_a_schema_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(UsageError, match="'oneOf' is not checked here"):
        json_schema({"type": "object", "properties": {"a": {"oneOf": []}}})


def run(url: str, schema: Any = SCHEMA, tries: int = 3, **settings_: Any) -> Outcome[Any]:
    options: dict[str, Any] = {"retries": 1, "timeout_seconds": 60.0} | settings_

    async def go() -> Outcome[Any]:
        async with Client(EndpointConfig(base_url=url, model="m", **options), first_pause=0.01) as client:
            return await structured(client, MESSAGES, schema, max_tokens=9, seed=7, tries=tries)

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("mode", "sent"),
    [
        (
            "json_schema",
            {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}},
        ),
        ("json_object", {"type": "json_object"}),
        ("none", None),
    ],
)
def test_the_endpoint_is_asked_for_what_it_supports(endpoint: Any, mode: str, sent: Any) -> None:
    endpoint.answer = lambda body: '{"year": 1912}'
    found = run(endpoint.url, structured_output=mode)
    assert found.value == {"year": 1912} and found.tries == 1
    assert endpoint.requests[0].get("response_format") == sent


BAD = [
    ("no idea", "malformed"),
    ('{"year": "1912"}', "invalid"),
    ({"text": '{"year": 1912}', "finish": "length"}, "truncated"),
    ({"text": '{"year": 1912}', "finish": "content_filter"}, "declined"),
    ({"text": None, "message": {"refusal": "I cannot"}}, "declined"),
]


@pytest.mark.parametrize(("said", "kind"), BAD)
def test_a_bad_reply_is_asked_again_with_another_seed_and_ends_as_data(endpoint: Any, said: Any, kind: str) -> None:
    endpoint.answer = lambda body: said
    found = run(endpoint.url)
    assert (found.value, found.error, found.tries, found.outage) == (None, kind, 3, False)
    seeds = [body["seed"] for body in endpoint.requests]
    assert len(set(seeds)) == 3 and seeds[0] == 7
    assert [body["temperature"] for body in endpoint.requests] == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(("said", "kind"), BAD)
def test_the_second_reply_may_do(endpoint: Any, said: Any, kind: str) -> None:
    told = iter([said, '{"year": 1912}'])
    endpoint.answer = lambda body: next(told)
    found = run(endpoint.url, Year)
    assert found.value == Year(year=1912) and found.tries == 2


@pytest.mark.parametrize(
    ("said", "kind", "outage"),
    [
        ({"status": 500}, "unavailable", True),
        ({"status": 401}, "denied", True),
        ({"status": 404}, "denied", True),
        ({"status": 400}, "rejected", False),
        ({"status": 413}, "rejected", False),
        ({"drop": True}, "unavailable", True),
        ({"text": "x", "pause": 30.0}, "unavailable", True),
    ],
)
def test_failures_are_data_too(endpoint: Any, said: Any, kind: str, outage: bool) -> None:
    endpoint.answer = lambda body: said
    # A short limit only where it is to be met: a slow machine would meet it elsewhere.
    found = run(endpoint.url, timeout_seconds=0.2 if "pause" in said else 60.0)
    assert (found.error, found.outage, found.value) == (kind, outage, None) and found.detail


def test_half_characters_from_a_server_are_replaced(endpoint: Any) -> None:
    endpoint.answer = lambda body: {"body": b'{"choices": [{"message": {"content": "a\\ud800b"}}]}'}

    async def go() -> Outcome[str]:
        async with Client(EndpointConfig(base_url=endpoint.url, model="m")) as client:
            return await ask(client, Request(MESSAGES, 9, 0), str)

    assert asyncio.run(go()).value == "a?b"


def test_the_digest_of_a_request_names_all_that_decides_the_reply() -> None:
    base = Request(MESSAGES, 9, 0)
    others = [
        Request(MESSAGES, 10, 0),
        Request(MESSAGES, 9, 1),
        Request(MESSAGES, 9, 0, temperature=0.1),
        Request(MESSAGES, 9, 0, top_p=0.9),
        Request(MESSAGES, 9, 0, schema=Year),
        Request([{"role": "user", "content": "Which?"}], 9, 0),
    ]
    digests = {base.digest("m"), base.digest("n"), *(other.digest("m") for other in others)}
    assert len(digests) == 8 and base.digest("m") == Request(tuple(MESSAGES), 9, 0).digest("m")
