"""How predicted and true masks overlap: the counts that every thresholded metric derives from.

Apart from metrics.py, because training validates by Dice and IoU: a new metric there must not
retrain a network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")


def confusion(predicted: Tensor, masks: Tensor) -> NDArray[np.int64]:
    """Pixels of each kind: bool (N, ...) and bool (N, ...) -> (N, 4), in the order of COUNTS."""
    predicted, masks = predicted.flatten(1), masks.flatten(1)
    true_positives = (predicted & masks).sum(dim=1)
    false_positives = predicted.sum(dim=1) - true_positives
    false_negatives = masks.sum(dim=1) - true_positives
    true_negatives = masks.shape[1] - true_positives - false_positives - false_negatives
    counts = [true_positives, false_positives, false_negatives, true_negatives]
    return np.stack([count.cpu().numpy() for count in counts], axis=1).astype(np.int64)


def dice(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN) of counts (..., 4) -> (...) in [0, 1]; both masks empty: 1."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    return ratio(2 * tp, 2 * tp + fp + fn)


def iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """TP / (TP + FP + FN), the Jaccard index, of counts (..., 4) -> (...); both masks empty: 1."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    return ratio(tp, tp + fp + fn)


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, and 1 where the whole is 0: nothing to find and nothing found wrongly."""
    return np.where(whole == 0, 1.0, part / np.maximum(whole, 1))
