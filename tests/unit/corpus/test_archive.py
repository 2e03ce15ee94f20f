"""Reading archives: only what is safe, only what is wanted, bytes that are not text told with their place."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from corpus_archives import sdist, wheel

from qwenlong.core.errors import DataError
from qwenlong.corpus.archive import Archive, InvalidText


@pytest.mark.parametrize("make", [wheel, sdist])
def test_members_come_sorted_with_plain_line_ends(tmp_path: Path, make: object) -> None:
    path = make(
        tmp_path / "a-1.tar.gz", {"p/b.txt": "two\r\nlines", "p/a.txt": b"\xef\xbb\xbfmark", "p/c.bin": b"\xff"}
    )  # type: ignore[operator]
    read = list(Archive(path).texts(lambda name: name.endswith(".txt")))
    assert read == [("p/a.txt", "mark"), ("p/b.txt", "two\nlines")]


@pytest.mark.parametrize("make", [wheel, sdist])
def test_invalid_utf8_is_told_with_member_and_offset(tmp_path: Path, make: object) -> None:
    path = make(tmp_path / "a-1.zip", {"p/a.txt": b"abc\xffdef", "p/b.txt": "fine"})  # type: ignore[operator]
    read = dict(Archive(path).texts(lambda name: True))
    bad = read["p/a.txt"]
    assert isinstance(bad, InvalidText) and (bad.member, bad.offset) == ("p/a.txt", 3)
    assert "0xff at offset 3" in str(bad)
    assert read["p/b.txt"] == "fine"


@pytest.mark.parametrize("make", [wheel, sdist])
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "p/../../x.txt", "p\\..\\x.txt", "C:/x.txt"])
def test_a_member_that_leads_out_is_refused(tmp_path: Path, make: object, name: str) -> None:
    path = make(tmp_path / "a-1.zip", {"p/fine.txt": "x", name: "x"})  # type: ignore[operator]
    with pytest.raises(DataError, match="leads out of the archive") as caught:
        list(Archive(path).texts(lambda member: True))
    assert "a-1.zip" in str(caught.value) and "Remove it from the cache" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a-1.zip"]


def test_links_are_no_data_files(tmp_path: Path) -> None:
    tar = tmp_path / "a-1.tar.gz"
    with tarfile.open(tar, "w:gz") as archive:
        link = tarfile.TarInfo("p/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        info = tarfile.TarInfo("p/real.txt")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"real"))
    zipped = tmp_path / "a-1.zip"
    with zipfile.ZipFile(zipped, "w") as other:
        entry = zipfile.ZipInfo("p/link.txt")
        entry.external_attr = 0o120777 << 16
        other.writestr(entry, "/etc/hostname")
        other.writestr("p/real.txt", "real")
    for path in (tar, zipped):
        assert list(Archive(path).texts(lambda name: True)) == [("p/real.txt", "real")]


def test_an_oversized_member_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwenlong.corpus.archive.MAX_MEMBER_BYTES", 10)
    path = wheel(tmp_path / "a-1.zip", {"p/big.txt": "x" * 11})
    with pytest.raises(DataError, match="unpacks to 11 bytes"):
        list(Archive(path).texts(lambda name: True))


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 half a zip"])
def test_a_broken_archive_names_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a-1.tar.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="corpus fetch") as caught:
        list(Archive(path).texts(lambda name: True))
    assert str(path) in str(caught.value)


def test_a_truncated_archive_names_the_remedy(tmp_path: Path) -> None:
    path = sdist(tmp_path / "a-1.tar.gz", {"p/a.txt": bytes(range(256)) * 400})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="cannot be read as an archive"):
        list(Archive(path).texts(lambda name: True))
