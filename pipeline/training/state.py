"""A training in memory: the network and all else that changes while it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pipeline.study.blocks import Train
from pipeline.training.optimisation import build_optimizer, build_schedule

Row = dict[str, float]  # one epoch of history.csv


@dataclass
class Training:
    """All that changes while a network is trained. What is random is a function of the seed, the
    epoch and the case, so no generator is among it.

    schedule: of the optimizer's learning rates, stepped after each step of it.
    history: a row an epoch trained.
    best_weights: the model's state, on the CPU, after the epoch of the best validation Dice so far;
    empty where the last epoch's are kept.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    history: list[Row] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, model: nn.Module, train: Train, steps_per_epoch: int) -> Training:
        optimizer = build_optimizer(model, train)
        schedule = build_schedule(
            optimizer, train.schedule, epochs=train.epochs, steps_per_epoch=steps_per_epoch
        )
        return cls(model, optimizer, schedule)

    def learning_rates(self) -> Row:
        """Of the next step; the encoder's where it has its own."""
        names = ("learning_rate", "encoder_learning_rate")
        groups = self.optimizer.param_groups
        return {name: group["lr"] for name, group in zip(names, groups, strict=False)}
