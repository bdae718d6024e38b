"""The identity of the raw data: a table of checksums that DVC tracks in place of the gigabytes."""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from pipeline.files import replacing, sha256
from pipeline.raw import IMAGE_FOLDERS, MASK_FOLDERS

FOLDERS = [*IMAGE_FOLDERS.values(), *MASK_FOLDERS.values(), "images", "masks"]


def write_manifest(raw_dir: Path, path: Path) -> tuple[int, int]:
    """Write path, bytes and sha256 of every file in the raw layout's folders, sorted by path.

    Returns how many files there are, and their bytes.
    """
    files = sorted(
        (file.relative_to(raw_dir).as_posix(), file)
        for folder in FOLDERS
        for file in (raw_dir / folder).rglob("*")
        if file.is_file() and not file.name.startswith(".")
    )
    total = 0
    # hashlib leaves the interpreter free while it works, so threads suffice.
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as table,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["path", "bytes", "sha256"])
        checksums = pool.map(sha256, [file for _, file in files])
        shown = tqdm(checksums, "checksums", len(files), unit="file")
        for (name, file), checksum in zip(files, shown, strict=True):
            size = file.stat().st_size
            writer.writerow([name, size, checksum])
            total += size
    return len(files), total
