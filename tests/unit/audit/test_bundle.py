"""Bundles as a user makes and verifies them: the same bytes, any edit named, what is missing, killed, at once."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from made_up_runs import configuration, make
from qwenlong.audit.bundles import collect, layout
from qwenlong.audit.commands import app
from qwenlong.core.errors import DataError, UsageError
from qwenlong.core.files import digest_value

RUN = CliRunner()
#: Few models and items: a bundle takes seconds.
MODELS = ("base", "rl_3", "memory_rl")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one scale, one seed of another."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (17, 18):
        make(root, "nano", seed, models=MODELS, rows=(), items=4, steps=4)
    make(root, "smollm2", 17, models=("base",), rows=(), items=4, steps=4)
    configuration(root, "smollm2", 18, rows=())
    return root


def words(root: Path, out: Path, *names: str) -> list[str]:
    """The command that bundles runs of the fixture."""
    chosen = names or ("nano-s17", "nano-s18", "smollm2-s17")
    given = [word for name in chosen for word in ("--config", str(root / f"{name}.yaml"))]
    return ["bundle", *(str(root / "results" / name) for name in chosen), *given, "--out", str(out)]


@pytest.fixture(scope="module")
def whole(runs: Path) -> Path:
    """A bundle of all runs, and of one that is planned."""
    out = runs / "whole"
    done = RUN.invoke(app, [*words(runs, out), "--planned", str(runs / "smollm2-s18.yaml")])
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def small(runs: Path) -> Path:
    """A bundle of one run with one model."""
    out = runs / "small"
    done = RUN.invoke(app, words(runs, out, "smollm2-s17"))
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """The small bundle, to be spoilt."""
    return Path(shutil.copytree(small, tmp_path / "small"))


def verify(bundle: Path) -> tuple[int, list[str]]:
    """The exit code of `audit verify`, and the faults that it names."""
    done = RUN.invoke(app, ["verify", str(bundle), "--json"])
    return done.exit_code, json.loads(done.stdout)["changed"] if done.stdout.startswith("{") else [done.output]


def test_whole_bundle_verifies(whole: Path) -> None:
    """Every score is made again, every page follows; nothing of the machine is in it."""
    done = RUN.invoke(app, ["verify", str(whole)])
    assert done.exit_code == 0 and "4 runs, 14 scores" in done.stdout and "0 differences" in done.stdout, done.output
    for file in whole.rglob("*"):
        if file.is_file():
            data = layout.unpacked(file) if file.suffix == ".gz" else file.read_bytes()
            assert str(whole.parent).encode() not in data, file


def test_seeds_and_verdicts(whole: Path) -> None:
    """Two seeds give verdicts, one gives none, none gives the command; the table's mean is that of the scores."""
    values = json.loads((whole / "report" / "tables.json").read_text())
    claims = {(v["scale"], v["id"]): v for v in values["claims"]}
    lifts = claims["nano", "memory_rl_lifts_agent"]
    assert lifts["status"] in ("supported", "undecided", "reproduced")
    assert lifts["seeds"] == 2 and len(lifts["by_seed"]) == 2
    assert claims["smollm2", "memory_rl_lifts_agent"]["status"] == "not run"
    table = next(t for t in values["tables"] if t["scale"] == "nano" and t["name"] == "table10")
    base = table["rows"][0]["cells"]["avg"]
    stored = []
    for seed in (17, 18):
        file = whole / f"runs/nano-s{seed}/evaluation/base/heldout/scores.json.gz"
        stored.append(100 * json.loads(layout.unpacked(file))["metrics"]["avg"]["value"])
    assert base["value"] == pytest.approx(sum(stored) / 2, abs=1e-5) and base["n"] == 20 and base["seeds"] == 2
    assert [source["seed"] for source in base["sources"]] == [17, 18]
    one = next(t for t in values["tables"] if t["scale"] == "smollm2" and t["name"] == "table10")
    assert one["rows"][0]["cells"]["avg"]["seeds"] == 1
    missing = one["rows"][7]["cells"]["avg"]
    assert missing["value"] is None and len(missing["commands"]) == 2 and "smollm2-s18" in missing["commands"][1]
    page = (whole / "report" / "tables.html").read_text()
    assert "seen once" in page and "snakemake --cores all" in page
    assert "<script>alert" not in page and "http-equiv" in page


