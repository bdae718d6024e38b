"""Which cases train, validate and test: the split as a declared part of the protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.raw import RawCase
from pipeline.study.blocks import FoldSplit, ListFile, ListSplit, OfficialSplit, RandomSplit
from pipeline.study.errors import UserError
from pipeline.study.files import sha256
from pipeline.study.values import SPLITS, Split, quantity

AnySplit = OfficialSplit | RandomSplit | FoldSplit | ListSplit


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


def listed_cases(
    cases: Sequence[RawCase], known: set[str], split: ListSplit, folder: Path
) -> tuple[set[str], list[RawCase]]:
    """The ids that the lists name, and their cases, each with its list's split.

    known: the ids that lists may name; beside those of `cases` they may be ids of cases that cannot
    be used. folder: from where the files are seen. Raises UserError for a file that is missing or
    of another sha256 than declared, an id that is unknown, and one that stands in the lists twice.
    """
    named: list[tuple[str, Split]] = []
    for name in SPLITS:
        entry: ListFile = getattr(split, name)
        path, key = folder / entry.file, f"params.yaml: prepare.split.{name}"
        if not path.is_file():
            raise UserError(f"{key}.file must be an existing file, got {entry.file!r}")
        found = sha256(path)
        if found != entry.sha256:
            raise UserError(
                f"{key}.sha256 must be that of {entry.file}, {found}, got {entry.sha256!r}: put it "
                "there if the file is what you mean"
            )
        try:
            ids = path.read_text(encoding="utf-8-sig").split()
        except UnicodeDecodeError:
            raise UserError(f"{path}: must be UTF-8 text, save it as that") from None
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
