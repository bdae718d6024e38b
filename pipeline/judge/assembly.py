"""From what files say to one table: folds of one seed put together, seeds told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.judge.arguments import Source, printed, told_by_folders
from pipeline.study.errors import UserError
from pipeline.study.values import quantity, shown

KEYS = ["variant", "seed", "case"]


@dataclass(frozen=True)
class Scores:
    """Scores of cases, whatever they came from.

    table: the columns variant (text), seed (a whole number, at least 0), case (text), and one of
        floats for each of `metrics`, in their units, NaN where there is no finite number; a row a
        (variant, seed, case), none twice.
    metrics: as the source names them, in its order; at least one.
    kind: the format in words.
    notes: sentences that a reader must know: what was taken for what, what is missing.
    """

    table: pd.DataFrame
    metrics: list[str]
    kind: str
    notes: list[str]


@dataclass(frozen=True)
class Part:
    """What one file, or several of one folder, say of one run or of one fold of it.

    variant: as named beside the path, if `named`, else by its folder. seed, fold: None where
    nothing tells them. folder: the variant's. table: `case` and a column a metric.
    """

    variant: str
    named: bool
    seed: int | None
    fold: str | None
    folder: Path
    files: tuple[Path, ...]
    table: pd.DataFrame

    @property
    def cases(self) -> set[str]:
        return set(self.table["case"])

    @property
    def file(self) -> str:
        return printed(self.files[0])


def part_of(source: Source, table: pd.DataFrame) -> Part:
    """What was not said of a file beside its path is told by its folders.

    Raises UserError where neither names the variant.
    """
    told = told_by_folders(source.path)
    variant = told.variant if source.variant is None else source.variant
    if not variant:
        name = printed(source.path)
        raise UserError(f"{name}: no folder above it names its method; name it: NAME={name}")
    return Part(
        variant=variant,
        named=source.variant is not None,
        seed=told.seed if source.seed is None else source.seed,
        fold=told.fold,
        folder=told.folder,
        files=(source.path,),
        table=table,
    )


def naming_note(sources: Sequence[Source]) -> list[str]:
    if all(source.variant for source in sources):
        return []
    return ["Variants are named after the folders that the files lie in."]


def put_together(parts: Sequence[Part]) -> tuple[pd.DataFrame, list[str]]:
    """One table of all parts, and notes.

    Parts of a variant whose seed is told are that seed's. Of the others those without a common case
    are folds of one seed, and a part that scores a case again is of the next seed, in the order
    given; those below one folder first go together with each other. Raises UserError where a case
    of one seed stands in two files, where files do not have the same metrics, and where a folder
    that names a variant holds files that nothing tells apart.
    """
    _check_metrics(parts)
    _check_told(parts)
    notes: list[str] = []
    tables: list[pd.DataFrame] = []
    for variant in dict.fromkeys(part.variant for part in parts):
        seeds = _seeds([part for part in parts if part.variant == variant])
        notes += _told(variant, seeds)
        for seed, folds in seeds.items():
            _check_folds(variant, seed, folds)
            rows = pd.concat([part.table for part in folds], ignore_index=True)
            rows.insert(0, "variant", variant)
            rows.insert(1, "seed", seed)
            tables.append(rows)
    return pd.concat(tables, ignore_index=True), notes


def _check_metrics(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        here, there = (list(each.table.columns[1:]) for each in (part, first))
        if set(here) != set(there):
            raise UserError(
                f"{part.file} has the metrics {', '.join(here)}, and {first.file} has "
                f"{', '.join(there)}; give files with the same ones"
            )


def _check_told(parts: Sequence[Part]) -> None:
    """Of files below a folder that names their variant each is another fold, or there is one: a
    cross-validation's summary beside its folds, or one before and after postprocessing, is no other
    seed."""
    held: dict[tuple[Path, int | None], list[Part]] = {}
    for part in parts:
        if part.named:
            continue
        for before in held.setdefault((part.folder, part.seed), []):
            if part.fold is None or part.fold == before.fold or before.fold is None:
                raise UserError(
                    f"{before.file} and {part.file} are both of {part.variant}, and no folder "
                    "fold_<n> or seed_<n> tells them apart; name one of them, or NAME/SEED=path"
                )
        held[part.folder, part.seed].append(part)


def _seeds(parts: Sequence[Part]) -> dict[int, list[Part]]:
    """Which parts of a variant each seed has, in ascending order."""
    seeds: dict[int, list[Part]] = {}
    for part in parts:
        if part.seed is not None:
            seeds.setdefault(part.seed, []).append(part)
    untold = [part for part in parts if part.seed is None]
    bundles: list[list[Part]] = []
    for folder in dict.fromkeys(part.folder for part in untold):
        bundles += _disjoint([[part] for part in untold if part.folder == folder])
    free = (number for number in range(len(parts) + len(seeds)) if number not in seeds)
    for number, bundle in zip(free, _disjoint(bundles), strict=False):
        seeds[number] = bundle
    return dict(sorted(seeds.items()))


def _disjoint(bundles: Sequence[list[Part]]) -> list[list[Part]]:
    """Bundles joined where no case of one is in the other, each with the first such one."""
    joined: list[list[Part]] = []
    held: list[set[str]] = []  # cases of each
    for bundle in bundles:
        cases = set().union(*(part.cases for part in bundle))
        place = next((at for at, own in enumerate(held) if not own & cases), None)
        if place is None:
            joined.append(list(bundle))
            held.append(cases)
        else:
            joined[place] += bundle
            held[place] |= cases
    return joined


def _told(variant: str, seeds: dict[int, list[Part]]) -> list[str]:
    """How a variant's files became its seeds."""
    notes = []
    untold = [seed for seed, folds in seeds.items() if any(part.seed is None for part in folds)]
    if len(untold) > 1:
        firsts = ", ".join(f"seed {seed} from {seeds[seed][0].file}" for seed in untold)
        notes.append(
            f"{variant}: the same cases are scored {len(untold)} times; these were taken for "
            f"seeds, in the order given ({firsts})."
        )
    if any(len(folds) > 1 for folds in seeds.values()):
        notes.append(
            f"{variant}: files of one seed that have no case in common are its folds, put together."
        )
    return notes


