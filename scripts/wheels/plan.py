"""What a wheelhouse would hold, asked of the registry: file names, sizes, packages without a wheel."""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wheels.common import Trouble, megabytes
from wheels.lock import Selection, parse_pin
from wheels.registry import Missing, Pip
from wheels.store import say
from wheels.target import Target, parse_name


def size_of(url: str) -> int | None:
    """Return the size of a file in bytes without fetching it, or None if its server does not tell."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            return Path(unquote(parts.path)).stat().st_size
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=30) as reply:
            length = reply.headers.get("Content-Length")
        return int(length) if length else None
    except (OSError, ValueError):
        return None


def plan(selection: Selection, target: Target, find_links: Sequence[str]) -> None:
    """Print every file with its size, largest first, and what has to be built.

    Raises Trouble if the registry gives a file that does not run on the platform.
    """
    wanted, without_wheel = list(selection.taken), []
    with tempfile.TemporaryDirectory() as scratch:
        pip = Pip(target, find_links, Path(scratch))
        while wanted:
            try:
                found = pip.resolve(wanted)
                break
            except Missing as error:
                pin = parse_pin(error.pin, "pip")
                if pin not in wanted:
                    raise Trouble(f"pip misses {error.pin}, which the lock does not name") from error
                without_wheel.append(pin)
                wanted.remove(pin)
        else:
            found = []
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(size_of, [item["url"] for item in found]))
    files = [unquote(urlsplit(item["url"]).path).rsplit("/", 1)[-1] for item in found]
    strange = [file for file in files if target.need(parse_name(file)) is None]
    if strange:
        raise Trouble(f"these do not run on {target.label}: {', '.join(strange)}")
    rows = sorted(zip(sizes, files), key=lambda row: (-(row[0] or 0), row[1]))  # noqa: B905 - as long as each other
    for size, file in rows:
        say(f"{megabytes(size) if size is not None else '?':>10}  {file}")
    for pin in without_wheel:
        say(f"{'to build':>10}  {pin} (no wheel for {target.label})")
    unknown = sum(size is None for size in sizes)
    say(
        f"{len(files)} wheels of {megabytes(sum(size or 0 for size in sizes))}"
        + (f" and {unknown} of unknown size" if unknown else "")
        + f"; {len(without_wheel)} to build, and the project's own"
    )
