"""How weights are changed: which are trained, the optimizer, its learning rates step by step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from pipeline.study.blocks import Schedule, Train
from pipeline.study.errors import UserError


def encoder_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The encoder's, which the network itself tells. Raises UserError where it does not."""
    own = getattr(model, "encoder_parameters", None)
    if own is None:
        raise UserError(
            f"params.yaml: train asks for an encoder treated apart, and {type(model).__name__} has "
            "no method encoder_parameters(): add it, or do without"
        )
    return list(own())


def start_training_mode(model: nn.Module, *, freeze_encoder: bool) -> None:
    """Put `model` into training mode. A frozen encoder records no gradients and stays in evaluation
    mode: in training mode its BatchNorm would take the batch's statistics and move its own."""
    model.train()
    if not freeze_encoder:
        return
    encoder = encoder_parameters(model)
    for parameter in encoder:
        parameter.requires_grad_(False)
    frozen = {id(parameter) for parameter in encoder}
    for module in model.modules():
        own = {id(parameter) for parameter in module.parameters()}
        if own and own <= frozen:
            module.eval()


def build_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """torch's optimizer over the weights that are trained: all but a frozen encoder's.

    One parameter group, or two where the encoder has its own learning rate, the encoder's last.
    Weight decay is on every weight, BatchNorm's and biases too, as torch does by itself.
    """
    settings = train.optimizer
    groups: list[dict[str, Any]] = [
        {"params": list(model.parameters()), "lr": settings.learning_rate}
    ]
    if train.encoder_key():
        encoder = encoder_parameters(model)
        own = {id(weight) for weight in encoder}
        groups[0]["params"] = [weight for weight in model.parameters() if id(weight) not in own]
        if settings.encoder_learning_rate is not None:
            groups.append({"params": encoder, "lr": settings.encoder_learning_rate})
    decay = settings.weight_decay
    # Fused: the whole step in one kernel without temporary copies, on a CPU too.
    if settings.method == "sgd":
        return torch.optim.SGD(
            groups,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=decay,
            fused=True,
        )
    kind = torch.optim.AdamW if settings.method == "adamw" else torch.optim.Adam
    return kind(groups, weight_decay=decay, fused=True)


def build_schedule(
    optimizer: torch.optim.Optimizer, schedule: Schedule, *, epochs: int, steps_per_epoch: int
) -> LambdaLR:
    """The learning rates of every step, each group's own times one factor; to be stepped after each
    step of the optimizer.

    Step s of S, from 0, with W to warm up, has the factor (s + 1) / W while s < W, then 1
    (constant) or (1 + cos(pi (s - W) / (S - W))) / 2 (cosine; Loshchilov and Hutter 2017 without
    restarts).
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    falling = epochs * steps_per_epoch - warmup

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if schedule.method == "constant":
            return 1.0
        return (1 + math.cos(math.pi * (step - warmup) / falling)) / 2

    return LambdaLR(optimizer, factor)
