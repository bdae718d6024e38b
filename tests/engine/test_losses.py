"""engine/losses.py against section 9.5's formulas written out, pixel by pixel."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from pipeline.engine import losses
from pipeline.study.blocks import Focal
from pipeline.study.values import Loss

FOCAL = Focal(alpha=0.25, gamma=2.0)
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


def written_out(loss: str, logits: list[float], truth: list[float]) -> float:
    """What training minimises for one case, of its pixels' logits, in plain Python."""
    pixels = [(1 / (1 + math.exp(-x)), y) for x, y in zip(logits, truth, strict=True)]
    cross_entropy = sum(-math.log(p if y else 1 - p) for p, y in pixels) / len(pixels)
    overlap = sum(p * y for p, y in pixels)
    dice = 1 - 2 * overlap / sum(p + y for p, y in pixels)
    focal = [
        -(0.25 * (1 - p) ** 2 * math.log(p) if y else 0.75 * p**2 * math.log(1 - p))
        for p, y in pixels
    ]
    return {
        "bce": cross_entropy,
        "dice": dice,
        "bce_dice": cross_entropy + dice,
        "focal": sum(focal) / len(focal),
    }[loss]


@pytest.mark.parametrize("loss", get_args(Loss))
def test_the_loss_trained_by_has_the_value_and_the_gradient_of_its_definition(loss):
    logits = LOGITS.clone().requires_grad_()
    values = losses.every_loss(logits, TARGETS, loss, FOCAL)["loss"]
    values.sum().backward()
    step = 1e-5
    for case in range(2):
        xs, ys = LOGITS[case].flatten().tolist(), TARGETS[case].flatten().tolist()
        assert values[case].item() == pytest.approx(written_out(loss, xs, ys), rel=1e-5)
        slopes = []
        for pixel in range(len(xs)):
            up, down = list(xs), list(xs)
            up[pixel] += step
            down[pixel] -= step
            difference = written_out(loss, up, ys) - written_out(loss, down, ys)
            slopes.append(difference / (2 * step))
        assert logits.grad[case].flatten().tolist() == pytest.approx(slopes, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("loss", "recorded"),
    [
        ("bce", {"bce"}),
        ("dice", {"dice_loss"}),
        ("bce_dice", {"bce", "dice_loss"}),
        ("focal", {"focal_loss"}),
    ],
)
def test_every_loss_is_computed_once_and_gradients_recorded_for_the_one_trained_by(
    monkeypatch, loss, recorded
):
    calls = []
    for name in ("bce", "dice_loss", "focal_loss"):
        original = getattr(losses, name)

        def counted(*arguments, name=name, original=original, **named):
            calls.append(name)
            return original(*arguments, **named)

        monkeypatch.setattr(losses, name, counted)
    values = losses.every_loss(LOGITS.clone().requires_grad_(), TARGETS, loss, FOCAL)
    assert sorted(calls) == ["bce", "dice_loss", "focal_loss"]
    assert {name for name, value in values.items() if value.requires_grad} == {"loss", *recorded}
    with torch.no_grad():
        values = losses.every_loss(LOGITS.clone().requires_grad_(), TARGETS, loss, FOCAL)
    assert not any(value.requires_grad for value in values.values())


def test_a_case_of_no_lesion_and_no_probability_gives_dice_a_gradient_of_0():
    logits = torch.full((1, 1, 4, 4), -1000.0, requires_grad=True)
    losses.dice_loss(logits, torch.zeros(1, 1, 4, 4)).sum().backward()
    assert (logits.grad == 0).all()


def test_a_relu_head_pays_for_background_it_cannot_reject():
    # A logit of 0, the least a ReLU gives: ln 2 of BCE, 0.75 x 0.25 x ln 2 = 0.13 of focal loss.
    logits, background = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    assert losses.bce(logits, background).item() == pytest.approx(math.log(2))
    focal = losses.focal_loss(logits, background, Focal(alpha=0.25, gamma=2.0))
    assert focal.item() == pytest.approx(0.75 * 0.25 * math.log(2), rel=1e-5)


def test_dice_loss_of_two_empty_masks_is_0():
    logits = torch.full((1, 1, 4, 4), -1000.0)  # the probability underflows to 0
    assert losses.dice_loss(logits, torch.zeros(1, 1, 4, 4)).item() == 0


def test_dice_loss_of_no_lesion_and_little_probability_is_1():
    logits = torch.full((1, 1, 4, 4), -10.0)  # 16 pixels, together less than 0.001
    assert losses.dice_loss(logits, torch.zeros(1, 1, 4, 4)).item() == 1


def test_losses_of_bfloat16_logits_are_computed_in_float32():
    logits = LOGITS.bfloat16()
    for loss in (losses.bce(logits, TARGETS), losses.dice_loss(logits, TARGETS)):
        assert loss.dtype == torch.float32
