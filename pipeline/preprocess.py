"""Stage 2: check, divide and resize the raw cases into arrays (see pipeline/engine/prepared.py).

Writes data/manifest.csv, the checksum of every raw file read, and beside the arrays the data card.

Stage prepare_external: the same of an external test set, below external/<name>, with a short
data card. Its cases are tested, all but those that the study has as well.

`python -m pipeline.preprocess [--name NAME --raw FOLDER --on_problem stop|skip]`
"""

from __future__ import annotations

import csv
import gc
import hashlib
import multiprocessing
import os
import signal
import sys
import tempfile
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from threading import Thread
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.data import duplicates, nifti
from pipeline.data.geometry import lay_image, lay_mask, place
from pipeline.data.integrity import Checksum, check_case
from pipeline.data.raw import Finding, RawCase, find_cases, tell
from pipeline.data.sources import check_described, raw_in_place
from pipeline.data.splits import AnySplit, divide, known_groups, listed_cases
from pipeline.engine.prepared import NATIVE_MASKS, ArrayWriter, PreparedCases, seal
from pipeline.study.blocks import NearDuplicates, Prepare
from pipeline.study.cores import usable_cores
from pipeline.study.errors import UserError, run_command
from pipeline.study.files import read_json, replacing, writing
from pipeline.study.params import Study
from pipeline.study.reading import load_study, parse_external
from pipeline.study.stages import at_stage
from pipeline.study.values import Split, extent, quantity

CHUNK = 8  # cases that a process is given at a time


@dataclass(frozen=True)
class Arrays:
    """What is kept of a usable case's pictures, or of its volumes."""

    image: NDArray[np.uint8]  # (height, width, 3) RGB, or (depth, height, width, 1) grey
    mask: NDArray[np.uint8]  # (height, width) or (depth, height, width) in {0, 1}
    look: tuple[NDArray[np.uint8], duplicates.Features] | None  # thumbnail and its features


@dataclass(frozen=True)
class Decoded:
    """A raw case after its check; `arrays` is None where it cannot be used.

    original: its size, columns of cases.csv: height and width in pixels, or depth, height and width
        in voxels and each's spacing.
    checksums: of the image and of the mask, None for a file that cannot be read.
    """

    original: dict[str, float]
    checksums: tuple[Checksum | None, Checksum | None]
    findings: list[Finding]
    arrays: Arrays | None


def decode_case(case: RawCase, prepare: Prepare) -> Decoded:
    """Check one case and bring it to the prepared size. Never raises for a bad file."""
    if prepare.depth is not None:
        return _decode_volumes(case, prepare)
    checked = check_case(case, prepare)
    checksums = (checked.checksums.get(case.image), checked.checksums.get(case.mask))
    original: dict[str, float] = dict(zip(("height", "width"), checked.size, strict=True))
    if checked.image is None or checked.mask is None:
        return Decoded(original, checksums, checked.findings, None)
    placement = place(checked.size, (prepare.height, prepare.width), prepare.resize)
    mask = lay_mask(checked.mask, placement)
    if not mask.any() or mask.all():
        finding = _lost_in_preparation(case, np.asarray(checked.mask) > 0, mask, prepare)
        return Decoded(original, checksums, [finding], None)
    look = None
    if prepare.near_duplicates is not None:
        small = duplicates.thumbnail(np.asarray(checked.image))
        look = small, duplicates.local_features(small)
    arrays = Arrays(lay_image(checked.image, placement, checked.shrunk), mask, look)
    return Decoded(original, checksums, checked.findings, arrays)


def _decode_volumes(case: RawCase, prepare: Prepare) -> Decoded:
    checked = nifti.check_case(case, prepare.foreground)
    checksums = (checked.checksums.get(case.image), checked.checksums.get(case.mask))
    if checked.grey is None or checked.lesion is None:
        return Decoded(checked.original, checksums, checked.findings, None)
    mask = nifti.lay_lesion(checked.lesion, prepare.size)
    if not mask.any() or mask.all():
        finding = _lost_in_preparation(case, checked.lesion, mask, prepare)
        return Decoded(checked.original, checksums, [finding], None)
    image = nifti.lay_grey(checked.grey, prepare.size)[..., None]
    return Decoded(checked.original, checksums, [], Arrays(image, mask, None))


