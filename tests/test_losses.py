"""pipeline/losses.py against section 9.5's formulas written out, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline import losses
from pipeline.params import Focal

LOGITS = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]], [[[0.0, 0.0], [4.0, -4.0]]]])
TARGETS = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[1.0, 1.0], [1.0, 0.0]]]])
PIXELS = [  # (p, y) of each pixel of each case
    [
        (1 / (1 + math.exp(-x)), y)
        for x, y in zip(case.flatten().tolist(), truth.flatten().tolist(), strict=True)
    ]
    for case, truth in zip(LOGITS, TARGETS, strict=True)
]


def test_bce_is_the_mean_cross_entropy_of_a_cases_pixels():
    expected = [
        sum(-(y * math.log(p) + (1 - y) * math.log(1 - p)) for p, y in case) / 4 for case in PIXELS
    ]
    assert losses.bce(LOGITS, TARGETS).tolist() == pytest.approx(expected, rel=1e-6)


def test_dice_loss_is_one_minus_twice_the_overlap_by_the_sum():
    expected = [
        1 - 2 * sum(p * y for p, y in case) / (sum(p for p, _ in case) + sum(y for _, y in case))
        for case in PIXELS
    ]
    assert losses.dice_loss(LOGITS, TARGETS).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.5), (1.0, 0.0)])
def test_focal_loss_is_the_formula(alpha, gamma):
    def pixel(p: float, y: float) -> float:
        p_t = p if y else 1 - p
        alpha_t = alpha if y else 1 - alpha
        return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)

    expected = [sum(pixel(p, y) for p, y in case) / 4 for case in PIXELS]
    got = losses.focal_loss(LOGITS, TARGETS, Focal(alpha=alpha, gamma=gamma)).tolist()
    assert got == pytest.approx(expected, rel=1e-5)


def test_a_relu_head_pays_for_background_it_cannot_reject():
    # A logit of 0, the least a ReLU gives: ln 2 of BCE, 0.75 x 0.25 x ln 2 = 0.13 of focal loss.
    logits, background = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    assert losses.bce(logits, background).item() == pytest.approx(math.log(2))
    focal = losses.focal_loss(logits, background, Focal(alpha=0.25, gamma=2.0))
    assert focal.item() == pytest.approx(0.75 * 0.25 * math.log(2), rel=1e-5)


def test_dice_loss_of_two_empty_masks_is_0():
    logits = torch.full((1, 1, 4, 4), -1000.0)  # the probability underflows to 0
    assert losses.dice_loss(logits, torch.zeros(1, 1, 4, 4)).item() == 0


def test_losses_of_bfloat16_logits_are_computed_in_float32():
    logits = LOGITS.bfloat16()
    for loss in (losses.bce(logits, TARGETS), losses.dice_loss(logits, TARGETS)):
        assert loss.dtype == torch.float32
