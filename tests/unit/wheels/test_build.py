"""Filling a wheelhouse with real pip from packages made here."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any


def files(world: Any) -> list[str]:
    return sorted(path.name for path in (world.out / "wheels").iterdir())


def test_manifest_says_what_is_there(first: Any) -> None:
    content = json.loads((first.out / "manifest.json").read_text())
    packages = [f"{name}-1.0" for name in ("alpha", "beta", "gamma", "large")]
    assert files(first) == [f"{name}-py3-none-any.whl" for name in (*packages, "ours-0.1")]
    assert [wheel["file"] for wheel in content["wheels"]] == files(first)
    for wheel in content["wheels"]:
        data = (first.out / "wheels" / wheel["file"]).read_bytes()
        assert (wheel["size"], wheel["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert content["lock"]["sha256"] == hashlib.sha256((first.folder / "lock.txt").read_bytes()).hexdigest()
    assert content["size"] == sum(wheel["size"] for wheel in content["wheels"])
    assert [wheel["origin"] for wheel in content["wheels"]] == ["registry"] * 4 + ["project"]
    for folder in (first.out, first.out / "parts"):
        sums = subprocess.run(
            ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
        )
        assert sums.returncode == 0, sums.stdout


def test_second_run_asks_for_nothing_and_writes_the_same_bytes(filled: Any, filled_registry: Any) -> None:
    before = {path: path.read_bytes() for path in filled.out.rglob("*") if path.is_file()}
    parts = {path: path.stat().st_mtime_ns for path in (filled.out / "parts").glob("*.tar")}
    assert "4 of 4 wheels are here and whole" in filled.build("--part-mb", 1)
    assert filled_registry.asked == []
    assert {path: path.read_bytes() for path in filled.out.rglob("*") if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_killed_run_goes_on(world: Any, registry: Any, wheel: Any) -> None:
    names = [f"pack{number}" for number in range(9)]
    for name in names:
        wheel(world.packages, name, "1.0")
    world.lock(*(f"{name}==1.0" for name in names))
    registry.stall.add("pack8-1.0-py3-none-any.whl")
    running = subprocess.Popen(world.command(), env=world.env, stdout=subprocess.DEVNULL, start_new_session=True)
    assert registry.stalled.wait(240)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (world.out / "manifest.json").exists()
    registry.stall.clear()
    registry.asked.clear()
    assert "6 of 9 wheels are here and whole" in world.build()
    assert sorted(registry.asked) == [f"pack{number}-1.0-py3-none-any.whl" for number in (6, 7, 8)]
    assert len(files(world)) == 10
    assert not (world.out / ".scratch").exists()


def test_damaged_wheel_is_fetched_again(filled: Any) -> None:
    path = filled.out / "wheels" / "beta-1.0-py3-none-any.whl"
    good = path.read_bytes()
    path.write_bytes(good[:-40] + b"x" * 40)
    said = filled.build()
    assert "beta-1.0-py3-none-any.whl is damaged" in said and "3 of 4 wheels are here" in said
    assert path.read_bytes() == good


def test_registry_that_exchanges_a_file_is_named(filled: Any, wheel: Any) -> None:
    (filled.out / "wheels" / "beta-1.0-py3-none-any.whl").unlink()
    wheel(filled.packages, "beta", "1.0", body=b"other")
    assert "exchanged it" in filled.build(code=1)
    assert not (filled.out / "manifest.json").exists()


def test_broken_archive_is_refused(world: Any) -> None:
    path = world.packages / "beta-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("beta/__init__.py").header_offset
    data[start + 30 + len("beta/__init__.py")] ^= 0xFF
    path.write_bytes(data)
    assert "beta==1.0: beta-1.0-py3-none-any.whl is damaged at beta/__init__.py" in world.build(code=1)


def test_source_packages_are_built_or_refused_by_name(world: Any, source: Any, here: str) -> None:
    source(world.packages, "pure", "2.0")
    source(world.packages, "other", "2.0", "cp38-cp38-macosx_10_9_x86_64")
    source(world.packages, "faulty", "2.0", "broken")
    world.lock("alpha==1.0", "pure==2.0", "other==2.0", "faulty==2.0", "nowhere==3.1")
    said = world.build(code=1)
    assert "3 of 5 pins could not be had" in said
    assert "faulty==2.0 has a source package only, and building it failed" in said and "no compiler for faulty" in said
    assert "nowhere==3.1: where pip looks there is neither a wheel" in said
    assert "other==2.0: other-2.0-cp38-cp38-macosx_10_9_x86_64.whl does not run on" in said
    assert files(world) == ["alpha-1.0-py3-none-any.whl", "pure-2.0-py3-none-any.whl"]
    assert not (world.out / "manifest.json").exists()


def test_wheels_of_other_platforms_are_not_taken(world: Any, wheel: Any, here: str) -> None:
    wheel(world.packages, "fast", "1.0", "cp313-cp313-manylinux_2_17_x86_64")
    wheel(world.packages, "fast", "1.0", f"{here}-{here}-manylinux_2_17_aarch64")
    wheel(world.packages, "fast", "1.0", f"{here}-{here}-manylinux_2_36_x86_64")
    world.lock("fast==1.0")
    assert "fast==1.0: where pip looks there is neither" in world.build(code=1)
    wheel(world.packages, "fast", "1.0", f"{here}-{here}-manylinux_2_25_x86_64")
    world.build()
    content = json.loads((world.out / "manifest.json").read_text())
    assert content["wheels"][0]["glibc"] == "2.25"
    assert "holds wheels for" in world.build("--python", "3.10", code=2)


def test_registry_out_of_reach_is_said(world: Any, registry: Any) -> None:
    world.env["PIP_INDEX_URL"] = "http://127.0.0.1:9/simple"
    said = world.build(code=1)
    assert "the registry cannot be reached" in said and "neither" not in said


def test_full_disk_keeps_what_is_there(world: Any, wheel: Any) -> None:
    for number in range(6):
        wheel(world.packages, f"pack{number}", "1.0")
    wheel(world.packages, "zlarge", "1.0", body=os.urandom(600_000))
    world.lock(*(f"pack{number}==1.0" for number in range(6)), "zlarge==1.0")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    said = world.build(code=1, preexec_fn=limit)
    assert "no room on the disk" in said and "Traceback" not in said
    assert len(files(world)) == 6
    assert not (world.out / "manifest.json").exists()


def test_two_runs_at_once(world: Any, registry: Any) -> None:
    registry.stall.add("gamma-1.0-py3-none-any.whl")
    running = subprocess.Popen(world.command(), env=world.env, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        assert registry.stalled.wait(240)
        assert "another run is filling" in world.build(code=1)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def test_a_changed_lock_takes_out_what_it_no_longer_names(filled: Any, wheel: Any) -> None:
    wheel(filled.packages, "beta", "1.1")
    filled.lock("alpha==1.0", "beta==1.1")
    (filled.out / "wheels" / "stray.whl").write_bytes(b"")
    filled.build()
    assert files(filled) == [f"{name}-py3-none-any.whl" for name in ("alpha-1.0", "beta-1.1", "ours-0.1")]
    assert not (filled.out / "parts").exists()


def test_changed_project_is_built_again(filled: Any) -> None:
    (filled.folder / "project" / "what").write_text("ours 0.2 py3-none-any")
    (filled.folder / "project" / "README.md").write_text("changed")
    filled.build()
    assert files(filled)[-1] == "ours-0.2-py3-none-any.whl" and len(files(filled)) == 5


def test_foreign_folder_is_left_alone(world: Any) -> None:
    world.out.mkdir()
    (world.out / "thesis.txt").write_text("mine")
    assert "holds other files (thesis.txt" in world.build(code=2)
    assert [path.name for path in world.out.iterdir() if path.name != ".lock"] == ["thesis.txt"]


def test_plan_lists_sizes_and_keeps_nothing(world: Any, source: Any) -> None:
    source(world.packages, "pure", "2.0")
    world.lock("alpha==1.0", "beta==1.0", "pure==2.0")
    said = world.build("--plan")
    assert "0.0 MB  alpha-1.0-py3-none-any.whl" in said and "to build  pure==2.0" in said
    assert "2 wheels of 0.0 MB; 1 to build" in said
    assert not world.out.exists()


def test_make_passes_its_variables(root: Path, world: Any) -> None:
    command = ["make", "-n", "wheelhouse", "PYTHON=3.12", "OUT=w", "PART_MB=60", "WITHOUT=torch,nvidia-*"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, env=world.env)
    words = "--python 3.12 --out w --part-mb 60 --without torch,nvidia-*"
    assert words in " ".join(done.stdout.replace('"', "").replace("'", "").replace("\\\n", " ").split())
