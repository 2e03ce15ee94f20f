"""The container recipes: what they copy is what a wheelhouse holds, and what they run installs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def commands(text: str) -> dict[str, list[str]]:
    """Return a Dockerfile's instructions by name, continued lines joined."""
    found: dict[str, list[str]] = {}
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        found.setdefault(name, []).append(rest.strip())
    return found


def sections(text: str) -> dict[str, list[str]]:
    """Return an Apptainer recipe's sections by name, comments left out."""
    found: dict[str, list[str]] = {"header": []}
    name = "header"
    for line in text.splitlines():
        if line.startswith("%"):
            name = line[1:].split()[0]
            found[name] = []
        elif line.strip() and not line.strip().startswith("#"):
            found[name].append(line.strip())
    return found


def test_dockerfile_copies_what_is_there_and_is_not_root(root: Path, first: Any) -> None:
    found = commands((root / "cluster" / "Dockerfile").read_text())
    assert found["FROM"] == ["${BASE}"] and "COPY" not in found and "ADD" not in found
    sources = re.findall(r"source=([^, ]+)", " ".join(found["RUN"]))
    allowed = (root / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    assert allowed[1] == "*"
    for path in [*sources, *(line[1:] for line in allowed if line.startswith("!"))]:
        assert (first.folder / path).exists(), path
    assert found["USER"] == ["1000:1000"] and found["USER"][-1].split(":")[0] != "0"
    assert not re.search(r"\b(apt|apt-get|curl|wget|pip)\b", " ".join(found["RUN"]))


def test_apptainer_recipe_copies_what_is_there(root: Path, first: Any) -> None:
    found = sections((root / "cluster" / "container.def").read_text())
    for line in found["files"]:
        source, target = line.split()
        assert (first.folder / source).exists(), source
        assert target.startswith("/wheelhouse/")
    assert not re.search(r"\b(apt|apt-get|curl|wget|pip)\b", " ".join(found["post"]))
    assert 'container: "cluster/qwenlong.sif"' in (root / "Snakefile").read_text()


def test_both_start_from_the_same_base_by_digest(root: Path) -> None:
    docker = commands((root / "cluster" / "Dockerfile").read_text())["ARG"]
    apptainer = sections((root / "cluster" / "container.def").read_text())
    assert docker == apptainer["arguments"] and apptainer["header"] == ["Bootstrap: docker", "From: {{ BASE }}"]
    assert re.match(r"^BASE=python:3\.12\.\d+-bookworm@sha256:[0-9a-f]{64}$", docker[0])


def test_their_commands_install_the_wheelhouse(root: Path, filled: Any) -> None:
    pins = [f"{name}==1.0" for name in ("alpha", "beta", "gamma", "large")]
    filled.lock(*pins, f"pytest=={pytest.__version__}")
    filled.build("--without", "pytest")
    run = commands((root / "cluster" / "Dockerfile").read_text())["RUN"][0]
    post = sections((root / "cluster" / "container.def").read_text())["post"]
    (line,) = [line for line in post if "install.sh" in line]
    assert line in run
    kept = filled.folder / "image" / "wheelhouse"
    kept.mkdir(parents=True)
    for name in sections((root / "cluster" / "container.def").read_text())["files"]:
        source = filled.folder / name.split()[0]
        source.rename(kept / source.name)
    command = line.replace("/wheelhouse", str(kept)).replace("/opt/qwenlong", str(filled.folder / "opt"))
    env = {**filled.env, "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-euc", command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = "import alpha, large, ours, pytest; print(ours.VERSION)"
    words = [filled.folder / "opt" / "bin" / "python", "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "0.1\n"