def _lost_in_preparation(
    case: RawCase, lesion: NDArray[np.bool_], mask: NDArray[np.uint8], prepare: Prepare
) -> Finding:
    """What to say of a mask that is empty or full at the prepared size, and was not before."""
    made = f"at {extent(prepare.size)} after resize: {prepare.resize}"
    share = f"lesion in the original: {np.count_nonzero(lesion)} of {lesion.size}"
    if mask.any():
        return Finding(case.id, case.mask, "full mask", f"holds nothing but lesion {made}; {share}")
    return Finding(case.id, case.mask, "empty mask", f"holds no lesion {made}; {share}")


def decode_all(cases: Sequence[RawCase], prepare: Prepare) -> Iterator[Decoded]:
    """Decode every case, in order, on every core this process may use.

    Raises UserError if a process is ended from outside.
    """
    processes = usable_cores()
    gc.freeze()  # or each process's collector would touch, and so copy, the pages that it shares
    pool = ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("fork"),
        _begin_process,
    )
    waiting: deque[Future[list[Decoded]]] = deque()  # bounded: results may be large
    try:
        for start in range(0, len(cases), CHUNK):
            waiting.append(pool.submit(_decode_some, cases[start : start + CHUNK], prepare))
            if len(waiting) > 4 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "preprocess: a process was ended from outside, most likely for want of memory; free "
            "some, or use fewer cores (taskset -c 0), then run again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        for left in multiprocessing.active_children():  # where not all of them could be started
            left.terminate()


