"""What stands beside the wheels: manifest, requirements with hashes, checksums and the installer."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wheels.common import digest, to_json, write_text
from wheels.lock import Selection
from wheels.store import Entry
from wheels.target import ARCH, Target, parse_name

FORMAT = "qwenlong-wheelhouse-1"
HERE = Path(__file__).resolve().parent
#: Files beside the wheels; every part carries them too.
BESIDE = ("install.sh", "install.py", "install_files.py", "requirements.txt", "manifest.json", "SHA256SUMS")


def manifest(lock: Path, selection: Selection, target: Target, entries: Sequence[Entry]) -> dict[str, Any]:
    """Describe a wheelhouse: lock and its digest, platform, what was left out, and each wheel (sizes in bytes)."""
    wheels = [
        {
            "name": parse_name(entry.file).name,
            "version": parse_name(entry.file).version,
            "file": entry.file,
            "sha256": entry.sha256,
            "size": entry.size,
            "unpacked": entry.unpacked,
            "glibc": entry.glibc,
            "origin": entry.origin,
        }
        for entry in sorted(entries, key=lambda entry: entry.file.lower())
    ]
    return {
        "format": FORMAT,
        "lock": {"file": lock.name, "sha256": digest(lock)},
        "python": f"{target.python[0]}.{target.python[1]}",
        "machine": ARCH,
        "without": [
            {"name": pin.name, "version": pin.version, "needed": pin.name in selection.named}
            for pin in selection.without
        ],
        "size": sum(entry.size for entry in entries),
        "unpacked": sum(entry.unpacked for entry in entries),
        "wheels": wheels,
    }


def publish(out: Path, content: dict[str, Any]) -> str:
    """Write what stands beside the wheels; return the wheelhouse's id, the digest of its manifest."""
    text = to_json(content)
    header = (
        f"# {content['lock']['file']} (sha256 {content['lock']['sha256']}) as wheels; written by make wheelhouse.\n"
    )
    pins = [
        f"{wheel['name']}=={wheel['version']} --hash=sha256:{wheel['sha256']}\n"
        for wheel in sorted(content["wheels"], key=lambda wheel: wheel["name"])
    ]
    script = (HERE / "install.sh").read_text(encoding="utf-8")
    write_text(out / "install.sh", script.replace("WANTED=3.12", f"WANTED={content['python']}"))
    (out / "install.sh").chmod(0o755)
    for name in ("install.py", "install_files.py"):
        write_text(out / name, (HERE / name).read_text(encoding="utf-8"))
    write_text(out / "requirements.txt", header + "".join(pins))
    sums = [f"{wheel['sha256']}  wheels/{wheel['file']}\n" for wheel in content["wheels"]]
    sums += [f"{digest(out / name)}  {name}\n" for name in BESIDE[:4]]
    sums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n")
    write_text(out / "SHA256SUMS", "".join(sums))
    write_text(out / "manifest.json", text)
    return hashlib.sha256(text.encode()).hexdigest()


def withdraw(out: Path) -> None:
    """Remove what says that the wheelhouse is complete; the parts stay until it is known whether they still fit."""
    (out / "manifest.json").unlink(missing_ok=True)


def remove_other_parts(out: Path, identity: str) -> None:
    """Remove parts of another wheelhouse."""
    if any(f"wheels-{identity[:8]}-" not in path.name for path in (out / "parts").glob("*.tar")):
        shutil.rmtree(out / "parts")
