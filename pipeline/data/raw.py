"""The raw layout: where the official archives' images and masks lie, and which belong together.

Every data source ends in it, so nothing downstream knows where the data came from. A flat pair of
folders, images/ and masks/, is read as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.study.errors import UserError
from pipeline.study.values import Split, printable

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
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")
VOLUME_SUFFIXES = (".nii", ".nii.gz")
MASK_ENDING = "_segmentation"  # of the official masks' names, and of those that are drawn here
# In any case of letters: ISIC 2016 to 2018 and HAM10000, PH2, and what others call it.
MASK_ENDINGS = (MASK_ENDING, "_lesion", "_mask")
MOST_TOLD = 10  # findings of a defect
ID = re.compile(r"[\w.-]+")

# What may be wrong with a raw file; pipeline/data/integrity.py finds those inside of a file.
Defect = Literal[
    "missing mask",
    "missing image",
    "duplicate id",
    "odd file name",
    "unreadable",
    "empty file",
    "not an image",
    "too large",
    "cannot be decoded",
    "16 bit",
    "CMYK",
    "EXIF-rotated",
    "several frames",
    "palette",
    "grayscale",
    "alpha channel",
    "colour mask",
    "mask not binary",
    "mask of 0 and 1",
    "empty mask",
    "full mask",
    "sizes differ",
    "not a volume",
    "no spacing",
    "no orientation",
    "not finite",
    "affine differs",
    "one value",
    "mask not of labels",
    "identical images",
    "of the study",  # of an external test set's case: the study has it, too
]


@dataclass(frozen=True, slots=True)  # there may be 100,000
class RawCase:
    """One image with its mask. `split` is the official one, None where the layout has none."""

    id: str
    split: Split | None
    image: Path
    mask: Path


@dataclass(frozen=True)
class Finding:
    """Something about a raw file that its user must know.

    id: the case's, "" where the file belongs to none. outcome: a case with a file to be "left out"
    cannot be used at all; a "converted" file is used, after a change that is sure.
    """

    id: str
    file: Path
    defect: Defect
    detail: str
    outcome: Literal["left out", "converted"] = "left out"

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.detail}")


def tell(findings: Sequence[Finding]) -> list[str]:
    """A line a finding, of each defect the first MOST_TOLD, then how many more it has.

    Where many masks are called otherwise than is read, all of them are one line; where many are not
    there at all, the last line says how they must be called.
    """
    together: list[str] = []
    maskless = sum(finding.defect == "missing mask" for finding in findings)
    if min(maskless, len(_imageless(findings))) > MOST_TOLD:
        together = [f"{maskless} images have no mask: {mask_names(findings)}"]
        findings = [f for f in findings if f.defect not in ("missing mask", "missing image")]
    counted: dict[Defect, int] = Counter()
    lines = []
    for finding in findings:
        counted[finding.defect] += 1
        if counted[finding.defect] <= MOST_TOLD:
            lines.append(str(finding))
    lines += [
        f"... and {count - MOST_TOLD} more: {defect}"
        for defect, count in counted.items()
        if count > MOST_TOLD
    ]
    if counted["missing mask"] > MOST_TOLD:
        lines.append(mask_names(findings))
    return together + lines


def mask_names(findings: Sequence[Finding]) -> str:
    """How the mask of an image that has none must be called, and how one is that has no image."""
    image = next(finding for finding in findings if finding.defect == "missing mask")
    suffix = ".nii.gz" if image.file.name.lower().endswith(VOLUME_SUFFIXES) else ".png"
    *names, last = (f"{image.id}{ending}{suffix}" for ending in ("", *MASK_ENDINGS))
    told = f"the mask of {image.file} must be called {', '.join(names)} or {last}"
    others = _imageless(findings)
    return printable(f"{told}; there is {others[0].file.name}" if others else told)


def _imageless(findings: Sequence[Finding]) -> list[Finding]:
    """Those of masks that have no image, or may be masks and have an odd name."""
    images = {finding.file.parent for finding in findings if finding.defect == "missing mask"}
    return [
        finding
        for finding in findings
        if finding.defect in ("missing image", "odd file name")
        and finding.file.parent not in images
    ]


def find_cases(raw_dir: Path, *, volumes: bool = False) -> tuple[list[RawCase], list[Finding]]:
    """The cases under `raw_dir`, by id, and a finding for each file that is no part of a case.

    volumes: they are NIfTI files, not pictures. A case with a finding is not among them. The
    archives' licence and attribution, hidden files and superpixels are passed over.
    """
    folders: list[tuple[Split | None, Path, Path]] = [
        (split, raw_dir / IMAGE_FOLDERS[split], raw_dir / MASK_FOLDERS[split])
        for split in IMAGE_FOLDERS
    ]
    folders.append((None, raw_dir / "images", raw_dir / "masks"))
    cases: dict[str, list[RawCase]] = defaultdict(list)
    findings: list[Finding] = []
    for split, image_dir, mask_dir in folders:
        images = _by_id(image_dir, findings, volumes)
        masks = _by_id(mask_dir, findings, volumes, image_ids=images)
        for id in images.keys() | masks.keys():
            if id not in masks:
                detail = f"has no mask in {mask_dir}"
                findings += [Finding(id, path, "missing mask", detail) for path in images[id]]
            elif id not in images:
                detail = f"has no image in {image_dir}"
                findings += [Finding(id, path, "missing image", detail) for path in masks[id]]
            elif len(images[id]) == len(masks[id]) == 1:
                cases[id].append(RawCase(id, split, images[id][0], masks[id][0]))
            else:
                for files in (images[id], masks[id]):
                    findings += _duplicates(id, files)
    for id, several in cases.items():
        findings += _duplicates(id, [case.image for case in several])
    broken = {finding.id for finding in findings}
    whole = [cases[id][0] for id in sorted(cases) if id not in broken]
    return whole, sorted(findings, key=str)


def _by_id(
    folder: Path,
    findings: list[Finding],
    volumes: bool,
    *,
    image_ids: Collection[str] | None = None,
) -> dict[str, list[Path]]:
    """The folder's pictures, or volumes, by case id; what is none is added to `findings`.

    image_ids: where they are masks, of whose names the ending is no part of the id, unless an image
    has it too.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    try:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        kinds = {path: _kind(path) for path in paths}
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read: {error.strerror}; allow it, then run again"
        ) from None
    suffixes = VOLUME_SUFFIXES if volumes else IMAGE_SUFFIXES
    for path in paths:
        suffix = next((end for end in suffixes if path.name.lower().endswith(end)), path.suffix)
        # macOS takes letters with accents apart; the same name must be the same id everywhere.
        id = unicodedata.normalize("NFC", path.name[: len(path.name) - len(suffix)])
        if image_ids is not None and id not in image_ids:
            id = re.sub(f"(?i)({'|'.join(MASK_ENDINGS)})$", "", id)
        if path.name.startswith(".") or path.suffix.lower() in (".txt", ".csv", ".md", ".json"):
            continue
        if id.endswith("_superpixels"):
            continue
        if kinds[path] not in ("file", "broken link") or suffix.lower() not in suffixes:
            ending = f" that ends in {path.suffix}" if kinds[path] == "file" else ""
            detail = (
                f"must be a {'volume' if volumes else 'picture'} that ends in "
                f"{', '.join(suffixes)}, got a {kinds[path]}{ending}; convert or remove it"
            )
            if path.name.lower().endswith(VOLUME_SUFFIXES):
                detail += ", or set prepare.depth: then cases are volumes"
            findings.append(Finding("", path, "odd file name", detail))
        elif not ID.fullmatch(id):
            detail = f"must have letters, digits, -, _ and . as its id, got {id!r}; rename it"
            findings.append(Finding(id, path, "odd file name", detail))
        else:
            found[id].append(path)
    return found


def _kind(path: Path) -> str:
    if path.is_file():
        return "file"
    if path.is_dir():
        return "folder"
    return "broken link" if path.is_symlink() and not path.exists() else "special file"


def _duplicates(id: str, files: list[Path]) -> list[Finding]:
    """A finding for each of the files but the first."""
    detail = f"has the id of {files[0]}: which is right cannot be told"
    return [Finding(id, path, "duplicate id", detail) for path in files[1:]]