def _begin_process() -> None:
    """Ctrl-C is the parent's to tell of; however the parent ends, its processes end too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with(sentinel: int) -> None:
        connection.wait([sentinel])
        os._exit(1)

    Thread(target=end_with, args=[parent.sentinel], daemon=True).start()


def _decode_some(cases: Sequence[RawCase], prepare: Prepare) -> list[Decoded]:
    return [decode_case(case, prepare) for case in cases]


class Spool:
    """Arrays of two axes in a file without a name, read back by their number: there may be
    gigabytes of them."""

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the process
        self.places = array("q")  # offset, rows and columns of each

    def append(self, entry: NDArray[Any]) -> None:
        rows, columns = entry.shape
        self.places.extend((self.file.tell(), rows, columns))
        self.file.write(entry.tobytes())

    def read(self, index: int, dtype: type[np.generic]) -> NDArray[Any]:
        self.file.flush()
        offset, rows, columns = self.places[3 * index : 3 * index + 3]
        size = rows * columns * np.dtype(dtype).itemsize
        content = os.pread(self.file.fileno(), size, offset)
        return np.frombuffer(content, dtype).reshape(rows, columns)


class Lookalikes:
    """What near-duplicates are found by, of each usable case in order."""

    def __init__(self, cases: int, folder: Path) -> None:
        self.count = 0
        self.fingerprints = np.zeros((cases, *duplicates.FINGERPRINT), np.uint64)
        self.thumbnails, self.places, self.descriptors = (Spool(folder) for _ in range(3))

    def append(self, thumbnail: NDArray[np.uint8], features: duplicates.Features) -> None:
        self.fingerprints[self.count] = duplicates.fingerprint(features)
        self.thumbnails.append(thumbnail)
        self.places.append(features.places)
        self.descriptors.append(features.descriptors)
        self.count += 1

    def find(self, thresholds: NearDuplicates) -> list[duplicates.Pair]:
        return duplicates.find(
            self.fingerprints[: self.count],
            lambda case: self.thumbnails.read(case, np.uint8),
            lambda case: duplicates.Features(
                self.places.read(case, np.float32), self.descriptors.read(case, np.uint8)
            ),
            **thresholds.model_dump(),
        )


@dataclass(frozen=True)
class Kept:
    """The usable cases, in the order of the arrays, and what was found on the way."""

    ids: list[str] = field(default_factory=list)
    identities: list[str] = field(default_factory=list)  # by _identity
    splits: list[Split | None] = field(default_factory=list)  # the cases' own
    rows: list[dict[str, float | str]] = field(default_factory=list)  # of cases.csv
    findings: list[Finding] = field(default_factory=list)


def write_arrays(
    cases: Sequence[RawCase],
    study: Study,
    folder: Path,
    lookalikes: Lookalikes,
) -> Kept:
    """Write those of `cases` that can be used into `folder`/images.npy and masks.npy, and what
    near-duplicates are found by into `lookalikes`, in the same order.

    `folder`/native_masks.zip gets their masks' files as they are, by id: runs are scored against
    them without the raw cases. `folder`/manifest.csv gets path in the raw folder, bytes and sha256
    of every file read.
    """
    kept = Kept()
    first_with: dict[str, Path] = {}  # sha256 -> the image that has it
    size = study.prepare.size
    with (
        ArrayWriter(folder / "images.npy", (*size, study.prepare.channels)) as images,
        ArrayWriter(folder / "masks.npy", size) as masks,
        ZipFile(folder / NATIVE_MASKS, "w") as native_masks,
        (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest,
    ):
        listed = csv.writer(manifest, lineterminator="\n")
        listed.writerow(["path", *Checksum._fields])
        shown = tqdm(decode_all(cases, study.prepare), "preprocess", len(cases), unit="case")
        for case, decoded in zip(cases, shown, strict=True):
            for path, checksum in zip((case.image, case.mask), decoded.checksums, strict=True):
                if checksum is not None:
                    listed.writerow([path.relative_to(study.raw_dir).as_posix(), *checksum])
            arrays, (image, mask) = decoded.arrays, decoded.checksums
            if arrays is None or image is None or mask is None:
                kept.findings.extend(decoded.findings)
                continue
            identity = _identity(arrays.image, image.sha256)
            first = first_with.setdefault(identity, case.image)
            if first is not case.image:
                of_volumes = study.prepare.depth is not None
                kind, has = ("volume", "voxels") if of_volumes else ("photograph", "bytes")
                detail = f"has the {has} of {first}: one {kind} under two ids"
                kept.findings.append(Finding(case.id, case.image, "identical images", detail))
                continue
            kept.findings.extend(decoded.findings)
            images.append(arrays.image)
            masks.append(arrays.mask)
            # Of no time; packed what no format of pictures, nor gzip, has packed.
            packed = ZIP_DEFLATED if case.mask.suffix.lower() == ".nii" else ZIP_STORED
            native_masks.writestr(ZipInfo(case.id), case.mask.read_bytes(), packed)
            if arrays.look is not None:
                lookalikes.append(*arrays.look)
            kept.ids.append(case.id)
            kept.identities.append(identity)
            kept.splits.append(case.split)
            sums = {"image_sha256": image.sha256, "mask_sha256": mask.sha256}
            kept.rows.append({**decoded.original, **sums})
    return kept


def _identity(image: NDArray[np.uint8], sha256: str) -> str:
    """What is the same of equal images: of a picture its file's sha256, of a prepared volume
    (D, H, W, channels) that of its voxels, for each name and time compresses equal volumes into
    other bytes."""
    return sha256 if image.ndim == 3 else hashlib.sha256(image.tobytes()).hexdigest()


def prepare_cases(study: Study, folder: Path) -> PreparedCases:
    """Write arrays, native masks, cases.csv, prepared.json, the data card and manifest.csv into
    `folder`.

    Raises UserError listing every raw file that cannot be used, unless data.on_problem is skip.
    """
    source = read_json(study.source_file, "download")
    prepare = study.prepare
    cases, findings, known = _choose(study)
    folder.mkdir()
    lookalikes = Lookalikes(len(cases), folder)
    kept = write_arrays(cases, study, folder, lookalikes)
    del cases  # a hundred megabytes, if there are 100,000
    findings = sorted(findings + kept.findings, key=str)
    _stop_at(findings, study, usable=len(kept.ids))

    near = prepare.near_duplicates
    pairs = lookalikes.find(near) if near is not None else []
    del lookalikes
    groups = _groups(kept.ids, pairs, known)
    table = pd.DataFrame(kept.rows)
    table.insert(0, "id", kept.ids)
    divided = _divide(kept.splits, groups, prepare.split, findings)
    table.insert(1, divided.columns[0], divided.iloc[:, 0])
    table["group"] = groups
    table.to_csv(folder / "cases.csv", index=False)
    seal(folder)
    prepared = PreparedCases.open(folder)
    # Here, for it brings matplotlib, which the processes that decode need not have.
    from pipeline.reporting import datacard

    datacard.write(study, prepared, findings, pairs, known, source, folder / "card")
    return prepared


def prepare_external(study: Study, on: Study, folder: Path) -> PreparedCases:
    """Write arrays, native masks, cases.csv, prepared.json, card.json, problems.csv and
    manifest.csv of an external test set into `folder`.

    on: the study on that set (Study.on). A case that the study has as well, by _identity or as a
    near-duplicate, is of the split training: it is not scored. Raises UserError listing it and
    every raw file that cannot be used, unless the set's on_problem is skip.
    """
    studied = PreparedCases.open(study.prepared_dir)
    own = studied.table
    cases, findings = _cases_in(on)
    near = study.prepare.near_duplicates
    folder.mkdir()
    known = len(own) if near is not None else 0
    lookalikes = Lookalikes(known + len(cases), folder)
    if near is not None:
        check_described(study)
        _look_at(own["id"], study, lookalikes)
    kept = write_arrays(cases, on, folder, lookalikes)
    pairs = lookalikes.find(near) if near is not None else []
    del lookalikes
    image_of = {case.id: case.image for case in cases}
    ids_of = dict(zip(map(_identity, studied.images, own["image_sha256"]), own["id"], strict=True))
    has = "bytes" if study.prepare.depth is None else "voxels"
    shared = {
        id: Finding(id, image_of[id], "of the study", f"has the {has} of the study's {ids_of[sum]}")
        for id, sum in zip(kept.ids, kept.identities, strict=True)
        if sum in ids_of
    }
    for pair in pairs:
        if pair.first < known <= pair.second:
            id = kept.ids[pair.second - known]
            detail = f"shows what the study's {own['id'].iloc[pair.first]} shows (near-duplicates)"
            shared.setdefault(id, Finding(id, image_of[id], "of the study", detail))
    findings = sorted([*findings, *kept.findings, *shared.values()], key=str)
    _stop_at(findings, on, usable=len(kept.ids) - len(shared))

    within = [
        pair._replace(first=pair.first - known, second=pair.second - known)
        for pair in pairs
        if pair.first >= known
    ]
    table = pd.DataFrame(kept.rows)
    table.insert(0, "id", kept.ids)
    table.insert(1, "split", ["training" if id in shared else "test" for id in kept.ids])
    table["group"] = _groups(kept.ids, within, {})
    table.to_csv(folder / "cases.csv", index=False)
    seal(folder)
    from pipeline.reporting import datacard  # here as in prepare_cases

    datacard.write_external(on, findings, folder)
    return PreparedCases.open(folder)


def _look_at(ids: Iterable[str], study: Study, lookalikes: Lookalikes) -> None:
    """Add what near-duplicates are found by of the study's own cases, in the order of `ids`."""
    found, _ = find_cases(study.raw_dir, volumes=study.prepare.depth is not None)
    case_of = {case.id: case for case in found}
    cases = [case_of[id] for id in ids]
    shown = tqdm(decode_all(cases, study.prepare), "the study's cases", len(cases), unit="case")
    for case, decoded in zip(cases, shown, strict=True):
        if decoded.arrays is None or decoded.arrays.look is None:
            raise UserError(f"{case.image} is not what it was: run dvc repro --force preprocess")
        lookalikes.append(*decoded.arrays.look)


