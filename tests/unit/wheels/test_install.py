"""Installing a wheelhouse made here, from its folder and from parts, with nothing but its own files."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any


def imported(folder: Path, name: str) -> str:
    code = f"import {name}; print({name}.VERSION, {name}.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)
    assert str(folder) in done.stdout, done.stderr
    return done.stdout.split()[0]


def edit(world: Any, **changes: Any) -> None:
    path = world.out / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_from_its_folder(filled: Any) -> None:
    place = filled.folder / "place"
    conf = filled.folder / "site" / "pip" / "pip.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("[global]\nconstraint = /nowhere/constraints.txt\n")
    said = filled.install("--target", place, XDG_CONFIG_DIRS=str(filled.folder / "site"))
    assert "5 wheels are whole (sha256)" in said and f"export PYTHONPATH={place}" in said
    assert [imported(place, name) for name in ("alpha", "large", "ours")] == ["1.0", "1.0", "0.1"]
    assert "already" in filled.install("--target", place)
    (place / "beta-1.0.dist-info" / "METADATA").unlink()
    (place / "beta-1.0.dist-info").rename(filled.folder / "gone")
    assert "beta 1.0: absent" in filled.install("--target", place, code=1)


def test_several_pips_share_folders(filled: Any) -> None:
    """Packages of one namespace, installed by different pips, are all there; with and without an environment."""
    filled.namespaced("delta", "epsilon")
    filled.lock("alpha==1.0", "Beta==1.0", "gamma==1.0", "delta==1.0", "epsilon==1.0")
    filled.build("--part-mb", 0)
    place = filled.folder / "place"
    filled.install("--target", place, "--jobs", 4)
    assert [imported(place, f"shared.{name}") for name in ("delta", "epsilon")] == ["1.0", "1.0"]
    assert imported(place, "alpha") == "1.0" and not (place / ".lots").exists()
    filled.install("--venv", filled.folder / "env", "--jobs", 3)
    code = "import shared.delta, shared.epsilon, gamma; print(shared.delta.VERSION)"
    done = subprocess.run([filled.folder / "env/bin/python", "-c", code], capture_output=True, text=True)
    assert done.stdout == "1.0\n", done.stderr
    assert "no number of at least 1" in filled.install("--target", place, "--jobs", 0, code=2)


def test_one_of_several_pips_fails(filled: Any) -> None:
    """Its words are shown, and the same command goes on afterwards."""
    (broken,) = (filled.out / "wheels").glob("gamma-*.whl")
    data = b"no archive"
    broken.write_bytes(data)
    # Digest and size are right, so that only pip finds out.
    wheels = json.loads((filled.out / "manifest.json").read_text())["wheels"]
    right = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    edit(filled, wheels=[wheel | (right if wheel["name"] == "gamma" else {}) for wheel in wheels])
    place = filled.folder / "place"
    said = filled.install("--target", place, "--jobs", 3, code=1)
    assert "pip failed" in said and "gamma" in said
    assert json.loads((place / ".wheelhouse.json").read_text())["state"] == "begun"


def test_from_parts_in_any_order(filled: Any) -> None:
    parts = sorted((filled.out / "parts").glob("*.tar"))
    assert len(parts) > 2 and max(path.stat().st_size for path in parts) <= 1 << 20
    here, there = filled.folder / "here", filled.folder / "there"
    here.mkdir()
    there.mkdir()
    for number, path in enumerate(parts):
        path.rename((here, there)[number % 2] / f"wheels-{9 - number}-of-x.tar")
    subprocess.run(["tar", "xf", sorted(there.glob("*.tar"))[0], "--wildcards", "install*"], cwd=here, check=True)
    filled.out.rename(filled.folder / "unused")
    place = filled.folder / "place"
    said = filled.install("--target", place, "--from", there, here, script=here / "install.sh")
    assert f"{len(parts)} parts of wheelhouse" in said and "5 wheels are whole" in said
    assert [imported(place, name) for name in ("alpha", "large", "ours")] == ["1.0", "1.0", "0.1"]
    joined = here / "joined" / "wheels"
    original = filled.folder / "unused" / "wheels"
    assert {path.name: path.read_bytes() for path in joined.iterdir()} == {
        path.name: path.read_bytes() for path in original.iterdir()
    }


def test_parts_that_are_missing_strange_or_damaged(filled: Any) -> None:
    folder = filled.out / "parts"
    names = sorted(path.name for path in folder.glob("*.tar"))
    whole = {name: (folder / name).read_bytes() for name in names}

    def check() -> str:
        return str(filled.install("--check", script=folder / "install.sh", code=1))

    (folder / names[1]).unlink()
    assert f"1 of {len(names)} parts are not here: 2" in check()
    (folder / names[1]).write_bytes(whole[names[1]][:-300_000])
    assert f"{names[1]} is cut off or damaged" in check() or f"{names[1]} is damaged" in check()
    data = bytearray(whole[names[1]])
    data[len(data) // 2] ^= 1
    (folder / names[1]).write_bytes(data)
    assert f"{names[1]} is damaged (pieces/large" in check()
    (folder / names[1]).write_bytes(b"")
    assert f"{names[1]} is cut off or damaged" in check()
    (folder / names[1]).write_bytes(whole[names[1]])
    assert "5 wheels are whole" in filled.install("--check", script=folder / "install.sh")
    filled.lock("alpha==1.0")
    old = (folder / names[0]).rename(filled.folder / names[0])
    filled.build("--part-mb", 1)
    old.rename(folder / names[0])
    assert "these are parts of 2 wheelhouses" in check()


def test_a_part_cannot_lead_out_of_the_folder(filled: Any) -> None:
    content = json.loads((filled.out / "manifest.json").read_text())
    content["wheels"] = [{**content["wheels"][0], "file": "../../escaped.whl"}]
    data = json.dumps(content).encode()
    piece = {"file": "../../escaped.whl", "offset": 0, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    note = {"id": hashlib.sha256(data).hexdigest(), "part": 1, "parts": 1, "pieces": [{**piece, "member": "../../x"}]}
    path = filled.folder / "hostile" / "wheels-1-of-1.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as archive:
        for name, text in (("part.json", json.dumps(note).encode()), ("manifest.json", data), ("../../x", b"x")):
            item = tarfile.TarInfo(name)
            item.size = len(text)
            archive.addfile(item, io.BytesIO(text))
    assert "names files that no wheelhouse holds" in filled.install("--check", "--from", path.parent, code=1)
    assert not list(filled.folder.rglob("escaped.whl"))


def test_wheels_that_are_missing_or_damaged_are_listed(filled: Any) -> None:
    (filled.out / "wheels" / "alpha-1.0-py3-none-any.whl").unlink()
    path = filled.out / "wheels" / "large-1.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = filled.install("--target", filled.folder / "place", code=1)
    assert "2 of 5 wheels cannot be used" in said
    assert "alpha-1.0-py3-none-any.whl is missing" in said and "large-1.0-py3-none-any.whl is damaged" in said
    assert not (filled.folder / "place").exists()


def test_what_the_platform_lacks_is_said(filled: Any) -> None:
    content = json.loads((filled.out / "manifest.json").read_text())
    content["wheels"][0]["glibc"] = "2.99"
    edit(filled, python="3.99", machine="riscv64", wheels=content["wheels"])
    said = filled.install("--check", code=1)
    assert "CPython 3.99, this is cpython" in said and "Linux riscv64, this is Linux" in said
    assert "glibc 2.99 (for alpha), here is glibc 2." in said
    script = filled.out / "install.sh"
    script.write_text(script.read_text().replace("WANTED=3", "WANTED=93"))
    said = filled.install("--check", code=1)
    assert "these wheels are for Python 93." in said and sys.executable in said


def test_what_was_left_out_must_be_on_the_machine(filled: Any) -> None:
    version = importlib.metadata.version("pytest")
    filled.lock("alpha==1.0", "beta==1.0", "gamma==1.0", f"pytest=={version}", "iniconfig==0.0.1")
    filled.build("--without", "pytest,iniconfig")
    said = filled.install("--check")
    assert "note: this machine has iniconfig" in said and "pytest" not in said
    filled.build("--without", "pytest,iniconfig,gam*")
    assert "neither in the wheelhouse nor seen by" in filled.install("--check")
    filled.build("--without", "pytest,iniconfig,gamma")
    said = filled.install("--check", code=1)
    assert "has none:\n  gamma 1.0" in said
    filled.install("--check", "--allow-missing")


def test_killed_installation_goes_on(filled: Any) -> None:
    place = filled.folder / "place"
    command = ["bash", str(filled.out / "install.sh"), "--target", str(place)]
    env = {**filled.env, "PYTHON": sys.executable}
    running = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 240
    while not (place / ".wheelhouse.txt").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert json.loads((place / ".wheelhouse.json").read_text())["state"] == "begun"
    (place / "alpha").mkdir(exist_ok=True)
    (place / "alpha" / "__init__.py").write_text("VERSION = 'half'\n")
    filled.install("--target", place)
    assert imported(place, "alpha") == "1.0"


def test_folders_of_others_are_left_alone(filled: Any) -> None:
    place = filled.folder / "place"
    place.mkdir()
    (place / "thesis.txt").write_text("mine")
    assert "was not made from a wheelhouse" in filled.install("--target", place, code=2)
    (place / ".wheelhouse.json").write_text(json.dumps({"id": "f" * 64, "state": "done"}))
    assert "was made from wheelhouse ffffffff" in filled.install("--target", place, code=2)
    assert (place / "thesis.txt").read_text() == "mine"


def test_two_installations_at_once(filled: Any) -> None:
    with (filled.folder / ".place.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another installation into" in filled.install("--target", filled.folder / "place", code=1)


def test_wrong_usage(filled: Any) -> None:
    assert "one of the arguments" in filled.install(code=2)
    assert "there is no" in filled.install("--check", "--from", filled.folder / "nowhere", code=2)
    (filled.folder / "empty").mkdir()
    assert "no wheelhouse and no parts" in filled.install("--check", "--from", filled.folder / "empty", code=2)
