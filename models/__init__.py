"""Segmentation networks: tensors in, tensors out. A folder a family; a new one edits no other file.

A family has in its __init__.py `Config`, a NetworkConfig of its own, and in network.py

    build(config) -> nn.Module: images (N, 3, H, W) to logits (N, 1, H, W)
    load_weights(model, state): what a file of weights holds; ValueError or RuntimeError if it does
        not fit
    sources(config) -> list of files, if the network has some that are not in the family's folder

The network may have a method `encoder_parameters()`: those that train.optimizer's
encoder_learning_rate and train.freeze_encoder are about. It may have an attribute `capturable`:
that it does the same for every batch, so that a GPU may repeat a recorded training step (CUDA
graphs). The family `module` asks the same of a study's own file.

Reading a configuration must not cost the import of torch (seconds): network.py is imported only
when a network is built.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from models.config import NetworkConfig, NetworkError, told_of_own_code

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "NetworkConfig",
    "NetworkError",
    "build_model",
    "families",
    "load_weights",
    "source_hashes",
    "told_of_own_code",
]

HERE = Path(__file__).parent


@cache
def families() -> dict[str, type[NetworkConfig]]:
    """Every family's configuration, by `family` in params.yaml."""
    names = sorted(module.name for module in iter_modules(__path__) if module.ispkg)
    return {name: import_module(f"models.{name}").Config for name in names}


def build_model(config: NetworkConfig) -> nn.Module:
    """Build the network that `config` describes, randomly initialised by torch's global generator.

    The network maps images (N, 3, H, W), ImageNet-normalised float, H and W multiples of 32,
    to logits (N, 1, H, W). Weights to start from are the caller's to load
    (pipeline/engine/weights.py). Raises NetworkError for a study's own file that builds none.
    """
    network: nn.Module = _network(config).build(config)
    return network


def load_weights(model: nn.Module, config: NetworkConfig, state: Mapping[str, Tensor]) -> None:
    """Give `model`, built from `config`, the weights in `state`: of its encoder, or of all of it.

    Raises ValueError or RuntimeError, naming keys, for a state dict of another network.
    """
    _network(config).load_weights(model, state)


def source_hashes(config: NetworkConfig) -> dict[str, str]:
    """The sha256 of each file that makes this variant's network, and no other's alone.

    Of the suite's families seen from its root, of a study's own from its folder; families and
    modules of the suite that a study's own file imports are among them. Raises NetworkError for a
    study's own file that builds none: it is built to see what it imports.
    """
    own: list[Path] = []
    if hasattr(_network(config), "sources"):
        own = _network(config).sources(config)
    names = {name for file in own for name in _imported(file)}
    used = {config.family} | {family for family in families() if f"models.{family}" in names}
    shared = [HERE / "__init__.py", HERE / "config.py"]
    for family in sorted(used):
        shared += sorted((HERE / family).glob("*.py"))
    for name in sorted(names):
        file = HERE.parent / f"{name.replace('.', '/')}.py"
        if name.startswith("pipeline.") and file.is_file():
            shared.append(file)
    found = {file.relative_to(HERE.parent): file for file in shared}
    found |= {file.relative_to(config.folder): file for file in own}
    return {
        name.as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in found.items()
    }


def _imported(file: Path) -> set[str]:
    """The names of what a Python file imports, and of what these are parts of: `from a.b import c`
    gives a, a.b and a.b.c."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return found


def _network(config: NetworkConfig) -> Any:
    return import_module(f"models.{config.family}.network")
