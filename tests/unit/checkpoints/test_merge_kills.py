"""`qwenlong checkpoint merge` killed, stopped, twice at once, and on a disk that is full.

Kills are real: SIGKILL or SIGTERM from outside to the command in a process of its own, which stands still at a named
point (merge_driver.py). So is the full disk, where a file system may be mounted.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from merge_cases import Command, contents, finished, make_inputs, nothing_at, one_error, words


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def unbroken(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("unbroken") / "out"
    command = Command(words(inputs, out))
    assert command.go_on() == 0, command.text
    found = contents(out)
    assert len([name for name in found if name.endswith(".safetensors")]) >= 4
    return found


KILL, TERM = signal.SIGKILL, signal.SIGTERM
#: Where the merge stands, how many files are finished then, and the signal.
POINTS = {
    "before-first-file": ("rename:model-00001-of-*.safetensors", 0, KILL),
    "after-first-file": ("rename:model-00002-of-*.safetensors", 1, KILL),
    "inside-a-file": ("tensor:9", 1, KILL),
    "before-record": ("rename:model-00003-of-*.safetensors.json", 2, KILL),
    "before-final-rename": ("rename:out", 4, KILL),
    "inside-a-file-term": ("tensor:9", 1, TERM),
    "before-final-rename-term": ("rename:out", 4, TERM),
}


SLOW = ("before-first-file", "before-record")


@pytest.mark.parametrize(
    ("hold", "least", "number"),
    [pytest.param(*point, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, point in POINTS.items()],
)
def test_killed_merge_computes_only_what_is_missing(
    inputs: Path, unbroken: dict[str, bytes], tmp_path: Path, hold: str, least: int, number: int
) -> None:
    out, state = tmp_path / "out", tmp_path / "state"
    arguments = words(inputs, out, "--state", state)
    command = Command(arguments, hold)
    assert not out.exists()
    assert command.send(number) == (-signal.SIGKILL if number == signal.SIGKILL else 143), command.text
    assert not out.exists() and "Traceback" not in command.text
    kept = finished(state)
    weight_files = [name for name in unbroken if name.endswith(".safetensors")]
    assert least <= len(kept) <= len(weight_files)
    for name in kept:
        assert next(state.rglob(name)).read_bytes() == unbroken[name], name

    again = Command(arguments)
    assert again.go_on() == 0, again.text
    assert contents(out) == unbroken
    times = {name: (out / name).stat().st_mtime_ns for name in weight_files}
    assert {name: times[name] for name in kept} == kept, "finished files were written again"
    assert all(times[name] > max(kept.values()) for name in weight_files if name not in kept) if kept else True
    assert not list(state.rglob("*.safetensors*"))
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")]


@pytest.mark.slow
def test_killed_at_every_file_in_turn(inputs: Path, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    out, state = tmp_path / "out", tmp_path / "state"
    arguments = words(inputs, out, "--state", state)
    counts = []
    for number in (2, 3, 4):
        command = Command(arguments, f"rename:model-{number:05d}-of-*.safetensors")
        assert command.send(signal.SIGKILL) == -signal.SIGKILL
        counts.append(len(finished(state)))
    assert counts == [1, 2, 3]
    again = Command(arguments)
    assert again.go_on() == 0, again.text
    assert contents(out) == unbroken


def test_killed_merge_leaves_the_output_that_was_there(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = Command(words(inputs, out, "--dtype", "float32"))
    assert first.go_on() == 0, first.text
    before = contents(out)
    command = Command(words(inputs, out), "tensor:9")
    assert command.send(signal.SIGKILL) == -signal.SIGKILL
    assert contents(out) == before


def test_two_merges_with_one_state(inputs: Path, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    out, state = tmp_path / "out", tmp_path / "state"
    arguments = words(inputs, out, "--state", state)
    first = Command(arguments, "tensor:9")
    second = Command(arguments)
    assert second.go_on() == 1, second.text
    one_error(second.text, "another merge", f"pid {first.process.pid}", str(state))
    assert first.go_on() == 0, first.text
    assert contents(out) == unbroken


#: Runs a command over a file system of its own, as large as $2, in the folder $1, and lists that in $3 when it has
#: ended. When $4 is there the file system is filled up, and $4 removed: the command goes on with a full disk.
_SMALL_DISK = """
mount -t tmpfs -o size=$2 tmpfs "$1" || exit 99
folder=$1 listing=$3 reached=$4; shift 4
"$@" & pid=$!
while kill -0 $pid 2>/dev/null; do
    if [ -e "$reached" ]; then cat /dev/zero > "$folder/filler" 2>/dev/null; rm "$reached"; fi
    sleep 0.1
done
wait $pid; code=$?
find "$folder" -mindepth 1 > "$listing"
exit $code
"""


@pytest.mark.parametrize(("size", "hold"), [("24k", ""), ("400k", "tensor:9")], ids=["from-the-start", "meanwhile"])
def test_full_disk(inputs: Path, tmp_path: Path, size: str, hold: str) -> None:
    disk, listing, reached = tmp_path / "disk", tmp_path / "listing", tmp_path / "reached"
    disk.mkdir()
    arguments = words(inputs, disk / "out", "--state", disk / "state")
    isolated = ("unshare", "--map-root-user", "--mount")
    if subprocess.run([*isolated, "true"], capture_output=True).returncode == 0:
        script = (*isolated, "sh", "-c", _SMALL_DISK, "sh", disk, size, listing, reached)
        command = Command(arguments, hold, reached, prefix=tuple(map(str, script)), wait=False)
        code, left = command.process.wait(300), listing.read_text().splitlines()
        parts = ("No space left on device",) if hold else ("GB are free",)
    else:
        # Where no file system may be mounted, the kernel's limit on the size of a file stands in for its end.
        command = Command(arguments, limit=4_000, reached=reached)
        code, left = command.process.wait(300), [str(path) for path in disk.rglob("*")]
        parts = ("cannot write", "File too large")
    assert code == 1, command.text
    one_error(command.text, str(disk), *parts)
    assert not [path for path in left if path.startswith(str(disk / "out")) or path.endswith(".partial")]


def test_limit_on_the_size_of_a_file(inputs: Path, tmp_path: Path) -> None:
    out, state = tmp_path / "out", tmp_path / "state"
    command = Command(words(inputs, out, "--state", state), limit=2_500)
    assert command.go_on() == 1, command.text
    one_error(command.text, "cannot write", "File too large")
    nothing_at(out)
    assert not finished(state)