def test_times_stand_beside_floors(whole: Path) -> None:
    """Cards come from the runs' records; tokens, MFU and floors from metrics; minutes of tables over the seeds."""
    values = json.loads((whole / "report" / "tables.json").read_text())["efficiency"]
    assert {(one["part"], one["minutes"], one["complete"]) for one in values["held"]} >= {
        ("nano_stages-s17", 10.0, True)
    }
    stage = next(s for s in values["stages"] if s["run"] == "nano-s17" and s["stage"] == "rl_3")
    assert 0 < stage["mfu"] < 1 and stage["ratio"]["gen"] == pytest.approx(2.5 / stage["floor"]["gen"], rel=1e-4)
    # Steps 2 to 4 of 512 rollouts with 42, 43 and 44 tokens: the median.
    assert stage["rollout_tokens"] == pytest.approx(512 * 43 / 2.5, rel=1e-4)
    table = next(t for t in values["tables"] if t["scale"] == "nano" and t["table"] == "table10")
    assert table["machines"] == ["NVIDIA H200"]
    assert table["seeds"] == 2 and table["asking"] == pytest.approx(2 * 6 * 12.5 / 60, rel=1e-4)


def test_the_configuration_is_found(runs: Path, tmp_path: Path) -> None:
    """Of several that the workflow left, the one of the latest scores; none that is beyond doubt is refused."""
    root = tmp_path / "results"
    shutil.copytree(runs / "results/nano-s17", root)
    (root / "state/configs").mkdir(parents=True)
    shutil.copy(runs / "nano-s17.yaml", root / "state/configs/a.yaml")
    assert collect.configuration(root, None).run.seed == 17
    shutil.copy(runs / "nano-s18.yaml", root / "state/configs/b.yaml")
    with pytest.raises(UsageError, match="beyond doubt"):
        collect.configuration(root, None)
    file = root / "evaluation/base/heldout/scores.json.provenance.json"
    value = json.loads(file.read_text())
    value |= {"command": ["evaluate", "score", "--config", "x/b.yaml", "--out", "y"], "written": "2999"}
    file.write_text(json.dumps(value))
    assert collect.configuration(root, None).run.seed == 18


def test_published_numbers_each_have_a_status(whole: Path) -> None:
    """All of claims.yaml's numbers; Tables 7-9, 11, 12 and Figures 1, 3, 7, 12 are run, or not testable and why."""
    with (whole / "report" / "published.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) > 350 and all(row["status"] and row["because"] for row in rows)
    values = {e["key"]: e for e in json.loads((whole / "report" / "tables.json").read_text())["published"]}
    for name in ("table7", "table8", "table9", "table11", "table12", "figure1", "figure3", "figure7", "figure12"):
        assert values[name]["status"] == "not testable here" and values[name]["because"], name
    assert values["table10"]["status"] == "ours beside it" and values["table5"]["status"] == "not run yet"


def test_the_same_runs_give_the_same_bytes(runs: Path, small: Path, tmp_path: Path) -> None:
    """From elsewhere, and over an older bundle; `report --bundle` writes the same site."""
    elsewhere = tmp_path / "moved"
    shutil.copytree(runs / "results" / "smollm2-s17", elsewhere / "results" / "smollm2-s17")
    shutil.copy(runs / "smollm2-s17.yaml", elsewhere)
    out = tmp_path / "small"
    for _ in range(2):
        assert RUN.invoke(app, words(elsewhere, out, "smollm2-s17")).exit_code == 0
    before = (out / "manifest.json").read_bytes()
    assert before == (small / "manifest.json").read_bytes()
    assert RUN.invoke(app, ["report", "--bundle", str(out)]).exit_code == 0
    assert (out / "manifest.json").read_bytes() == before


def prediction(bundle: Path) -> str:
    """Turn a right answer into a wrong one, in a whole gzip file."""
    file = bundle / "runs/smollm2-s17/evaluation/base/heldout/predictions.jsonl.gz"
    lines = layout.unpacked(file).decode().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if "the answer is nothing" not in line)
    lines[at] = lines[at].replace("the answer is ", "the answer is not")
    file.write_bytes(layout.pack("".join(lines).encode()))
    return str(json.loads(lines[at])["id"])


