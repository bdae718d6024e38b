"""How far a predicted outline, or a volume's surface, runs from the true one.

MONAI computes Hausdorff distance and surface Dice: of the kept libraries it is the field's own
(torchmetrics has no percentile; DeepMind's surface-distance is no longer released). Boundary IoU is
in none of them. Names and empty masks as in Metrics Reloaded (Maier-Hein et al. 2024): where truth
and prediction are both empty, the outline is found; where one is, the score is the worst there is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import hypot

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

DISTANCES = ("hausdorff_95", "surface_dice")
SURFACE_METRICS = (*DISTANCES, "boundary_iou")
BOUNDARY_SHARE = 0.02  # of the diagonal: Cheng et al.'s width of a boundary

# Of what MONAI asks of itself. For good: catch_warnings is of all threads, which are several.
warnings.filterwarnings("ignore", category=FutureWarning, module="monai")


def score_surfaces(
    predicted: NDArray[np.bool_], masks: NDArray[np.bool_], *, tolerance: float
) -> dict[str, NDArray[np.float64]]:
    """SURFACE_METRICS of masks (N, H, W), or (N, D, H, W), each (N,), in pixels: score_distances
    and boundary_iou."""
    overlap = [boundary_iou(*pair) for pair in zip(predicted, masks, strict=True)]
    distances = score_distances(predicted, masks, tolerance=tolerance)
    return distances | {"boundary_iou": np.array(overlap)}


def score_distances(
    predicted: NDArray[np.bool_],
    masks: NDArray[np.bool_],
    *,
    tolerance: float,
    spacing: Sequence[float] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """DISTANCES of masks (N, H, W), or (N, D, H, W), each (N,).

    spacing: from a pixel's centre to the next along each axis, in the unit of distances and of
    `tolerance`, such as millimetres; None: they are in pixels.

    hausdorff_95: the larger of the 95th percentiles of the distances from each outline's pixels to
    the other outline; the diagonal where one mask is empty. surface_dice (normalised, in [0, 1]):
    the share of both outlines' pixels that lie within `tolerance` of the other. An outline is the
    lesion's pixels beside background or the picture's edge.
    """
    steps = (1.0,) * (masks.ndim - 1) if spacing is None else tuple(spacing)
    sides = zip(masks.shape[1:], steps, strict=True)
    worst = hypot(*((length - 1) * step for length, step in sides))
    lesion, found = (some.any(axis=tuple(range(1, some.ndim))) for some in (masks, predicted))
    distances = np.where(lesion == found, 0.0, worst)
    within = np.where(lesion == found, 1.0, 0.0)
    outlined = lesion & found
    if outlined.any():
        distances[outlined], within[outlined] = _outlines(
            predicted[outlined], masks[outlined], tolerance, steps
        )
    return dict(zip(DISTANCES, (distances, within), strict=True))


def _outlines(
    predicted: NDArray[np.bool_],
    masks: NDArray[np.bool_],
    tolerance: float,
    spacing: tuple[float, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """hausdorff_95 and surface_dice of masks of which none is empty."""
    # Here, for it takes seconds, which those who score nothing need not wait.
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice

    found, truth = (torch.from_numpy(some)[:, None] for some in (predicted, masks))
    distances = compute_hausdorff_distance(
        found, truth, include_background=True, percentile=95, spacing=list(spacing)
    )
    within = compute_surface_dice(
        found, truth, [tolerance], include_background=True, spacing=list(spacing)
    )
    return distances[:, 0].double().numpy(), within[:, 0].double().numpy()


def boundary_iou(predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """The IoU of the boundaries of masks (H, W), or (D, H, W); both empty: 1.

    A boundary is the lesion's pixels no further than 2 % of the diagonal, at least 1, from the
    nearest pixel without lesion, the longest of the coordinates counted; around the picture there
    is none. Source: Cheng et al. 2021, eq. 2, and their code.
    """
    first, second = _boundary(predicted), _boundary(mask)
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    width = max(1, round(BOUNDARY_SHARE * hypot(*mask.shape)))
    side = 2 * width + 1
    if mask.ndim > 2:  # cv2 has pictures alone
        inside = minimum_filter(mask, side, mode="constant", cval=False)
    else:
        inside = cv2.erode(
            mask.astype(np.uint8),
            np.ones((side, side), np.uint8),
            borderType=cv2.BORDER_CONSTANT,
            borderValue=(0.0,),
        )
    return np.asarray(mask & (np.asarray(inside) == 0))
