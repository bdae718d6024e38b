"""data/archives.py: an archive's case files are unpacked whole and safely, or not at all."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import struct
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.archives import MARK, check_disk, is_verified, partial_folder, unpack
from pipeline.study.errors import UserError

FILES = {f"ISIC_000000{n}.jpg": random.Random(n).randbytes(5000) for n in range(4)}
LICENCE = {"LICENSE.txt": b"CC-0", "ATTRIBUTION.txt": b"the ISIC archive"}


def zip_of(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


SHA256 = "0" * 64


def run(path: Path, folder: Path) -> None:
    unpack(path, folder, SHA256, threading.Event())


def refused(path: Path, folder: Path) -> str:
    """What the user is told; nothing is in place and nothing outside has been written."""
    before = set(folder.parent.parent.rglob("*"))
    with pytest.raises(UserError) as error:
        run(path, folder)
    assert set(folder.parent.parent.rglob("*")) - before <= {folder.parent}
    return str(error.value)


def contents(folder: Path) -> dict[str, bytes]:
    """The files but the mark of the archive."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MARK}


def test_an_unpacked_folder_says_which_archive_it_was(tmp_path):
    run(zip_of(tmp_path / "a.zip", FILES), tmp_path / "Folder")
    assert is_verified(tmp_path / "Folder", SHA256)
    assert not is_verified(tmp_path / "Folder", "1" * 64)
    (tmp_path / "Folder" / MARK).unlink()
    assert not is_verified(tmp_path / "Folder", SHA256)


def test_case_files_and_licence_are_kept_and_nothing_else(tmp_path):
    others = {
        "Folder/Thumbs.db": b"1",
        "Folder/.hidden.jpg": b"2",
        "__MACOSX/Folder/._ISIC_0000000.jpg": b"3",
        "Folder/run.sh": b"4",
    }
    cases = {f"Folder/{name}": content for name, content in (FILES | LICENCE).items()}
    path = zip_of(tmp_path / "a.zip", {"Folder/": b"", **cases, **others})
    run(path, tmp_path / "raw" / "Folder")
    assert contents(tmp_path / "raw" / "Folder") == FILES | LICENCE
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["Folder"]


@pytest.mark.parametrize(
    "name", ["../ISIC_1.jpg", "/tmp/ISIC_1.jpg", "a/../../ISIC_1.jpg", "..\\ISIC_1.jpg", "../x.txt"]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name):
    path = zip_of(tmp_path / "a.zip", {f"Folder/{next(iter(FILES))}": b"fine", name: b"here"})
    told = refused(path, tmp_path / "raw" / "Folder")
    assert told.startswith(f"{path} cannot be unpacked: the path {name!r} leaves its folder")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_a_device_is_refused(tmp_path, kind):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("Folder/ISIC_0000000.jpg")
        member.external_attr = (kind | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    assert "is a link or a device" in refused(path, tmp_path / "raw" / "Folder")


def in_index(content: bytearray, offset: int, value: int) -> None:
    """Set a number in the first entry of the archive's index."""
    entry = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + offset, value)


def test_more_bytes_than_the_index_says_are_refused(tmp_path):
    """A megabyte of zeros that calls itself 100 bytes; its compressed size is honest."""
    path = zip_of(tmp_path / "a.zip", {"Folder/ISIC_0000000.jpg": bytes(10**6)})
    content = bytearray(path.read_bytes())
    in_index(content, 24, 100)
    path.write_bytes(content)
    assert "Bad CRC-32" in refused(path, tmp_path / "raw" / "Folder")


def test_files_that_overlap_are_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"Folder/ISIC_0000000.jpg": bytes(10**6)})
    content = bytearray(path.read_bytes())
    in_index(content, 20, 10**5)
    path.write_bytes(content)
    assert "overlap" in refused(path, tmp_path / "raw" / "Folder")


