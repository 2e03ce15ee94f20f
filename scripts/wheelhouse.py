#!/usr/bin/env python3
"""Downloads every pinned wheel of a lock for machines without a network. Called by `make wheelhouse`.

    python3 scripts/wheelhouse.py --out wheelhouse --part-mb 60
    python3 scripts/wheelhouse.py --plan                # what would be fetched, with sizes; nothing is kept

Runs on any machine with pip and a registry, whatever its own platform. Packages come from where pip is configured to
look. Run again, it fetches what is missing and checks the rest. Exit code 1: failed; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from wheels.common import Trouble, megabytes, told
from wheels.lock import read_lock, select
from wheels.parts import cut
from wheels.plan import plan
from wheels.publish import manifest, publish, remove_other_parts, withdraw
from wheels.store import Store, locked, say
from wheels.target import Target

ROOT = Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements" / "gpu.txt", help="file of name==version")
    parser.add_argument("--out", type=Path, default=Path("wheelhouse"), help="folder of the wheelhouse")
    parser.add_argument("--python", default="3.12", help="CPython of the machines (default 3.12)")
    parser.add_argument("--glibc", default="2.34", help="their glibc (default 2.34): newer wheels are not taken")
    parser.add_argument("--part-mb", type=int, default=0, help="also cut parts of at most so many MiB (0: none)")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="LIST",
        help="packages that the machines have: names, globs, name==version, @FILE of such (a `pip freeze` will do); "
        "`torch` stands for torch and its CUDA libraries",
    )
    parser.add_argument("--only", action="append", default=[], metavar="LIST", help="only these pins, written likewise")
    parser.add_argument("--also", action="append", default=[], metavar="PIN", help="a further name==version")
    parser.add_argument("--find-links", action="append", default=[], metavar="DIR", help="also look for wheels here")
    parser.add_argument("--project", type=Path, default=ROOT, help="project whose own wheel is added")
    parser.add_argument("--plan", action="store_true", help="ask the registry for names and sizes only")
    options = parser.parse_args()
    if options.part_mb < 0:
        parser.error(f"--part-mb = {options.part_mb} is below 0")
    for folder in options.find_links:
        if "://" not in folder and not Path(folder).is_dir():
            parser.error(f"--find-links = {folder!r} is no folder")
    return options


def build(options: argparse.Namespace) -> None:
    """Fill the wheelhouse and cut its parts."""
    target = Target.parse(options.python, options.glibc)
    selection = select(read_lock(options.lock, options.also), options.without, options.only)
    say(f"{options.lock.name}: {len(selection.taken)} pins for {target.label}; {len(selection.without)} left out")
    if options.plan:
        plan(selection, target, options.find_links)
        return
    out = options.out.resolve()
    with locked(out):
        store = Store(out, target, options.find_links)
        try:
            withdraw(out)
            refused = store.fetch(selection.taken)
            if refused:
                lines = "\n".join(f"  {line}" for line in refused)
                raise Trouble(f"{len(refused)} of {len(selection.taken)} pins could not be had:\n{lines}")
            own = store.project(options.project.resolve())
            store.drop([*(pin.name for pin in selection.taken), own_name(store, own.file)])
            entries = list(store.entries.values())
            content = manifest(options.lock, selection, target, entries)
            identity = publish(out, content)
            remove_other_parts(out, identity)
            say(
                f"{options.out}: {len(entries)} wheels, {megabytes(content['size'])}, installed "
                f"{megabytes(content['unpacked'])}; id {identity[:8]}"
            )
            if options.part_mb:
                parts = cut(out, content, identity, options.part_mb)
                largest = max(path.stat().st_size for path in parts)
                say(f"{options.out / 'parts'}: {len(parts)} parts, the largest {largest / (1 << 20):.1f} MiB")
        finally:
            store.close()
    say(f"On the machine without a network: bash {options.out.name}/install.sh --venv DIR")


def own_name(store: Store, file: str) -> str:
    """Return the name under which the journal has a file."""
    return next(name for name, entry in store.entries.items() if entry.file == file)


def main() -> int:
    """Run, and say in one message what went wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return told(lambda: build(arguments()))


if __name__ == "__main__":
    sys.exit(main())
