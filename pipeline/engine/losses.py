"""The three losses of the paper's section 9.5, a value a case, and what training makes of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from pipeline.study.blocks import Focal
from pipeline.study.values import Loss


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, -[y log p + (1 - y) log(1 - p)], mean over pixels.

    logits, targets (N, 1, ...), targets in {0, 1} -> (N,) >= 0. Computed from logits in float32.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return losses.flatten(1).mean(dim=1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft Dice loss, 1 - 2 |P n G| / (|P| + |G|), P the probabilities.

    logits, targets (N, 1, ...) -> (N,) in [0, 1]; 0 where both are empty to the last bit.
    """
    probabilities = logits.float().sigmoid().flatten(1)
    targets = targets.flatten(1)
    total = probabilities.sum(dim=1) + targets.sum(dim=1)
    overlap = (probabilities * targets).sum(dim=1)
    return torch.where(total > 0, 1 - 2 * overlap / total.clamp_min(1e-30), 0.0)


def focal_loss(logits: Tensor, targets: Tensor, focal: Focal) -> Tensor:
    """Focal loss, -alpha_t (1 - p_t)^gamma log p_t, mean over pixels (torchvision's).

    logits, targets (N, 1, ...) -> (N,) >= 0.
    """
    losses: Tensor = sigmoid_focal_loss(
        logits.float(), targets, alpha=focal.alpha, gamma=focal.gamma, reduction="none"
    )
    return losses.flatten(1).mean(dim=1)


# train.loss in params.yaml -> the losses that training minimises the sum of, each of weight 1. Dice
# is taken case by case, so a case without lesion has no part in its gradient.
TRAINED: dict[Loss, tuple[str, ...]] = {
    "bce": ("bce",),
    "dice": ("dice_loss",),
    "bce_dice": ("bce", "dice_loss"),
    "focal": ("focal_loss",),
}


def every_loss(logits: Tensor, targets: Tensor, loss: Loss, focal: Focal) -> dict[str, Tensor]:
    """`loss`, the one trained by, and bce, dice_loss and focal_loss, each computed once.

    logits, targets (N, 1, ...) -> (N,) each. Gradients are recorded for `loss` and what it is the
    sum of, and for nothing else.
    """
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "bce": bce,
        "dice_loss": dice_loss,
        "focal_loss": partial(focal_loss, focal=focal),
    }
    values = {}
    for name, function in functions.items():
        with torch.set_grad_enabled(torch.is_grad_enabled() and name in TRAINED[loss]):
            values[name] = function(logits, targets)
    trained = torch.stack([values[name] for name in TRAINED[loss]]).sum(dim=0)
    return {"loss": trained, **values}