def _check_folds(variant: str, seed: int, folds: Sequence[Part]) -> None:
    seen: dict[str, Part] = {}
    for part in folds:
        for case in part.table["case"]:
            if case in seen:
                raise UserError(
                    f"{part.file}: case {shown(case)} of {variant}, seed {seed}, is in "
                    f"{seen[case].file}, too; name other seeds for other runs: NAME/SEED=path"
                )
        seen |= dict.fromkeys(part.table["case"], part)


def check_cases(file: str, cases: Sequence[str]) -> None:
    """Raise UserError where a file of one run has a case twice."""
    seen: set[str] = set()
    for case in cases:
        if case in seen:
            raise UserError(
                f"{file}: case {shown(case)} stands in it twice; a run has one score a case: "
                "remove one"
            )
        seen.add(case)


def join_metrics(parts: Sequence[Part]) -> list[Part]:
    """Parts whose files lie in one folder and are of one run, joined by their cases: a metric a
    file. Raises UserError where two such files do not score the same cases."""
    joined: dict[tuple[str, int | None, Path], Part] = {}
    for part in parts:
        key = (part.variant, part.seed, part.files[0].parent)
        before = joined.setdefault(key, part)
        if before is part:
            continue
        if before.cases != part.cases:
            lacking = min(before.cases ^ part.cases)
            raise UserError(
                f"{before.file} and {part.file} lie in one folder as metrics of one run, and case "
                f"{shown(lacking)} is in one of them alone; name one of them, or write both anew"
            )
        table = before.table.merge(part.table, on="case", validate="one_to_one")
        joined[key] = replace(before, files=before.files + part.files, table=table)
    return list(joined.values())


def finish(table: pd.DataFrame, metrics: Sequence[str], kind: str, notes: Sequence[str]) -> Scores:
    """`table` as Scores has it. Notes are added on values that are missing, and on seeds of a
    variant that have the same numbers."""
    table = table[[*KEYS, *metrics]].reset_index(drop=True).astype({"seed": np.int64})
    notes = [*notes, *_copies(table, metrics)]
    for metric in metrics:
        values = table[metric].to_numpy(dtype=np.float64, copy=True)
        values[~np.isfinite(values)] = np.nan
        table[metric] = values
        missing = int(np.isnan(values).sum())
        if missing:
            verb = "is" if missing == 1 else "are"
            notes.append(
                f"{missing:,} of {quantity(len(table), 'value')} of {metric} {verb} missing or not "
                "finite."
            )
    return Scores(table, list(metrics), kind, notes)


def _copies(table: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    notes = []
    for variant, own in table.groupby("variant", sort=False):
        seen: dict[bytes, int] = {}
        same: dict[int, list[int]] = {}
        for seed, run in own.groupby("seed", sort=False):
            values = run.sort_values("case")[list(metrics)].to_numpy(dtype=np.float64).tobytes()
            first = seen.setdefault(values, int(str(seed)))
            same.setdefault(first, []).append(int(str(seed)))
        for seeds in same.values():
            if len(seeds) > 1:
                told = f"{', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"
                notes.append(
                    f"{variant}: seeds {told} have the same numbers; one run "
                    "that is named twice tells nothing of seeds."
                )
    return notes