def _groups(
    ids: Sequence[str], pairs: Sequence[duplicates.Pair], known: Mapping[str, str]
) -> list[str]:
    """The group of each case, by the id of its first case: what near-duplicates and the known
    groups, by id, join."""
    named = [known.get(id) for id in ids]
    return [ids[first] for first in duplicates.groups(len(ids), pairs, named)]


def _choose(study: Study) -> tuple[list[RawCase], list[Finding], dict[str, str]]:
    """The cases that the study's split names, what is wrong with the folder of raw cases, and the
    known groups of raw cases by id.

    Raises UserError where no division could come of them: before any work is done.
    """
    cases, findings = _cases_in(study)
    split, group_file = study.prepare.split, study.prepare.groups
    ids = {case.id for case in cases} | {finding.id for finding in findings} - {""}
    known = {} if group_file is None else known_groups(ids, group_file, study.input)
    if split.method == "lists":
        listed, cases = listed_cases(cases, ids, split, study.input)
        findings = [finding for finding in findings if finding.id in listed]
    if not findings:
        groups = _groups([case.id for case in cases], [], known)
        divide([case.split for case in cases], groups, split)
    return cases, findings, known


def _cases_in(study: Study) -> tuple[list[RawCase], list[Finding]]:
    cases, findings = find_cases(study.raw_dir, volumes=study.prepare.depth is not None)
    if not cases and not findings:
        raise UserError(
            f"{study.raw_dir} holds no cases: expected the folders of the official archives, or "
            "images/ and masks/"
        )
    return cases, findings


