"""Dice at every threshold from one pass: what another threshold than the study's would have given.

For validation cases alone: a threshold chosen on test cases would flatter them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.overlap import dice

THRESHOLDS = np.arange(1, 100, dtype=np.float32) / np.float32(100)


def dice_by_threshold(
    probabilities: NDArray[np.float32], masks: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Per-case Dice where p > each of THRESHOLDS: (N, ...) twice -> (N, thresholds).

    How many pixels lie above a threshold is a sum over the histogram of p.
    """
    cases, steps = len(masks), len(THRESHOLDS) + 1
    passed = np.searchsorted(THRESHOLDS, probabilities.reshape(cases, -1))  # thresholds below p
    place = (2 * np.arange(cases)[:, None] + masks.reshape(cases, -1)) * steps + passed
    counts = np.bincount(place.ravel(), minlength=2 * cases * steps).reshape(cases, 2, steps)
    above = counts[..., ::-1].cumsum(axis=-1)[..., -2::-1]  # (N, truth, thresholds)
    background, lesion = (counts[:, truth].sum(axis=-1, keepdims=True) for truth in (0, 1))
    false_positives, true_positives = above[:, 0], above[:, 1]
    return dice(
        np.stack(
            [
                true_positives,
                false_positives,
                lesion - true_positives,
                background - false_positives,
            ],
            axis=-1,
        )
    )
