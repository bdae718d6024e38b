"""The folder of predict's results: each file whole or absent, what is done stays, nothing is
overwritten."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic_core import from_json

from pipeline.study.errors import UserError
from pipeline.study.files import (
    is_temporary,
    replacing,
    sha256,
    temporary_path,
    write_json,
    writing,
)
from pipeline.study.limits import limit_of
from pipeline.study.locks import alone
from pipeline.study.values import cell

RECORD = "predict.json"
LOCK = ".lock"
COLUMNS = {
    "image": "its path below the folder that was named; with a ' before it where a spreadsheet "
    "would take it for a formula, or where it begins with one",
    "results": "what its results are called, without their endings; the ' as in `image`",
    "width": "pixels",
    "height": "pixels",
    "lesion_area": "lesion_pixels / (width * height), 0 to 1",
    "lesion_pixels": "pixels of the mask that are lesion",
    "confidence": "mean of max(p, 1 - p) over what the network saw of the image, 0.5 to 1: how "
    "sure the network is, which is not how right",
    "turned": "1: EXIF says how it is to be turned, and all is of the upright picture; 0: as it is",
    "sha256": "of the file",
}
COLUMNS_OF_VOLUMES = {
    "image": COLUMNS["image"],
    "results": COLUMNS["results"],
    "width": "voxels",
    "height": "voxels",
    "depth": "voxels",
    "lesion_ml": "millilitres: lesion_voxels times a voxel's size",
    "lesion_voxels": "voxels of the mask that are lesion",
    "confidence": "mean of max(p, 1 - p) over the volume, 0.5 to 1: how sure the network is, which "
    "is not how right",
    "sha256": "of the file",
}
Row = dict[str, Any]  # of lesions.csv
ENDS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9"}  # with what a whole file ends
UNNAMABLE = (  # what the file system does not take, and what another image's results stand in
    *(errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
)


class UnnamableError(Exception):
    """Why a result cannot have its name."""


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """mask (H, W) as a PNG of 0 and 255: runs of equal pixels, unfiltered, which for masks takes a
    third of the time and of the bytes."""
    settings = [
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    ]
    return cv2.imencode(".png", mask.view(np.uint8) * np.uint8(255), settings)[1].tobytes()


def encode(image: Image.Image, kind: Literal["JPEG", "PNG"]) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=90, compress_level=1)
    return file.getvalue()


def save(path: Path, content: bytes) -> None:
    """Whole or not at all; without waiting for the disk, which lesions.csv does not do either.

    Raises UnnamableError where no file can have that name, UserError where the disk refuses.
    """
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_path(path)
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            if error.errno not in UNNAMABLE:
                raise
            raise UnnamableError(str(error.strerror)) from None


def remove(results: Iterable[Path], out: Path) -> None:
    """Remove results, and folders below `out` that have none left."""
    for path in results:
        with suppress(OSError, ValueError):  # one that is not there, or cannot be
            path.unlink()
        for folder in takewhile(lambda parent: parent != out, path.parents):
            with suppress(OSError, ValueError):
                folder.rmdir()


def is_whole(result: Path) -> bool:
    """Whether a picture, or a compressed volume, that predict writes is there to its end."""
    if result.suffix == ".gz":
        return result.is_file() and _unpacks(result)
    end = ENDS[result.suffix]
    if not result.is_file() or result.stat().st_size < len(end):
        return False
    with result.open("rb") as file:
        file.seek(-len(end), os.SEEK_END)
        return file.read() == end


def _unpacks(result: Path) -> bool:
    """Whether a gzip file can be read to its end, where its checksum stands."""
    try:
        with gzip.open(result) as file:
            while file.read(2**20):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return False
    return True


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file, whole or not at all."""
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


