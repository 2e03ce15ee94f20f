"""LongMemEval: what the judge is asked by, what the model is shown, and how records are read."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from qwenlong.core.errors import DataError
from qwenlong.core.templates import fill
from qwenlong.core.tokens import Tokenizer
from qwenlong.evaluation.benchmarks.longmemeval import (
    ABSTENTION,
    BENCHMARKS,
    CRITERIA,
    MAX_ANSWER_CHARACTERS,
    LongMemEvalItem,
)
from qwenlong.evaluation.open_question import FOLDER

(LONGMEMEVAL,) = BENCHMARKS
CASES = Path(__file__).resolve().parents[2] / "parity" / "longmemeval" / "cases.jsonl"


def record(**fields: Any) -> dict[str, Any]:
    """A record of the published schema, its sessions not in order of date, as in the oracle file."""
    return {
        "question_id": "q1",
        "question_type": "multi-session",
        "question": "How far did I ride?",
        "answer": 43,
        "question_date": "2023/05/30 (Tue) 23:40",
        "haystack_dates": ["2023/05/21 (Sun) 19:05", "2023/05/03 (Wed) 18:40"],
        "haystack_session_ids": ["answer_2", "answer_1"],
        "haystack_sessions": [
            [{"role": "user", "content": "Then 25 miles.", "has_answer": True}],
            [{"role": "user", "content": "First 18 miles – «quoted»."}, {"role": "assistant", "content": "Well done."}],
        ],
        "answer_session_ids": ["answer_1", "answer_2"],
    } | fields


def load(folder: Path, *records: dict[str, Any]) -> list[LongMemEvalItem]:
    """Read records as a published file."""
    file = folder / "longmemeval_oracle.json"
    file.write_text(json.dumps(records))
    return list(LONGMEMEVAL.load(file, None))


def test_the_judge_is_asked_as_by_the_authors(tmp_path: Path) -> None:
    """Two types share a template exactly where the official program asks them the very same (fixture `kind`)."""
    shared = {
        criterion: ", ".join(sorted(t for t in CRITERIA if CRITERIA[t] == criterion)) for criterion in CRITERIA.values()
    }
    shared[ABSTENTION] = "abstention"
    seen = set()
    for line in CASES.read_text(encoding="utf-8").split("\n"):
        if line:
            case = json.loads(line)
            (item,) = load(tmp_path, case["record"])
            for ask in item.asks(case["response"]).values():
                assert shared[ask.criterion] == case["kind"], case["id"]
                seen.add((case["record"]["question_type"], ask.criterion))
    assert {criterion for _, criterion in seen} == set(shared)
    assert len({kind for kind, criterion in seen if criterion == ABSTENTION}) >= 4


def test_abstention_goes_by_the_id(tmp_path: Path) -> None:
    """Of any type, and is a slice of its own."""
    plain, unknown = load(tmp_path, record(), record(question_id="q1_abs"))
    assert plain.slices == () and unknown.slices == ("abstention",)
    assert plain.group == unknown.group == "multi-session"
    assert unknown.asks("No.")["judge"].criterion == ABSTENTION and plain.asks("No.")["judge"].criterion != ABSTENTION


@pytest.mark.parametrize("criterion", sorted({ABSTENTION, *CRITERIA.values()}))
def test_templates_fence_what_others_wrote(criterion: str) -> None:
    """Question, gold and answer stand between the marks, and the last line says how to end."""
    values = {name: f"<{name}>" for name in ("question", "gold", "answer")} | {"fence": "#mark"}
    text = fill(criterion, values, FOLDER)
    assert re.findall(r"#mark\n(.*)\n#mark", text) == ["<question>", "<gold>", "<answer>"]
    assert "[[YES]]" in text.splitlines()[-1] and "[[NO]]" in text.splitlines()[-1]


def test_verdicts(tmp_path: Path) -> None:
    """Only a verdict in favour counts; without an answer nothing is asked, and nothing counts."""
    (item,) = load(tmp_path, record())
    values = item.score("Therefore, the answer is 43 miles.")
    assert values == {"cover_em_strict": 1.0, "cover_em_loose": 1.0}
    assert [item.judged(values, {"judge": v})["judge"] for v in (True, False, None)] == [1.0, 0.0, 0.0]
    for response in ("", "  \n", "<think>\nTherefore, the answer is 43", "<think>x</think>"):
        assert item.asks(response) == {} and item.judged(item.score(response), {}) == {"judge": 0.0, "official": 0.0}
    assert item.asks("<think>18</think>\nIt was 43.")["judge"].answer == "It was 43."


def test_the_answer_of_a_long_response_is_judged(tmp_path: Path) -> None:
    """Of ten megabytes the answer, at once; conversations that are recited are no answer, in a sentence or not."""
    (item,) = load(tmp_path, record())
    start = time.process_time()
    response = "Let me see. " * 900_000 + "Therefore, the answer is 43."
    assert item.score(response)["cover_em_strict"] == 1.0
    ask = item.asks(response)["judge"]
    assert ask.answer == "43." and ask.gold == ("43",)
    recited = "user: I am 43. " * 1000
    assert len(recited) > MAX_ANSWER_CHARACTERS
    assert item.asks(recited) == item.asks(f"Therefore, the answer is {recited}") == {}
    assert item.score("43 " * 3_000_000) == {"cover_em_strict": 0.0, "cover_em_loose": 0.0}
    assert time.process_time() - start < 8.0


def test_the_history_is_in_order_and_does_not_mark_the_evidence(tmp_path: Path, model: Path) -> None:
    """By date, as JSON, characters as they are; the question stays whole when the middle is cut."""
    (item,) = load(tmp_path, record())
    (message,) = item.messages(Tokenizer(model), 2000)
    text = message["content"]
    assert (
        text.index("2023/05/03")
        < text.index("First 18 miles – «quoted».")
        < text.index("2023/05/21")
        < text.index("25 miles")
    )
    assert "has_answer" not in text and "answer_1" not in text
    assert text.index("25 miles") < text.index("2023/05/30 (Tue) 23:40") < text.index("How far did I ride?")
    session = [{"role": "user", "content": f"Remark number {n}."} for n in range(200)]
    (long,) = load(tmp_path, record(haystack_sessions=[session, session]))
    (message,) = long.messages(Tokenizer(model), 500)
    assert Tokenizer(model).count_chat([message]) <= 500 and "How far did I ride?" in message["content"]
    question, instruction, text = long.problem()
    assert "2023/05/30" in question and "Therefore, the answer is" in instruction and "Remark number 199." in text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"haystack_dates": ["2023/05/21 (Sun) 19:05"]}, "q1 has 1 haystack_dates for 2 haystack_sessions"),
        ({"question_type": "abstention"}, "question_type"),
        ({"haystack_sessions": [[{"role": "user"}], []]}, "content"),
        ({"answer": None}, "answer"),
        ({"question": ""}, "question"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    """With the file and what is wrong."""
    with pytest.raises(DataError, match=said) as error:
        load(tmp_path, record(**fields))
    assert "longmemeval_oracle.json" in str(error.value)


def test_an_id_twice(tmp_path: Path) -> None:
    """Is refused."""
    with pytest.raises(DataError, match="stands twice"):
        load(tmp_path, record(), record())
