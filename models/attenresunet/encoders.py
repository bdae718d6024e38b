"""Encoders: five stages, each a module; the first four feed the skips, the fifth the bridge.

An encoder is a list of stages and not one forward pass, because encoder attention stands between
the stages: its output goes to the next stage and to the skip (paper section 8.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet

from models.attenresunet import AttenResUNetConfig
from models.attenresunet.blocks import DoubleConv
from models.attenresunet.volumes import inflated

RESNETS = {
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
}


class Encoder(nn.Module):
    """Five stages from the image to the bridge.

    stages: the modules, to be applied in order to images (N, 3, H, W).
    channels: of each stage's output.
    bridge_channels: what U-Net's bridge makes of the last stage's output.
    stem_stride: 2 when the first stage halves the image (ResNet), 1 when it keeps it (U-Net).
    """

    stages: nn.ModuleList
    channels: tuple[int, ...]
    bridge_channels: int
    stem_stride: Literal[1, 2]


class ResNetEncoder(Encoder):
    """torchvision's ResNet: the stem at H/2, then layers 1 to 4 at H/4 to H/32, without the
    classifier.

    Source: He et al. 2016; paper sections 5.3 and 8.2.
    """

    stem_stride = 2

    def __init__(self, name: Literal["resnet18", "resnet34", "resnet50", "resnet101"]) -> None:
        super().__init__()
        network = RESNETS[name](weights=None)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(network.conv1, network.bn1, network.relu),
                nn.Sequential(network.maxpool, network.layer1),
                network.layer2,
                network.layer3,
                network.layer4,
            ]
        )
        expansion = network.fc.in_features // 512  # 1 for basic blocks, 4 for bottlenecks
        self.channels = (64, *(expansion * width for width in (64, 128, 256, 512)))
        self.bridge_channels = 512

    def initialise(self) -> None:
        """Draw the weights of layers of three dimensions as torchvision draws its ResNets'."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def load_resnet_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a complete torchvision ResNet state dict of this depth; the classifier is ignored.
        Into an encoder of three dimensions it is inflated.

        Raises ValueError naming the keys that are missing, unexpected or of another shape.
        """
        own = self.state_dict()
        # State dicts of before torch 0.4.1 have no counters of batches; nothing here reads them.
        renamed: dict[str, Tensor] = {
            key: own[key] for key in own if key.endswith("num_batches_tracked")
        }
        renamed |= {_stage_key(key): value for key, value in state.items() if key[:3] != "fc."}
        renamed = inflated(renamed, self)
        missing = sorted(own.keys() - renamed.keys())
        unexpected = sorted(renamed.keys() - own.keys())
        misshapen = sorted(
            key for key in own.keys() & renamed.keys() if renamed[key].shape != own[key].shape
        )
        for problem, keys in (
            ("lacks", missing),
            ("has the unknown", unexpected),
            ("has other shapes in", misshapen),
        ):
            if keys:
                raise ValueError(
                    f"the state dict does not fit this encoder: it {problem} {', '.join(keys[:3])}"
                    + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
                )
        self.load_state_dict(renamed)


def _stage_key(key: str) -> str:
    """torchvision's key -> the key of the same tensor under `stages`."""
    first, _, rest = key.partition(".")
    places = {"conv1": "0.0", "bn1": "0.1", "layer1": "1.1"}
    places |= {f"layer{number}": str(number) for number in (2, 3, 4)}
    return f"stages.{places[first]}.{rest}" if first in places else key


class PlainEncoder(Encoder):
    """U-Net's own encoder: DoubleConv at H, then max-pooling before each further one.

    Four stages of `width` to 8 `width` channels at H to H/8, a last max-pooling to H/16; the bridge
    doubles them once more. Source: Ronneberger et al. 2015 with BatchNorm; paper section 5.1.
    """

    stem_stride = 1

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 8 * width)
        stages: list[nn.Module] = [DoubleConv(3, widths[0])]
        for narrow, wide in pairwise(widths):
            stages.append(nn.Sequential(nn.MaxPool2d(2), DoubleConv(narrow, wide)))
        stages.append(nn.MaxPool2d(2))
        self.stages = nn.ModuleList(stages)
        self.channels = (*widths, widths[-1])
        self.bridge_channels = 2 * widths[-1]


def build_encoder(config: AttenResUNetConfig) -> Encoder:
    """The encoder that `config` names, randomly initialised."""
    if config.encoder == "plain":
        return PlainEncoder(config.plain_width)
    return ResNetEncoder(config.encoder)
