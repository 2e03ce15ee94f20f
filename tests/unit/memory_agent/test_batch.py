"""Lists and their faults, results and their counts, journals and their damage."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from agent_helpers import endpoint
from batch_helpers import ENVIRONMENT, counting, records, start, words, write_list
from typer.testing import CliRunner

from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.tokens import Tokenizer
from qwenlong.memory_agent import journal
from qwenlong.memory_agent.batch_items import read_items
from qwenlong.memory_agent.commands import app
from qwenlong.memory_agent.journal import Journal
from qwenlong.memory_agent.lockstep import Lockstep
from qwenlong.memory_agent.loop import Step, Turn

RUN = CliRunner()


def remember(request: dict[str, Any]) -> tuple[int, dict[str, Any] | str]:
    """Reply as a model that keeps names of days."""
    prompt = request["messages"][0]["content"]
    if prompt.startswith("Split"):
        return 200, "<question>" + prompt.rpartition("Request:\n")[2] + "</question>"
    return 200, "<memory>days</memory>" if "Section" in prompt else "nine days"


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        (['{"id": "a", "question": "Q?"}'], ["line 1: give either document"]),
        (['{"id": "a", "question": "Q?", "text": "t", "document": "d.txt"}'], ["line 1: give either document"]),
        (['{"id": "a", "question": " ", "text": "t"}'], ["line 1: question = ' '"]),
        (['{"question": "Q?", "text": "t"}'], ["line 1: id: Field required"]),
        (['{"id": "a", "question": "Q?", "text": "t", "answer": 1}'], ["line 1: answer = '1': Extra inputs"]),
        (['{"id": "a", "question": "Q?", "document": ["d.txt", 3]}'], ["line 1: document"]),
        (['{"id": "a", "question": "Q?", "document": []}'], ["line 1: give either document"]),
        (["{"], ["line 1: Invalid JSON"]),
        (
            ['{"id": "a", "question": "Q?", "text": "t"}', "", '{"id": "a", "question": "R?", "document": "no.txt"}'],
            ["line 3: id 'a' stands in line 1 already", "line 3: no document", "no.txt"],
        ),
        ([""], ["holds no item"]),
    ],
)
def test_a_list_is_checked_before_anything_is_asked(tmp_path: Path, lines: list[str], faults: list[str]) -> None:
    """Each fault stands with its line; a number is an id like any other."""
    (tmp_path / "d.txt").write_text("text")
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as refused:
        read_items(tmp_path / "in.jsonl")
    assert all(fault in str(refused.value) for fault in faults), refused.value
    (tmp_path / "in.jsonl").write_text('\ufeff{"id": 7, "question": "Q?", "document": ["d.txt"]}\n')
    item = read_items(tmp_path / "in.jsonl")[0]
    assert item.id == "7" and item.paths(tmp_path) == [tmp_path / "d.txt"]


def test_many_faults_are_counted(tmp_path: Path) -> None:
    """A list of a thousand bad lines gives a message that can be read."""
    (tmp_path / "in.jsonl").write_text("nonsense\n" * 1000)
    with pytest.raises(DataError, match="line 10: .*; and 990 more; mend them, nothing was asked"):
        read_items(tmp_path / "in.jsonl")


def test_results_stand_in_the_order_of_the_list(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A text, several documents, a document that cannot be read: three records, one failed by name, exit code 1."""
    (tmp_path / "a.txt").write_text("It rained for nine days. ")
    (tmp_path / "b.txt").write_text("Then it stopped. ")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    rows: list[dict[str, Any]] = [
        {"id": "bad one", "question": "How long?", "document": "bad.txt"},
        {"id": "two/docs", "question": "How long?", "document": ["a.txt", "b.txt"], "format": "Days."},
        {"id": "text", "question": "How long?", "text": "It rained and rained. " * 40},
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "deep" / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace = ("--trace", str(tmp_path / "pages"))
    with endpoint(remember) as (url, requests):
        done = RUN.invoke(app, words(source, out, url, tokenizer.folder, *trace))
        asked = len(requests)
        assert done.exit_code == 1 and "1 of 3 items failed: bad one (DataError)" in done.output, done.output
        (tmp_path / "bad.txt").write_text("Two days, I think.")
        again = RUN.invoke(app, words(source, out, url, tokenizer.folder, "--json"))
        # Only what failed is asked; the others are read.
        assert again.exit_code == 0 and len(requests) == asked + 3, again.output
    found = records(out)
    assert list(found) == ["bad one", "two/docs", "text"]
    totals = json.loads(again.stdout)
    assert totals == {"items": 3, "answered": 3, "finished_before": 2, "calls": 3, "failed": {}, "unclean": []}
    one = found["two/docs"]
    assert one["answer"] == "nine days" and one["error"] is None and one["model"] == "m" and one["clean"] is True
    assert one["calls"] == one["chunks"]["total"] + 1 == len(one["steps"])
    assert found["text"]["calls"] == found["text"]["chunks"]["total"] + 2
    assert len({row["settings"] for row in found.values()}) == 1
    pages = sorted(page.name for page in (tmp_path / "pages").iterdir())
    assert len(pages) == 2 and pages[0] == "text.html" and pages[1].startswith("two_docs-")
    # The page that is missing is made from the journal, without the endpoint.
    done = RUN.invoke(app, words(source, out, url, tokenizer.folder, *trace))
    assert done.exit_code == 0 and len(list((tmp_path / "pages").iterdir())) == 3, done.output


def test_a_batch_gives_up_on_an_endpoint_that_denies(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """After a refused key no more is asked; all items are failed by name and asked by the next run."""
    source = write_list(tmp_path, 12, 2)
    key = ("--concurrency", "2", "--retries", "0", "--timeout", "5")
    with endpoint(lambda request: (401, {"error": "no such key"})) as (url, requests):
        done = RUN.invoke(app, words(source, tmp_path / "out.jsonl", url, tokenizer.folder, *key))
        assert done.exit_code == 1 and "12 of 12 items failed: q000" in done.output and len(requests) <= 4
    found = records(tmp_path / "out.jsonl")
    kinds = Counter(row["error"] for row in found.values())
    assert kinds["Rejected"] == len(requests) and kinds["Rejected"] + kinds["NotAsked"] == 12
    assert all(sum(row["chunks"].values()) == 2 * row["chunks"]["total"] for row in found.values())
    with endpoint(remember) as (url, _):
        done = RUN.invoke(app, words(source, tmp_path / "out.jsonl", url, tokenizer.folder, *key))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--concurrency", "0"], 2, "--concurrency"),
        (["--tokenizer", "no/such"], 2, "no tokenizer 'no/such'"),
        (["--window", "60"], 1, "4 of 4 items failed: q000 (UsageError)"),
    ],
)
def test_wrong_usage_of_a_batch_is_named(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, more: list[str], code: int, message: str
) -> None:
    """Nothing is asked."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = write_list(tmp_path, 4, 2)
    with endpoint(remember) as (url, requests):
        done = RUN.invoke(app, words(source, tmp_path / "out.jsonl", url, tokenizer.folder, *more))
        assert done.exit_code == code and message in " ".join(done.output.split()) and requests == [], done.output
        same = RUN.invoke(app, words(source, source, url, tokenizer.folder))
        assert same.exit_code == 2 and "cannot be the output" in same.output


def test_two_batches_on_one_journal_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The second names the first; the first is not disturbed."""
    source, log = write_list(tmp_path, 4, 3), tmp_path / "log.txt"
    with counting(delay=300) as server:
        line = words(source, tmp_path / "out.jsonl", server.url, tokenizer.folder)
        first = start(line, log)
        try:
            while server.count() < 4:
                assert first.poll() is None, log.read_text()
            second = start(line, tmp_path / "second.txt")
            assert second.wait(timeout=60) == 1 and server.count() == 4
            said = (tmp_path / "second.txt").read_text()
            assert f"another agent batch (pid {first.pid}" in said and "Traceback" not in said
            assert first.poll() is None, log.read_text()
        finally:
            first.kill()
            first.wait()


