"""The raw layout: where the official archives' images and masks lie, and which belong together.

Every data source ends in it, so nothing downstream knows where the data came from. A flat pair of
folders, images/ and masks/, is read as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.params import Split

IMAGE_FOLDERS: dict[Split, str] = {
    "training": "ISIC2018_Task1-2_Training_Input",
    "validation": "ISIC2018_Task1-2_Validation_Input",
    "test": "ISIC2018_Task1-2_Test_Input",
}
MASK_FOLDERS: dict[Split, str] = {
    "training": "ISIC2018_Task1_Training_GroundTruth",
    "validation": "ISIC2018_Task1_Validation_GroundTruth",
    "test": "ISIC2018_Task1_Test_GroundTruth",
}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
MASK_ENDING = "_segmentation"


@dataclass(frozen=True)
class RawCase:
    """One image with its mask. `split` is the official one, None where the layout has none."""

    id: str
    split: Split | None
    image: Path
    mask: Path


def find_cases(raw_dir: Path) -> tuple[list[RawCase], list[str]]:
    """The cases under `raw_dir`, by id, and a sentence for each file that is no part of a case.

    Files other than images (the archives' licence and attribution) are passed over.
    """
    folders: list[tuple[Split | None, Path, Path]] = [
        (split, raw_dir / IMAGE_FOLDERS[split], raw_dir / MASK_FOLDERS[split])
        for split in IMAGE_FOLDERS
    ]
    folders.append((None, raw_dir / "images", raw_dir / "masks"))
    cases: dict[str, RawCase] = {}
    problems: list[str] = []
    for split, image_dir, mask_dir in folders:
        images, twice = _by_id(image_dir)
        masks, masks_twice = _by_id(mask_dir)
        problems += twice + masks_twice
        problems += [f"{images[id]}: has no mask in {mask_dir}" for id in images.keys() - masks]
        problems += [f"{masks[id]}: has no image in {image_dir}" for id in masks.keys() - images]
        for id in images.keys() & masks.keys():
            if id in cases:
                problems.append(f"{images[id]}: has the id of {cases[id].image}")
            else:
                cases[id] = RawCase(id, split, images[id], masks[id])
    return [cases[id] for id in sorted(cases)], sorted(problems)


def _by_id(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder's images by case id, and a sentence for each second file of one id."""
    found: dict[str, Path] = {}
    problems = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        id = path.stem.removesuffix(MASK_ENDING)
        if id in found:
            problems.append(f"{path}: has the id of {found[id]}")
        else:
            found[id] = path
    return found, problems
