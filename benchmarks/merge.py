"""`qwenlong checkpoint merge` against mergekit on checkpoints of Qwen3-MoE geometry, whole commands side by side.

    benchmarks/mergekit_env.sh ENV
    python benchmarks/merge.py all --models DIR --work DIR --mergekit ENV [--cores 2] [--cache warm|cold]
    python benchmarks/merge.py make|ours|mergekit|check|floor|table …     parts of it

Each cell (a command at a size and a tau) runs once; its figures are kept under --work and a finished cell is not run
again. Inputs are made once under --models (24 GB for all sizes), outputs are removed when their digest is taken.
Peaks are of anonymous memory over the process tree, sampled every 20 ms.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import merge_check
import merge_models
import merge_table
from process_memory import measure

from qwenlong.core.files import code_digest, read_json, sha256_file, write_json, write_text
from qwenlong.core.provenance import git_commit, versions

TAUS = (1.0, 0.1)
#: mergekit is measured at these sizes and extrapolated; ours at all of them.
COMPARED = ("0.25B", "0.5B")
OURS = ("0.25B", "0.5B", "1B", "2B")
CHECKED = ("check-large", "check-rl")
#: mergekit's options. Its reading of safetensors is lazy by itself. It keeps an output file in memory until that is
#: full, and by default a file has 5 GB: smaller ones spare its memory. --async-write would take more of it.
MERGEKIT_OPTIONS = ("--device", "cpu", "--no-cuda", "--out-shard-size", "200M", "--quiet")
FLOOR_BLOCK = 1 << 24


class Bench:
    """Where things lie, and the cells."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.models, self.work = options.models.resolve(), options.work.resolve()
        self.cells = self.work / "cells"

    def cell(self, name: str, make: Any) -> None:
        """Run a cell unless its figures are there."""
        file = self.cells / f"{name}.json"
        if file.exists() and not self.options.again:
            print(f"{name}: there", flush=True)
            return
        load = os.getloadavg()[0]
        stamp = {"began": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()), "load": load}
        value = {**make(), **stamp, "commit": git_commit(), "code": code_digest("checkpoints"), "machine": machine()}
        write_json(file, value)
        print(f"{name}: {json.dumps({k: v for k, v in value.items() if k in ('seconds', 'cpu', 'anon')})}", flush=True)

    def merge(self, who: str, size: str, tau: float, mode: str, *, keep: bool = False) -> dict[str, Any]:
        """Run one merge as a whole process; return its figures. Its output is removed unless `keep`."""
        folders = merge_models.make(self.models, size)
        geometry = merge_models.SIZES[size]
        out = self.output(who, size, tau, mode)
        shutil.rmtree(out, ignore_errors=True)
        need = 2 * geometry.parameters + 10**9
        if shutil.disk_usage(self.work).free < need:
            raise SystemExit(f"{self.work} has no room for the output of {size}: {need / 1e9:.1f} GB are needed")
        prepare_cache(folders, self.options.cache)
        command, env, version = getattr(self, f"_{who}")(folders, out, tau, mode)
        figures = measure(command, self.work / "logs" / f"{out.name}.log", cores=self.options.cores, env=env)
        weights = sorted(out.glob("*.safetensors"))
        digest = hashlib.sha256("".join(f"{file.name} {sha256_file(file)}\n" for file in weights).encode())
        written = sum(file.stat().st_size for file in weights)
        if not keep:
            shutil.rmtree(out)
        return figures | {
            "who": who, "size": size, "parameters": geometry.parameters, "tau": tau, "mode": mode,
            "cache": self.options.cache, "cores": self.options.cores, "digest": digest.hexdigest(),
            "output_bytes": written, "versions": version, "command": self.shown(command),
        }  # fmt: skip

    def warm_up(self) -> None:
        """Merge a tiny model in each way, so that ours is compiled, as it is after the first merge on a machine."""
        for tau in self.options.taus:
            self.merge("ours", "tiny", tau, "mergekit")

    def output(self, who: str, size: str, tau: float, mode: str) -> Path:
        """Return the folder that a merge writes."""
        self.work.mkdir(parents=True, exist_ok=True)
        return self.work / f"{who}-{size}-tau{tau:g}-{mode}"

    def _ours(
        self, folders: list[Path], out: Path, tau: float, mode: str
    ) -> tuple[list[str], dict[str, str], dict[str, str]]:
        command = [sys.executable, "-m", "qwenlong", "checkpoint", "merge", "--method", "sce", "--base",
                   str(folders[0]), "--expert", str(folders[1]), "--expert", str(folders[2]), "--select-top",
                   f"{tau:g}", "--select-mode", mode, "--dtype", "bfloat16", "--cores", str(self.options.cores),
                   "--out", str(out), "--json",
                   *shlex.split(self.options.ours_options)]  # fmt: skip
        return command, {}, {name: versions()[name] for name in ("python", "qwenlong", "torch")}

    def _mergekit(
        self, folders: list[Path], out: Path, tau: float, mode: str
    ) -> tuple[list[str], dict[str, str], dict[str, str]]:
        if self.options.mergekit is None:
            raise SystemExit("give --mergekit, the environment that benchmarks/mergekit_env.sh made")
        config = self.work / "logs" / f"{out.name}.yaml"
        # float32 arithmetic on bfloat16 weights, as ours does at least; the output is bfloat16 in both.
        write_text(config, json.dumps({
            "merge_method": "sce", "base_model": str(folders[0]), "models": [{"model": str(f)} for f in folders[1:]],
            "parameters": {"select_topk": tau}, "dtype": "float32", "out_dtype": "bfloat16",
        }))  # fmt: skip
        binaries = self.options.mergekit.resolve() / "bin"
        command = [str(binaries / "mergekit-yaml"), str(config), str(out), *MERGEKIT_OPTIONS,
                   "--num-threads", str(self.options.cores)]  # fmt: skip
        code = ("import json, importlib.metadata as m, platform; print(json.dumps({'python': platform.python_version()}"
                "|{n: m.version(n) for n in ('mergekit', 'torch', 'transformers', 'safetensors')}))")  # fmt: skip
        found = subprocess.run([binaries / "python", "-c", code], check=True, capture_output=True, text=True)
        return command, {"HF_HUB_OFFLINE": "1"}, json.loads(found.stdout)

    def shown(self, command: list[str]) -> str:
        """Return a command line without this machine's paths."""
        text = shlex.join(command).replace(str(self.models), "MODELS").replace(str(self.work), "WORK")
        text = text.replace(f"{sys.executable} -m qwenlong", "qwenlong")
        return text if self.options.mergekit is None else text.replace(f"{self.options.mergekit.resolve()}/bin/", "")

    def check(self, size: str, tau: float) -> dict[str, Any]:
        """Merge with both, compare element by element, remove the outputs."""
        mode = "mergekit"
        found = {who: self.merge(who, size, tau, mode, keep=True) for who in ("ours", "mergekit")}
        folders = [self.output(who, size, tau, mode) for who in found]
        result = merge_check.compare(merge_models.make(self.models, size), *folders, tau)
        for folder in folders:
            shutil.rmtree(folder)
        return {"size": size, "tau": tau, "mode": mode, "delta": merge_models.SIZES[size].delta,
                "dtype": merge_models.SIZES[size].dtype, "kinds": result}  # fmt: skip

    def floor(self) -> dict[str, Any]:
        """Measure this disk: a file is written and flushed, dropped from the page cache, read, and read again."""
        self.work.mkdir(parents=True, exist_ok=True)
        path, size = self.work / "floor.bin", int(self.options.floor_gigabytes * 1e9)
        block = bytearray(os.urandom(FLOOR_BLOCK))
        blocks = max(1, size // FLOOR_BLOCK)
        begin = time.monotonic()
        with path.open("wb") as stream:
            for number in range(blocks):
                block[:8] = number.to_bytes(8, "little")
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        write = time.monotonic() - begin
        prepare_cache([path], "cold")
        cold, warm = read_through(path), read_through(path)
        path.unlink()
        total = blocks * FLOOR_BLOCK
        return {"bytes": total, "write": total / write, "read_cold": total / cold, "read_warm": total / warm}


def prepare_cache(paths: list[Path], state: str) -> None:
    """Bring files (or those of folders) into the page cache ("warm") or drop them from it ("cold")."""
    for file in (file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])):
        if state == "warm":
            read_through(file)
            continue
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path: Path) -> float:
    """Read a file in order; return the seconds that it took."""
    begin = time.monotonic()
    with path.open("rb", buffering=0) as stream:
        while stream.read(FLOOR_BLOCK):
            pass
    return time.monotonic() - begin


