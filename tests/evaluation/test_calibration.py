"""evaluation/calibration.py against torchmetrics and sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from pipeline.evaluation.calibration import bin_pixels, brier, expected_calibration_error


def drawn(cases: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too sure, and the truth that they are of."""
    rng = np.random.default_rng(seed)
    sharp = rng.beta(0.4, 0.6, (cases, 20, 30)).astype(np.float32)
    return sharp, rng.random(sharp.shape) < 0.2 + 0.5 * sharp


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_of_all_pixels_is_that_of_torchmetrics(bins):
    probabilities, masks = drawn()
    binned = bin_pixels(probabilities, masks, bins).sum(axis=0)
    expected = binary_calibration_error(
        torch.from_numpy(probabilities).flatten(),
        torch.from_numpy(masks).flatten().int(),
        n_bins=bins,
        norm="l1",
    )
    assert float(expected_calibration_error(binned)) == pytest.approx(float(expected), abs=1e-6)


def test_calibration_error_of_each_case_is_that_of_its_pixels_alone():
    probabilities, masks = drawn()
    found = expected_calibration_error(bin_pixels(probabilities, masks, 10))
    for error, p, truth in zip(found, probabilities, masks, strict=True):
        expected = binary_calibration_error(
            torch.from_numpy(p).flatten(), torch.from_numpy(truth).flatten().int(), n_bins=10
        )
        assert error == pytest.approx(float(expected), abs=1e-6)


def test_bins_hold_count_sum_of_probability_and_lesion_and_their_edges():
    probabilities = np.array([[[0.0, 0.25, 0.5, 0.75]], [[1.0, 0.3, 0.1, 0.6]]], np.float32)
    masks = np.array([[[0, 1, 0, 1]], [[1, 1, 0, 1]]], bool)
    found = bin_pixels(probabilities, masks, 4)
    assert found.shape == (2, 4, 3)
    assert found[0].tolist() == [[1, 0, 0], [1, 0.25, 1], [1, 0.5, 0], [1, 0.75, 1]]
    np.testing.assert_allclose(
        found[1], [[1, 0.1, 0], [1, 0.3, 1], [1, 0.6, 1], [1, 1, 1]], atol=1e-7
    )


def test_voxels_count_as_pixels_do():
    probabilities, masks = drawn()
    volumes = [values.reshape(5, 4, 5, 30) for values in (probabilities, masks)]
    np.testing.assert_array_equal(bin_pixels(*volumes, 10), bin_pixels(probabilities, masks, 10))
    np.testing.assert_allclose(brier(*volumes), brier(probabilities, masks), rtol=1e-12)


def test_a_calibrated_forecast_has_no_error_and_one_that_is_sure_and_wrong_the_largest():
    half = np.full((1, 10, 10), 0.5, np.float32)
    truth = np.zeros((1, 10, 10), bool)
    truth[:, ::2] = True
    assert expected_calibration_error(bin_pixels(half, truth, 15)) == 0
    sure = (~truth).astype(np.float32)
    assert expected_calibration_error(bin_pixels(sure, truth, 15)) == 1
    assert brier(half, truth) == 0.25
    assert brier(sure, truth) == 1


def test_brier_score_is_the_mean_squared_error_of_each_case():
    probabilities, masks = drawn()
    expected = [
        sum((float(p) - truth) ** 2 for p, truth in zip(own.flat, mask.flat, strict=True)) / 600
        for own, mask in zip(probabilities, masks, strict=True)
    ]
    np.testing.assert_allclose(brier(probabilities, masks), expected, atol=1e-7)


def test_brier_scores_of_large_pictures_are_summed_in_double_precision():
    said = np.random.default_rng(0).random((1, 1024, 1024), np.float32)
    expected = np.square(said).astype(np.float64).mean()
    assert brier(said, np.zeros(said.shape, bool))[0] == pytest.approx(expected, rel=1e-11)
