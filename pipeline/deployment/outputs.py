"""The folder of predict's results: each file whole or absent, what is done stays, nothing is
overwritten."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.study.errors import UserError
from pipeline.study.files import (
    is_temporary,
    replacing,
    sha256,
    temporary_path,
    write_json,
    writing,
)
from pipeline.study.locks import alone
from pipeline.study.values import cell

RECORD = "predict.json"
LOCK = ".lock"
COLUMNS = {
    "image": "its path below the folder that was named; with a ' before it where a spreadsheet "
    "would take it for a formula, or where it begins with one",
    "width": "pixels",
    "height": "pixels",
    "lesion_area": "lesion_pixels / (width * height), 0 to 1",
    "lesion_pixels": "pixels of the mask that are lesion",
    "confidence": "mean of max(p, 1 - p) over what the network saw of the image, 0.5 to 1: how "
    "sure the network is, which is not how right",
    "turned": "1: EXIF says how it is to be turned, and all is of the upright picture; 0: as it is",
    "modified": "when the file was last changed, nanoseconds since 1970",
    "sha256": "of the file",
}
Row = dict[str, Any]  # of lesions.csv
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

    rows: by the image's cell, those of images that are gone from their folder as well.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, list[str]] = {}
        if path.is_file():
            # A line without an end was being written when the process was killed.
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                rows = list(csv.reader(line for line in file if line.endswith("\n")))
            if rows[:1] == [list(COLUMNS)]:
                self.rows = {row[0]: row for row in rows[1:] if len(row) == len(COLUMNS)}

    def keep(self, cells: Iterable[str]) -> None:
        """Write the file anew with the rows of these images alone, in this order."""
        self.rows = {image: self.rows[image] for image in cells if image in self.rows}
        write_table(self.path, COLUMNS, self.rows.values())

    def add(self, row: Row) -> None:
        values = [cell(row["image"]), *(str(row[name]) for name in list(COLUMNS)[1:])]
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(values)
        self.rows[values[0]] = values

    def is_done(self, image: str, path: Path, results: Sequence[Path]) -> bool:
        """Whether `image` has a row, all its files, and is in `path` what it was."""
        if cell(image) not in self.rows:
            return False
        row = dict(zip(COLUMNS, self.rows[cell(image)], strict=True))
        try:
            written = [result.stat() for result in results]
            now = path.stat()
            if not stat.S_ISREG(now.st_mode) or not all(result.st_size for result in written):
                return False
            # Another file in its place has another time of its content, or of its name.
            same = row["modified"] == str(now.st_mtime_ns)
            if same and now.st_ctime_ns < written[0].st_mtime_ns:
                return True
            return sha256(path) == row["sha256"]
        except OSError:
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
        yield Lesions(out / "lesions.csv")


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
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def check_out(out: Path, sources: Sequence[Path]) -> None:
    """Raise UserError for results among the images."""
    for source in filter(os.path.isdir, sources):
        if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):
            raise UserError(
                f"--out {out} lies in {source}, a folder of images: name one outside of it"
            )