def machine() -> dict[str, Any]:
    """Describe this machine."""
    name = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")), platform.processor())  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": name, "cores": os.cpu_count(), "memory": memory, "kernel": platform.release()}


def cells(bench: Bench, who: str, size: str) -> None:
    """Run the cells of one side at a size."""
    for tau in bench.options.taus:
        # mergekit knows one way of selecting; at 1 all is selected and the two of ours are the same.
        modes = ["mergekit"] if who == "mergekit" else ["reference"] if tau == 1 else ["reference", "mergekit"]
        for mode in modes:
            name = f"{who}-{size}-tau{tau:g}-{mode}-{bench.options.cache}"
            bench.cell(name, lambda a=(who, size, tau, mode): bench.merge(*a))


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("make", "ours", "mergekit", "check", "floor", "table", "all"))
    parser.add_argument("--models", type=Path, required=True, help="folder for the inputs")
    parser.add_argument("--work", type=Path, required=True, help="folder for outputs, logs and figures")
    parser.add_argument("--mergekit", type=Path, help="environment of mergekit")
    parser.add_argument("--sizes", nargs="+", choices=merge_models.SIZES, help="default: those of the part")
    parser.add_argument("--taus", nargs="+", type=float, default=TAUS)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--cache", choices=("warm", "cold"), default="warm", help="page cache of the inputs")
    parser.add_argument("--ours-options", default="", help="more options for qwenlong checkpoint merge")
    parser.add_argument("--floor-gigabytes", type=float, default=4.0)
    parser.add_argument("--again", action="store_true", help="run finished cells again")
    parser.add_argument("--out", type=Path, help="file for the table; default: it is printed only")
    options = parser.parse_args()
    bench, part = Bench(options), options.part
    if part in ("make", "all"):
        for size in options.sizes or (*OURS, *CHECKED):
            merge_models.make(bench.models, size)
    if part in ("floor", "all"):
        bench.cell("floor", bench.floor)
    if part in ("ours", "all"):
        bench.warm_up()
    for size in options.sizes or OURS:
        # One after the other at a size, so that a machine which grows slower or faster does so for both.
        if part in ("ours", "all"):
            cells(bench, "ours", size)
        if part in ("mergekit", "all") and (size in COMPARED or options.sizes):
            cells(bench, "mergekit", size)
    if part in ("check", "all"):
        for size in options.sizes if options.sizes and part == "check" else CHECKED:
            for tau in options.taus:
                bench.cell(f"check-{size}-tau{tau:g}", lambda a=(size, tau): bench.check(*a))
    if part in ("table", "all"):
        found = {file.stem: read_json(file) for file in sorted(bench.cells.glob("*.json"))}
        text = merge_table.table(found, options.cache)
        if options.out:
            write_text(options.out, text)
        print(text)


if __name__ == "__main__":
    main()
