"""A rule that is killed for memory is tried again with more: the workflow's own resource functions, local executor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwenlong.core.config.whole import ResourceConfig

# As Slurm's accounting does it: who uses more than was asked for is killed, and the shell sees 137.
GUARDED = """
import subprocess, sys, time
import psutil

limit = int(sys.argv[1]) * 2**20
child = subprocess.Popen(sys.argv[2:])
while child.poll() is None:
    try:
        if psutil.Process(child.pid).memory_info().rss > limit:
            child.kill()
    except psutil.NoSuchProcess:
        pass
    time.sleep(0.01)
sys.exit(137 if child.returncode == -9 else child.returncode)
"""
EATS = "import time; held = b'x' * (200 * 2**20); time.sleep(0.5); print('fed')"
SNAKEFILE = """
import os

include: "{root}/workflow/rules/common.smk"

rule eats:
    output: "fed"
    resources:
        **need("light"),
    retries: tries("light")
    params:
        python=sys.executable,
    shell:
        "echo {{resources.mem_mb}} {{resources.runtime}} >> tries;"
        " {{params.python}} guarded.py {{resources.mem_mb}} {{params.python}} eats.py > {{output}}"
"""


@pytest.fixture
def project(tmp_path: Path, root: Path) -> Path:
    (tmp_path / "guarded.py").write_text(GUARDED)
    (tmp_path / "eats.py").write_text(EATS)
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=root))
    return tmp_path


def run(project: Path, light: str, *options: str) -> tuple[int, list[str], str]:
    file = project / "config.yaml"
    corpus = f"corpus: {{registry: {Path(__file__).parents[2]}/data/sources.csv}}"
    sections = (f"run: {{name: growth, results: {project}/results}}", corpus, f"resources: {{light: {{{light}}}}}")
    file.write_text("\n".join(sections) + "\n")
    words = ["--cores", "1", "--configfile", str(file), *options, "--", "fed"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words], cwd=project, capture_output=True, text=True, env=dict(os.environ)
    )
    tries = project / "tries"
    return done.returncode, tries.read_text().splitlines() if tries.exists() else [], done.stderr


def test_memory_and_time_grow_until_the_rule_fits(project: Path) -> None:
    code, tries, said = run(project, "memory_mb: 110, runtime_minutes: 10, grow: 1.6, retries: 3")
    # Killed with 110 and 176 MB; 282 hold its 200.
    assert code == 0 and tries == ["110 10", "176 16", "282 26"], said
    assert (project / "fed").read_text() == "fed\n"


def test_it_fails_when_tries_or_bounds_are_used_up(project: Path) -> None:
    code, tries, said = run(
        project, "memory_mb: 100, grow: 2, retries: 2, most_memory_mb: 150, most_runtime_minutes: 70"
    )
    assert code == 1 and tries == ["100 60", "150 70", "150 70"], said
    assert not (project / "fed").exists()


def test_without_a_setting_the_command_line_decides_and_a_laptop_tries_once(project: Path) -> None:
    code, tries, _ = run(project, "memory_mb: 100")
    assert code == 1 and tries == ["100 60"]
    code, tries, _ = run(project, "memory_mb: 100", "--retries", "1")
    assert code == 1 and tries == ["100 60", "100 60", "150 90"]


def test_bounds_below_the_first_try_are_refused() -> None:
    with pytest.raises(ValueError, match="most_memory_mb = 200 is less than memory_mb = 300"):
        ResourceConfig(memory_mb=300, most_memory_mb=200)
