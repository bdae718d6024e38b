"""A network of the study's own: a Python file in its folder, which nothing else is asked of than a
function `build(**arguments)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from models.config import NetworkConfig


@dataclass(frozen=True, kw_only=True)
class ModuleConfig(NetworkConfig):
    """One variant's network: what a file of the study builds.

    Args:
        family: module.
        file: such as networks/senet.py, in the study's folder networks. It has `build(**arguments)
            -> nn.Module`, which maps images (N, 3, H, W) to logits (N, 1, H, W), and may import
            what lies beside it by plain name.
        arguments: given to `build`.
        weights: what the whole network starts from: `none` (as built), or the path of a state dict
            (.safetensors, or a .pt of tensors only).
    """

    family: Literal["module"] = "module"
    file: str
    arguments: dict[str, Any] = field(default_factory=dict)
    weights: str = "none"

    def __post_init__(self) -> None:
        path = PurePosixPath(self.file)
        if path.parts[:1] != ("networks",) or ".." in path.parts or path.suffix != ".py":
            raise ValueError(
                f"file must be a Python file in networks, such as networks/senet.py, "
                f"got {self.file!r}"
            )
        if self.weights == "imagenet":
            raise ValueError(
                "weights must be none or a file with family module: which of its layers "
                "torchvision's weights fit is not known, got 'imagenet'"
            )

    @property
    def starts_from(self) -> str:
        return "a state dict of the whole network"

    def check(self, *size: int) -> None:
        if not (self.folder / self.file).is_file():
            raise ValueError(f"file must be an existing file of the study, got {self.file!r}")


Config = ModuleConfig  # as models.families finds it
