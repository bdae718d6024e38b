"""Metrics and overlap against the challenge's own scorer and hand-computed cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from isic_challenge_scoring.segmentation import SegmentationScore
from PIL import Image

from pipeline.engine import overlap
from pipeline.evaluation import metrics

# The challenge's name of each of ours.
CHALLENGE = {
    "dice": "dice",
    "iou": "jaccard",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "thresholded_jaccard": "threshold_jaccard",
}


def score(predicted: np.ndarray, masks: np.ndarray):
    counts = overlap.confusion(torch.from_numpy(predicted), torch.from_numpy(masks))
    return metrics.score_cases(counts, jaccard_threshold=0.65)


def challenge_score(folder: Path, predicted: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """The challenge's scorer, reading masks from files as it does."""
    for name, arrays in (("truth", masks), ("prediction", predicted)):
        (folder / name).mkdir()
        for number, mask in enumerate(arrays):
            path = folder / name / f"ISIC_{number:07d}_segmentation.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    scores = SegmentationScore.from_dir(folder / "truth", folder / "prediction").macro_average
    return {ours: float(scores[theirs]) for ours, theirs in CHALLENGE.items()}


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that share from nothing to nearly everything with the truth."""
    random = np.random.default_rng(seed)
    masks = random.random((12, 24, 32)) < random.random((12, 1, 1))
    flipped = random.random(masks.shape) < np.linspace(0, 0.6, 12)[:, None, None]
    return masks ^ flipped, masks


def test_means_equal_the_challenges_scorer_on_random_masks(tmp_path):
    predicted, masks = random_masks(0)
    means = score(predicted, masks).mean()
    for name, expected in challenge_score(tmp_path, predicted, masks).items():
        assert means[name] == pytest.approx(expected, abs=1e-12), name


def test_means_equal_the_challenges_scorer_on_empty_and_full_masks(tmp_path):
    empty, full = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    predicted = np.stack([empty, empty, full, full])
    masks = np.stack([empty, full, empty, full])
    means = score(predicted, masks).mean()
    for name, expected in challenge_score(tmp_path, predicted, masks).items():
        assert means[name] == pytest.approx(expected, abs=1e-12), name


def test_means_equal_the_challenges_scorer_on_real_masks(tmp_path, real_cases):
    paths = sorted((real_cases / "ISIC2018_Task1_Training_GroundTruth").glob("*.png"))[:40]
    masks = np.stack([np.asarray(Image.open(path)) > 128 for path in paths])
    predicted = np.roll(masks, (3, -5), axis=(1, 2))
    means = score(predicted, masks).mean()
    for name, expected in challenge_score(tmp_path, predicted, masks).items():
        assert means[name] == pytest.approx(expected, abs=1e-12), name


def test_a_hand_computed_case():
    masks = np.array([[[1, 1, 0, 0], [1, 1, 0, 0]]], bool)
    predicted = np.array([[[1, 1, 1, 0], [1, 0, 0, 0]]], bool)
    row = score(predicted, masks).iloc[0]
    assert row[list(overlap.COUNTS)].tolist() == [3, 1, 1, 3]
    assert row["dice"] == 6 / 8
    assert row["iou"] == 3 / 5
    assert row["sensitivity"] == 3 / 4
    assert row["specificity"] == 3 / 4
    assert row["thresholded_jaccard"] == 0  # 0.6 is below 0.65


def test_thresholded_jaccard_counts_from_its_threshold_on():
    counts = np.array([[13, 4, 3, 80], [12, 4, 4, 80]])  # IoU 0.65 and 0.6
    scores = metrics.score_cases(counts, jaccard_threshold=0.65)
    assert scores["thresholded_jaccard"].tolist() == [0.65, 0]


def test_the_summary_tells_mean_from_pooled_and_counts_empty_cases():
    counts = np.array([[90, 10, 10, 0], [0, 1, 1, 98], [0, 0, 0, 100]])
    cases = metrics.score_cases(counts, jaccard_threshold=0.65)
    cases = cases.assign(**dict.fromkeys(set(metrics.METRICS) - set(metrics.OVERLAP), 0.5))
    summary = metrics.summarise(cases)
    assert summary["dice"] == pytest.approx((0.9 + 0 + 1) / 3)
    assert summary["pooled_dice"] == pytest.approx(180 / 202)
    assert summary["pooled_iou"] == pytest.approx(90 / 112)
    assert (summary["cases"], summary["both_empty"]) == (3, 1)