def flipped(bundle: Path) -> str:
    """Flip one bit of a gzip file."""
    file = bundle / "runs/smollm2-s17/evaluation/base/heldout/predictions.jsonl.gz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    return "predictions.jsonl.gz"


def digit(name: str) -> Callable[[Path], str]:
    """Change one digit of the base model's average in a file of the report."""

    def spoil(bundle: Path) -> str:
        values = json.loads((bundle / "report/tables.json").read_text())
        cell = values["tables"][0]["rows"][0]["cells"]["avg"]["value"]
        text = str(cell) if name.endswith(".json") else f"{cell:.6g}" if name.endswith(".csv") else f"{cell:.1f}"
        file = bundle / "report" / name
        content = file.read_text()
        assert text in content
        wrong = text[:-1] + str((int(text[-1]) + 1) % 10)
        file.write_text(content.replace(text, wrong, 1))
        return wrong if not name.endswith(".html") else text

    return spoil


def setting(bundle: Path) -> str:
    """Change one value of a run's configuration."""
    file = bundle / "runs/smollm2-s17/config.yaml"
    text = file.read_text()
    assert "learning_rate: 2.0e-06" in text
    file.write_text(text.replace("learning_rate: 2.0e-06", "learning_rate: 3.0e-06", 1))
    return "learning_rate = 3e-06, expected 2e-06"


def gone(bundle: Path) -> str:
    """Take a run away."""
    shutil.rmtree(bundle / "runs/smollm2-s17")
    return "seed 17"


def added(bundle: Path) -> str:
    """Put a number into the report that no file gives."""
    file = bundle / "report/tables.json"
    values = json.loads(file.read_text())
    values["tables"][0]["rows"][7]["cells"]["avg"]["value"] = 99.0
    file.write_text(json.dumps(values))
    return "smollm2.table10.full_context_rl_stage_4.avg is a number without a source"


REPORTED = ("tables.json", "tables.csv", "tables.md", "tables.html", "index.html", "runs/smollm2-s17/report.html")


@pytest.mark.parametrize("edits", [[prediction, setting], [flipped], [*map(digit, REPORTED)], [gone], [added]])
def test_an_edit_is_named(copy: Path, edits: list[Callable[[Path], str]]) -> None:
    """Exit code 1, and lines that name the file, the place, the value and what was expected."""
    named = [spoil(copy) for spoil in edits]
    code, faults = verify(copy)
    assert code == 1
    for text in named:
        assert any(text in line for line in faults), (text, faults)
    if len(named) == len(REPORTED):
        for name in REPORTED:
            assert any(f"report/{name}: " in line and "SHA" not in line and "expected" in line for line in faults), name


def test_an_edit_with_a_new_manifest_is_named_too(copy: Path) -> None:
    """Digests alone are not what is trusted: scores, tables and settings are made again."""
    named = [spoil(copy) for spoil in (prediction, setting)]
    layout.write_manifest(copy)
    code, faults = verify(copy)
    assert code == 1 and all(any(text in line and "expected" in line for line in faults) for text in named), faults
    assert any("report/tables.json: " in line for line in faults)


def test_a_file_that_cannot_be_read_is_an_edit_whatever_the_manifest_says(copy: Path) -> None:
    """Exit code 1 and not that of wrong usage: a setting that no configuration may have."""
    file = copy / "runs/smollm2-s17/config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 2.0e-06", "learning_rate: fast", 1))
    layout.write_manifest(copy)
    code, faults = verify(copy)
    assert code == 1 and any("config.yaml: training.learning_rate" in line for line in faults), faults


