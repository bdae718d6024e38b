"""What every network's configuration has: one entry under `models:` in params.yaml."""

from __future__ import annotations

from dataclasses import Field
from typing import Any, ClassVar


class NetworkConfig:
    """One variant's network. Each family derives a frozen dataclass with the switches that it has,
    these three among them.

    family: the kind of the network, a folder of models/. encoder: its encoder's name, as the family
    knows it. weights: what the encoder starts from: `imagenet` (torchvision's, downloaded), `none`
    (random), or the path of a state dict (.safetensors, or a .pt of tensors only).

    packages: what the family needs beside the suite's own; all are in the extra of the name
    `extra`. made_by: the package whose state dicts its encoders take.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    made_by: ClassVar[str] = "torchvision"

    family: str
    encoder: str
    weights: str
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def check(self, height: int, width: int) -> None:
        """Raise ValueError, from "must be" on, if there is no such network for images of that size
        in pixels."""
