"""Programs that come as Debian's packages: looked for, installed where this process may, named where it may not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

#: Where Debian keeps programs that are in no user's PATH.
PLACES = ("/usr/sbin", "/sbin")
POSTGRESQL = "/usr/lib/postgresql/*/bin"
_POLICY = Path("/usr/sbin/policy-rc.d")
#: Seconds for which another installation is waited for.
_PATIENCE = 300


class Missing(Exception):
    """Which packages are missing, and why they stay so."""


def install(programs: Mapping[str, str]) -> None:
    """See to it that programs are in PATH, given the package of each.

    Raises Missing naming the packages where apt-get is not there, not allowed, or does not find them.
    """
    _look_further()
    missing = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if not missing:
        return
    what = f"packages {', '.join(missing)} are missing"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"{what}, and only root can install them, with apt-get: apt-get install {' '.join(missing)}")
    said = []
    with _no_servers():
        for words in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            command = ["apt-get", "-o", f"DPkg::Lock::Timeout={_PATIENCE}", *words]
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            said.append(done.stderr.strip())
    _look_further()
    if done.returncode or any(shutil.which(program) is None for program in programs):
        raise Missing(f"{what}, and apt-get cannot install them: {' '.join(said)[-500:]}")


def _look_further() -> None:
    versions = sorted(Path("/").glob(POSTGRESQL.lstrip("/")), key=lambda place: float(place.parent.name), reverse=True)
    words = [*os.environ.get("PATH", "").split(os.pathsep), *PLACES, *map(str, versions)]
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys(words))


@contextlib.contextmanager
def _no_servers() -> Iterator[None]:
    """Keep packages from starting their servers at once: tests start their own, and end them."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
