"""The variants side by side: what a metric means, how runs are summed up, what the paper found.

Tables in, tables out; no file is read here. A table of scores is long: a row a (variant, seed,
case), with the columns variant, seed, id, CASE_METRICS and overlap.COUNTS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from pipeline.overlap import COUNTS, dice


@dataclass(frozen=True)
class Metric:
    """A column of the comparison.

    definition: one sentence; {jaccard_threshold}, {alpha} and {gamma} stand for the
        study's constants (str.format).
    """

    label: str
    better: Literal["higher", "lower"]
    definition: str


METRICS: dict[str, Metric] = {
    "dice": Metric(
        "Dice",
        "higher",
        "Mean per-case Dice: 2 TP / (2 TP + FP + FN) of each test case, then the mean over cases. "
        "Primary metric, fixed before looking.",
    ),
    "iou": Metric(
        "IoU",
        "higher",
        "Mean per-case intersection over union (Jaccard index): TP / (TP + FP + FN) of each test "
        "case, then the mean over cases.",
    ),
    "focal_loss": Metric(
        "Focal loss",
        "lower",
        "Sigmoid focal loss, alpha {alpha:g}, gamma {gamma:g} (Lin et al. 2017, torchvision's "
        "form), mean over pixels, then over cases. It needs no threshold.",
    ),
    "sensitivity": Metric(
        "Sensitivity",
        "higher",
        "Mean per-case TP / (TP + FN): the share of the lesion's pixels that is found.",
    ),
    "specificity": Metric(
        "Specificity",
        "higher",
        "Mean per-case TN / (TN + FP): the share of the background's pixels that is left alone.",
    ),
    "thresholded_jaccard": Metric(
        "Thresholded Jaccard",
        "higher",
        "The ISIC 2018 challenge's score: a case's IoU, or 0 where it is below "
        "{jaccard_threshold:g}, then the mean over cases.",
    ),
    "pooled_dice": Metric(
        "Pooled Dice",
        "higher",
        "2 TP / (2 TP + FP + FN) with the pixels of all test cases counted together, so that "
        "large lesions weigh more. Not comparable with the mean per-case Dice.",
    ),
}
CASE_METRICS = tuple(name for name in METRICS if name != "pooled_dice")


class PaperRow(NamedTuple):
    """A row of the paper's Table 1 (section 10), each figure one run; None where it gives none."""

    name: str
    dice: float | None = None
    iou: float | None = None
    focal_loss: float | None = None


# By variant name in params.yaml. The paper does not say how its Dice is averaged; its IoU fits a
# mean over cases (pooled, IoU would be Dice / (2 - Dice) = 0.764 for the first row, not 0.795).
PAPER: dict[str, PaperRow] = {
    "limit_encoder_attention": PaperRow(
        "U-Net + ResNet + LimitEncoderAttention (Model 4)", 0.8660, 0.795, 0.245
    ),
    "encoder_attention": PaperRow(
        "U-Net + ResNet + EncoderAttention (Model 3)", 0.8615, 0.789, 0.257
    ),
    "gated_attention": PaperRow("U-Net + ResNet + GatedAttention (Model 1)", 0.856, 0.782, 0.263),
    "encoder_and_gated_attention": PaperRow(
        "U-Net + ResNet + EncoderAttention + GatedAttention (Model 2)", 0.8529, 0.778, 0.270
    ),
    "resunet": PaperRow("baseline: U-Net + ResNet"),
    "attention_unet": PaperRow("baseline: Attention U-Net"),
    "unet": PaperRow("baseline: U-Net"),
}


def score_runs(scores: pd.DataFrame) -> pd.DataFrame:
    """One figure a run and metric: the mean over cases, or for pooled Dice the ratio of sums.

    Returns a table indexed by (variant, seed) in the order of `scores`, with a column for each of
    METRICS. A case without a value (NaN) leaves the run without one.
    Raises ValueError if two runs were not scored on the same cases.
    """
    runs = dict(iter(scores.groupby(["variant", "seed"], sort=False)))
    first = next(iter(runs.values()))
    for run, cases in runs.items():
        if sorted(cases["id"]) != sorted(first["id"]):
            raise ValueError(f"run {run} was scored on other cases than the first run")
    means = {
        run: cases[list(CASE_METRICS)].mean(skipna=False).to_dict()
        | {"pooled_dice": float(dice(cases[list(COUNTS)].to_numpy().sum(axis=0)))}
        for run, cases in runs.items()
    }
    table = pd.DataFrame.from_dict(means, orient="index", columns=list(METRICS))
    table.index = pd.MultiIndex.from_tuples(means, names=["variant", "seed"])
    return table


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Each variant and metric over its seeds.

    Returns a table indexed by (variant, metric), variants in the order of `scores`, metrics in
    that of METRICS, with the columns mean, standard_deviation (over seeds, n - 1 in the
    denominator; NaN for one seed), seeds and cases (counts).
    """
    rows = {}
    for variant, runs in score_runs(scores).groupby(level="variant", sort=False):
        for metric in METRICS:
            rows[variant, metric] = {
                "mean": runs[metric].mean(skipna=False),
                "standard_deviation": runs[metric].std(skipna=False, ddof=1),
                "seeds": len(runs),
                "cases": scores["id"].nunique(),
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["variant", "metric"])
    return table


def both_empty(scores: pd.DataFrame) -> int:
    """How many scored cases have no lesion pixel in truth and prediction (Dice and IoU are 1)."""
    lesion = scores[["true_positives", "false_positives", "false_negatives"]].sum(axis="columns")
    return int((lesion == 0).sum())


class ExampleCase(NamedTuple):
    """A test case picked to be looked at; `dice` is its mean over all runs."""

    rank: Literal["best", "median", "worst"]
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
    starts: dict[Literal["best", "median", "worst"], int] = {
        "best": 0,
        "worst": len(means) - each,
        "median": (len(means) - each) // 2,
    }
    ranks: dict[int, Literal["best", "median", "worst"]] = {}
    for rank, start in starts.items():
        for position in range(start, start + each):
            ranks.setdefault(position, rank)
    return [
        ExampleCase(ranks[position], str(means.index[position]), float(means.iloc[position]))
        for position in sorted(ranks)
    ]
