"""What is installed here, what the machine has, and which stages can therefore run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Stage: distributions that it needs, as in the extras of pyproject.
STAGES: dict[str, tuple[str, ...]] = {
    "workflow": ("snakemake", "mlflow"),
    "corpus": ("pyarrow", "docutils"),
    "synthesis": ("pyarrow", "pandas", "duckdb", "networkx", "tokenizers"),
    "rewards": ("httpx",),
    "inference": ("torch", "transformers", "safetensors"),
    "training": ("torch", "transformers", "verl", "ray", "tensordict", "transferqueue", "cachetools"),
    "checkpoints": ("torch", "safetensors"),
    "memory_agent": ("httpx", "tokenizers"),
    "evaluation": ("pyarrow", "httpx"),
    "audit": ("pyarrow", "pandas", "plotly", "jinja2"),
}
_OTHERS = ("vllm", "dvc", "rich", "typer", "pydantic")


def version(distribution: str) -> str | None:
    """Return an installed distribution's version, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Return the cores that this process may use: affinity, capped by the cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return count


def memory() -> dict[str, float]:
    """Return total and available memory in GiB, capped by the cgroup's limit."""
    import psutil

    found = psutil.virtual_memory()
    total, available = found.total, found.available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, available = min(total, limit), min(available, max(0, limit - used))
    except (OSError, ValueError):
        pass
    return {"total_gib": round(total / 2**30, 1), "available_gib": round(available / 2**30, 1)}


def gpus() -> list[dict[str, str]]:
    """Return the NVIDIA GPUs that nvidia-smi lists: name, memory, driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [dict(zip(("name", "memory", "driver"), row, strict=True)) for row in rows if len(row) == 3]


def disk(path: str | Path = ".") -> dict[str, Any]:
    """Return the free and total space in GiB of the file system that holds `path`, existing or not."""
    folder = Path(path).resolve()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return {"path": str(path), "free_gib": round(usage.free / 2**30, 1), "total_gib": round(usage.total / 2**30, 1)}


def examine(results: str | Path = ".") -> dict[str, Any]:
    """Return everything as JSON-like values."""
    names = sorted({name for needed in STAGES.values() for name in needed} | set(_OTHERS))
    versions = {name: version(name) for name in names}
    graphics = gpus()
    stages = {}
    for stage, needed in STAGES.items():
        missing = [name for name in needed if versions[name] is None]
        there = stage == "workflow" or importlib.util.find_spec(f"qwenlong.{stage}") is not None
        stages[stage] = {"runs": there and not missing, "missing": missing}
    stages["vllm rollouts"] = {
        "runs": versions["vllm"] is not None and bool(graphics),
        "missing": ([] if versions["vllm"] else ["vllm"]) + ([] if graphics else ["a GPU"]),
    }
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": versions,
        "cores": cores(),
        "memory": memory(),
        "gpus": graphics,
        "disk": disk(results),
        "stages": stages,
    }


def render(found: dict[str, Any]) -> str:
    """Return the findings as text for people."""
    lines = [
        f"python   {found['python']} ({found['platform']})",
        f"cores    {found['cores']}",
        f"memory   {found['memory']['available_gib']} GiB available of {found['memory']['total_gib']}",
        f"disk     {found['disk']['free_gib']} GiB free of {found['disk']['total_gib']} ({found['disk']['path']})",
    ]
    lines += [f"gpu      {g['name']}, {g['memory']}, driver {g['driver']}" for g in found["gpus"]] or ["gpu      none"]
    lines += ["", "packages"]
    lines += [f"  {name:<14} {value or 'not installed'}" for name, value in found["packages"].items()]
    lines += ["", "stages"]
    for stage, state in found["stages"].items():
        verdict = "can run" if state["runs"] else "cannot run here: needs " + ", ".join(state["missing"])
        lines.append(f"  {stage:<14} {verdict}")
    return "\n".join(lines)