def test_settings_in_a_sidecar_are_those_of_their_digest(runs: Path, tmp_path: Path) -> None:
    """An edited one is named; where folders of the machine are taken out of them, they still agree."""
    results = tmp_path / "results"
    shutil.copytree(runs / "results" / "smollm2-s17", results)
    side = results / "evaluation/base/heldout/predictions.jsonl.provenance.json"
    value = json.loads(side.read_text())
    value["config"]["values"]["run"] = {"results": str(results)}
    value["config"]["digest"] = digest_value(value["config"]["values"])
    side.write_text(json.dumps(value))
    out = tmp_path / "bundle"
    done = RUN.invoke(app, ["bundle", str(results), "--config", str(runs / "smollm2-s17.yaml"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert verify(out) == (0, [])
    inside = out / "runs/smollm2-s17/evaluation/base/heldout/predictions.jsonl.provenance.json"
    assert str(tmp_path) not in inside.read_text()
    value = json.loads(inside.read_text())
    value["config"]["values"]["run"]["results"] = "elsewhere"
    inside.write_text(json.dumps(value))
    layout.write_manifest(out)
    code, faults = verify(out)
    named = "runs/smollm2-s17/evaluation/base/heldout/predictions.jsonl: its sidecar's config.values give"
    assert code == 1 and any(named in line and "expected" in line for line in faults), faults


def test_a_new_page_vouches_for_no_prediction(copy: Path) -> None:
    """After an edit, `report --bundle` renews the digests of the site alone."""
    prediction(copy)
    before = layout.read_manifest(copy)
    assert RUN.invoke(app, ["report", "--bundle", str(copy)]).exit_code == 0
    after = layout.read_manifest(copy)
    assert {name for name in after if after[name] != before.get(name)} == set()
    code, faults = verify(copy)
    assert code == 1 and any("predictions.jsonl.gz: SHA-256" in line for line in faults)


def test_files_that_are_not_there_or_not_known(copy: Path, tmp_path: Path) -> None:
    """A file more, a file less, a link, no manifest; a folder that is no bundle."""
    (copy / "runs/smollm2-s17/evaluation/base/heldout/run.json").unlink()
    (copy / "report/more.html").write_text("12.3")
    code, faults = verify(copy)
    assert code == 1 and any("run.json: is missing" in line for line in faults)
    assert any("more.html: follows from no run" in line for line in faults)
    (copy / layout.MANIFEST).unlink()
    assert any("manifest.json is missing" in line for line in verify(copy)[1])
    (copy / "link").symlink_to("/etc/passwd")
    code, faults = verify(copy)
    assert code == 1 and any("is a link" in line for line in faults)
    (tmp_path / "none").mkdir()
    assert RUN.invoke(app, ["report", "--bundle", str(tmp_path / "none")]).exit_code == 1


def test_runs_that_are_not_whole(runs: Path, tmp_path: Path) -> None:
    """What has no sidecar, or is not what its sidecar says, is left out and named; an empty folder is refused."""
    root = tmp_path / "runs"
    shutil.copytree(runs / "results/nano-s17", root / "results/nano-s17")
    shutil.copy(runs / "nano-s17.yaml", root)
    place = root / "results/nano-s17/evaluation"
    (place / "base/heldout/scores.json.provenance.json").unlink()
    with (place / "rl_3/heldout/predictions.jsonl").open("a") as stream:
        stream.write("\n")
    (place / "memory_rl/heldout/scores.json").unlink()
    done = RUN.invoke(app, [*words(root, tmp_path / "out", "nano-s17"), "--json"])
    left = json.loads(done.stdout)["left_out"]["nano-s17"]
    assert len(left) == 3 and "is missing" in left[0] and "is not what its sidecar says" in left[2], left
    assert verify(tmp_path / "out")[0] == 0
    shutil.rmtree(place)
    shutil.rmtree(root / "results/nano-s17/stages")
    shutil.rmtree(root / "results/nano-s17/models")
    refused = RUN.invoke(app, words(root, tmp_path / "empty", "nano-s17"))
    assert refused.exit_code == 1 and "nothing to keep" in refused.output and not (tmp_path / "empty").exists()


def test_runs_of_earlier_bundles(runs: Path, whole: Path, small: Path, tmp_path: Path) -> None:
    """Without their results folders runs are taken over as they are; a results folder takes the place of its run."""

    def made(out: Path, *given: Path, config: str = "") -> dict[str, str]:
        options = ["--config", str(runs / config)] if config else []
        done = RUN.invoke(app, ["bundle", *map(str, given), *options, "--out", str(out)])
        assert done.exit_code == 0, done.output
        return layout.read_manifest(out)

    index = layout.read_index(whole)
    # Onto itself, with a run of its own made anew: the same bytes but for the place.
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    before, after = layout.read_manifest(again), made(again, again, runs / "results/nano-s18", config="nano-s18.yaml")
    kept = [name for name in before if name.startswith(("runs/", "data/"))]
    assert len(kept) > 50 and {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    assert layout.read_index(again)["runs"] == index["runs"] and verify(again) == (0, [])
    # What was left out, with the reason, and a planned run come along; seeds of two bundles stand side by side.
    value = json.loads((small / layout.INDEX).read_text())
    assert value["runs"][0]["name"] == "smollm2-s17"
    other = tmp_path / "other"
    made(other, runs / "results/nano-s17", config="nano-s17.yaml")
    marked = layout.read_index(other) | {"left_out": {"nano-s17": ["stages/rl_2 is left out: for this reason"]}}
    (other / layout.INDEX).write_text(json.dumps(marked))
    layout.write_manifest(other)
    made(tmp_path / "both", small, other)
    both = layout.read_index(tmp_path / "both")
    assert [run["name"] for run in both["runs"]] == ["nano-s17", "smollm2-s17"] and both["left_out"] == marked[
        "left_out"
    ]
    assert verify(tmp_path / "both") == (0, [])


def test_nothing_is_taken_over_from_an_edited_bundle(copy: Path, whole: Path, tmp_path: Path) -> None:
    """It would get a new digest; two bundles with one run are refused; neither leaves anything."""
    out = tmp_path / "out"
    done = RUN.invoke(app, ["bundle", str(copy), str(whole), "--out", str(out)])
    assert done.exit_code == 2 and "both hold run smollm2-s17" in done.output
    (copy / "runs/smollm2-s17/config.yaml").write_text("run: {seed: 18}\n")
    done = RUN.invoke(app, ["bundle", str(copy), "--out", str(out)])
    assert done.exit_code == 1 and "config.yaml: SHA-256" in done.output and "was edited" in done.output
    shutil.copy(copy / "bundle.json", copy / "runs/smollm2-s17/extra.json")
    done = RUN.invoke(app, ["bundle", str(copy), "--out", str(out)])
    assert done.exit_code == 1 and not out.exists()


def test_minutes_of_cores_are_none_of_a_gpu(runs: Path, tmp_path: Path) -> None:
    """A machine without a GPU is named by its cores; its stages have times and no floors."""
    results = Path(shutil.copytree(runs / "results/nano-s17", tmp_path / "nano-s17"))
    record = results / "state/replication/environment-0a1b.json"
    record.write_text(json.dumps({"gpus": [], "cores": 2}))
    out = tmp_path / "out"
    done = RUN.invoke(app, ["bundle", str(results), "--config", str(runs / "nano-s17.yaml"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    values = json.loads((out / "report/tables.json").read_text())["efficiency"]
    assert {tuple(table["machines"]) for table in values["tables"]} == {("CPU, 2 cores",)}
    assert values["stages"] and all(stage["step"] > 0 and stage["mfu"] is None for stage in values["stages"])
    assert "CPU, 2 cores" in (out / "report/efficiency.html").read_text()
    assert "CPU, 2 cores" in (out / "report/index.html").read_text()


def test_a_scale_of_its_own(runs: Path, tmp_path: Path) -> None:
    """Two sizes of one base model are no seeds of one number when the configuration names them apart."""
    text = (runs / "nano-s18.yaml").read_text()
    file = tmp_path / "other.yaml"
    assert "  scale: null\n" in text
    file.write_text(text.replace("  scale: null\n", "  scale: nano_small\n"))
    given = ["--config", str(runs / "nano-s17.yaml"), "--config", str(file)]
    folders = [str(runs / "results" / name) for name in ("nano-s17", "nano-s18")]
    done = RUN.invoke(app, ["bundle", *folders, *given, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    values = json.loads((tmp_path / "out/report/tables.json").read_text())
    cells = {t["scale"]: t["rows"][0]["cells"]["avg"] for t in values["tables"] if t["name"] == "table10"}
    assert {scale: cell["seeds"] for scale, cell in cells.items()} == {"nano": 1, "nano_small": 1}
    assert verify(tmp_path / "out") == (0, [])


def test_wrong_usage(runs: Path, tmp_path: Path) -> None:
    """Twice the same run, too few configurations, none at all, a folder of something else."""
    for given, said in (
        (words(runs, tmp_path / "a", "nano-s17", "nano-s17"), "are both run"),
        ([*words(runs, tmp_path / "a", "nano-s17"), "--config", str(runs / "nano-s18.yaml")], "one for each"),
        (["bundle", str(runs / "results/nano-s17"), "--out", str(tmp_path / "a")], "name it with --config"),
        (words(runs, runs, "nano-s17"), "holds something else"),
        (["report", "--bundle", str(runs / "whole"), "--config", str(runs / "nano-s17.yaml")], "leave out --config"),
    ):
        done = RUN.invoke(app, given)
        assert done.exit_code == 2 and said in done.output, done.output


def test_killed_and_at_once(runs: Path, small: Path, tmp_path: Path) -> None:
    """A killed bundle leaves the older one whole; two at once leave one of them, whole."""
    out = Path(shutil.copytree(small, tmp_path / "small"))
    command = [sys.executable, "-m", "qwenlong", "audit", *words(runs, out, "smollm2-s17")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while killed.poll() is None and not list(tmp_path.glob(".small.*.partial/runs/*/evaluation")):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert (out / "manifest.json").read_bytes() == (small / "manifest.json").read_bytes()
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both].count(0) >= 1
    assert (out / "manifest.json").read_bytes() == (small / "manifest.json").read_bytes()
    assert not list(tmp_path.glob(".small.*"))


def test_packing_is_gzip_without_a_time(tmp_path: Path) -> None:
    """Gzip reads it, equal data give equal bytes, and what is cut, longer or no gzip is refused."""
    import gzip

    data = b"abc" * 1000
    assert gzip.decompress(layout.pack(data)) == data and layout.pack(data) == layout.pack(data)
    for wrong in (layout.pack(data)[:-1], layout.pack(data) + b"x", b"abc"):
        (tmp_path / "a.gz").write_bytes(wrong)
        with pytest.raises(DataError, match="no whole gzip"):
            layout.unpacked(tmp_path / "a.gz")


def test_a_file_that_results_read_in_two_versions_is_shown_with_them(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "results" / "smollm2-s17", tmp_path / "results" / "smollm2-s17")
    shutil.copy(runs / "smollm2-s17.yaml", tmp_path)
    for name, digest in (("rl_1", "a" * 64), ("rl_2", "b" * 64)):
        sidecar = {"output": {"digest": "c" * 64, "path": name}, "inputs": {"samples": {"path": "S", "digest": digest}}}
        file = tmp_path / "results/smollm2-s17/stages" / name / "score" / "train.parquet.provenance.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(sidecar))
    out = tmp_path / "bundle"
    done = RUN.invoke(app, words(tmp_path, out, "smollm2-s17"))
    assert done.exit_code == 0, done.output
    known = json.loads((out / "report/tables.json").read_text())["versions"]
    assert [(one["file"], one["digest"], one["results"]) for one in known] == [
        ("S", "a" * 12, ["stages/rl_1/score/train.parquet"]),
        ("S", "b" * 12, ["stages/rl_2/score/train.parquet"]),
    ]
    page = (out / "report/sources.html").read_text()
    assert 'id="versions"' in page
    assert "b" * 12 in page
    assert "sources.html#versions" in (out / "report/index.html").read_text()
    assert RUN.invoke(app, ["verify", str(out)]).exit_code == 0


def test_a_bundle_whose_inputs_have_one_version_says_nothing_of_versions(small: Path) -> None:
    assert 'id="versions"' not in (small / "report/sources.html").read_text()
    assert "#versions" not in (small / "report/index.html").read_text()
