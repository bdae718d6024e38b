"""Stage 2: check, divide and resize the raw cases into arrays (see pipeline/prepared.py).

Writes data/manifest.csv, the checksum of every raw file read, and beside the arrays the data card.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import duplicates
from pipeline.errors import UserError, run_command
from pipeline.files import read_json, replacing
from pipeline.geometry import Size, lay_image, lay_mask, place
from pipeline.integrity import Checksum, check_case
from pipeline.params import Prepare, Split, Study, load_study
from pipeline.prepared import ArrayWriter, PreparedCases, seal
from pipeline.raw import Finding, RawCase, find_cases
from pipeline.splits import divide, listed_cases

NO_FEATURES = np.zeros(duplicates.FINGERPRINT, np.uint64)


@dataclass(frozen=True)
class Arrays:
    """What is kept of a usable case's pictures."""

    image: NDArray[np.uint8]  # (height, width, 3) RGB
    mask: NDArray[np.uint8]  # (height, width) in {0, 1}
    thumbnail: NDArray[np.uint8]
    fingerprint: NDArray[np.uint64]


@dataclass(frozen=True)
class Decoded:
    """A raw case after its check; `arrays` is None where it cannot be used.

    checksums: of the image and of the mask, None for a file that cannot be read.
    """

    size: Size
    checksums: tuple[Checksum | None, Checksum | None]
    findings: list[Finding]
    arrays: Arrays | None


def decode_case(case: RawCase, prepare: Prepare) -> Decoded:
    """Check one case and bring it to the prepared size. Never raises for a bad file."""
    checked = check_case(case, prepare)
    arrays = None
    if checked.image is not None and checked.mask is not None:
        placement = place(checked.size, (prepare.height, prepare.width), prepare.resize)
        small = duplicates.thumbnail(np.asarray(checked.image))
        arrays = Arrays(
            lay_image(checked.image, placement, checked.shrunk),
            lay_mask(checked.mask, placement),
            small,
            duplicates.fingerprint(small) if prepare.near_duplicates is not None else NO_FEATURES,
        )
    checksums = (checked.checksums.get(case.image), checked.checksums.get(case.mask))
    return Decoded(checked.size, checksums, checked.findings, arrays)


def decode_all(cases: Sequence[RawCase], prepare: Prepare) -> Iterator[Decoded]:
    """Decode every case, in order, on every core this process may use."""
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        yield from pool.imap(partial(decode_case, prepare=prepare), cases, chunksize=8)


class Thumbnails:
    """Thumbnails in a file without a name: there may be gigabytes of them."""

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the process
        self.places: list[tuple[int, tuple[int, ...]]] = []  # offset and shape of each

    def append(self, thumbnail: NDArray[np.uint8]) -> None:
        self.places.append((self.file.tell(), thumbnail.shape))
        self.file.write(thumbnail.tobytes())

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        self.file.flush()
        offset, shape = self.places[index]
        content = os.pread(self.file.fileno(), int(np.prod(shape)), offset)
        return np.frombuffer(content, np.uint8).reshape(shape)


@dataclass(frozen=True)
class Kept:
    """The usable cases, in the order of the arrays, and what was found on the way."""

    ids: list[str] = field(default_factory=list)
    splits: list[Split | None] = field(default_factory=list)  # the cases' own
    rows: list[tuple[Any, ...]] = field(default_factory=list)  # of cases.csv
    findings: list[Finding] = field(default_factory=list)


