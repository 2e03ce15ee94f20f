"""The test cluster itself: what it leaves alone, what it clears up, that there is one at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm as testbed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture
def site(machine):
    """A configuration of the machine's own Slurm: what is there, or one made up."""
    made = not testbed.CONF.exists()
    if made:
        testbed.CONF.parent.mkdir(exist_ok=True)
        testbed.CONF.write_text("ClusterName=of-the-site\n")
    yield testbed.CONF.read_bytes()
    if made:
        testbed.CONF.unlink()


def by_hand(log: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, testbed.__file__], stdout=log.open("wb"), stderr=subprocess.STDOUT)
    end = time.monotonic() + 300
    while "Ctrl-C" not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)
    return process


def ours() -> list[str]:
    """Return everything of the cluster that this machine shows."""
    found = [f"netns {p.name}" for p in Path("/var/run/netns").glob(f"{testbed.PREFIX}-*")]
    found += [f"link {p.name}" for p in Path("/sys/class/net").glob(f"{testbed.PREFIX}*")]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if line.startswith(("slurmd -D -N node", "slurmctld -D", f"munged --foreground --socket={testbed.STATE}")):
            found.append(line)
    return found


def test_what_a_killed_run_left_is_cleared_up_by_the_next_and_a_second_at_once_is_refused(site, tmp_path):
    first = by_hand(tmp_path / "first.log")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert ours() and testbed.CONF.read_bytes() != site
    second = by_hand(tmp_path / "second.log")
    other = subprocess.run([sys.executable, testbed.__file__], capture_output=True, text=True, timeout=180)
    assert other.returncode == 1 and f"another test cluster runs on this machine (pid {second.pid})" in other.stderr
    assert sum(line.startswith("slurmd -D") for line in ours()) == 2
    # A network lives on for as long as anybody has it open.
    with Path(f"/var/run/netns/{testbed.PREFIX}-node1").open():
        second.terminate()
        assert second.wait(120) == 143
        assert ours() == [] and testbed.CONF.read_bytes() == site


def test_machines_have_names_networks_processes_and_scratch_of_their_own_and_share_the_rest(slurm, tmp_path):
    (tmp_path / "shared").write_text("x")
    script = (
        f"test -e {tmp_path}/shared && touch {testbed.STATE}/scratch/of-$(hostname)"
        f" && echo $(hostname) $(hostname -I) $(ls {testbed.STATE}/scratch) $(ls -d /proc/[0-9]* | wc -l)"
    )
    said = testbed.sh("srun", "-N2", "bash", "-c", script, cwd="/").stdout.split("\n")
    rows = {line.split()[0]: line.split()[1:] for line in said if line}
    assert {name: row[0] for name, row in rows.items()} == {n.name: n.address for n in slurm.nodes}
    assert {name: row[1:-1] for name, row in rows.items()} == {n.name: [f"of-{n.name}"] for n in slurm.nodes}
    assert all(int(row[-1]) < 20 for row in rows.values())
