"""Segmentation networks: tensors in, tensors out. A folder a family; a new one edits no other file.

A family has in its __init__.py `Config`, a NetworkConfig of its own, and in network.py

    build(config) -> nn.Module: images (N, 3, H, W) to logits (N, 1, H, W)
    load_encoder(model, state): a state dict into the encoder; ValueError or RuntimeError if it does
        not fit

Reading a configuration must not cost the import of torch (seconds): network.py is imported only
when a network is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from models.config import NetworkConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["NetworkConfig", "build_model", "families", "load_encoder_state"]


@cache
def families() -> dict[str, type[NetworkConfig]]:
    """Every family's configuration, by `family` in params.yaml."""
    names = sorted(module.name for module in iter_modules(__path__) if module.ispkg)
    return {name: import_module(f"models.{name}").Config for name in names}


def build_model(config: NetworkConfig) -> nn.Module:
    """Build the network that `config` describes, randomly initialised by torch's global generator.

    The network maps images (N, 3, H, W), ImageNet-normalised float, H and W multiples of 32,
    to logits (N, 1, H, W). Pretrained encoder weights are the caller's to load
    (pipeline/engine/weights.py): nothing in models/ reads a file.
    """
    network: nn.Module = _network(config).build(config)
    return network


def load_encoder_state(
    model: nn.Module, config: NetworkConfig, state: Mapping[str, Tensor]
) -> None:
    """Give the encoder of `model`, built from `config`, the weights in `state`.

    Raises ValueError or RuntimeError, naming keys, for a state dict of another encoder.
    """
    _network(config).load_encoder(model, state)


def _network(config: NetworkConfig) -> Any:
    return import_module(f"models.{config.family}.network")