def turns(count: int) -> list[tuple[str, Turn]]:
    """Return turns by name."""
    return [(f"k{n}", Turn(f"reply – {n}\r\n\u2028", "stop", n_prompt_tokens=n)) for n in range(count)]


def fill(path: Path, count: int = 5) -> bytes:
    """Write a journal; return its bytes."""
    with Journal(path, {"question": "Q?", "model": "m"}) as book:
        for key, turn in turns(count):
            book.put(key, turn)
    return path.read_bytes()


def test_every_torn_tail_is_dropped(tmp_path: Path) -> None:
    """Cut at any byte of the last line, the others stand, and what is written next does too."""
    path = tmp_path / "j.jsonl"
    data = fill(path)
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(data) + 1):
        path.write_bytes(data[:cut])
        with Journal(path, {"question": "Q?", "model": "m"}) as book:
            # All but the newline is the whole line.
            assert len(book) == (5 if cut >= len(data) - 1 else 4), cut
            book.put("new", Turn("x", "stop"))
        with Journal(path, {"question": "Q?", "model": "m"}) as book:
            assert book.get("new") == Turn("x", "stop") and book.get("k3") == dict(turns(5))["k3"]


def test_a_damaged_line_costs_its_own_turn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Any changed byte of a line in the middle is noticed; the line is named and its turn is gone, the others stay."""
    path = tmp_path / "j.jsonl"
    data = fill(path)
    starts = [at + 1 for at, byte in enumerate(data) if byte == 10]
    for at in range(starts[1], starts[2] - 1, 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        caplog.clear()
        with Journal(path, {"question": "Q?", "model": "m"}) as book:
            assert book.get("k1") is None and len(book) == 4
        assert "1 of 6 lines are not as they were written (line 3)" in caplog.text
    # Without its first line the file does not say whose it is; its turns carry that in their keys.
    path.write_bytes(b"X" + data[1:])
    with Journal(path, {"question": "Q?", "model": "m"}) as book:
        assert len(book) == 5
    with pytest.raises(DataError, match="belongs to something else: model is 'm' there and 'other' here"):
        Journal(path, {"question": "Q?", "model": "other"})


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    """Files of other kinds and versions are refused by name, and stay as they are."""
    path = tmp_path / "j.jsonl"
    for data, message in (
        (b"my notes\nof today\n", "no line of it is a journal's"),
        (b'{"key": "a", "turn": {}}\n', "no line of it is a journal's"),
        (journal.encode({"journal": 1, "belongs_to": {}}), "has version 1, not 2"),
        (journal.encode({"key": "a", "turn": {"words": "x"}}), "written by another version"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            Journal(path)
        assert path.read_bytes() == data
    path.write_bytes(b"")
    with Journal(path) as book:
        assert len(book) == 0
        with pytest.raises(UsageError, match="in use by another process"):
            Journal(path)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """A turn that does not fit is an error that says so; the journal ends with the turn before it."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from qwenlong.memory_agent.journal import Journal; from qwenlong.memory_agent.loop import Turn\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
        "book = Journal(Path(sys.argv[1]))\n"
        "[book.put(str(n), Turn('x' * 100, 'stop')) for n in range(9)]\n"
    )
    path = tmp_path / "j.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1 and "cannot write" in done.stderr and "Free space" in done.stderr
    assert path.read_bytes().endswith(b"\n")
    with Journal(path) as book:
        assert 0 < len(book) < 9


def test_nobody_reads_on_while_others_are_behind() -> None:
    """Members of unequal speed read each section together; one that fails and one that ends early hold up nobody."""
    read: list[tuple[str, int]] = []

    async def one(group: Lockstep, name: str, sections: int, pause: float) -> None:
        try:
            for section in range(sections):
                await group.turn(name)
                read.append((name, section))
                await asyncio.sleep(pause)
                group.step(name, Step(section, "update", "ok", Turn("", "stop"), "", "", section))
            if name == "c":
                raise DataError("gone")
        except DataError:
            pass
        finally:
            group.leave(name)

    async def all_of_them() -> None:
        group = Lockstep("abc")
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            for name, sections, pause in (("a", 6, 0.0), ("b", 6, 0.01), ("c", 2, 0.0)):
                tasks.create_task(one(group, name, sections, pause))

    asyncio.run(all_of_them())
    assert [section for _, section in read] == sorted(section for _, section in read)
    assert Counter(name for name, _ in read) == {"a": 6, "b": 6, "c": 2}
