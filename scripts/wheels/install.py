"""Installs a wheelhouse without a network; install.sh finds the Python for it."""

from __future__ import annotations

import argparse
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from install_files import HERE, Trouble, listed, locate, room, told

MARK = ".wheelhouse.json"


def pair(text: str) -> tuple[int, ...]:
    """Read a version such as 2.34 for comparison."""
    return tuple(int(word) for word in re.findall(r"\d+", text)[:2])


def check_platform(content: dict[str, Any]) -> None:
    """Raise with all that this machine lacks for the wheels."""
    lines = []
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if (sys.implementation.name, python) != ("cpython", content["python"]):
        lines.append(f"CPython {content['python']}, this is {sys.implementation.name} {python} ({sys.executable})")
    if (platform.system(), platform.machine()) != ("Linux", content["machine"]):
        lines.append(f"Linux {content['machine']}, this is {platform.system()} {platform.machine()}")
    library, have = platform.libc_ver()
    needy = [
        wheel for wheel in content["wheels"] if pair(wheel["glibc"]) > (pair(have) if library == "glibc" else (0, 0))
    ]
    if needy:
        most = max((wheel["glibc"] for wheel in needy), key=pair)
        names = ", ".join(wheel["name"] for wheel in needy[:5])
        lines.append(f"glibc {most} (for {names}), here is {library or 'another C library'} {have}")
    if lines:
        raise Trouble(f"these wheels do not run on this machine; they need:{listed(lines)}")


