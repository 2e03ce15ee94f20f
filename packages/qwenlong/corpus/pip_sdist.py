"""Download one source distribution with pip's own finder and session, and run none of its code.

`pip download` prepares metadata for a source distribution, which executes its build script. This script asks pip's
finder for the link and streams the bytes instead, so that the user's pip configuration (index, mirrors, find-links,
certificates, proxies, credentials) holds, and no registry is named here. It uses pip's internals, for which there is
no public equivalent (seen with pip 23.2 and 26.3); `fetch.py` runs it in a process of its own.

Run as a script: pip_sdist.py NAME FILENAME OUT_DIR TIMEOUT_SECONDS RETRIES. Imports pip and the standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

CHUNK = 1 << 16


def main(name: str, filename: str, out: str, timeout: str, retries: str) -> int:
    """Write `out/filename` and return 0, or say on stderr what went wrong and return 1."""
    from pip._internal.commands import create_command
    from pip._internal.utils.temp_dir import global_tempdir_manager, tempdir_registry

    command = create_command("download")
    limits = ["--timeout", timeout, "--retries", retries]
    options, _ = command.parse_args(["--no-deps", "--no-binary", name, *limits, name])
    with global_tempdir_manager(), tempdir_registry() as command.tempdir_registry, command.main_context():
        session = command.get_default_session(options)  # type: ignore[attr-defined]
        # A source distribution is read, not installed: what Python it asks for does not matter.
        finder = command._build_package_finder(options, session, ignore_requires_python=True)  # type: ignore[attr-defined]
        candidates = finder.find_all_candidates(name)
        link = next((candidate.link for candidate in candidates if candidate.link.filename == filename), None)
        if link is None:
            versions = sorted({str(candidate.version) for candidate in candidates})
            # pip does not tell an index that it cannot reach from one that lacks the package.
            there = f"they have the versions {', '.join(versions)}" if versions else "none has it, or none was reached"
            print(f"pip's indexes have no {filename}; {there}", file=sys.stderr)
            return 1
        target = Path(out) / filename
        if link.is_file:
            target.write_bytes(Path(link.file_path).read_bytes())
            return 0
        # The bytes as published: no transparent decompression, hence the header.
        headers = {"Accept-Encoding": "identity"}
        with session.get(link.url_without_fragment, stream=True, headers=headers) as reply, target.open("wb") as stream:
            reply.raise_for_status()
            for chunk in reply.iter_content(CHUNK):
                stream.write(chunk)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except Exception as failure:
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
        sys.exit(1)
