"""The tables that stages write as CSV, read back with every value in its range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.study.errors import UserError
from pipeline.study.run_files import is_count, range_of
from pipeline.study.values import shown

TEXTS = ("id", "variant", "averaging", "split", "group", "image_sha256", "mask_sha256")


def read_table(path: Path, stage: str, columns: Sequence[str]) -> pd.DataFrame:
    """The table in `path`, which `stage` writes; `columns`: those that it must have.

    Of each column that is not of TEXTS every value is a number in its `range_of`, or empty where it
    is no count. Raises UserError naming the file, the row, the column and the value found.
    """
    try:
        # Ids and variants may look like numbers, or be called NA.
        table = pd.read_csv(
            path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values=[""]
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or unusable ({error}); run the stage {stage}") from None
    missing = [name for name in columns if name not in table]
    if missing or table.empty:
        told = f"has no column {', '.join(missing)}" if missing else "has no rows"
        raise UserError(f"{path} {told}; run the stage {stage} again")
    for name in table.columns:
        if name not in TEXTS:
            _check(table, name, path, stage)
    return table


def _check(table: pd.DataFrame, name: str, path: Path, stage: str) -> None:
    values = table[name]
    low, high = range_of(name)
    numbers = pd.to_numeric(values.astype(str) if values.dtype == bool else values, errors="coerce")
    possible = numbers.between(low, high)
    if is_count(name):
        possible &= numbers % 1 == 0
    else:
        possible |= values.isna()
    if possible.all():
        return
    row = int((~possible).to_numpy().argmax())
    of = f" of {table['id'][row]}" if "id" in table else ""
    kind = "whole number" if is_count(name) else "number"
    value = None if pd.isna(values[row]) else values.tolist()[row]
    raise UserError(
        f"{path}, line {row + 2}: {name}{of} must be a {kind} from {low:g} to {high:g}, got "
        f"{shown(value)}; run the stage {stage} again"
    )
