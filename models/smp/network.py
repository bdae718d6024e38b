"""segmentation_models_pytorch's networks, built and checked as that package does it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.smp import SmpConfig

if TYPE_CHECKING:
    from segmentation_models_pytorch.base import SegmentationModel


def build(config: SmpConfig) -> SegmentationModel:
    """For models.build_model.

    Always in memory: some of its encoders cannot be built on torch's device "meta". Raises
    ValueError for an architecture that the package has not, and what the package or timm raises
    for an encoder that it has not or that does not go with the architecture.
    """
    import segmentation_models_pytorch as smp

    architectures = {kind.__name__: kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    if config.architecture not in architectures:
        raise ValueError(
            f"architecture must be one of {', '.join(architectures)}, got {config.architecture!r}"
        )
    with torch.device("cpu"):
        model = architectures[config.architecture](
            encoder_name=config.encoder, encoder_weights=None, in_channels=3, classes=1
        )
    model.encoder_parameters = model.encoder.parameters
    model.capturable = True
    return model


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """A state dict of that encoder; its ResNets name their weights as torchvision does, whose
    classifier is ignored."""
    encoder = model.encoder
    assert isinstance(encoder, nn.Module)
    own = {name: tensor for name, tensor in state.items() if name[:3] != "fc."}
    encoder.load_state_dict(own)


@cache
def check(config: SmpConfig, height: int, width: int) -> None:
    """Raise ValueError if there is no such network, or none for images of that size in pixels."""
    try:
        with warnings.catch_warnings(), torch.device("meta"), torch.no_grad():
            warnings.simplefilter("ignore")
            build(config).to("meta").eval()(torch.empty(1, 3, height, width))
    except Exception as error:  # the package's and timm's, of any kind
        raise ValueError(str(error.args[0] if isinstance(error, KeyError) else error)) from None
