"""The lock file: exact pins, one a line, and which of them a wheelhouse takes."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wheels.common import Trouble, canonical

PIN = re.compile(r"^(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9.!+_-]+)$")

#: What the word `torch` stands for in --without: torch and what its own wheel requires of CUDA.
TORCH = (
    "torch",
    "torchaudio",
    "torchvision",
    "triton",
    "cuda-bindings",
    "cuda-pathfinder",
    "cuda-toolkit",
    "nvidia-cublas",
    "nvidia-cuda-cupti",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
    "nvidia-cudnn-cu13",
    "nvidia-cufft",
    "nvidia-cufile",
    "nvidia-curand",
    "nvidia-cusolver",
    "nvidia-cusparse",
    "nvidia-cusparselt-cu13",
    "nvidia-nccl-cu13",
    "nvidia-nvjitlink",
    "nvidia-nvshmem-cu13",
    "nvidia-nvtx",
)


@dataclass(frozen=True)
class Pin:
    """One line of a lock: `name` in canonical form, `version` as written."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Selection:
    """What is taken of a lock, and what is left out because the machine has it (`named`: by its very name)."""

    taken: tuple[Pin, ...]
    without: tuple[Pin, ...]
    named: frozenset[str]


def parse_pin(text: str, where: str) -> Pin:
    """Read `name==version`; `where` names the place for the error."""
    found = PIN.match(text)
    if not found:
        raise Trouble(f"{where}: {text!r} is no exact pin; a lock holds name==version, one a line", 2)
    return Pin(canonical(found["name"]), found["version"])


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a file with their numbers, without comments and blank lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"cannot read {path}: {error}", 2) from error
    stripped = [(number, line.split("#", 1)[0].strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in stripped if line]


def read_lock(path: Path, also: Iterable[str] = ()) -> list[Pin]:
    """Return the pins of a lock and those of `also`, sorted by name; a name twice is an error."""
    pins = [parse_pin(line, f"{path}, line {number}") for number, line in lines_of(path)]
    pins += [parse_pin(text, "--also") for text in also]
    if not pins:
        raise Trouble(f"{path} pins nothing", 2)
    by_name: dict[str, Pin] = {}
    for pin in pins:
        former = by_name.setdefault(pin.name, pin)
        if former is not pin:
            raise Trouble(f"{path}: {pin.name} is pinned twice, to {former.version} and to {pin.version}", 2)
    return sorted(by_name.values(), key=lambda pin: pin.name)


def _words(options: Iterable[str]) -> list[str]:
    """Return the words of comma-separated options; `@FILE` stands for the lines of a file."""
    words = [word.strip() for option in options for word in option.split(",") if word.strip()]
    found: list[str] = []
    for word in words:
        if not word.startswith("@"):
            found.append(word)
            continue
        for number, line in lines_of(Path(word[1:])):
            if line.startswith("-e "):
                continue
            # `pip freeze` writes what was installed from a folder as `name @ file:…`, or `-e …` if editable.
            name = line.split(" @ ", 1)[0].strip()
            if not re.match(r"^[A-Za-z0-9*?._-]+(==\S+)?$", name):
                raise Trouble(f"{word[1:]}, line {number}: {line!r} is neither a name nor name==version", 2)
            found.append(name)
    return found


def _public(version: str) -> str:
    """Return a version without its local part: 2.11.0+cu130 is the release 2.11.0."""
    return version.split("+", 1)[0]


def _matches(word: str, pin: Pin) -> bool:
    name, _, version = word.partition("==")
    return fnmatch.fnmatchcase(pin.name, canonical(name)) and (not version or _public(version) == _public(pin.version))


def select(pins: Iterable[Pin], without: Iterable[str] = (), only: Iterable[str] = ()) -> Selection:
    """Choose pins: those of `only` (all, if empty) less those of `without`.

    Words are names, globs or name==version (that release only); `torch` in `without` stands for TORCH. A word that
    matches no pin is an error unless it came with a version, as the lines of a `pip freeze` do.
    """
    pins = list(pins)
    keep, drop = _words(only), _words(without)
    for option, words in (("--only", keep), ("--without", drop)):
        for word in words:
            if "==" not in word and not any(_matches(word, pin) for pin in pins):
                raise Trouble(f"{option}: {word!r} matches no pin of the lock", 2)
    chosen = [pin for pin in pins if not keep or any(_matches(word, pin) for word in keep)]
    wide = drop + (list(TORCH) if "torch" in drop else [])
    dropped = tuple(pin for pin in chosen if any(_matches(word, pin) for word in wide))
    taken = tuple(pin for pin in chosen if pin not in dropped)
    if not taken:
        raise Trouble("--only and --without leave nothing of the lock", 2)
    named = {canonical(word.partition("==")[0]) for word in drop if "*" not in word and "?" not in word}
    return Selection(taken, dropped, frozenset(pin.name for pin in dropped if pin.name in named))
