"""The pictures, or volumes, that a user names, files and folders, and what each is called in the
results."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pipeline.data.raw import IMAGE_SUFFIXES, VOLUME_SUFFIXES
from pipeline.deployment.outputs import has_results
from pipeline.study.limits import limit_of
from pipeline.study.values import printable

# Of characters that no name of a result may have: controls, separators of lines, undecoded bytes.
UNFIT = ("Cc", "Zl", "Zp", "Cs")


@dataclass(frozen=True)
class Picture:
    """shown: its path below the folder that was named, with `/`; unlike all others.
    name: what its results are called, `shown` without its ending."""

    path: Path
    shown: str
    name: str


class Skipped(NamedTuple):
    """A file or folder without a prediction, its name as `printable`, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class Found:
    """passed_over: files in folders that are no pictures; results: folders within that hold
    predict's results, of which no file is looked at."""

    pictures: list[Picture]
    skipped: list[Skipped]
    passed_over: int
    results: int


def find_pictures(sources: Sequence[Path], suffixes: Sequence[str] = IMAGE_SUFFIXES) -> Found:
    """The pictures in `sources`, each once and in their order; folders are searched to the bottom,
    those that links lead to as well.

    In folders a picture is what ends in one of `suffixes`, VOLUME_SUFFIXES for volumes; hidden
    files and the challenge's superpixels are passed over like any other file. A file that is named
    itself is always one. Where two would be called the same, all are called by their paths below
    the folder that all share; and where they differ in their endings alone, all keep these.
    """
    paths: dict[Path, tuple[Path, Path]] = {}  # where it is -> its path, the folder it is below
    skipped: list[Skipped] = []
    passed_over = 0
    results: set[str] = set()
    real = cache(os.path.realpath)

    def place(path: Path) -> Path:  # a link that is a file has its own name
        return Path(real(path.parent), path.name)

    for source in sources:
        if not os.path.isdir(source):  # noqa: PTH112 - which no name makes fail
            if os.path.lexists(source):
                path = _absolute(source)
                paths.setdefault(place(path), (path, path.parent))
            else:
                skipped.append(Skipped(printable(str(source)), "does not exist"))
            continue
        search = _Search(_absolute(source))
        files = sorted(search.files())
        pictures = [path for path in files if _is_picture(path, suffixes)]
        passed_over += len(files) - len(pictures)
        results |= search.results
        for path in pictures:
            paths.setdefault(place(path), (path, _absolute(source)))
        skipped += [
            Skipped(printable(str(error.filename)), str(error.strerror)) for error in search.refused
        ]
        if not pictures and not search.refused:
            kind = "volume" if suffixes == VOLUME_SUFFIXES else "picture"
            within = " beside predict's results" if search.results else ""
            told = f"holds no {kind} that ends in {', '.join(suffixes)}{within}"
            skipped.append(Skipped(printable(str(source)), told))
    shown = [path.relative_to(folder) for path, folder in paths.values()]
    if len({_without_ending(path, suffixes) for path in shown}) < len(shown):
        shared = os.path.commonpath([path.parent for path, _ in paths.values()])
        shown = [path.relative_to(shared) for path, _ in paths.values()]
    same = len({_without_ending(path, suffixes) for path in shown}) < len(shown)
    found = []
    for (path, _), below in zip(paths.values(), shown, strict=True):
        if reason := _unfit(below.as_posix()):
            skipped.append(Skipped(printable(below.as_posix()), reason))
        else:
            name = (below if same else _without_ending(below, suffixes)).as_posix()
            found.append(Picture(path, below.as_posix(), name))
    return Found(found, skipped, passed_over, len(results))


class _Search:
    """The files below a folder: each folder's once, whatever links lead to it, a loop's as well.

    refused: what could not be read; results: the folders of predict's results, passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.refused: list[OSError] = []
        self.results: set[str] = set()

    def _refuse(self, error: OSError) -> None:
        if limit_of(error):  # the machine's, not the folder's
            raise error
        self.refused.append(error)

    def files(self) -> Iterator[Path]:
        """Folders that lie here come before those that links lead to, and so under these names."""
        seen: set[str] = set()
        waiting = [str(self.root)]
        while waiting:
            linked: list[str] = []
            for top in sorted(waiting):
                for folder, below, names in os.walk(top, onerror=self._refuse):
                    place = os.path.realpath(folder)
                    if place in seen or has_results(Path(folder)):
                        if place not in seen:
                            self.results.add(place)
                        below.clear()
                        continue
                    seen.add(place)
                    paths = [os.path.join(folder, name) for name in below]  # noqa: PTH118
                    linked += [path for path in paths if os.path.islink(path)]  # noqa: PTH114
                    yield from (Path(folder, name) for name in names)
            waiting = linked


def _unfit(name: str) -> str | None:
    """Why no result can have that name."""
    if name.isprintable():
        return None
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:
        return f"has a name that is not in {sys.getfilesystemencoding()}: rename it"
    if not kinds.isdisjoint(UNFIT):
        return "has a name with control characters: rename it"
    return None


def _absolute(path: Path) -> Path:
    """Without `..`; links are not followed, or a link's picture would have its target's name."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _is_picture(path: Path, suffixes: Sequence[str]) -> bool:
    return (
        path.name.lower().endswith(tuple(suffixes))
        and not path.name.startswith(".")
        and not path.stem.endswith("_superpixels")
    )


def _without_ending(path: Path, suffixes: Sequence[str]) -> Path:
    ending = next((end for end in suffixes if path.name.lower().endswith(end)), path.suffix)
    name = path.name[: len(path.name) - len(ending)]
    return path.with_name(name) if name else path  # a hidden file's is all there is
