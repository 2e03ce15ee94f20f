"""Sidecars tell what an output was made from, and notice changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwenlong.core import provenance
from qwenlong.core.errors import DataError
from qwenlong.core.files import code_digest, digest_path, digest_value, sha256_file


def make(folder: Path, seed: int = 17) -> Path:
    output = folder / "out.txt"
    output.write_text("made")
    (folder / "in.txt").write_text("given")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights").write_text("w")
    provenance.sidecar(
        output,
        inputs={"text": folder / "in.txt", "model": folder / "model"},
        config={"rate": 0.5, "api_key": "abcdefgh", "url": "http://me:pass@host/"},
        packages=["corpus"],
        seed=seed,
        extra={"rows": 3},
    )
    return output


def test_sidecar_holds_digests_versions_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc123")
    monkeypatch.setattr(sys, "argv", ["/x/bin/qwenlong", "corpus", "--token", "hunter2"])
    output = make(tmp_path)
    file = tmp_path / "out.txt.provenance.json"
    value = json.loads(file.read_text())
    assert value == provenance.read(output)
    assert value["output"]["digest"] == sha256_file(output)
    assert value["inputs"]["text"]["digest"] == sha256_file(tmp_path / "in.txt")
    assert value["inputs"]["model"]["digest"] == digest_path(tmp_path / "model")
    assert value["config"]["digest"] == digest_value(value["config"]["values"])
    assert value["config"]["values"]["rate"] == 0.5
    assert value["code"]["digest"] == code_digest("corpus") and value["code"]["packages"] == ["core", "corpus"]
    assert value["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"mlflow", "snakemake"} <= value["versions"].keys() and "vllm" not in value["versions"]
    assert (value["seed"], value["mlflow_run_id"], value["extra"]) == (17, "abc123", {"rows": 3})
    assert value["command"] == ["qwenlong", "corpus", "--token", "<redacted>"]
    assert not any(secret in file.read_text() for secret in ("hunter2", "abcdefgh", "me:pass"))
    assert provenance.verify(output) == []


def test_verify_names_what_changed(tmp_path: Path) -> None:
    output = make(tmp_path)
    output.write_text("changed")
    (tmp_path / "in.txt").unlink()
    (tmp_path / "model" / "weights").write_text("v")
    faults = provenance.verify(output)
    assert len(faults) == 3
    assert faults[0].startswith(f"output {output} has changed")
    assert faults[1].startswith("model ") and "has changed" in faults[1]
    assert faults[2] == f"text {tmp_path / 'in.txt'} is gone"


def test_a_folder_keeps_its_sidecar_inside_and_is_not_changed_by_it(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "shard").write_text("x")
    before = digest_path(folder)
    provenance.sidecar(folder, inputs={}, config={}, packages=[], seed=1)
    assert (folder / "provenance.json").is_file() and digest_path(folder) == before
    assert provenance.verify(folder) == []


def test_only_time_run_and_command_differ_between_equal_runs(tmp_path: Path) -> None:
    output = make(tmp_path)
    first = provenance.canonical(output)
    make(tmp_path)
    assert provenance.canonical(output) == first
    make(tmp_path, seed=18)
    assert provenance.canonical(output) != first


def test_missing_things_are_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(DataError, match="missing does not exist"):
        provenance.sidecar(tmp_path / "out", inputs={"a": tmp_path / "missing"}, config={}, packages=[], seed=1)
    assert not provenance.path_of(tmp_path / "out").exists()
    with pytest.raises(DataError, match="out.provenance.json does not exist"):
        provenance.read(tmp_path / "out")
    provenance.path_of(tmp_path / "out").write_text("[]")
    with pytest.raises(DataError, match="is not a provenance file"):
        provenance.read(tmp_path / "out")


def test_commit_is_that_of_a_checkout_that_holds_this_code(tmp_path: Path) -> None:
    """A package that merely lies inside another project's repository has no commit; one that is tracked has."""
    package = tmp_path / "lib" / "qwenlong"
    source = Path(provenance.__file__).parents[1]
    (package / "core").mkdir(parents=True)
    for name in ("__init__.py", *(f"core/{f.name}" for f in (source / "core").glob("*.py"))):
        (package / name).write_text((source / name).read_text())
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "other").write_text("x")
    subprocess.run([*git, "add", "other"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)

    def commit() -> str:
        code = "from qwenlong.core.provenance import git_commit; print(git_commit())"
        environment = {"PYTHONPATH": str(tmp_path / "lib"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert commit() == "None"
    subprocess.run([*git, "add", "lib/qwenlong/core/provenance.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "y"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert commit() == head
    (package / "core" / "provenance.py").open("a").write("\n")
    assert commit() == f"{head}-dirty"


def test_digests_begun_early_are_those_of_the_sidecar(tmp_path: Path) -> None:
    output = make(tmp_path)
    before = provenance.read(output)
    begun = provenance.Digests({"text": tmp_path / "in.txt", "model": tmp_path / "model"})
    provenance.sidecar(output, inputs=begun, config={}, packages=["corpus"], seed=17)
    assert provenance.read(output)["inputs"] == before["inputs"] and provenance.verify(output) == []
    with pytest.raises(DataError, match="gone does not exist"):
        provenance.Digests({"text": tmp_path / "in.txt", "lost": tmp_path / "gone"}).result()
    with pytest.raises(DataError, match="gone does not exist"):
        provenance.sidecar(output, inputs={"lost": tmp_path / "gone"}, config={}, packages=[], seed=17)


def test_known_digests_of_an_output_are_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "a").write_text("one")
    (folder / "part" / "b").write_text("two")
    whole = digest_path(folder)
    known = {"a": sha256_file(folder / "a"), "part/b": sha256_file(folder / "part" / "b")}
    assert digest_path(folder, known) == whole
    (folder / "a").write_text("changed")
    assert digest_path(folder, known) == whole != digest_path(folder)
