"""The folder of predict's results: each file whole or absent, what is done stays, nothing is
overwritten."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.study.errors import UserError
from pipeline.study.files import replacing, write_json, writing

COLUMNS = {
    "image": "its path below the folder that was named",
    "width": "pixels",
    "height": "pixels",
    "lesion_area": "lesion_pixels / (width * height), 0 to 1",
    "lesion_pixels": "pixels of the mask that are lesion",
    "confidence": "mean of max(p, 1 - p) over what the network saw of the image, 0.5 to 1: how "
    "sure the network is, which is not how right",
}
Row = dict[str, Any]  # of lesions.csv


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
    """Whole or not at all; without waiting for the disk, which lesions.csv does not do either."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_bytes(content)
        temporary.replace(path)


class Lesions:
    """lesions.csv, a row as soon as an image's files are written: whatever ends the process, what
    has a row is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: set[str] = set()
        with writing(path):
            if not path.is_file():
                self._append(COLUMNS)
                return
            # A line without an end was being written when the process was killed.
            whole = "".join(line for line in path.open(newline="") if line.endswith("\n"))
            with replacing(path) as temporary:
                temporary.write_text(whole, newline="")
            self.done = {row["image"] for row in csv.DictReader(io.StringIO(whole))}

    def add(self, row: Row) -> None:
        with writing(self.path):
            self._append(row.values())

    def _append(self, values: Any) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(values)


def begin(out: Path, made_with: dict[str, Any]) -> Lesions:
    """Make the folder of the results, or go on in it. Raises UserError for one that holds anything
    else, results of another network or other settings included: nothing is overwritten."""
    file = out / "predict.json"
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            other = [key for key in made_with if before.get(key) != made_with[key]]
        except (OSError, ValueError, AttributeError):
            other = ["an unreadable predict.json"]
        if other:
            raise UserError(
                f"{out} holds results that were made with other settings ({', '.join(other)}; see "
                f"{file}): name another folder, or remove it"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "is not empty" if out.is_dir() else "is a file"
        raise UserError(f"{out} {what}: name a new or an empty folder, nothing is overwritten")
    else:
        write_json(file, made_with)
    return Lesions(out / "lesions.csv")


def check_out(out: Path, sources: Sequence[Path]) -> None:
    """Raise UserError for results among the images: the next run would take masks for images."""
    for source in sources:
        if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise UserError(
                f"--out {out} lies in {source}, a folder of images: name one outside of it"
            )
