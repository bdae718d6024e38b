"""segmentation_models_pytorch's networks, as they are: other architectures and encoders for the
same table. The package is the extra `peers`."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import ClassVar, Literal

from models.config import NetworkConfig

# torchvision has ImageNet weights for these encoders.
IMAGENET_RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
)


@dataclass(frozen=True, kw_only=True)
class SmpConfig(NetworkConfig):
    """One variant's network: one of segmentation_models_pytorch's, as that package builds it.

    Args:
        family: smp.
        architecture: the name of its class, such as Unet, UnetPlusPlus or DeepLabV3Plus.
        encoder: its encoder's name there, such as resnet34, efficientnet-b0 or mit_b0.
        weights: what the encoder starts from: `imagenet` (torchvision's, downloaded; ResNets only),
            `none` (random), or the path of a state dict of that encoder.
    """

    packages: ClassVar[tuple[str, ...]] = ("segmentation_models_pytorch", "timm")
    extra: ClassVar[str] = "peers"

    family: Literal["smp"] = "smp"
    architecture: str
    encoder: str
    weights: str = "none"

    def __post_init__(self) -> None:
        if self.weights == "imagenet" and self.encoder not in IMAGENET_RESNETS:
            raise ValueError(
                f"weights must be none or a file with encoder {self.encoder!r}: torchvision's "
                f"ImageNet weights fit {', '.join(IMAGENET_RESNETS)} alone, got 'imagenet'"
            )

    @property
    def starts_from(self) -> str:
        return f"a segmentation_models_pytorch {self.encoder} state dict"

    def check(self, *size: int) -> None:
        if len(size) == 3:
            raise ValueError("family must be attenresunet or module for volumes, got 'smp'")
        height, width = size
        from models.smp.network import check  # with torch: seconds

        try:
            check(self, height, width)
        except ValueError as error:
            raise ValueError(
                f"must be a network of segmentation_models_pytorch for {height}x{width} pixels, "
                f"got {self.architecture!r} on {self.encoder!r}: "
                f"{textwrap.shorten(str(error), 300)}"
            ) from None


Config = SmpConfig  # as models.families finds it
