"""Source files of a Python package: one document a module; tests, vendored and generated files are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from qwenlong.core.records import Document
from qwenlong.corpus.sources import Source

_LEFT_OUT = {"tests", "test", "testing", "_vendor", "vendor", "vendored", "extern", "externals", "third_party", "build"}


def wanted(member: str) -> bool:
    """Return whether the member is a module of the package itself."""
    path = PurePosixPath(member)
    name = path.name
    return (
        path.suffix == ".py"
        and not _LEFT_OUT & set(path.parts)
        and not name.startswith("test_")
        and not name.endswith(("_test.py", "_pb2.py", "_version.py"))
        and name not in ("setup.py", "conftest.py")
    )


def parse(source: Source, member: str, text: str) -> Iterator[Document]:
    """Yield the file's document; its title is the path inside the package."""
    # An sdist's top folder "networkx-3.5/" is not part of the repository.
    path = member.split("/", 1)[1] if "/" in member else member
    yield Document(
        id=f"{source.name}/{path.removesuffix('.py')}",
        source=source.name,
        category=source.document_category,
        title=path,
        text=text.expandtabs(4).strip("\n"),
        n_tokens=0,
        metadata={"entity": source.package, "kind": "code", "path": path},
        licence=source.data_licence,
    )
