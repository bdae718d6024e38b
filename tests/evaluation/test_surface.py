"""evaluation/surface.py against formulas written out over all pairs of pixels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist

from pipeline.evaluation.surface import (
    SURFACE_METRICS,
    boundary_iou,
    score_distances,
    score_surfaces,
)

SIDES = (40, 56)


def blob(seed: int, *, share: float = 0.3, sides: tuple[int, int] = SIDES) -> np.ndarray:
    """Patches with a rough outline; some meet the picture's edge."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=sides), 3)
    return noise > np.quantile(noise, 1 - share)


def pairs(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    shares = np.linspace(0.02, 0.7, count)
    masks = [blob(seed, share=share) for seed, share in enumerate(shares)]
    predicted = [blob(seed // 2, share=share) for seed, share in enumerate(shares)]
    return np.stack(predicted), np.stack(masks)


def outline(mask: np.ndarray) -> np.ndarray:
    """Places (n, 2) of lesion pixels with a neighbour at one of four sides that is none."""
    padded = np.pad(mask, 1)
    return np.array(
        [
            (y, x)
            for y, x in np.argwhere(mask)
            if not all(padded[y + 1 + down, x + 1 + right] for down, right in NEIGHBOURS)
        ]
    )


NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def both_ways(predicted: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    apart = cdist(outline(predicted), outline(mask))
    return apart.min(axis=1), apart.min(axis=0)


@pytest.mark.slow
def test_hausdorff_95_is_the_larger_percentile_of_all_distances_between_outlines():
    predicted, masks = pairs()
    found = score_surfaces(predicted, masks, tolerance=1)["hausdorff_95"]
    expected = [
        max(np.percentile(way, 95) for way in both_ways(*pair))
        for pair in zip(predicted, masks, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0, 1, 2.5])
def test_surface_dice_is_the_share_of_both_outlines_within_the_tolerance(tolerance):
    predicted, masks = pairs()
    found = score_surfaces(predicted, masks, tolerance=tolerance)["surface_dice"]
    ways = [np.concatenate(both_ways(*pair)) for pair in zip(predicted, masks, strict=True)]
    expected = [(way <= tolerance).mean() for way in ways]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0 < found.min() < found.max() <= 1


@pytest.mark.parametrize("sides", [(40, 56), (20, 20), (100, 90)])
def test_boundary_iou_is_that_of_the_pixels_close_to_what_is_no_lesion(sides):
    def boundary(mask: np.ndarray, width: int) -> set[tuple[int, int]]:
        around = np.pad(mask, width)  # no lesion outside of the picture
        return {
            (y, x)
            for y, x in np.argwhere(mask)
            if not around[y : y + 2 * width + 1, x : x + 2 * width + 1].all()
        }

    width = max(1, round(0.02 * math.hypot(*sides)))
    for seed in range(4):
        predicted = blob(seed, share=0.6, sides=sides)
        mask = predicted & blob(seed + 9, share=0.95, sides=sides)
        first, second = boundary(predicted, width), boundary(mask, width)
        expected = len(first & second) / len(first | second)
        assert boundary_iou(predicted, mask) == pytest.approx(expected)


def test_equal_masks_score_best_and_a_shift_is_its_own_hausdorff_distance():
    square = np.zeros((3, 64, 64), bool)
    square[:, 20:40, 20:40] = True
    moved = np.stack([np.roll(square[0], pixels, axis=1) for pixels in (0, 2, 3)])
    scores = score_surfaces(moved, square, tolerance=2)
    assert scores["hausdorff_95"].tolist() == [0, 2, 3]
    assert scores["surface_dice"][:2].tolist() == [1, 1]
    assert scores["surface_dice"][2] < 1
    assert scores["boundary_iou"][0] == 1
    # Boundaries two pixels wide: of 2 x 144 pixels those of two moved sides no longer meet.
    assert scores["boundary_iou"][1] == pytest.approx(72 / (2 * 144 - 72))


def test_one_pixel_in_twenty_may_lie_anywhere():
    """The 95th percentile of both outlines, as numpy interpolates it, and not the largest."""
    square = np.zeros((64, 64), bool)
    square[20:40, 20:40] = True  # 76 pixels of outline
    strays = np.stack([square, square])
    strays[0, 60, :6:2] = True  # 3 more of 79
    strays[1, 60, :16:2] = True  # 8 more of 84
    scores = score_surfaces(strays, np.stack([square, square]), tolerance=2)
    far = np.sort([math.hypot(60 - 39, 20 - x) for x in range(0, 16, 2)])
    expected = np.percentile([0.0] * 76 + list(far), 95)
    assert scores["hausdorff_95"].tolist() == pytest.approx([0, expected], abs=1e-4)
    # Of both outlines' pixels, 3 of 79 + 76 and 8 of 84 + 76 have none near.
    assert scores["surface_dice"].tolist() == pytest.approx([1 - 3 / 155, 1 - 8 / 160])


def test_both_masks_empty_is_right_and_one_of_them_the_worst_there_can_be():
    empty, full = np.zeros((31, 41), bool), np.ones((31, 41), bool)
    predicted, masks = np.stack([empty, empty, full, full]), np.stack([empty, full, empty, full])
    scores = score_surfaces(predicted, masks, tolerance=2)
    assert scores["hausdorff_95"].tolist() == [0, 50, 50, 0]  # 30 and 40 pixels: their diagonal
    assert scores["surface_dice"].tolist() == [1, 0, 0, 1]
    assert scores["boundary_iou"].tolist() == [1, 0, 0, 1]


def test_no_prediction_is_further_than_the_one_that_is_empty():
    corners = np.zeros((4, 31, 41), bool)
    for corner, (y, x) in zip(corners, itertools.product((0, -1), (0, -1)), strict=True):
        corner[y, x] = True
    scores = score_surfaces(corners, corners[::-1], tolerance=2)
    assert scores["hausdorff_95"].max() == pytest.approx(50)


def test_every_name_is_scored_once_a_case():
    scores = score_surfaces(*pairs(3), tolerance=1)
    assert tuple(scores) == SURFACE_METRICS
    assert all(values.shape == (3,) for values in scores.values())


SPACING = (3.0, 0.5, 1.25)  # of depth, height and width, in millimetres


def surfaces(volume: np.ndarray) -> np.ndarray:
    """Places (n, 3) in millimetres of lesion voxels with a neighbour at one of six sides that is
    none."""
    return np.argwhere(volume & ~binary_erosion(volume)) * SPACING


@pytest.mark.slow
def test_distances_between_surfaces_of_volumes_are_in_the_spacings_unit():
    sides = (10, 24, 20)
    noise = [gaussian_filter(np.random.default_rng(n).normal(size=sides), 2) for n in range(4)]
    masks = np.stack([each > np.quantile(each, 0.7) for each in noise])
    predicted = masks | np.roll(masks, (1, 2, 1), axis=(1, 2, 3))
    scores = score_distances(predicted, masks, tolerance=1.5, spacing=SPACING)
    for case, pair in enumerate(zip(predicted, masks, strict=True)):
        apart = cdist(*map(surfaces, pair))
        ways = apart.min(axis=1), apart.min(axis=0)
        farthest = max(np.percentile(way, 95) for way in ways)
        assert scores["hausdorff_95"][case] == pytest.approx(farthest, abs=1e-5)
        within = (np.concatenate(ways) <= 1.5).mean()
        assert scores["surface_dice"][case] == pytest.approx(within, abs=1e-6)
    assert scores["hausdorff_95"].min() > 1
    assert 0 < scores["surface_dice"].min() < scores["surface_dice"].max() < 1


def test_the_boundary_of_a_volume_is_a_layer_of_voxels():
    volume = np.zeros((12, 20, 20), bool)
    volume[2:8, 4:14, 4:14] = True
    moved = np.roll(volume, 1, axis=0)
    # The diagonal of 12 x 20 x 20 is 31: a layer of one voxel, 600 less 4 x 8 x 8.
    layer = 600 - 256
    shared = 5 * 36  # the rims of five slices; no face meets a face
    assert boundary_iou(volume, moved) == pytest.approx(shared / (2 * layer - shared))
    assert boundary_iou(volume, volume) == 1


def test_of_volumes_that_are_empty_the_worst_distance_is_the_diagonal():
    empty = np.zeros((2, 5, 7, 9), bool)
    full = ~empty
    scores = score_distances(empty, full, tolerance=2, spacing=SPACING)
    diagonal = math.hypot(4 * 3.0, 6 * 0.5, 8 * 1.25)
    assert scores["hausdorff_95"].tolist() == pytest.approx([diagonal] * 2)
    assert scores["surface_dice"].tolist() == [0, 0]
