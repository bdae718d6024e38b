"""The prepared cases: arrays in a fixed order, memory-mapped, with a table of what each case is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.study.arrays import read_array
from pipeline.study.columns import read_table
from pipeline.study.errors import UserError
from pipeline.study.files import read_json, replacing, sha256
from pipeline.study.values import SPLITS, Split

STAGE = "preprocess"  # which writes them
# Pictures' and volumes'; None: of any length.
IMAGE_SHAPES = ((None, None, None, 3), (None, None, None, None, 1))
MASK_SHAPES = ((None, None, None), (None, None, None, None))
NATIVE_MASKS = "native_masks.zip"  # the masks' raw files, each by its case's id


@dataclass(frozen=True)
class PreparedCases:
    """All cases of a study.

    images: (cases, height, width, 3) uint8 RGB, memory-mapped; of volumes (cases, depth, height,
        width, 1), grey.
    masks: (cases, height, width) uint8 in {0, 1}, memory-mapped; of volumes with their depth.
    table: a row a case: id, split (or fold, where the study has folds), height and width of the
        original in pixels, image_sha256 and mask_sha256 of the raw files, group (near-duplicates
        share one, which random splits and folds never divide).
    fingerprint: sha256 over the three files: equal fingerprints, equal data.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    table: pd.DataFrame
    fingerprint: str
    fold: int = 0  # whose division `indices` tells, where the study has folds

    @classmethod
    def open(cls, folder: Path, fold: int = 0, stage: str = STAGE) -> PreparedCases:
        """Open what `stage` wrote. Raises UserError if it is missing or does not fit."""
        images = read_array(folder / "images.npy", stage, np.uint8, *IMAGE_SHAPES)
        masks = read_array(folder / "masks.npy", stage, np.uint8, *MASK_SHAPES)
        table = read_table(folder / "cases.csv", stage, ["id", "height", "width"])
        fingerprint = read_json(folder / "prepared.json", stage).get("fingerprint")
        if not isinstance(fingerprint, str):
            raise UserError(
                f"{folder}/prepared.json has no fingerprint; run the stage {stage} again"
            )
        if not ("fold" in table or ("split" in table and table["split"].isin(SPLITS).all())):
            raise UserError(
                f"{folder}/cases.csv must name the split of each case, {', '.join(SPLITS)}; run "
                f"the stage {stage} again"
            )
        if not len(images) == len(masks) == len(table) or images.shape[:-1] != masks.shape:
            raise UserError(
                f"{folder}: images.npy {images.shape}, masks.npy {masks.shape} and cases.csv "
                f"({len(table)} rows) do not fit together; run the stage {stage} again"
            )
        return cls(images, masks, table, fingerprint, fold)

    def splits(self) -> NDArray[np.str_]:
        """The split of each case. Of k folds, fold f tests on part f, validates on part f + 1 (part
        0 after the last) and trains on the others."""
        if "fold" not in self.table:
            named: NDArray[np.str_] = self.table["split"].to_numpy(np.str_)
            return named
        part = self.table["fold"]
        ahead = (part - self.fold) % (part.max() + 1)
        names = np.array(["test", "validation", "training"])
        splits: NDArray[np.str_] = names[np.minimum(ahead.to_numpy(), 2)]
        return splits

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Where the split's cases stand in the arrays, ascending."""
        return np.flatnonzero(self.splits() == split).astype(np.int64)

    def counts(self) -> dict[str, int]:
        """How many cases each split, or each fold, has."""
        if "fold" not in self.table:
            return {split: len(self.indices(split)) for split in SPLITS}
        return {f"fold {fold}": int(n) for fold, n in enumerate(np.bincount(self.table["fold"]))}


class ArrayWriter:
    """A .npy file written entry by entry: its first axis grows, nothing is held in memory."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """`shape`: that of one entry, uint8."""
        self.shape = shape
        self.count = 0
        self.file = path.open("wb")
        self._write_header()

    def append(self, entry: NDArray[np.uint8]) -> None:
        if entry.shape != self.shape or entry.dtype != np.uint8:
            raise ValueError(
                f"an entry must be uint8 {self.shape}, got {entry.dtype} {entry.shape}"
            )
        self.file.write(entry.tobytes())
        self.count += 1

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.seek(0)
        self._write_header()
        self.file.close()

    def _write_header(self) -> None:
        # numpy leaves room in a header for its first axis to grow: its length stays the same.
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, header)


def seal(folder: Path) -> str:
    """Write prepared.json, the fingerprint of the three files in `folder`, and return it."""
    sums = [sha256(folder / name) for name in ("images.npy", "masks.npy", "cases.csv")]
    fingerprint = hashlib.sha256("".join(sums).encode()).hexdigest()
    with replacing(folder / "prepared.json") as temporary:
        temporary.write_text(json.dumps({"fingerprint": fingerprint}) + "\n")
    return fingerprint
