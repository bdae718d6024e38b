"""What a test case is scored by, as the ISIC 2018 challenge defines it (isic-challenge-scoring)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.engine import overlap
from pipeline.engine.overlap import COUNTS, dice, iou, ratio
from pipeline.evaluation.surface import SURFACE_METRICS

# Columns of evaluation/cases.csv whose mean over cases is a metric of the run.
OVERLAP = ("dice", "iou", "sensitivity", "specificity", "thresholded_jaccard")  # from counts
PIXEL_METRICS = (*OVERLAP, "focal_loss", "bce", "brier")  # each pixel for itself
METRICS = (*PIXEL_METRICS, *SURFACE_METRICS)


def score_cases(counts: NDArray[np.int64], *, jaccard_threshold: float) -> pd.DataFrame:
    """The thresholded metrics of counts (cases, 4), a row a case, and the counts themselves.

    dice, iou (Jaccard), sensitivity TP / (TP + FN) and specificity TN / (TN + FP) are in [0, 1] and
    1 where nothing was there to find; thresholded_jaccard is the IoU, 0 below `jaccard_threshold`.
    """
    tp, fp, fn, tn = counts.T
    jaccard = iou(counts)
    scores = {
        "dice": dice(counts),
        "iou": jaccard,
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "thresholded_jaccard": np.where(jaccard >= jaccard_threshold, jaccard, 0.0),
    }
    return pd.DataFrame(scores).assign(**dict(zip(COUNTS, counts.T, strict=True)))


def summarise(cases: pd.DataFrame) -> dict[str, Any]:
    """A run's metrics: means over cases, native ones where they were scored; pooled_dice and
    pooled_iou from the summed counts; the number of cases, and of those whose true and predicted
    mask are both empty."""
    counts = cases[list(COUNTS)].to_numpy()
    pooled = counts.sum(axis=0)
    native = [f"native_{name}" for name in METRICS if f"native_{name}" in cases]
    return {
        **{name: float(cases[name].mean()) for name in (*METRICS, *native)},
        "pooled_dice": float(overlap.dice(pooled)),
        "pooled_iou": float(overlap.iou(pooled)),
        "cases": len(cases),
        "both_empty": int((counts[:, :3].sum(axis=1) == 0).sum()),
    }
