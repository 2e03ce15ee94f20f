"""The platform that the wheels are for: CPython on Linux x86-64 with a glibc no newer than a given one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wheels.common import Trouble, canonical

ARCH = "x86_64"
#: glibc of the tags from before PEP 600.
LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
#: The oldest glibc of any manylinux tag.
OLDEST = 5

Glibc = tuple[int, int]


@dataclass(frozen=True)
class Wheel:
    """What a wheel's file name says: name (canonical), version, and the three sets of tags."""

    name: str
    version: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]


def parse_name(file: str) -> Wheel:
    """Read the file name of a wheel (the binary distribution format, PEP 427)."""
    words = file[: -len(".whl")].split("-") if file.endswith(".whl") else []
    if len(words) not in (5, 6):
        raise Trouble(f"{file!r} is not the name of a wheel (name-version-python-abi-platform.whl)")
    pythons, abis, platforms = (tuple(word.split(".")) for word in words[-3:])
    return Wheel(canonical(words[0]), words[1].replace("_", "+"), pythons, abis, platforms)


def glibc_of(platform: str) -> Glibc | None:
    """Return the glibc that a platform tag asks for on x86-64: (0, 0) for any, None for another platform."""
    if platform == "any" or platform == f"linux_{ARCH}":
        return (0, 0)
    for legacy, glibc in LEGACY.items():
        if platform == f"{legacy}_{ARCH}":
            return glibc
    found = re.match(rf"^manylinux_(\d+)_(\d+)_{ARCH}$", platform)
    return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class Target:
    """CPython `python` (as (3, 12)), glibc up to `glibc` (as (2, 34))."""

    python: tuple[int, int]
    glibc: Glibc

    @classmethod
    def parse(cls, python: str, glibc: str) -> Target:
        """Read the versions as a user writes them, 3.12 and 2.34."""
        pairs = []
        for option, text, low in (("--python", python, (3, 9)), ("--glibc", glibc, (2, 17))):
            found = re.match(r"^(\d+)\.(\d+)$", text)
            pair = (int(found[1]), int(found[2])) if found else (0, 0)
            if pair < low or pair[0] != low[0]:
                raise Trouble(f"{option} = {text!r} is not a version from {low[0]}.{low[1]} on", 2)
            pairs.append(pair)
        return cls(pairs[0], pairs[1])

    @property
    def label(self) -> str:
        """In words."""
        return f"CPython {self.python[0]}.{self.python[1]}, Linux {ARCH}, glibc {self.glibc[0]}.{self.glibc[1]}"

    def platforms(self) -> list[str]:
        """Return the platform tags that fit, newest glibc first: pip takes the first of the list that is published."""
        tags = [f"manylinux_2_{minor}_{ARCH}" for minor in range(self.glibc[1], OLDEST - 1, -1)]
        legacy = [f"{name}_{ARCH}" for name, glibc in reversed(LEGACY.items()) if glibc <= self.glibc]
        return [*tags, *legacy, f"linux_{ARCH}"]

    def pip_options(self) -> list[str]:
        """Return the options that make pip look for this platform on whichever machine it runs."""
        major, minor = self.python
        options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={major}.{minor}"]
        return [*options, f"--abi=cp{major}{minor}", *(f"--platform={tag}" for tag in self.platforms())]

    def _runs(self, python: str, abi: str) -> bool:
        found = re.match(r"^(cp|py)(\d)(\d*)$", python)
        if not found or int(found[2]) != self.python[0]:
            return False
        minor = int(found[3]) if found[3] else 0
        if found[1] == "py" or abi == "none":
            return abi == "none" and minor <= self.python[1]
        if abi == "abi3":
            return 2 <= minor <= self.python[1]
        return minor == self.python[1] and abi == f"cp{self.python[0]}{self.python[1]}"

    def need(self, wheel: Wheel) -> Glibc | None:
        """Return the lowest glibc with which a wheel runs on this platform, or None if it does not."""
        if not any(self._runs(python, abi) for python in wheel.pythons for abi in wheel.abis):
            return None
        fits = [glibc for glibc in map(glibc_of, wheel.platforms) if glibc is not None and glibc <= self.glibc]
        return min(fits) if fits else None
