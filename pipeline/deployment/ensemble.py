"""One network of several: the mean of their probabilities, and of an image's four flips.

What trains, evaluates and predicts takes an Averaged for a network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

# Dimensions of (N, C, ..., H, W) that are turned round: none, left to right, upside down, both.
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


class Averaged(nn.Module):
    """The logit of the mean probability over networks and, with `flips`, an image's four flips.

    forward(images): (N, C, ..., H, W) -> (N, 1, ..., H, W), sigmoid of it the mean probability. A
    flipped image's probabilities are flipped back before they are averaged.
    """

    def __init__(self, networks: Sequence[nn.Module], *, flips: bool = False) -> None:
        super().__init__()
        if not networks:
            raise ValueError("networks must hold at least one")
        self.networks = nn.ModuleList(networks)
        self.flips = FLIPS if flips else FLIPS[:1]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.stack(
            [
                network(images.flip(flip) if flip else images).float().flip(flip)
                for network in self.networks
                for flip in self.flips
            ]
        )
        return mean_logit(logits)


def mean_logit(logits: Tensor) -> Tensor:
    """The logit of the mean of sigmoid(logits) over the first dimension: (K, ...) -> (...).

    log(sum p / sum (1 - p)), each sum from logarithms: nothing saturates, however sure they are.
    """
    if len(logits) == 1:
        return logits[0]
    return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)
