"""A small registry of real packages, made here, and the builder and installer run as a user runs them."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE = f"cp{sys.version_info[0]}{sys.version_info[1]}"

#: Builds a wheel of the name, version and tag in the folder's `what`; stands in the source packages themselves.
BACKEND = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from making import make_wheel
def build_wheel(folder, settings=None, metadata=None):
    name, version, tag = pathlib.Path("what").read_text().split()
    if tag == "broken":
        raise SystemExit("no compiler for " + name)
    return make_wheel(pathlib.Path(folder), name, version, tag).name
"""
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def make_wheel(
    folder: Path, name: str, version: str, tag: str = "py3-none-any", body: bytes = b"", space: str = ""
) -> Path:
    """Write a wheel with one module, named as the package, that holds its version (and `body` as a file beside it).

    `space`: the folder of a namespace that the module lies in.
    """
    info = f"{name}-{version}.dist-info"
    module = f"{space}/{name}" if space else name
    files = {
        f"{module}/__init__.py": f"VERSION = {version!r}\n".encode(),
        f"{module}/body.bin": body,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    lines = []
    for path, data in files.items():
        checksum = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={checksum},{len(data)}\n")
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in files.items():
            archive.writestr(zipfile.ZipInfo(file), data)
    return path


def source_files(name: str, version: str, tag: str) -> dict[str, bytes]:
    """Return the files of a package whose backend stands in itself, so that it is built without a registry."""
    making = Path(__file__).read_text(encoding="utf-8")
    start = making.index("def make_wheel")
    code = (
        "import base64, hashlib, zipfile\nfrom pathlib import Path\n" + making[start : making.index("def source_files")]
    )
    return {
        "pyproject.toml": (BUILD_SYSTEM + f'[project]\nname = "{name}"\nversion = "{version}"\n').encode(),
        "backend.py": BACKEND.encode(),
        "making.py": code.encode(),
        "what": f"{name} {version} {tag}".encode(),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
    }


def make_source(folder: Path, name: str, version: str, tag: str = "py3-none-any") -> Path:
    """Write a source package."""
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, data in source_files(name, version, tag).items():
            item = tarfile.TarInfo(f"{name}-{version}/{file}")
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    return path


@dataclass
class World:
    """A folder of packages, a lock, a project, and the environment in which pip sees nothing else."""

    folder: Path
    scripts: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.folder / "wheelhouse"

    @property
    def packages(self) -> Path:
        return self.folder / "packages"

    def namespaced(self, *names: str) -> None:
        """Give the registry packages that share the folder `shared`."""
        for name in names:
            make_wheel(self.packages, name, "1.0", space="shared")

    def lock(self, *pins: str) -> None:
        (self.folder / "lock.txt").write_text("# a lock\n" + "".join(f"{pin}\n" for pin in pins))

    def command(self, *words: object) -> list[str]:
        options = ["--lock", self.folder / "lock.txt", "--out", self.out, "--python", PYTHON]
        options += ["--project", self.folder / "project", *words]
        return [sys.executable, str(self.scripts / "wheelhouse.py"), *map(str, options)]

    def build(self, *words: object, code: int = 0, **options: object) -> str:
        """Run the builder; return what it printed."""
        done = subprocess.run(
            self.command(*words), env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )  # type: ignore[call-overload]
        assert done.returncode == code, done.stdout
        return str(done.stdout)

    def install(self, *words: object, script: Path | None = None, code: int = 0, **env: str) -> str:
        """Run the installer of the wheelhouse; return what it printed."""
        command = ["bash", str(script or self.out / "install.sh"), *map(str, words)]
        env = {**self.env, "PYTHON": sys.executable, **env}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == code, done.stdout
        return done.stdout


def new_world(folder: Path, root: Path) -> World:
    """A folder, and pip that looks into its folder of packages only."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "packages")}
    made = World(folder, root / "scripts", env)
    made.packages.mkdir(exist_ok=True)
    return made


def small_world(folder: Path, root: Path) -> World:
    """Three packages and a project `ours`; nothing is in the wheelhouse."""
    made = new_world(folder, root)
    for name in ("alpha", "beta", "gamma"):
        make_wheel(made.packages, name, "1.0")
    project = folder / "project"
    project.mkdir()
    for file, data in source_files("ours", "0.1", "py3-none-any").items():
        (project / file).write_bytes(data)
    made.lock("alpha==1.0", "Beta==1.0", "gamma==1.0")
    return made


@pytest.fixture
def world(tmp_path: Path, root: Path) -> World:
    """Three packages, a project, no wheelhouse."""
    return small_world(tmp_path, root)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, root: Path) -> World:
    """A wheelhouse that was filled once, in parts of 1 MiB; `large` is cut."""
    made = small_world(tmp_path_factory.mktemp("first"), root)
    make_wheel(made.packages, "large", "1.0", body=bytes(random.Random(1).randbytes(2_500_000)))
    made.lock("alpha==1.0", "Beta==1.0", "gamma==1.0", "large==1.0")
    made.build("--part-mb", 1)
    return made


@pytest.fixture
def filled(first: World, tmp_path: Path, root: Path) -> World:
    """A copy of that wheelhouse with all that belongs to it."""
    shutil.copytree(first.folder, tmp_path, dirs_exist_ok=True)
    return new_world(tmp_path, root)


@dataclass
class Registry:
    """A simple index over HTTP: `asked` lists the files asked for, `stall` names one that never ends."""

    url: str
    asked: list[str]
    stall: set[str]
    stalled: threading.Event


@contextmanager
def serve(world: World) -> Iterator[Registry]:
    """The same packages behind HTTP, the only place where pip then looks."""
    asked: list[str] = []
    stall: set[str] = set()
    stalled, end = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            words = self.path.strip("/").split("/")
            if words[0] == "simple":
                names = [path for path in sorted(world.packages.iterdir()) if path.name.split("-")[0] == words[1]]
                sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}
                links = [f'<a href="/files/{name}#sha256={sums[name]}">{name}</a>' for name in sums]
                self.reply("text/html", "\n".join(["<!DOCTYPE html><html><body>", *links, "</body></html>"]).encode())
                return
            asked.append(words[1])
            data = (world.packages / words[1]).read_bytes()
            if words[1] in stall:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:10])
                self.wfile.flush()
                stalled.set()
                end.wait(300)
                return
            self.reply("application/octet-stream", data)

        def reply(self, kind: str, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    del world.env["PIP_NO_INDEX"], world.env["PIP_FIND_LINKS"]
    world.env |= {"PIP_INDEX_URL": url, "PIP_RETRIES": "0", "no_proxy": "127.0.0.1"}
    yield Registry(url, asked, stall, stalled)
    end.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def registry(world: World) -> Iterator[Registry]:
    """The packages of `world` behind HTTP."""
    with serve(world) as made:
        yield made


@pytest.fixture
def filled_registry(filled: World) -> Iterator[Registry]:
    """The packages of `filled` behind HTTP."""
    with serve(filled) as made:
        yield made


WheelMaker = Callable[..., Path]


@pytest.fixture
def wheel() -> WheelMaker:
    """Write a wheel: `wheel(folder, name, version, tag, body)`."""
    return make_wheel


@pytest.fixture
def source() -> WheelMaker:
    """Write a source package: `source(folder, name, version, tag)`; the tag `broken` fails to build."""
    return make_source


@pytest.fixture
def here() -> str:
    """The tag of this interpreter, as cp311."""
    return HERE
