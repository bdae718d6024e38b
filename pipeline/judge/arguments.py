"""What the command line names: files and folders, and which variant and seed each is.

    runs/unet/fold_0/validation/summary.json    the names of its folders tell them
    unet=exports/a.csv                          the variant
    unet/3=exports/a.csv                        the variant and the seed

A path that exists is taken as it is, an equals sign in it and all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.study.errors import UserError
from pipeline.study.values import printable, shown

MOST_SEEDS = 2**32  # as params.yaml has them
# Folders that tell neither the method nor its seed: what lies in them does not name them so.
PLAIN = {"validation", "postprocessed", "evaluation", "metrics", "predictions", "results", "test"}
PLAIN_TOO = re.compile(r"crossval_results.*|outputs?|reports?")  # the first: nnU-Net's, of folds
FOLD = re.compile(r"fold[_-]?(\d+|all)")
SEED = re.compile(r"(?:seed|run)[_-]?(\d{1,9})")
NAME_AND_SEED = re.compile(r"(.+?)[_-]seed[_-]?(\d{1,9})")


class Source(NamedTuple):
    """A file or folder, and what was said of it beside its path: None where nothing was."""

    variant: str | None
    seed: int | None
    path: Path


def printed(path: Path) -> str:
    """On one line, whatever its bytes are."""
    return printable(str(path))


class Told(NamedTuple):
    """What the folders above a file say of it."""

    variant: str
    seed: int | None
    fold: str | None  # a number, or `all`
    folder: Path  # the variant's, absolute


def parse_source(text: str) -> Source:
    """An argument: `path`, `NAME=path` or `NAME/SEED=path`.

    Raises UserError for a name that is empty and a seed that is no whole number.
    """
    if os.path.lexists(text) or "=" not in text:
        return Source(None, None, Path(text))
    # Of several equals signs that one before a path that exists; else the first.
    places = [place for place, sign in enumerate(text) if sign == "="]
    place = next((at for at in places if os.path.lexists(text[at + 1 :])), places[0])
    named, path = text[:place], text[place + 1 :]
    name, slash, seed = named.rpartition("/")
    if not slash:
        name, seed = named, ""
    if not name.strip() or not path:
        raise UserError(f"{shown(text)} must be path, NAME=path or NAME/SEED=path")
    if slash and not (re.fullmatch("[0-9]{1,10}", seed) and int(seed) < MOST_SEEDS):
        raise UserError(
            f"{shown(text)}: the seed must be a whole number from 0 to {MOST_SEEDS - 1}, got "
            f"{shown(seed)}; write NAME/SEED=path, or NAME=path without a slash in the name"
        )
    return Source(printable(name.strip()), int(seed) if slash else None, Path(path))


def find_files(sources: Sequence[Source | Path]) -> list[Source]:
    """Each file that is asked for, those of folders too, in the order given.

    Raises UserError for a folder without a file that can be read, or with files of several kinds,
    and for a file that is given twice.
    """
    found: list[Source] = []
    for source in sources:
        if isinstance(source, Path):
            source = Source(None, None, source)
        paths = _within(source.path) if source.path.is_dir() else [source.path]
        found += [source._replace(path=path) for path in paths]
    if not found:
        raise UserError("no table is named: name at least one file or folder")
    seen: set[Path] = set()
    for source in found:
        path = Path(os.path.realpath(source.path))
        if path in seen:
            raise UserError(f"{printed(source.path)} is named twice; name it once")
        seen.add(path)
    return found


def _within(folder: Path) -> list[Path]:
    """The files of a folder that can be read."""
    shown_folder = printed(folder)
    for own in (folder / "results.json", folder / "reports" / "results.json"):
        if own.is_file():
            return [own]
    kinds: dict[str, list[Path]] = {
        "summary.json": [folder / "summary.json"] if (folder / "summary.json").is_file() else [],
        "fold_*/validation/summary.json": _folds(folder),
        "*_raw.csv": sorted(folder.glob("*_raw.csv")),
    }
    filled = {kind: paths for kind, paths in kinds.items() if paths}
    if len(filled) > 1:
        raise UserError(
            f"{shown_folder} holds {' and '.join(filled)}: name the files that are meant instead"
        )
    if not filled:
        raise UserError(
            f"{shown_folder} is a folder without results.json, {', '.join(kinds)}; name a file"
        )
    (paths,) = filled.values()
    return paths


def _folds(folder: Path) -> list[Path]:
    """Of nnU-Net's folds the summaries: of all that are numbered, or of none."""
    folds = sorted(
        (int(match[1]), each)
        for each in folder.glob("fold_*")
        if (match := re.fullmatch(r"fold_(\d+)", each.name)) and each.is_dir()
    )
    paths = [fold / "validation" / "summary.json" for _, fold in folds]
    missing = [path for path in paths if not path.is_file()]
    if missing and len(missing) < len(paths):
        raise UserError(
            f"{printed(missing[0])} is missing, of other folds it is there; let that fold "
            "end, or name the files of those that have ended"
        )
    return [] if missing else paths


def told_by_folders(file: Path) -> Told:
    """The variant, seed and fold that the names of the folders above a file tell.

    `fold_0` is a fold; `seed_3` and `run3` are seeds; `validation` and the like say nothing; the
    next folder's name is the variant's, and `unet_seed3` names both. The variant is empty where no
    folder is left to name it.
    """
    folder = Path(os.path.abspath(file)).parent  # noqa: PTH100 - a link keeps the name it has
    seed = fold = None
    while folder.name:
        name = folder.name
        if match := FOLD.fullmatch(name):
            fold = match[1] if fold is None else fold
        elif match := SEED.fullmatch(name):
            seed = int(match[1]) if seed is None else seed
        elif name.lower() not in PLAIN and not PLAIN_TOO.fullmatch(name.lower()):
            if seed is None and (match := NAME_AND_SEED.fullmatch(name)):
                name, seed = match[1], int(match[2])
            return Told(printable(name), seed, fold, folder)
        folder = folder.parent
    return Told("", seed, fold, folder)
