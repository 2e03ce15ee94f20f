"""A real Slurm on one machine: a controller, and nodes with network, names, mounts and processes of their own.

Nodes are joined by veth over a bridge; /tmp, /dev/shm and a scratch folder of each are its own where asked for, the
rest of the file system they share, as a cluster's do. All that is started is ended by process id, also what an earlier
run left that was killed. Needs root, Debian's packages slurm-wlm, munge, iproute2, and a kernel with namespaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from qwenlong.core.ownership import Identity

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import debian

STATE = Path("/run/qls")
CONF = Path("/etc/slurm/slurm.conf")
KEPT = CONF.with_suffix(".conf.before-test-cluster")
PREFIX, SUBNET = "qls", "10.77.41"
PROGRAMS = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "munged": "munge",
    "ip": "iproute2",
    "nsenter": "util-linux",
}


class Unavailable(Exception):
    """Why there can be no Slurm on this machine."""


def install() -> None:
    """Install what is missing of Debian's packages. Raises Unavailable saying what is missing and why it stays so."""
    try:
        debian.install(PROGRAMS)
    except debian.Missing as error:
        raise Unavailable(str(error)) from None


def namespaces() -> None:
    """Raise Unavailable where this kernel, or the container around us, forbids namespaces or bridges."""
    if os.geteuid() != 0:
        raise Unavailable("network namespaces need root")
    name = f"{PREFIX}-probe"
    for words in (
        ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "true"],
        ["ip", "link", "add", name, "type", "bridge"],
        ["ip", "link", "del", name],
    ):
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"`{' '.join(words)}`: {done.stderr.strip()}")


def sh(*words: object, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command; raise RuntimeError with what it said when it fails."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))} gave {done.returncode}: {done.stdout}{done.stderr}")
    return done


