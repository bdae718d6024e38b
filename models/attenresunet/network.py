"""The paper's network, AttenResUnet, with every part it adds to U-Net behind a switch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from models.attenresunet import AttenResUNetConfig
from models.attenresunet.attention import EncoderAttention
from models.attenresunet.blocks import DoubleConv, UpBlock, conv_norm_relu
from models.attenresunet.encoders import ResNetEncoder, build_encoder
from models.attenresunet.volumes import to_volumes


class AttenResUNet(nn.Module):
    """Encoder (with self-attention between its stages), bridge, gated decoder, reconstruction.

    forward(images): (N, 3, H, W), ImageNet-normalised, H and W multiples of 32
    -> logits (N, 1, H, W); all >= 0 with head `relu`, unbounded otherwise. With `dimensions` 3
    (N, 1, D, H, W) -> (N, 1, D, H, W), D a multiple of 2 for each time that it is halved.
    Source: paper section 8; figures 3 and 5.
    """

    capturable = True  # see models/__init__.py

    def __init__(self, config: AttenResUNetConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config)
        *skip_channels, last_channels = self.encoder.channels
        # "1" to "4" are the encoder's layers; the stem, layer 0, has no attention in any reading.
        self.encoder_attention = nn.ModuleDict(
            {
                str(layer): EncoderAttention(
                    self.encoder.channels[layer],
                    scale=config.attention_scale,
                    residual=config.attention_residual,
                    gate=config.encoder_gate,
                )
                for layer in sorted(config.encoder_attention)
            }
        )
        channels = self.encoder.bridge_channels
        self.bridge = DoubleConv(last_channels, channels)
        self.decoder = nn.ModuleList()
        # U-Net halves its channels upwards, down to the first skip's: 512 -> 256, 128, 64, 64.
        for skip in reversed(skip_channels):
            out_channels = max(channels // 2, skip_channels[0])
            self.decoder.append(UpBlock(channels, skip, out_channels, gated=config.decoder_gates))
            channels = out_channels
        # Back to the image's own size where the encoder's stem halved it (section 8.5).
        self.reconstruction = nn.Sequential()
        if self.encoder.stem_stride == 2:
            self.reconstruction = nn.Sequential(
                nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2),
                *conv_norm_relu(channels // 2, channels // 2),
            )
            channels //= 2
        self.head = nn.Sequential(nn.Conv2d(channels, 1, kernel_size=1))
        if config.head == "relu":
            self.head.extend([nn.BatchNorm2d(1), nn.ReLU(inplace=True)])
        if config.dimensions == 3:
            pairs = self._halvings()
            first = max(len(pairs) - config.depth_halvings, 0)
            to_volumes(self, [part for pair in pairs[:first] for part in pair])
            if isinstance(self.encoder, ResNetEncoder):
                self.encoder.initialise()

    def _halvings(self) -> list[tuple[nn.Module, nn.Module]]:
        """What halves the image and what doubles it again, the first of the encoder first."""
        halve = list(self.encoder.stages)[2 - self.encoder.stem_stride :]
        double = [block.get_submodule("up") for block in self.decoder]
        double += list(self.reconstruction)[:1]
        return list(zip(halve, reversed(double), strict=True))

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """The encoder's own layers', without the attention modules that stand between them."""
        return self.encoder.parameters()

    def forward(self, images: Tensor) -> Tensor:
        features = images
        skips = []
        for layer, stage in enumerate(self.encoder.stages):
            features = stage(features)
            if str(layer) in self.encoder_attention:
                features = self.encoder_attention[str(layer)](features)
            skips.append(features)
        features = self.bridge(skips.pop())  # (N, bridge_channels, H/32, W/32), H/16 if plain
        for up in self.decoder:
            features = up(features, skips.pop())
        logits: Tensor = self.head(self.reconstruction(features))
        return logits


def build(config: AttenResUNetConfig) -> AttenResUNet:
    """For models.build_model."""
    return AttenResUNet(config)


def load_weights(model: AttenResUNet, state: Mapping[str, Tensor]) -> None:
    """A complete torchvision ResNet state dict into the encoder, whose classifier is ignored;
    inflated into one of three dimensions."""
    # AttenResUNetConfig refuses weights for a plain one.
    assert isinstance(model.encoder, ResNetEncoder)
    model.encoder.load_resnet_state(state)
