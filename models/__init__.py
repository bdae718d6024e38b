"""Segmentation networks: tensors in, tensors out.

Reading a configuration must not cost the import of torch (seconds), so `build_model` imports the
family's module only when a network is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from models.config import AnyConfig, NetworkConfig, SmpConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FAMILIES", "AnyConfig", "Family", "NetworkConfig", "SmpConfig", "build_model"]


@dataclass(frozen=True)
class Family:
    """A kind of networks.

    config: the class of its entries under `models:` in params.yaml.
    module: has build(config) -> nn.Module.
    packages: what it needs beside the suite's own; all are in the extra of the name `extra`.
    """

    config: type[AnyConfig]
    module: str
    packages: tuple[str, ...] = ()
    extra: str = ""


# By `family` in params.yaml.
FAMILIES = {
    "attenresunet": Family(NetworkConfig, "models.attenresunet"),
    "smp": Family(
        SmpConfig, "models.smp", packages=("segmentation_models_pytorch", "timm"), extra="peers"
    ),
}


def build_model(config: AnyConfig) -> nn.Module:
    """Build the network that `config` describes, randomly initialised by torch's global generator.

    The network maps images (N, 3, H, W), ImageNet-normalised float, H and W multiples of 32,
    to logits (N, 1, H, W). Pretrained encoder weights are the caller's to load
    (pipeline/engine/weights.py): nothing in models/ reads a file.
    """
    network: nn.Module = import_module(FAMILIES[config.family].module).build(config)
    return network
