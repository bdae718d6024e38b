"""How far a predicted outline runs from the true one, in pixels.

MONAI computes Hausdorff distance and surface Dice: of the kept libraries it is the field's own
(torchmetrics has no percentile; DeepMind's surface-distance is no longer released). Boundary IoU is
in none of them. Names and empty masks as in Metrics Reloaded (Maier-Hein et al. 2024): where truth
and prediction are both empty, the outline is found; where one is, the score is the worst there is.
"""

from __future__ import annotations

import warnings
from math import hypot

import cv2
import numpy as np
from numpy.typing import NDArray

SURFACE_METRICS = ("hausdorff_95", "surface_dice", "boundary_iou")
BOUNDARY_SHARE = 0.02  # of the diagonal: Cheng et al.'s width of a boundary


def score_surfaces(
    predicted: NDArray[np.bool_], masks: NDArray[np.bool_], *, tolerance: float
) -> dict[str, NDArray[np.float64]]:
    """SURFACE_METRICS of masks (N, H, W), each (N,); distances are in pixels of that size.

    hausdorff_95: the larger of the 95th percentiles of the distances from each outline's pixels to
    the other outline; the diagonal where one mask is empty. surface_dice (normalised, in [0, 1]):
    the share of both outlines' pixels that lie within `tolerance` of the other. boundary_iou in
    [0, 1]: see there. An outline is the lesion's pixels beside background or the picture's edge.
    """
    worst = hypot(masks.shape[1] - 1, masks.shape[2] - 1)
    lesion, found = masks.any(axis=(1, 2)), predicted.any(axis=(1, 2))
    distances = np.where(lesion == found, 0.0, worst)
    within = np.where(lesion == found, 1.0, 0.0)
    outlined = lesion & found
    if outlined.any():
        distances[outlined], within[outlined] = _outlines(
            predicted[outlined], masks[outlined], tolerance
        )
    overlap = [boundary_iou(*pair) for pair in zip(predicted, masks, strict=True)]
    return dict(zip(SURFACE_METRICS, (distances, within, np.array(overlap)), strict=True))


def _outlines(
    predicted: NDArray[np.bool_], masks: NDArray[np.bool_], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """hausdorff_95 and surface_dice of masks of which none is empty."""
    # Here, for it takes seconds, which those who score nothing need not wait.
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    found, truth = (torch.from_numpy(some)[:, None] for some in (predicted, masks))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what MONAI asks of itself
        distances = compute_hausdorff_distance(found, truth, include_background=True, percentile=95)
        within = compute_surface_dice(found, truth, [tolerance], include_background=True)
    return distances[:, 0].double().numpy(), within[:, 0].double().numpy()


def boundary_iou(predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """The IoU of the boundaries of masks (H, W); both empty: 1.

    A boundary is the lesion's pixels no further than 2 % of the diagonal, at least 1, from the
    nearest pixel without lesion, the longer of the two coordinates counted; around the picture
    there is none. Source: Cheng et al. 2021, eq. 2, and their code.
    """
    first, second = _boundary(predicted), _boundary(mask)
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    width = max(1, round(BOUNDARY_SHARE * hypot(*mask.shape)))
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inside = cv2.erode(
        mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,)
    )
    return np.asarray(mask & (np.asarray(inside) == 0))
