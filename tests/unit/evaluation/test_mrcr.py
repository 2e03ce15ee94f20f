"""MRCR: items from dialogues in the published form, prompts within the limit, the rule on any response, subsets."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needle_helpers import NANO, dialogues, tokenizer

from qwenlong.core.errors import ConfigError, DataError
from qwenlong.core.files import write_jsonl
from qwenlong.evaluation.benchmarks.mrcr import MrcrItem, answer_part
from qwenlong.evaluation.chats import fit_chat
from qwenlong.evaluation.mrcr_items import by_characters, mrcr_items
from qwenlong.evaluation.mrcr_lengths import bin_of, counter, within
from qwenlong.evaluation.registry import find

COUNT = tokenizer().count_chat


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return mrcr_items(dialogues(), 12, (2, 4), 1200, 3, COUNT)


@pytest.fixture
def items(records: list[dict[str, Any]], tmp_path: Path) -> list[MrcrItem]:
    write_jsonl(tmp_path / "mrcr.jsonl", records)
    return list(find("mrcr").load(tmp_path / "mrcr.jsonl", None))  # type: ignore[arg-type]


def test_items_have_the_published_form_and_say_what_is_true(records: list[dict[str, Any]]) -> None:
    texts = {line for document in dialogues() for line in document.text.split("\n")}
    for number, record in enumerate(records):
        messages = json.loads(record["prompt"])
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
        prefix, answer = record["random_string_to_prepend"], record["answer"]
        assert len(prefix) == 10 and answer.startswith(prefix)
        assert messages[record["desired_msg_index"]]["content"] == answer.removeprefix(prefix)
        assert set(answer.removeprefix(prefix).split("\n")) <= texts, "an answer is not what the dialogues say"
        request = messages[record["desired_msg_index"] - 1]["content"]
        places = [n for n, m in enumerate(messages[:-1]) if m["content"] == request]
        assert record["n_needles"] == (2, 4)[number % 2] == len(places)
        # The question's number is that of the wanted answer among the answers to the same request.
        assert f"number {places.index(record['desired_msg_index'] - 1) + 1} " in messages[-1]["content"]
        assert len({messages[place + 1]["content"] for place in places}) == len(places)
        assert record["total_messages"] == len(messages)
        assert record["n_chars"] == sum(len(m["content"]) for m in messages)
        assert 1000 < COUNT([*messages, {"role": "assistant", "content": answer}]) <= 1200
    assert len({record["prompt"] for record in records}) == len(records)


def test_the_same_seed_gives_the_same_items_whatever_the_order(records: list[dict[str, Any]]) -> None:
    shuffled = dialogues()
    random.Random(1).shuffle(shuffled)
    assert mrcr_items(shuffled, 3, (2, 4), 1200, 3, COUNT) == records[:3]
    assert mrcr_items(shuffled, 3, (2, 4), 1200, 4, COUNT) != records[:3]


def test_too_few_dialogues_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="do not fill 900000 tokens"):
        mrcr_items(dialogues(5), 1, (2,), 900_000)
    with pytest.raises(DataError, match="no dialogue has 8 different stretches"):
        mrcr_items(dialogues(1, seed=4)[:0], 1, (8,), 900)
    with pytest.raises(DataError, match="do not fit into 20 tokens"):
        mrcr_items(dialogues(), 1, (2,), 20)


def test_gold_scores_one_and_another_needle_less(items: list[MrcrItem], records: list[dict[str, Any]]) -> None:
    for item, record in zip(items, records, strict=True):
        assert item.score(record["answer"]) == {"ratio": 1.0, "official": 1.0}
        messages = json.loads(record["prompt"])
        prefix = record["random_string_to_prepend"]
        request = messages[record["desired_msg_index"] - 1]["content"]
        others = [
            messages[n + 1]["content"]
            for n, m in enumerate(messages[:-1])
            if m["content"] == request and n + 1 != record["desired_msg_index"]
        ]
        assert all(0 < item.score(prefix + other)["ratio"] < 0.9 for other in others)
        assert item.score(record["answer"].removeprefix(prefix))["ratio"] == 0
        # The whole chat, copied: no exploit.
        assert item.score(prefix + record["prompt"])["ratio"] < 0.15


@pytest.mark.parametrize(
    ("response", "part"),
    [
        ("abc\n", "abc\n"),
        (" abc", " abc"),
        ("<think>x</think>\n\nabc \n", "abc \n"),
        ("x</think> abc", "abc"),
        ("<think>abc", None),
        ("<think>a</think>b<think>c", None),
        ("", ""),
        ("<think>a</think>", ""),
        ("<think>a</think>abc<|im_end|>\nmore", "abc"),
    ],
)
def test_what_counts_of_a_response(response: str, part: str | None) -> None:
    assert answer_part(response) == part


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_no_response_raises(text: str) -> None:
    item = MrcrItem("0", "2 needles", "[]", "k7Gold text", "k7")
    for response in (text, "k7" + text, "<think>" + text, "</think>k7" + text):
        assert 0 <= item.score(response)["ratio"] <= 1


def test_a_response_of_ten_megabytes_ends() -> None:
    draw = random.Random(0)
    # Q, X and Z are rare enough to start blocks.
    answer = "".join(draw.choices("etaoin shrdlu,.\n" * 10 + "QXZ", k=3000))
    item = MrcrItem("0", "2 needles", "[]", "k7" + answer, "k7")
    began = time.process_time()
    value = item.score("k7" + "lorem ipsum dolor Q sit Z " * 400_000)["ratio"]
    assert time.process_time() - began < 60
    assert 0 < value <= 2 * len(answer) / (10_400_000 + len(answer))


def test_whole_turns_of_the_middle_are_left_out(items: list[MrcrItem]) -> None:
    counter_ = tokenizer()
    for item in items:
        whole = json.loads(item.prompt)
        assert item.messages(counter_, 100_000) == whole
        for limit in (1000, 600, 300):
            cut = item.messages(counter_, limit)
            assert limit - 250 < counter_.count_chat(cut) <= limit
            assert [m["role"] for m in cut] == ["user", "assistant"] * (len(cut) // 2) + ["user"]
            assert cut[-1]["content"].endswith(whole[-1]["content"])
            (marked,) = [n for n, m in enumerate(cut) if "left out here" in m["content"]]
            left_out = len(whole) - len(cut)
            assert cut[marked]["content"].startswith(f"[{left_out} earlier messages are left out here.]")
            assert cut[:marked] == whole[:marked] and cut[marked + 1 :] == whole[left_out + marked + 1 :]
    with pytest.raises(DataError, match="mrcr 0: the last message alone exceeds 20 tokens"):
        items[0].messages(counter_, 20)


def test_a_system_message_stays() -> None:
    turns = [
        {"role": role, "content": f"{role} {n} " + "word " * 40} for n in range(9) for role in ("user", "assistant")
    ]
    chat = [{"role": "system", "content": "Be brief."}, *turns, {"role": "user", "content": "Well?"}]
    cut = fit_chat("x", chat, tokenizer(), 500)
    assert cut[0] == chat[0] and cut[-1]["content"].endswith("Well?") and len(cut) < len(chat)
    assert [m["role"] for m in cut[1:]] == ["user", "assistant"] * (len(cut) // 2 - 1) + ["user"]


def test_flat_prompts_and_the_memory_agent(
    items: list[MrcrItem], records: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = json.loads(records[0]["prompt"])
    question, instruction, text = items[0].problem()
    assert question == messages[-1]["content"] and instruction == ""
    assert text.startswith(f"User:\n{messages[0]['content']}\n\nAssistant:\n{messages[1]['content']}\n\nUser:")
    monkeypatch.setenv("QWENLONG_MRCR_RENDER", "flat")
    write_jsonl(tmp_path / "m.jsonl", records)
    flat = find("mrcr").load(tmp_path / "m.jsonl", None)[0]
    (one,) = flat.messages(tokenizer(), 100_000)
    assert one == {"role": "user", "content": f"{text}\n\nUser:\n{question}"}
    (short,) = flat.messages(tokenizer(), 500)
    assert short["content"].endswith(question) and tokenizer().count_chat([short]) <= 500
    assert "MRCR prompts are one user message with the chat as text" in find("mrcr").assumptions()
    monkeypatch.setenv("QWENLONG_MRCR_RENDER", "pretty")
    with pytest.raises(ConfigError, match="QWENLONG_MRCR_RENDER = 'pretty'"):
        find("mrcr").load(tmp_path / "m.jsonl", None)


def test_bins_are_the_published_ones() -> None:
    borders = [4096 * 2**n for n in range(9)]
    assert bin_of(4095) == "" and bin_of(1_048_577) == ""
    assert bin_of(4096) == bin_of(8192) == "4096-8192"
    for low, high in zip(borders[1:], borders[2:], strict=False):
        assert bin_of(low + 1) == bin_of(high) == f"{low}-{high}"
    assert within(131_072, 0, 131_072) and not within(131_072, 131_072, 524_288)


def _record(n_tokens: int, needles: int = 2) -> dict[str, Any]:
    message = {"role": "user", "content": "x" * (4 * n_tokens - 40)}
    return {
        "prompt": json.dumps([message]),
        "answer": "k7" + "y" * 38,
        "random_string_to_prepend": "k7",
        "n_needles": needles,
        "desired_msg_index": 1,
        "total_messages": 1,
        "n_chars": 4 * n_tokens - 40,
    }


def test_subsets_go_by_length_and_keep_the_record_numbers(tmp_path: Path) -> None:
    lengths = (5000, 131_072, 131_073, 524_288, 600_000, 2_000_000)
    write_jsonl(tmp_path / "m.jsonl", [_record(n, 2 ** (1 + k % 3)) for k, n in enumerate(lengths)])
    found = {
        name: [(item.id, item.slices) for item in find(name).load(tmp_path / "m.jsonl", None)]
        for name in ("mrcr", "mrcr_0_128k", "mrcr_128k_512k", "mrcr_512k_1m")
    }
    assert [name for name, _ in found["mrcr"]] == ["0", "1", "2", "3", "4", "5"]
    assert found["mrcr_0_128k"] == [("0", ("4096-8192",)), ("1", ("65536-131072",))]
    assert found["mrcr_128k_512k"] == [("2", ("131072-262144",)), ("3", ("262144-524288",))]
    assert found["mrcr_512k_1m"] == [("4", ("524288-1048576",))]
    assert {item.group for item in find("mrcr").load(tmp_path / "m.jsonl", None)} == set(find("mrcr").groups)
    write_jsonl(tmp_path / "short.jsonl", [_record(5000)])
    with pytest.raises(DataError, match=r"holds no item of more than 524288 .* set QWENLONG_MRCR_TOKENS"):
        find("mrcr_512k_1m").load(tmp_path / "short.jsonl", None)


def test_lengths_by_a_tokenizer_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWENLONG_MRCR_TOKENS", str(NANO))
    count, said = counter()
    assert count(["a b c"]) == [tokenizer().count("a b c")] and "not the published o200k" in said
    assert any("not the published o200k" in line for line in find("mrcr_0_128k").assumptions())
    monkeypatch.setenv("QWENLONG_MRCR_TOKENS", "gpt-9")
    with pytest.raises(ConfigError, match="QWENLONG_MRCR_TOKENS = 'gpt-9'"):
        counter()


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("no json", "no JSON string"),
        ("[]", "the last of them the user's"),
        ('[{"role": "assistant", "content": "x"}]', "the last of them the user's"),
        ('[{"role": "user", "content": 3}]', "role and content"),
        ('{"role": "user"}', "role and content"),
    ],
)
def test_a_prompt_that_is_no_chat_is_named(prompt: str, fault: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "m.jsonl", [_record(5000), _record(5000) | {"prompt": prompt}])
    with pytest.raises(DataError, match=rf"m\.jsonl, record 2: prompt.*{fault}"):
        find("mrcr").load(tmp_path / "m.jsonl", None)


def test_the_estimate_is_a_fourth_of_the_characters() -> None:
    assert by_characters([{"role": "user", "content": "x" * 9}]) == 3
