"""Whether a probability of lesion means what it says: Brier score, reliability, calibration error.

Nothing is kept of a pixel: a case's pixels are counted in bins, whose sums give the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINNED = ("pixels", "probability", "lesion")  # of a bin: count, sum of p, sum of the truth


def brier(probabilities: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of (p - truth)^2 over a case's pixels: (N, ...) twice -> (N,) in [0, 1].

    Source: Brier 1950, for two classes in the form that has one of them.
    """
    axes = tuple(range(1, masks.ndim))
    return np.asarray(np.square(probabilities - masks).mean(axis=axes, dtype=np.float64))


def bin_pixels(
    probabilities: NDArray[np.float32], masks: NDArray[np.bool_], bins: int
) -> NDArray[np.float64]:
    """Each case's pixels in `bins` equal bins of p: (N, ...) twice -> (N, bins, 3), see BINNED.

    A bin holds its lower edge; the last holds 1 too.
    """
    cases = len(masks)
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    place = (place.reshape(cases, -1) + bins * np.arange(cases)[:, None]).ravel()
    sums = [
        np.bincount(place, weights, minlength=cases * bins).reshape(cases, bins)
        for weights in (None, probabilities.ravel(), masks.ravel())
    ]
    return np.stack(sums, axis=-1).astype(np.float64)


def expected_calibration_error(binned: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of bins (..., bins, 3), with pixels in them -> (...) in [0, 1]: the distance between mean p
    and the share of lesion in a bin, weighed by its pixels.

    Source: Naeini, Cooper and Hauskrecht 2015, for p of the positive class.
    """
    pixels, probability, lesion = np.moveaxis(binned, -1, 0)
    return np.asarray(np.abs(probability - lesion).sum(axis=-1) / pixels.sum(axis=-1))
