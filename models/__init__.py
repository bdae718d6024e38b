"""Segmentation networks: tensors in, tensors out.

Reading a configuration must not cost the import of torch (seconds), so `build_model` imports the
family's module only when a network is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from models.config import NetworkConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILIES", "NetworkConfig", "build_model"]

# family in params.yaml -> the module that has build(config) -> nn.Module
FAMILIES = {"attenresunet": "models.attenresunet"}


def build_model(config: NetworkConfig) -> nn.Module:
    """Build the network that `config` describes, randomly initialised by torch's global generator.

    The network maps images (N, 3, H, W), ImageNet-normalised float, H and W multiples of 32,
    to logits (N, 1, H, W). Pretrained encoder weights are the caller's to load
    (pipeline/weights.py): nothing in models/ reads a file.
    """
    network: nn.Module = import_module(FAMILIES[config.family]).build(config)
    return network
