"""Where raw cases come from: the official archives, drawn lesions, a folder that the user has."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from pipeline.data import blobs, synthetic
from pipeline.data.archives import (
    ARCHIVES,
    BASE_URLS,
    UNPACKED,
    Archive,
    check_disk,
    is_verified,
    partial_folder,
    unpack,
)
from pipeline.data.fetch import Bar, Download, RetryPolicy, fetch, mismatch
from pipeline.data.raw import IMAGE_FOLDERS, MASK_ENDING, MASK_FOLDERS, find_cases
from pipeline.study.blocks import Synthetic
from pipeline.study.cores import usable_cores
from pipeline.study.errors import UserError, warn
from pipeline.study.files import (
    read_json,
    replacing,
    sha256,
    short_name,
    write_json,
    writing,
)
from pipeline.study.params import Study
from pipeline.study.values import Split

POLICY = RetryPolicy()
MARK = "drawn.json"  # in a folder of drawn cases
DRAWN = "SYNTHETIC_"  # the ids of drawn cases begin with it
LICENCES = {
    "isic2018": "see LICENSE.txt in each archive's folder (the challenge's data page says CC-0)",
    "directory": "as the owner of the folder states",
    "synthetic": "drawn by this project, MIT",
}


@contextmanager
def raw_in_place(study: Study) -> Iterator[None]:
    """Have the raw cases in study.raw_dir: official ones fetched, drawn ones drawn, where they are
    not there already. Raises UserError where they cannot be had, or a user's folder is missing.

    As long as the block lasts no other study draws other cases into that folder: it waits.
    """
    data, raw_dir = study.data, study.raw_dir
    if data.source == "synthetic":
        with _alone(raw_dir):
            draw_cases(data, raw_dir)
            yield
        return
    if data.source == "isic2018":
        if (raw_dir / MARK).exists():  # its folders have the official names
            raise UserError(
                f"params.yaml: data.raw must be a folder of ISIC 2018 or a new one, it holds drawn "
                f"cases, as {raw_dir / MARK} tells: name another, or remove that one yourself"
            )
        own = None if data.archives is None else study.input(data.archives)
        fetch_isic2018(raw_dir, own=own, keep=data.keep_archives)
    else:
        study.check_own_cases()
    yield


def describe(study: Study) -> dict[str, Any]:
    """What data/source.json holds: the source, its licence, and what tells these cases from others.

    Of drawn cases what they are drawn by; of others the number, the bytes and one sha256 of all
    files, their names among it, and of each official archive whether it was verified here.
    """
    data = study.data
    about: dict[str, Any] = {"source": data.source, "licence": LICENCES[data.source]}
    if data.source == "synthetic":
        return about | {"drawn": _drawing(data), "archives": []}
    archives = [
        {
            "name": archive.file,
            "sha256": archive.sha256,
            "verified": is_verified(study.raw_dir / archive.name, archive.sha256),
        }
        for archive in ARCHIVES
        if data.source == "isic2018"
    ]
    return about | {"files": _checksum(study.raw_dir), "archives": archives}


def check_described(study: Study) -> None:
    """Raise UserError if the raw cases are not those that the stage download described: DVC follows
    its description, not the folder, which may be anywhere or on another machine."""
    if describe(study) != read_json(study.source_file, "download"):
        raise UserError(
            f"{study.raw_dir}: the cases are not those that the stage download found; to use these "
            "run dvc repro --force preprocess"
        )


def _checksum(raw_dir: Path) -> dict[str, Any]:
    """Of all files that belong to cases, or should: how many, their bytes, a sha256 over all."""
    cases, findings = find_cases(raw_dir)
    paths = {path for case in cases for path in (case.image, case.mask)}
    paths |= {finding.file for finding in findings}
    files = sorted(path for path in paths if path.is_file())
    with ThreadPoolExecutor(usable_cores()) as pool:
        sums = pool.map(_sha256_or_fault, files)
        lines = [
            f"{s} {f.relative_to(raw_dir).as_posix()}" for s, f in zip(sums, files, strict=True)
        ]
    return {
        "number": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest(),
    }


def _sha256_or_fault(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:  # preprocess tells of it, or leaves it out
        return str(error.strerror)


def fetch_isic2018(
    raw_dir: Path,
    *,
    own: Path | None = None,
    keep: bool = False,
    policy: RetryPolicy = POLICY,
) -> None:
    """Unpack the six archives into `raw_dir`; one that is already unpacked is left alone.

    They are downloaded into `raw_dir`/archives, all at once, and stay there if `keep`; or the
    user's, in the folder `own`, are verified and read where they are. Raises UserError naming each
    archive that failed; what the others and an interrupted call brought is kept. One process at a
    time: studies that begin together share the folder.
    """
    store = raw_dir / "archives"
    if _missing(raw_dir):
        with _alone(raw_dir):  # another process may have brought them meanwhile
            _fill(raw_dir, _missing(raw_dir), own, policy, keep=keep)
    if own is None and not keep:  # with `own` no archive is removed: `own` may be that very folder
        for archive in ARCHIVES:  # of an earlier call that kept them, or was killed
            (store / archive.file).unlink(missing_ok=True)
        if store.is_dir() and not any(store.iterdir()):
            store.rmdir()


def _missing(raw_dir: Path) -> list[Archive]:
    return [archive for archive in ARCHIVES if not (raw_dir / archive.name).is_dir()]


@contextmanager
def _alone(raw_dir: Path) -> Iterator[None]:
    """Be the only process that fills `raw_dir`, or needs it as it is; waits for another, and says
    so."""
    lock = FileLock(raw_dir.parent / f".{short_name(raw_dir.name)}.lock")
    with writing(raw_dir):
        raw_dir.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            warn(f"another process is at {raw_dir}: waiting for it")
            held = lock.acquire()
    with held:
        yield


def _fill(
    raw_dir: Path, missing: list[Archive], own: Path | None, policy: RetryPolicy, *, keep: bool
) -> None:
    store = raw_dir / "archives"
    downloads = {archive: _download(archive, store) for archive in missing}
    if own is not None:
        _check_own(missing, own)
    to_fetch = [] if own is not None else downloads.values()
    check_disk(
        sum(max(download.bytes - download.downloaded(), 0) for download in to_fetch),
        sum(_left_to_unpack(archive, raw_dir) for archive in missing),
        raw_dir,
    )

    def put_in_place(archive: Archive, bar: Bar, stop: Event) -> None:
        if own is None:
            path = downloads[archive].target
            fetch(downloads[archive], policy, bar, stop)
        else:
            path = own / archive.file
            found = mismatch(path, archive.bytes, archive.sha256, bar, stop)
            if found:
                raise UserError(f"{path} is not the official archive: {found}")
        bar.set_postfix_str("unpacking")
        unpack(path, raw_dir / archive.name, archive.sha256, stop)
        bar.set_postfix_str("")
        if own is None and not keep:
            path.unlink()

    _in_threads(put_in_place, missing)


def _download(archive: Archive, store: Path) -> Download:
    urls = [base + archive.file for base in BASE_URLS]
    return Download(urls, store / archive.file, archive.bytes, archive.sha256)


def _check_own(archives: list[Archive], own: Path) -> None:
    """Raise UserError naming each archive that is missing or of another size: before any work."""
    problems = []
    for archive in archives:
        path = own / archive.file
        if not path.is_file():
            problems.append(f"{archive.file} is missing")
        elif path.stat().st_size != archive.bytes:
            problems.append(
                f"{archive.file} must have {archive.bytes} bytes, got {path.stat().st_size}"
            )
    if problems:
        raise UserError(
            f"params.yaml: data.archives must be a folder with the official archives, got {own}; "
            "complete it, or set null to download them:\n       " + "\n       ".join(problems)
        )


def _left_to_unpack(archive: Archive, raw_dir: Path) -> int:
    there = partial_folder(raw_dir / archive.name)
    done = sum(file.stat().st_size for file in there.iterdir()) if there.is_dir() else 0
    return max(int(UNPACKED * archive.bytes) - done, 0)


def _in_threads(
    work: Callable[[Archive, Bar, Event], None],
    archives: list[Archive],
) -> None:
    """Work on all archives at once, each with a progress bar.

    When one fails the others go on, and all failures are told at the end. When this thread is
    interrupted (Ctrl-C) they stop at their next piece; the threads are daemons because one that
    waits for a silent server would hold the process until its time-out.
    """
    stop = Event()
    failures: list[Exception] = []

    def run(position: int, archive: Archive) -> None:
        with tqdm(
            total=archive.bytes,
            desc=archive.name,
            position=position,
            unit="B",
            unit_scale=True,
        ) as bar:
            try:
                work(archive, bar, stop)
            except Exception as error:  # told in the main thread, whatever it is
                failures.append(error)

    threads = [
        Thread(target=run, args=(position, archive), daemon=True)
        for position, archive in enumerate(archives)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        end = time.monotonic() + 1  # for all of them together
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
    for error in failures:
        if not isinstance(error, UserError):
            raise error
    if failures:
        raise UserError("\n       ".join(str(error) for error in failures))


def draw_cases(data: Synthetic, raw_dir: Path) -> None:
    """Draw the synthetic cases as JPEG images and PNG masks in {0, 255}, or volumes as NIfTI files
    and masks in {0, 1}, replacing `raw_dir`.

    Where they are there already, as drawn.json in it tells, nothing is done.

    Raises UserError, and deletes nothing, when `raw_dir` holds a file that was not drawn here.
    """
    if raw_dir.exists() and not raw_dir.is_dir():
        raise UserError(f"params.yaml: data.raw must name a folder, got the file {raw_dir}")
    # With what draws them: cases of an earlier drawing are not those.
    drawer = synthetic.__file__ if data.depth is None else blobs.__file__
    wanted = _drawing(data) | {"code": sha256(Path(drawer))}
    mark = raw_dir / MARK
    if mark.is_file() and read_json(mark, "download") == wanted:
        return
    for path in raw_dir.rglob("*"):
        if path.is_file() and path != mark and not path.name.startswith(DRAWN):
            raise UserError(
                f"params.yaml: data.raw must be a folder of drawn cases alone or a new one, it "
                f"would be replaced; got {path}; name another folder or remove this one yourself"
            )
    counts: dict[Split, int] = {
        "training": data.training,
        "validation": data.validation,
        "test": data.test,
    }
    index = 0
    with replacing(raw_dir) as folder:
        for split, count in counts.items():
            images, masks = folder / IMAGE_FOLDERS[split], folder / MASK_FOLDERS[split]
            images.mkdir(parents=True)
            masks.mkdir()
            for _ in range(count):
                id = f"{DRAWN}{index:07d}"
                _draw(data, index, images / id, masks / f"{id}{MASK_ENDING}")
                index += 1
        write_json(folder / MARK, wanted)


def _draw(data: Synthetic, index: int, image_path: Path, mask_path: Path) -> None:
    """Write a case's image and mask; the paths lack their suffixes."""
    size = {"height": data.height, "width": data.width}
    if data.depth is None:
        image, mask = synthetic.draw_case(data.seed, index, **size)
        Image.fromarray(image).save(f"{image_path}.jpg", quality=95)
        Image.fromarray(mask * 255).save(f"{mask_path}.png")
        return
    image, mask = blobs.draw_volume(data.seed, index, depth=data.depth, **size)
    for path, voxels in ((image_path, image), (mask_path, mask)):
        blobs.save(Path(f"{path}.nii.gz"), voxels)


def _drawing(data: Synthetic) -> dict[str, Any]:
    """What drawn cases depend on, of their block."""
    return data.model_dump(mode="json", exclude={"source", "raw", "on_problem"})
