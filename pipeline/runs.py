"""What the runs left in their folders, read as tables for the stages that compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import UserError
from pipeline.params import Study
from pipeline.prepared import PreparedCases


def read_histories(study: Study) -> pd.DataFrame:
    """Every run's history.csv, one below the other, with the columns variant and seed.

    Raises UserError if one is missing.
    """
    return pd.concat(
        [
            _read_csv(study.run_dir(variant, seed) / "history.csv", "train").assign(
                variant=variant, seed=seed
            )
            for variant, seed in study.runs()
        ],
        ignore_index=True,
    )


def read_scores(study: Study, cases: PreparedCases) -> pd.DataFrame:
    """Every run's evaluation/cases.csv, one below the other, with the columns variant and seed.

    Raises UserError if one is missing or its cases are not the prepared test cases.
    """
    expected = cases.table["id"].to_numpy()[cases.indices("test")].tolist()
    tables = []
    for variant, seed in study.runs():
        path = study.evaluation_dir(variant, seed) / "cases.csv"
        table = _read_csv(path, "evaluate")
        if table["id"].tolist() != expected:
            raise UserError(
                f"{path} does not hold the {len(expected)} prepared test cases in their order; "
                "run the stage evaluate again"
            )
        tables.append(table.assign(variant=variant, seed=seed))
    return pd.concat(tables, ignore_index=True)


def read_run_facts(study: Study) -> dict[tuple[str, int], dict[str, Any]]:
    """(variant, seed) -> its run.json. Raises UserError if one is missing."""
    return {
        (variant, seed): read_json(study.run_dir(variant, seed) / "run.json", "train")
        for variant, seed in study.runs()
    }


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """The JSON object in `path`. Raises UserError naming the stage that writes it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or unusable ({error}); run the stage {stage}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object; run the stage {stage} again")
    return content


def _read_csv(path: Path, stage: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"id": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or unusable ({error}); run the stage {stage}") from None
