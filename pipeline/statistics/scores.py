"""The runs' scores summed up, and the cases picked to be looked at.

Tables in, tables out; no file is read here. A table of scores is long: a row a (variant, seed,
case), with the columns variant, seed, id, CASE_METRICS and overlap.COUNTS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.engine.overlap import COUNTS, dice
from pipeline.evaluation.calibration import expected_calibration_error
from pipeline.statistics.definitions import CASE_METRICS, METRICS, POOLED


def score_runs(
    scores: pd.DataFrame, binned: Mapping[tuple[str, int], NDArray[np.float64]]
) -> pd.DataFrame:
    """One figure a run and metric: the mean over cases, or for POOLED that of all pixels.

    binned: each (variant, seed)'s pixels by probability, as of read_binned. Returns a table indexed
    by (variant, seed) in the order of `scores`, with a column for each of METRICS, native ones
    where `scores` has them. A case without a value (NaN) leaves the run without one.
    Raises ValueError if two runs were not scored on the same cases.
    """
    runs = {
        (str(variant), int(str(seed))): run
        for (variant, seed), run in scores.groupby(["variant", "seed"], sort=False)
    }
    first = next(iter(runs.values()))
    for run, cases in runs.items():
        if sorted(cases["id"]) != sorted(first["id"]):
            raise ValueError(f"run {run} was scored on other cases than the first run")
    by_case = [name for name in CASE_METRICS if name in scores]
    means = {
        run: cases[by_case].mean(skipna=False).to_dict()
        | {"pooled_dice": float(dice(cases[list(COUNTS)].to_numpy().sum(axis=0)))}
        | {"expected_calibration_error": float(expected_calibration_error(binned[run]))}
        for run, cases in runs.items()
    }
    columns = [name for name in METRICS if name in by_case or name in POOLED]
    table = pd.DataFrame.from_dict(means, orient="index", columns=columns)
    table.index = pd.MultiIndex.from_tuples(means, names=["variant", "seed"])
    return table


def both_empty(scores: pd.DataFrame) -> int:
    """How many scored cases have no lesion pixel in truth and prediction (Dice and IoU are 1)."""
    lesion = scores[["true_positives", "false_positives", "false_negatives"]].sum(axis="columns")
    return int((lesion == 0).sum())


Rank = Literal["best", "median", "worst", "disputed"]


class ExampleCase(NamedTuple):
    """A test case picked to be looked at; `dice` is its mean over all runs."""

    rank: Rank
    id: str
    dice: float


def example_cases(scores: pd.DataFrame, each: int = 2) -> list[ExampleCase]:
    """The best, median and worst cases by mean Dice over all runs, best first, none twice.

    `each` of every rank, fewer where there are fewer than 3 x `each` cases. Equal means keep the
    order of `scores`.
    """
    means = (
        scores.groupby("id", sort=False)["dice"].mean().sort_values(ascending=False, kind="stable")
    )
    each = min(each, max(1, len(means) // 3))
    starts: dict[Rank, int] = {
        "best": 0,
        "worst": len(means) - each,
        "median": (len(means) - each) // 2,
    }
    ranks: dict[int, Rank] = {}
    for rank, start in starts.items():
        for position in range(start, start + each):
            ranks.setdefault(position, rank)
    return [
        ExampleCase(ranks[position], str(means.index[position]), float(means.iloc[position]))
        for position in sorted(ranks)
    ]


def disputed_cases(scores: pd.DataFrame, number: int = 6) -> list[ExampleCase]:
    """The cases on which the variants disagree most: by the standard deviation over variants of
    the mean Dice over seeds, most first; none where one variant, or no difference, is."""
    of_variants = scores.pivot_table(index="id", columns="variant", values="dice", sort=False)
    deviation = of_variants.std(axis="columns", ddof=0)
    chosen = deviation[deviation > 0].sort_values(ascending=False, kind="stable").index[:number]
    return [ExampleCase("disputed", str(id), float(of_variants.loc[id].mean())) for id in chosen]
