"""What the runs left in their folders, read as tables for the stages that compare them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.params import Run, Study
from pipeline.prepared import PreparedCases


def read_histories(study: Study) -> pd.DataFrame:
    """A row a variant, seed and epoch: history.csv, its mean over folds where there are several.

    Raises UserError if one is missing.
    """
    histories = pd.concat(
        [
            _read_csv(study.run_dir(*run) / "history.csv", "train").assign(
                variant=run.variant, seed=run.seed
            )
            for run in study.runs()
        ],
        ignore_index=True,
    )
    if len(study.folds) > 1:
        by = ["variant", "seed", "epoch"]
        histories = histories.groupby(by, sort=False, as_index=False).mean()
    return histories


def read_scores(study: Study, cases: PreparedCases) -> pd.DataFrame:
    """Every run's evaluation/cases.csv, one below the other, with the columns variant and seed.

    The folds of a variant and seed together have scored each case once. Raises UserError if a file
    is missing or its cases are not the prepared test cases.
    """
    tables = []
    for run in study.runs():
        path = study.evaluation_dir(*run) / "cases.csv"
        table = _read_csv(path, "evaluate")
        expected = test_ids(cases, run.fold)
        if table["id"].tolist() != expected:
            raise UserError(
                f"{path} does not hold the {len(expected)} prepared test cases in their order; "
                "run the stage evaluate again"
            )
        tables.append(table.assign(variant=run.variant, seed=run.seed))
    return pd.concat(tables, ignore_index=True)


def test_ids(cases: PreparedCases, fold: int) -> list[str]:
    """The ids of a fold's test cases, in the order that runs score them in."""
    return list(cases.table["id"].iloc[replace(cases, fold=fold).indices("test")])


def read_run_facts(study: Study) -> dict[Run, dict[str, Any]]:
    """Each run's run.json. Raises UserError if one is missing."""
    return {run: read_json(study.run_dir(*run) / "run.json", "train") for run in study.runs()}


def _read_csv(path: Path, stage: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"id": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or unusable ({error}); run the stage {stage}") from None