def write_arrays(
    cases: Sequence[RawCase],
    study: Study,
    folder: Path,
    thumbnails: Thumbnails,
    fingerprints: NDArray[np.uint64],
) -> Kept:
    """Write those of `cases` that can be used into `folder`/images.npy and masks.npy, and what
    near-duplicates are found by into `thumbnails` and `fingerprints`, in the same order.

    `folder`/manifest.csv gets path in the raw folder, bytes and sha256 of every file read.
    """
    kept = Kept()
    first_with: dict[str, Path] = {}  # sha256 -> the image that has it
    size = (study.prepare.height, study.prepare.width)
    with (
        ArrayWriter(folder / "images.npy", (*size, 3)) as images,
        ArrayWriter(folder / "masks.npy", size) as masks,
        (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest,
    ):
        listed = csv.writer(manifest, lineterminator="\n")
        listed.writerow(["path", *Checksum._fields])
        shown = tqdm(decode_all(cases, study.prepare), "preprocess", len(cases), unit="case")
        for case, decoded in zip(cases, shown, strict=True):
            kept.findings.extend(decoded.findings)
            sums = []
            for path, checksum in zip((case.image, case.mask), decoded.checksums, strict=True):
                if checksum is not None:
                    listed.writerow([path.relative_to(study.raw_dir).as_posix(), *checksum])
                    sums.append(checksum.sha256)
            arrays = decoded.arrays
            if arrays is None:
                continue
            first = first_with.setdefault(sums[0], case.image)
            if first is not case.image:
                detail = f"has the bytes of {first}: one photograph under two ids"
                kept.findings.append(Finding(case.id, case.image, "identical images", detail))
                continue
            images.append(arrays.image)
            masks.append(arrays.mask)
            thumbnails.append(arrays.thumbnail)
            fingerprints[len(kept.ids)] = arrays.fingerprint
            kept.ids.append(case.id)
            kept.splits.append(case.split)
            kept.rows.append((*decoded.size, *sums))
    return kept


def prepare_cases(study: Study, folder: Path) -> PreparedCases:
    """Write the arrays, cases.csv, prepared.json and the data card into `folder`, and the manifest.

    Raises UserError listing every raw file that cannot be used, unless data.on_problem is skip.
    """
    source = read_json(study.source_file, "download")
    prepare = study.prepare
    cases, findings = _choose(study)
    folder.mkdir()
    thumbnails = Thumbnails(folder)
    fingerprints = np.zeros((len(cases), *duplicates.FINGERPRINT), np.uint64)
    kept = write_arrays(cases, study, folder, thumbnails, fingerprints)
    del cases  # a hundred megabytes, if there are 100,000
    findings = sorted(findings + kept.findings, key=str)
    _stop_at(findings, study, usable=len(kept.ids))

    near = prepare.near_duplicates
    pairs = (
        duplicates.find(fingerprints[: len(kept.ids)], thumbnails.__getitem__, **near.model_dump())
        if near is not None
        else []
    )
    del fingerprints
    groups = [kept.ids[first] for first in duplicates.groups(len(kept.ids), pairs)]
    table = pd.DataFrame(kept.rows, columns=["height", "width", "image_sha256", "mask_sha256"])
    table.insert(0, "id", kept.ids)
    divided = divide(kept.splits, groups, prepare.split)
    table.insert(1, divided.columns[0], divided.iloc[:, 0])
    table["group"] = groups
    table.to_csv(folder / "cases.csv", index=False)
    seal(folder)
    prepared = PreparedCases.open(folder)
    from pipeline import datacard  # and with it matplotlib, which the processes need not have

    datacard.write(study, prepared, findings, pairs, source, folder / "card")
    (folder / "manifest.csv").replace(study.manifest_file)
    return prepared


def _choose(study: Study) -> tuple[list[RawCase], list[Finding]]:
    """The cases that the study's split names, and what is wrong with the folder of raw cases.

    Raises UserError where no division could come of them: before any work is done.
    """
    cases, findings = find_cases(study.raw_dir)
    if not cases and not findings:
        raise UserError(
            f"{study.raw_dir} holds no cases: expected the folders of the official archives, or "
            "images/ and masks/"
        )
    split = study.prepare.split
    if split.method == "lists":
        known = {case.id for case in cases} | {finding.id for finding in findings}
        cases = listed_cases(cases, known, split, study.folder)
    if not findings:
        divide([case.split for case in cases], [case.id for case in cases], split)
    return cases, findings


def _stop_at(findings: Sequence[Finding], study: Study, usable: int) -> None:
    """Raise UserError if a finding leaves a case out and that is not wanted, or leaves none."""
    problems = [str(finding) for finding in findings if finding.outcome == "left out"]
    if problems and (study.data.on_problem == "stop" or usable == 0):
        files = "file" if len(problems) == 1 else "files"
        advice = "mend or remove them, or leave their cases out with data.on_problem: skip"
        raise UserError(
            "\n       ".join([f"{len(problems)} {files} cannot be used; {advice}", *problems])
        )


def main() -> None:
    study = load_study()
    study.check_inputs()
    with replacing(study.prepared_dir) as folder:
        prepared = prepare_cases(study, folder)
        counts = ", ".join(f"{count} {name}" for name, count in prepared.counts().items())
    print(f"preprocess: {len(prepared.table)} cases ({counts}) in {study.prepared_dir}")


if __name__ == "__main__":
    run_command(main)
