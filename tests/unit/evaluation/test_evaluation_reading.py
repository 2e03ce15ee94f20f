"""Files of the published schemas: every form, and what is wrong with a file said with its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qwenlong.core.errors import DataError
from qwenlong.evaluation.reading import Published, read_records


class Record(Published):
    """A small schema."""

    question: str
    answer: str


ROWS = [{"question": f"Which line ends {n}? \u2028 \u0085 fin", "answer": f"{n:03d}", "more": [n]} for n in range(200)]
EXPECTED = [Record(question=row["question"], answer=row["answer"]) for row in ROWS]


def write(folder: Path, form: str) -> Path:
    """Write ROWS in a form."""
    file = folder / f"items.{form.partition('+')[0]}"
    lines = [json.dumps(row, ensure_ascii=form != "jsonl") for row in ROWS]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=7)
    elif form == "csv":
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["question", "answer"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(ROWS)
    elif form.startswith("jsonl"):
        file.write_text("\ufeff" * form.endswith("bom") + "\r\n".join(lines) + "\n\n", encoding="utf-8")
    else:
        file.write_text("\ufeff \n" * form.endswith("bom") + json.dumps(ROWS, indent=1), encoding="utf-8")
    return file


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "jsonl+bom", "json", "json+bom"])
def test_every_form_gives_the_same_records(form: str, tmp_path: Path) -> None:
    """Line separators inside of strings are no ends of lines."""
    assert read_records(write(tmp_path, form), Record) == EXPECTED


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    """Hidden files and others are left alone."""
    for name, rows in (("b/1.jsonl", ROWS[2:3]), ("a.jsonl", ROWS[:2]), (".cache/x.jsonl", ROWS[5:6])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "README.md").write_text("no records")
    (tmp_path / "fetched.json").write_text("{}")
    assert read_records(tmp_path, Record) == EXPECTED[:3]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no \.parquet"):
        read_records(tmp_path / "empty", Record)


def test_a_field_of_megabytes_in_a_csv(tmp_path: Path) -> None:
    """Documents exceed the csv module's limit; it is as it was afterwards."""
    before = csv.field_size_limit()
    (tmp_path / "x.csv").write_text("question,answer\n" + '"' + "long " * 400_000 + '",a\n')
    assert len(read_records(tmp_path / "x.csv", Record)[0].question) == 2_000_000
    assert csv.field_size_limit() == before


BAD = {
    "wrong field.jsonl": (
        b'{"question": "q", "answer": "a"}\n{"question": "q"}\n',
        r"record 2: answer: Field required",
    ),
    "wrong type.json": (b'[{"question": 1, "answer": "a"}]', r"record 1: question: .*string.*schema has question, ans"),
    "no object.jsonl": (b"[1]\n", r"record 1"),
    "latin.jsonl": (b'{"question": "q", "answer": "a"}\n{"question": "caf\xe9"}\n', r"not UTF-8 \(byte 50\)"),
    "latin.csv": (b"question,answer\ncaf\xe9,b\n", r"not UTF-8 \(byte 19\)"),
    "torn.jsonl": (b'{"question": "q", "answer": "a"}\n{"question": "q", "ans', r"line 2: is not JSON"),
    "torn.json": (b'[{"question": "q", "answer": "a"},\n', r"line 2: is not JSON"),
    "half.jsonl": (b'{"question": "\\ud83d", "answer": "a"}', r"line 1: a string holds half a character"),
    "half.json": (b'[{"question": "q", "answer": "a"}, {"question": "\\uD83D\\u0041"}]', "holds half a character"),
    "empty.jsonl": (b"", "holds no record"),
    "empty.json": (b"[]", "holds no record"),
    "header.csv": (b"question,answer\n", "holds no record"),
    "ragged.csv": (b"question,answer\nq,a\nq\n", r"line 3: not as many fields"),
    "quote.csv": (b'question,answer\nq,"a\n', r"is not CSV"),
    "deep.jsonl": (b'{"a":' * 100_000, r"line 1: is nested too deeply"),
    "number.jsonl": (b'{"question": ' + b"1" * 5000 + b"}", r"line 1: .*too long a number"),
    "pointer.parquet": (b"version x:y/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12\n", "pointer of Git LFS"),
    "page.json": (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
    "text.parquet": (b"question,answer\n", "no whole Parquet file"),
    "empty.parquet": (b"", "no whole Parquet file"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_what_is_wrong_is_said_with_its_place(name: str, tmp_path: Path) -> None:
    """Every message names the file."""
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as raised:
        read_records(tmp_path / name, Record)
    assert name in str(raised.value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_parquet_file_cut_short(share: float, tmp_path: Path) -> None:
    """And one whose pages went bad."""
    file = write(tmp_path, "parquet")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"items\.parquet is no whole Parquet file"):
        read_records(file, Record)
    pq.write_table(pa.Table.from_pylist(ROWS), file, write_page_checksum=True, compression="zstd")
    data = bytearray(file.read_bytes())
    data[40:60] = bytes(20)
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"items\.parquet is no whole Parquet file"):
        read_records(file, Record)


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    """Other writers do not check it."""
    table = pa.table({"question": pa.array([b"caf\xe9"], pa.binary()), "answer": pa.array(["a"])})
    spoilt = table.set_column(0, "question", table["question"].cast(pa.string(), safe=False))
    pq.write_table(spoilt, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet"):
        read_records(tmp_path / "x.parquet", Record)
