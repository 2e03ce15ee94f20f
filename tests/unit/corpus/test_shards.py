"""The pipeline over shards: what it keeps, that it goes on after a kill, that the way of working changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import planted
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from qwenlong.core.config import BenchmarkTexts, CorpusConfig
from qwenlong.core.errors import DataError, QwenlongError, UsageError
from qwenlong.core.files import read_parquet, write_jsonl, write_parquet
from qwenlong.core.records import Document
from qwenlong.corpus import dedup, parallel, shard_files, shards
from qwenlong.corpus.commands import app

ONE = CorpusConfig(workers=1)


def write(folder, documents, sizes=(300,)):
    """Write documents to shards of these sizes in turn."""
    files, begin = [], 0
    while begin < len(documents) or not files:
        size = sizes[len(files) % len(sizes)]
        files.append(folder / f"{len(files):05d}.parquet")
        write_parquet(files[-1], documents[begin : begin + size], Document)
        begin += size
    return files


def kept(out):
    return sorted((d for f in (out / "kept").glob("*.parquet") for d in read_parquet(f, Document)), key=lambda d: d.id)


def files_of(out):
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def documents():
    """500 clean ones, 50 near duplicates, 20 exact ones, 3 that a filter drops, one with a question."""
    made = planted.corpus(3, 500, 50)
    made += [made[n].model_copy(update={"id": f"z{n:04d}", "text": made[n].text.upper() + "!"}) for n in range(20)]
    made += [planted.document(f"q{n}", "short") for n in range(3)]
    return [
        *made,
        planted.document("c0", made[99].text[:600] + " Who was the first to cross the frozen lake in winter?"),
    ]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("benchmark") / "b.jsonl"
    write_jsonl(file, [{"q": "who was the first to cross the frozen lake in winter"}])
    return ONE.model_copy(update={"decontaminate": (BenchmarkTexts(name="lakes", path=str(file), fields=("q",)),)})


def test_planted_duplicates_across_shards(tmp_path, documents, config):
    files = write(tmp_path / "in", documents, (100, 7, 250))
    counts = shards.run(files, tmp_path / "out", config, 5)
    assert [d.id for d in kept(tmp_path / "out")] == [f"a{n:04d}" for n in range(500)]
    assert counts == json.loads((tmp_path / "out" / "counts.json").read_text()) == {
        "shards": len(files),
        "read": 574,
        "kept": 500,
        "dropped": {"contaminated": 1, "duplicate": 20, "near_duplicate": 50, "too_short": 3},
        "contaminated": {"lakes": 1},
    }  # fmt: skip
    by_id = {d.id: d for d in documents}
    assert all(by_id[d.id] == d for d in kept(tmp_path / "out"))


def test_order_and_cut_of_the_shards_and_the_executor_change_nothing(tmp_path, documents, config):
    shards.run(write(tmp_path / "a", documents, (200,)), tmp_path / "one", config, 5)
    two = config.model_copy(update={"workers": 2})
    shards.run(write(tmp_path / "b", documents[::-1], (90, 33)), tmp_path / "two", two, 5)
    assert kept(tmp_path / "one") == kept(tmp_path / "two")
    # The same shards give the same bytes, whoever works on them.
    shards.run(sorted((tmp_path / "a").glob("*.parquet")), tmp_path / "again", two, 5)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "again")


def test_it_keeps_what_dedup_keeps(tmp_path, documents):
    shards.run(write(tmp_path / "in", documents), tmp_path / "out", ONE, 5)
    plain, _ = dedup.near(dedup.exact([d for d in documents if len(d.text) >= 200])[0], 0.8, 5)
    assert kept(tmp_path / "out") == plain


@pytest.mark.parametrize("texts", [[], ["short"], ["", ""]])
def test_nothing_and_next_to_nothing(tmp_path, texts):
    made = [planted.document(f"d{n}", text) for n, text in enumerate(texts)]
    counts = shards.run(write(tmp_path / "in", made), tmp_path / "out", ONE, 5)
    assert (counts["read"], counts["kept"]) == (len(texts), 0)
    assert read_parquet(tmp_path / "out" / "kept" / "00000.parquet", Document) == []
    assert shards.run([], tmp_path / "none", ONE, 5)["read"] == 0


def test_documents_of_fewer_than_five_words(tmp_path):
    config = ONE.model_copy(update={"min_characters": 1})
    made = [planted.document(f"d{n}", text) for n, text in enumerate(["one two", "One, two", "two one", "x"])]
    shards.run(write(tmp_path / "in", made, (1,)), tmp_path / "out", config, 5)
    assert [d.id for d in kept(tmp_path / "out")] == ["d0", "d2", "d3"]


def test_a_second_run_makes_nothing_a_changed_shard_only_itself(tmp_path, documents, config):
    files = write(tmp_path / "in", documents, (200,))
    out = tmp_path / "out"
    shards.run(files, out, config, 5)
    made = {f: f.stat().st_mtime_ns for f in out.rglob("*.parquet")}
    before = files_of(out)
    shards.run(files, out, config, 5)
    assert {f: f.stat().st_mtime_ns for f in out.rglob("*.parquet")} == made
    write_parquet(files[0], documents[1:200], Document)
    assert shards.run(files, out, config, 5)["read"] == 573
    same = {f for f in made if f.stat().st_mtime_ns == made[f]}
    assert {out / "work" / "signed" / "00001.parquet", out / "work" / "signed" / "00002.parquet"} <= same
    assert out / "work" / "signed" / "00000.parquet" not in same
    # Another setting of a filter makes everything anew; fewer shards leave nothing behind.
    strict = config.model_copy(update={"min_characters": 100_000})
    assert shards.run(files[:1], out, strict, 5)["kept"] == 0
    assert [f.name for f in (out / "kept").iterdir()] == ["00000.parquet"]
    write_parquet(files[0], documents[:200], Document)
    shards.run(files, out, config, 5)
    assert files_of(out) == before


@pytest.mark.parametrize("after", ["work/signed/00001.parquet", "work/sets/00000.bin", "kept/00001.parquet"])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path, root, documents, config, after):
    files = write(tmp_path / "in", documents, (120,))
    shards.run(files, tmp_path / "straight", config, 5)
    out = tmp_path / "out"
    (tmp_path / "config.json").write_text(config.model_copy(update={"workers": 2}).model_dump_json())
    code = (
        "import sys; from pathlib import Path; from qwenlong.core.config import CorpusConfig\n"
        "from qwenlong.corpus import shards\n"
        "if __name__ == '__main__':\n"
        "    config = CorpusConfig.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "    shards.run(sys.argv[3:], sys.argv[2], config, 5)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    command = [sys.executable, script, tmp_path / "config.json", out, *files]
    process = subprocess.Popen(
        list(map(str, command)), env={**os.environ, "PYTHONPATH": str(root / "packages")}, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 120
    while not (out / after).exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / after).exists()
    # Workers end by themselves when their parent is gone.
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    finished = {f: f.stat().st_mtime_ns for f in out.rglob("[0-9]*.*") if f.is_file() and not f.name.startswith(".")}
    shards.run(files, out, config, 5)
    assert files_of(out) == files_of(tmp_path / "straight")
    assert {f: f.stat().st_mtime_ns for f in finished} == finished


def test_faults_are_named(tmp_path, documents):
    files = write(tmp_path / "in", documents[:10], (5,))
    with pytest.raises(DataError, match="named twice"):
        shards.run([*files, files[0]], tmp_path / "out", ONE, 5)
    with pytest.raises(DataError, match="does not exist"):
        shards.run([tmp_path / "no.parquet"], tmp_path / "out", ONE, 5)
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DataError, match="not a Parquet file"):
        shards.run([tmp_path / "bad.parquet"], tmp_path / "out", ONE, 5)
    write_parquet(tmp_path / "other.parquet", [BenchmarkTexts(name="b", path="p", fields=("q",))], BenchmarkTexts)
    with pytest.raises(DataError, match="has no column id, source"):
        shards.run([tmp_path / "other.parquet"], tmp_path / "out", ONE, 5)
    write_parquet(tmp_path / "twice.parquet", [documents[9]], Document)
    with pytest.raises(DataError, match=r"id 'a0009' \(in .*00001.parquet and .*twice.parquet\)"):
        shards.run([*files, tmp_path / "twice.parquet"], tmp_path / "out", ONE, 5)
    # Errors of a worker process arrive whole.
    two = CorpusConfig(workers=2)
    with pytest.raises(DataError, match="bad.parquet is not a Parquet file"):
        shards.run([*files, tmp_path / "bad.parquet"], tmp_path / "out", two, 5)


def die(job):
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def test_a_worker_that_dies_is_told():
    with pytest.raises(QwenlongError, match="Lower corpus.workers = 2"):
        parallel.run(die, [{}, {}], "local", 2, "dying")


def test_writing_shards_cuts_by_text_and_goes_on(tmp_path, monkeypatch):
    made = [planted.document(f"d{n}", "x" * 100_000, metadata={"n": n}) for n in range(45)]
    files = shard_files.write_shards(made, tmp_path, megabytes=1, key="k")
    assert [len(read_parquet(f, Document)) for f in files] == [11, 11, 11, 11, 1]
    assert [d for f in files for d in shard_files.documents(f)] == made
    before = {f: f.stat().st_mtime_ns for f in files}

    def unread():
        raise AssertionError("asked for documents though all is written")
        yield

    assert shard_files.write_shards(unread(), tmp_path, megabytes=1, key="k") == files
    # Killed before the end: the index and the last shards are not there.
    (tmp_path / "index.json").unlink()
    files[3].unlink()
    assert shard_files.write_shards(iter(made), tmp_path, megabytes=1, key="k") == files
    assert [f for f in files if f.stat().st_mtime_ns != before[f]] == [files[3]]
    assert [d for f in files for d in shard_files.documents(f)] == made
    # Another key: all anew; fewer: the others are gone.
    assert shard_files.write_shards(iter(made[:3]), tmp_path, megabytes=1, key="l") == files[:1]
    assert sorted(f.name for f in tmp_path.glob("*.parquet")) == ["00000.parquet"]
    assert shard_files.write_shards([], tmp_path, megabytes=1) == []
    with pytest.raises(DataError, match="'bad': text is not Unicode"):
        shard_files.write_shards([planted.document("bad", "\ud800")], tmp_path)


def test_commands(tmp_path, documents, config):
    write(tmp_path / "in", documents, (300,))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"corpus": config.model_dump(mode="json")}))
    runner = CliRunner()
    arguments = ["shards", str(tmp_path / "in"), "--config", str(file), "--out", str(tmp_path / "out")]
    done = runner.invoke(app, arguments, catch_exceptions=False).stdout
    assert "574 documents in 2 shards, 500 kept" in done and "contaminated, lakes: 1" in done
    again = runner.invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout
    assert json.loads(again)["kept"] == 500
    assert (tmp_path / "out" / "counts.json.provenance.json").exists()
    rows = [{"id": "x", "question": "Who was the FIRST to cross the frozen lake, in winter?"}, {"question": "Why?"}]
    write_jsonl(tmp_path / "q.jsonl", rows)
    asked = ["contaminated", str(tmp_path / "q.jsonl"), "--config", str(file)]
    found = json.loads(runner.invoke(app, [*asked, "--json"], catch_exceptions=False).stdout)
    assert found == {"clean": 1, "contaminated": {"x": ["lakes"]}, "benchmarks": {"lakes": 1}}
    assert "2 questions, 1 contaminated" in runner.invoke(app, asked, catch_exceptions=False).stdout
    with pytest.raises(UsageError, match="no record has text in body"):
        runner.invoke(app, [*asked, "--field", "body"], catch_exceptions=False)


@pytest.mark.engines
def test_ray_data_makes_the_same_bytes(tmp_path, documents, config):
    files = write(tmp_path / "in", documents, (200,))
    shards.run(files, tmp_path / "local", config, 5)
    ray = config.model_copy(update={"executor": "ray", "workers": 2})
    shards.run(files, tmp_path / "ray", ray, 5)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(QwenlongError, match="not a Parquet file"):
        shards.run([tmp_path / "bad.parquet"], tmp_path / "out", ray, 5)
