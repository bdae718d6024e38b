"""nnU-Net's summary.json: of each case and label the Dice and the IoU.

Written by `nnUNetv2_train` for the validation cases of a fold, and by `nnUNetv2_evaluate_folder`
and `nnUNetv2_evaluate_simple`. Source of the form: nnunetv2/evaluation/evaluate_predictions.py in
https://github.com/MIC-DKFZ/nnUNet
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.judge.arguments import Source, printed
from pipeline.judge.assembly import Scores, check_cases, finish, naming_note, part_of, put_together
from pipeline.judge.cases import name_cases
from pipeline.study.errors import UserError, first_fault
from pipeline.study.values import printable, shown

KIND = "nnU-Net's summary.json"
COUNTS = {"TP", "FP", "FN", "TN", "n_pred", "n_ref"}  # of pixels or voxels
BACKGROUND = "0"


class _Case(BaseModel):
    """A case's metrics by label, which is a number, or several as `(1, 2)`. NaN where neither truth
    nor prediction has it."""

    model_config = ConfigDict(strict=True)

    metrics: dict[str, dict[str, float | None]] = Field(min_length=1)
    reference_file: str
    prediction_file: str | None = None


class _Summary(BaseModel):
    model_config = ConfigDict(strict=True)

    metric_per_case: list[_Case] = Field(min_length=1)


def is_summary(content: Any) -> bool:
    return isinstance(content, dict) and "metric_per_case" in content


def read_summaries(files: Sequence[tuple[Source, Any]]) -> Scores:
    """files: each with its JSON. A case is named by its reference's file.

    Raises UserError for a file of another form, one whose cases or labels differ in what they are
    scored by, and a case twice.
    """
    summaries = [_checked(source, content) for source, content in files]
    labels = _labels(files, summaries)
    kept = [label for label in labels if label != BACKGROUND] or labels
    metrics = {
        (label, name): _title(name, label, len(kept) == 1)
        for label in kept
        for name in summaries[0].metric_per_case[0].metrics[label]
        if name not in COUNTS
    }
    if not metrics:
        raise UserError(
            f"{printed(files[0][0].path)} has counts of pixels and no metric such as Dice; "
            "evaluate the predictions again"
        )
    references = [[case.reference_file for case in each.metric_per_case] for each in summaries]
    parts = []
    for (source, _), summary, cases in zip(files, summaries, name_cases(references), strict=True):
        check_cases(printed(source.path), cases)
        rows: dict[str, Any] = {"case": cases}
        for (label, name), title in metrics.items():
            values = [case.metrics[label][name] for case in summary.metric_per_case]
            rows[title] = np.array([np.nan if value is None else value for value in values])
        parts.append(part_of(source, pd.DataFrame(rows)))
    table, together = put_together(parts)
    notes = naming_note([source for source, _ in files])
    if len(kept) == 1 and kept != ["1"]:
        notes.append(f"Label {kept[0]} was read, the only one.")
    if BACKGROUND in labels and BACKGROUND not in kept:
        notes.append("Label 0, the background, was left out.")
    notes += [
        f"{printed(source.path)} scores the cases that its network was trained on (fold_all)."
        for source, _ in files
        if "fold_all" in source.path.parts
    ]
    return finish(table, list(metrics.values()), KIND, notes + together)


def _checked(source: Source, content: Any) -> _Summary:
    try:
        return _Summary.model_validate(content)
    except ValidationError as invalid:
        raise UserError(
            f"{printed(source.path)}: {first_fault(invalid)}; evaluate the predictions again with "
            "nnU-Net"
        ) from None


def _labels(files: Sequence[tuple[Source, Any]], summaries: Sequence[_Summary]) -> list[str]:
    """Those of every case; each with the same metrics."""
    first = summaries[0].metric_per_case[0].metrics
    wanted = {label: set(metrics) for label, metrics in first.items()}
    for (source, _), summary in zip(files, summaries, strict=True):
        for case in summary.metric_per_case:
            if {label: set(metrics) for label, metrics in case.metrics.items()} != wanted:
                raise UserError(
                    f"{printed(source.path)}: {shown(case.reference_file)} has the labels "
                    f"{', '.join(case.metrics)}, and the first case of "
                    f"{printed(files[0][0].path)} {', '.join(first)}, or other metrics of them; "
                    "evaluate both with the same labels"
                )
    return list(first)


def _title(name: str, label: str, alone: bool) -> str:
    """`Dice`, `Dice (label 1)` or, of a region, `Dice (labels 1, 2)`."""
    if alone:
        return printable(name)
    numbers = re.findall(r"-?\d+", label)
    told = ", ".join(numbers) if numbers else label
    return printable(f"{name} (label{'s' if len(numbers) > 1 else ''} {told})")
