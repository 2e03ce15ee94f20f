"""Sidecars: what an output was made from, by which code, with which versions; the only place for timestamps."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import subprocess
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwenlong.core.errors import DataError
from qwenlong.core.files import code_digest, digest_path, digest_value, read_json, write_json
from qwenlong.core.logs import command_line, redact

#: Packages whose version can change a result.
PACKAGES = ("torch", "transformers", "tokenizers", "verl", "ray", "vllm", "mlflow", "snakemake", "duckdb", "pyarrow")


def path_of(output: str | Path) -> Path:
    """Return where the sidecar of an output stands: `P.provenance.json`, inside a folder `provenance.json`."""
    target = Path(output)
    return target / "provenance.json" if target.is_dir() else target.with_name(f"{target.name}.provenance.json")


def versions() -> dict[str, str]:
    """Return the versions of Python, qwenlong and those of `PACKAGES` that are installed."""
    from qwenlong import __version__

    found = {"python": platform.python_version(), "qwenlong": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from (`-dirty` when tracked files differ), if any."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie inside some other project's repository.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")


class Digests:
    """Digests of inputs, made beside the work that reads them: hashing leaves the interpreter lock."""

    def __init__(self, inputs: Mapping[str, Path]) -> None:
        """Begin. `inputs` are files or directories by name."""
        self.inputs = dict(inputs)
        self._found: dict[str, str | Exception] = {}
        # Daemons: a command that fails does not wait for them.
        self._threads = [threading.Thread(target=self._digest, args=item, daemon=True) for item in self.inputs.items()]
        for thread in self._threads:
            thread.start()

    def _digest(self, name: str, path: Path) -> None:
        try:
            self._found[name] = digest_path(path)
        except Exception as error:  # raised again where the digest is asked for
            self._found[name] = error

    def result(self) -> dict[str, str]:
        """Wait, and return the digests by name. Raises what reading an input raised."""
        found = {}
        for thread, name in zip(self._threads, self.inputs, strict=True):
            thread.join()
            value = self._found[name]
            if isinstance(value, Exception):
                raise value
            found[name] = value
        return found


def sidecar(
    output: str | Path,
    *,
    inputs: Mapping[str, Path] | Digests,
    config: Mapping[str, Any],
    packages: Sequence[str],
    seed: int,
    extra: Mapping[str, Any] | None = None,
    known: Mapping[str, str] | None = None,
) -> None:
    """Write the sidecar of `output`, atomically.

    `inputs` names each input's path, or is the `Digests` of them that were begun earlier; `config` is the part of the
    configuration that was read, `packages` the subpackages of qwenlong whose code made it (`core` always counts),
    `extra` anything JSON-like, `known` see `digest_path`. Secrets are redacted. Raises DataError when the output or an
    input does not exist.
    """
    from qwenlong.core.tracking import active_run_id

    clean = redact(dict(config))
    begun = inputs if isinstance(inputs, Digests) else Digests(inputs)
    made = digest_path(output, known)
    digests = begun.result()
    value = {
        "output": {"path": str(output), "digest": made},
        "inputs": {name: {"path": str(p), "digest": digests[name]} for name, p in sorted(begun.inputs.items())},
        "config": {"digest": digest_value(clean), "values": clean},
        "code": {"packages": sorted({"core", *packages}), "digest": code_digest(*packages), "commit": git_commit()},
        "versions": versions(),
        "seed": seed,
        "mlflow_run_id": active_run_id(),
        "command": command_line(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "extra": redact(dict(extra or {})),
    }
    write_json(path_of(output), value)


def read(output: str | Path) -> dict[str, Any]:
    """Return the sidecar of `output`. Raises DataError naming the file when it is missing or not a sidecar."""
    file = path_of(output)
    value = read_json(file)
    if not isinstance(value, dict) or not {"output", "inputs", "code"} <= value.keys():
        raise DataError(f"{file} is not a provenance file; run the stage that writes {output} again")
    return value


def verify(output: str | Path) -> list[str]:
    """Return what differs from the sidecar, one line each; empty when output and inputs are as recorded.

    Input paths are taken as they were written, from the working directory.
    """
    value = read(output)
    faults = []
    for name, record in [("output", value["output"] | {"path": str(output)}), *sorted(value["inputs"].items())]:
        try:
            found = digest_path(record["path"])
        except DataError:
            faults.append(f"{name} {record['path']} is gone")
            continue
        if found != record["digest"]:
            faults.append(f"{name} {record['path']} has changed: {found[:12]}, recorded {record['digest'][:12]}")
    if digest_value(value["config"]["values"]) != value["config"]["digest"]:
        faults.append(f"config values in {path_of(output)} do not match their digest")
    return faults


def canonical(output: str | Path) -> str:
    """Return the sidecar's text without what may differ between two equal runs (time, run id, commit, command)."""
    value = read(output)
    for key in ("written", "mlflow_run_id", "command"):
        value.pop(key, None)
    value["code"].pop("commit", None)
    return json.dumps(value, sort_keys=True)
