"""evaluation/thresholds.py: one pass gives what a pass a threshold gives."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.engine.overlap import confusion, dice
from pipeline.evaluation.thresholds import THRESHOLDS, dice_by_threshold


def test_dice_at_every_threshold_is_that_of_the_mask_it_gives():
    rng = np.random.default_rng(0)
    probabilities = rng.random((4, 12, 16), np.float32)
    probabilities[0].flat[: len(THRESHOLDS)] = THRESHOLDS  # on an edge: p > threshold is false
    masks = rng.random(probabilities.shape) < probabilities
    masks[3] = False
    found = dice_by_threshold(probabilities, masks)
    assert found.shape == (4, 99)
    for place, threshold in enumerate(THRESHOLDS):
        predicted = torch.from_numpy(probabilities > threshold)
        expected = dice(confusion(predicted, torch.from_numpy(masks)))
        np.testing.assert_array_equal(found[:, place], expected)


def test_an_empty_mask_is_found_from_the_threshold_on_that_nothing_exceeds():
    found = dice_by_threshold(np.full((1, 4, 4), 0.305, np.float32), np.zeros((1, 4, 4), bool))
    assert found[0].tolist() == [0.0] * 30 + [1.0] * 69


def test_thresholds_are_the_hundredths_between_0_and_1():
    np.testing.assert_allclose(THRESHOLDS, [place / 100 for place in range(1, 100)], atol=1e-8)
    assert THRESHOLDS[49] == 0.5
