"""The command line as a user meets it: quick help, exit codes, messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwenlong import __version__, cli
from qwenlong.core.config import Config
from qwenlong.core.config_files import dump

HEAVY = (
    "torch",
    "transformers",
    "ray",
    "verl",
    "vllm",
    "mlflow",
    "pandas",
    "pyarrow",
    "duckdb",
    "networkx",
    "snakemake",
)


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    settings: dict[str, object] = {"capture_output": True} | options
    return subprocess.run([sys.executable, "-m", "qwenlong", *arguments], text=True, timeout=60, **settings)  # type: ignore[call-overload, no-any-return]


def test_help_lists_every_verb_in_order() -> None:
    done = run("--help")
    assert done.returncode == 0
    positions = [done.stdout.index(f"│ {name} ") for name in cli.COMMANDS]
    assert positions == sorted(positions) and len(positions) == 16
    assert all(entry[2] in done.stdout for entry in cli.COMMANDS.values())


@pytest.mark.parametrize("words", [[], ["doctor"], ["config"], ["config", "check"], ["pipeline", "begin"]])
def test_help_comes_within_a_second_of_processor_time(words: list[str]) -> None:
    """Processor time, since the wall clock of a busy machine says more of its other users."""
    before = os.times()
    done = run(*words, "--help")
    after = os.times()
    assert done.returncode == 0 and "Usage" in done.stdout
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 1.0


def test_top_level_help_imports_no_stage_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom qwenlong.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & set(HEAVY)
    assert not [
        m
        for m in loaded
        if m.startswith("qwenlong.")
        and m not in ("qwenlong.cli", "qwenlong.core")
        and not m.startswith(("qwenlong.core.errors", "qwenlong.core.logs"))
    ]


def test_version_and_wrong_usage() -> None:
    assert run("--version").stdout.strip() == __version__
    wrong = run("evaluat")
    assert wrong.returncode == 2 and "Did you mean 'evaluate'?" in wrong.stderr
    assert run("config", "check").returncode == 2
    assert run("--log-level", "LOUD", "config", "schema").returncode == 2
    assert run().returncode == 2


def test_config_check_names_the_fault_and_exits_2(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("run: {sed: 3}\n")
    done = run("config", "check", str(file))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {file}: run.sed = 3: unknown key; did you mean 'seed'?\n"
    missing = run("config", "check", str(tmp_path / "none.yaml"))
    assert missing.returncode == 2 and "no configuration file" in missing.stderr
    file.write_text("run: {seed: 3}\n")
    good = run("config", "check", str(file), "--json")
    assert good.returncode == 0 and json.loads(good.stdout)["run"] == "laptop"


def test_config_dump_and_schema(tmp_path: Path) -> None:
    assert run("config", "dump").stdout == dump(Config())
    file = tmp_path / "c.yaml"
    file.write_text("run: {seed: 3}\n")
    assert json.loads(run("config", "dump", str(file), "--json").stdout)["run"]["seed"] == 3
    assert json.loads(run("config", "schema").stdout)["properties"].keys() == Config.model_fields.keys()


def test_a_full_disk_is_said_plainly() -> None:
    with open("/dev/full", "w") as full:
        done = run("config", "schema", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write: No space left on device; free space there")
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_reader_that_goes_away_is_no_crash() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "qwenlong", "config", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(30) == 1
    assert b"Traceback" not in process.stderr.read()


ERRORS = """
from qwenlong.core.errors import QwenlongError, UsageError
import os

def fails(kind: str) -> None:
    raise {
        "own": QwenlongError("thing x is y; do z"),
        "usage": UsageError("bad; do z"),
        "interrupt": KeyboardInterrupt(),
        "disk": OSError(28, os.strerror(28), "/data/file"),
        "crash": RuntimeError("odd, with sk-abcdefgh12345678"),
    }[kind]
"""


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("own", 1, "error: thing x is y; do z\n"),
        ("usage", 2, "error: bad; do z\n"),
        ("interrupt", 130, ""),
        ("disk", 1, "error: cannot write /data/file: No space left on device"),
        ("crash", 1, "RuntimeError: odd, with <redacted>"),
    ],
)
def test_every_failure_has_its_code(tmp_path: Path, kind: str, code: int, message: str) -> None:
    """A command of the test's own, run through the real entry point."""
    (tmp_path / "failing.py").write_text(ERRORS)
    program = (
        "import sys; from qwenlong import cli\n"
        "cli.COMMANDS['doctor'] = ('failing', 'fails', 'x'); cli.main(['doctor', sys.argv[1]])"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, "-c", program, kind], capture_output=True, text=True, env=environment)
    assert done.returncode == code
    assert message in done.stderr and "sk-abcdefgh" not in done.stderr
    assert ("Traceback" in done.stderr) is (kind == "crash")


def test_a_stage_whose_package_is_missing_is_named(tmp_path: Path) -> None:
    program = "from qwenlong import cli; cli.COMMANDS['doctor'] = ('no_such_stage', 'app', 'x'); cli.main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: `qwenlong doctor` needs the module 'no_such_stage'")


def test_doctor_tells_the_machine_and_the_stages(tmp_path: Path) -> None:
    found = json.loads(run("doctor", "--json", "--results", str(tmp_path / "not" / "yet")).stdout)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert 0 < found["memory"]["available_gib"] <= found["memory"]["total_gib"]
    assert 0 <= found["disk"]["free_gib"] <= found["disk"]["total_gib"]
    for stage, state in found["stages"].items():
        assert state["runs"] is (state["missing"] == []), stage
    text = run("doctor").stdout
    assert "stages" in text and f"cores    {found['cores']}" in text


def test_pipeline_begins_and_ends(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from qwenlong.core.tracking import store_uri

    config = Config.model_validate({"run": {"name": "tiny", "results": str(tmp_path / "r")}})
    file = tmp_path / "c.yaml"
    file.write_text(dump(config))
    begun = run("pipeline", "begin", "--config", str(file), "--json")
    assert begun.returncode == 0, begun.stderr
    run_id = json.loads(begun.stdout)["run_id"]
    client = MlflowClient(store_uri(config))
    assert client.get_run(run_id).info.status == "RUNNING"
    time.sleep(0.1)
    ended = run("pipeline", "end", "--config", str(file), "--status", "FAILED")
    assert ended.returncode == 0, ended.stderr
    # The process that began it has ended; its owner (this test) lives, so it is the status given that counts.
    found = client.get_run(run_id)
    assert found.info.status == "FAILED" and "qwenlong.died" not in found.data.tags
    assert run("pipeline", "end", "--config", str(file), "--status", "DONE").returncode == 2
