"""Which cases train, validate and test: the split as a declared part of the protocol."""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.raw import RawCase
from pipeline.study.blocks import (
    AllTest,
    DeclaredFile,
    FoldSplit,
    GroupFile,
    ListSplit,
    OfficialSplit,
    RandomSplit,
)
from pipeline.study.errors import UserError
from pipeline.study.values import SPLITS, Split, printable, quantity, shown

AnySplit = OfficialSplit | RandomSplit | FoldSplit | ListSplit | AllTest


def divide(
    own: Sequence[Split | None],
    groups: Sequence[str],
    split: AnySplit,
) -> pd.DataFrame:
    """How cases are divided, a row a case.

    The column is `fold` (0 to k - 1) with the method folds and `split` with the others. random and
    folds never divide the cases of one of the `groups`; official and lists take each case's `own`
    split. Raises UserError when a split or fold would be empty, or a case is in none.
    """
    if split.method == "folds":
        if len(set(groups)) < split.k:
            raise UserError(
                f"params.yaml: prepare.split.k must leave each fold a case, got {split.k} folds "
                f"for {quantity(len(set(groups)), 'group')} of cases"
            )
        return pd.DataFrame({"fold": _deal(groups, split.k, split.seed)})
    if split.method == "random":
        bounds = np.cumsum([split.training, split.validation])
        named = [SPLITS[part] for part in _cut(groups, bounds, split.seed)]
        told = "random needs fractions that give each split a case"
    elif split.method == "official":
        named = [each or "elsewhere" for each in own]
        told = (
            "official needs usable cases in each of the Training, Validation and Test folders and "
            "none elsewhere"
        )
    else:
        named = [each or "elsewhere" for each in own]
        told = "lists needs a usable case in each list"
    if set(named) != set(SPLITS):
        names = [*SPLITS, "elsewhere"] if "elsewhere" in named else SPLITS
        counts = ", ".join(f"{named.count(name)} {name}" for name in names)
        raise UserError(f"params.yaml: prepare.split.method {told}, got cases: {counts}")
    return pd.DataFrame({"split": named})