def _divide(
    own: Sequence[Split | None], groups: Sequence[str], split: AnySplit, findings: list[Finding]
) -> pd.DataFrame:
    """`divide`; its error also tells which files could not be used, for they may be its cause."""
    try:
        return divide(own, groups, split)
    except UserError as error:
        lost = [finding for finding in findings if finding.outcome == "left out"]
        told = f"{error}; {quantity(len(lost), 'file')} could not be used" if lost else str(error)
        raise UserError("\n       ".join([told, *tell(lost)])) from None


def _stop_at(findings: Sequence[Finding], study: Study, usable: int) -> None:
    """Raise UserError if a finding leaves a case out and that is not wanted, or leaves none."""
    problems = [finding for finding in findings if finding.outcome == "left out"]
    if problems and (study.data.on_problem == "stop" or usable == 0):
        stage, key = ("preprocess", "data.on_problem")
        if study.external_name is not None:
            stage = "--single-item prepare_external"
            key = f"the on_problem of {study.external_name}"
        advice = (
            f"mend or remove them, then run dvc repro --force {stage}; or leave their cases out "
            f"with {key}: skip"
        )
        raise UserError(
            "\n       ".join(
                [f"{quantity(len(problems), 'file')} cannot be used; {advice}", *tell(problems)]
            )
        )


def main(arguments: Sequence[str] = ()) -> None:
    study = load_study()
    on = parse_external(study, arguments)
    if on is not None:
        _main_of_external(study, on)
        return
    study.check_inputs()
    # Where download was restored from the cache there are no raw cases yet.
    with raw_in_place(study), at_stage(study, "preprocess", also=[study.raw_dir]):
        check_described(study)
        with replacing(study.prepared_dir) as folder:
            prepared = prepare_cases(study, folder)
            counts = ", ".join(f"{count} {name}" for name, count in prepared.counts().items())
        with writing(study.manifest_file):
            (study.prepared_dir / "manifest.csv").replace(study.manifest_file)
    print(f"preprocess: {quantity(len(prepared.table), 'case')} ({counts}) in {study.prepared_dir}")


def _main_of_external(study: Study, on: Study) -> None:
    on.check_inputs()
    name, also = on.external_name, [on.raw_dir]
    with ExitStack() as raw:
        raw.enter_context(raw_in_place(on))
        if study.prepare.near_duplicates is not None:  # which are looked for among these as well
            raw.enter_context(raw_in_place(study))
            also.append(study.raw_dir)
        with at_stage(study, "prepare_external", external=name, also=also):
            with replacing(on.prepared_dir) as folder:
                prepared = prepare_external(study, on, folder)
            with writing(on.manifest_file):
                (on.prepared_dir / "manifest.csv").replace(on.manifest_file)
    tested = len(prepared.indices("test"))
    shared = len(prepared.table) - tested
    left_out = f"; left out, for the study has them: {shared}" if shared else ""
    print(f"prepare_external: {name}: {quantity(tested, 'case')} to test{left_out}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