def test_an_index_of_more_than_the_disk_is_refused_before_a_byte_is_written(tmp_path, monkeypatch):
    path = zip_of(tmp_path / "a.zip", {"Folder/ISIC_0000000.jpg": b"x"})
    content = bytearray(path.read_bytes())
    in_index(content, 24, 4_000_000_000)
    path.write_bytes(content)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    with pytest.raises(UserError, match=r"needs 4\.0 GB of free disk .* 4\.0 GB are missing"):
        run(path, tmp_path / "raw" / "Folder")
    assert list(tmp_path.rglob("*.jpg")) == []


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", {"Folder/ISIC_1.jpg": b"x", "Other/ISIC_1.jpg": b"y"})
    assert "'ISIC_1.jpg' is there twice" in refused(path, tmp_path / "raw" / "Folder")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


@pytest.mark.parametrize("damage", [cut, flip, lambda _: b"", lambda _: b"not a zip"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_archive_is_refused(tmp_path, damage: Callable[[bytes], bytes], compression: int):
    members = {f"Folder/{name}": content for name, content in FILES.items()}
    path = zip_of(tmp_path / "a.zip", members, compression)
    path.write_bytes(damage(path.read_bytes()))
    assert "cannot be unpacked: " in refused(path, tmp_path / "raw" / "Folder")


@pytest.mark.parametrize("written", [0, 1, 3, 4])
def test_what_a_killed_call_wrote_is_kept_if_it_is_right(tmp_path, written):
    path = zip_of(tmp_path / "a.zip", {f"Folder/{n}": content for n, content in FILES.items()})
    folder = tmp_path / "raw" / "Folder"
    temporary = partial_folder(folder)
    temporary.mkdir(parents=True)
    for name in list(FILES)[:written]:
        (temporary / name).write_bytes(FILES[name])
    before = {file.name: file.stat().st_mtime_ns for file in temporary.iterdir()}
    run(path, folder)
    assert contents(folder) == FILES
    assert before.items() <= {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}.items()


def test_what_a_killed_call_half_wrote_is_written_anew(tmp_path):
    path = zip_of(tmp_path / "a.zip", {f"Folder/{n}": content for n, content in FILES.items()})
    folder = tmp_path / "raw" / "Folder"
    temporary = partial_folder(folder)
    temporary.mkdir(parents=True)
    one, two, *_ = FILES
    (temporary / one).write_bytes(FILES[one][:100])  # torn
    (temporary / two).write_bytes(bytes(len(FILES[two])))  # the disk lost its bytes
    (temporary / "stray.jpg").write_bytes(b"?")
    run(path, folder)
    assert contents(folder) == FILES


def test_a_full_disk_is_told_and_room_lets_it_go_on(tmp_path, monkeypatch):
    path = zip_of(tmp_path / "a.zip", {f"Folder/{n}": content for n, content in FILES.items()})
    folder = tmp_path / "raw" / "Folder"
    copy = shutil.copyfileobj
    calls = []

    def copy_twice(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(*arguments)

    monkeypatch.setattr("shutil.copyfileobj", copy_twice)
    with pytest.raises(UserError, match="No space left on device; what is there is kept"):
        run(path, folder)
    assert not folder.exists()
    run(path, folder)
    assert contents(folder) == FILES
    assert len(calls) == 5  # two, the failure, and the two that were missing


def test_stopping_leaves_nothing_in_place(tmp_path):
    path = zip_of(tmp_path / "a.zip", {f"Folder/{n}": content for n, content in FILES.items()})
    stop = threading.Event()
    stop.set()
    with pytest.raises(UserError, match="stopped"):
        unpack(path, tmp_path / "Folder", SHA256, stop)
    assert not (tmp_path / "Folder").exists()


def test_room_is_looked_for_where_the_folder_will_be(tmp_path):
    check_disk(1, 1, tmp_path / "not" / "there" / "yet")
    with pytest.raises(UserError, match=r"not/there/yet needs 1000000000\.0 GB"):
        check_disk(10**18, 0, tmp_path / "not" / "there" / "yet")