def _cut(groups: Sequence[str], bounds: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """The part of each case when whole groups, shuffled, fill the parts up to the fractions."""
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    sizes = pd.Series(groups).value_counts().loc[order]
    # A group goes where its middle falls on the way from the first case to the last.
    middles = (sizes.cumsum() - sizes / 2) / len(groups)
    part = pd.Series(np.searchsorted(bounds, middles.to_numpy()), index=sizes.index)
    return part.loc[list(groups)].to_numpy(np.int64)


def _deal(groups: Sequence[str], k: int, seed: int) -> NDArray[np.int64]:
    """The fold of each case: shuffled groups, the largest first, each go to the smallest fold."""
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    sizes = pd.Series(groups).value_counts().loc[order]
    folds = np.zeros(k, np.int64)
    fold_of = {}
    for group, size in sizes.sort_values(ascending=False, kind="stable").items():
        fold_of[group] = int(folds.argmin())
        folds[fold_of[group]] += size
    return np.array([fold_of[group] for group in groups])


def declared_text(key: str, entry: DeclaredFile, find: Callable[[str], Path]) -> tuple[Path, str]:
    """The path and the text of a file that params.yaml declares under `key`, with letters of one
    form, as ids have them.

    find: where a file is that params.yaml names (Study.input). Raises UserError for one that is
    missing, cannot be read, is of another sha256 than declared, or is no UTF-8.
    """
    path, key = find(entry.file), f"params.yaml: {key}"
    if not path.is_file():
        raise UserError(f"{key}.file must be an existing file, got {entry.file!r}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; allow it") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise UserError(
            f"{key}.sha256 must be that of {entry.file}, {found}, got {entry.sha256!r}: put it "
            "there if the file is what you mean"
        )
    try:
        return path, unicodedata.normalize("NFC", content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: must be UTF-8 text, save it as that") from None


def listed_cases(
    cases: Sequence[RawCase], known: set[str], split: ListSplit, find: Callable[[str], Path]
) -> tuple[set[str], list[RawCase]]:
    """The ids that the lists name, and their cases, each with its list's split.

    known: the ids that lists may name; beside those of `cases` they may be ids of cases that cannot
    be used. find: as in `declared_text`, whose errors it has. Raises UserError for an id that is
    unknown, and one that stands in the lists twice.
    """
    named: list[tuple[str, Split]] = []
    for name in SPLITS:
        path, text = declared_text(f"prepare.split.{name}", getattr(split, name), find)
        ids = text.split()
        unknown = sorted(set(ids) - known)
        if unknown:
            raise UserError(
                f"{path}: must list ids of the raw cases, got {quantity(len(unknown), 'other')} "
                f"such as {', '.join(unknown[:3])}"
            )
        named += [(id, name) for id in ids]
    twice = [id for id, count in Counter(id for id, _ in named).items() if count > 1]
    if twice:
        raise UserError(
            "params.yaml: prepare.split must list each id once, in one file, got "
            f"{quantity(len(twice), 'id')} more than once such as {', '.join(twice[:3])}"
        )
    split_of = dict(named)
    chosen = [replace(case, split=split_of[case.id]) for case in cases if case.id in split_of]
    return set(split_of), chosen


def known_groups(known: set[str], entry: GroupFile, find: Callable[[str], Path]) -> dict[str, str]:
    """The name of the group of each raw case that the file puts into one, by the case's id.

    known: the ids of raw cases; rows of others are passed over, for files cover whole archives.
    find: as in `declared_text`, whose errors it has. Raises UserError for what is no CSV with the
    two columns, an id with two groups, and a file that names no raw case.
    """
    path, text = declared_text("prepare.groups", entry, find)
    rows = _rows(path, text)
    header = next(rows, [])
    id_place, group_place = (_place(key, entry, header) for key in ("id", "column"))
    ids: dict[str, None] = {}
    groups: dict[str, str] = {}
    twice: dict[str, str] = {}
    for row in rows:
        id, group = row[id_place].strip(), row[group_place].strip()
        ids[id] = None
        if group and groups.setdefault(id, group) != group:
            twice[id] = group
    if twice:
        id, group = next(iter(twice.items()))
        raise UserError(
            f"{path}: must put each id into one group, got {quantity(len(twice), 'id')} in two "
            f"such as {printable(id)}, in {shown(groups[id])} and {shown(group)}: leave one of them"
        )
    if known.isdisjoint(ids):
        found = quantity(len(ids), "other id")
        if ids:
            found += f" such as {printable(next(iter(ids)))}"
        raise UserError(
            f"{path}: must name raw cases such as {min(known)} in the column {entry.id!r}, got "
            f"{found}: name the column that has them as prepare.groups.id"
        )
    return {id: group for id, group in groups.items() if id in known}


def _rows(path: Path, text: str) -> Iterator[list[str]]:
    """The rows of a CSV, its header first; empty lines are passed over. Raises UserError for text
    that is no CSV."""
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    cells = None
    try:
        for row in reader:
            cells = cells or len(row)
            if row and len(row) != cells:
                raise UserError(
                    f"{path}, line {reader.line_num}: must have {quantity(cells, 'cell')} as the "
                    f"header has, got {len(row)}; save it as a CSV with commas"
                )
            if row:
                yield row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: must be CSV, got {error}; save it as a CSV with "
            "commas"
        ) from None


def _place(key: str, entry: GroupFile, header: Sequence[str]) -> int:
    """Where in the rows the column stands that the entry names under `key`."""
    titles, name = [title.strip() for title in header], getattr(entry, key)
    wanted = unicodedata.normalize("NFC", name)
    if titles.count(wanted) != 1:
        found = ", ".join(titles) if titles else "an empty file"
        raise UserError(
            f"params.yaml: prepare.groups.{key} must be one column of {entry.file} "
            f"({printable(found[:200])}), got {shown(name)}"
        )
    return titles.index(wanted)
