"""The official archives of ISIC 2018 task 1: which they are, and their safe unpacking."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Event

from pipeline.data.raw import IMAGE_SUFFIXES
from pipeline.study.errors import UserError


@dataclass(frozen=True)
class Archive:
    """An official archive: it holds one folder of its own name. `sha256` as quoted by torch-em."""

    name: str
    bytes: int
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.name}.zip"


BASE_URLS = [  # the same names at both
    "https://isic-challenge-data.s3.amazonaws.com/2018/",
    "https://isic-archive.s3.amazonaws.com/challenges/2018/",
]
ARCHIVES = [
    Archive(
        "ISIC2018_Task1-2_Training_Input",
        11165358566,
        "80f98572347a2d7a376227fa9eb2e4f7459d317cb619865b8b9910c81446675f",
    ),
    Archive(
        "ISIC2018_Task1-2_Validation_Input",
        239231159,
        "0ea920fcfe512d12a6e620b50b50233c059f67b10146e1479c82be58ff15a797",
    ),
    Archive(
        "ISIC2018_Task1-2_Test_Input",
        2370457338,
        "e59ae1f69f4ed16f09db2cb1d76c2a828487b63d28f6ab85997f5616869b127d",
    ),
    Archive(
        "ISIC2018_Task1_Training_GroundTruth",
        27402895,
        "99f8b2bb3c4d6af483362010715f7e7d5d122d9f6c02cac0e0d15bef77c7604c",
    ),
    Archive(
        "ISIC2018_Task1_Validation_GroundTruth",
        759706,
        "f6911e9c0a64e6d687dd3ca466ca927dd5e82145cb2163b7a1e5b37d7a716285",
    ),
    Archive(
        "ISIC2018_Task1_Test_GroundTruth",
        9680101,
        "2e8f6edce454a5bdee52485e39f92bd6eddf357e81f39018d05512175238ef82",
    ),
]
# Of an archive's size. JPEG and PNG files hardly compress, so a twentieth for the file system is
# generous; not measured on the official archives.
UNPACKED = 1.05
MARK = ".archive-sha256"  # in an unpacked folder: which archive it was, verified
LICENCE_FILES = {"LICENSE.txt", "ATTRIBUTION.txt"}


def check_disk(archive_bytes: int, unpacked_bytes: int, folder: Path) -> None:
    """Raise UserError if `folder`, which may not be there yet, has no room for that many bytes."""
    existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    needed = archive_bytes + unpacked_bytes
    if needed > free:
        raise UserError(
            f"{folder} needs {_size(needed)} of free disk ({_size(archive_bytes)} of archives and "
            f"{_size(unpacked_bytes)} unpacked), got {_size(free)}: {_size(needed - free)} are "
            "missing; make room, or name a folder on another disk as data.raw in params.yaml"
        )


def _size(count: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def is_verified(folder: Path, sha256: str) -> bool:
    """Whether `folder` was unpacked here, from the archive of that sha256."""
    mark = folder / MARK
    return mark.is_file() and mark.read_text().strip() == sha256


def partial_folder(folder: Path) -> Path:
    """Where an archive is unpacked until all of it is there."""
    return folder.with_name(f".{folder.name}.partial")


def unpack(path: Path, folder: Path, sha256: str, stop: Event) -> None:
    """Write the archive's case files and licence flat into `folder`, which appears when complete.

    What an interrupted call wrote is checked and kept. Raises UserError for an archive that is
    damaged, holds a link or a path that leaves its folder, or whose files have more bytes than its
    index says; `folder` is then not there. `sha256`, the archive's, is left there as a mark.
    """
    temporary = partial_folder(folder)
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path) as archive:
            members = _case_files(path, archive)
            there = sum(file.stat().st_size for file in temporary.iterdir())
            unpacked = sum(member.file_size for member in members.values())
            check_disk(0, max(unpacked - there, 0), folder)
            for name, member in members.items():
                if stop.is_set():
                    raise UserError("stopped")
                if not _is_there(temporary / name, member):
                    _write_member(archive, member, temporary / name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        shutil.rmtree(temporary)
        raise UserError(
            f"{path} cannot be unpacked: {error}; run again to verify it anew"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be unpacked into {temporary}: {error.strerror or error}; what is there "
            "is kept: make room or allow writing, then run again to go on"
        ) from None
    for file in temporary.iterdir():
        if file.name not in members:
            file.unlink()
    (temporary / MARK).write_text(f"{sha256}\n")
    temporary.replace(folder)


def _case_files(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members to keep, by bare name: images, masks, licence and attribution."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        inner = PurePosixPath(member.filename.replace("\\", "/"))
        kind = stat.S_IFMT(member.external_attr >> 16)
        if inner.is_absolute() or ".." in inner.parts:
            raise zipfile.BadZipFile(f"the path {member.filename!r} leaves its folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise zipfile.BadZipFile(f"{member.filename!r} is a link or a device")
        is_case = inner.suffix.lower() in IMAGE_SUFFIXES and not inner.name.startswith(".")
        if member.is_dir() or not (is_case or inner.name in LICENCE_FILES):
            continue
        if inner.name in members:
            raise zipfile.BadZipFile(f"{inner.name!r} is there twice")
        members[inner.name] = member
    packed = sum(member.compress_size for member in archive.infolist())
    if packed > path.stat().st_size:
        raise zipfile.BadZipFile("its index names more bytes than it has: files overlap")
    return members


def _is_there(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether an interrupted call has written this file, all of it."""
    if not path.is_file() or path.stat().st_size != member.file_size:
        return False
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == member.CRC


def _write_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    # zipfile hands over no more than the index's bytes, and raises if their checksum is not the
    # index's: a member that unpacks to more than it says ends there.
    with archive.open(member) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