class Lesions:
    """lesions.csv, a row as soon as an image's files are written: whatever ends the process, what
    has a row is done.

    columns: COLUMNS or COLUMNS_OF_VOLUMES. rows: by the image's cell.
    """

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self.path = path
        self.columns = list(columns)
        self.rows: dict[str, dict[str, str]] = {}
        rows: list[list[str]] = []
        if path.is_file():
            # A line without an end was being written when the process was killed.
            with (
                path.open(newline="", encoding="utf-8", errors="replace") as file,
                suppress(csv.Error),  # another program's: a quote that nothing closes
            ):
                rows = list(csv.reader(line for line in file if line.endswith("\n")))
        if rows[:1] == [self.columns]:
            whole = [row for row in rows[1:] if len(row) == len(self.columns)]
            self.rows = {row[0]: dict(zip(self.columns, row, strict=True)) for row in whole}

    def keep(self, cells: Iterable[str]) -> None:
        """Write the file anew with the rows of these images alone, in this order."""
        self.rows = {image: self.rows[image] for image in cells if image in self.rows}
        write_table(self.path, self.columns, (row.values() for row in self.rows.values()))

    def add(self, row: Row) -> None:
        cells = {name: cell(str(row[name])) for name in self.columns}
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(cells.values())
        self.rows[cells["image"]] = cells

    def forget_others(self, pictures: Mapping[str, str]) -> list[str]:
        """Forget the rows of what is none of `pictures`, images to what their results are called;
        returns what the results of these are called."""
        called = {cell(image): cell(results) for image, results in pictures.items()}
        others = [row for row in self.rows.values() if called.get(row["image"]) != row["results"]]
        for row in others:
            del self.rows[row["image"]]
        names = [row["results"].removeprefix("'") for row in others]
        # Whatever another program wrote into the table: nothing outside of the folder.
        return [name for name in names if not name.startswith("/") and ".." not in name.split("/")]

    def is_done(self, image: str, path: Path, results: Sequence[Path]) -> bool:
        """Whether `image` has a row, all its files, and is in `path` what it was."""
        row = self.rows.get(cell(image))
        try:
            return (
                row is not None
                and all(map(is_whole, results))
                and path.is_file()
                and sha256(path) == row["sha256"]
            )
        except OSError as error:
            if limit_of(error):  # the machine's, not the file's
                raise
            return False


@contextmanager
def owned(out: Path, made_with: dict[str, Any]) -> Iterator[Lesions]:
    """Make the folder of the results, or go on in it, and be the only one that writes there.

    Raises UserError for one that holds anything else, results of another network or other settings
    included: nothing is overwritten. What a killed predict left half written is removed.
    """
    _check_resumable(out, made_with)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with alone(out / LOCK, str(out)):
        _check_resumable(out, made_with)  # another process may have been faster
        with writing(out):
            for folder, _, names in os.walk(out):
                for name in filter(is_temporary, names):  # of no process that lives
                    Path(folder, name).unlink()
        if not (out / RECORD).is_file():
            write_json(out / RECORD, made_with)
        yield Lesions(out / "lesions.csv", made_with["columns"])


def _check_resumable(out: Path, made_with: dict[str, Any]) -> None:
    if not has_results(out):
        check_new(out)
        return
    before = _record(out)
    other = [key for key in made_with if before.get(key) != made_with[key]]
    if other:
        raise UserError(
            f"{out} holds results that were made with other settings ({', '.join(other)}; see "
            f"{out / RECORD}): name another folder, or remove it"
        )


def check_new(out: Path) -> None:
    """Raise UserError unless `out` can be made, or is an empty folder: nothing is overwritten."""
    if os.path.islink(out) and not os.path.exists(out):  # noqa: PTH110, PTH114
        raise UserError(f"{out} is a link that leads nowhere: name a folder")
    if os.path.exists(out) and not os.path.isdir(out):  # noqa: PTH110, PTH112
        raise UserError(f"{out} is a file: name a new or an empty folder, nothing is overwritten")
    with writing(out):
        try:
            names = os.listdir(out)  # noqa: PTH208
        except FileNotFoundError:
            return
    if any(name != LOCK and not is_temporary(name) for name in names):
        raise UserError(
            f"{out} is not empty: name a new or an empty folder, nothing is overwritten"
        )


def has_results(folder: Path) -> bool:
    """Whether `folder` is one of predict's results."""
    return {"networks", "columns"} <= _record(folder).keys()


def _record(folder: Path) -> dict[str, Any]:
    """The folder's predict.json; {} where it has none, or another of that name."""
    try:
        if not (folder / RECORD).is_file():
            return {}
        record = from_json((folder / RECORD).read_bytes())
    except (OSError, ValueError) as error:
        if limit_of(error):
            raise
        return {}
    return record if isinstance(record, dict) else {}


def check_out(out: Path, sources: Sequence[Path]) -> None:
    """Raise UserError for results among the images."""
    for source in filter(os.path.isdir, sources):
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
            raise UserError(
                f"--out {out} lies in {source}, a folder of images: name one outside of it"
            )
