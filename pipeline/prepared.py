"""The prepared cases: arrays in a fixed order, memory-mapped, with a table of what each case is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.files import replacing, sha256
from pipeline.params import Split


@dataclass(frozen=True)
class PreparedCases:
    """All cases of a study.

    images: (cases, height, width, 3) uint8 RGB, memory-mapped.
    masks: (cases, height, width) uint8 in {0, 1}, memory-mapped.
    table: a row a case: id, split, height and width of the original in pixels, image_sha256 and
        mask_sha256 of the raw files, group (cases of one group never stand in two splits of a
        random division).
    fingerprint: sha256 over the three files: equal fingerprints, equal data.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    table: pd.DataFrame
    fingerprint: str

    @classmethod
    def open(cls, folder: Path) -> PreparedCases:
        """Open what preprocess wrote. Raises UserError if it is missing or does not fit."""
        try:
            images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
            masks = np.load(folder / "masks.npy", mmap_mode="r", allow_pickle=False)
            table = pd.read_csv(
                folder / "cases.csv", dtype={"id": str, "group": str}, keep_default_na=False
            )
            fingerprint = json.loads((folder / "prepared.json").read_text())["fingerprint"]
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder} has no usable prepared cases ({error}); run the stage preprocess"
            ) from None
        if not len(images) == len(masks) == len(table) or images.shape[:3] != masks.shape:
            raise UserError(
                f"{folder}: images.npy {images.shape}, masks.npy {masks.shape} and cases.csv "
                f"({len(table)} rows) do not fit together; run the stage preprocess again"
            )
        return cls(images, masks, table, fingerprint)

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Where the split's cases stand in the arrays, ascending."""
        return np.flatnonzero(self.table["split"].to_numpy() == split).astype(np.int64)


def seal(folder: Path) -> str:
    """Write prepared.json, the fingerprint of the three files in `folder`, and return it."""
    sums = [sha256(folder / name) for name in ("images.npy", "masks.npy", "cases.csv")]
    fingerprint = hashlib.sha256("".join(sums).encode()).hexdigest()
    with replacing(folder / "prepared.json") as temporary:
        temporary.write_text(json.dumps({"fingerprint": fingerprint}) + "\n")
    return fingerprint