def check_rest(content: dict[str, Any], allow: bool) -> None:
    """Say which packages that were left out this machine lacks; raise if one of them was named."""
    needed: list[str] = []
    told: list[str] = []
    for item in content["without"]:
        try:
            have = importlib.metadata.version(item["name"])
        except importlib.metadata.PackageNotFoundError:
            (needed if item["needed"] else told).append(f"{item['name']} {item['version']}")
            continue
        if have.split("+")[0] != item["version"].split("+")[0]:
            print(f"note: this machine has {item['name']} {have}; the lock has {item['version']}", flush=True)
    if told:
        print(f"note: neither in the wheelhouse nor seen by {sys.executable}:{listed(told, 6)}", flush=True)
    if needed and not allow:
        raise Trouble(
            f"the wheelhouse was made without these, and {sys.executable} has none:{listed(needed)}\n"
            "Name the Python that has them (PYTHON=…), or go on without: --allow-missing"
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder against a second installation; the lock ends with the process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Trouble(f"another installation into {folder} is under way; wait for it") from error
        yield


def state_of(folder: Path, identity: str) -> str:
    """Return `new`, `begun` or `done` for a folder; raise if it is somebody else's."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "new"
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        other, state = str(mark["id"]), str(mark["state"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Trouble(f"{folder} is there and was not made from a wheelhouse; name another folder", 2) from None
    if other != identity:
        raise Trouble(f"{folder} was made from wheelhouse {other[:8]}, this is {identity[:8]}; name another folder", 2)
    return state


def set_state(folder: Path, identity: str, state: str) -> None:
    """Write down how far the installation is."""
    partial = folder / f"{MARK}.partial"
    partial.write_text(json.dumps({"id": identity, "state": state}) + "\n", encoding="utf-8")
    partial.replace(folder / MARK)


def run(words: list[str], what: str) -> str:
    """Run a command without the user's pip settings; raise with the end of its output if it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    # Options and a site's configuration could bring an index or constraints in.
    env["PIP_CONFIG_FILE"] = os.devnull
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = done.stdout.strip().splitlines()[-12:]
        full = any(os.strerror(number) in done.stdout for number in (errno.ENOSPC, errno.EDQUOT))
        hint = "\nMake room on the disk and run the same again." if full else ""
        raise Trouble(f"{what} failed:{listed(lines)}{hint}")
    return done.stdout


def install(content: dict[str, Any], identity: str, wheels: Path, options: argparse.Namespace) -> None:
    """Make the environment or folder and install every wheel into it, hashes checked once more by pip."""
    folder = Path(options.venv or options.target).resolve()
    with held(folder):
        state = state_of(folder, identity)
        if state == "new":
            room(folder, content["unpacked"], "the installation")
            folder.mkdir(parents=True, exist_ok=True)
            set_state(folder, identity, "begun")
        python = make_environment(folder, bool(content["without"])) if options.venv else sys.executable
        lock = folder / ".wheelhouse.txt"
        if state != "done":
            lock.write_text(pins(content["wheels"]), encoding="utf-8")
            print(f"Installing {len(content['wheels'])} packages into {folder}", flush=True)
            unpack(content, wheels.resolve(), folder, python, options)
        verify(content, folder, python, bool(options.target))
        set_state(folder, identity, "done")
    print(f"{folder} holds wheelhouse {identity[:8]}" + (" already" if state == "done" else ""))
    use = f"export PYTHONPATH={folder} PATH={folder}/bin:$PATH" if options.target else f"source {folder}/bin/activate"
    print(f"Use it: {use}")


def unpack(content: dict[str, Any], wheels: Path, folder: Path, python: str, options: argparse.Namespace) -> None:
    """Let several pips install a share of the wheels each: one leaves all cores but its own idle."""
    words = [python, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-input", "install"]
    words += ["--quiet", "--no-index", "--no-deps", "--no-cache-dir", "--require-hashes", f"--find-links={wheels}"]
    # Whatever an interrupted run or the machine itself has of a package is no reason to leave it out.
    words.append("--ignore-installed")
    scratch = folder / ".lots"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    commands = []
    for number, lot in enumerate(lots(content["wheels"], wheels, options.jobs)):
        lock = scratch / f"{number}.txt"
        lock.write_text(pins(lot), encoding="utf-8")
        # Wheels share top folders, which pip would take away from one another in one target.
        target = ["--upgrade", f"--target={scratch / str(number)}"] if options.target else []
        commands.append([*words, *target, "-r", str(lock)])
    with ThreadPoolExecutor(len(commands)) as pool:
        list(pool.map(lambda command: run(command, "pip"), commands))
    for number in range(len(commands) if options.target else 0):
        merge(scratch / str(number), folder)
    shutil.rmtree(scratch)


def pins(wheels: list[dict[str, Any]]) -> str:
    """Return the wheels as pip's requirements, each with its digest."""
    return "".join(f"{wheel['name']}=={wheel['version']} --hash=sha256:{wheel['sha256']}\n" for wheel in wheels)


def lots(wheels: list[dict[str, Any]], folder: Path, jobs: int | None) -> list[list[dict[str, Any]]]:
    """Return the wheels in lots of about the same size: without a number one a core, of at least eight wheels."""
    count = jobs or max(1, min(len(os.sched_getaffinity(0)), 16, len(wheels) // 8))
    made: list[tuple[int, list[dict[str, Any]]]] = [(0, []) for _ in range(min(count, len(wheels)))]
    for wheel in sorted(wheels, key=lambda w: -(folder / w["file"]).stat().st_size):
        least = min(range(len(made)), key=lambda n: made[n][0])
        made[least] = (made[least][0] + (folder / wheel["file"]).stat().st_size, [*made[least][1], wheel])
    return [lot for _, lot in made]


def merge(source: Path, target: Path) -> None:
    """Move what is in a folder into another one, whose own files of the same name it replaces."""
    for item in sorted(source.iterdir()):
        place = target / item.name
        if item.is_dir() and not item.is_symlink() and place.is_dir() and not place.is_symlink():
            merge(item, place)
            continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        item.replace(place)


def make_environment(folder: Path, shared: bool) -> str:
    """Make a virtual environment unless it is there; return its Python. `shared`: it sees this Python's packages."""
    python = folder / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
        shutil.rmtree(folder / "lib", ignore_errors=True)
        words = [sys.executable, "-m", "venv", *(["--system-site-packages"] if shared else []), str(folder)]
        run(words, "making the environment (is python3-venv installed?)")
    if shared and sys.prefix != sys.base_prefix:
        # venv shares what the base interpreter has; this one is an environment itself. Its packages come last.
        lines = "".join(f"{path}\n" for path in site_packages(Path(sys.prefix)))
        (site_packages(folder)[0] / "machine.pth").write_text(lines, encoding="utf-8")
    return str(python)


def site_packages(prefix: Path) -> list[Path]:
    """Return an environment's folders of packages."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return [place for kind in ("lib", "lib64") if (place := prefix / kind / version / "site-packages").is_dir()]


def verify(content: dict[str, Any], folder: Path, python: str, target: bool) -> None:
    """Ask the installed environment for every version; raise with those that differ."""
    code = (
        "import importlib.metadata as m, json, re, sys\n"
        "found = {}\n"
        "for d in m.distributions(path=sys.argv[1:]):\n"
        "    found.setdefault(re.sub(r'[-_.]+', '-', d.metadata['Name']).lower(), d.version)\n"
        "print(json.dumps(found))"
    )
    places = [str(folder)] if target else [str(place) for place in site_packages(folder)]
    found = json.loads(run([python, "-c", code, *places], "asking for the versions").splitlines()[-1])
    lines = [
        f"{wheel['name']} {wheel['version']}: {found.get(wheel['name'], 'absent')}"
        for wheel in content["wheels"]
        if found.get(wheel["name"]) != wheel["version"]
    ]
    if lines:
        raise Trouble(
            f"{len(lines)} packages are not as the manifest says; remove {folder} and run again:{listed(lines)}"
        )


def whole(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="install.sh", description="Install a wheelhouse without a network.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--venv", metavar="DIR", help="make a virtual environment")
    where.add_argument("--target", metavar="DIR", help="install into a folder for PYTHONPATH")
    where.add_argument("--check", action="store_true", help="check files and platform only")
    parser.add_argument("--from", dest="sources", nargs="+", default=[], metavar="PATH", help="parts, or folders")
    parser.add_argument("--joined", metavar="DIR", help="where parts are put together (default: joined, beside this)")
    parser.add_argument("--jobs", type=whole, metavar="N", help="pips side by side (default: by cores and packages)")
    parser.add_argument("--allow-missing", action="store_true", help="go on without packages that were left out")
    return parser.parse_args()


def work(options: argparse.Namespace) -> None:
    """Check all that can be checked, then install."""
    sources = [Path(source) for source in options.sources] or [HERE]
    content, identity, wheels = locate(sources, Path(options.joined or HERE / "joined"))
    check_platform(content)
    check_rest(content, options.allow_missing)
    if not options.check:
        install(content, identity, wheels, options)


def main() -> int:
    """Run, and say in one message what went wrong."""
    options = arguments()
    return told(lambda: work(options))


if __name__ == "__main__":
    sys.exit(main())
