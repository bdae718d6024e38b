"""The pictures that a user names, files and folders, and what each is called in the results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.data.raw import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Picture:
    """shown: its path below the folder that was named, with `/`; unlike all others.
    name: what its results are called, `shown` without its ending."""

    path: Path
    shown: str
    name: str


class Skipped(NamedTuple):
    """A file or folder without a prediction, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class Found:
    """passed_over: files in folders that are no pictures."""

    pictures: list[Picture]
    skipped: list[Skipped]
    passed_over: int


def find_pictures(sources: Sequence[Path]) -> Found:
    """The pictures in `sources`, each once and in their order; folders are searched to the bottom.

    In folders a picture is what ends in .jpg, .jpeg or .png; hidden files and the challenge's
    superpixels are passed over like any other file. A file that is named itself is always one.
    Where two would be called the same, all are called by their paths below the folder that all
    share; and where they differ in their endings alone, all keep these.
    """
    paths: dict[Path, Path] = {}  # a picture, and the folder that it is named below
    skipped: list[Skipped] = []
    passed_over = 0
    for source in sources:
        if not source.is_dir():
            if os.path.lexists(source):
                path = _absolute(source)
                paths.setdefault(path, path.parent)
            else:
                skipped.append(Skipped(str(source), "does not exist"))
            continue
        refused: list[OSError] = []
        walked = os.walk(_absolute(source), onerror=refused.append)
        files = sorted(Path(folder, name) for folder, _, names in walked for name in names)
        pictures = [path for path in files if _is_picture(path)]
        passed_over += len(files) - len(pictures)
        for path in pictures:
            paths.setdefault(path, _absolute(source))
        skipped += [Skipped(str(error.filename), str(error.strerror)) for error in refused]
        if not pictures and not refused:
            endings = ", ".join(sorted(IMAGE_SUFFIXES))
            skipped.append(Skipped(str(source), f"holds no picture that ends in {endings}"))
    shown = [path.relative_to(folder) for path, folder in paths.items()]
    if len({path.with_suffix("") for path in shown}) < len(shown):
        shared = os.path.commonpath([path.parent for path in paths])
        shown = [path.relative_to(shared) for path in paths]
    same = len({path.with_suffix("") for path in shown}) < len(shown)
    found = [
        Picture(path, below.as_posix(), (below if same else below.with_suffix("")).as_posix())
        for path, below in zip(paths, shown, strict=True)
    ]
    return Found(found, skipped, passed_over)


def _absolute(path: Path) -> Path:
    """Without `..`; links are not followed, or a link's picture would have its target's name."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _is_picture(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and not path.stem.endswith("_superpixels")
    )
