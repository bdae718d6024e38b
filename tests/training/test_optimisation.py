"""training/optimisation.py against torch's own optimizers and formulas written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import REPOSITORY

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline.study.blocks import SGD, Adam, Schedule, Train
from pipeline.study.reading import load_study
from pipeline.training import optimisation

TINY = AttenResUNetConfig(
    encoder="plain", plain_width=2, encoder_attention=(2,), decoder_gates=True
)
COMMON: dict[str, Any] = {"learning_rate": 0.01, "encoder_learning_rate": None}
PLAIN_SGD: dict[str, Any] = {"method": "sgd", "momentum": 0.0, "nesterov": False}


def tiny_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(TINY)


def protocol(**changes: Any) -> Train:
    return load_study(REPOSITORY).train.model_copy(update=changes)


def give_gradients(model: torch.nn.Module, number: int) -> None:
    """Random gradients, the same for the same number."""
    generator = torch.Generator().manual_seed(number)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        (
            Adam(method="adam", weight_decay=0.3, **COMMON),
            lambda weights: torch.optim.Adam(weights, lr=0.01, weight_decay=0.3, foreach=False),
        ),
        (
            Adam(method="adamw", weight_decay=0.3, **COMMON),
            lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.3, foreach=False),
        ),
        (
            SGD(method="sgd", momentum=0.9, nesterov=False, weight_decay=0.3, **COMMON),
            lambda weights: torch.optim.SGD(
                weights, lr=0.01, momentum=0.9, weight_decay=0.3, foreach=False
            ),
        ),
        (
            SGD(method="sgd", momentum=0.9, nesterov=True, weight_decay=0.0, **COMMON),
            lambda weights: torch.optim.SGD(
                weights, lr=0.01, momentum=0.9, nesterov=True, foreach=False
            ),
        ),
    ],
    ids=["adam", "adamw", "sgd", "nesterov"],
)
def test_three_steps_are_those_of_torchs_optimizer(settings, reference):
    ours, theirs = tiny_network(), tiny_network()
    optimizers = (
        optimisation.build_optimizer(ours, protocol(optimizer=settings)),
        reference(theirs.parameters()),
    )
    for step in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            give_gradients(model, step)
            optimizer.step()
    moved = [
        (a - b).abs().max()
        for a, b in zip(theirs.parameters(), tiny_network().parameters(), strict=True)
    ]
    assert min(moved) > 1e-3
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_an_encoder_with_its_own_rate_moves_at_it_and_the_rest_at_the_other():
    settings = SGD(learning_rate=0.5, encoder_learning_rate=0.125, weight_decay=0.0, **PLAIN_SGD)
    model, before = tiny_network(), tiny_network()
    optimizer = optimisation.build_optimizer(model, protocol(optimizer=settings))
    give_gradients(model, 0)
    optimizer.step()
    start = dict(before.named_parameters())
    for name, weight in model.named_parameters():
        rate = 0.125 if name.startswith("encoder.") else 0.5
        torch.testing.assert_close(weight, start[name] - rate * weight.grad, msg=name)
    assert any(name.startswith("encoder_attention.") for name in start)


def test_a_frozen_encoders_weights_are_not_in_the_optimizer_and_attentions_are():
    model = tiny_network()
    optimizer = optimisation.build_optimizer(model, protocol(freeze_encoder=True))
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    names = {name for name, weight in model.named_parameters() if id(weight) in trained}
    assert names == {name for name, _ in model.named_parameters() if name[:8] != "encoder."}


def rates(schedule: Schedule, *, epochs: int, steps_per_epoch: int) -> list[list[float]]:
    """The rates of each step, [rest, encoder], whose own are 0.4 and 0.1."""
    settings = SGD(learning_rate=0.4, encoder_learning_rate=0.1, weight_decay=0.0, **PLAIN_SGD)
    optimizer = optimisation.build_optimizer(tiny_network(), protocol(optimizer=settings))
    scheduler = optimisation.build_schedule(
        optimizer, schedule, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
    seen = []
    for _ in range(epochs * steps_per_epoch):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def test_warm_up_rises_step_by_step_then_a_cosine_falls():
    seen = rates(Schedule(method="cosine", warmup_epochs=2), epochs=5, steps_per_epoch=4)
    factors = {0: 1 / 8, 1: 2 / 8, 6: 7 / 8, 7: 1, 8: 1, 11: 0.5 + math.sqrt(0.125), 14: 0.5}
    factors |= {19: (1 + math.cos(math.pi * 11 / 12)) / 2}
    for step, factor in factors.items():
        assert seen[step] == pytest.approx([0.4 * factor, 0.1 * factor]), step


def test_a_constant_rate_after_warm_up_is_the_optimizers_own():
    seen = rates(Schedule(method="constant", warmup_epochs=1), epochs=3, steps_per_epoch=2)
    assert seen == [[0.2, 0.05], *[[0.4, 0.1]] * 5]
    seen = rates(Schedule(method="constant", warmup_epochs=0), epochs=2, steps_per_epoch=2)
    assert seen == [[0.4, 0.1]] * 4  # to the bit


def test_a_cosine_without_warm_up_is_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    seen = rates(Schedule(method="cosine", warmup_epochs=0), epochs=4, steps_per_epoch=3)
    assert [rest for rest, _ in seen] == pytest.approx(expected)