class Node:
    """A machine of the cluster. Process 1 of its own is a shell that starts slurmd and reaps what is orphaned."""

    def __init__(self, cluster: Slurm, number: int) -> None:
        self.name, self.address = f"node{number}", f"{SUBNET}.{10 + number}"
        self._cluster = cluster
        self.init: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        net, link = f"{PREFIX}-{self.name}", f"{PREFIX}v{self.name}"
        sh("ip", "netns", "add", net)
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", net)
        sh("ip", "link", "set", link, "master", PREFIX, "up")
        for words in (
            "link set lo up",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {SUBNET}.1",
        ):
            sh("ip", "-n", net, *words.split())
        self.start()

    def start(self) -> None:
        """Boot the machine."""
        # `ip netns exec` mounts /sys anew, and slurmd finds no cgroup there.
        enter = ["nsenter", f"--net=/var/run/netns/{PREFIX}-{self.name}"]
        apart = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        scratch = STATE / "scratch"
        script = f"""
set -e
hostname {self.name}
mount --bind {STATE}/hosts /etc/hosts
mount -t tmpfs -o size={self._cluster.scratch_mb}m,mode=1777 tmpfs {scratch}
mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm
set +e
slurmd -D -N {self.name} &
while :; do wait; sleep 1; done
"""
        log = (STATE / f"{self.name}.out").open("ab")
        self.init = self._cluster.spawn([*enter, *apart, "bash", "-c", script], log)

    def inside(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on this machine."""
        return sh("nsenter", "--all", f"--target={self.first()}", *words, check=check)

    def first(self) -> int:
        """Return the id, as seen from outside, of the machine's process 1."""
        assert self.init is not None
        for _ in range(1200):
            below = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text().split()
            if below:
                return int(below[0])
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not come up: {(STATE / f'{self.name}.out').read_text()[-2000:]}")

    def processes(self) -> dict[int, str]:
        """Return the command lines of all processes on this machine, by outer id."""
        space = os.readlink(f"/proc/{self.first()}/ns/pid")
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/pid") == space:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if line:  # a zombie has none
                        found[int(entry.name)] = line
        return found

    def slurmd(self) -> int:
        """Return the id of its slurmd."""
        return next(pid for pid, line in self.processes().items() if line.startswith("slurmd -D"))

    def plug(self, on: bool) -> None:
        """Put the machine on the network, or take it off: then its end reaches nobody."""
        sh("ip", "link", "set", f"{PREFIX}v{self.name}", "up" if on else "down")

    def kill(self) -> None:
        """Cut the power: every process of the machine is killed."""
        assert self.init is not None
        os.kill(self.first(), signal.SIGKILL)
        self.init.wait(20)


class Slurm:
    """The cluster; a context manager. Raises Unavailable when another run has it."""

    def __init__(self, nodes: int = 2, cpus: int = 8, memory_mb: int = 20000, scratch_mb: int = 1024) -> None:
        self.scratch_mb, self._cpus, self._memory = scratch_mb, cpus, memory_mb
        self.nodes = [Node(self, number + 1) for number in range(nodes)]
        self._started: list[list[object]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock: int | None = None

    def __enter__(self) -> Slurm:
        STATE.mkdir(mode=0o755, exist_ok=True)
        self._lock = os.open(STATE / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 100, 0).decode().strip()
            os.close(self._lock)
            raise Unavailable(f"another test cluster runs on this machine (pid {holder}); wait for it") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        clean()
        try:
            self._up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            # Its process 1 takes all others of the machine along.
            with contextlib.suppress(Exception):
                node.kill()
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        clean()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def spawn(self, words: list[str], log: object) -> subprocess.Popen[bytes]:
        """Start a process of the cluster, on record for whoever must clean up."""
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # type: ignore[call-overload]
        identity = Identity.of(process.pid)
        assert identity is not None, f"{words} ended at once"
        self._started.append([identity.pid, identity.start])
        self._processes.append(process)
        (STATE / "processes.json").write_text(json.dumps(self._started))
        return process

    def _up(self) -> None:
        for name in ("state", "scratch", *(f"spool-{node.name}" for node in self.nodes)):
            (STATE / name).mkdir(mode=0o755, exist_ok=True)
        hosts = [f"{SUBNET}.1 {socket.gethostname()}", *(f"{node.address} {node.name}" for node in self.nodes)]
        (STATE / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(hosts) + "\n")
        (STATE / "munge.key").write_bytes(os.urandom(128))
        (STATE / "munge.key").chmod(0o400)
        self._configure()
        sh("ip", "link", "add", PREFIX, "type", "bridge")
        sh("ip", "addr", "add", f"{SUBNET}.1/24", "dev", PREFIX)
        sh("ip", "link", "set", PREFIX, "up")
        log = (STATE / "daemons.log").open("ab")
        munged = ["munged", "--foreground", f"--socket={STATE}/munge.socket", f"--key-file={STATE}/munge.key"]
        munged += [f"--{what}-file={STATE}/munged.{what}" for what in ("pid", "log", "seed")]
        self.spawn([*munged, "--force", "--num-threads=2"], log)
        self._wait(lambda: (STATE / "munge.socket").exists(), "munged")
        self.spawn(["slurmctld", "-D", "-c"], log)
        for node in self.nodes:
            node.up()
        self.ready()

    def ready(self, *names: str) -> None:
        """Wait until nodes (all) are idle or working."""
        wanted = list(names) or [node.name for node in self.nodes]

        def up() -> bool:
            done = sh("sinfo", "-h", "-N", "-o", "%N %t", check=False)
            states = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
            return all(states.get(name) in ("idle", "mix", "alloc") for name in wanted)

        self._wait(up, f"Slurm's {', '.join(wanted)}", 180)

    def _wait(self, there: object, what: str, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not there():  # type: ignore[operator]
            if time.monotonic() > end:
                logs = "\n".join(
                    f"--- {f.name}\n{f.read_text()[-1500:]}" for f in [*STATE.glob("*.log"), *STATE.glob("*.out")]
                )
                raise RuntimeError(f"{what} did not come up within {seconds:.0f} s\n{logs}")
            time.sleep(0.2)

    def _configure(self) -> None:
        CONF.parent.mkdir(exist_ok=True)
        if CONF.exists():
            os.replace(CONF, KEPT)
        nodes = ",".join(node.name for node in self.nodes)
        each = f"CPUs={self._cpus} RealMemory={self._memory} State=UNKNOWN"
        lines = [
            "# Written by tests/cluster for as long as it runs.",
            "ClusterName=qwenlong",
            f"SlurmctldHost={socket.gethostname()}({SUBNET}.1)",
            "AuthType=auth/munge",
            f"AuthInfo=socket={STATE}/munge.socket,cred_expire=15",
            "SlurmUser=root",
            # Beside a Slurm that may live on this machine.
            "SlurmctldPort=16817",
            "SlurmdPort=16818",
            f"StateSaveLocation={STATE}/state",
            f"SlurmdSpoolDir={STATE}/spool-%n",
            f"SlurmctldPidFile={STATE}/slurmctld.pid",
            f"SlurmdPidFile={STATE}/slurmd-%n.pid",
            f"SlurmctldLogFile={STATE}/slurmctld.log",
            f"SlurmdLogFile={STATE}/slurmd-%n.log",
            # Without cgroups of the second version, which containers lack.
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            # More cores than the machine has: they are shared out, not used up.
            "SlurmdParameters=config_overrides",
            "SwitchType=switch/none",
            "MpiDefault=none",
            "ReturnToService=2",
            "SlurmdTimeout=20",
            "KillWait=15",
            "SchedulerParameters=batch_sched_delay=0,sched_interval=5,sched_min_interval=100000",
            *(f"NodeName={n.name} NodeHostname={n.name} NodeAddr={n.address} {each}" for n in self.nodes),
            f"PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP",
        ]
        CONF.write_text("\n".join(lines) + "\n")


def clean() -> None:
    """End and remove what an earlier run, dead by now, has left. The caller holds the lock."""
    file = STATE / "processes.json"
    recorded = json.loads(file.read_text()) if file.is_file() else []
    pids = [pid for pid, start in recorded if Identity(pid, start).alive()]
    spaces = [line.split()[0] for line in sh("ip", "netns", "list", check=False).stdout.splitlines() if line]
    ours = [name for name in spaces if name.startswith(f"{PREFIX}-")]
    for name in ours:
        # Whatever lives on our network is ours.
        pids += [int(pid) for pid in sh("ip", "netns", "pids", name, check=False).stdout.split()]
    for pid in dict.fromkeys(pids):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while any(Identity.of(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    end = time.monotonic() + 10
    # Before their machines: the kernel takes the links of a network that ends away later, in a thread of its own.
    for link in Path("/sys/class/net").glob(f"{PREFIX}*"):
        sh("ip", "link", "del", link.name, check=False)
    for name in ours:
        sh("ip", "netns", "del", name, check=False)
    while (left := sorted(link.name for link in Path("/sys/class/net").glob(f"{PREFIX}*"))) and time.monotonic() < end:
        time.sleep(0.1)
    if CONF.exists() and CONF.read_text().startswith("# Written by tests/cluster"):
        CONF.unlink()
    if KEPT.exists():
        os.replace(KEPT, CONF)
    for entry in STATE.iterdir():
        if entry.name != "lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if left:
        raise RuntimeError(f"links of the test cluster stay: {', '.join(left)}; remove each with `ip link del`")


if __name__ == "__main__":
    # For hands: `python tests/cluster/slurm.py` runs the cluster until Ctrl-C.
    try:
        install()
        namespaces()
        with Slurm() as cluster:
            print(sh("sinfo", "-N", "-l").stdout, "Ctrl-C ends it.", file=sys.stderr)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            signal.pause()
    except Unavailable as error:
        sys.exit(f"no test cluster: {error}")
    except KeyboardInterrupt:
        pass
